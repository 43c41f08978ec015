//! What must hold of any input to what reads other people's bytes. The fuzzer's targets call these, and so does an ordinary test
//! with the inputs that are kept in `corpus/`.

mod allocated;
pub mod rows;
mod written;

use std::sync::OnceLock;

use drain::catalog::{Catalog, CatalogColumn, CatalogTable};
use drain::change::{Change, Item};
use drain::checkpoint::Checkpoint;
use drain::decode::Decoder;
use drain::event::Action;
use drain::lsn::Lsn;
use drain::marker::Marker;
use drain::plugin::Plugin;
use drain::table_name::TableName;
use serde::Deserialize;
use serde_json::Value;

use allocated::Bound;
pub use allocated::most;

/// The rows of a peek: each is decoded or refused, and what was decoded can be written in every envelope. Returns how many were
/// refused.
///
/// # Panics
/// A promise is broken.
pub fn rows(plugin: Plugin, input: &[u8]) -> usize {
    let (options, rows) = rows::split(input);
    let catalog = if options & 1 == 0 {
        catalog()
    } else {
        nothing_known()
    };
    let mut decoder = Decoder::new(plugin);
    let mut envelopes = written::Envelopes::new(options);
    let (mut spent, mut refused) = (allocated::Sum::default(), 0);
    for (at, row) in (1u64..).zip(rows) {
        let lsn = Lsn(at * 8);
        // A drain stops at the first row that is refused. To go on finds more.
        let Ok(item) = spent.add(|| decoder.decode(catalog, lsn, row)) else {
            refused += 1;
            continue;
        };
        if let Item::Change(change) = &item {
            assert_whole(change);
        }
        if let Item::Change(Change::Message(message)) = &item {
            // One that nobody laid.
            assert!(!marker().is("another slot", message));
        }
        if plugin != Plugin::Wal2json {
            assert_eq!(matches!(item, Item::Commit { .. }), decoder.is_commit(row));
        }
        envelopes.write(lsn, &item);
        // Now that its table is known.
        let again = decoder.decode(catalog, lsn, row);
        assert_eq!(again.as_ref(), Ok(&item));
        assert_eq!(again, Ok(item.into_owned()));
    }
    spent.assert_within(Bound::ROWS, input.len());
    envelopes.agree();
    refused
}

/// A row has a value for each column, and nothing of it is out of reach.
fn assert_whole(change: &Change<'_>) {
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

/// A stored text: it is refused, or read, and what is then stored is read as the same. Returns whether it was read.
///
/// # Panics
/// A promise is broken.
pub fn checkpoint(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let mut spent = allocated::Sum::default();
    let parsed = spent.add(|| Checkpoint::parse(text));
    spent.assert_within(Bound::CHECKPOINT, input.len());
    let Ok(checkpoint) = parsed else {
        return false;
    };
    let stored = checkpoint.to_text();
    let again = Checkpoint::parse(&stored).expect("what was stored can be read");
    assert_eq!(again.to_text(), stored);
    true
}

/// A payload: it is an action, or refused in a few words.
///
/// # Panics
/// A promise is broken.
pub fn event(input: &[u8]) {
    let Ok(payload) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    let mut spent = allocated::Sum::default();
    let action = spent.add(|| Action::parse(&payload));
    spent.assert_within(Bound::EVENT, input.len());
    if let Err(refused) = action {
        assert!(
            refused.to_string().chars().count() < 300,
            "an error repeats its input"
        );
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

/// What the catalog said when the corpus was made.
fn catalog() -> &'static Catalog {
    #[derive(Deserialize)]
    struct Written {
        domains: Vec<(String, String)>,
        tables: Vec<Described>,
    }
    #[derive(Deserialize)]
    struct Described {
        schema: String,
        name: String,
        key: Vec<String>,
        primary: Vec<String>,
        deferrable: bool,
        full: bool,
        columns: Vec<(String, String, bool)>,
    }
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let written: Written = serde_json::from_str(include_str!("../../corpus/catalog.json"))
            .expect("the catalog is as the corpus' maker wrote it");
        let mut catalog = Catalog::default();
        for (name, made_of) in written.domains {
            catalog.insert_domain(&name, made_of);
        }
        for table in written.tables {
            let known = |(name, type_name, toastable)| CatalogColumn {
                name,
                type_name,
                toastable,
            };
            let columns = table.columns.into_iter().map(known).collect();
            let (key, primary, deferrable, full) = (table.key, table.primary, table.deferrable, table.full);
            let described = CatalogTable {
                key,
                primary,
                deferrable,
                full,
                columns,
            };
            catalog.insert(TableName::new(&table.schema, &table.name), described);
        }
        catalog
    })
}

fn nothing_known() -> &'static Catalog {
    static NOTHING: OnceLock<Catalog> = OnceLock::new();
    NOTHING.get_or_init(Catalog::default)
}
