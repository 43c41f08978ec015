//! Detector of rows that change their lane, which `PARTITION_KEYS` makes possible.
//!
//! A row may get another partition key: its customer changes, or it is deleted and inserted again with
//! another one. Then the earlier change must be acknowledged before the later one is sent.

use std::hash::{BuildHasher as _, RandomState};

use rustc_hash::FxHashMap;

use crate::encode::Event;

/// Most rows that are remembered, about 2 MiB.
///
/// With more rows, the next event waits for all events before it.
const MAX_ROWS: usize = 1 << 16;

/// The lane of each row's last event in one window. Between two windows no event is in flight.
///
/// Two rows with the same hash only wait for each other without need.
#[derive(Debug, Default)]
pub(super) struct RowLanes {
    /// Hashes of partition keys, by the hashes of rows.
    lanes: FxHashMap<u64, u64>,
    hasher: RandomState,
}

impl RowLanes {
    /// Adds an event, and makes it a barrier if necessary.
    ///
    /// A barrier is necessary if the row may have an event in another lane that is not acknowledged.
    pub(super) fn add(&mut self, event: &mut Event) {
        if let Some(row) = event.row {
            let lane = self.hasher.hash_one(&event.partition_key);
            let is_full = self.lanes.len() >= MAX_ROWS && !self.lanes.contains_key(&row);
            let last = self.lanes.insert(row, lane);
            event.barrier |= is_full || last.is_some_and(|last| last != lane);
        }
        // A barrier waits for all events before it, and all later events wait for it.
        if event.barrier && !self.lanes.is_empty() {
            self.lanes.clear();
            if let Some(row) = event.row {
                self.lanes.insert(row, self.hasher.hash_one(&event.partition_key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::Position;

    fn event(row: u64, lane: &str) -> Event {
        Event {
            position: Position {
                commit_end: Lsn(1),
                lsn: Lsn(1),
                index: 0,
            },
            partition_key: lane.to_owned(),
            barrier: false,
            relation: None,
            data: Vec::new(),
            missing_bytes: 0,
            row: (row > 0).then_some(row),
        }
    }

    /// The events that are barriers, as `1`.
    fn barriers(events: &[(u64, &str)]) -> String {
        let mut lanes = RowLanes::default();
        let barrier = |(row, lane): &(u64, &str)| {
            let mut event = event(*row, lane);
            lanes.add(&mut event);
            if event.barrier { '1' } else { '0' }
        };
        events.iter().map(barrier).collect()
    }

    #[test]
    fn an_event_in_another_lane_than_the_last_one_of_its_row_is_a_barrier() {
        assert_eq!(barriers(&[(1, "a"), (2, "b"), (1, "a"), (2, "b")]), "0000");
        assert_eq!(barriers(&[(1, "a"), (1, "b"), (1, "b"), (1, "a")]), "0101");
        assert_eq!(barriers(&[(0, "a"), (0, "b"), (0, "a")]), "000");
    }

    #[test]
    fn what_precedes_a_barrier_is_forgotten() {
        // The second event waits for all before it, so the third need not wait.
        assert_eq!(
            barriers(&[(2, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]),
            "00101"
        );
        let mut lanes = RowLanes::default();
        lanes.add(&mut event(1, "a"));
        let mut truncate = event(0, "t");
        truncate.barrier = true;
        lanes.add(&mut truncate);
        let mut moved = event(1, "b");
        lanes.add(&mut moved);
        assert!(!moved.barrier);
    }

    #[test]
    fn the_memory_of_a_large_window_is_bounded() {
        let mut lanes = RowLanes::default();
        let mut count = 0;
        for row in 1..=3 * MAX_ROWS as u64 {
            let mut event = event(row, "a");
            lanes.add(&mut event);
            count += u32::from(event.barrier);
            assert!(lanes.lanes.len() <= MAX_ROWS);
        }
        assert_eq!(count, 2);
        // A row that was forgotten may be in flight no more.
        let mut again = event(1, "b");
        lanes.add(&mut again);
        assert!(!again.barrier || lanes.lanes.len() == 1);
    }
}
