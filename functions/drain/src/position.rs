//! The position of an event: where in the committed history it stands. The same change gets the same position every
//! time it is sent, and positions, compared as strings, order as the events do.

use std::fmt;

use crate::lsn::Lsn;

/// Where an event stands. Ordered by commit, then by place in the log, then by place within one log record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// End of the commit record of the event's transaction: what confirming it would set the slot to.
    pub commit_end: Lsn,
    /// Start of the log record that holds the change.
    pub lsn: Lsn,
    /// Counts the events that share `lsn`: one record of a `COPY` holds many rows, a changed key makes two events.
    pub index: u32,
}

/// Fixed width, so that strings order as positions: 16, 16 and 8 hexadecimal digits.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x}.{:016x}.{:08x}",
            self.commit_end.0, self.lsn.0, self.index
        )
    }
}

/// Hands out the positions of one transaction's events, in the order in which the server gives the changes.
#[derive(Debug, Clone)]
pub struct PositionSequence {
    commit_end: Lsn,
    last: Option<(Lsn, u32)>,
}

impl PositionSequence {
    /// PositionSequence in the transaction whose commit record ends at `commit_end`.
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
        let index = match self.last {
            Some((last, index)) if last == lsn => index + 1,
            _ => 0,
        };
        self.last = Some((lsn, index));
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
    fn events_of_one_log_record_are_counted() {
        let mut positions = PositionSequence::new(Lsn(9));
        let got: Vec<_> = [5, 5, 6, 7, 7].map(|lsn| positions.next(Lsn(lsn)).index).into();
        assert_eq!(got, [0, 1, 0, 0, 1]);
    }

    proptest! {
        #[test]
        fn strings_order_as_positions(a: (u64, u64, u32), b: (u64, u64, u32)) {
            let position = |(c, l, i)| Position { commit_end: Lsn(c), lsn: Lsn(l), index: i };
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
