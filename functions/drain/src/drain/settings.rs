//! Configuration of a drain, and the limits of its requests.

use std::time::Duration;

use crate::pack::{Aggregation, RequestLimits, ShardMap};
use crate::plugin::Plugin;
use crate::rules::pattern::TablePattern;
use crate::rules::projection::ProjectionRules;
use crate::rules::skipped_operations::SkippedOperations;
use crate::rules::stream_pattern::StreamPattern;

/// Limits of one PutRecords request (Kinesis API, PutRecords).
pub const REQUEST_LIMITS: RequestLimits = RequestLimits {
    records: 500,
    bytes: 10 << 20,
};

/// Full aggregates that are sent without waiting for more.
///
/// A request costs CPU time. With one aggregate in each, a change would need a few percent more.
pub(super) const FULL_AGGREGATES: usize = 4;

/// Most bytes of an aggregate.
///
/// A shard accepts four aggregates of this size in a second. One aggregate fills ten put units of 25 KB. At
/// most one aggregate of a shard is in flight. So this is also the most that a shard receives in one round
/// trip. After a refusal, aggregates are smaller (`pack/shard_pacing.rs`).
pub const AGGREGATE_BYTES: usize = 248_000;

/// Settings of a drain.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The slot's name.
    pub slot: String,
    /// Name of the database in control events.
    pub source_name: String,
    /// The slot's plugin.
    pub plugin: Plugin,
    /// Tables to drain; empty means all that the plugin sends.
    pub tables: Vec<TablePattern>,
    /// Rules for the sent columns and the partition key of each table.
    pub projection: ProjectionRules,
    /// Operations whose changes are not sent.
    pub skipped: SkippedOperations,
    /// The streams of tables; `None` if all events go to one stream.
    pub stream_pattern: Option<StreamPattern>,
    /// Most bytes of one record, data and partition key.
    pub record_bytes: usize,
    /// Whether events of more than `record_bytes` are queued, too.
    ///
    /// This is true only for a forecast, which counts these events.
    pub passes_oversize: bool,
    /// The packing of events into records.
    pub aggregation: Aggregation,
    /// The stream's shards, as far as they are known.
    pub shards: ShardMap,
    /// Whether the partition key decides the shard.
    pub key_decides_shard: bool,
    /// Bytes that may be read and not yet acknowledged.
    pub max_unacknowledged_bytes: usize,
    /// Time for which a drain polls an empty slot.
    ///
    /// It is counted from the start of the drain.
    pub linger: Duration,
    /// Share of one server core that polls may take.
    ///
    /// It is above 0 and at most 1.
    pub poll_share: f64,
    /// Whether log that no standby has is left to a later tick.
    pub waits_for_standbys: bool,
    /// Whether markers are written.
    pub markers: bool,
}
