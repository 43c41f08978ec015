//! Shortening of wal2json's rows. See [`crate::decode::shortener`].
//!
//! A value that was not kept becomes null, and a key `oversize` with its length follows. A prefix or content
//! that was not kept becomes empty, and `prefix_omitted` or `content_omitted` follows. wal2json never writes
//! these keys.

use std::io::Write as _;

use super::type_names::type_name;
use crate::decode::short_row::{LOOK_AHEAD, MAX_PREFIX, MalformedRow, Scanner, ShortRow, WritePlaceholder};

/// Scanner of one row.
#[derive(Debug, Default)]
pub(in super::super) struct Wal2jsonScanner(JsonState);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum JsonState {
    /// Between strings and values.
    #[default]
    Between,
    /// In a string that is no value.
    Name,
    /// In a string: a value, or a part of a message.
    Text,
    /// In a value that is no string.
    Unquoted,
}

impl Scanner for Wal2jsonScanner {
    fn scan(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        if input.is_empty() || (self.0 == JsonState::Between && input.len() < LOOK_AHEAD && !is_last) {
            return Ok(0);
        }
        let (state, length) = match self.0 {
            JsonState::Between => between(input, row)?,
            JsonState::Unquoted => unquoted(input, row)?,
            JsonState::Name | JsonState::Text => {
                let (length, is_end) = string_part(input);
                let part = input.get(..length).unwrap_or_default();
                match self.0 {
                    JsonState::Name => row.copy(part)?,
                    _ => row.value(part),
                }
                if is_end && self.0 == JsonState::Text {
                    row.end()?;
                }
                (if is_end { JsonState::Between } else { self.0 }, length)
            }
        };
        self.0 = state;
        Ok(length)
    }

    fn finish(&mut self, _row: &mut ShortRow) -> Result<(), MalformedRow> {
        match self.0 {
            JsonState::Between => Ok(()),
            _ => Err(MalformedRow),
        }
    }
}

/// Reads the next part between strings and values.
///
/// If a string or a value is next, reads its beginning instead.
fn between(input: &[u8], row: &mut ShortRow) -> Result<(JsonState, usize), MalformedRow> {
    let is_text = input.first() == Some(&b'"');
    // The identity follows the columns.
    if row.written().ends_with(br#""identity":"#) {
        row.begin_image(true);
    }
    let follows = |key: &[u8]| row.written().ends_with(key);
    let part: Option<(usize, WritePlaceholder)> = if follows(br#""value":"#) {
        Some((row.most_value_bytes(), |out, bytes| {
            // Writing to a Vec does not fail.
            let _ = write!(out, r#"null,"oversize":{bytes}"#);
        }))
    } else if follows(br#""content":"#) {
        Some((row.most_value_bytes(), |out, _| {
            out.extend_from_slice(br#""","content_omitted":true"#);
        }))
    } else if follows(br#""prefix":"#) {
        Some((MAX_PREFIX.min(row.most_value_bytes()), |out, _| {
            out.extend_from_slice(br#""","prefix_omitted":true"#);
        }))
    } else {
        None
    };
    match part {
        Some((most, mark)) if is_text => {
            row.begin(b"\"", most, mark);
            Ok((JsonState::Text, 1))
        }
        Some((most, mark)) => {
            row.begin(&[], most, mark);
            unquoted(input, row)
        }
        None if is_text => {
            // wal2json writes some names of types without escapes.
            let is_raw = follows(br#""type":"#) && !input.starts_with(br#""\""#);
            if let Some((_, length)) = type_name(input).filter(|_| is_raw) {
                row.copy(input.get(..length).unwrap_or_default())?;
                return Ok((JsonState::Between, length));
            }
            row.copy(b"\"")?;
            Ok((JsonState::Name, 1))
        }
        None => {
            // A value may follow a colon.
            let colon = input.iter().position(|byte| *byte == b':').map(|at| at + 1);
            let quote = input.iter().position(|byte| *byte == b'"');
            let length = colon.into_iter().chain(quote).min().unwrap_or(input.len());
            row.copy(input.get(..length).unwrap_or_default())?;
            Ok((JsonState::Between, length))
        }
    }
}

/// Reads a part of a value that is no string.
fn unquoted(input: &[u8], row: &mut ShortRow) -> Result<(JsonState, usize), MalformedRow> {
    let end = input.iter().position(|byte| matches!(byte, b',' | b'}'));
    let length = end.unwrap_or(input.len());
    row.value(input.get(..length).unwrap_or_default());
    if end.is_none() {
        return Ok((JsonState::Unquoted, length));
    }
    row.end()?;
    Ok((JsonState::Between, length))
}

/// Length of the next part of a string.
///
/// The flag is true if the string ends with this part. The length is 0 if more input is needed.
fn string_part(input: &[u8]) -> (usize, bool) {
    match input.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        None => (input.len(), false),
        Some(at) if input.get(at) == Some(&b'"') => (at + 1, true),
        // A backslash and the escaped character.
        Some(at) if at + 2 <= input.len() => (at + 2, false),
        Some(at) => (at, false),
    }
}
