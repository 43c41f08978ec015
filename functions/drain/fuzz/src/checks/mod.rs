//! Checks that hold for every input of a decoder, checkpoint or event.
//!
//! The fuzz targets call them. `tests/corpus.rs` calls them, too, with the inputs in `corpus/`.

mod allocation;
mod envelopes;
pub mod rows;

use std::sync::OnceLock;

use drain::base::lsn::Lsn;
use drain::base::table_name::TableName;
use drain::catalog::{Catalog, CatalogColumn, CatalogTable, CatalogType, TypeForm};
use drain::change::{Change, DecodedRow};
use drain::continuity::checkpoint::Checkpoint;
use drain::continuity::marker::Marker;
use drain::decode::{Decoder, KeptBytes, RowShortener};
use drain::invocation::Action;
use drain::plugin::Plugin;
use serde::Deserialize;
use serde_json::Value;

use allocation::{AllocationBound, AllocationSum};
use envelopes::EnvelopeChecks;

pub use allocation::largest_factors;

/// Checks the rows of a peek.
///
/// Returns how many of them the decoder refused. Every row is either decoded or refused. Every decoded row
/// can be encoded in each envelope.
///
/// # Panics
/// A check fails.
pub fn rows(plugin: Plugin, input: &[u8]) -> usize {
    let (options, rows) = rows::split(input);
    let catalog = if options & 1 == 0 {
        catalog()
    } else {
        empty_catalog()
    };
    let mut decoder = Decoder::new(plugin);
    let mut envelopes = EnvelopeChecks::new(options);
    let (mut allocated, mut refused) = (AllocationSum::default(), 0);
    for (at, row) in (1u64..).zip(rows) {
        let lsn = Lsn(at * 8);
        assert_shortened(plugin, row);
        // A drain stops at the first refused row. The rows after it may still break a check.
        let Ok(item) = allocated.add(|| decoder.decode(catalog, lsn, row)) else {
            refused += 1;
            continue;
        };
        if let DecodedRow::Change(change) = &item {
            assert_value_per_column(change);
        }
        if let DecodedRow::Change(Change::Message(message)) = &item {
            // Spillway wrote no marker with this nonce.
            assert!(!marker().is("another slot", message));
        }
        if plugin != Plugin::Wal2json {
            assert_eq!(matches!(item, DecodedRow::Commit { .. }), decoder.is_commit(row));
        }
        envelopes.encode(lsn, &item);
        // The decoder knows the row's table now. Its answer must be the same.
        let again = decoder.decode(catalog, lsn, row);
        assert_eq!(again.as_ref(), Ok(&item));
        assert_eq!(again, Ok(item.into_owned()));
    }
    allocated.assert_within(AllocationBound::ROWS, input.len());
    envelopes.assert_positions_agree();
    refused
}

/// Checks that a shortened row is not longer than before.
///
/// The decoder must not panic on the shortened row.
fn assert_shortened(plugin: Plugin, row: &[u8]) {
    let mut shortener = RowShortener::new(plugin, row.len(), KeptBytes::for_record(100, false));
    row.chunks(100).for_each(|slice| shortener.push(slice));
    let shortened = shortener.finish();
    assert!(shortened.len() <= row.len(), "a row became longer");
    drop(Decoder::new(plugin).decode(catalog(), Lsn(8), &shortened));
}

/// Checks that each row has one value for each column.
fn assert_value_per_column(change: &Change<'_>) {
    let (relation, tuples) = match change {
        Change::Insert { relation, new } => (relation, [Some(new), None]),
        Change::Update { relation, old, new } => (relation, [Some(new), old.as_ref()]),
        Change::Delete { relation, old } => (relation, [Some(old), None]),
        Change::Truncate { .. } | Change::Message(_) => return,
    };
    for tuple in tuples.into_iter().flatten() {
        assert_eq!(tuple.len(), relation.columns.len());
    }
}

/// Checks the text of a checkpoint; returns whether it was read.
///
/// A checkpoint that was read and stored is the same when it is read again.
///
/// # Panics
/// A check fails.
pub fn checkpoint(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let mut allocated = AllocationSum::default();
    let parsed = allocated.add(|| Checkpoint::parse(text));
    allocated.assert_within(AllocationBound::CHECKPOINT, input.len());
    let Ok(checkpoint) = parsed else {
        return false;
    };
    let stored = checkpoint.to_text();
    let again = Checkpoint::parse(&stored).expect("a stored checkpoint can be read");
    assert_eq!(again.to_text(), stored);
    true
}

/// Checks the JSON text of an event: it is an action, or its error is short.
///
/// # Panics
/// A check fails.
pub fn event(input: &[u8]) {
    let Ok(payload) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    let mut allocated = AllocationSum::default();
    let action = allocated.add(|| Action::parse(&payload));
    allocated.assert_within(AllocationBound::EVENT, input.len());
    if let Err(error) = action {
        let characters = error.to_string().chars().count();
        assert!(characters < 300, "an error repeats its input");
    }
}

fn marker() -> Marker {
    Marker {
        number: 12,
        nonce: String::new(),
        lsn: Lsn(8),
        flushed: Lsn(16),
    }
}

/// The catalog of the database from which the corpus was made.
fn catalog() -> &'static Catalog {
    #[derive(Deserialize)]
    struct CatalogFile {
        types: Vec<TypeEntry>,
        tables: Vec<TableEntry>,
    }
    #[derive(Deserialize)]
    struct TypeEntry {
        oid: u32,
        schema: String,
        name: String,
        printed: String,
        /// OID, modifier and name of the base type of a domain.
        base: Option<(u32, i32, String)>,
        /// OID and delimiter of the elements of an array.
        element: Option<(u32, u8)>,
    }
    #[derive(Deserialize)]
    struct TableEntry {
        schema: String,
        name: String,
        key: Vec<String>,
        primary: Vec<String>,
        deferrable: bool,
        full: bool,
        columns: Vec<(String, u32, i32, String, bool)>,
    }
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let file: CatalogFile = serde_json::from_str(include_str!("../../corpus/catalog.json"))
            .expect("corpus/catalog.json has the fields of CatalogFile");
        let mut catalog = Catalog::default();
        for entry in file.types {
            catalog.insert_type(CatalogType {
                oid: entry.oid,
                schema: entry.schema,
                name: entry.name,
                printed: entry.printed,
                extension: None,
                form: match (entry.base, entry.element) {
                    (Some((base, modifier, base_name)), _) => TypeForm::Domain {
                        base,
                        modifier,
                        base_name,
                    },
                    (None, Some((element, delimiter))) => TypeForm::Array { element, delimiter },
                    (None, None) => TypeForm::Other,
                },
            });
        }
        for table in file.tables {
            let column = |(name, type_oid, modifier, type_name, toastable)| CatalogColumn {
                name,
                type_oid,
                modifier,
                type_name,
                toastable,
            };
            let catalog_table = CatalogTable {
                key: table.key,
                primary_key: table.primary,
                deferrable: table.deferrable,
                identity_full: table.full,
                columns: table.columns.into_iter().map(column).collect(),
                ..CatalogTable::default()
            };
            catalog.insert(TableName::new(table.schema, table.name), catalog_table);
        }
        catalog
    })
}

fn empty_catalog() -> &'static Catalog {
    static EMPTY: OnceLock<Catalog> = OnceLock::new();
    EMPTY.get_or_init(Catalog::default)
}
