//! Shortening of pgoutput's messages. See [`crate::decode::shortener`].

use crate::decode::short_row::{MAX_PREFIX, MalformedRow, Scanner, ShortRow};

/// Kind of a value that was not kept. Its length follows, as 64 bits.
///
/// The kinds of pgoutput are n, u, t and b.
pub(super) const OVERSIZE: u8 = b'o';

/// Bit of a message's flags: the prefix was not kept. pgoutput sets only the lowest bit.
pub(super) const WITHOUT_PREFIX: u8 = 0x40;

/// Bit of a message's flags: neither the content nor its length was kept.
pub(super) const WITHOUT_CONTENT: u8 = 0x80;

/// Index of the flags in a message.
const FLAGS: usize = 1;

/// Scanner of one row message or logical message.
///
/// A row message inserts, updates or deletes a row.
#[derive(Debug, Default)]
pub(in super::super) struct PgoutputScanner(MessageState);

#[derive(Debug, Default, Clone, Copy)]
enum MessageState {
    /// Before the type of the message.
    #[default]
    Start,
    /// Before an image, or at the end of the message.
    ///
    /// An image has the old or the new values of the row.
    Image,
    /// Before a value, with the number of remaining columns, including its own.
    Columns(u16),
    /// In a value: the numbers of its remaining bytes and of the columns after it.
    Value(usize, u16),
    /// In the prefix of a logical message.
    Prefix,
    /// Before the length of a logical message's content.
    ContentLength,
    /// In the content, with the number of its remaining bytes.
    Content(usize),
    /// After a logical message.
    End,
}

impl Scanner for PgoutputScanner {
    fn scan(&mut self, input: &[u8], _is_last: bool, row: &mut ShortRow) -> Result<usize, MalformedRow> {
        let Some(first) = input.first() else {
            return Ok(0);
        };
        let next = match self.0 {
            MessageState::Start => start(*first, input, row)?,
            MessageState::Image => image(input, row)?,
            MessageState::Columns(left) => column(*first, input, left, row)?,
            MessageState::Value(left, columns) => Some(value(input, left, columns, row)?),
            MessageState::Prefix => Some(prefix(input, row)?),
            MessageState::ContentLength => content_length(input, row)?,
            MessageState::Content(left) => Some(content(input, left, row)?),
            MessageState::End => return Err(MalformedRow),
        };
        let Some((state, length)) = next else {
            return Ok(0);
        };
        self.0 = state;
        Ok(length)
    }

    fn finish(&mut self, _row: &mut ShortRow) -> Result<(), MalformedRow> {
        match self.0 {
            MessageState::Image | MessageState::End => Ok(()),
            _ => Err(MalformedRow),
        }
    }
}

/// The next state, and the number of scanned bytes.
///
/// `None` if more input is needed.
type Step = Option<(MessageState, usize)>;

/// The state before the next of `columns` remaining values.
///
/// Without remaining values, it is the end of the image.
fn state_before_value(columns: u16) -> MessageState {
    match columns {
        0 => MessageState::Image,
        _ => MessageState::Columns(columns),
    }
}

fn start(kind: u8, input: &[u8], row: &mut ShortRow) -> Result<Step, MalformedRow> {
    let (state, length) = match kind {
        // The type and the table's OID.
        b'I' | b'U' | b'D' => (MessageState::Image, 5),
        // The type, the flags and the position.
        b'M' => (MessageState::Prefix, 10),
        _ => return Err(MalformedRow),
    };
    let Some(syntax) = input.get(..length) else {
        return Ok(None);
    };
    row.copy(syntax)?;
    if kind == b'M' {
        row.begin(&[], MAX_PREFIX.min(row.max_value_bytes()), |_, _| {});
    }
    Ok(Some((state, length)))
}

/// Copies the kind of an image and the number of its columns.
///
/// The kinds are N, K and O.
fn image(input: &[u8], row: &mut ShortRow) -> Result<Step, MalformedRow> {
    let Some([kind, high, low]) = input.get(..3) else {
        return Ok(None);
    };
    row.copy(&[*kind, *high, *low])?;
    row.begin_image(*kind != b'N');
    Ok(Some((state_before_value(u16::from_be_bytes([*high, *low])), 3)))
}

/// Copies the kind of a value, and its length if any.
///
/// The kinds n (null) and u (unchanged) have no length. `left` is the number of remaining columns, including
/// this one.
fn column(kind: u8, input: &[u8], left: u16, row: &mut ShortRow) -> Result<Step, MalformedRow> {
    let columns = left.saturating_sub(1);
    if matches!(kind, b'n' | b'u') {
        row.copy(&[kind])?;
        return Ok(Some((state_before_value(columns), 1)));
    }
    if kind != b't' {
        return Err(MalformedRow);
    }
    let Some(length) = length_at(input, 1) else {
        return Ok(None);
    };
    let header = input.get(..5).unwrap_or_default();
    row.begin(header, row.max_value_bytes(), |out, bytes| {
        out.push(OVERSIZE);
        out.extend_from_slice(&(bytes as u64).to_be_bytes());
    });
    if length > 0 {
        return Ok(Some((MessageState::Value(length, columns), 5)));
    }
    row.end()?;
    Ok(Some((state_before_value(columns), 5)))
}

/// The 32-bit length at this offset of the input.
///
/// `None` if the input ends before the end of the length.
fn length_at(input: &[u8], offset: usize) -> Option<usize> {
    let bytes = input.get(offset..offset + 4)?;
    let length = bytes.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    usize::try_from(length).ok()
}

/// Copies the next part of a value.
///
/// `left` is the number of the value's remaining bytes. `columns` is the number of columns after it. If the
/// value exceeds its limit, none of its bytes are kept.
fn value(
    input: &[u8],
    left: usize,
    columns: u16,
    row: &mut ShortRow,
) -> Result<(MessageState, usize), MalformedRow> {
    let length = left.min(input.len());
    row.value(input.get(..length).unwrap_or_default());
    if length < left {
        return Ok((MessageState::Value(left - length, columns), length));
    }
    row.end()?;
    Ok((state_before_value(columns), length))
}

/// Copies the next part of a logical message's prefix.
///
/// The prefix ends before a zero byte. If it exceeds its limit, none of its bytes are kept.
fn prefix(input: &[u8], row: &mut ShortRow) -> Result<(MessageState, usize), MalformedRow> {
    let Some(length) = input.iter().position(|byte| *byte == 0) else {
        row.value(input);
        return Ok((MessageState::Prefix, input.len()));
    };
    row.value(input.get(..length).unwrap_or_default());
    if !row.end()? {
        row.set_bits(FLAGS, WITHOUT_PREFIX);
    }
    row.copy(&[0])?;
    Ok((MessageState::ContentLength, length + 1))
}

fn content_length(input: &[u8], row: &mut ShortRow) -> Result<Step, MalformedRow> {
    let Some(length) = length_at(input, 0) else {
        return Ok(None);
    };
    row.begin(
        input.get(..4).unwrap_or_default(),
        row.max_value_bytes(),
        |_, _| {},
    );
    if length > 0 {
        return Ok(Some((MessageState::Content(length), 4)));
    }
    row.end()?;
    Ok(Some((MessageState::End, 4)))
}

/// Copies the next part of a logical message's content.
///
/// `left` is the number of its remaining bytes. If the content exceeds its limit, none of its bytes are kept.
fn content(input: &[u8], left: usize, row: &mut ShortRow) -> Result<(MessageState, usize), MalformedRow> {
    let length = left.min(input.len());
    row.value(input.get(..length).unwrap_or_default());
    if length < left {
        return Ok((MessageState::Content(left - length), length));
    }
    if !row.end()? {
        row.set_bits(FLAGS, WITHOUT_CONTENT);
    }
    Ok((MessageState::End, length))
}
