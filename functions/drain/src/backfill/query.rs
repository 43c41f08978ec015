//! The SQL of a chunk: the rows behind a key, in the order of an index, as many as are asked for.

use std::fmt::Write as _;

use super::table::{Large, Table};

/// A row with more bytes than this is not read: no record could hold it, and a row is taken into memory whole.
pub const MOST_ROW_BYTES: u64 = 16 << 20;

/// `COPY … TO STDOUT` of the next rows behind `after`. Values come as the types' output functions write them, as in the log. The first field is
/// a row's size in bytes, about; of one that is too large only the key comes.
pub fn chunk(table: &Table, after: Option<&[String]>, rows: u64) -> String {
    format!("copy ({}) to stdout", rows_behind(table, after, rows))
}

/// What the server would do for a chunk, which it does not do. Each condition stands there twice, in different brackets, so that one that closes
/// ours is none.
pub fn explain(table: &Table) -> String {
    let again = table
        .conditions
        .iter()
        .map(|condition| format!("(array[{condition}\n])[1]"));
    let table = Table {
        conditions: table.conditions.iter().cloned().chain(again).collect(),
        ..table.clone()
    };
    format!("explain {}", rows_behind(&table, None, 1))
}

fn rows_behind(table: &Table, after: Option<&[String]>, rows: u64) -> String {
    let key = key(table);
    let mut conditions = table.conditions.clone();
    if let Some(after) = after {
        conditions.push(format!("{} > {}", row(&key), row(&literals(table, after))));
    }
    format!(
        "{}{} order by {} limit {rows}",
        select(table),
        filter(&conditions),
        key.join(", ")
    )
}

/// `COPY … TO STDOUT` of the row that has one of two keys, the first rather than the second.
pub fn row_of(table: &Table, first: &[String], second: &[String]) -> String {
    let key = row(&key(table));
    let is = |values: &[String]| format!("{key} = {}", row(&literals(table, values)));
    let conditions = [format!("{} or {}", is(first), is(second))];
    format!(
        "copy ({}{} order by ({}) desc limit 1) to stdout",
        select(table),
        filter(&conditions),
        is(first)
    )
}

fn select(table: &Table) -> String {
    let columns = table.relation.columns.iter().enumerate();
    let read: Vec<_> = columns.filter(|(at, _)| table.reads(*at)).collect();
    let sizes: Vec<String> = read
        .iter()
        .filter_map(|(at, column)| {
            let name = format!("t.{}", identifier(&column.name));
            match table.large.get(*at)? {
                Large::No => None,
                // These two tell it without reading the value.
                Large::Text => Some(format!("coalesce(octet_length({name}), 0)::int8")),
                // A compressed one must be read, which happens to few.
                Large::Other => Some(format!(
                    "coalesce(case when pg_column_compression({name}) is null then pg_column_size({name}) else octet_length({name}::text) end, 0)::int8"
                )),
            }
        })
        .collect();
    let is_guarded = !sizes.is_empty();
    let fields: Vec<String> = read
        .iter()
        .map(|(at, column)| {
            let name = format!("t.{}", identifier(&column.name));
            match is_guarded && !table.key_places.contains(at) {
                true => format!("case when s.spillway_bytes <= {MOST_ROW_BYTES} then {name} end"),
                false => name,
            }
        })
        .collect();
    let mut select = format!(
        "select {}, {} from {}{}.{} t",
        if is_guarded { "s.spillway_bytes" } else { "0" },
        fields.join(", "),
        if table.is_root { "" } else { "only " },
        identifier(&table.relation.schema),
        identifier(&table.relation.name)
    );
    if is_guarded {
        let _ = write!(
            select,
            " cross join lateral (select {}) s(spillway_bytes)",
            sizes.join(" + ")
        );
    }
    select
}

fn filter(conditions: &[String]) -> String {
    match conditions.is_empty() {
        true => String::new(),
        // Each ends with a line of its own, so that a comment in it ends, too.
        false => format!(" where ({}\n)", conditions.join("\n) and (")),
    }
}

/// The columns of the key, as an index compares them.
fn key(table: &Table) -> Vec<String> {
    let columns = table.key.iter().zip(&table.order);
    columns
        .map(|(name, order)| {
            let collation = order.collation.as_ref().map(|name| format!(" collate {name}"));
            format!("t.{}{}", identifier(name), collation.unwrap_or_default())
        })
        .collect()
}

fn literals(table: &Table, values: &[String]) -> Vec<String> {
    let values = values.iter().zip(&table.order);
    values
        .map(|(value, order)| format!("{}::{}", literal(value), order.type_name))
        .collect()
}

fn row(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        many => format!("({})", many.join(", ")),
    }
}

/// A name in quotes.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backfill::table::Order;
    use crate::change::{Column, Extent, Relation};

    fn table(columns: &[(&str, Large)], key: &[(&str, &str, Option<&str>)]) -> Table {
        let relation = Relation {
            schema: "My \"app\"".into(),
            name: "t".into(),
            columns: columns
                .iter()
                .map(|(name, _)| Column::new((*name).into(), "text".into(), false))
                .collect(),
            primary: Vec::new(),
            extent: Extent::Whole,
        };
        let key_names: Vec<String> = key.iter().map(|(name, ..)| (*name).to_owned()).collect();
        Table {
            key_places: relation.columns_named(&key_names).into_iter().flatten().collect(),
            key: key_names,
            order: key
                .iter()
                .map(|(_, type_name, collation)| Order {
                    type_name: (*type_name).to_owned(),
                    collation: collation.map(str::to_owned),
                })
                .collect(),
            wanted: vec![true; columns.len()],
            large: columns.iter().map(|(_, large)| *large).collect(),
            is_root: false,
            conditions: Vec::new(),
            estimate: None,
            relation: Arc::new(relation),
        }
    }

    #[test]
    fn the_first_chunk_begins_at_the_beginning_and_the_next_behind_the_last_key() {
        let table = table(&[("id", Large::No), ("n", Large::No)], &[("id", "bigint", None)]);
        assert_eq!(
            chunk(&table, None, 10),
            r#"copy (select 0, t."id", t."n" from only "My ""app"""."t" t order by t."id" limit 10) to stdout"#
        );
        assert_eq!(
            chunk(&table, Some(&["7".into()]), 10),
            "copy (select 0, t.\"id\", t.\"n\" from only \"My \"\"app\"\"\".\"t\" t where (t.\"id\" > E'7'::bigint\n) order by t.\"id\" limit 10) to stdout"
        );
    }

    #[test]
    fn a_key_of_several_columns_is_compared_as_its_index_does() {
        let key = [("a", "text", Some(r#""pg_catalog"."C""#)), ("b", "numeric", None)];
        let mut table = table(&[("a", Large::No), ("b", Large::No)], &key);
        table.conditions = vec!["b > 1 -- all".into(), "true".into()];
        table.is_root = true;
        assert_eq!(
            chunk(&table, Some(&[r"it's \".into(), "NaN".into()]), 2),
            "copy (select 0, t.\"a\", t.\"b\" from \"My \"\"app\"\"\".\"t\" t where (b > 1 -- all\n) and (true\n) and ((t.\"a\" collate \"pg_catalog\".\"C\", t.\"b\") > (E'it\\'s \\\\'::text, E'NaN'::numeric)\n) order by t.\"a\" collate \"pg_catalog\".\"C\", t.\"b\" limit 2) to stdout"
        );
    }

    #[test]
    fn of_a_row_that_is_too_large_only_its_key_comes() {
        let columns = [("id", Large::No), ("body", Large::Text), ("doc", Large::Other)];
        let mut table = table(&columns, &[("id", "bigint", None)]);
        let sql = chunk(&table, None, 1);
        assert!(sql.contains(r#"select s.spillway_bytes, t."id", case when s.spillway_bytes <= 16777216 then t."body" end, case when"#), "{sql}");
        assert!(sql.contains(r#"coalesce(octet_length(t."body"), 0)::int8 + coalesce(case when pg_column_compression(t."doc")"#), "{sql}");
        // What is not read need not be measured.
        table.wanted = vec![true, false, false];
        assert_eq!(
            chunk(&table, None, 1),
            r#"copy (select 0, t."id" from only "My ""app"""."t" t order by t."id" limit 1) to stdout"#
        );
    }
}
