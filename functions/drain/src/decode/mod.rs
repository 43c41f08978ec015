//! Decoders from the rows of an output plugin to [`DecodedRow`]s.
//!
//! They are pure: a decoder's only state is the tables and types that earlier rows described.

// The rows are input from outside the program, so an index out of range must not cause a panic. Sums of
// offsets need no such check: none exceeds the length of a row.
#![warn(clippy::indexing_slicing, clippy::string_slice)]

mod pgoutput;
mod short_row;
mod shortener;
mod test_decoding;
#[cfg(test)]
mod tests;
mod wal2json;

pub use short_row::KeptBytes;
pub use shortener::RowShortener;

use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::catalog::Catalog;
use crate::change::{Change, Datum, DecodedRow, Relation, Tuple};
use crate::plugin::Plugin;

/// Error: the syntax of a row is not that of its plugin.
///
/// It contains the offset and the expected syntax, but no values of the row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{plugin} row of {length} bytes, at byte {at}: expected {expected}")]
pub struct DecodeError {
    /// The plugin of the row.
    pub plugin: Plugin,
    /// Length of the row in bytes.
    pub length: usize,
    /// Offset of the first unexpected byte.
    pub at: usize,
    /// The syntax that the decoder expected there.
    pub expected: &'static str,
}

/// The decoder of one session's rows.
#[derive(Debug)]
pub enum Decoder {
    /// The decoder of [`Plugin::Pgoutput`].
    Pgoutput(pgoutput::PgoutputDecoder),
    /// The decoder of [`Plugin::Wal2json`].
    Wal2json(wal2json::Wal2jsonDecoder),
    /// The decoder of [`Plugin::TestDecoding`].
    TestDecoding,
}

impl Decoder {
    /// A decoder without tables.
    ///
    /// The server describes the tables again in each peek, so each window starts with a new decoder.
    pub fn new(plugin: Plugin) -> Self {
        match plugin {
            Plugin::Pgoutput => Decoder::Pgoutput(pgoutput::PgoutputDecoder::default()),
            Plugin::Wal2json => Decoder::Wal2json(wal2json::Wal2jsonDecoder::default()),
            Plugin::TestDecoding => Decoder::TestDecoding,
        }
    }

    /// Whether this row commits its transaction.
    ///
    /// Only the first bytes are read.
    pub fn is_commit(&self, data: &[u8]) -> bool {
        data.starts_with(self.plugin().commit_prefix())
    }

    /// Reuses the memory of an encoded change for the next row.
    pub fn recycle(&mut self, change: Change<'_>) {
        if let Decoder::Pgoutput(decoder) = self
            && let Change::Insert { new, .. } | Change::Update { new, .. } = change
        {
            decoder.recycle(new);
        }
    }

    /// Whether a row may need catalog information: see [`Decoder::tables`] and [`Decoder::table_oid`].
    pub fn names_tables(&self, data: &[u8]) -> bool {
        match self {
            Decoder::Pgoutput(_) => pgoutput::is_description(data),
            Decoder::Wal2json(_) | Decoder::TestDecoding => true,
        }
    }

    /// Tables whose catalog information this row needs.
    ///
    /// Empty for a row that cannot be decoded. The values of the row are not decoded. pgoutput needs this
    /// information only for the description of a table.
    pub fn tables(&self, data: &[u8]) -> Vec<TableName> {
        match self {
            Decoder::Pgoutput(_) => pgoutput::described_table(data)
                .map(|(_, name)| name)
                .into_iter()
                .collect(),
            Decoder::Wal2json(_) => wal2json::table(data).into_iter().collect(),
            Decoder::TestDecoding => test_decoding::tables(data),
        }
    }

    /// OID of the table that this row describes.
    ///
    /// `None` for a row that describes no table, and for plugins other than pgoutput. The table may have
    /// another name now. The server may also send an outdated name: the former name of a partitioned table
    /// that was renamed.
    pub fn table_oid(&self, data: &[u8]) -> Option<u32> {
        match self {
            Decoder::Pgoutput(_) => pgoutput::described_table(data).map(|(oid, _)| oid),
            Decoder::Wal2json(_) | Decoder::TestDecoding => None,
        }
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
    /// The syntax of the row is not that of the plugin. No row is skipped: the caller stops before this row.
    pub fn decode<'a>(
        &mut self,
        catalog: &Catalog,
        lsn: Lsn,
        data: &'a [u8],
    ) -> Result<DecodedRow<'a>, DecodeError> {
        match self {
            Decoder::Pgoutput(decoder) => decoder.decode(catalog, data),
            Decoder::Wal2json(decoder) => decoder.decode(catalog, data),
            Decoder::TestDecoding => test_decoding::decode(catalog, lsn, data),
        }
    }
}

/// Whether a truncated table is a partitioned table.
///
/// wal2json and test_decoding send its truncate in addition to those of its partitions. It has no event of
/// its own.
fn is_partitioned(catalog: &Catalog, table: &TableName) -> bool {
    let past = catalog.past_table_named(table);
    past.is_some_and(|past| past.is_partitioned())
}

/// Merges the old row of an update into the new row.
///
/// Replaces the unchanged values of the new row by those of the old row. Returns the old row, or `None` if it
/// only repeats the key of the new row. PostgreSQL sends such an old row if the key contains a large value.
/// wal2json sends such an old row with every update.
fn merge_old_row<'a>(relation: &Relation, old: Tuple<'a>, new: &mut Tuple<'a>) -> Option<Tuple<'a>> {
    let mut is_informative = false;
    for ((column, new), old) in relation.columns.iter().zip(new).zip(&old) {
        if *old == Datum::Absent {
            continue;
        }
        if *new == Datum::Unchanged {
            *new = old.clone();
        }
        is_informative |= !column.key || new != old;
    }
    is_informative.then_some(old)
}
