//! From events to requests: what may travel together, what must wait, and up to where everything has arrived. Pure.

mod aggregate;
mod flow;
mod forecast;
mod lanes;
mod ledger;
mod record;
mod shards;

pub use forecast::{Figures, Forecast, KeyFigures, ShardFigures, TableFigures, WayFigures};
pub use lanes::Lanes;
pub use ledger::{Ledger, TransactionId};
pub use record::{Aggregation, Limits, Parcel, Record};
pub use shards::{BrokenRing, HashKey, Shard, ShardMap};
