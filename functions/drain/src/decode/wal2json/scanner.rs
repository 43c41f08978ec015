//! Shortening of wal2json's rows. See [`crate::decode::shortener`].
//!
//! Null replaces a value that is too large. The key `oversize` follows, with the value's length in bytes. An
//! empty string replaces a prefix or content that is too large. The key `prefix_omitted` or `content_omitted`
//! follows. wal2json never writes these keys.

use std::io::Write as _;

use super::type_names::type_name;
use crate::decode::short_row::{LOOK_AHEAD, MAX_PREFIX, MalformedRow, Scanner, ShortRow, WritePlaceholder};

/// Scanner of one row.
#[derive(Debug, Default)]
pub(in super::super) struct Wal2jsonScanner(JsonState);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum JsonState {
    /// In syntax: in no string, and in no value of a column.
    #[default]
    Syntax,
    /// In a string that is copied, such as a column's name.
    Name,
    /// In the string of a value, a prefix or a content.
    Text,
    /// In a value that is no string.
    Unquoted,
}

impl Scanner for Wal2jsonScanner {
    fn scan(&mut self, input: &[u8], is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        if input.is_empty() || (self.0 == JsonState::Syntax && input.len() < LOOK_AHEAD && !is_last) {
            return Ok(0);
        }
        let (state, length) = match self.0 {
            JsonState::Syntax => syntax(input, row)?,
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
                (if is_end { JsonState::Syntax } else { self.0 }, length)
            }
        };
        self.0 = state;
        Ok(length)
    }

    fn finish(&mut self, _row: &mut ShortRow) -> Result<(), MalformedRow> {
        match self.0 {
            JsonState::Syntax => Ok(()),
            _ => Err(MalformedRow),
        }
    }
}

/// Reads syntax up to the next string or value.
///
/// If the input begins with a type name, reads all of it. If it begins with another string, reads the opening
/// quote. If it begins with a number or the like, reads as much of it as the input has.
fn syntax(input: &[u8], row: &mut ShortRow) -> Result<(JsonState, usize), MalformedRow> {
    let is_text = input.first() == Some(&b'"');
    // The old row begins here. After it, wal2json writes no values.
    if row.written().ends_with(br#""identity":"#) {
        row.begin_image(true);
    }
    let follows = |key: &[u8]| row.written().ends_with(key);
    let part: Option<(usize, WritePlaceholder)> = if follows(br#""value":"#) {
        Some((row.max_value_bytes(), |out, bytes| {
            // Writing to a Vec does not fail.
            let _ = write!(out, r#"null,"oversize":{bytes}"#);
        }))
    } else if follows(br#""content":"#) {
        Some((row.max_value_bytes(), |out, _| {
            out.extend_from_slice(br#""","content_omitted":true"#);
        }))
    } else if follows(br#""prefix":"#) {
        Some((MAX_PREFIX.min(row.max_value_bytes()), |out, _| {
            out.extend_from_slice(br#""","prefix_omitted":true"#);
        }))
    } else {
        None
    };
    match part {
        Some((max_bytes, placeholder)) if is_text => {
            row.begin(b"\"", max_bytes, placeholder);
            Ok((JsonState::Text, 1))
        }
        Some((max_bytes, placeholder)) => {
            row.begin(&[], max_bytes, placeholder);
            unquoted(input, row)
        }
        None if is_text => {
            // wal2json writes some names of types without escapes. A name that begins with an escaped quote
            // has escapes.
            let may_be_raw = follows(br#""type":"#) && !input.starts_with(br#""\""#);
            if let Some((_, length)) = type_name(input).filter(|_| may_be_raw) {
                row.copy(input.get(..length).unwrap_or_default())?;
                return Ok((JsonState::Syntax, length));
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
            Ok((JsonState::Syntax, length))
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
    Ok((JsonState::Syntax, length))
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
