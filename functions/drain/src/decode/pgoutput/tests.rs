use proptest::prelude::*;

use super::super::tests::rows_of;
use super::*;
use crate::base::table_name::TableName;
use crate::catalog::{CatalogTable, CatalogType, TypeForm};
use crate::change::ValueType;

fn message(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The description of a table `s.t` with OID 7.
///
/// Its columns are `id`, which belongs to the identity, and `v` with the type OID `type_oid`.
fn relation(identity: u8, type_oid: u32) -> Vec<u8> {
    let column = |flags: u8, name: &[u8], type_oid: u32| {
        message(&[
            &[flags],
            name,
            &[0],
            &type_oid.to_be_bytes(),
            &u32::MAX.to_be_bytes(),
        ])
    };
    let (id, v) = (
        column(1, b"id", 23),
        column(u8::from(identity == b'f'), b"v", type_oid),
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

fn decode<'a>(decoder: &mut PgoutputDecoder, data: &'a [u8]) -> Result<DecodedRow<'a>, DecodeError> {
    decoder.decode(&Catalog::default(), data)
}

fn expected(result: Result<DecodedRow<'_>, DecodeError>) -> (usize, &'static str) {
    let error = result.unwrap_err();
    (error.at, error.expected)
}

#[test]
fn the_commit_has_the_end_of_the_commit_record_and_the_begin_does_not() {
    let rows = rows_of(Plugin::Pgoutput, "insert into numbers");
    let items: Vec<_> = rows
        .iter()
        .filter(|(_, data)| matches!(data[0], b'B' | b'C'))
        .map(|(_, data)| decode(&mut PgoutputDecoder::default(), data).unwrap())
        .collect();
    let [
        DecodedRow::Begin { commit_end: None, .. },
        DecodedRow::Commit { commit_end, .. },
    ] = items[..]
    else {
        panic!("{items:?}");
    };
    // The `lsn` column of the commit row has the same value.
    assert_eq!(Some(commit_end), rows.last().map(|(lsn, _)| *lsn));
}

#[test]
fn a_row_of_a_table_that_the_server_did_not_describe_is_refused_at_its_oid() {
    let data = change(b'I', &[row(b'N', &[b"n", b"n"])]);
    let refused = expected(decode(&mut PgoutputDecoder::default(), &data));
    assert_eq!(refused, (1, "a table that the server described"));
}

#[test]
fn a_row_with_more_or_fewer_values_than_columns_is_refused() {
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    for values in [&[b"n" as &[u8]][..], &[b"n", b"n", b"n"]] {
        let data = change(b'I', &[row(b'N', values)]);
        let refused = expected(decode(&mut decoder, &data)).1;
        assert_eq!(refused, "one value for each column that the server described");
    }
}

#[test]
fn bytes_after_the_message_are_refused() {
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    let mut data = change(b'I', &[row(b'N', &[b"n", b"n"])]);
    data.push(0);
    let refused = expected(decode(&mut decoder, &data));
    assert_eq!(refused, (data.len() - 1, "the end of the message"));
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_first_invalid_byte() {
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    let data = change(b'I', &[row(b'N', &[&text(b"1"), &text(b"ab\xffcd")])]);
    let refused = expected(decode(&mut decoder, &data));
    assert_eq!(refused, (data.len() - 3, "UTF-8 text"));
}

#[test]
fn an_old_key_has_absent_columns_and_a_whole_old_row_has_nulls() {
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    for (tag, v) in [(b'K', Datum::Absent), (b'O', Datum::Null)] {
        let data = change(b'D', &[row(tag, &[&text(b"1"), b"n"])]);
        let DecodedRow::Change(Change::Delete { old, .. }) = decode(&mut decoder, &data).unwrap() else {
            panic!();
        };
        assert_eq!(old, [Datum::Text("1".into()), v]);
    }
}

#[test]
fn an_old_row_that_only_repeats_the_key_is_dropped() {
    // PostgreSQL sends such an old row if the key contains a large value. The new row then omits that value.
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    let old = row(b'K', &[&text(b"1"), b"n"]);
    let same_key = change(b'U', &[old.clone(), row(b'N', &[b"u", &text(b"x")])]);
    let DecodedRow::Change(Change::Update { old: None, new, .. }) = decode(&mut decoder, &same_key).unwrap()
    else {
        panic!();
    };
    assert_eq!(new[0], Datum::Text("1".into()));
    let other_key = change(b'U', &[old, row(b'N', &[&text(b"2"), b"u"])]);
    let DecodedRow::Change(Change::Update {
        old: Some(old), new, ..
    }) = decode(&mut decoder, &other_key).unwrap()
    else {
        panic!();
    };
    assert_eq!(old, [Datum::Text("1".into()), Datum::Absent]);
    assert_eq!(new, [Datum::Text("2".into()), Datum::Unchanged]);
}

#[test]
fn the_catalog_has_the_key_if_the_identity_is_the_whole_row_or_nothing() {
    let mut catalog = Catalog::default();
    let key = vec!["v".to_owned()];
    catalog.insert(
        TableName::new("s", "t"),
        CatalogTable {
            oid: 7,
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
        let mut decoder = PgoutputDecoder::default();
        decoder.decode(&catalog, &relation(identity, 25)).unwrap();
        let relation = decoder.tables.relation(7).unwrap();
        let columns = relation.columns.iter();
        assert_eq!(
            columns.map(|column| column.key).collect::<Vec<_>>(),
            keys,
            "{}",
            identity as char
        );
    }
}

fn type_message(oid: u32, schema: &str, name: &str) -> Vec<u8> {
    let names = [schema.as_bytes(), b"\0", name.as_bytes(), b"\0"];
    message(&[b"Y", &oid.to_be_bytes(), &names.concat()])
}

#[test]
fn the_oid_identifies_a_type_and_its_names_are_used_only_if_it_was_dropped() {
    let mut catalog = Catalog::default();
    for (oid, name, form) in [
        (20_000, "_lead", TypeForm::Other),
        (
            20_001,
            "price",
            TypeForm::Domain {
                base: 1700,
                modifier: 786_438,
                base_name: "numeric(12,2)".into(),
            },
        ),
    ] {
        catalog.insert_type(CatalogType {
            oid,
            schema: "public".into(),
            name: name.into(),
            printed: name.into(),
            extension: None,
            form,
        });
    }
    for (oid, schema, name, type_name, kind) in [
        (20_000, "public", "_lead", "_lead", ValueType::Text),
        // pgoutput describes a domain by its base type. The schema pg_catalog is an empty name.
        (
            20_001,
            "",
            "numeric",
            "numeric(12,2)",
            ValueType::Numeric(Some(2)),
        ),
        (30_000, "", "int4", "integer", ValueType::Integer),
        (30_000, "public", "date", "public.date", ValueType::Text),
    ] {
        let mut decoder = PgoutputDecoder::default();
        decoder
            .decode(&catalog, &type_message(oid, schema, name))
            .unwrap();
        decoder.decode(&catalog, &relation(b'd', oid)).unwrap();
        let column = &decoder.tables.relation(7).unwrap().columns[1];
        assert_eq!(
            (column.type_name.as_str(), &column.kind),
            (type_name, &kind),
            "{oid}"
        );
    }
}

#[test]
fn a_count_larger_than_the_message_is_refused() {
    let mut decoder = PgoutputDecoder::default();
    decode(&mut decoder, &relation(b'd', 25)).unwrap();
    let truncate = message(&[b"T", &u32::MAX.to_be_bytes(), &[0], &7u32.to_be_bytes()]);
    assert_eq!(
        expected(decode(&mut decoder, &truncate)),
        (truncate.len(), "more bytes")
    );
    let table = message(&[b"R", &7u32.to_be_bytes(), b"s\0t\0d", &u16::MAX.to_be_bytes()]);
    assert_eq!(
        expected(decode(&mut decoder, &table)),
        (table.len(), "more bytes")
    );
    let value = change(b'I', &[row(b'N', &[b"t\xff\xff\xff\xffx", b"n"])]);
    assert_eq!(expected(decode(&mut decoder, &value)).1, "more bytes");
    let content = message(&[b"M\x01", &[0; 8], b"p\0", &u32::MAX.to_be_bytes(), b"x"]);
    assert_eq!(expected(decode(&mut decoder, &content)).1, "more bytes");
}

proptest! {
    #[test]
    fn the_rest_of_the_message_bounds_a_capacity(
        data: Vec<u8>,
        at in 0..100usize,
        count: usize,
        bytes_each in 1..20usize,
    ) {
        let capacity = ByteReader { data: &data, at }.capacity(count, bytes_each);
        prop_assert!(capacity <= count && capacity * bytes_each <= data.len());
    }
}
