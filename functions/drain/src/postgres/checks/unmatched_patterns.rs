//! The patterns of `TABLES` that match no table.

use tokio_postgres::Row as PgRow;

use super::publication_members::steps_to_publish;
use crate::base::table_name::{TableName, quoted_if_needed};
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::publications::PUBLISHED;
use crate::postgres::rows::optional_table_name;
use crate::rules::pattern::TablePattern;

/// The patterns that match none of the tables that are sent.
///
/// The result has the places of the patterns, and the similar tables that the database has instead. Exact
/// names are $2 and $3, with their places $4. `like` patterns are $5 and $6, with their places $7. If $8 is
/// true, only the tables of the publications $1 count. If $8 is false, all permanent tables that store rows
/// count. A partitioned table is reported if its changes have the names of its partitions, unless patterns
/// match all of these. The query follows [`PUBLISHED`].
const UNMATCHED: &str = "
    tables as materialized (
      select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind as kind,
             c.relpersistence = 'p' as is_permanent
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384),
    sent as materialized (
      select t.schema, t.name from tables t where not $8 and t.kind = 'r' and t.is_permanent
      union all
      select p.schema, p.name from published p where $8),
    unmatched as materialized (
      select e.pattern_index, e.schema, e.name, true as is_exact
      from unnest($2::text[], $3::text[], $4::int4[]) e(schema, name, pattern_index)
      where not exists (select from sent s where s.schema = e.schema and s.name = e.name)
      union all
      select w.pattern_index, w.schema, w.name, false
      from unnest($5::text[], $6::text[], $7::int4[]) w(schema, name, pattern_index)
      where not exists (select from sent s where s.schema like w.schema and s.name like w.name)),
    matching as materialized (
      select u.pattern_index, t.oid, t.schema, t.name, t.kind
      from unmatched u
      join tables t on case when u.is_exact then t.schema = u.schema and t.name = u.name
                            else t.schema like u.schema and t.name like u.name end),
    roots as materialized (
      select m.pattern_index, m.oid, m.schema, m.name, count(s.name) as sent_parts,
             -- Null without a sent partition.
             bool_and(o.is_matched) filter (where s.name is not null) as is_matched
      from matching m
      left join below l on l.root = m.oid
      left join tables t on t.oid = l.oid
      left join sent s on s.schema = t.schema and s.name = t.name
      cross join lateral (
        select exists (
          select from unnest($2::text[], $3::text[]) e(schema, name)
          where e.schema = s.schema and e.name = s.name
          union all
          select from unnest($5::text[], $6::text[]) w(schema, name)
          where s.schema like w.schema and s.name like w.name)) o(is_matched)
      where m.kind = 'p'
      group by m.pattern_index, m.oid, m.schema, m.name)
    select u.pattern_index as pattern_index,
           exists (select from matching m where m.pattern_index = u.pattern_index) as has_table,
           p.schema as partitioned_schema,
           p.name as partitioned_name,
           p.oid as partitioned_oid,
           coalesce(p.oid in (select b.oid from members b), false) as is_published,
           exists (
             select from pg_partition_ancestors(p.oid) c
             where c.relid <> p.oid and c.relid in (select b.oid from members b)) as has_published_ancestor,
           (select min(b.publication) from members b
            where b.oid = p.oid or b.oid in (select l.oid from below l where l.root = p.oid)) as publication,
           a.schema as similar_schema,
           a.name as similar_name
    from unmatched u
    left join lateral (
      select r.oid, r.schema, r.name from roots r
      where r.pattern_index = u.pattern_index and r.is_matched is not true
        and (not $8 or r.sent_parts > 0
             or r.oid not in (select v.oid from covered v) and exists (
                  select from pg_partition_ancestors(r.oid) t join members b on b.oid = t.relid))
      order by r.schema, r.name
      limit 1) p on true
    left join lateral (
      select t.schema, t.name from tables t
      where u.is_exact and lower(t.schema) = lower(u.schema) and lower(t.name) = lower(u.name)
        and (t.schema, t.name) <> (u.schema, u.name)
      limit 1) a on true
    where p.name is not null or not exists (
      select from roots r where r.pattern_index = u.pattern_index and r.is_matched)
    order by u.pattern_index";

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
    for (pattern, pattern_index) in patterns.iter().zip(0i32..) {
        let ((schema, name), names) = match pattern.exact_name() {
            Some(name) => ((name.schema, name.name), &mut exact),
            None => (pattern.to_like(), &mut wild),
        };
        names.0.push(schema);
        names.1.push(name);
        names.2.push(pattern_index);
    }
    let reads_publications = plugin.reads_publications();
    let statement = format!("with recursive {PUBLISHED}, {UNMATCHED}");
    let rows = session
        .client
        .query(
            &statement,
            &[
                &publications,
                &exact.0,
                &exact.1,
                &exact.2,
                &wild.0,
                &wild.1,
                &wild.2,
                &reads_publications,
            ],
        )
        .await
        .map_err(|error| connector.failed("checking TABLES", error))?;
    let mut sentences = Vec::new();
    for row in &rows {
        let pattern_index = usize::try_from(row.get::<_, i32>("pattern_index")).ok();
        let Some(pattern) = pattern_index.and_then(|pattern_index| patterns.get(pattern_index)) else {
            continue;
        };
        sentences.push(
            match optional_table_name(row, "partitioned_schema", "partitioned_name") {
                Some(table) => {
                    let or_root = match reads_publications {
                        true => or_root(connector, session, row, &table).await?,
                        false => String::new(),
                    };
                    partitioned_sentence(pattern, &table, &or_root)
                }
                None => sentence(pattern, reads_publications, row),
            },
        );
    }
    Ok(sentences)
}

/// Another advice for a partitioned table: the steps that give its changes its name.
///
/// With `publish_via_partition_root`, changes have the name of the uppermost published table. So the table
/// itself must be published. The advice is empty if a table above it is.
///
/// # Errors
/// The query failed.
async fn or_root(
    connector: &Connector,
    session: &Session,
    row: &PgRow,
    table: &TableName,
) -> Result<String, SlotError> {
    const SET: &str = "set (publish_via_partition_root = true)";
    if row.get("has_published_ancestor") {
        return Ok(String::new());
    }
    if row.get("is_published") {
        return Ok(format!(", or run alter publication … {SET}"));
    }
    let publication: Option<String> = row.get("publication");
    let Some((oid, publication)) = row.get::<_, Option<u32>>("partitioned_oid").zip(publication) else {
        return Ok(String::new());
    };
    let steps = steps_to_publish(connector, session, oid, table, &publication).await?;
    let publication = quoted_if_needed(&publication);
    Ok(format!(", or {steps}, and alter publication {publication} {SET}"))
}

fn partitioned_sentence(pattern: &TablePattern, table: &TableName, or_root: &str) -> String {
    let table = table.unquoted();
    format!(
        "TABLES: {pattern} matches {table}, which is partitioned: its changes have the names of its \
         partitions. Add these to TABLES{or_root}"
    )
}

fn sentence(pattern: &TablePattern, reads_publications: bool, row: &PgRow) -> String {
    if row.get("has_table") {
        return match reads_publications {
            true => format!("TABLES: {pattern} matches tables, but none of PUBLICATIONS has one of them"),
            false => format!("TABLES: {pattern} matches only unlogged tables: the log lacks their changes"),
        };
    }
    match optional_table_name(row, "similar_schema", "similar_name") {
        Some(table) => {
            let table = table.unquoted();
            format!("TABLES: {pattern} matches no table: case matters, and there is {table}")
        }
        None => format!("TABLES: {pattern} matches no table"),
    }
}
