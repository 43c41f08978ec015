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
    /// The request failed, or the shards do not cover all hash keys because the stream is being resharded.
    fn shards(&self) -> impl Future<Output = Result<ShardMap, StreamError>> + Send;

    /// Opens the stream with this name or ARN.
    ///
    /// Returns the stream and its description.
    ///
    /// # Errors
    /// - The stream cannot be described.
    /// - The configuration does not allow the way in which the stream distributes records.
    /// - The stream does not accept records of `record_bytes`.
    fn open(
        &self,
        name: &str,
        record_bytes: usize,
    ) -> impl Future<Output = Result<(Self, StreamInfo), StreamError>> + Send;

    /// Sends one PutRecords request, without a retry. The records belong to different lanes.
    ///
    /// The caller sends failed records again.
    fn put(&self, records: Vec<Record>) -> impl Future<Output = PutAnswer> + Send;
}

/// Description of a stream.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Most bytes of one record: data and partition key.
    pub record_bytes: usize,
    /// Whether the partition key determines the shard.
    ///
    /// Otherwise Kinesis chooses a shard for each record, and records of one key may arrive in any order.
    pub key_decides_shard: bool,
    /// The open shards.
    pub shards: ShardMap,
}

impl StreamInfo {
    /// Checks that stream `name` accepts records of `first_bytes`, as stream `first` does.
    ///
    /// # Errors
    /// Stream `name` accepts only smaller records.
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
    /// The outcome of each record, in the order of `records`.
    ///
    /// After an error, the outcome of every record is unknown: Kinesis may have stored some of them.
    pub outcome: Result<Vec<RecordOutcome>, StreamError>,
}

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// The record was stored.
    Stored {
        /// The id of its shard.
        shard: String,
    },
    /// The shard throttled it.
    Throttled,
    /// Kinesis returned another error for it, or no answer.
    Failed,
}
