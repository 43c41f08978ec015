//! The shortened row, which the scanners of the plugins write.
//!
//! Placeholders replace values until the row is small enough. First, values of the old row are replaced that
//! have more than 8 KiB. Then, values of both rows are replaced. Each time, the largest value is first.

/// Bytes of input that a text scanner needs to read syntax.
///
/// At the end of the row, fewer bytes suffice. The names of a column and of its type have fewer bytes,
/// including their quotes.
pub(super) const LOOK_AHEAD: usize = 4096;

/// Most bytes of a shortened row, without its large values.
///
/// A table has at most 1600 columns. Their names, types and small values have fewer bytes, even in two
/// images.
pub(super) const MAX_SYNTAX: usize = 8 << 20;

/// Most bytes of a message's prefix that are kept.
pub(super) const MAX_PREFIX: usize = 1 << 20;

/// Bytes of values that a row may always keep with column rules.
const ROW_WITH_RULES: usize = 16 << 20;

/// Bytes above which a value of the old row is replaced first.
///
/// A smaller value may belong to the key, and an old row without its key is useless. An index entry has at
/// most a third of a page. So a larger value can be part of a key only if it is compressed.
const MAX_KEY_VALUE_BYTES: usize = 8 << 10;

/// Most bytes of a value that is never replaced: its placeholder is hardly shorter.
const MAX_SMALL_VALUE_BYTES: usize = 256;

/// Most bytes of the values that a shortened row keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBytes {
    /// Most bytes of one value.
    pub(super) value: usize,
    /// Most bytes of all values of a row.
    pub(super) row: usize,
}

impl KeptBytes {
    /// Bounds for a stream whose records have at most `record` bytes.
    ///
    /// An envelope writes a value in at least half of the plugin's bytes, with few exceptions. So a value of
    /// more than twice the record's bytes exceeds the record. The exceptions are values that Debezium's form
    /// compresses, such as `bit varying` as base64: they are replaced although the event might have room for
    /// them. A row may have two images, and its event may contain only one of them. So a row may keep twice
    /// as many bytes as a value.
    ///
    /// With `has_column_rules`, an event may have few of the row's values. So the row may keep at least 16
    /// MiB. In every case, a value has at most 16 MiB, and a row at most 24 MiB.
    pub fn for_record(record: usize, has_column_rules: bool) -> Self {
        let least = if has_column_rules { ROW_WITH_RULES } else { 0 };
        KeptBytes {
            value: record.saturating_mul(2).min(16 << 20),
            row: record.saturating_mul(4).max(least).min(24 << 20),
        }
    }
}

/// Error: the syntax of the row is not that of the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedRow;

/// Function that appends the placeholder of a replaced value.
///
/// The number is the length of the value in bytes.
pub(super) type WritePlaceholder = fn(&mut Vec<u8>, usize);

/// Scanner of one plugin's syntax.
pub(super) trait Scanner {
    /// Scans the next part of a row.
    ///
    /// Returns the length of this part in bytes, or 0 if more input is needed. `is_last` is true if no more
    /// input follows.
    fn scan(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow>;

    /// Ends the row. All parts of it were written to `row`.
    ///
    /// # Errors
    /// The row ends too early.
    fn finish(&mut self, row: &mut ShortRow) -> Result<(), MalformedRow>;
}

/// The part of a shortened row that was written so far.
#[derive(Debug)]
pub(super) struct ShortRow {
    pub(super) bytes: Vec<u8>,
    limits: KeptBytes,
    /// Bytes without the large values.
    syntax: usize,
    /// The large values that were kept, in the order of the row.
    kept: Vec<KeptValue>,
    kept_bytes: usize,
    open: Option<OpenValue>,
    /// Whether the values belong to the old row.
    is_old: bool,
}

/// A large value of a shortened row.
#[derive(Debug)]
struct KeptValue {
    /// Index of the value's first byte in the row.
    ///
    /// If the value has a header or quotes, it is the index of their first byte.
    start: usize,
    /// Bytes that the placeholder replaces.
    length: usize,
    /// Bytes of the value without its header.
    bytes: usize,
    placeholder: WritePlaceholder,
    is_old: bool,
}

/// The value that is being written.
#[derive(Debug)]
struct OpenValue {
    start: usize,
    bytes: usize,
    max_bytes: usize,
    is_kept: bool,
    placeholder: WritePlaceholder,
}

impl ShortRow {
    /// An empty row.
    pub(super) fn new(limits: KeptBytes) -> Self {
        ShortRow {
            bytes: Vec::new(),
            limits,
            syntax: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            open: None,
            is_old: false,
        }
    }

    /// Begins an image: the old row or the new one. The following values belong to it.
    pub(super) fn begin_image(&mut self, is_old: bool) {
        self.is_old = is_old;
    }

    /// The bytes that were written so far.
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes
    }

    /// Most bytes of a kept value.
    pub(super) fn max_value_bytes(&self) -> usize {
        self.limits.value
    }

    /// Appends syntax: a part of the row that is no value.
    pub(super) fn copy(&mut self, syntax: &[u8]) -> Result<(), MalformedRow> {
        self.bytes.extend_from_slice(syntax);
        self.add_syntax(syntax.len())
    }

    /// Inserts a short text at the index `at`.
    ///
    /// The last value must have ended. The indexes of kept values are not updated, so no value may be
    /// replaced afterwards.
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

    /// Begins a value. It is kept if it has at most `max_bytes` bytes.
    ///
    /// `header` precedes the bytes of a value that is kept.
    pub(super) fn begin(&mut self, header: &[u8], max_bytes: usize, placeholder: WritePlaceholder) {
        self.open = Some(OpenValue {
            start: self.bytes.len(),
            bytes: 0,
            max_bytes,
            is_kept: true,
            placeholder,
        });
        self.bytes.extend_from_slice(header);
    }

    /// Appends bytes to the open value, unless it exceeds its limit.
    pub(super) fn value(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.bytes += bytes.len();
        if open.is_kept && open.bytes > open.max_bytes {
            open.is_kept = false;
            self.bytes.truncate(open.start);
        }
        if open.is_kept {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Ends the open value. Returns false if its placeholder replaced it.
    ///
    /// A value is replaced at once if it exceeds its limit. A later value may still cause the replacement of
    /// a value that was kept.
    pub(super) fn end(&mut self) -> Result<bool, MalformedRow> {
        let open = self.open.take().ok_or(MalformedRow)?;
        if !open.is_kept {
            (open.placeholder)(&mut self.bytes, open.bytes);
            self.add_syntax(MAX_SMALL_VALUE_BYTES)?;
        } else if open.bytes <= MAX_SMALL_VALUE_BYTES {
            self.add_syntax(open.bytes)?;
        } else {
            self.kept_bytes += open.bytes;
            self.kept.push(KeptValue {
                start: open.start,
                length: self.bytes.len() - open.start,
                bytes: open.bytes,
                placeholder: open.placeholder,
                is_old: self.is_old,
            });
            while self.kept_bytes > self.limits.row {
                self.replace_one();
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

    /// Replaces one kept value by its placeholder.
    ///
    /// It is the largest value of the old row, if that exceeds [`MAX_KEY_VALUE_BYTES`]. Otherwise it is the
    /// largest value of both rows. Of several largest values, the first is replaced.
    fn replace_one(&mut self) {
        let kept = self.kept.iter().enumerate();
        let first = kept.max_by_key(|(index, value)| {
            let is_first = value.is_old && value.bytes > MAX_KEY_VALUE_BYTES;
            (is_first, value.bytes, std::cmp::Reverse(*index))
        });
        let Some(index) = first.map(|(index, _)| index) else {
            self.kept_bytes = 0;
            return;
        };
        let KeptValue {
            start,
            length,
            bytes,
            placeholder,
            ..
        } = self.kept.remove(index);
        let mut written = Vec::new();
        placeholder(&mut written, bytes);
        let shift = length.saturating_sub(written.len());
        self.bytes.splice(start..start + length, written);
        for later in self.kept.iter_mut().skip(index) {
            later.start -= shift;
        }
        self.kept_bytes -= bytes;
    }
}
