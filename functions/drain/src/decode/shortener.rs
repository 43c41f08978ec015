//! Shortening of rows that are too large for the memory.
//!
//! The peek's query cuts such a row into slices. A [`RowShortener`] reads the slices in order, and keeps the
//! values that may fit into a record. The result is a row in the syntax of the same plugin. A mark replaces
//! each value that was not kept. The plugin never writes this mark, and the decoder reads it as
//! [`Datum::Oversize`](crate::change::Datum::Oversize).
//!
//! The largest values are replaced first, until the row is small enough. So an event omits the same columns
//! as if its whole row had been read. Exceptions are values that an envelope writes in less than half of the
//! plugin's bytes: see [`KeptBytes::for_record`].

#[cfg(test)]
mod tests;

use super::pgoutput::shortener::PgoutputScanner;
use super::test_decoding::shortener::TestDecodingScanner;
use super::wal2json::shortener::Wal2jsonScanner;
use crate::plugin::Plugin;

/// Least bytes of input with which a scanner of text reads syntax, except at the end of the row.
///
/// The names of a column and of its type are shorter, including their quotes.
pub(super) const LOOK_AHEAD: usize = 4096;

/// Most bytes of a shortened row, without its large values.
///
/// A table has at most 1600 columns. Their names, types and small values are fewer bytes, even in two images.
const MAX_SYNTAX: usize = 8 << 20;

/// Most bytes of a message's prefix that are kept.
pub(super) const MAX_PREFIX: usize = 1 << 20;

/// Most bytes of a value that is never replaced: its mark is hardly shorter.
const SMALL_VALUE: usize = 256;

/// Most bytes of the values that a shortened row keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBytes {
    /// Most bytes of one value.
    value: usize,
    /// Most bytes of all values of a row.
    row: usize,
}

impl KeptBytes {
    /// Bounds for a stream whose records have at most `record` bytes.
    ///
    /// An envelope writes a value in at least half of the plugin's bytes, with few exceptions. So a larger
    /// value exceeds the record. The exceptions are values that Debezium's form compresses, such as `bit
    /// varying` as base64: they are replaced although the event might have room for them.
    ///
    /// A row may have two images, of which the event may contain only one. So a row may keep twice as much.
    pub fn for_record(record: usize) -> Self {
        KeptBytes {
            value: record.saturating_mul(2).min(16 << 20),
            row: record.saturating_mul(4).min(24 << 20),
        }
    }
}

/// Error: the plugin writes no such row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedRow;

/// Appends the mark of a value that is replaced. The number is the length of the value in bytes.
pub(super) type WriteMark = fn(&mut Vec<u8>, usize);

/// Scanner of one plugin's syntax.
pub(super) trait Scanner {
    /// Scans the next part of a row, and returns the length of the part in bytes.
    ///
    /// Returns 0 if more input is needed. `is_last` is true if no more input follows.
    fn scan(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow>;

    /// Ends the row. All parts of it were written to `row`.
    ///
    /// # Errors
    /// The row ends too early.
    fn finish(&mut self, row: &mut ShortRow) -> Result<(), MalformedRow>;
}

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

    /// The shortened row. An undecodable row becomes an empty row, which every decoder refuses.
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

/// The part of a shortened row that is written so far.
#[derive(Debug)]
pub(super) struct ShortRow {
    bytes: Vec<u8>,
    limits: KeptBytes,
    /// Bytes without the large values.
    syntax: usize,
    /// The large values that were kept, in the order of the row.
    kept: Vec<KeptValue>,
    kept_bytes: usize,
    open: Option<OpenValue>,
}

/// A large value of a shortened row.
#[derive(Debug)]
struct KeptValue {
    /// Index of the value's first byte in the row, with its header or quotes.
    start: usize,
    /// Bytes that the mark replaces.
    length: usize,
    /// Bytes of the value without its header.
    bytes: usize,
    mark: WriteMark,
}

/// The value that is being written.
#[derive(Debug)]
struct OpenValue {
    start: usize,
    bytes: usize,
    most: usize,
    is_kept: bool,
    mark: WriteMark,
}

impl ShortRow {
    fn new(limits: KeptBytes) -> Self {
        ShortRow {
            bytes: Vec::new(),
            limits,
            syntax: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            open: None,
        }
    }

    /// The bytes that are written so far.
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes
    }

    /// Most bytes of a kept value.
    pub(super) fn most_value_bytes(&self) -> usize {
        self.limits.value
    }

    /// Appends syntax: a part of the row that is no value.
    pub(super) fn copy(&mut self, syntax: &[u8]) -> Result<(), MalformedRow> {
        self.bytes.extend_from_slice(syntax);
        self.add_syntax(syntax.len())
    }

    /// Inserts a short text at the index `at`, after the last value ended.
    ///
    /// It does not update the indexes of kept values, so no value may be replaced afterwards.
    pub(super) fn insert(&mut self, at: usize, text: &[u8]) {
        let at = at.min(self.bytes.len());
        self.bytes.splice(at..at, text.iter().copied());
    }

    /// Sets bits of an earlier byte, at the index `at`.
    pub(super) fn set_bits(&mut self, at: usize, bits: u8) {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte |= bits;
        }
    }

    /// Begins a value. It is kept if it has at most `most` bytes; `header` then precedes them.
    pub(super) fn begin(&mut self, header: &[u8], most: usize, mark: WriteMark) {
        self.open = Some(OpenValue {
            start: self.bytes.len(),
            bytes: 0,
            most,
            is_kept: true,
            mark,
        });
        self.bytes.extend_from_slice(header);
    }

    /// Appends bytes to the open value, unless it exceeds its limit.
    pub(super) fn value(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.bytes += bytes.len();
        if open.is_kept && open.bytes > open.most {
            open.is_kept = false;
            self.bytes.truncate(open.start);
        }
        if open.is_kept {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Ends the open value. Returns false if it exceeded its limit, and was replaced.
    ///
    /// A later value may still cause its replacement.
    pub(super) fn end(&mut self) -> Result<bool, MalformedRow> {
        let open = self.open.take().ok_or(MalformedRow)?;
        if !open.is_kept {
            (open.mark)(&mut self.bytes, open.bytes);
            self.add_syntax(SMALL_VALUE)?;
        } else if open.bytes <= SMALL_VALUE {
            self.add_syntax(open.bytes)?;
        } else {
            self.kept_bytes += open.bytes;
            self.kept.push(KeptValue {
                start: open.start,
                length: self.bytes.len() - open.start,
                bytes: open.bytes,
                mark: open.mark,
            });
            while self.kept_bytes > self.limits.row {
                self.replace_largest();
            }
        }
        Ok(open.is_kept)
    }

    fn add_syntax(&mut self, bytes: usize) -> Result<(), MalformedRow> {
        self.syntax += bytes;
        match self.syntax > MAX_SYNTAX {
            true => Err(MalformedRow),
            false => Ok(()),
        }
    }

    /// Replaces the largest kept value by its mark; of equal ones, the first.
    fn replace_largest(&mut self) {
        let kept = self.kept.iter().enumerate();
        let largest = kept.max_by_key(|(index, value)| (value.bytes, std::cmp::Reverse(*index)));
        let Some(index) = largest.map(|(index, _)| index) else {
            self.kept_bytes = 0;
            return;
        };
        let KeptValue {
            start,
            length,
            bytes,
            mark,
        } = self.kept.remove(index);
        let mut written = Vec::new();
        mark(&mut written, bytes);
        let shift = length.saturating_sub(written.len());
        self.bytes.splice(start..start + length, written);
        for later in self.kept.iter_mut().skip(index) {
            later.start -= shift;
        }
        self.kept_bytes -= bytes;
    }
}
