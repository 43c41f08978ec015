//! Format of a fuzzer's input that holds the rows of one peek.
//!
//! The first byte holds the options. Each row follows its length, two bytes in big-endian order. Every input
//! has this format: if bytes are missing, the last row ends early.

/// The options and the rows of an input.
pub fn split(input: &[u8]) -> (u8, impl Iterator<Item = &[u8]>) {
    let (options, mut rest) = input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest));
    let rows = std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (row, after) = after.split_at(length);
        rest = after;
        Some(row)
    });
    (options, rows)
}
