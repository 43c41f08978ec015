use std::sync::Arc;

use super::super::tests::{catalog_column, rows_of};
use super::relations::MAX_SHAPES;
use super::*;
use crate::base::table_name::TableName;
use crate::catalog::{CatalogColumn, CatalogTable, CatalogType, TypeForm};

/// Catalog with the table `s.t`.
///
/// The columns `key` are its key. The columns `large` may have large values.
fn catalog(key: &[&str], large: &[&str]) -> Catalog {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        columns: large
            .iter()
            .map(|name| CatalogColumn {
                toastable: true,
                ..catalog_column(name, 25, "text")
            })
            .collect(),
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "t"), table);
    catalog
}

fn columns(list: &[(&str, &str)]) -> String {
    let list = list
        .iter()
        .map(|(name, value)| format!(r#"{{"name":"{name}","type":"text","value":{value}}}"#));
    format!("[{}]", list.collect::<Vec<_>>().join(","))
}

/// A row of `s.t` with the primary key `pk`.
pub(super) fn row(action: &str, new: &[(&str, &str)], identity: &[(&str, &str)], pk: &str) -> Vec<u8> {
    let (new, identity) = (columns(new), columns(identity));
    format!(
        r#"{{"action":"{action}","schema":"s","table":"t","columns":{new},
            "identity":{identity},"pk":[{{"name":"{pk}","type":"text"}}]}}"#
    )
    .into_bytes()
}

pub(super) fn change(
    catalog: &Catalog,
    data: &[u8],
) -> (Arc<Relation>, Option<Vec<String>>, Option<Vec<String>>) {
    let shown = |tuple: Tuple<'_>| tuple.iter().map(|datum| format!("{datum:?}")).collect();
    match Wal2jsonDecoder::default().decode(catalog, data).unwrap() {
        DecodedRow::Change(Change::Insert { relation, new }) => (relation, None, Some(shown(new))),
        DecodedRow::Change(Change::Update { relation, old, new }) => {
            (relation, old.map(shown), Some(shown(new)))
        }
        DecodedRow::Change(Change::Delete { relation, old }) => (relation, Some(shown(old)), None),
        other => panic!("{other:?}"),
    }
}

fn key(relation: &Relation) -> Vec<&str> {
    let columns = relation.columns.iter().filter(|column| column.key);
    columns.map(|column| column.name.as_str()).collect()
}

fn value(kind: &str, json: &str) -> Result<String, DecodeError> {
    let column = format!(r#"{{"name":"v","type":"{kind}","value":{json}}}"#);
    let data = format!(r#"{{"action":"I","schema":"s","table":"t","columns":[{column}]}}"#);
    match Wal2jsonDecoder::default().decode(&Catalog::default(), data.as_bytes())? {
        DecodedRow::Change(Change::Insert { new, .. }) => match &new[..] {
            [Datum::Text(text)] => Ok(text.to_string()),
            other => Ok(format!("{other:?}")),
        },
        other => panic!("{other:?}"),
    }
}

const A: (&str, &str) = ("a", r#""1""#);
const B: (&str, &str) = ("b", r#""2""#);
const C: (&str, &str) = ("c", r#""3""#);

#[test]
fn begin_and_commit_both_have_the_end_of_the_commit_record() {
    let rows = rows_of(Plugin::Wal2json, "insert into numbers");
    let items: Vec<_> = [&rows[0], &rows[2]]
        .iter()
        .map(|(_, data)| {
            Wal2jsonDecoder::default()
                .decode(&Catalog::default(), data)
                .unwrap()
        })
        .collect();
    let [
        DecodedRow::Begin {
            commit_end: begin, ..
        },
        DecodedRow::Commit { commit_end, .. },
    ] = items[..]
    else {
        panic!("{items:?}");
    };
    assert_eq!((begin, rows[2].0), (Some(commit_end), commit_end));
}

#[test]
fn the_columns_of_an_old_row_that_is_not_whole_are_the_key_whatever_the_catalog_contains() {
    for catalog in [catalog(&["a"], &[]), catalog(&["gone"], &[]), Catalog::default()] {
        let (relation, old, _) = change(&catalog, &row("U", &[A, B, C], &[B, C], "a"));
        assert_eq!((key(&relation), old), (vec!["b", "c"], None));
        let (relation, ..) = change(&catalog, &row("D", &[], &[B, C], "a"));
        assert_eq!(key(&relation), ["b", "c"]);
    }
}

#[test]
fn the_key_of_a_whole_old_row_is_the_catalogs_or_else_the_primary_key() {
    let all = [A, B, C];
    for (catalog, expected) in [
        (catalog(&["b"], &[]), "b"),
        (catalog(&["gone"], &[]), "a"),
        (catalog(&[], &[]), "a"),
        (Catalog::default(), "a"),
    ] {
        for data in [
            row("U", &all, &all, "a"),
            row("D", &[], &all, "a"),
            row("I", &all, &[], "a"),
        ] {
            assert_eq!(key(&change(&catalog, &data).0), [expected]);
        }
    }
}

#[test]
fn a_type_that_only_the_old_row_has_is_that_of_this_row() {
    let mut decoder = Wal2jsonDecoder::default();
    let rows = [
        (r#""bytea","value":"6869""#, r"\\x6869"),
        (r#""text","value":"a""#, "a"),
    ];
    for (column, value) in rows {
        let row = format!(
            r#"{{"action":"U","schema":"s","table":"t","columns":[],"identity":[{{"name":"v","type":{column}}}]}}"#
        );
        let item = decoder.decode(&Catalog::default(), row.as_bytes());
        let text = format!("{item:?}");
        assert!(
            text.contains(&format!(r#"old: Some([Text("{value}")])"#)),
            "{text}"
        );
    }
}

/// The server then identifies no old row, as with replica identity `nothing`.
#[test]
fn the_primary_key_is_not_the_key_if_the_identity_is_an_index_that_was_dropped() {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        identity: 'i',
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "t"), table);
    let (relation, ..) = change(&catalog, &row("I", &[A, B, C], &[], "a"));
    assert!(!relation.has_key() && !relation.is_insert_only);
    // The old row is the identity of its time.
    let (relation, ..) = change(&catalog, &row("D", &[], &[B, C], "a"));
    assert_eq!(key(&relation), ["b", "c"]);
}

/// The primary key was dropped after the row was written.
///
/// The row contains it, and the catalog does not.
#[test]
fn a_row_with_a_primary_key_is_not_of_an_insert_only_table() {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        identity: 'd',
        has_not_null: true,
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "t"), table);
    catalog.begin_transaction(21);
    assert!(!change(&catalog, &row("I", &[A, B], &[], "a")).0.is_insert_only);
    let without = br#"{"action":"I","schema":"s","table":"t","columns":[],"pk":[]}"#;
    assert!(change(&catalog, without).0.is_insert_only);
}

#[test]
fn a_key_has_table_order_even_if_the_row_omits_its_first_column() {
    let (relation, old, new) = change(&catalog(&["a", "b"], &["a", "c"]), &row("U", &[B], &[A, B], "a"));
    let names: Vec<_> = relation
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!((names, key(&relation)), (vec!["a", "b", "c"], vec!["a", "b"]));
    let new = new.unwrap();
    assert_eq!(new, [r#"Text("1")"#, r#"Text("2")"#, "Unchanged"]);
    assert_eq!(old, None);
}

#[test]
fn a_whole_old_row_adds_a_large_value_even_if_the_catalog_lacks_the_table() {
    let (relation, old, new) = change(&Catalog::default(), &row("U", &[A, C], &[A, B, C], "a"));
    assert_eq!(key(&relation), ["a"]);
    assert_eq!(old, new);
    assert_eq!(new.unwrap()[1], r#"Text("2")"#);
}

#[test]
fn a_large_value_that_an_update_omits_is_unchanged_and_a_null_is_null() {
    let catalog = catalog(&["a"], &["b", "c"]);
    let (_, _, new) = change(&catalog, &row("U", &[A, ("c", "null")], &[A], "a"));
    assert_eq!(new.unwrap(), [r#"Text("1")"#, "Unchanged", "Null"]);
}

#[test]
fn a_number_keeps_its_text_whether_or_not_it_is_a_json_string() {
    for (kind, number) in [
        ("double precision", "1e400"),
        ("numeric(10,2)", "-0.10"),
        ("numeric", "123456789012345678901234567890.000"),
        ("bigint", "-9223372036854775808"),
    ] {
        assert_eq!(value(kind, number).unwrap(), number);
        assert_eq!(value(kind, &format!("\"{number}\"")).unwrap(), number);
    }
    // wal2json writes it since version 2.6.
    assert_eq!(value("real", r#""NaN""#).unwrap(), "NaN");
    assert_eq!(value("numeric", "null").unwrap(), "[Null]");
}

#[test]
fn an_escape_is_decoded_once() {
    assert_eq!(
        value("text", r#""\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00""#).unwrap(),
        "\"\\/\u{8}\u{c}\n\r\tü😀"
    );
    assert_eq!(value("text", r#""\\u0000""#).unwrap(), "\\u0000");
    assert_eq!(value("text", r#""\u0000""#).unwrap(), "\0");
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    assert!(value("text", r#""\ud83d""#).is_err());
    assert!(value("text", r#""\ud83dx""#).is_err());
}

#[test]
fn a_bytea_has_its_prefix_whether_or_not_the_row_has_it() {
    // A column of type bytea lacks the prefix; a column whose type is a domain of bytea has it.
    assert_eq!(value("bytea", r#""dead""#).unwrap(), "\\xdead");
    assert_eq!(value("bytea", r#""\\xdead""#).unwrap(), "\\xdead");
    assert_eq!(value("bytea", r#""""#).unwrap(), "\\x");
}

#[test]
fn a_message_may_contain_bytes_that_are_not_text_and_a_row_may_not() {
    let message =
        b"{\"action\":\"M\",\"xid\":null,\"transactional\":false,\"prefix\":\"p\",\"content\":\"\xff\\n\"}";
    let DecodedRow::Message(message) = Wal2jsonDecoder::default()
        .decode(&Catalog::default(), message)
        .unwrap()
    else {
        panic!();
    };
    assert_eq!(&*message.content, b"\xff\n");
    let row = b"{\"action\":\"I\",\"schema\":\"s\",\"table\":\"t\",\
        \"columns\":[{\"name\":\"v\",\"type\":\"text\",\"value\":\"\xff\"}]}";
    let refused = Wal2jsonDecoder::default()
        .decode(&Catalog::default(), row)
        .unwrap_err();
    assert_eq!((refused.at, refused.expected), (row.len() - 5, "UTF-8 text"));
}

#[test]
fn a_row_without_a_required_field_is_refused() {
    for (row, expected) in [
        (r#"{"action":"B"}"#, "an xid in B"),
        (r#"{"action":"B","xid":1}"#, "nextlsn in B"),
        (r#"{"action":"C","nextlsn":"x"}"#, "nextlsn in C"),
        (r#"{"action":"M","prefix":"p"}"#, "prefix and content in M"),
        (
            r#"{"action":"I","schema":"s"}"#,
            "schema and table in I, U, D and T",
        ),
        (
            r#"{"action":"X","schema":"s","table":"t"}"#,
            "an action of I, U, D, T, M, B or C",
        ),
        (r#"{"change":[]}"#, "a JSON object of format version 2"),
        (r#"{"action":"C"} {}"#, "a JSON object of format version 2"),
    ] {
        let refused = Wal2jsonDecoder::default()
            .decode(&Catalog::default(), row.as_bytes())
            .unwrap_err();
        assert_eq!(refused.expected, expected, "{row}");
    }
}

#[test]
fn an_old_row_in_another_order_than_the_new_row_is_refused() {
    let data = row("U", &[A, B, C], &[B, A], "a");
    let refused = Wal2jsonDecoder::default()
        .decode(&Catalog::default(), &data)
        .unwrap_err();
    assert_eq!(refused.expected, "values that are text, in the table's order");
}

#[test]
fn rows_of_many_shapes_use_bounded_memory() {
    let names: Vec<String> = (0..12).map(|i| format!("c{i}")).collect();
    let mut decoder = Wal2jsonDecoder::default();
    for set in 0..4096u32 {
        let new = names.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
        let new: Vec<_> = new.map(|(_, name)| (name.as_str(), "null")).collect();
        decoder
            .decode(&Catalog::default(), &row("U", &new, &[], "a"))
            .unwrap();
        assert!(decoder.relations.shapes[&TableName::new("s", "t")].len() <= MAX_SHAPES);
    }
}

#[test]
fn a_row_has_no_more_columns_than_a_table_can_have() {
    let names: Vec<String> = (0..=MAX_COLUMNS).map(|i| format!("c{i}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let decode = |fields: &[(&str, &str)]| {
        let data = row("U", fields, fields, "c0");
        Wal2jsonDecoder::default()
            .decode(&Catalog::default(), &data)
            .map(drop)
    };
    assert_eq!(decode(&all[1..]), Ok(()));
    assert_eq!(
        decode(&all).unwrap_err().expected,
        "no more columns than a table can have"
    );
}

/// Row that wal2json 2.5 wrote for types with quoted names.
///
/// The types are the enums `"My app".status` and `"My app"."Mo [od"`, and an array of the second.
#[test]
fn a_value_is_decoded_although_the_schema_of_its_type_needs_quotes() {
    let row = concat!(
        r#"{"action":"I","schema":"public","table":"t","columns":["#,
        r#"{"name":"s","type":"My app".status,"value":"x"},"#,
        r#"{"name":"o","type":"name","value":"n"},"#,
        r#"{"name":"c","type":"My app"."Mo [od","value":"c,d"},"#,
        r#"{"name":"d","type":"\"My app\".\"Mo [od\"[]","value":"{\"c,d\"}"},"#,
        r#"{"name":"e","type":"Mood","value":null}],"#,
        r#""pk":[{"name":"s","type":"My app".status}]}"#,
    );
    let item = Wal2jsonDecoder::default()
        .decode(&Catalog::default(), row.as_bytes())
        .unwrap();
    let DecodedRow::Change(Change::Insert { relation, new }) = item else {
        panic!("{item:?}")
    };
    let names: Vec<&str> = relation.columns.iter().map(|c| c.type_name.as_str()).collect();
    let status = r#""My app".status"#;
    assert_eq!(
        names,
        [
            status,
            "name",
            r#""My app"."Mo [od""#,
            r#""My app"."Mo [od"[]"#,
            "Mood"
        ]
    );
    assert_eq!(relation.primary_key, [("s".to_owned(), status.to_owned())]);
    assert_eq!(new[0], Datum::Text("x".into()));
    assert_eq!(new[2], Datum::Text("c,d".into()));
    assert_eq!(new[4], Datum::Null);
}

/// wal2json 2.5 wrote these names, except the last one.
///
/// The last one is the name of a type with a modifier.
#[test]
fn a_name_is_escaped_once_wherever_its_quotes_are() {
    let names = [
        (r#""app.\"integer\"""#, r#"app."integer""#),
        (r#""\"a []\"[]""#, r#""a []"[]"#),
        (r#""an ""odd"" [name], (x)[]""#, r#"an ""odd"" [name], (x)[]"#),
        (r#""My app".status"#, r#""My app".status"#),
        (r#""My app"."a"",""b""#, r#""My app"."a"",""b""#),
        (r#""a\""#, r"a\"),
        (
            r#""My app".geometry(Point,4326)"#,
            r#""My app".geometry(Point,4326)"#,
        ),
    ];
    let columns =
        names.map(|(name, _)| format!(r#"{{"name":"v","type":{name},"typeoid":20000,"value":"\"}}"}}"#));
    let row = format!(
        r#"{{"action":"I","schema":"s","table":"t","columns":[{}]}}"#,
        columns.join(",")
    );
    let escaped = type_names::escape_type_names(row.as_bytes()).unwrap();
    let row = JsonRow::parse(&escaped).unwrap();
    let found: Vec<&str> = row.columns.iter().map(|column| &*column.type_name).collect();
    assert_eq!(found, names.map(|(_, name)| name));
}

/// Names and OIDs of types as wal2json writes them.
///
/// It writes the same name for the enum `"boolean"` and for the built-in type. It writes OIDs with a sign.
#[test]
fn the_oid_identifies_a_type_that_has_the_name_of_another_type() {
    let decode = |oid: &str| {
        let row = format!(
            r#"{{"action":"I","schema":"s","table":"t","columns":[
                {{"name":"v","type":"boolean","typeoid":{oid},"value":"t"}}]}}"#
        );
        let mut catalog = Catalog::default();
        for oid in [20_000, 4_000_000_000] {
            catalog.insert_type(CatalogType {
                oid,
                schema: "public".into(),
                name: "boolean".into(),
                printed: r#""boolean""#.into(),
                extension: None,
                form: TypeForm::Other,
            });
        }
        let mut decoder = Wal2jsonDecoder::default();
        match decoder.decode(&catalog, row.as_bytes()).unwrap() {
            DecodedRow::Change(Change::Insert { relation, .. }) => relation.columns[0].kind.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(decode("16"), ValueType::Bool);
    for oid in ["20000", "-294967296", "4000000000"] {
        assert_eq!(decode(oid), ValueType::Text, "{oid}");
    }
}

#[test]
fn a_row_is_decoded_although_the_quotes_of_a_type_name_break_its_json() {
    let row = concat!(
        r#"{"action":"I","schema":"public","table":"t","columns":["#,
        r#"{"name":"id","type":"integer","value":1},"#,
        r#"{"name":"s","type":""Order Status"","value":"a \"type\":\" b"},"#,
        r#"{"name":"a","type":""Order Status"[]","value":"{x}"}],"#,
        r#""pk":[{"name":"id","type":"integer"}]}"#,
    );
    let item = Wal2jsonDecoder::default()
        .decode(&Catalog::default(), row.as_bytes())
        .unwrap();
    let DecodedRow::Change(Change::Insert { relation, new }) = item else {
        panic!("{item:?}")
    };
    assert_eq!(new[1], Datum::Text(r#"a "type":" b"#.into()));
    let array = ValueType::Array(Box::new(ValueType::Text), b',');
    assert_eq!(
        relation
            .columns
            .iter()
            .map(|c| c.kind.clone())
            .collect::<Vec<_>>(),
        [ValueType::Integer, ValueType::Text, array]
    );
}

#[test]
fn a_truncate_of_a_partitioned_table_has_no_table() {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        is_partitioned: true,
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "t"), table);
    let row = br#"{"action":"T","schema":"s","table":"t"}"#;
    for (catalog, count) in [(&catalog, 0), (&Catalog::default(), 1)] {
        let item = Wal2jsonDecoder::default().decode(catalog, row).unwrap();
        let DecodedRow::Change(Change::Truncate { relations }) = item else {
            panic!("{item:?}");
        };
        assert_eq!(relations.len(), count);
    }
}

#[test]
fn a_control_character_in_the_name_of_a_type_is_escaped() {
    let row = "{\"action\":\"I\",\"schema\":\"s\",\"table\":\"t\",\"columns\":[\
        {\"name\":\"m\",\"type\":\"a\tb\",\"value\":\"x\"}]}";
    let (relation, _, row) = change(&Catalog::default(), row.as_bytes());
    assert_eq!(relation.columns.len(), 1);
    assert_eq!(row.unwrap().len(), 1);
}
