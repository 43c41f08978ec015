//! Records as the Kinesis Client Library (KCL) delivers them.

use crate::aws::aggregate::{self, MalformedAggregate};
use crate::aws::hash_range::HashRange;

/// Passes each user record to `each`; counts the dropped records.
///
/// The arguments of `each` are partition key and data. The result is the number of dropped records. `range`
/// is the hash range of the record's shard. The KCL drops a whole aggregate when one of its records belongs
/// to another shard.
///
/// # Errors
/// The record starts like an aggregate and is none.
pub(super) fn deliver(
    range: HashRange,
    partition_key: &str,
    data: &[u8],
    mut each: impl FnMut(&str, &[u8]),
) -> Result<usize, MalformedAggregate> {
    let Some(records) = aggregate::split(data)? else {
        each(partition_key, data);
        return Ok(0);
    };
    if !records.iter().all(|record| range.contains(record.hash())) {
        return Ok(records.len());
    }
    for record in records {
        each(record.partition_key, record.data);
    }
    Ok(0)
}
