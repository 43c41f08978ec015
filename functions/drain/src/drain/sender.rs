//! The sender: from queued events to acknowledged records.
//!
//! It keeps several requests in flight, and sends refused records again. It limits the rate of a throttled
//! shard, and reloads the shard map of a stream that was resharded.

mod events_in_flight;
mod queue_bounds;
mod resharding;
mod throughput;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::report::Report;
use super::settings::{FULL_AGGREGATES, REQUEST_LIMITS, Settings};
use super::stream_routes::StreamOpener;
use crate::base::error_kind::ErrorKind;
use crate::continuity::checkpoint::AckPosition;
use crate::encode::SpareEvents;
use crate::error::Error;
use crate::pack::{
    Acknowledgements, Aggregation, Lanes, MAIN_STREAM, OutstandingEvents, QueuedEvent, Record, ShardMap,
};
use crate::ports::{PutAnswer, RecordOutcome, Stream, StreamError};

use events_in_flight::EventsInFlight;
use queue_bounds::QueueBounds;

/// Maximum number of requests in flight.
///
/// More requests do not help: a lane has one record in flight, and a shard accepts 1,000 records a second.
const MAX_REQUESTS: usize = 16;

/// Requests in flight to one stream from which small requests wait.
///
/// A further request then needs [`MIN_BATCH_RECORDS`]. Each answer makes a few more records sendable. Without
/// this bound, those few records would be a request of their own.
const BATCHING_REQUESTS: usize = 4;

/// See [`BATCHING_REQUESTS`].
const MIN_BATCH_RECORDS: usize = 100;

/// First and longest pause, in seconds, after a record failed.
const RECORD_BACKOFF: (f64, f64) = (0.05, 2.0);
/// First and longest pause after a shard throttled.
const SHARD_BACKOFF: (f64, f64) = (0.05, 0.4);
/// First and longest pause between two ListShards requests.
const LIST_BACKOFF: (f64, f64) = (0.05, 1.0);

/// An answer of the stream.
pub(super) enum StreamAnswer {
    /// To a PutRecords request, with the request's number and duration.
    Put(u64, PutAnswer, Duration),
    /// To a ListShards request for each stream with a stale map.
    Shards(Vec<(usize, Result<ShardMap, StreamError>)>),
}

/// A stream that the sender puts records to.
struct OpenStream<K> {
    stream: K,
    /// Whether the partition key decides the shard.
    key_decides_shard: bool,
    /// Time until which answers are not compared with the stale shard map.
    map_kept_until: Option<Instant>,
    /// Requests in flight.
    requests: usize,
    /// Error since the last acknowledged record.
    ///
    /// A failed request replaces an earlier error. A failed or misplaced record does not.
    last_error: Option<StreamError>,
}

impl<K> OpenStream<K> {
    fn new(stream: K, key_decides_shard: bool) -> Self {
        OpenStream {
            stream,
            key_decides_shard,
            map_kept_until: None,
            requests: 0,
            last_error: None,
        }
    }

    /// Least records of the next request: see [`BATCHING_REQUESTS`].
    fn least_records(&self) -> usize {
        match self.requests {
            0..BATCHING_REQUESTS => 1,
            _ => MIN_BATCH_RECORDS,
        }
    }
}

/// Sends the events of one drain.
pub(super) struct Sender<K> {
    /// The streams, by their numbers. The first one is open from the beginning.
    streams: Vec<OpenStream<K>>,
    /// Maximum bytes of one record. Each stream accepts such records.
    record_bytes: usize,
    aggregation: Aggregation,
    bounds: QueueBounds,
    lanes: Lanes,
    pub(super) acknowledgements: Acknowledgements,
    in_flight: JoinSet<StreamAnswer>,
    /// The events of each request in flight, by the request's number.
    events_in_flight: EventsInFlight,
    /// Maximum number of requests in flight.
    ///
    /// A failed PutRecords request halves it. A successful one adds one.
    max_requests: usize,
    /// The streams with a stale shard map, by their numbers.
    ///
    /// A record was stored in another shard than the map has for its key. Sending stops until ListShards
    /// answers. With aggregation, it stops until each of these streams has a new map. The value counts the
    /// ListShards answers without a new map. It determines the pause before the next request.
    stale: BTreeMap<usize, u32>,
    /// Aggregates that were stored in an unexpected shard.
    ///
    /// The stale map names another shard. Each aggregate has the id of the shard that stored it. The next map
    /// decides whether consumers accept them.
    misplaced: Vec<(Record, String)>,
    /// Whether nothing more is sent: the stream failed definitely, or a request was lost.
    has_stopped: bool,
    /// Acknowledged events, whose buffers the reader uses again.
    pub(super) spare: SpareEvents,
}

impl<K: Stream> StreamOpener for Sender<K> {
    async fn open_stream(&mut self, name: &str) -> Result<usize, StreamError> {
        let main = &self.streams[MAIN_STREAM].stream;
        let (stream, info) = main.open(name, self.record_bytes).await?;
        self.lanes.add_stream(info.shards);
        self.streams.push(OpenStream::new(stream, info.key_decides_shard));
        Ok(self.streams.len() - 1)
    }
}

impl<K: Stream> Sender<K> {
    /// A sender that starts at `position`. Every event must be acknowledged before `deadline`.
    pub(super) fn new(stream: K, settings: &Settings, position: AckPosition, deadline: Instant) -> Self {
        Sender {
            streams: vec![OpenStream::new(stream, settings.key_decides_shard)],
            record_bytes: settings.record_bytes,
            aggregation: settings.aggregation,
            bounds: QueueBounds::new(settings.max_unacknowledged_bytes, deadline),
            lanes: Lanes::new(settings.aggregation, settings.shards.clone()),
            acknowledgements: Acknowledgements::new(position),
            in_flight: JoinSet::new(),
            events_in_flight: EventsInFlight::default(),
            max_requests: MAX_REQUESTS / 2,
            stale: BTreeMap::new(),
            misplaced: Vec::new(),
            has_stopped: false,
            spare: SpareEvents::default(),
        }
    }

    /// The name of the first stream, for errors.
    pub(super) fn stream_name(&self) -> String {
        self.name_of(MAIN_STREAM)
    }

    fn name_of(&self, stream: usize) -> String {
        self.streams[stream].stream.name()
    }

    /// Adds an event to its lane.
    pub(super) fn push(&mut self, event: QueuedEvent) {
        self.lanes.push(event);
    }

    /// The events that are not acknowledged.
    ///
    /// Returns `None` if events were not queued in the order of their positions.
    pub(super) fn outstanding(&self) -> Option<OutstandingEvents> {
        let misplaced = self.misplaced.iter().flat_map(|(record, _)| record.events());
        let misplaced = misplaced.map(QueuedEvent::outstanding);
        self.lanes
            .outstanding(self.events_in_flight.events().chain(misplaced))
    }

    /// Whether every event was acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether an answer is outstanding.
    pub(super) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether nothing is left to do.
    ///
    /// Every event was acknowledged, or sending has stopped and the last answers arrived. The sender does not
    /// wait for an outstanding answer to ListShards.
    pub(super) fn is_done(&self) -> bool {
        self.lanes.is_empty() || (self.has_stopped && self.in_flight.is_empty())
    }

    /// Updates the bounds of the waiting events: see [`QueueBounds::update`].
    pub(super) fn update_bounds(&mut self, now: Instant) {
        self.bounds.update(now, &self.lanes);
    }

    /// Whether more events may be read: see [`QueueBounds::has_room`].
    pub(super) fn has_room(&self) -> bool {
        self.bounds.has_room(&self.lanes, &self.acknowledgements)
    }

    /// Time in which the queued events are expected to be acknowledged.
    pub(super) fn remaining_time(&self) -> Duration {
        self.bounds.remaining_time(&self.lanes, self.aggregation)
    }

    /// Whether a full request can be sent now.
    pub(super) fn can_send_full(&self) -> bool {
        // Events that wait must not use up the memory: otherwise aggregates are sent that are not full.
        let full_aggregates = match self.bounds.is_memory_short(&self.lanes) {
            true => 1,
            false => FULL_AGGREGATES,
        };
        self.may_send() && self.lanes.has_full_request(REQUEST_LIMITS, full_aggregates)
    }

    /// Whether a request should be sent while no row is available.
    ///
    /// Aggregates wait for more events as long as there is room. A shard's next aggregate can be sent only
    /// after this one is acknowledged, so a small one would reduce the throughput.
    pub(super) fn should_send(&self) -> bool {
        match self.aggregation {
            Aggregation::Kpl { .. } if self.has_room() => self.can_send_full(),
            _ => self.can_send_any(),
        }
    }

    /// Whether a request that need not be full can be sent now.
    pub(super) fn can_send_any(&self) -> bool {
        let least = |stream: usize| self.streams[stream].least_records();
        self.may_send() && self.lanes.next_stream(least).is_some()
    }

    fn may_send(&self) -> bool {
        !self.has_stopped && self.stale.is_empty() && self.in_flight.len() < self.max_requests
    }

    /// Time at which the next delayed record may be sent.
    ///
    /// A record is delayed after it failed, or while its shard pauses. Returns `None` if no record is
    /// delayed, or if no request may be sent now. The caller asks again after each answer and each request.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.lanes.next_retry().filter(|_| self.may_send())
    }

    /// Sends one request of the oldest sendable records of a stream.
    ///
    /// A stream that answers slowly does not delay the others. With `full`, the request has only records that
    /// need not wait for more events. Sends nothing if no record is sendable.
    pub(super) fn send(&mut self, full: bool) {
        let streams = &self.streams;
        let least = |stream: usize| match self.aggregation {
            Aggregation::None if full => REQUEST_LIMITS.records,
            _ => streams[stream].least_records(),
        };
        let records = self
            .lanes
            .next_request(Instant::now(), REQUEST_LIMITS, full, least);
        if let Some(first) = records.first() {
            let open = &mut self.streams[first.stream()];
            open.requests += 1;
            let stream = open.stream.clone();
            self.bounds.start_request();
            let number = self.events_in_flight.add(&records);
            self.in_flight.spawn(async move {
                let began = Instant::now();
                StreamAnswer::Put(number, stream.put(records).await, began.elapsed())
            });
        }
    }

    /// The next answer. Waits forever if none is outstanding. This call is cancel safe.
    ///
    /// # Errors
    /// The task that sent a request panicked, and the events of the request are lost. They are never
    /// acknowledged, and nothing more is sent. The next invocation reads them again.
    pub(super) async fn next_answer(&mut self) -> Result<StreamAnswer, Error> {
        match self.in_flight.join_next().await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                self.has_stopped = true;
                Err(Error::Stream(StreamError::Lost {
                    stream: self.stream_name(),
                    source: Box::new(error),
                }))
            }
            None => std::future::pending().await,
        }
    }

    /// Sends the queued events until `other` has ended. Returns its output.
    ///
    /// # Errors
    /// As [`Sender::apply_answer`]. `other` is then dropped.
    pub(super) async fn send_while<T>(
        &mut self,
        other: impl Future<Output = T>,
        report: &mut Report,
    ) -> Result<T, Error> {
        tokio::pin!(other);
        loop {
            while self.can_send_any() {
                self.send(false);
            }
            let retry = self.next_try();
            tokio::select! {
                biased;
                output = &mut other => return Ok(output),
                answer = self.next_answer(), if self.is_waiting() => self.apply_answer(answer?, report)?,
                () = sleep_until(retry), if retry.is_some() => self.send(false),
            }
        }
    }

    /// Applies an answer.
    ///
    /// # Errors
    /// The stream failed definitely. From then on nothing is sent.
    pub(super) fn apply_answer(&mut self, answer: StreamAnswer, report: &mut Report) -> Result<(), Error> {
        let memory_before = self.lanes.memory();
        let result = match answer {
            StreamAnswer::Put(number, answer, took) => {
                self.events_in_flight.remove(number);
                let result = self.apply_put(answer, report);
                let acknowledged = memory_before.saturating_sub(self.lanes.memory());
                self.bounds
                    .end_request(took, acknowledged, !self.in_flight.is_empty());
                result
            }
            StreamAnswer::Shards(listed) => self.apply_shards(listed, report),
        };
        self.list_shards_if_stale();
        result
    }

    fn apply_put(&mut self, answer: PutAnswer, report: &mut Report) -> Result<(), Error> {
        report.requests += 1;
        let stream = answer.records.first().map_or(MAIN_STREAM, Record::stream);
        self.streams[stream].requests -= 1;
        let (outcomes, error) = match answer.outcome {
            Ok(outcomes) => (outcomes, None),
            Err(error) => {
                let outcome = match error {
                    StreamError::Throttled { .. } => RecordOutcome::Throttled,
                    _ => RecordOutcome::Failed,
                };
                (vec![outcome; answer.records.len()], Some(error))
            }
        };
        self.apply_outcomes(answer.records, outcomes, report);
        let Some(error) = error else {
            self.max_requests = (self.max_requests + 1).min(MAX_REQUESTS);
            return Ok(());
        };
        self.max_requests = (self.max_requests / 2).max(1);
        if error.kind() == ErrorKind::Definite {
            self.has_stopped = true;
            return Err(Error::Stream(error));
        }
        tracing::debug!(error = %error, "request failed, sending again");
        self.streams[stream].last_error = Some(error);
        Ok(())
    }

    fn apply_outcomes(&mut self, records: Vec<Record>, outcomes: Vec<RecordOutcome>, report: &mut Report) {
        let now = Instant::now();
        // By shard: the numbers of records that were sent to it, stored and throttled.
        let mut shards: BTreeMap<usize, (usize, usize, usize)> = BTreeMap::new();
        // An answer may be shorter than the request. Records without an outcome are sent again.
        let outcomes = outcomes
            .into_iter()
            .chain(std::iter::repeat(RecordOutcome::Failed));
        for (record, outcome) in records.into_iter().zip(outcomes) {
            let (sent, stored, throttled) = shards.entry(record.shard()).or_default();
            *sent += 1;
            *stored += usize::from(matches!(outcome, RecordOutcome::Stored { .. }));
            *throttled += usize::from(outcome == RecordOutcome::Throttled);
            self.apply_outcome(now, record, outcome, report);
        }
        for (shard, (sent, stored, throttled)) in shards {
            if throttled > 0 {
                let pause = |times| backoff(SHARD_BACKOFF, times);
                self.lanes.pause_shard(now, shard, (sent, throttled), pause);
            } else if stored == sent {
                self.lanes.raise_limit(shard);
            }
        }
    }

    fn apply_outcome(&mut self, now: Instant, record: Record, outcome: RecordOutcome, report: &mut Report) {
        match outcome {
            RecordOutcome::Stored { shard } if self.is_in_expected_shard(&record, &shard) => {
                self.acknowledge(now, record, report);
            }
            RecordOutcome::Stored { shard } => {
                self.stale.entry(record.stream()).or_insert(0);
                match record.is_aggregate() {
                    true => self.misplaced.push((record, shard)),
                    false => self.acknowledge(now, record, report),
                }
            }
            RecordOutcome::Throttled => {
                report.throttled += 1;
                report.retried += 1;
                // The pause of the shard is enough. If this lane had a longer delay of its own, lanes with
                // later events would send first.
                self.lanes.retry_throttled(now, record);
            }
            RecordOutcome::Failed => {
                self.set_last_error(record.stream(), |stream| StreamError::Failing { stream });
                self.retry(now, record, report);
            }
        }
    }

    fn acknowledge(&mut self, now: Instant, record: Record, report: &mut Report) {
        self.streams[record.stream()].last_error = None;
        report.records += 1;
        report.bytes += record.bytes() as u64;
        for event in record.events() {
            self.acknowledgements.acknowledge(event.span);
        }
        for former in self.lanes.acknowledge(now, record) {
            self.spare.add(former.event);
        }
    }

    fn retry(&mut self, now: Instant, record: Record, report: &mut Report) {
        report.retried += 1;
        let pause = |failures| backoff(RECORD_BACKOFF, failures);
        self.lanes.retry(now, record, pause);
    }

    /// Sets the error of a stream, if none is set.
    fn set_last_error(&mut self, number: usize, error: impl FnOnce(String) -> StreamError) {
        let open = &mut self.streams[number];
        let stream = open.stream.name();
        open.last_error.get_or_insert_with(|| error(stream));
    }

    /// Takes the last error of a stream that acknowledged no record since.
    pub(super) fn take_last_error(&mut self) -> Option<StreamError> {
        self.streams.iter_mut().find_map(|open| open.last_error.take())
    }
}

/// Waits until a time; forever without one.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The pause after `failures` consecutive failures.
///
/// It doubles with each failure, from the first to the longest of `bounds`, in seconds. The result is random,
/// from half of this time to all of it. So records that failed together are not sent together again.
fn backoff(bounds: (f64, f64), failures: u32) -> Duration {
    let (first, longest) = bounds;
    let full = (first * 2f64.powi(failures.clamp(1, 16) as i32 - 1)).min(longest);
    Duration::from_secs_f64(full * (0.5 + 0.5 * fastrand::f64()))
}
