//! Which transactions have arrived whole. Events are acknowledged in any order; the ledger tells up to where all of them were.

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// Names a transaction in the ledger; ascending in commit order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TransactionId(u64);

#[derive(Debug)]
struct Entry {
    /// Events that were opened and not yet acknowledged.
    outstanding: u64,
    /// Set when the transaction was read to its end.
    commit_end: Option<Lsn>,
}

/// The transactions that are not acknowledged yet, in commit order.
#[derive(Debug)]
pub struct Ledger {
    first: u64,
    entries: VecDeque<Entry>,
    acknowledged: Lsn,
}

impl Ledger {
    /// A ledger that starts where everything before `acknowledged` has arrived.
    pub fn new(acknowledged: Lsn) -> Self {
        Ledger {
            first: 0,
            entries: VecDeque::new(),
            acknowledged,
        }
    }

    /// Opens the next transaction.
    pub fn begin(&mut self) -> TransactionId {
        self.entries.push_back(Entry {
            outstanding: 0,
            commit_end: None,
        });
        TransactionId(self.first + self.entries.len() as u64 - 1)
    }

    /// Notes one event of the transaction.
    pub fn add(&mut self, id: TransactionId) {
        if let Some(entry) = self.entry(id) {
            entry.outstanding += 1;
        }
    }

    /// The transaction was read to its end.
    pub fn commit(&mut self, id: TransactionId, commit_end: Lsn) {
        if let Some(entry) = self.entry(id) {
            entry.commit_end = Some(commit_end);
        }
        self.settle();
    }

    /// One event of the transaction has arrived.
    pub fn acknowledge(&mut self, id: TransactionId) {
        if let Some(entry) = self.entry(id) {
            debug_assert!(entry.outstanding > 0, "acknowledged more than was sent");
            entry.outstanding = entry.outstanding.saturating_sub(1);
        }
        self.settle();
    }

    /// The window ends inside a transaction, which will be read again from its beginning. To be called when nothing is
    /// outstanding.
    pub fn abandon(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
    }

    /// A window was read completely: there is nothing of ours up to `end`. To be called when nothing is outstanding.
    pub fn examined(&mut self, end: Lsn) {
        assert!(
            self.entries.is_empty(),
            "a window that was read completely ends between transactions"
        );
        self.acknowledged = self.acknowledged.max(end);
    }

    /// End of the last commit up to which every event has arrived.
    pub fn acknowledged(&self) -> Lsn {
        self.acknowledged
    }

    fn entry(&mut self, id: TransactionId) -> Option<&mut Entry> {
        let at = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn settle(&mut self) {
        while let Some(Entry {
            outstanding: 0,
            commit_end: Some(end),
        }) = self.entries.front()
        {
            self.acknowledged = self.acknowledged.max(*end);
            self.entries.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_transaction_counts_when_it_and_all_before_it_have_arrived() {
        let mut ledger = Ledger::new(Lsn(1));
        let (a, b) = (ledger.begin(), ledger.begin());
        ledger.add(a);
        ledger.add(b);
        ledger.commit(a, Lsn(10));
        ledger.commit(b, Lsn(20));
        ledger.acknowledge(b);
        assert_eq!(ledger.acknowledged(), Lsn(1));
        ledger.acknowledge(a);
        assert_eq!(ledger.acknowledged(), Lsn(20));
    }

    #[test]
    fn a_transaction_that_is_still_being_read_does_not_count() {
        let mut ledger = Ledger::new(Lsn(1));
        let a = ledger.begin();
        ledger.add(a);
        ledger.acknowledge(a);
        assert_eq!(ledger.acknowledged(), Lsn(1));
        ledger.commit(a, Lsn(10));
        assert_eq!(ledger.acknowledged(), Lsn(10));
    }

    proptest! {
        /// Whatever order acknowledgements come in, the ledger never runs ahead of an event that has not arrived.
        #[test]
        fn it_never_runs_ahead(sizes in prop::collection::vec(0usize..4, 1..20), seed: u64) {
            let mut ledger = Ledger::new(Lsn(0));
            let mut open: Vec<(TransactionId, u64)> = Vec::new();
            for (n, size) in sizes.iter().enumerate() {
                let id = ledger.begin();
                let end = (n as u64 + 1) * 10;
                for _ in 0..*size {
                    ledger.add(id);
                    open.push((id, end));
                }
                ledger.commit(id, Lsn(end));
            }
            let mut seed = seed;
            while !open.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (id, _) = open.swap_remove((seed >> 33) as usize % open.len());
                ledger.acknowledge(id);
                let bound = open.iter().map(|(_, end)| *end).min().unwrap_or(u64::MAX);
                prop_assert!(ledger.acknowledged().0 < bound);
            }
            prop_assert_eq!(ledger.acknowledged(), Lsn(sizes.len() as u64 * 10));
        }
    }
}
