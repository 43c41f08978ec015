//! The port to a Kinesis data stream.

use std::future::Future;

use super::StreamError;
use crate::pack::{Record, ShardMap};

/// A Kinesis data stream.
pub trait Stream: Clone + Send + Sync + Sized + 'static {
    /// The stream's name, for errors.
    fn name(&self) -> String;

    /// The open shards.
    ///
    /// # Errors
    /// The stream cannot be asked, or its shards do not cover all hash keys: it is being resharded.
    fn shards(&self) -> impl Future<Output = Result<ShardMap, StreamError>> + Send;

    /// Opens the stream with this name or ARN. Returns it and its description.
    ///
    /// # Errors
    /// The stream cannot be described. Or the configuration does not allow its distribution of records, or it
    /// accepts smaller records than `record_bytes`.
    fn open(
        &self,
        name: &str,
        record_bytes: usize,
    ) -> impl Future<Output = Result<(Self, StreamInfo), StreamError>> + Send;

    /// Puts records of different lanes, once. The caller sends failed records again.
    fn put(&self, records: Vec<Record>) -> impl Future<Output = PutAnswer> + Send;
}

/// Description of a stream.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Most bytes of one record, data and partition key.
    pub record_bytes: usize,
    /// Whether the partition key determines the shard. Otherwise Kinesis chooses one, and no order holds.
    pub keyed: bool,
    /// The open shards.
    pub shards: ShardMap,
}

impl StreamInfo {
    /// Checks that stream `name` accepts records of `first_bytes`, as stream `first` does.
    ///
    /// # Errors
    /// It accepts smaller ones only.
    pub fn check_record_bytes(&self, name: &str, first: &str, first_bytes: usize) -> Result<(), StreamError> {
        match self.record_bytes < first_bytes {
            true => Err(StreamError::SmallerRecords {
                stream: name.to_owned(),
                record_bytes: self.record_bytes,
                first: first.to_owned(),
                first_bytes,
            }),
            false => Ok(()),
        }
    }
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
