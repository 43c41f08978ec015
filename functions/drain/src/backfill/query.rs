//! The SQL of a chunk: the rows behind a key, in the order of an index, as many as are asked for.

use std::fmt::Write as _;

use crate::table_name::quoted;

use super::table::{BackfillTable, KeyOrder, SizeProbe};

/// A row with more bytes than this is not read: no record could hold it, and a row is taken into memory whole.
pub const MAX_ROW_BYTES: u64 = 16 << 20;

/// `COPY … TO STDOUT` of the next rows behind `after`. Values come as the types' output functions write them, as in the log. The first field is
/// a row's size in bytes, about; of one that is too large only the key comes.
pub fn copy_chunk(table: &BackfillTable, after: Option<&[String]>, rows: u64) -> String {
    format!("copy ({}) to stdout", rows_behind(table, after, rows))
}

/// Has the server plan the next rows, which takes the lock of a reader.
pub fn explain_chunk(table: &BackfillTable, after: Option<&[String]>) -> String {
    format!("explain {}", rows_behind(table, after, 1))
}

/// What the server would do for a chunk, which it does not do. Each condition stands there twice, in different brackets, so that one that closes
/// ours is none.
pub fn explain_table(table: &BackfillTable) -> String {
    let again = table
        .conditions
        .iter()
        .map(|condition| format!("(array[{condition}\n])[1]"));
    // Nothing is behind null, but what compares with it is looked up.
    let nothing = vec!["null".to_owned(); table.key.len()];
    let table = BackfillTable {
        conditions: table
            .conditions
            .iter()
            .cloned()
            .chain(again)
            .chain([behind(table, &nothing)])
            .collect(),
        ..table.clone()
    };
    format!("explain {}", rows_behind(&table, None, 1))
}

fn rows_behind(table: &BackfillTable, after: Option<&[String]>, rows: u64) -> String {
    let mut conditions = table.conditions.clone();
    if let Some(after) = after {
        conditions.push(behind(table, &literals(after)));
    }
    format!(
        "{}{} order by {} limit {rows}",
        select(table),
        filter(&conditions),
        order(table)
    )
}

/// `COPY … TO STDOUT` of the row that has a key.
pub fn copy_row(table: &BackfillTable, key: &[String]) -> String {
    let columns = columns(table)
        .into_iter()
        .zip(&table.key_order)
        .zip(literals(key));
    let is: Vec<String> = columns
        .map(|((column, order), value)| format!("{column} {} {value}", order.equal))
        .collect();
    format!("copy ({}{}) to stdout", select(table), filter(&is))
}

fn select(table: &BackfillTable) -> String {
    let columns = table.relation.columns.iter().enumerate();
    let read: Vec<_> = columns.filter(|(at, _)| table.selects(*at)).collect();
    let sizes: Vec<String> = read
        .iter()
        .filter_map(|(at, column)| {
            let name = format!("t.{}", quoted(&column.name));
            match table.size_probes.get(*at)? {
                SizeProbe::No => None,
                // These two tell it without reading the value.
                SizeProbe::Text => Some(format!("coalesce(octet_length({name}), 0)::int8")),
                // A compressed one must be read, which happens to few.
                SizeProbe::Other => Some(format!(
                    "coalesce(case when pg_column_compression({name}) is null then pg_column_size({name}) else octet_length({name}::text) end, 0)::int8"
                )),
            }
        })
        .collect();
    let is_guarded = !sizes.is_empty();
    let fields: Vec<String> = read
        .iter()
        .map(|(at, column)| {
            let name = format!("t.{}", quoted(&column.name));
            match is_guarded && !table.key_indexes.contains(at) {
                true => format!("case when s.spillway_bytes <= {MAX_ROW_BYTES} then {name} end"),
                false => name,
            }
        })
        .collect();
    let mut select = format!(
        "select {}, {} from {}{} t",
        if is_guarded { "s.spillway_bytes" } else { "0" },
        fields.join(", "),
        if table.is_root { "" } else { "only " },
        table.name().to_sql()
    );
    if is_guarded {
        let _ = write!(
            select,
            // Not pulled up into each of the fields, which would measure the row as often.
            " cross join lateral (select {} offset 0) s(spillway_bytes)",
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

/// What lies behind a key. The operators are those of the index: by their names alone others may be found.
fn behind(table: &BackfillTable, values: &[String]) -> String {
    let key = columns(table);
    let same = table.key_order.first().map(|order| &order.greater);
    // As one comparison of rows, where one operator does for all: an index finds it at once.
    if let Some(greater) = same
        && table.key_order.iter().all(|order| order.greater == *greater)
    {
        return format!("{} {greater} {}", row(&key), row(values));
    }
    let mut parts = key.iter().zip(&table.key_order).zip(values).rev();
    let Some(((column, order), value)) = parts.next() else {
        return "true".to_owned();
    };
    let mut behind = format!("{column} {} {value}", order.greater);
    for ((column, order), value) in parts {
        let KeyOrder {
            greater,
            equal,
            at_least,
            ..
        } = order;
        behind = format!(
            "{column} {at_least} {value} and ({column} {greater} {value} or ({column} {equal} {value} and {behind}))"
        );
    }
    behind
}

fn order(table: &BackfillTable) -> String {
    let columns = columns(table).into_iter().zip(&table.key_order);
    let columns: Vec<String> = columns
        .map(|(column, order)| format!("{column} using {}", order.less))
        .collect();
    columns.join(", ")
}

/// The columns of the key, as an index compares them.
fn columns(table: &BackfillTable) -> Vec<String> {
    let columns = table.key.iter().zip(&table.key_order);
    columns
        .map(|(name, order)| {
            let collation = order.collation.as_ref().map(|name| format!(" collate {name}"));
            format!("t.{}{}", quoted(name), collation.unwrap_or_default())
        })
        .collect()
}

/// Without their types: an operator takes them for what it compares them with.
fn literals(values: &[String]) -> Vec<String> {
    values.iter().map(|value| literal(value)).collect()
}

fn row(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        many => format!("({})", many.join(", ")),
    }
}

/// A text, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backfill::table::KeyOrder;
    use crate::change::{Column, ColumnCoverage, Relation};
    use crate::table_name::TableName;

    fn table(columns: &[(&str, SizeProbe)], key: &[(&str, &str, Option<&str>)]) -> BackfillTable {
        let relation = Relation {
            table: TableName::new("My \"app\"", "t"),
            columns: columns
                .iter()
                .map(|(name, _)| Column::new((*name).into(), "text".into(), false))
                .collect(),
            primary: Vec::new(),
            extent: ColumnCoverage::Whole,
        };
        let key_names: Vec<String> = key.iter().map(|(name, ..)| (*name).to_owned()).collect();
        BackfillTable {
            oid: 1,
            key_indexes: relation.columns_named(&key_names).into_iter().flatten().collect(),
            key: key_names,
            key_order: key
                .iter()
                .map(|(_, schema, collation)| {
                    let operator = |name: &str| format!("operator({schema}.{name})");
                    KeyOrder {
                        less: operator("<"),
                        equal: operator("="),
                        at_least: operator(">="),
                        greater: operator(">"),
                        collation: collation.map(str::to_owned),
                        identity: String::new(),
                    }
                })
                .collect(),
            selected: vec![true; columns.len()],
            size_probes: columns.iter().map(|(_, large)| *large).collect(),
            is_root: false,
            conditions: Vec::new(),
            estimate: None,
            relation: Arc::new(relation),
        }
    }

    #[test]
    fn the_first_chunk_begins_at_the_beginning_and_the_next_behind_the_last_key() {
        let table = table(
            &[("id", SizeProbe::No), ("n", SizeProbe::No)],
            &[("id", "pg_catalog", None)],
        );
        assert_eq!(
            copy_chunk(&table, None, 10),
            r#"copy (select 0, t."id", t."n" from only "My ""app"""."t" t order by t."id" using operator(pg_catalog.<) limit 10) to stdout"#
        );
        assert_eq!(
            copy_chunk(&table, Some(&["7".into()]), 10),
            "copy (select 0, t.\"id\", t.\"n\" from only \"My \"\"app\"\"\".\"t\" t where (t.\"id\" operator(pg_catalog.>) E'7'\n) order by t.\"id\" using operator(pg_catalog.<) limit 10) to stdout"
        );
    }

    #[test]
    fn a_key_of_several_columns_is_compared_as_its_index_does() {
        let key = [
            ("a", "pg_catalog", Some(r#""pg_catalog"."C""#)),
            ("b", "pg_catalog", None),
        ];
        let mut two = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        two.conditions = vec!["b > 1 -- all".into(), "true".into()];
        two.is_root = true;
        assert_eq!(
            copy_chunk(&two, Some(&[r"it's \".into(), "NaN".into()]), 2),
            "copy (select 0, t.\"a\", t.\"b\" from \"My \"\"app\"\"\".\"t\" t where (b > 1 -- all\n) and (true\n) and (\
             (t.\"a\" collate \"pg_catalog\".\"C\", t.\"b\") operator(pg_catalog.>) (E'it''s \\\\', E'NaN')\n) \
             order by t.\"a\" collate \"pg_catalog\".\"C\" using operator(pg_catalog.<), t.\"b\" using operator(pg_catalog.<) limit 2) to stdout"
        );
        // Where one operator does not do for all.
        let key = [("a", "ext", None), ("b", "pg_catalog", None)];
        let mixed = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        assert_eq!(
            behind(&mixed, &["1".into(), "2".into()]),
            r#"t."a" operator(ext.>=) 1 and (t."a" operator(ext.>) 1 or (t."a" operator(ext.=) 1 and t."b" operator(pg_catalog.>) 2))"#
        );
    }

    #[test]
    fn of_a_row_that_is_too_large_only_its_key_comes() {
        let columns = [
            ("id", SizeProbe::No),
            ("body", SizeProbe::Text),
            ("doc", SizeProbe::Other),
        ];
        let mut table = table(&columns, &[("id", "pg_catalog", None)]);
        let sql = copy_chunk(&table, None, 1);
        assert!(sql.contains(r#"select s.spillway_bytes, t."id", case when s.spillway_bytes <= 16777216 then t."body" end, case when"#), "{sql}");
        assert!(sql.contains(r#"coalesce(octet_length(t."body"), 0)::int8 + coalesce(case when pg_column_compression(t."doc")"#), "{sql}");
        // What is not read need not be measured.
        table.selected = vec![true, false, false];
        assert_eq!(
            copy_chunk(&table, None, 1),
            r#"copy (select 0, t."id" from only "My ""app"""."t" t order by t."id" using operator(pg_catalog.<) limit 1) to stdout"#
        );
    }
}
