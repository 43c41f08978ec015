//! The entries of `PARTITION_KEYS` that match nothing, and the tables whose old rows lack their columns.

use tokio_postgres::Row as PgRow;

use super::column_rule_checks::SENT;
use super::connection::{Connector, Session};
use crate::pattern::TableColumns;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::table_name::TableName;

/// The sent tables with the first entry that matches each, if they have all columns of this entry.
///
/// Patterns of `like` are $3 and $4, a column is $5, and the place of its entry is $6. `missing` is a column
/// that the old rows of the table lack. A table without a key has `is_whole` if its old rows are whole.
const PARTITIONED_TABLES: &str = "
    entries as materialized (
      select e.* from unnest($3::text[], $4::text[], $5::text[], $6::int4[])
        e(schema, name, column_name, place)),
    chosen as materialized (
      select s.oid, s.schema, s.name, min(e.place) as place
      from entries e join sent s on s.schema like e.schema and s.name like e.name
      group by s.oid, s.schema, s.name),
    partitioned as materialized (
      select t.oid, t.schema, t.name, t.place,
             min(e.column_name) filter (
               where c.relreplident <> 'f' and not coalesce(a.attnum = any(i.indkey::int2[]), false)) as missing,
             bool_or(c.relreplident = 'f') as is_whole,
             bool_or(k.indexrelid is not null) as has_key
      from chosen t
      join entries e on e.place = t.place
      join pg_class c on c.oid = t.oid
      left join pg_attribute a
        on a.attrelid = t.oid and a.attname = e.column_name and a.attnum > 0 and not a.attisdropped
      left join pg_index i on i.indrelid = t.oid
        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end
      left join pg_index k on k.indrelid = t.oid
        and case c.relreplident when 'i' then k.indisreplident else k.indisprimary end
      group by t.oid, t.schema, t.name, t.place
      having bool_and(a.attnum is not null))";

/// The places of the entries that no table has.
const UNMATCHED: &str = "
    select e.place as place from generate_series(0, $7::int4 - 1) e(place)
    where not exists (select from partitioned p where p.place = e.place)
    order by e.place";

/// The tables whose rows do not all have the columns of their entry.
const INCOMPLETE: &str = "
    select p.schema as schema, p.name as name, p.missing as missing, p.has_key as has_key
    from partitioned p
    where p.has_key and p.missing is not null or not p.has_key and p.is_whole
    order by p.schema, p.name";

/// A sentence for each entry that no table has, and for each table whose deletes cannot follow it.
///
/// # Errors
/// A query failed.
pub(crate) async fn partition_key_problems(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    keys: &[TableColumns],
) -> Result<Vec<String>, SlotError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (mut schemas, mut tables, mut columns, mut places) = (vec![], vec![], vec![], vec![]);
    for (entry, place) in keys.iter().zip(0i32..) {
        let (schema, table) = entry.table.to_like();
        for column in &entry.columns {
            schemas.push(schema.clone());
            tables.push(table.clone());
            columns.push(column);
            places.push(place);
        }
    }
    let is_published = plugin == Plugin::Pgoutput;
    let failed = |error| connector.failed("checking PARTITION_KEYS", error);
    let count = i32::try_from(keys.len()).unwrap_or(i32::MAX);
    let sql = format!("{SENT}, {PARTITIONED_TABLES} {UNMATCHED}");
    let unmatched = session
        .client
        .query(
            &sql,
            &[
                &publications,
                &is_published,
                &schemas,
                &tables,
                &columns,
                &places,
                &count,
            ],
        )
        .await
        .map_err(failed)?;
    let entry = |row: &PgRow| keys.get(usize::try_from(row.get::<_, i32>("place")).ok()?);
    let unmatched = unmatched.iter().filter_map(entry);
    let mut problems: Vec<String> = unmatched
        .map(|entry| format!("PARTITION_KEYS: {entry} matches no table that is sent and has these columns"))
        .collect();
    let sql = format!("{SENT}, {PARTITIONED_TABLES} {INCOMPLETE}");
    let incomplete = session
        .client
        .query(
            &sql,
            &[&publications, &is_published, &schemas, &tables, &columns, &places],
        )
        .await
        .map_err(failed)?;
    problems.extend(incomplete.iter().map(incomplete_sentence));
    Ok(problems)
}

fn incomplete_sentence(row: &PgRow) -> String {
    let table = TableName::new(row.get::<_, String>("schema"), row.get::<_, String>("name"));
    match row.get::<_, Option<String>>("missing") {
        Some(column) if row.get("has_key") => format!(
            "PARTITION_KEYS: the replica identity of {table} lacks column {column}, so deletes have the \
             partition key of their own key: alter table {table} replica identity full"
        ),
        _ => format!(
            "PARTITION_KEYS: {table} has no key, so its rows keep the order of the table: add a primary key"
        ),
    }
}
