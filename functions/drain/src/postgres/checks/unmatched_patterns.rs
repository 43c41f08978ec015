//! The patterns of `TABLES` that match no table.

use tokio_postgres::Row as PgRow;

use crate::base::table_name::TableName;
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::rules::pattern::TablePattern;

/// The patterns that match none of the tables that are sent.
///
/// The result has the places of the patterns, and the similar tables that the database has instead. Exact
/// names are $2, $3 and their places $4. Patterns of `like` are $5, $6 and their places $7. If $8, only the
/// tables of the publications $1 count.
const UNMATCHED: &str = "
    with tables as materialized (
      select n.nspname::text as schema, c.relname::text as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384),
    sent as materialized (
      select t.schema, t.name from tables t where not $8
      union all
      select p.schemaname::text, p.tablename::text from pg_publication_tables p
      where $8 and p.pubname = any($1)),
    unmatched as (
      select e.place, e.schema, e.name, true as is_exact
      from unnest($2::text[], $3::text[], $4::int4[]) e(schema, name, place)
      where not exists (select from sent s where s.schema = e.schema and s.name = e.name)
      union all
      select w.place, w.schema, w.name, false
      from unnest($5::text[], $6::text[], $7::int4[]) w(schema, name, place)
      where not exists (select from sent s where s.schema like w.schema and s.name like w.name))
    select u.place as place,
           $8 and exists (
             select from tables t
             where case when u.is_exact then t.schema = u.schema and t.name = u.name
                        else t.schema like u.schema and t.name like u.name end) as is_unpublished,
           a.schema as similar_schema,
           a.name as similar_name
    from unmatched u
    left join lateral (
      select t.schema, t.name from tables t
      where u.is_exact and lower(t.schema) = lower(u.schema) and lower(t.name) = lower(u.name)
        and (t.schema, t.name) <> (u.schema, u.name)
      limit 1) a on true
    order by u.place";

/// Sentences about the patterns that match no sent table.
///
/// There is one for each such pattern.
///
/// # Errors
/// The query failed.
pub(crate) async fn unmatched_patterns(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    patterns: &[TablePattern],
) -> Result<Vec<String>, SlotError> {
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let (mut exact, mut wild) = ((vec![], vec![], vec![]), (vec![], vec![], vec![]));
    for (pattern, place) in patterns.iter().zip(0i32..) {
        let ((schema, name), names) = match pattern.exact_name() {
            Some(name) => ((name.schema, name.name), &mut exact),
            None => (pattern.to_like(), &mut wild),
        };
        names.0.push(schema);
        names.1.push(name);
        names.2.push(place);
    }
    let is_published = plugin.reads_publications();
    let rows = session
        .client
        .query(
            UNMATCHED,
            &[
                &publications,
                &exact.0,
                &exact.1,
                &exact.2,
                &wild.0,
                &wild.1,
                &wild.2,
                &is_published,
            ],
        )
        .await
        .map_err(|error| connector.failed("checking TABLES", error))?;
    let sentence = |row: &PgRow| {
        let place = usize::try_from(row.get::<_, i32>("place")).ok()?;
        Some(sentence(patterns.get(place)?, row))
    };
    Ok(rows.iter().filter_map(sentence).collect())
}

fn sentence(pattern: &TablePattern, row: &PgRow) -> String {
    if row.get("is_unpublished") {
        return format!("TABLES: {pattern} matches tables, but none of PUBLICATIONS has one of them");
    }
    let similar: Option<String> = row.get("similar_schema");
    match similar.zip(row.get("similar_name")) {
        Some((schema, name)) => format!(
            "TABLES: {pattern} matches no table: case matters, and there is {}",
            TableName { schema, name }.unquoted()
        ),
        None => format!("TABLES: {pattern} matches no table"),
    }
}
