//! From events to requests: lanes, records, shards and acknowledgements.
//!
//! A pure module.

mod acknowledgements;
mod aggregate;
mod forecast;
mod lane;
mod lanes;
mod outstanding;
mod record;
mod shard_pacing;
mod shard_rate;
mod shards;
mod stream_shards;

pub use acknowledgements::{AcknowledgedCounts, Acknowledgements, SpanId};
pub use forecast::{
    Forecast, ForecastSettings, KeyFigures, PackingFigures, PlanFigures, ShardFigures, TableFigures,
};
pub use lanes::Lanes;
pub use outstanding::{OutstandingEvent, OutstandingEvents};
pub use record::{Aggregation, QueuedEvent, Record, RequestLimits};
pub use shards::{HashKey, InvalidShardMap, Shard, ShardMap};
pub use stream_shards::{MAIN_STREAM, StreamShards};
