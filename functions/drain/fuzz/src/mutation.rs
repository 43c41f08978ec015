//! How an input of rows is changed: a row at a time, so that what changes in one leaves the others whole.

use libfuzzer_sys::fuzzer_mutate;

use crate::checks::rows::split;

/// Bytes of a row, at most.
const LONGEST: usize = u16::MAX as usize;

/// Changes the first `size` bytes of `data` into an input of at most `max_size` bytes, and returns its size.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut dice = Dice(u64::from(seed));
    let (mut options, rows) = split(&data[..size]);
    let mut rows: Vec<Vec<u8>> = rows.map(<[u8]>::to_vec).collect();
    if rows.is_empty() || dice.roll(16) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let at = dice.roll(rows.len());
    match dice.roll(20) {
        0 => options ^= 1 << dice.roll(8),
        1 => drop(rows.remove(at)),
        2 => {
            let to = dice.roll(rows.len());
            rows.swap(at, to);
        }
        3 => {
            let to = dice.roll(rows.len() + 1);
            rows.insert(to, rows[at].clone());
        }
        4 => {
            // The rest of one behind the beginning of another.
            let (one, other) = (&rows[at], &rows[dice.roll(rows.len())]);
            let (end, start) = (dice.roll(one.len() + 1), dice.roll(other.len() + 1));
            rows[at] = [&one[..end], &other[start..]].concat();
        }
        _ => {
            let row = &mut rows[at];
            let length = row.len();
            let room = max_size.saturating_sub(size) + length;
            row.resize(room.clamp(length.max(1), LONGEST.max(length)), 0);
            let most = row.len();
            let length = fuzzer_mutate(row, length, most);
            row.truncate(length);
        }
    }
    let mutated = join(options, &rows);
    let size = mutated.len().min(max_size);
    data[..size].copy_from_slice(&mutated[..size]);
    size
}

/// The input that [`split`] takes apart so; a row of more than [`LONGEST`] bytes is cut.
fn join(options: u8, rows: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![options];
    for row in rows {
        let length = u16::try_from(row.len()).unwrap_or(u16::MAX);
        input.extend(length.to_be_bytes());
        input.extend(&row[..length.into()]);
    }
    input
}

/// Numbers that one number leads to (SplitMix64).
struct Dice(u64);

impl Dice {
    /// From 0 to `below`, exclusive.
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap_or(0)
    }
}
