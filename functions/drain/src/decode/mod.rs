//! From the bytes of a plugin to [`Item`]s. Pure: a decoder remembers the tables that the server described, and nothing else.

// What is read here comes from outside: nothing of it may be out of reach. Sums of offsets need no such care, none exceeds a row's length.
#![warn(clippy::indexing_slicing, clippy::string_slice)]

mod pgoutput;
mod test_decoding;
#[cfg(test)]
mod tests;
mod wal2json;

use crate::catalog::Catalog;
use crate::change::{Datum, Item, Relation, Tuple};
use crate::lsn::Lsn;
use crate::plugin::Plugin;

/// A row that is not what its plugin writes. Says where and what was expected, never the row's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{plugin} row of {length} bytes, at byte {at}: expected {expected}")]
pub struct DecodeError {
    /// Whose row.
    pub plugin: Plugin,
    /// Its length.
    pub length: usize,
    /// Offset of the first byte that did not fit.
    pub at: usize,
    /// What should have stood there.
    pub expected: &'static str,
}

/// Fills in from the old row what the new one left out, and tells whether the old row says anything more:
/// where it is nothing but the key, and the key is the same, it does not. PostgreSQL sends such a one with
/// each update of a row whose key holds a large value, wal2json with every update.
fn complete<'a>(relation: &Relation, old: &Tuple<'a>, new: &mut Tuple<'a>) -> bool {
    let mut tells = false;
    for ((column, new), old) in relation.columns.iter().zip(new).zip(old) {
        if *old == Datum::Absent {
            continue;
        }
        if *new == Datum::Unchanged {
            *new = old.clone();
        }
        tells |= !column.key || new != old;
    }
    tells
}

/// The decoder of one session's rows.
#[derive(Debug)]
pub enum Decoder {
    /// See [`Plugin::Pgoutput`].
    Pgoutput(pgoutput::Relations),
    /// See [`Plugin::Wal2json`].
    Wal2json(wal2json::Relations),
    /// See [`Plugin::TestDecoding`].
    TestDecoding,
}

impl Decoder {
    /// A decoder that has seen nothing yet. Each peek describes its tables anew, so each window starts with one.
    pub fn new(plugin: Plugin) -> Self {
        match plugin {
            Plugin::Pgoutput => Decoder::Pgoutput(pgoutput::Relations::default()),
            Plugin::Wal2json => Decoder::Wal2json(wal2json::Relations::default()),
            Plugin::TestDecoding => Decoder::TestDecoding,
        }
    }

    /// Whether this row closes its transaction, told from its first bytes without decoding the rest.
    pub fn is_commit(&self, data: &[u8]) -> bool {
        data.starts_with(self.plugin().commit_mark())
    }

    fn plugin(&self) -> Plugin {
        match self {
            Decoder::Pgoutput(_) => Plugin::Pgoutput,
            Decoder::Wal2json(_) => Plugin::Wal2json,
            Decoder::TestDecoding => Plugin::TestDecoding,
        }
    }

    /// Decodes one row of the peek; `lsn` is its `lsn` column.
    ///
    /// # Errors
    /// The bytes are not what the plugin writes. Nothing is skipped: the caller stops before this row.
    pub fn decode<'a>(
        &mut self,
        catalog: &Catalog,
        lsn: Lsn,
        data: &'a [u8],
    ) -> Result<Item<'a>, DecodeError> {
        match self {
            Decoder::Pgoutput(relations) => relations.decode(catalog, data),
            Decoder::Wal2json(relations) => relations.decode(catalog, data),
            Decoder::TestDecoding => test_decoding::decode(catalog, lsn, data),
        }
    }
}
