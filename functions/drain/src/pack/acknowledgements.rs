//! The position up to which every event is acknowledged.
//!
//! Events are acknowledged in any order. The position advances past a transaction, or a section of one, after
//! all of its events and all earlier events are acknowledged.

use std::collections::VecDeque;

use crate::base::lsn::Lsn;
use crate::continuity::checkpoint::{AckPosition, ResumePoint};

/// The id of a span: a transaction, or a section of one.
///
/// The ids ascend in the order of commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SpanId(u64);

/// A transaction, or a section of one. Only large transactions have sections.
#[derive(Debug)]
struct Span {
    /// Events that are not acknowledged yet.
    outstanding: u64,
    /// Events that are acknowledged.
    acknowledged: u64,
    counts: AcknowledgedCounts,
    /// Its end; `None` until it was read completely.
    end: Option<SpanEnd>,
}

/// Counts of the transactions and changes up to the acknowledged position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AcknowledgedCounts {
    /// Transactions with at least one change.
    pub transactions: u64,
    /// Changes.
    pub changes: u64,
    /// Commit time of the last of these transactions.
    ///
    /// The unit is µs since 1970-01-01 UTC. `None` before the first transaction.
    pub last_commit: Option<i64>,
}

/// The end of a span.
#[derive(Debug)]
enum SpanEnd {
    /// The end of the transaction's commit record.
    Commit(Lsn),
    /// The end of a section inside the transaction.
    ///
    /// It is boxed, so that the many spans without sections need less memory.
    Section(Box<ResumePoint>),
}

/// The transactions that are not acknowledged completely, in commit order.
#[derive(Debug)]
pub struct Acknowledgements {
    /// The id of the first span.
    first: u64,
    spans: VecDeque<Span>,
    position: AckPosition,
    counts: AcknowledgedCounts,
    /// Acknowledged events after the position.
    ahead: u64,
}

impl Acknowledgements {
    /// No transactions. Every change up to `position` was acknowledged earlier.
    pub fn new(position: AckPosition) -> Self {
        Acknowledgements {
            first: 0,
            spans: VecDeque::new(),
            position,
            counts: AcknowledgedCounts::default(),
            ahead: 0,
        }
    }

    /// Begins the next transaction. Returns its id.
    pub fn begin(&mut self) -> SpanId {
        self.spans.push_back(Span {
            outstanding: 0,
            acknowledged: 0,
            counts: AcknowledgedCounts::default(),
            end: None,
        });
        SpanId(self.first + self.spans.len() as u64 - 1)
    }

    /// Adds an outstanding event of a transaction.
    pub fn add_event(&mut self, id: SpanId) {
        if let Some(span) = self.span(id) {
            span.outstanding += 1;
        }
    }

    /// Counts a change of a transaction.
    pub fn add_change(&mut self, id: SpanId) {
        if let Some(span) = self.span(id) {
            span.counts.changes += 1;
        }
    }

    /// Counts a transaction that has changes. The call must precede its end.
    ///
    /// `commit_time` is in µs since 1970-01-01 UTC.
    pub fn add_transaction(&mut self, id: SpanId, commit_time: Option<i64>) {
        if let Some(span) = self.span(id) {
            span.counts.transactions += 1;
            span.counts.last_commit = commit_time;
        }
    }

    /// Counts of the transactions and changes up to the acknowledged position.
    pub fn counts(&self) -> AcknowledgedCounts {
        self.counts
    }

    /// Ends a transaction that was read to its commit.
    pub fn commit(&mut self, id: SpanId, commit_end: Lsn) {
        if let Some(span) = self.span(id) {
            span.end = Some(SpanEnd::Commit(commit_end));
        }
        self.remove_acknowledged();
    }

    /// Ends a section of a transaction that was read up to `resume`.
    ///
    /// Returns the id of the next section. The following events belong to it.
    pub fn begin_section(&mut self, id: SpanId, resume: ResumePoint) -> SpanId {
        if let Some(span) = self.span(id) {
            span.end = Some(SpanEnd::Section(Box::new(resume)));
        }
        let next = self.begin();
        self.remove_acknowledged();
        next
    }

    /// Removes the last transaction, which must have no events.
    pub fn discard(&mut self, id: SpanId) {
        if id.0 + 1 == self.first + self.spans.len() as u64 {
            self.spans.pop_back();
        }
    }

    /// Acknowledges one event of a transaction.
    pub fn acknowledge(&mut self, id: SpanId) {
        if let Some(span) = self.span(id) {
            debug_assert!(span.outstanding > 0, "more events were acknowledged than added");
            span.outstanding = span.outstanding.saturating_sub(1);
            span.acknowledged += 1;
            self.ahead += 1;
        }
        self.remove_acknowledged();
    }

    /// Removes the transaction that was not read completely.
    ///
    /// It is read again from the end of its last section. All events must be acknowledged.
    pub fn discard_unfinished(&mut self) {
        self.first += self.spans.len() as u64;
        self.spans.clear();
        self.ahead = 0;
    }

    /// Sets the position back to the start of the transaction.
    ///
    /// The whole transaction is then read again. All events must be acknowledged.
    pub fn restart_transaction(&mut self) {
        self.discard_unfinished();
        self.position.resume = None;
    }

    /// Ends a window that was read completely, up to `end`.
    ///
    /// The position advances to `end` once all events are acknowledged.
    ///
    /// # Panics
    /// A transaction is open.
    pub fn complete_window(&mut self, end: Lsn) {
        assert!(
            self.spans.back().is_none_or(|span| span.end.is_some()),
            "a complete window ends between transactions"
        );
        let id = self.begin();
        self.commit(id, end);
    }

    /// The end of the last transaction or window that was read.
    ///
    /// It is the position if no event is unacknowledged, or if a transaction is open.
    pub fn last_end(&self) -> Lsn {
        let last = self.spans.back().and_then(|span| span.end.as_ref());
        match last {
            Some(SpanEnd::Commit(end)) => self.position.commit_end.max(*end),
            Some(SpanEnd::Section(_)) | None => self.position.commit_end,
        }
    }

    /// Approximate memory of the transactions that are not acknowledged completely, in bytes.
    ///
    /// Behind an event that is not acknowledged, every transaction needs memory, even one without events.
    pub fn memory(&self) -> usize {
        self.spans.len() * size_of::<Span>()
    }

    /// The position up to which every event is acknowledged.
    pub fn position(&self) -> &AckPosition {
        &self.position
    }

    /// Acknowledged events after the position.
    pub fn acknowledged_ahead(&self) -> u64 {
        self.ahead
    }

    /// The acknowledged position, without its resume point.
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

    fn span(&mut self, id: SpanId) -> Option<&mut Span> {
        let index = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.spans.get_mut(index)
    }

    /// Removes the first spans that were read completely and are acknowledged.
    ///
    /// The position advances past these spans.
    fn remove_acknowledged(&mut self) {
        while let Some(Span {
            outstanding: 0,
            acknowledged,
            end: Some(_),
            counts,
        }) = self.spans.front()
        {
            self.ahead -= acknowledged;
            self.counts.transactions += counts.transactions;
            self.counts.changes += counts.changes;
            self.counts.last_commit = counts.last_commit.or(self.counts.last_commit);
            self.first += 1;
            match self.spans.pop_front().and_then(|span| span.end) {
                Some(SpanEnd::Commit(end)) => self.advance_to(end),
                // If a transaction is read again, some of its sections end before its resume point.
                Some(SpanEnd::Section(resume)) => {
                    let known = self.position.resume.as_ref();
                    let known = known.filter(|known| known.xid == resume.xid);
                    if known.is_none_or(|known| known.rows < resume.rows) {
                        self.position.resume = Some(*resume);
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
    fn the_position_advances_after_all_earlier_transactions_are_acknowledged() {
        let mut acknowledgements = Acknowledgements::new(Lsn(1).into());
        let (a, b) = (acknowledgements.begin(), acknowledgements.begin());
        for id in [a, b] {
            acknowledgements.add_event(id);
            acknowledgements.add_change(id);
            acknowledgements.add_transaction(id, Some(7));
        }
        acknowledgements.commit(a, Lsn(10));
        acknowledgements.commit(b, Lsn(20));
        acknowledgements.acknowledge(b);
        assert_eq!(acknowledgements.acknowledged(), Lsn(1));
        assert_eq!(acknowledgements.acknowledged_ahead(), 1);
        assert_eq!(acknowledgements.counts(), AcknowledgedCounts::default());
        acknowledgements.acknowledge(a);
        assert_eq!(acknowledgements.acknowledged(), Lsn(20));
        assert_eq!(acknowledgements.acknowledged_ahead(), 0);
        let both = AcknowledgedCounts {
            transactions: 2,
            changes: 2,
            last_commit: Some(7),
        };
        assert_eq!(acknowledgements.counts(), both);
    }

    #[test]
    fn transactions_behind_an_outstanding_event_need_memory() {
        let mut acknowledgements = Acknowledgements::new(Lsn(1).into());
        let first = acknowledgements.begin();
        acknowledgements.add_event(first);
        acknowledgements.commit(first, Lsn(2));
        for lsn in 3..1_003 {
            let id = acknowledgements.begin();
            acknowledgements.commit(id, Lsn(lsn));
        }
        assert!(
            acknowledgements.memory() > 64_000,
            "{}",
            acknowledgements.memory()
        );
        acknowledgements.acknowledge(first);
        assert_eq!(acknowledgements.memory(), 0);
    }

    #[test]
    fn the_position_does_not_advance_past_an_open_transaction() {
        let mut acknowledgements = Acknowledgements::new(Lsn(1).into());
        let a = acknowledgements.begin();
        acknowledgements.add_event(a);
        acknowledgements.acknowledge(a);
        assert_eq!(acknowledgements.acknowledged(), Lsn(1));
        acknowledgements.commit(a, Lsn(10));
        assert_eq!(acknowledgements.acknowledged(), Lsn(10));
    }

    fn resume_point(rows: u64) -> ResumePoint {
        ResumePoint {
            xid: 7,
            commit_end: Lsn(100),
            commit_time: None,
            lsn: Lsn(50),
            rows_at_lsn: 1,
            rows,
            hash: String::new(),
            counts: crate::encode::EventCounts::default(),
        }
    }

    #[test]
    fn a_resume_point_is_valid_until_its_transaction_is_acknowledged() {
        let mut acknowledgements = Acknowledgements::new(Lsn(1).into());
        let first = acknowledgements.begin();
        acknowledgements.add_event(first);
        let second = acknowledgements.begin_section(first, resume_point(10));
        acknowledgements.add_event(second);
        let third = acknowledgements.begin_section(second, resume_point(20));
        let rows = |acknowledgements: &Acknowledgements| {
            acknowledgements
                .position()
                .resume
                .as_ref()
                .map(|resume| resume.rows)
        };
        acknowledgements.acknowledge(second);
        assert_eq!(rows(&acknowledgements), None);
        acknowledgements.acknowledge(first);
        assert_eq!(
            (rows(&acknowledgements), acknowledgements.acknowledged()),
            (Some(20), Lsn(1))
        );
        acknowledgements.commit(third, Lsn(100));
        assert_eq!(
            (rows(&acknowledgements), acknowledgements.acknowledged()),
            (None, Lsn(100))
        );
    }

    #[test]
    fn a_resume_point_stays_while_its_transaction_is_read_again() {
        let mut acknowledgements = Acknowledgements::new(Lsn(1).into());
        let first = acknowledgements.begin();
        acknowledgements.begin_section(first, resume_point(10));
        acknowledgements.discard_unfinished();
        let message = acknowledgements.begin();
        acknowledgements.commit(message, Lsn(60));
        assert_eq!(acknowledgements.position().resume, Some(resume_point(10)));
        let discarded = acknowledgements.begin();
        acknowledgements.discard(discarded);
        acknowledgements.complete_window(Lsn(99));
        assert_eq!(acknowledgements.position().resume, Some(resume_point(10)));
        acknowledgements.complete_window(Lsn(100));
        assert_eq!(acknowledgements.position().resume, None);
    }

    proptest! {
        /// The position never passes an event that is not acknowledged.
        ///
        /// This is true for the ends of transactions and of sections.
        #[test]
        fn the_position_never_passes_an_outstanding_event(
            steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut acknowledgements = Acknowledgements::new(Lsn(0).into());
            // The open transaction: its number, its rows, and the rows before its current section.
            let (mut number, mut rows, mut before) = (1, 0, 0);
            let mut id = acknowledgements.begin();
            // The outstanding events, each with the last position that may be acknowledged while it is
            // outstanding.
            let mut open: Vec<(SpanId, (u64, u64))> = Vec::new();
            for (step, which) in steps {
                match step {
                    0..4 => {
                        rows += 1;
                        acknowledgements.add_event(id);
                        open.push((id, (number - 1, before)));
                    }
                    4 => {
                        let commit_end = Lsn(number);
                        let resume = ResumePoint { commit_end, ..resume_point(rows) };
                        id = acknowledgements.begin_section(id, resume);
                        before = rows;
                    }
                    5 => {
                        acknowledgements.commit(id, Lsn(number));
                        id = acknowledgements.begin();
                        (number, rows, before) = (number + 1, 0, 0);
                    }
                    _ if open.is_empty() => {}
                    _ => acknowledgements.acknowledge(open.swap_remove(which.index(open.len())).0),
                }
                let resume = acknowledgements.position().resume.as_ref();
                let reached = (
                    acknowledgements.acknowledged().0,
                    resume.map_or(0, |resume| resume.rows),
                );
                let is_behind = open.iter().all(|(_, most)| reached <= *most);
                prop_assert!(is_behind, "{:?} of {:?}", reached, open);
            }
            for (id, _) in open {
                acknowledgements.acknowledge(id);
            }
            acknowledgements.commit(id, Lsn(number));
            prop_assert_eq!(acknowledgements.position(), &Lsn(number).into());
        }
    }
}
