//! The SQL of a chunk: the next rows after a key, in the order of an index.

use postgres_protocol::escape::escape_literal;

use crate::base::table_name::quoted;

use super::table::{BackfillTable, KeyOrder, SizeProbe};

/// Most bytes of the values of a row, without its key.
///
/// A larger row exceeds every record. The function keeps a row in memory as a whole.
pub const MAX_ROW_BYTES: u64 = 16 << 20;

/// `COPY … TO STDOUT` of the next `rows` rows after key `after`.
///
/// The output functions of the types write the values, as in logical decoding. The first field is the
/// approximate size of the row in bytes, or 0 if no column can be large. If the size exceeds
/// [`MAX_ROW_BYTES`], the largest columns outside the key are null, and the first field is
/// `SIZE:INDEX,INDEX`.
pub fn copy_chunk(table: &BackfillTable, after: Option<&[String]>, rows: u64) -> String {
    format!("copy ({}) to stdout", rows_after(table, after, rows))
}

/// `EXPLAIN` of the next rows after the key `after`.
///
/// The planner acquires an `ACCESS SHARE` lock. Until the transaction ends, no other session can rewrite the
/// table.
pub fn explain_chunk(table: &BackfillTable, after: Option<&[String]>) -> String {
    format!("explain {}", rows_after(table, after, 1))
}

/// `EXPLAIN` statement that checks the conditions of a table.
///
/// The server also checks the operators of the key. It reads no row. A condition such as `true) or (true`
/// would close the bracket around it, and change the query. So the statement has each condition twice: in
/// round and in square brackets. A condition that closes one kind of bracket is a syntax error in the other
/// kind.
pub fn explain_conditions(table: &BackfillTable) -> String {
    let bracketed_again = table
        .conditions
        .iter()
        .map(|condition| format!("(array[{condition}\n])[1]"));
    // The server must find the operators, although a comparison with null selects no row.
    let casts = table.key_order.iter().map(|order| order.cast.as_ref());
    let nulls: Vec<String> = casts
        .map(|cast| cast.map_or_else(|| "null".to_owned(), |name| format!("null::{name}")))
        .collect();
    let table = BackfillTable {
        conditions: table
            .conditions
            .iter()
            .cloned()
            .chain(bracketed_again)
            .chain([after_key(table, &nulls)])
            .collect(),
        ..table.clone()
    };
    format!("explain {}", rows_after(&table, None, 1))
}

/// The query of the next `rows` rows after the key `after`.
fn rows_after(table: &BackfillTable, after: Option<&[String]>, rows: u64) -> String {
    let mut conditions = table.conditions.clone();
    if let Some(key) = after {
        conditions.push(after_key(table, &literals(table, key)));
    }
    format!(
        "{}{} order by {} limit {rows}",
        select_clause(table),
        where_clause(&conditions),
        order_list(table)
    )
}

/// `COPY … TO STDOUT` of the row with a key.
pub fn copy_row(table: &BackfillTable, key: &[String]) -> String {
    let columns = key_columns(table)
        .into_iter()
        .zip(&table.key_order)
        .zip(literals(table, key));
    let is_equal: Vec<String> = columns
        .map(|((column, order), value)| format!("{column} {} {value}", order.equal))
        .collect();
    format!(
        "copy ({}{}) to stdout",
        select_clause(table),
        where_clause(&is_equal)
    )
}

/// `select … from …` of the row's size and its selected columns.
fn select_clause(table: &BackfillTable) -> String {
    let columns = table.relation.columns.iter().enumerate();
    let selected: Vec<(usize, String)> = columns
        .filter(|(index, _)| table.selects(*index))
        .map(|(index, column)| (index, format!("t.{}", quoted(&column.name))))
        .collect();
    let sizes: Vec<(usize, String)> = selected
        .iter()
        .filter_map(|(index, name)| Some((*index, size_expression(*table.size_probes.get(*index)?, name)?)))
        .collect();
    let is_key = |index: usize| {
        table.key_indexes.contains(&index) || table.relation.columns.get(index).is_some_and(|it| it.key)
    };
    let can_be_omitted = |index: usize| sizes.iter().any(|(it, _)| *it == index) && !is_key(index);
    let fields: Vec<String> = selected
        .iter()
        .map(|(index, name)| match can_be_omitted(*index) {
            true => format!("case when {index} = any(s.spillway_omitted) then null else {name} end"),
            false => name.clone(),
        })
        .collect();
    let mut select = format!(
        "select {}, {} from {}{} t",
        match sizes.is_empty() {
            true => "0",
            false => "s.spillway_bytes || coalesce(':' || array_to_string(s.spillway_omitted, ','), '')",
        },
        fields.join(", "),
        if table.is_root { "" } else { "only " },
        table.name().to_sql()
    );
    if !sizes.is_empty() {
        select.push_str(&size_clause(&sizes, is_key));
    }
    select
}

/// The join of a row with its size and its omitted columns.
///
/// The omitted columns are the largest ones outside the key. The other columns outside the key have at most
/// [`MAX_ROW_BYTES`] together.
///
/// `offset 0` prevents the planner from inlining the subquery. Otherwise the server would measure the row
/// once for each field.
fn size_clause(sizes: &[(usize, String)], is_key: impl Fn(usize) -> bool) -> String {
    let measured: Vec<String> = sizes
        .iter()
        .map(|(index, size)| format!("{size} as b{index}"))
        .collect();
    let all: Vec<String> = sizes.iter().map(|(index, _)| format!("m.b{index}")).collect();
    let candidates = sizes.iter().filter(|(index, _)| !is_key(*index));
    let candidates: Vec<String> = candidates
        .map(|(index, _)| format!("({index}, m.b{index})"))
        .collect();
    let omitted = match candidates.is_empty() {
        true => "null::int[]".to_owned(),
        false => format!(
            "case when {} > {MAX_ROW_BYTES} then (select array_agg(r.i) from \
             (select v.i, sum(v.b) over (order by v.b, v.i desc) as kept from (values {}) as v(i, b)) as r \
             where r.kept > {MAX_ROW_BYTES}) end",
            all.join(" + "),
            candidates.join(", ")
        ),
    };
    format!(
        " cross join lateral (select {}, {omitted} from (select {} offset 0) as m offset 0) \
         as s(spillway_bytes, spillway_omitted)",
        all.join(" + "),
        measured.join(", ")
    )
}

/// The SQL expression of a value's size in bytes.
///
/// `None` if the value is never large.
fn size_expression(probe: SizeProbe, column: &str) -> Option<String> {
    match probe {
        SizeProbe::No => None,
        // For text and binary values, `octet_length` does not read the value.
        SizeProbe::Text => Some(format!("coalesce(octet_length({column}), 0)::int8")),
        // A compressed value must be read to be measured.
        SizeProbe::Other => Some(format!(
            "coalesce(case when pg_column_compression({column}) is null then pg_column_size({column}) \
             else octet_length({column}::text) end, 0)::int8"
        )),
    }
}

fn where_clause(conditions: &[String]) -> String {
    match conditions.is_empty() {
        true => String::new(),
        // A condition may end with a `--` comment, which the line break ends.
        false => format!(" where ({}\n)", conditions.join("\n) and (")),
    }
}

/// The condition of the rows after a key.
///
/// It uses the operators of the index, with their schemas. Without a schema, the search path could select
/// another operator.
fn after_key(table: &BackfillTable, values: &[String]) -> String {
    let columns = key_columns(table);
    let first = table.key_order.first().map(|order| &order.greater);
    // If all columns have the same operator, one comparison of rows suffices. An index scan can start at it.
    if let Some(greater) = first
        && table.key_order.iter().all(|order| order.greater == *greater)
    {
        return format!("{} {greater} {}", row(&columns), row(values));
    }
    let mut parts = columns.iter().zip(&table.key_order).zip(values).rev();
    let Some(((column, order), value)) = parts.next() else {
        return "true".to_owned();
    };
    let mut condition = format!("{column} {} {value}", order.greater);
    for ((column, order), value) in parts {
        let KeyOrder {
            greater,
            equal,
            at_least,
            ..
        } = order;
        condition = format!(
            "{column} {at_least} {value} and \
             ({column} {greater} {value} or ({column} {equal} {value} and {condition}))"
        );
    }
    condition
}

/// The list of `order by`.
fn order_list(table: &BackfillTable) -> String {
    let columns = key_columns(table)
        .into_iter()
        .zip(&table.key)
        .zip(&table.key_order);
    let columns: Vec<String> = columns
        .map(|((column, name), order)| {
            let nulls = if order.nulls_first { " nulls first" } else { "" };
            match order.column_cast {
                // The index serves only an order by the column without its cast. The default order of the
                // domain is that of the enum.
                Some(_) => format!("t.{}{nulls}", quoted(name)),
                None => format!("{column} using {}{nulls}", order.less),
            }
        })
        .collect();
    columns.join(", ")
}

/// The columns of the key, with the index's cast and collation.
fn key_columns(table: &BackfillTable) -> Vec<String> {
    let columns = table.key.iter().zip(&table.key_order);
    columns
        .map(|(name, order)| {
            let cast = order.column_cast.as_ref().map(|name| format!("::{name}"));
            let collation = order.collation.as_ref().map(|name| format!(" collate {name}"));
            format!(
                "t.{}{}{}",
                quoted(name),
                cast.unwrap_or_default(),
                collation.unwrap_or_default()
            )
        })
        .collect()
}

/// The literals of a key.
///
/// PostgreSQL infers the type of a literal from the other side of its operator. If it cannot, the order names
/// the type. No literal depends on `standard_conforming_strings`: a text with a backslash has the form
/// ` E'…'`.
fn literals(table: &BackfillTable, key: &[String]) -> Vec<String> {
    let values = key.iter().zip(&table.key_order);
    values
        .map(|(value, order)| match &order.cast {
            Some(name) => format!("{}::{name}", escape_literal(value)),
            None => escape_literal(value),
        })
        .collect()
}

/// The SQL of one part, or of a row of several parts.
fn row(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        many => format!("({})", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backfill::table::KeyOrder;
    use crate::base::table_name::TableName;
    use crate::change::{Column, ColumnCoverage, Relation};

    fn table(columns: &[(&str, SizeProbe)], key: &[(&str, &str, Option<&str>)]) -> BackfillTable {
        let relation = Relation {
            table: TableName::new("My \"app\"", "t"),
            columns: columns
                .iter()
                .map(|(name, _)| Column::new((*name).into(), "text".into(), false))
                .collect(),
            primary_key: Vec::new(),
            coverage: ColumnCoverage::Whole,
            is_insert_only: false,
            partition_key_may_change: false,
        };
        let key_names: Vec<String> = key.iter().map(|(name, ..)| (*name).to_owned()).collect();
        BackfillTable {
            oid: 1,
            key_indexes: relation
                .column_indexes(&key_names)
                .into_iter()
                .flatten()
                .collect(),
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
                        nulls_first: false,
                        column_cast: None,
                        cast: None,
                        identity: String::new(),
                    }
                })
                .collect(),
            selected: vec![true; columns.len()],
            size_probes: columns.iter().map(|(_, large)| *large).collect(),
            is_root: false,
            conditions: Vec::new(),
            has_request_condition: false,
            estimate: None,
            relation: Arc::new(relation),
        }
    }

    #[test]
    fn the_first_chunk_starts_at_the_first_row_and_the_next_chunk_after_the_last_key() {
        let table = table(
            &[("id", SizeProbe::No), ("n", SizeProbe::No)],
            &[("id", "pg_catalog", None)],
        );
        assert_eq!(
            copy_chunk(&table, None, 10),
            concat!(
                r#"copy (select 0, t."id", t."n" from only "My ""app"""."t" t "#,
                r#"order by t."id" using operator(pg_catalog.<) limit 10) to stdout"#
            )
        );
        assert_eq!(
            copy_chunk(&table, Some(&["7".into()]), 10),
            concat!(
                r#"copy (select 0, t."id", t."n" from only "My ""app"""."t" t "#,
                r#"where (t."id" operator(pg_catalog.>) '7'"#,
                "\n",
                r#") order by t."id" using operator(pg_catalog.<) limit 10) to stdout"#
            )
        );
    }

    #[test]
    fn a_key_is_cast_to_its_type_where_the_operators_do_not_infer_it() {
        let key = [("a", "pg_catalog", None), ("b", "pg_catalog", None)];
        let mut table = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        table.key_order[0].cast = Some("pg_catalog.regclass".into());
        let key = ["it's".to_owned(), "1".to_owned()];
        let after = r#"(t."a", t."b") operator(pg_catalog.>) ('it''s'::pg_catalog.regclass, '1')"#;
        let chunk = copy_chunk(&table, Some(&key), 1);
        assert!(chunk.contains(after), "{chunk}");
        let row = copy_row(&table, &key);
        let equal = r#"t."a" operator(pg_catalog.=) 'it''s'::pg_catalog.regclass"#;
        assert!(row.contains(equal), "{row}");
    }

    #[test]
    fn the_order_is_that_of_the_index() {
        let key = [("a", "pg_catalog", None), ("b", "pg_catalog", None)];
        let mut table = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        table.key_order[0].nulls_first = true;
        table.key_order[1].column_cast = Some("public.mood".into());
        let chunk = copy_chunk(&table, Some(&["1".into(), "ok".into()]), 1);
        for part in [
            r#"(t."a", t."b"::public.mood) operator(pg_catalog.>) ('1', 'ok')"#,
            concat!(
                r#"order by t."a" using operator(pg_catalog.<) nulls first, "#,
                r#"t."b" limit"#
            ),
        ] {
            assert!(chunk.contains(part), "{chunk}");
        }
    }

    #[test]
    fn a_key_of_several_columns_is_compared_as_its_index_compares_it() {
        let key = [
            ("a", "pg_catalog", Some(r#""pg_catalog"."C""#)),
            ("b", "pg_catalog", None),
        ];
        let mut two = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        two.conditions = vec!["b > 1 -- all".into(), "true".into()];
        two.is_root = true;
        assert_eq!(
            copy_chunk(&two, Some(&[r"it's \".into(), "NaN".into()]), 2),
            concat!(
                r#"copy (select 0, t."a", t."b" from "My ""app"""."t" t where (b > 1 -- all"#,
                "\n) and (true\n) and (",
                r#"(t."a" collate "pg_catalog"."C", t."b") operator(pg_catalog.>) ( E'it''s \\', 'NaN')"#,
                "\n) ",
                r#"order by t."a" collate "pg_catalog"."C" using operator(pg_catalog.<), "#,
                r#"t."b" using operator(pg_catalog.<) limit 2) to stdout"#
            )
        );
        // The columns have different operators.
        let key = [("a", "ext", None), ("b", "pg_catalog", None)];
        let mixed = table(&[("a", SizeProbe::No), ("b", SizeProbe::No)], &key);
        assert_eq!(
            after_key(&mixed, &["1".into(), "2".into()]),
            concat!(
                r#"t."a" operator(ext.>=) 1 and (t."a" operator(ext.>) 1 or "#,
                r#"(t."a" operator(ext.=) 1 and t."b" operator(pg_catalog.>) 2))"#
            )
        );
    }

    #[test]
    fn a_row_that_is_too_large_is_read_without_its_largest_columns() {
        let columns = [
            ("id", SizeProbe::No),
            ("body", SizeProbe::Text),
            ("doc", SizeProbe::Other),
        ];
        let mut table = table(&columns, &[("id", "pg_catalog", None)]);
        let sql = copy_chunk(&table, None, 1);
        let fields = concat!(
            r#"t."id", case when 1 = any(s.spillway_omitted) then null else t."body" end, "#,
            r#"case when 2 = any"#
        );
        assert!(sql.contains(fields), "{sql}");
        let omitted = concat!(
            r#"case when m.b1 + m.b2 > 16777216 then (select array_agg(r.i) from (select v.i, "#,
            r#"sum(v.b) over (order by v.b, v.i desc) as kept from (values (1, m.b1), "#,
            r#"(2, m.b2)) as v(i, b)) as r where r.kept > 16777216) end from "#,
            r#"(select coalesce(octet_length(t."body"), 0)::int8 as b1, coalesce(case when pg_column_compression(t."doc")"#
        );
        assert!(sql.contains(omitted), "{sql}");
        // A column that is not read is not measured.
        table.selected = vec![true, false, false];
        assert_eq!(
            copy_chunk(&table, None, 1),
            concat!(
                r#"copy (select 0, t."id" from only "My ""app"""."t" t "#,
                r#"order by t."id" using operator(pg_catalog.<) limit 1) to stdout"#
            )
        );
    }
}
