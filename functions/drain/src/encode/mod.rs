//! From changes to events: the bytes that a record of the stream holds, and the key that places it. Pure.

mod debezium;
mod value;

pub use debezium::Debezium;

use std::sync::Arc;

use crate::change::Relation;
use crate::position::Position;

/// A change in its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands. Sent with it, the same every time.
    pub position: Position,
    /// What decides the shard, and what must stay in order. Never empty; may be longer than Kinesis takes.
    pub partition_key: String,
    /// Whether everything before it must be acknowledged first and everything after it must wait (a truncate).
    pub barrier: bool,
    /// The table it is about; a message has none.
    pub relation: Option<Arc<Relation>>,
    /// The record's data.
    pub data: Vec<u8>,
}

/// What the events of one transaction have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its id, 32 bits as in the log; 0 for a message outside of any transaction.
    pub xid: u32,
    /// When it was committed, µs since 1970-01-01 UTC. A message outside of any transaction has none.
    pub commit_time: Option<i64>,
}
