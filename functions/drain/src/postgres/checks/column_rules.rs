//! Problems of the rules of `COLUMN_RULES`.
//!
//! They concern rules that match no column, and rules that omit a column of a table's key.

use tokio_postgres::Row as PgRow;

use super::sent_columns::{RuleArrays, SENT, SentColumns};
use crate::plugin::Plugin;
use crate::ports::SlotError;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::rows::{optional_table_name, table_name};
use crate::rules::column_rules::ColumnRule;
use crate::rules::pattern::TablePattern;

/// The tables with events that a rule matches, and the rule's index.
///
/// $3, $4 and $5 are the `like` patterns of schemas, tables and columns. $6 states whether a rule omits. $7
/// and $8 are the patterns of `TABLES`; without a pattern, all sent tables have events.
const MATCHING_TABLES: &str = "
    rules as materialized (
      select r.schema, r.name, r.column_name, r.omits, r.rule_index
      from unnest($3::text[], $4::text[], $5::text[], $6::bool[])
        with ordinality r(schema, name, column_name, omits, rule_index)),
    with_events as materialized (
      select s.oid, s.schema, s.name
      from sent s
      where cardinality($7::text[]) = 0 or exists (
        select from unnest($7::text[], $8::text[]) t(schema, name)
        where s.schema like t.schema and s.name like t.name)),
    matching as materialized (
      select r.rule_index, r.column_name, r.omits, e.oid, e.schema, e.name
      from rules r join with_events e on e.schema like r.schema and e.name like r.name)";

/// The indexes of the rules that match no column.
///
/// The `similar_…` columns name a column that differs from the rule only in the case of letters, if there is
/// one.
const UNMATCHED_RULES: &str = "
    select r.rule_index as rule_index,
           exists (select from matching m where m.rule_index = r.rule_index) as has_table,
           s.schema as similar_schema, s.name as similar_name, s.attname as similar_column
    from rules r
    left join lateral (
      select t.schema, t.name, a.attname::text
      from with_events t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
      where t.schema ilike r.schema and t.name ilike r.name and a.attname ilike r.column_name
      limit 1) s on true
    where not exists (
      select from matching m
      join pg_attribute a on a.attrelid = m.oid and a.attnum > 0 and not a.attisdropped
      where m.rule_index = r.rule_index and a.attname like m.column_name)
    order by r.rule_index";

/// The columns that a rule omits from the key of a table.
///
/// The key is the index of the replica identity, or else the primary key. The indexes of an `int2vector`
/// begin at 0. The columns of `include` follow those of the key.
const OMITTED_KEYS: &str = "
    select distinct m.schema as schema, m.name as name, a.attname::text as column_name
    from matching m
    join pg_class c on c.oid = m.oid
    join pg_index i on i.indrelid = m.oid
      and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
    join pg_attribute a
      on a.attrelid = m.oid and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1])
    where m.omits and a.attname like m.column_name
    order by schema, name, column_name";

/// Sentences about rules without a column and about omitted key columns.
///
/// There is one sentence for each rule that matches no column, and one for each key column that a rule omits.
///
/// # Errors
/// A query failed.
pub(crate) async fn column_rule_problems(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    sent: &SentColumns<'_>,
) -> Result<Vec<String>, SlotError> {
    let rules = sent.rules;
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let arrays = RuleArrays::new(rules);
    let (schemas, tables): (Vec<String>, Vec<String>) = sent.tables.iter().map(TablePattern::to_like).unzip();
    let reads_publications = plugin.reads_publications();
    let mut problems = Vec::new();
    for (query, sentence) in [
        (
            UNMATCHED_RULES,
            unmatched as fn(&[ColumnRule], &PgRow) -> Option<String>,
        ),
        (OMITTED_KEYS, omitted_key),
    ] {
        let sql = format!("{SENT}, {MATCHING_TABLES} {query}");
        let rows = session
            .client
            .query(
                &sql,
                &[
                    &sent.publications,
                    &reads_publications,
                    &arrays.schemas,
                    &arrays.tables,
                    &arrays.columns,
                    &arrays.omits,
                    &schemas,
                    &tables,
                ],
            )
            .await
            .map_err(|error| connector.failed("checking COLUMN_RULES", error))?;
        problems.extend(rows.iter().filter_map(|row| sentence(rules, row)));
    }
    Ok(problems)
}

/// The sentence of a rule that matches no column.
fn unmatched(rules: &[ColumnRule], row: &PgRow) -> Option<String> {
    let rule_index = usize::try_from(row.get::<_, i64>("rule_index")).ok()?;
    let rule = rules.get(rule_index.checked_sub(1)?)?;
    let similar = optional_table_name(row, "similar_schema", "similar_name");
    let why = match similar.zip(row.get::<_, Option<String>>("similar_column")) {
        Some((table, column)) => format!(
            "matches no column: case matters, and there is {}.{column}",
            table.unquoted()
        ),
        None if row.get("has_table") => "matches tables, but none of their columns".to_owned(),
        None => "matches no table whose changes are sent".to_owned(),
    };
    Some(format!("COLUMN_RULES: {rule} {why}"))
}

/// The sentence of a key column that a rule omits.
fn omitted_key(_: &[ColumnRule], row: &PgRow) -> Option<String> {
    let table = table_name(row);
    let column: String = row.get("column_name");
    Some(format!(
        "COLUMN_RULES: column {column} of the key of {table} is omitted, so its events have no key: \
         hash the column, or choose a replica identity without it"
    ))
}
