//! Mutations of an input that holds rows.
//!
//! A mutation changes one row, so that the other rows can still be decoded.

use libfuzzer_sys::fuzzer_mutate;

use crate::checks::rows::split;

/// The most bytes of a row.
const MAX_ROW_BYTES: usize = u16::MAX as usize;

/// Mutates the input in the first `size` bytes of `data`.
///
/// Returns the new size of the input. The mutated input has at most `max_size` bytes. The same `seed` makes
/// the same mutation.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = SplitMix64(u64::from(seed));
    let (mut options, rows) = split(&data[..size]);
    let mut rows: Vec<Vec<u8>> = rows.map(<[u8]>::to_vec).collect();
    if rows.is_empty() || random.below(16) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let at = random.below(rows.len());
    match random.below(20) {
        0 => options ^= 1 << random.below(8),
        1 => drop(rows.remove(at)),
        2 => {
            let to = random.below(rows.len());
            rows.swap(at, to);
        }
        3 => {
            let to = random.below(rows.len() + 1);
            rows.insert(to, rows[at].clone());
        }
        4 => {
            // Joins the start of one row and the end of another.
            let (first, second) = (&rows[at], &rows[random.below(rows.len())]);
            let (end, start) = (random.below(first.len() + 1), random.below(second.len() + 1));
            rows[at] = [&first[..end], &second[start..]].concat();
        }
        _ => {
            let row = &mut rows[at];
            let length = row.len();
            let limit = max_size.saturating_sub(size) + length;
            row.resize(limit.clamp(length.max(1), MAX_ROW_BYTES.max(length)), 0);
            let limit = row.len();
            let length = fuzzer_mutate(row, length, limit);
            row.truncate(length);
        }
    }
    let mutated = join(options, &rows);
    let size = mutated.len().min(max_size);
    data[..size].copy_from_slice(&mutated[..size]);
    size
}

/// The inverse of [`split`]; cuts a row after [`MAX_ROW_BYTES`] bytes.
fn join(options: u8, rows: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![options];
    for row in rows {
        let length = u16::try_from(row.len()).unwrap_or(u16::MAX);
        input.extend(length.to_be_bytes());
        input.extend(&row[..length.into()]);
    }
    input
}

/// A pseudorandom number generator (SplitMix64).
struct SplitMix64(u64);

impl SplitMix64 {
    /// A number from 0 to `limit`, exclusive.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or(0)
    }
}
