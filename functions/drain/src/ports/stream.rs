//! The port to a Kinesis data stream.

use std::future::Future;

use super::StreamError;
use crate::pack::{Record, ShardMap};

/// A Kinesis data stream.
pub trait Stream: Clone + Send + Sync + 'static {
    /// The stream's name, for errors.
    fn name(&self) -> String;

    /// The open shards.
    ///
    /// # Errors
    /// The stream cannot be asked, or its shards do not cover all hash keys: it is being resharded.
    fn shards(&self) -> impl Future<Output = Result<ShardMap, StreamError>> + Send;

    /// Puts records of different lanes, once. The caller sends failed records again.
    fn put(&self, records: Vec<Record>) -> impl Future<Output = PutAnswer> + Send;
}

/// The answer to a PutRecords request.
#[derive(Debug)]
pub struct PutAnswer {
    /// The records of the request.
    pub records: Vec<Record>,
    /// The outcome of each record. An error concerns all of them, and does not say that none arrived.
    pub outcome: Result<Vec<RecordOutcome>, StreamError>,
}

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// The record was stored.
    Stored {
        /// The name of its shard.
        shard: String,
    },
    /// The shard throttled it.
    Throttled,
    /// Kinesis failed internally.
    Failed,
}
