//! Detector of rows that change their partition key, which `PARTITION_KEYS` makes possible.
//!
//! A row may get another partition key by an update, or by a delete and a new insert. The earlier change must
//! then be acknowledged before the later change is sent.

use std::hash::{BuildHasher as _, RandomState};

use rustc_hash::FxHashMap;

use crate::encode::Event;

/// Most rows that are remembered, about 2 MiB.
///
/// With more rows, the next event waits for all events before it.
const MAX_ROWS: usize = 1 << 16;

/// Partition key of each row's last event.
///
/// If two rows have the same hash, the only consequence is an unnecessary barrier.
#[derive(Debug, Default)]
pub(super) struct RowPartitionKeys {
    /// Hashes of partition keys, by the hashes of rows.
    by_row: FxHashMap<u64, u64>,
    hasher: RandomState,
}

impl RowPartitionKeys {
    /// Adds an event, and makes it a barrier if necessary.
    ///
    /// A barrier is necessary if the row's last event had another partition key, since that event may still
    /// be in flight. It is also necessary if the map is full.
    pub(super) fn add(&mut self, event: &mut Event) {
        if let Some(row) = event.row_hash {
            let key = self.hasher.hash_one(&event.partition_key);
            let is_full = self.by_row.len() >= MAX_ROWS && !self.by_row.contains_key(&row);
            let last = self.by_row.insert(row, key);
            event.barrier |= is_full || last.is_some_and(|last| last != key);
        }
        // A barrier waits for all events before it, and all later events wait for it.
        if event.barrier && !self.by_row.is_empty() {
            self.by_row.clear();
            if let Some(row) = event.row_hash {
                self.by_row
                    .insert(row, self.hasher.hash_one(&event.partition_key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::Position;

    fn event(row: u64, key: &str) -> Event {
        Event {
            position: Position {
                commit_end: Lsn(1),
                lsn: Lsn(1),
                index: 0,
            },
            partition_key: key.to_owned(),
            barrier: false,
            relation: None,
            data: Vec::new(),
            missing_bytes: 0,
            row_hash: (row > 0).then_some(row),
        }
    }

    /// One digit for each event: `1` if it is a barrier.
    fn barriers(events: &[(u64, &str)]) -> String {
        let mut keys = RowPartitionKeys::default();
        let barrier = |(row, key): &(u64, &str)| {
            let mut event = event(*row, key);
            keys.add(&mut event);
            if event.barrier { '1' } else { '0' }
        };
        events.iter().map(barrier).collect()
    }

    #[test]
    fn an_event_with_another_partition_key_than_the_last_one_of_its_row_is_a_barrier() {
        assert_eq!(barriers(&[(1, "a"), (2, "b"), (1, "a"), (2, "b")]), "0000");
        assert_eq!(barriers(&[(1, "a"), (1, "b"), (1, "b"), (1, "a")]), "0101");
        assert_eq!(barriers(&[(0, "a"), (0, "b"), (0, "a")]), "000");
    }

    #[test]
    fn rows_before_a_barrier_are_forgotten() {
        // The third event is a barrier. So the fourth need not be one.
        assert_eq!(
            barriers(&[(2, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]),
            "00101"
        );
        let mut keys = RowPartitionKeys::default();
        keys.add(&mut event(1, "a"));
        let mut truncate = event(0, "t");
        truncate.barrier = true;
        keys.add(&mut truncate);
        let mut moved = event(1, "b");
        keys.add(&mut moved);
        assert!(!moved.barrier);
    }

    #[test]
    fn the_memory_of_a_large_window_is_bounded() {
        let mut keys = RowPartitionKeys::default();
        let mut count = 0;
        for row in 1..=3 * MAX_ROWS as u64 {
            let mut event = event(row, "a");
            keys.add(&mut event);
            count += u32::from(event.barrier);
            assert!(keys.by_row.len() <= MAX_ROWS);
        }
        assert_eq!(count, 2);
        // The last event of a forgotten row is no longer in flight.
        let mut again = event(1, "b");
        keys.add(&mut again);
        assert!(!again.barrier || keys.by_row.len() == 1);
    }
}
