//! Partitioned tables that are not published, although their partitions are.

use tokio_postgres::Row as PgRow;

use crate::base::table_name::{TableName, quoted_if_needed};
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::table_name;
use crate::rules::pattern::TablePattern;

/// The tables that the publications $1 have, each with its publication.
///
/// Partitions of these tables are not among them. `is_listed` is true for a table that is listed by its name.
/// PostgreSQL 14 has no table `pg_publication_namespace`, so its dependencies name the schemas.
pub(super) const MEMBERS: &str = "
    publications as materialized (
      select p.oid, p.pubname::text as name, p.puballtables as has_all, p.pubviaroot as is_via_root
      from pg_publication p where p.pubname = any($1)),
    members as materialized (
      select r.prrelid as oid, p.name as publication, p.is_via_root, true as is_listed
      from publications p join pg_publication_rel r on r.prpubid = p.oid
      union all
      select c.oid, p.name, p.is_via_root, false
      from publications p
      join pg_depend d on d.refclassid = 'pg_publication'::regclass and d.refobjid = p.oid
      join pg_depend s on s.classid = d.classid and s.objid = d.objid
        and s.refclassid = 'pg_namespace'::regclass
      join pg_class c on c.relnamespace = s.refobjid and c.relkind in ('r', 'p')
      where d.classid = to_regclass('pg_catalog.pg_publication_namespace')
      union all
      select c.oid, p.name, p.is_via_root, false
      from publications p join pg_class c on c.relkind in ('r', 'p')
      where p.has_all)";

/// The partitioned tables of which only partitions are listed.
///
/// There is one row for each table, with its first listed partition. Partitions of a published schema do not
/// count, because new partitions of the schema are sent.
///
/// $2 and $3 are patterns of `like`. A partition counts if one of them matches it, or if $4 is true.
///
/// The query takes 0.3 s for 10,000 listed partitions. With `not in` instead of `except` it took 8 s.
const UNPUBLISHED_ROOTS: &str = "
    listed as materialized (
      select m.oid, m.publication, m.is_via_root, pg_partition_root(m.oid)::oid as root
      from members m join pg_class c on c.oid = m.oid
      where m.is_listed and c.relispartition),
    ancestors as materialized (
      select l.oid, a.relid::oid as ancestor
      from listed l cross join lateral pg_partition_ancestors(l.oid) a),
    alone as materialized (
      select l.oid from listed l
      except
      select a.oid
      from ancestors a join members m on m.oid = a.ancestor
      where m.oid <> a.oid or not m.is_listed)
    select distinct on (r.oid) r.oid as oid, rn.nspname::text as schema, r.relname::text as name,
           n.nspname::text as partition_schema, c.relname::text as partition_name,
           l.publication as publication, l.is_via_root as is_via_root
    from alone o
    join listed l on l.oid = o.oid
    join pg_class c on c.oid = l.oid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_class r on r.oid = l.root
    join pg_namespace rn on rn.oid = r.relnamespace
    where $4 or exists (
      select from unnest($2::text[], $3::text[]) w(schema, name)
      where n.nspname like w.schema and c.relname like w.name)
    order by r.oid, n.nspname, c.relname, l.publication";

/// Missing requirements of a partitioned table, before it is published.
///
/// PostgreSQL refuses updates and deletes of its partitions without a replica identity. A new partition only
/// inherits the primary key. `bare_schema` and `bare_name` are a partition that has none of both today.
const OBSTACLES: &str = "
    select exists (
             select from pg_index i
             where i.indrelid = $1 and i.indisprimary and i.indisvalid and i.indimmediate) as has_key,
           b.schema as bare_schema, b.name as bare_name
    from (values (0)) one
    left join lateral (
      select n.nspname::text as schema, c.relname::text as name
      from pg_partition_tree($1::oid::regclass) t
      join pg_class c on c.oid = t.relid and c.relkind = 'r' and c.relpersistence = 'p'
      join pg_namespace n on n.oid = c.relnamespace
      where c.relreplident <> 'f' and not exists (
        select from pg_index i
        where i.indrelid = c.oid and i.indisvalid and i.indimmediate
          and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
      order by n.nspname, c.relname
      limit 1) b on true";

/// Sentences about the partitioned tables whose new partitions are not sent.
///
/// Each sentence names a table that is not published although one of its partitions is. If `patterns` have
/// the exact name of a partition, it does not count: the operator wants only this partition.
///
/// # Errors
/// A query failed.
pub(crate) async fn unpublished_roots(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    patterns: &[TablePattern],
) -> Result<Vec<String>, SlotError> {
    if !plugin.reads_publications() {
        return Ok(Vec::new());
    }
    let wild = patterns.iter().filter(|pattern| pattern.exact_name().is_none());
    let (schemas, names): (Vec<String>, Vec<String>) = wild.map(TablePattern::to_like).unzip();
    let statement = format!("with {MEMBERS}, {UNPUBLISHED_ROOTS}");
    let rows = session
        .client
        .query(
            &statement,
            &[&publications, &schemas, &names, &patterns.is_empty()],
        )
        .await
        .map_err(|error| connector.failed("checking the published partitions", error))?;
    let mut sentences = Vec::new();
    for row in &rows {
        let publication: String = row.get("publication");
        let table = table_name(row);
        let steps = steps_to_publish(connector, session, row.get("oid"), &table, &publication).await?;
        sentences.push(sentence(row, &table, &publication, &steps));
    }
    Ok(sentences)
}

fn sentence(row: &PgRow, table: &TableName, publication: &str, steps: &str) -> String {
    let partition = TableName::new(
        row.get::<_, String>("partition_schema"),
        row.get::<_, String>("partition_name"),
    );
    let name = match row.get("is_via_root") {
        true => ". Its changes then have its name, which TABLES must match",
        false => "",
    };
    format!(
        "{table}: publication {publication} has its partition {partition}, but not {table} itself: new \
         partitions are not sent. To send them, {steps}{name}"
    )
}

/// The steps that add a partitioned table to a publication.
///
/// They begin with what the table lacks, so that PostgreSQL refuses no update of the application.
///
/// # Errors
/// The query failed.
pub(super) async fn steps_to_publish(
    connector: &Connector,
    session: &Session,
    oid: u32,
    table: &TableName,
    publication: &str,
) -> Result<String, SlotError> {
    let row = session
        .client
        .query_one(OBSTACLES, &[&oid])
        .await
        .map_err(|error| connector.failed("checking a partitioned table", error))?;
    let bare: Option<String> = row.get("bare_schema");
    let bare = bare.zip(row.get("bare_name")).map(TableName::from);
    let first = match (row.get("has_key"), bare) {
        // The partitions inherit the key.
        (false, _) => format!("give {table} a primary key, then "),
        (true, Some(partition)) => format!("give {partition} a replica identity, then "),
        (true, None) => String::new(),
    };
    let publication = quoted_if_needed(publication);
    Ok(format!(
        "{first}run alter publication {publication} add table {table}"
    ))
}
