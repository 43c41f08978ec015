//! Which events are barriers: events that are sent only after all earlier events were acknowledged.
//!
//! A truncate is a barrier. So is an event whose rows may have had another partition key before: two
//! partition keys are two lanes, and the later event could arrive first.

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
        event.barrier |= relation.is_some_and(|relation| self.keys.is_changed(relation));
        self.partition_keys.add(event);
    }
}
