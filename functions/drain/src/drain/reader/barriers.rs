//! Decides which events are barriers.
//!
//! A barrier is sent only after all earlier events are acknowledged. A truncate is a barrier. An event is
//! one, too, if its row had another partition key before. Two partition keys are two lanes, so the later
//! event could arrive first.

mod key_changes;
mod row_partition_keys;

use crate::encode::Event;
use key_changes::KeyChangeDetector;
use row_partition_keys::RowPartitionKeys;

/// Makes events barriers. It knows the events that may not be acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    keys: KeyChangeDetector,
    partition_keys: RowPartitionKeys,
}

impl Barriers {
    /// Adds the next event, and makes it a barrier if necessary.
    pub(super) fn add(&mut self, event: &mut Event) {
        let relation = event.relation.as_ref();
        event.barrier |= relation.is_some_and(|relation| self.keys.remember_key(relation));
        self.partition_keys.add(event);
    }
}
