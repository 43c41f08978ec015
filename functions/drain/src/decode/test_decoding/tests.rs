use super::super::tests::{catalog_column, int_column, rows_of};
use super::*;
use crate::base::table_name::TableName;
use crate::catalog::{CatalogColumn, CatalogTable, RecentWriters};
use crate::change::{COMMA, ValueType};

fn decode(data: &str) -> Result<DecodedRow<'_>, DecodeError> {
    let mut catalog = Catalog::default();
    let key = vec!["id".to_owned()];
    catalog.insert(
        TableName::new("s", "t"),
        CatalogTable {
            key,
            ..CatalogTable::default()
        },
    );
    super::decode(&catalog, Lsn(9), data.as_bytes())
}

fn refused(data: &str) -> &'static str {
    decode(data).unwrap_err().expected
}

/// Prefix and content of a message.
fn message(data: &str) -> (String, String) {
    let DecodedRow::Change(Change::Message(message)) = decode(data).unwrap() else {
        panic!();
    };
    (
        message.prefix.into(),
        String::from_utf8(message.content.into()).unwrap(),
    )
}

/// Names and values of an insert into `s.t`.
fn insert(values: &str) -> Vec<(String, String)> {
    let row = format!("table s.t: INSERT:{values}");
    let DecodedRow::Change(Change::Insert { relation, new }) = decode(&row).unwrap() else {
        panic!();
    };
    let columns = relation.columns.iter();
    columns
        .zip(new)
        .map(|(column, datum)| (column.name.clone(), format!("{datum:?}")))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs.map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn the_lsn_of_the_commit_row_is_the_end_of_the_commit_record() {
    let rows = rows_of(Plugin::TestDecoding, "insert into numbers");
    let (lsn, data) = &rows[2];
    let DecodedRow::Commit {
        commit_end,
        commit_time,
    } = super::decode(&Catalog::default(), *lsn, data).unwrap()
    else {
        panic!();
    };
    assert_eq!(commit_end, *lsn);
    assert!(commit_time.is_some());
}

#[test]
fn a_value_has_doubled_quotes_and_no_other_syntax() {
    let row =
        " a[text]:'' b[text]:'''' c[text]:'it''s b[text]:''x''' d[text]:'\\n\n' e[bit]:B'101' f[text]:'null'";
    let expected = pairs(&[
        ("a", r#"Text("")"#),
        ("b", r#"Text("'")"#),
        ("c", r#"Text("it's b[text]:'x'")"#),
        ("d", r#"Text("\\n\n")"#),
        ("e", r#"Text("101")"#),
        ("f", r#"Text("null")"#),
    ]);
    assert_eq!(insert(row), expected);
}

#[test]
fn a_value_without_quotes_is_a_number_a_null_or_an_unchanged_large_value() {
    let row =
        " a[integer]:-1 b[double precision]:NaN c[text]:null d[text]:unchanged-toast-datum e[boolean]:true";
    let expected = pairs(&[
        ("a", r#"Text("-1")"#),
        ("b", r#"Text("NaN")"#),
        ("c", "Null"),
        ("d", "Unchanged"),
        ("e", r#"Text("true")"#),
    ]);
    assert_eq!(insert(row), expected);
}

#[test]
fn names_and_types_may_contain_every_separator_of_the_format() {
    let row = r#" "a ""[x]: '"[integer[]]:null "new-tuple:"["a]"".[""b"]:1 ä[s."t: x"[]]:null"#;
    let names = insert(row).into_iter().map(|(name, _)| name);
    assert_eq!(names.collect::<Vec<_>>(), ["a \"[x]: '", "new-tuple:", "ä"]);
    let DecodedRow::Change(Change::Truncate { relations }) =
        decode(r#"table "a.b"."c: d", e."f, g": TRUNCATE: (no-flags)"#).unwrap()
    else {
        panic!();
    };
    let names: Vec<_> = relations
        .iter()
        .map(|r| (r.table.schema.as_str(), r.table.name.as_str()))
        .collect();
    assert_eq!(names, [("a.b", "c: d"), ("e", "f, g")]);
}

#[test]
fn a_type_with_unmatched_brackets_is_refused() {
    for row in ["a[:1", "a[[b]:1", "\"a\"x[b]:1", "\"a\"][[b]:1"] {
        assert_eq!(
            refused(&format!("table s.t: INSERT: {row}")),
            "a type in brackets",
            "{row}"
        );
    }
}

#[test]
fn the_size_of_a_message_decides_where_its_content_starts() {
    let content = |of, prefix: &str, content: &str| {
        let row = format!("message: transactional: 1 prefix: {prefix}, sz: {of} content:{content}");
        assert_eq!(message(&row), (prefix.to_owned(), content.to_owned()), "{row}");
    };
    content(3, "p", "abc");
    content(0, "", "");
    content(2, "p, sz: 9 content:x", "ab");
    content(2, "p, sz: , sz: x, sz: 99999999999999999999999", "ab");
    // Two separators fit.
    content(21, "p", "x, sz: 4 content:abcd");
}

#[test]
fn a_message_whose_size_is_wrong_is_refused() {
    for row in [
        "p, sz: 2 content:abc",
        "p, sz: 4 content:abc",
        "p, sz: -3 content:abc",
        "p, sz: 3",
        "p",
    ] {
        let refused = refused(&format!("message: transactional: 1 prefix: {row}"));
        assert_eq!(refused, "a prefix, and content of the given size", "{row}");
    }
}

#[test]
fn only_a_delete_may_have_no_values() {
    let DecodedRow::Change(Change::Delete { relation, old }) =
        decode("table s.t: DELETE: (no-tuple-data)").unwrap()
    else {
        panic!();
    };
    assert_eq!((relation.columns.len(), old.len()), (0, 0));
    assert_eq!(refused("table s.t: INSERT: (no-tuple-data)"), "the new row");
    assert_eq!(refused("table s.t: UPDATE: (no-tuple-data)"), "the new row");
    assert_eq!(
        refused("table s.t: DELETE: (no-tuple-data)x"),
        "a space before a column"
    );
}

#[test]
fn an_old_row_that_only_repeats_the_key_is_dropped() {
    let update = |row| match decode(row).unwrap() {
        DecodedRow::Change(Change::Update { old, new, .. }) => (old, new),
        other => panic!("{other:?}"),
    };
    let text = |text: &'static str| Datum::Text(Cow::Borrowed(text));
    let same_key =
        "table s.t: UPDATE: old-key: id[text]:'1' new-tuple: id[text]:unchanged-toast-datum v[text]:'x'";
    assert_eq!(update(same_key), (None, vec![text("1"), text("x")]));
    let other_key = "table s.t: UPDATE: old-key: id[text]:'1' new-tuple: id[text]:'2' v[text]:'x'";
    let old = vec![text("1"), Datum::Absent];
    assert_eq!(update(other_key), (Some(old), vec![text("2"), text("x")]));
    let whole_row = "table s.t: UPDATE: old-key: id[text]:'1' v[text]:'y' \
        new-tuple: id[text]:'1' v[text]:unchanged-toast-datum";
    let row = vec![text("1"), text("y")];
    assert_eq!(update(whole_row), (Some(row.clone()), row));
}

#[test]
fn a_row_with_unknown_syntax_is_refused() {
    let unknown_column =
        "table s.t: UPDATE: old-key: id[integer]:1 w[integer]:1 new-tuple: id[integer]:1 v[integer]:2";
    assert_eq!(
        refused(unknown_column),
        "an old row of columns that the new row has"
    );
    assert_eq!(
        refused("table s.t, s.u: INSERT: id[integer]:1"),
        "TRUNCATE after several tables"
    );
    assert_eq!(
        refused("table s.t: MERGE: id[integer]:1"),
        "INSERT, UPDATE, DELETE or TRUNCATE"
    );
    assert_eq!(
        refused("opening a streamed block for transaction TXN 1"),
        "BEGIN, COMMIT, message or table"
    );
}

#[test]
fn the_time_for_a_row_is_proportional_to_its_columns() {
    // A search of all columns for each column would take minutes.
    let columns: String = (0..200_000).map(|i| format!(" c{i}[integer]:{i}")).collect();
    let row = format!("table s.t: UPDATE: old-key:{columns} new-tuple:{columns}");
    let DecodedRow::Change(Change::Update { new, .. }) = decode(&row).unwrap() else {
        panic!();
    };
    assert_eq!(new.len(), 200_000);
}

#[test]
fn a_whole_old_row_has_nulls_for_the_columns_that_it_omits() {
    let mut catalog = Catalog::default();
    let columns = [("n", 23, "integer"), ("what", 25, "text")]
        .map(|(name, type_oid, type_name)| catalog_column(name, type_oid, type_name))
        .into();
    catalog.insert(
        TableName::new("public", "t"),
        CatalogTable {
            identity_full: true,
            columns,
            ..CatalogTable::default()
        },
    );
    let one = || Datum::Text("1".into());
    let decode = |row: &'static str| super::decode(&catalog, Lsn::ZERO, row.as_bytes()).unwrap();
    let delete = decode("table public.t: DELETE: n[integer]:1");
    let DecodedRow::Change(Change::Delete { old, .. }) = delete else {
        panic!("{delete:?}")
    };
    assert_eq!(old, [one(), Datum::Null]);
    let update =
        decode("table public.t: UPDATE: old-key: n[integer]:1 new-tuple: n[integer]:1 what[text]:'z'");
    let DecodedRow::Change(Change::Update { old, .. }) = update else {
        panic!("{update:?}")
    };
    assert_eq!(old, Some(vec![one(), Datum::Null]));
}

#[test]
fn a_row_before_an_alteration_of_its_table_has_neither_the_key_nor_the_nulls_of_the_catalog() {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        key: vec!["n".into()],
        identity_full: true,
        columns: vec![int_column("n"), int_column("m")],
        recent: RecentWriters {
            key: vec![20],
            identity: vec![20],
            ..RecentWriters::default()
        },
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table);
    for (xid, is_later) in [(19, false), (20, false), (21, true)] {
        catalog.begin_transaction(xid);
        let row = super::decode(&catalog, Lsn::ZERO, b"table public.t: DELETE: n[integer]:1").unwrap();
        let DecodedRow::Change(Change::Delete { relation, old }) = row else {
            panic!();
        };
        assert_eq!(
            (relation.has_key(), old.contains(&Datum::Null)),
            (is_later, is_later),
            "{xid}"
        );
    }
}

#[test]
fn a_virtual_column_is_absent() {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        columns: vec![int_column("id"), int_column("g"), int_column("n")],
        virtual_columns: vec!["g".into()],
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table);
    catalog.has_virtual_columns = true;
    for (row, coverage) in [
        (
            "id[integer]:1 g[integer]:null n[integer]:null",
            ColumnCoverage::Whole,
        ),
        // It may have been an ordinary column.
        (
            "id[integer]:1 g[integer]:null n[integer]:null gone[integer]:null",
            ColumnCoverage::Row,
        ),
    ] {
        let row = format!("table public.t: INSERT: {row}");
        let item = super::decode(&catalog, Lsn::ZERO, row.as_bytes()).unwrap();
        let DecodedRow::Change(Change::Insert { relation, .. }) = item else {
            panic!("{item:?}");
        };
        let names: Vec<&str> = relation.columns.iter().map(|it| it.name.as_str()).collect();
        assert_eq!((names, relation.coverage), (vec!["id", "n"], coverage), "{row}");
    }
}

#[test]
fn a_null_of_a_column_that_the_old_row_has_is_a_value() {
    let mut catalog = Catalog::default();
    catalog.has_virtual_columns = true;
    let row =
        b"table public.t: UPDATE: old-key: n[integer]:1 m[integer]:2 new-tuple: n[integer]:1 m[integer]:null";
    let DecodedRow::Change(Change::Update { relation, new, .. }) =
        super::decode(&catalog, Lsn::ZERO, row).unwrap()
    else {
        panic!();
    };
    assert_eq!(relation.columns.len(), 2);
    assert_eq!(new[1], Datum::Null);
}

/// Types of the columns of a row.
fn types_of(catalog: &Catalog, row: &str) -> Vec<ValueType> {
    let item = super::decode(catalog, Lsn::ZERO, row.as_bytes()).unwrap();
    let DecodedRow::Change(
        Change::Insert { relation, .. } | Change::Update { relation, .. } | Change::Delete { relation, .. },
    ) = item
    else {
        panic!("{item:?}");
    };
    relation
        .columns
        .iter()
        .map(|column| column.kind.clone())
        .collect()
}

#[test]
fn the_number_of_digits_is_the_length_of_a_bit_if_the_catalog_lacks_the_column() {
    let bits = |length| ValueType::Bits(length);
    let list = |length| ValueType::Array(Box::new(ValueType::Bits(length)), COMMA);
    for (row, kinds) in [
        (
            "INSERT: a[bit]:B'1' b[bit]:B'0101' c[bit]:null",
            vec![bits(Some(1)), bits(Some(4)), bits(None)],
        ),
        ("DELETE: a[bit]:B'0'", vec![bits(Some(1))]),
        (
            "UPDATE: old-key: a[bit]:B'1' new-tuple: a[bit]:null",
            vec![bits(Some(1))],
        ),
        (
            "INSERT: a[bit[]]:'{NULL,1}' b[bit[]]:'[0:1]={011,101}' c[bit[]]:'{}'",
            vec![list(Some(1)), list(Some(3)), list(None)],
        ),
        ("INSERT: a[bit varying]:B'1'", vec![bits(None)]),
    ] {
        let row = format!("table public.dropped: {row}");
        assert_eq!(types_of(&Catalog::default(), &row), kinds, "{row}");
    }
}

#[test]
fn the_catalog_has_the_length_of_a_bit_unless_the_column_is_newer_than_the_row() {
    let mut catalog = Catalog::default();
    let column = |name: &str, modifier, type_name: &str| CatalogColumn {
        name: name.into(),
        type_oid: 1560,
        modifier,
        type_name: type_name.into(),
        toastable: false,
    };
    let table = CatalogTable {
        columns: vec![column("any", -1, "\"bit\""), column("altered", 8, "bit(8)")],
        recent: RecentWriters {
            columns: [("altered".to_owned(), 20)].into(),
            ..RecentWriters::default()
        },
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table);
    for (xid, length) in [(19, 1), (21, 8)] {
        catalog.begin_transaction(xid);
        let kinds = types_of(
            &catalog,
            "table public.t: INSERT: any[bit]:B'1' altered[bit]:B'1'",
        );
        assert_eq!(
            kinds,
            [ValueType::Bits(None), ValueType::Bits(Some(length))],
            "{xid}"
        );
    }
}

#[test]
fn an_old_row_keeps_its_values_if_other_columns_have_its_column_names_now() {
    let mut catalog = Catalog::default();
    let column = |name: &str| CatalogColumn {
        name: name.into(),
        type_oid: 23,
        modifier: -1,
        type_name: "integer".into(),
        toastable: false,
    };
    // Their names were `id`, `region` and `v` when the row was written.
    let table = CatalogTable {
        identity_full: true,
        columns: ["renamed", "region", "id"].map(column).into(),
        recent: RecentWriters {
            columns: [("renamed".to_owned(), 20), ("id".to_owned(), 20)].into(),
            ..RecentWriters::default()
        },
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table);
    catalog.begin_transaction(19);
    let row = b"table public.t: DELETE: id[integer]:1 region[integer]:2";
    let DecodedRow::Change(Change::Delete { relation, old }) =
        super::decode(&catalog, Lsn::ZERO, row).unwrap()
    else {
        panic!();
    };
    let names: Vec<&str> = relation
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(names, ["id", "region"]);
    assert_eq!(old, [Datum::Text("1".into()), Datum::Text("2".into())]);
}
