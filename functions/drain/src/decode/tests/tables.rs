//! Tests of the tables that a row names before it is decoded.

use super::*;

fn tables_of(change: &Change<'_>) -> Vec<TableName> {
    match change {
        Change::Insert { relation, .. }
        | Change::Update { relation, .. }
        | Change::Delete { relation, .. } => {
            vec![relation.table.clone()]
        }
        Change::Truncate { relations } => relations.iter().map(|relation| relation.table.clone()).collect(),
        Change::Message(_) => Vec::new(),
    }
}

#[test]
fn the_tables_of_a_row_are_those_of_its_change() {
    let (catalog, statements) = captured();
    for plugin in Plugin::ALL {
        let (mut decoder, mut described, mut changes) = (Decoder::new(plugin), Vec::new(), 0);
        let rows = statements.iter().flat_map(|statement| &statement.rows);
        for (_, lsn, data) in rows.filter(|(of, ..)| *of == plugin) {
            let tables = decoder.tables(data);
            let Ok(item) = decoder.decode(&catalog, *lsn, data) else {
                continue;
            };
            let DecodedRow::Change(change) = item else {
                described.extend(tables);
                continue;
            };
            changes += 1;
            match plugin {
                // Only the description of a table needs the catalog.
                Plugin::Pgoutput => assert!(
                    tables.is_empty() && tables_of(&change).iter().all(|table| described.contains(table))
                ),
                Plugin::Wal2json | Plugin::TestDecoding => assert_eq!(tables, tables_of(&change)),
            }
        }
        assert!(changes > 20, "{plugin}");
    }
}

#[test]
fn the_description_of_a_table_has_its_oid() {
    let described = b"R\0\0\x40\x01public\0t\0d\0\0";
    let oid = |plugin, data: &[u8]| Decoder::new(plugin).table_oid(data);
    assert_eq!(oid(Plugin::Pgoutput, described), Some(16_385));
    assert_eq!(oid(Plugin::Pgoutput, b"I\0\0\x40\x01N\0\0"), None);
    assert_eq!(oid(Plugin::Wal2json, described), None);
    assert_eq!(oid(Plugin::TestDecoding, described), None);
}

#[test]
fn a_row_that_cannot_be_decoded_has_no_tables() {
    for plugin in Plugin::ALL {
        for row in [
            "",
            "R",
            "R1234public",
            "table ",
            "table public",
            "table \"a",
            "{\"action\":\"I\"",
            "{\"action\":\"I\",\"schema\":\"a",
            "{\"action\":\"M\",\"schema\":\"a\",\"table\":\"b\"}",
        ] {
            assert_eq!(Decoder::new(plugin).tables(row.as_bytes()), [], "{plugin}: {row}");
        }
    }
}
