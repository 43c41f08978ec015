//! Shortening of rows that are too large for the memory.
//!
//! The peek's query cuts such a row into slices. A [`RowShortener`] reads the slices in order, and keeps the
//! values that may fit into a record. The result is a row in the syntax of the same plugin. A placeholder
//! replaces each value that was not kept. The plugin never writes this text, and the decoder reads it as
//! [`Datum::Oversize`](crate::change::Datum::Oversize).
//!
//! Values are replaced nearly in the order in which an envelope omits columns: see `short_row`. So an event
//! omits the same columns as if its whole row had been read. There are two exceptions. An old value of at
//! most 8 KiB may be kept although the envelope would omit it. A value may be replaced although the envelope
//! writes it in less than half of the plugin's bytes: see [`KeptBytes::for_record`].

#[cfg(test)]
mod tests;

use super::pgoutput::scanner::PgoutputScanner;
use super::short_row::{KeptBytes, MalformedRow, Scanner as _, ShortRow};
use super::test_decoding::scanner::TestDecodingScanner;
use super::wal2json::scanner::Wal2jsonScanner;
use crate::plugin::Plugin;

/// Shortens one row.
#[derive(Debug)]
pub struct RowShortener {
    scanner: PluginScanner,
    row: ShortRow,
    /// Bytes that are not scanned yet.
    pending: Vec<u8>,
    is_malformed: bool,
}

#[derive(Debug)]
enum PluginScanner {
    Pgoutput(PgoutputScanner),
    Wal2json(Wal2jsonScanner),
    TestDecoding(TestDecodingScanner),
}

impl RowShortener {
    /// A shortener of a row of `bytes` bytes, before its first slice.
    pub fn new(plugin: Plugin, bytes: usize, kept: KeptBytes) -> Self {
        RowShortener {
            scanner: match plugin {
                Plugin::Pgoutput => PluginScanner::Pgoutput(PgoutputScanner::default()),
                Plugin::Wal2json => PluginScanner::Wal2json(Wal2jsonScanner::default()),
                Plugin::TestDecoding => PluginScanner::TestDecoding(TestDecodingScanner::new(bytes)),
            },
            row: ShortRow::new(kept),
            pending: Vec::new(),
            is_malformed: false,
        }
    }

    /// Reads the next slice of the row.
    pub fn push(&mut self, slice: &[u8]) {
        self.pending.extend_from_slice(slice);
        self.scan(false);
    }

    /// The shortened row; empty if the row cannot be decoded.
    ///
    /// Every decoder refuses an empty row.
    pub fn finish(mut self) -> Vec<u8> {
        self.scan(true);
        let RowShortener { scanner, row, .. } = &mut self;
        let finished = match scanner {
            PluginScanner::Pgoutput(scanner) => scanner.finish(row),
            PluginScanner::Wal2json(scanner) => scanner.finish(row),
            PluginScanner::TestDecoding(scanner) => scanner.finish(row),
        };
        match finished.is_err() || self.is_malformed || !self.pending.is_empty() {
            true => Vec::new(),
            false => self.row.bytes,
        }
    }

    /// Scans as many of the pending bytes as possible.
    fn scan(&mut self, is_last: bool) {
        let mut scanned = 0;
        while !self.is_malformed {
            let input = self.pending.get(scanned..).unwrap_or_default();
            let row = &mut self.row;
            let read = match &mut self.scanner {
                PluginScanner::Pgoutput(scanner) => scanner.scan(input, is_last, row),
                PluginScanner::Wal2json(scanner) => scanner.scan(input, is_last, row),
                PluginScanner::TestDecoding(scanner) => scanner.scan(input, is_last, row),
            };
            match read {
                Ok(0) => break,
                Ok(length) => scanned += length,
                Err(MalformedRow) => self.is_malformed = true,
            }
        }
        match self.is_malformed {
            // The rest of the row is not needed.
            true => self.pending.clear(),
            false => drop(self.pending.drain(..scanned)),
        }
    }
}
