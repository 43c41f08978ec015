//! The rows of one peek as a fuzzer's input: a byte of options, then each row behind its length, two bytes, the higher first. Every
//! input is such a one: where bytes are missing the last row ends early.

/// The options and the rows.
pub fn split(input: &[u8]) -> (u8, impl Iterator<Item = &[u8]>) {
    let (options, mut rest) = input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest));
    let rows = std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (row, behind) = behind.split_at(length);
        rest = behind;
        Some(row)
    });
    (options, rows)
}
