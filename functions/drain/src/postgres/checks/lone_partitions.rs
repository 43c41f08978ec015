//! Partitioned tables whose new partitions are in no publication.

use tokio_postgres::Row as PgRow;

use crate::base::table_name::TableName;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::table_name;
use crate::rules::pattern::TablePattern;

/// Partitions that the publications $1 list by themselves, with their partitioned tables.
///
/// A publication of an ancestor, of the schema or of all tables also has the later partitions. Such a
/// publication sends the partition without listing it.
const LONE_PARTITIONS: &str = "
    select n.nspname::text as schema, c.relname::text as name,
           rn.nspname::text as root_schema, r.relname::text as root_name
    from pg_publication p
    join pg_publication_rel l on l.prpubid = p.oid
    join pg_class c on c.oid = l.prrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_class r on r.oid = pg_partition_root(c.oid)
    join pg_namespace rn on rn.oid = r.relnamespace
    where p.pubname = any($1) and c.relispartition
      and not exists (
        select
        from pg_publication o
        join pg_publication_rel a on a.prpubid = o.oid
        where o.pubname = any($1) and a.prrelid <> c.oid
          and a.prrelid in (select relid from pg_partition_ancestors(c.oid)))
      and not exists (
        select
        from pg_publication o
        join pg_publication_tables t on t.pubname = o.pubname
        join pg_namespace tn on tn.nspname = t.schemaname
        join pg_class s on s.relnamespace = tn.oid and s.relname = t.tablename
        where o.pubname = any($1) and s.oid in (select relid from pg_partition_ancestors(c.oid))
          and not exists (select from pg_publication_rel x where x.prpubid = o.oid and x.prrelid = c.oid))
    order by root_schema, root_name, schema, name";

/// Sentences about partitioned tables whose new partitions are not sent.
///
/// There is one for each such table. `patterns` are those of `TABLES`. Patterns that name single partitions
/// choose them on purpose, so such partitions do not count.
///
/// # Errors
/// The query failed.
pub(crate) async fn lone_partition_problems(
    connector: &Connector,
    session: &Session,
    publications: &[String],
    patterns: &[TablePattern],
) -> Result<Vec<String>, SlotError> {
    let rows = session.client.query(LONE_PARTITIONS, &[&publications]).await;
    let rows = rows.map_err(|error| connector.failed("checking the published partitions", error))?;
    let root = |row: &PgRow| {
        TableName::new(
            row.get::<_, String>("root_schema"),
            row.get::<_, String>("root_name"),
        )
    };
    let mut found: Vec<(TableName, TableName)> =
        rows.iter().map(|row| (root(row), table_name(row))).collect();
    found.retain(|(root, partition)| expects_new_partitions(patterns, root, partition));
    found.dedup_by(|later, earlier| later.0 == earlier.0);
    let sentence = |(root, partition): &(TableName, TableName)| {
        format!(
            "PUBLICATIONS: {partition} is published by itself, so changes of new partitions of {root} are not \
             sent. Let the owner run alter publication … add table {root}. Without a primary key of {root}, \
             PostgreSQL then refuses updates and deletes of new partitions that have no replica identity"
        )
    };
    Ok(found.iter().map(sentence).collect())
}

/// Whether `TABLES` includes partitions that do not exist yet.
fn expects_new_partitions(patterns: &[TablePattern], root: &TableName, partition: &TableName) -> bool {
    let is_open = |pattern: &TablePattern| pattern.exact_name().is_none() && pattern.matches(partition);
    patterns.is_empty()
        || patterns
            .iter()
            .any(|pattern| is_open(pattern) || pattern.matches(root))
}
