//! Which transactions have arrived whole. Events are acknowledged in any order; the ledger tells up to where
//! all of them were.

use std::collections::VecDeque;

use crate::checkpoint::{AckPosition, ResumePoint};
use crate::lsn::Lsn;

/// Names a transaction in the ledger, or a section of a large one; ascending in commit order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TransactionId(u64);

#[derive(Debug)]
struct Span {
    /// Events that were opened and not yet acknowledged.
    outstanding: u64,
    /// Set when it was read to its end.
    end: Option<SpanEnd>,
}

#[derive(Debug)]
enum SpanEnd {
    /// The transaction's.
    Commit(Lsn),
    /// A section's.
    Section(ResumePoint),
}

/// The transactions that are not acknowledged yet, in commit order.
#[derive(Debug)]
pub struct Acknowledgements {
    first: u64,
    entries: VecDeque<Span>,
    position: AckPosition,
}

impl Acknowledgements {
    /// A ledger that starts where everything up to `reached` has arrived.
    pub fn new(position: AckPosition) -> Self {
        Acknowledgements {
            first: 0,
            entries: VecDeque::new(),
            position,
        }
    }

    /// Opens the next transaction.
    pub fn begin(&mut self) -> TransactionId {
        self.entries.push_back(Span {
            outstanding: 0,
            end: None,
        });
        TransactionId(self.first + self.entries.len() as u64 - 1)
    }

    /// Notes one event of the transaction.
    pub fn add_event(&mut self, id: TransactionId) {
        if let Some(entry) = self.entry(id) {
            entry.outstanding += 1;
        }
    }

    /// The transaction was read to its end.
    pub fn commit(&mut self, id: TransactionId, commit_end: Lsn) {
        if let Some(entry) = self.entry(id) {
            entry.end = Some(SpanEnd::Commit(commit_end));
        }
        self.settle();
    }

    /// The transaction was read up to a place inside of it. What follows belongs to the next section, whose
    /// name is returned.
    pub fn begin_section(&mut self, id: TransactionId, resume: ResumePoint) -> TransactionId {
        if let Some(entry) = self.entry(id) {
            entry.end = Some(SpanEnd::Section(resume));
        }
        let next = self.begin();
        self.settle();
        next
    }

    /// The last transaction that was begun is not to be counted after all; nothing was noted of it.
    pub fn discard(&mut self, id: TransactionId) {
        if id.0 + 1 == self.first + self.entries.len() as u64 {
            self.entries.pop_back();
        }
    }

    /// One event of the transaction has arrived.
    pub fn acknowledge(&mut self, id: TransactionId) {
        if let Some(entry) = self.entry(id) {
            debug_assert!(entry.outstanding > 0, "acknowledged more than was sent");
            entry.outstanding = entry.outstanding.saturating_sub(1);
        }
        self.settle();
    }

    /// The window ends inside a transaction, which will be read again from where its last section ended. To
    /// be called when nothing is outstanding.
    pub fn discard_unfinished(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
    }

    /// What was reached inside a transaction does not count: it is read from its beginning. To be called when
    /// nothing is outstanding.
    pub fn restart_transaction(&mut self) {
        self.discard_unfinished();
        self.position.resume = None;
    }

    /// A window was read completely: there is nothing of ours up to `end`. To be called when nothing is
    /// outstanding.
    pub fn complete_window(&mut self, end: Lsn) {
        assert!(
            self.entries.is_empty(),
            "a window that was read completely ends between transactions"
        );
        self.advance_to(end);
    }

    /// Up to where every event has arrived.
    pub fn position(&self) -> &AckPosition {
        &self.position
    }

    /// End of the last commit up to which every event has arrived.
    pub fn acknowledged(&self) -> Lsn {
        self.position.commit_end
    }

    fn advance_to(&mut self, commit_end: Lsn) {
        let AckPosition {
            commit_end: known,
            resume,
        } = &mut self.position;
        *known = commit_end.max(*known);
        resume.take_if(|resume| resume.commit_end <= *known);
    }

    fn entry(&mut self, id: TransactionId) -> Option<&mut Span> {
        let at = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn settle(&mut self) {
        while let Some(Span {
            outstanding: 0,
            end: Some(_),
        }) = self.entries.front()
        {
            self.first += 1;
            match self.entries.pop_front().and_then(|entry| entry.end) {
                Some(SpanEnd::Commit(end)) => self.advance_to(end),
                // The sections of a transaction that is read again end before its resume point.
                Some(SpanEnd::Section(resume)) => {
                    let before = self.position.resume.as_ref();
                    let before = before.filter(|before| before.xid == resume.xid);
                    if before.is_none_or(|before| before.rows < resume.rows) {
                        self.position.resume = Some(resume);
                    }
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_transaction_counts_when_it_and_all_before_it_have_arrived() {
        let mut ledger = Acknowledgements::new(Lsn(1).into());
        let (a, b) = (ledger.begin(), ledger.begin());
        ledger.add_event(a);
        ledger.add_event(b);
        ledger.commit(a, Lsn(10));
        ledger.commit(b, Lsn(20));
        ledger.acknowledge(b);
        assert_eq!(ledger.acknowledged(), Lsn(1));
        ledger.acknowledge(a);
        assert_eq!(ledger.acknowledged(), Lsn(20));
    }

    #[test]
    fn a_transaction_that_is_still_being_read_does_not_count() {
        let mut ledger = Acknowledgements::new(Lsn(1).into());
        let a = ledger.begin();
        ledger.add_event(a);
        ledger.acknowledge(a);
        assert_eq!(ledger.acknowledged(), Lsn(1));
        ledger.commit(a, Lsn(10));
        assert_eq!(ledger.acknowledged(), Lsn(10));
    }

    fn inside(rows: u64) -> ResumePoint {
        ResumePoint {
            xid: 7,
            commit_end: Lsn(100),
            commit_time: None,
            lsn: Lsn(50),
            rows_at_lsn: 1,
            rows,
            hash: String::new(),
            counts: crate::encode::Counts::default(),
        }
    }

    #[test]
    fn a_section_counts_when_all_before_it_has_arrived_and_no_longer_once_its_transaction_has() {
        let mut ledger = Acknowledgements::new(Lsn(1).into());
        let first = ledger.begin();
        ledger.add_event(first);
        let second = ledger.begin_section(first, inside(10));
        ledger.add_event(second);
        let third = ledger.begin_section(second, inside(20));
        let rows = |ledger: &Acknowledgements| ledger.position().resume.as_ref().map(|inside| inside.rows);
        ledger.acknowledge(second);
        assert_eq!(rows(&ledger), None);
        ledger.acknowledge(first);
        assert_eq!((rows(&ledger), ledger.acknowledged()), (Some(20), Lsn(1)));
        ledger.commit(third, Lsn(100));
        assert_eq!((rows(&ledger), ledger.acknowledged()), (None, Lsn(100)));
    }

    #[test]
    fn what_was_reached_inside_a_transaction_survives_its_being_read_again() {
        let mut ledger = Acknowledgements::new(Lsn(1).into());
        let first = ledger.begin();
        ledger.begin_section(first, inside(10));
        ledger.discard_unfinished();
        let message = ledger.begin();
        ledger.commit(message, Lsn(60));
        assert_eq!(ledger.position().resume, Some(inside(10)));
        let forgotten = ledger.begin();
        ledger.discard(forgotten);
        ledger.complete_window(Lsn(99));
        assert_eq!(ledger.position().resume, Some(inside(10)));
        ledger.complete_window(Lsn(100));
        assert_eq!(ledger.position().resume, None);
    }

    proptest! {
        /// Whatever is read and whatever arrives when, the ledger never runs ahead of an event that has not
        /// arrived, neither by a transaction nor by a section of one.
        #[test]
        fn it_never_runs_ahead(steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..200)) {
            let mut ledger = Acknowledgements::new(Lsn(0).into());
            // Of the open transaction its number, its rows, and how many of these stand before its section.
            let (mut number, mut rows, mut before) = (1, 0, 0);
            let mut id = ledger.begin();
            // What has not arrived, with how far the ledger may be meanwhile.
            let mut open: Vec<(TransactionId, (u64, u64))> = Vec::new();
            for (step, which) in steps {
                match step {
                    0..4 => {
                        rows += 1;
                        ledger.add_event(id);
                        open.push((id, (number - 1, before)));
                    }
                    4 => {
                        let commit_end = Lsn(number);
                        id = ledger.begin_section(id, ResumePoint { commit_end, ..inside(rows) });
                        before = rows;
                    }
                    5 => {
                        ledger.commit(id, Lsn(number));
                        id = ledger.begin();
                        (number, rows, before) = (number + 1, 0, 0);
                    }
                    _ if open.is_empty() => {}
                    _ => ledger.acknowledge(open.swap_remove(which.index(open.len())).0),
                }
                let inside = ledger.position().resume.as_ref();
                let reached = (ledger.acknowledged().0, inside.map_or(0, |inside| inside.rows));
                prop_assert!(open.iter().all(|(_, most)| reached <= *most), "{:?} of {:?}", reached, open);
            }
            for (id, _) in open {
                ledger.acknowledge(id);
            }
            ledger.commit(id, Lsn(number));
            prop_assert_eq!(ledger.position(), &Lsn(number).into());
        }
    }
}
