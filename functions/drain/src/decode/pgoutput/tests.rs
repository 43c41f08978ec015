use proptest::prelude::*;

use super::super::tests::rows_of;
use super::*;
use crate::catalog::{CatalogColumn, CatalogTable};
use crate::change::Type;
use crate::table_name::TableName;

fn message(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A table `s.t` with OID 7 and the columns `id` (marked as identity) and `v` of the type `kind`.
fn relation(identity: u8, kind: u32) -> Vec<u8> {
    let column = |flags: u8, name: &[u8], kind: u32| {
        message(&[&[flags], name, &[0], &kind.to_be_bytes(), &u32::MAX.to_be_bytes()])
    };
    let (id, v) = (
        column(1, b"id", 23),
        column(u8::from(identity == b'f'), b"v", kind),
    );
    message(&[
        b"R",
        &7u32.to_be_bytes(),
        b"s\0t\0",
        &[identity],
        &2u16.to_be_bytes(),
        &id,
        &v,
    ])
}

fn text(value: &[u8]) -> Vec<u8> {
    message(&[b"t", &u32::try_from(value.len()).unwrap().to_be_bytes(), value])
}

fn row(tag: u8, values: &[&[u8]]) -> Vec<u8> {
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    message(&[&[tag], &count, &values.concat()])
}

fn change(kind: u8, rows: &[Vec<u8>]) -> Vec<u8> {
    message(&[&[kind], &7u32.to_be_bytes(), &rows.concat()])
}

fn decode<'a>(relations: &mut Relations, data: &'a [u8]) -> Result<Item<'a>, DecodeError> {
    relations.decode(&Catalog::default(), data)
}

fn expected(result: Result<Item<'_>, DecodeError>) -> (usize, &'static str) {
    let error = result.unwrap_err();
    (error.at, error.expected)
}

#[test]
fn the_end_of_the_commit_record_comes_with_the_commit_and_not_with_its_begin() {
    let rows = rows_of(Plugin::Pgoutput, "insert into numbers");
    let items: Vec<_> = rows
        .iter()
        .filter(|(_, data)| matches!(data[0], b'B' | b'C'))
        .map(|(_, data)| decode(&mut Relations::default(), data).unwrap())
        .collect();
    let [
        Item::Begin { commit_end: None, .. },
        Item::Commit { commit_end, .. },
    ] = items[..]
    else {
        panic!("{items:?}");
    };
    // The commit row's own `lsn` column is the same.
    assert_eq!(Some(commit_end), rows.last().map(|(lsn, _)| *lsn));
}

#[test]
fn a_row_of_a_table_that_was_not_described_is_refused_at_its_oid() {
    let data = change(b'I', &[row(b'N', &[b"n", b"n"])]);
    let refused = expected(decode(&mut Relations::default(), &data));
    assert_eq!(refused, (1, "a table that was described"));
}

#[test]
fn a_row_with_more_or_fewer_values_than_columns_is_refused() {
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    for values in [&[b"n" as &[u8]][..], &[b"n", b"n", b"n"]] {
        let data = change(b'I', &[row(b'N', values)]);
        let refused = expected(decode(&mut relations, &data)).1;
        assert_eq!(refused, "as many values as the table was described with columns");
    }
}

#[test]
fn bytes_behind_the_message_are_refused() {
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    let mut data = change(b'I', &[row(b'N', &[b"n", b"n"])]);
    data.push(0);
    let refused = expected(decode(&mut relations, &data));
    assert_eq!(refused, (data.len() - 1, "the end of the message"));
}

#[test]
fn text_that_is_not_utf8_is_refused_where_it_stops_being_it() {
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    let data = change(b'I', &[row(b'N', &[&text(b"1"), &text(b"ab\xffcd")])]);
    let refused = expected(decode(&mut relations, &data));
    assert_eq!(refused, (data.len() - 3, "UTF-8 text"));
}

#[test]
fn a_marked_key_leaves_all_else_unsaid_while_a_whole_old_row_says_null() {
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    for (tag, v) in [(b'K', Datum::Absent), (b'O', Datum::Null)] {
        let data = change(b'D', &[row(tag, &[&text(b"1"), b"n"])]);
        let Item::Change(Change::Delete { old, .. }) = decode(&mut relations, &data).unwrap() else {
            panic!();
        };
        assert_eq!(old, [Datum::Text("1".into()), v]);
    }
}

#[test]
fn an_old_key_that_is_the_new_key_is_no_old_row() {
    // PostgreSQL sends it when the key holds a large value, which the new row then leaves out.
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    let old = row(b'K', &[&text(b"1"), b"n"]);
    let same = change(b'U', &[old.clone(), row(b'N', &[b"u", &text(b"x")])]);
    let Item::Change(Change::Update { old: None, new, .. }) = decode(&mut relations, &same).unwrap() else {
        panic!();
    };
    assert_eq!(new[0], Datum::Text("1".into()));
    let other = change(b'U', &[old, row(b'N', &[&text(b"2"), b"u"])]);
    let Item::Change(Change::Update {
        old: Some(old), new, ..
    }) = decode(&mut relations, &other).unwrap()
    else {
        panic!();
    };
    assert_eq!(old, [Datum::Text("1".into()), Datum::Absent]);
    assert_eq!(new, [Datum::Text("2".into()), Datum::Unchanged]);
}

#[test]
fn where_the_identity_is_the_whole_row_or_nothing_the_catalog_tells_the_key() {
    let mut catalog = Catalog::default();
    let key = vec!["v".to_owned()];
    catalog.insert(
        TableName::new("s", "t"),
        CatalogTable {
            key,
            ..CatalogTable::default()
        },
    );
    for (identity, keys) in [
        (b'd', [true, false]),
        (b'i', [true, false]),
        (b'f', [false, true]),
        (b'n', [false, true]),
    ] {
        let mut relations = Relations::default();
        relations.decode(&catalog, &relation(identity, 25)).unwrap();
        let columns = relations.relations[&7].columns.iter();
        assert_eq!(
            columns.map(|column| column.key).collect::<Vec<_>>(),
            keys,
            "{}",
            identity as char
        );
    }
}

#[test]
fn a_users_own_type_is_what_it_is_made_of_and_not_what_it_is_called() {
    let array = |kind| Type::Array(Box::new(kind));
    for (schema, name, kind) in [
        // A domain is described by its base type, and pg_catalog by an empty name.
        ("", "int4", Type::Integer),
        ("", "_numeric", array(Type::Numeric(None))),
        ("public", "date", Type::Text),
        ("public", "_date", array(Type::Text)),
        // The server puts a second underscore where the first name was taken.
        ("public", "__mood", array(Type::Text)),
    ] {
        let mut relations = Relations::default();
        let oid = 20_000u32;
        let described = message(&[
            b"Y",
            &oid.to_be_bytes(),
            schema.as_bytes(),
            b"\0",
            name.as_bytes(),
            b"\0",
        ]);
        decode(&mut relations, &described).unwrap();
        decode(&mut relations, &relation(b'd', oid)).unwrap();
        assert_eq!(relations.relations[&7].columns[1].kind, kind, "{schema}.{name}");
    }
}

#[test]
fn a_type_has_the_modifier_that_the_message_or_for_a_domain_the_catalog_tells() {
    let mut catalog = Catalog::default();
    catalog.insert_domain("price", "numeric(12,2)".into());
    let known = CatalogColumn {
        name: "v".into(),
        type_name: "price".into(),
        toastable: true,
    };
    let columns = vec![known];
    catalog.insert(
        TableName::new("s", "t"),
        CatalogTable {
            columns,
            ..CatalogTable::default()
        },
    );
    let mut relations = Relations::default();
    let described = message(&[b"Y", &20_000u32.to_be_bytes(), b"\0numeric\0"]);
    relations.decode(&catalog, &described).unwrap();
    for (oid, name) in [(20_000, "numeric(12,2)"), (1700, "numeric")] {
        relations.decode(&catalog, &relation(b'd', oid)).unwrap();
        assert_eq!(relations.relations[&7].columns[1].type_name, name);
    }
}

#[test]
fn a_type_named_by_nothing_but_underscores_does_not_exhaust_the_stack() {
    let name = "_".repeat(1_000_000);
    let data = message(&[b"Y", &20_000u32.to_be_bytes(), b"\0", name.as_bytes(), b"\0"]);
    let mut relations = Relations::default();
    decode(&mut relations, &data).unwrap();
    assert_eq!(relations.types[&20_000], "[]");
}

#[test]
fn a_count_that_claims_more_than_there_is_is_refused() {
    let mut relations = Relations::default();
    decode(&mut relations, &relation(b'd', 25)).unwrap();
    let truncate = message(&[b"T", &u32::MAX.to_be_bytes(), &[0], &7u32.to_be_bytes()]);
    assert_eq!(
        expected(decode(&mut relations, &truncate)),
        (truncate.len(), "more bytes")
    );
    let table = message(&[b"R", &7u32.to_be_bytes(), b"s\0t\0d", &u16::MAX.to_be_bytes()]);
    assert_eq!(
        expected(decode(&mut relations, &table)),
        (table.len(), "more bytes")
    );
    let value = change(b'I', &[row(b'N', &[b"t\xff\xff\xff\xffx", b"n"])]);
    assert_eq!(expected(decode(&mut relations, &value)).1, "more bytes");
    let content = message(&[b"M\x01", &[0; 8], b"p\0", &u32::MAX.to_be_bytes(), b"x"]);
    assert_eq!(expected(decode(&mut relations, &content)).1, "more bytes");
}

proptest! {
    #[test]
    fn room_is_made_only_for_what_the_bytes_can_hold(data: Vec<u8>, at in 0..100usize, count: usize, each in 1..20usize) {
        let read = ByteReader { data: &data, at };
        let room = read.at_most(count, each);
        prop_assert!(room <= count && room * each <= data.len());
    }
}
