//! Shortening of test_decoding's rows. See [`crate::decode::shortener`].

use std::io::Write as _;

use super::TextReader;
use crate::decode::short_row::{LOOK_AHEAD, MAX_PREFIX, MalformedRow, Scanner, ShortRow};

/// Placeholder of a value that was not kept; its length follows.
///
/// test_decoding writes no such value without quotes.
pub(super) const OVERSIZE: &str = "oversize-datum:";

/// Placeholder of a message whose prefix was not kept.
///
/// It is at a place where test_decoding writes ` prefix: `.
pub(super) const WITHOUT_PREFIX: &str = " without prefix";
/// Placeholder of a message whose content was not kept.
///
/// It is at the same place as [`WITHOUT_PREFIX`], or directly after that placeholder.
pub(super) const WITHOUT_CONTENT: &str = " without content";

/// Beginning of a message. `0` or `1` follows.
pub(super) const MESSAGE: &str = "message: transactional: ";

/// Precedes the size of a message's content.
pub(super) const SIZE: &[u8] = b", sz: ";

/// Most bytes from the end of a message's prefix to its content.
///
/// They are two texts, with the size between them.
const SEPARATOR: usize = 64;

/// Scanner of one row.
#[derive(Debug)]
pub(in super::super) struct TestDecodingScanner {
    state: TextState,
    /// Bytes of the row that are not scanned yet.
    left: usize,
    without_prefix: bool,
    without_content: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextState {
    Start,
    /// Before a column, or at the end of the row.
    Column,
    /// In a value in quotes.
    Quoted,
    /// In a value without quotes.
    Unquoted,
    /// In the prefix of a message.
    Prefix,
    /// In the content of a message.
    Content,
}

impl TestDecodingScanner {
    /// A scanner of a row of `bytes` bytes.
    pub(in super::super) fn new(bytes: usize) -> Self {
        TestDecodingScanner {
            state: TextState::Start,
            left: bytes,
            without_prefix: false,
            without_content: false,
        }
    }

    /// Reads up to the first column or the prefix of a message.
    fn start(&mut self, input: &[u8], row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let mut reader = TextReader { data: input, at: 0 };
        if reader.skip(MESSAGE) {
            if !(reader.skip("0") || reader.skip("1")) || !reader.skip(" prefix: ") {
                return Err(MalformedRow);
            }
            row.copy(input.get(..reader.at).unwrap_or_default())?;
            row.begin(&[], MAX_PREFIX.min(row.max_value_bytes()), |_, _| {});
            self.state = TextState::Prefix;
            return Ok(reader.at);
        }
        let is_row = reader.skip("table ")
            && reader.table().is_ok()
            && reader.skip(": ")
            && ["INSERT:", "UPDATE:", "DELETE:"]
                .iter()
                .any(|operation| reader.skip(operation));
        if !is_row {
            return Err(MalformedRow);
        }
        row.copy(input.get(..reader.at).unwrap_or_default())?;
        self.state = TextState::Column;
        Ok(reader.at)
    }

    /// Reads a column up to its value.
    ///
    /// If the text before an image is next instead, such as ` new-tuple:`, reads that text.
    fn column(&mut self, input: &[u8], row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let mut reader = TextReader { data: input, at: 0 };
        let is_old = reader.skip(" old-key:");
        if is_old || reader.skip(" new-tuple:") || reader.skip(" (no-tuple-data)") {
            row.begin_image(is_old);
            row.copy(input.get(..reader.at).unwrap_or_default())?;
            return Ok(reader.at);
        }
        let is_column = reader.skip(" ")
            && reader.identifier(b"[").is_ok()
            && reader.type_name().is_ok()
            && reader.skip(":");
        if !is_column {
            return Err(MalformedRow);
        }
        row.copy(input.get(..reader.at).unwrap_or_default())?;
        let before = reader.at;
        row.begin(&[], row.max_value_bytes(), |out, bytes| {
            // Writing to a Vec does not fail.
            let _ = write!(out, "{OVERSIZE}{bytes}");
        });
        self.state = match reader.skip("'") || reader.skip("B'") {
            true => TextState::Quoted,
            false => TextState::Unquoted,
        };
        row.value(input.get(before..reader.at).unwrap_or_default());
        Ok(reader.at)
    }

    /// Reads a part of a value in quotes. A doubled quote does not end the value.
    fn quoted(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let quote = input.iter().position(|byte| *byte == b'\'');
        let length = match quote.map(|at| (at, input.get(at + 1))) {
            None => input.len(),
            // The next byte decides.
            Some((at, None)) if !is_last => at,
            Some((at, Some(b'\''))) => at + 2,
            Some((at, _)) => {
                row.value(input.get(..=at).unwrap_or_default());
                row.end()?;
                self.state = TextState::Column;
                return Ok(at + 1);
            }
        };
        row.value(input.get(..length).unwrap_or_default());
        Ok(length)
    }

    /// Reads a part of a value without quotes.
    ///
    /// The value ends before a space, or with the row.
    fn unquoted(&mut self, input: &[u8], row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let end = input.iter().position(|byte| *byte == b' ');
        let length = end.unwrap_or(input.len());
        row.value(input.get(..length).unwrap_or_default());
        if end.is_some() {
            row.end()?;
            self.state = TextState::Column;
            // The result 0 would mean that more input is needed. So an empty value is read with the next
            // column.
            return if length == 0 {
                self.column(input, row)
            } else {
                Ok(length)
            };
        }
        Ok(length)
    }

    /// Reads a part of a message's prefix.
    ///
    /// At the end of the prefix, also reads the text between it and the content.
    fn prefix(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let found = input.windows(SIZE.len()).position(|window| window == SIZE);
        let Some(at) = found else {
            // The separator may begin in the last bytes.
            let length = (input.len() + 1).saturating_sub(SIZE.len());
            row.value(input.get(..length).unwrap_or_default());
            return if is_last { Err(MalformedRow) } else { Ok(length) };
        };
        if input.len() - at < SEPARATOR && !is_last {
            row.value(input.get(..at).unwrap_or_default());
            return Ok(at);
        }
        let size = input.get(at + SIZE.len()..).unwrap_or_default();
        let digits = size.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = at + SIZE.len() + digits + b" content:".len();
        let (number, rest) = size.split_at(digits);
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|number| number.parse::<usize>().ok());
        if !rest.starts_with(b" content:") || number.is_none() || number != self.left.checked_sub(length) {
            row.value(input.get(..=at).unwrap_or_default());
            return Ok(at + 1);
        }
        row.value(input.get(..at).unwrap_or_default());
        self.without_prefix = !row.end()?;
        let separator = input.get(at..length).unwrap_or_default();
        row.begin(separator, row.max_value_bytes(), |_, _| {});
        self.state = TextState::Content;
        Ok(length)
    }
}

impl Scanner for TestDecodingScanner {
    fn scan(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let is_syntax = matches!(
            self.state,
            TextState::Start | TextState::Column | TextState::Unquoted
        );
        if input.is_empty() || (is_syntax && input.len() < LOOK_AHEAD && !is_last) {
            return Ok(0);
        }
        let length = match self.state {
            TextState::Start => self.start(input, row)?,
            TextState::Column => self.column(input, row)?,
            TextState::Quoted => self.quoted(input, is_last, row)?,
            TextState::Unquoted => self.unquoted(input, row)?,
            TextState::Prefix => self.prefix(input, is_last, row)?,
            TextState::Content => {
                row.value(input);
                input.len()
            }
        };
        self.left = self.left.saturating_sub(length);
        Ok(length)
    }

    fn finish(&mut self, row: &mut ShortRow) -> Result<(), MalformedRow> {
        match self.state {
            TextState::Column => return Ok(()),
            TextState::Unquoted => return row.end().map(drop),
            TextState::Content => self.without_content = !row.end()?,
            TextState::Start | TextState::Quoted | TextState::Prefix => return Err(MalformedRow),
        }
        let place = MESSAGE.len() + 1;
        if self.without_content {
            row.insert(place, WITHOUT_CONTENT.as_bytes());
        }
        if self.without_prefix {
            row.insert(place, WITHOUT_PREFIX.as_bytes());
        }
        Ok(())
    }
}
