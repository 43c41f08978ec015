//! Positions of events in the committed history.
//!
//! A change has the same position each time it is sent. The order of the positions' texts, compared as
//! strings, is the order of the events.

use std::fmt;

use crate::base::lsn::Lsn;

/// Position of an event in the committed history.
///
/// Positions are ordered by commit, then by log record, then by the event's number in the log record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// End of the commit record of the event's transaction.
    ///
    /// The slot advances to this LSN when the transaction is confirmed.
    pub commit_end: Lsn,
    /// Start of the change's log record.
    pub lsn: Lsn,
    /// Number of the event among those with the same `lsn`, from 0.
    ///
    /// A log record of a `COPY` has many rows, and an update of a key has two events.
    pub index: u32,
}

/// Text of fixed width: 16, 16 and 8 hexadecimal digits.
///
/// The fixed width makes the order of the strings the order of the positions.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl Position {
    /// Length of its text in bytes.
    pub const TEXT_BYTES: usize = 42;

    /// Its text in ASCII.
    pub fn text(&self) -> [u8; Self::TEXT_BYTES] {
        let mut text = [b'.'; Self::TEXT_BYTES];
        // Each range has two digits for each byte of its number, so no call fails.
        let _ = hex::encode_to_slice(self.commit_end.0.to_be_bytes(), &mut text[..16]);
        let _ = hex::encode_to_slice(self.lsn.0.to_be_bytes(), &mut text[17..33]);
        let _ = hex::encode_to_slice(self.index.to_be_bytes(), &mut text[34..]);
        text
    }
}

/// The positions of one transaction's events, in the order of the changes.
#[derive(Debug, Clone)]
pub struct PositionSequence {
    commit_end: Lsn,
    last: Option<(Lsn, u32)>,
}

impl PositionSequence {
    /// The sequence for a transaction whose commit record ends at `commit_end`.
    pub fn new(commit_end: Lsn) -> Self {
        PositionSequence {
            commit_end,
            last: None,
        }
    }

    /// End of the transaction's commit record.
    pub fn commit_end(&self) -> Lsn {
        self.commit_end
    }

    /// The position of the next event, whose change was logged at `lsn`.
    pub fn next(&mut self, lsn: Lsn) -> Position {
        let position = self.peek(lsn);
        self.last = Some((lsn, position.index));
        position
    }

    /// The position that [`PositionSequence::next`] would return for `lsn`.
    pub fn peek(&self, lsn: Lsn) -> Position {
        let index = match self.last {
            Some((last, index)) if last == lsn => index + 1,
            _ => 0,
        };
        Position {
            commit_end: self.commit_end,
            lsn,
            index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_of_one_log_record_have_numbers_from_zero() {
        let mut positions = PositionSequence::new(Lsn(9));
        let got: Vec<_> = [5, 5, 6, 7, 7].map(|lsn| positions.next(Lsn(lsn)).index).into();
        assert_eq!(got, [0, 1, 0, 0, 1]);
    }

    #[test]
    fn the_text_has_sixteen_sixteen_and_eight_digits() {
        let position = Position {
            commit_end: Lsn(0x16_b374_d848),
            lsn: Lsn(u64::MAX),
            index: 10,
        };
        assert_eq!(position.to_string(), "00000016b374d848.ffffffffffffffff.0000000a");
    }

    proptest! {
        #[test]
        fn strings_have_the_order_of_their_positions(a: (u64, u64, u32), b: (u64, u64, u32)) {
            let position = |(c, l, i)| Position { commit_end: Lsn(c), lsn: Lsn(l), index: i };
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
