//! Problems of the entries of `PARTITION_KEYS`.
//!
//! They concern entries that match no table, tables whose old rows lack the columns of their entry, and
//! tables without a key.

use std::collections::HashSet;

use tokio_postgres::Row as PgRow;

use super::sent_columns::{RuleArrays, SENT, SentColumns};
use crate::base::table_name::TableName;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::table_name;
use crate::rules::pattern::{TableColumns, matches_any};

/// The sent tables with the first entry that matches each.
///
/// A table is listed only if events have all columns of its entry. $3 and $4 are the `like` patterns of
/// schema and table, $5 is a column, and $6 is the index of its entry. The rules of `COLUMN_RULES` are $7 to
/// $10. A partitioned table is logged with the replica identities of its partitions. So these columns
/// describe the table or its partitions:
/// - `lacking`: the first table or partition whose old rows lack a column of the entry.
/// - `missing`: the first of the columns that its old rows lack.
/// - `is_whole`: at least one has the replica identity `full`.
/// - `has_key`: at least one has a key.
const MATCHED_TABLES: &str = "
    entries as materialized (
      select e.schema, e.name, e.column_name, e.entry_index
      from unnest($3::text[], $4::text[], $5::text[], $6::int4[])
        e(schema, name, column_name, entry_index)),
    rules as materialized (
      select r.schema, r.name, r.column_name, r.omits
      from unnest($7::text[], $8::text[], $9::text[], $10::bool[]) r(schema, name, column_name, omits)),
    chosen as materialized (
      select s.oid, s.schema, s.name, min(e.entry_index) as entry_index
      from entries e join sent s on s.schema like e.schema and s.name like e.name
      group by s.oid, s.schema, s.name),
    logged as materialized (
      select t.oid, c.oid as relid
      from chosen t join below b on b.root = t.oid join pg_class c on c.oid = b.oid and c.relkind <> 'p'
      union all
      select t.oid, t.oid from chosen t where not exists (select from below b where b.root = t.oid))
    select t.schema as schema, t.name as name, t.entry_index as entry_index,
           min(relation.name) filter (where lacks.it) as lacking,
           (array_agg(e.column_name order by relation.name, e.column_name) filter (where lacks.it))[1]
             as missing,
           bool_or(c.relreplident = 'f') as is_whole,
           bool_or(k.indexrelid is not null) as has_key
    from chosen t
    join logged l on l.oid = t.oid
    join entries e on e.entry_index = t.entry_index
    join pg_class c on c.oid = l.relid
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select pg_catalog.format('%I.%I', n.nspname, c.relname)) relation(name)
    left join published p on p.oid = t.oid and $2
    left join pg_attribute a
      on a.attrelid = l.relid and a.attname = e.column_name and a.attnum > 0 and not a.attisdropped
      and coalesce(a.attname::text = any(p.columns), true)
      -- No plugin sends a virtual column. PostgreSQL 14 has no `columns`, and sends no generated column.
      and a.attgenerated <> 'v' and not ($2 and p.columns is null and a.attgenerated <> '')
      and not exists (
        select from rules r
        where r.omits and t.schema like r.schema and t.name like r.name and a.attname like r.column_name)
    left join pg_index i on i.indrelid = l.relid
      and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end
    left join pg_index k on k.indrelid = l.relid
      and case c.relreplident when 'i' then k.indisreplident else k.indisprimary end
    cross join lateral (
      -- The indexes of an int2vector begin at 0. The columns of `include` follow those of the key, and are
      -- not logged.
      select c.relreplident <> 'f'
        and not coalesce(a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1]), false)) lacks(it)
    group by t.oid, t.schema, t.name, t.entry_index
    having bool_and(a.attnum is not null)
    order by t.schema, t.name";

/// The problem of an entry that applies to no table.
const APPLIES_TO_NONE: &str =
    "applies to no table: events of no sent table have these columns, or an earlier entry matches first";

/// Sentences about the problems of `PARTITION_KEYS`.
///
/// Each sentence is about one of these:
/// - an entry that applies to no sent table;
/// - a table with a key whose old rows lack a column of the entry;
/// - a table without a key whose replica identity is `full`.
///
/// # Errors
/// The query failed.
pub(crate) async fn partition_key_problems(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    sent: &SentColumns<'_>,
    keys: &[TableColumns],
) -> Result<Vec<String>, SlotError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (mut schemas, mut tables, mut columns, mut entry_indexes) = (vec![], vec![], vec![], vec![]);
    for (entry, entry_index) in keys.iter().zip(0i32..) {
        let (schema, table) = entry.table.to_like();
        for column in &entry.columns {
            schemas.push(schema.clone());
            tables.push(table.clone());
            columns.push(column);
            entry_indexes.push(entry_index);
        }
    }
    let rules = RuleArrays::new(sent.rules);
    let reads_publications = plugin.reads_publications();
    let sql = format!("{SENT}, {MATCHED_TABLES}");
    let rows = session
        .client
        .query(
            &sql,
            &[
                &sent.publications,
                &reads_publications,
                &schemas,
                &tables,
                &columns,
                &entry_indexes,
                &rules.schemas,
                &rules.tables,
                &rules.columns,
                &rules.omits,
            ],
        )
        .await
        .map_err(|error| connector.failed("checking PARTITION_KEYS", error))?;
    let table = |row: &PgRow| table_name(row);
    let found: Vec<(TableName, &PgRow)> = rows.iter().map(|row| (table(row), row)).collect();
    let found = found.iter().filter(|(table, _)| matches_any(sent.tables, table));
    let matched: HashSet<i32> = found.clone().map(|(_, row)| row.get("entry_index")).collect();
    let unmatched = keys
        .iter()
        .zip(0i32..)
        .filter(|(_, entry_index)| !matched.contains(entry_index));
    let mut problems: Vec<String> = unmatched
        .map(|(entry, _)| format!("PARTITION_KEYS: {entry} {APPLIES_TO_NONE}"))
        .collect();
    problems.extend(found.filter_map(|(table, row)| incomplete_sentence(table, row)));
    Ok(problems)
}

/// The sentence about a table whose entry does not suit its rows.
fn incomplete_sentence(table: &TableName, row: &PgRow) -> Option<String> {
    let (has_key, is_whole): (bool, bool) = (row.get("has_key"), row.get("is_whole"));
    let missing: Option<String> = row.get("missing");
    match missing.zip(row.get::<_, Option<String>>("lacking")) {
        Some((column, lacking)) if has_key => Some(format!(
            "PARTITION_KEYS: the replica identity of {lacking} lacks column {column}, so the partition key \
             of a delete is the key of its row. To include the column: alter table {lacking} replica \
             identity full. Do this only if no publication has a column list of this table. From PostgreSQL \
             18 on, the table must also have no generated column"
        )),
        _ if !has_key && is_whole => Some(format!(
            "PARTITION_KEYS: {table} has no key, so its events have the table's partition key: add a \
             primary key"
        )),
        _ => None,
    }
}
