//! From parcels to acknowledged records: keeps requests under way, sends again what was refused, slows down where a shard
//! throttles, and follows the stream when it is resharded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::checkpoint::AckPosition;
use crate::error::Error;
use crate::pack::{Acknowledgements, Aggregation, Lanes, QueuedEvent, Record, ShardMap};

use super::report::Report;
use super::settings::{REQUEST, Settings};
use crate::ports::{ErrorKind, PutAnswer, RecordOutcome, Stream, StreamError};

/// Requests under way at once. More do not help: a lane has one record under way, and a shard takes 1,000 records a second.
const MOST_REQUESTS: usize = 16;

/// When so many requests are under way, a further one must hold [`WORTH_RECORDS`]: what comes free one by one, as each answer frees
/// the next event of its keys, would go one by one otherwise.
const FEW_REQUESTS: usize = 4;

/// See [`FEW_REQUESTS`].
const WORTH_RECORDS: usize = 100;

/// What was awaited.
pub(super) enum SenderEvent {
    /// A request.
    Put(PutAnswer),
    /// The shards, asked for anew.
    Shards(Result<ShardMap, StreamError>),
}

/// How fast what waits gets through.
#[derive(Debug, Default)]
struct Throughput {
    /// Bytes that got through, of memory.
    bytes: usize,
    /// While something was under way.
    busy: Duration,
    since: Option<Instant>,
}

impl Throughput {
    /// Something is under way from now on.
    fn starts(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// So much got through; `more` is under way.
    fn passed(&mut self, bytes: usize, more: bool) {
        let now = Instant::now();
        self.bytes += bytes;
        self.busy += self.since.map_or(Duration::ZERO, |since| now - since);
        self.since = more.then_some(now);
    }

    /// Bytes that get through in a time; `None` as long as that is not known.
    fn within(&self, time: Duration) -> Option<usize> {
        let known = self.busy >= Duration::from_millis(100) && self.bytes > 0;
        known.then(|| (self.bytes as f64 * time.as_secs_f64() / self.busy.as_secs_f64()) as usize)
    }
}

/// Room there always is, so that little throughput does not look like none.
const LEAST_ROOM: usize = 256 << 10;

pub(super) struct Sender<K> {
    stream: K,
    aggregation: Aggregation,
    /// Whether the partition key decides the shard.
    keyed: bool,
    /// Bytes that may wait here, those under way included.
    capacity: usize,
    flow: Throughput,
    /// When what waits here must have arrived.
    deadline: Instant,
    lanes: Lanes,
    pub(super) acknowledgements: Acknowledgements,
    under_way: JoinSet<SenderEvent>,
    /// Requests that may be under way: halved when one fails as a whole, one more after each answer.
    allowed: usize,
    /// How often in a row the shards were asked for in vain, while the map is stale: a record landed elsewhere than it
    /// says. Nothing is sent until the map is another.
    stale: Option<u32>,
    /// Nothing more is sent: the stream refused for good.
    closed: bool,
    /// The last error, while nothing has been acknowledged since.
    pub(super) trouble: Option<StreamError>,
}

impl<K: Stream> Sender<K> {
    pub(super) fn new(stream: K, settings: &Settings, position: AckPosition, deadline: Instant) -> Self {
        Sender {
            stream,
            aggregation: settings.aggregation,
            keyed: settings.keyed,
            capacity: settings.bytes_in_flight,
            flow: Throughput::default(),
            deadline,
            lanes: Lanes::new(settings.aggregation, settings.shards.clone()),
            acknowledgements: Acknowledgements::new(position),
            under_way: JoinSet::new(),
            allowed: MOST_REQUESTS / 2,
            stale: None,
            closed: false,
            trouble: None,
        }
    }

    pub(super) fn stream_name(&self) -> String {
        self.stream.name()
    }

    pub(super) fn push(&mut self, event: QueuedEvent) {
        self.lanes.push(event);
    }

    /// Whether more may be read: towards the deadline only what can still arrive, since what does not is sent again.
    pub(super) fn has_room(&self) -> bool {
        let waits = self.lanes.memory();
        if waits < LEAST_ROOM.min(self.capacity) {
            return true;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let room = self.flow.within(left / 2).unwrap_or(usize::MAX);
        waits < self.capacity.min(room)
    }

    /// Whether everything that was pushed has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether answers are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether it has nothing more to do: all has arrived, or the stream refused for good and the last answers are in. That the
    /// shards are still being asked for is nothing to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.lanes.is_empty() || (self.closed && self.under_way.is_empty())
    }

    /// Whether a request could start now that is worth it while more is coming.
    pub(super) fn can_send_full(&self) -> bool {
        self.may_send() && self.lanes.has_full_request(REQUEST)
    }

    /// Whether a request should start now, since no row is there to be taken. Aggregates wait for more as long as there is
    /// room for it: a shard's next one cannot go before this one is through.
    pub(super) fn should_send(&self) -> bool {
        match self.aggregation {
            Aggregation::Kpl { .. } if self.has_room() => self.can_send_full(),
            _ => self.can_send_rest(),
        }
    }

    /// Whether a request should start now, since nothing more is coming.
    pub(super) fn can_send_rest(&self) -> bool {
        let worth = match self.under_way.len() {
            0..FEW_REQUESTS => 1,
            _ => WORTH_RECORDS,
        };
        self.may_send() && self.lanes.sendable_records() >= worth
    }

    fn may_send(&self) -> bool {
        !self.closed && self.stale.is_none() && self.under_way.len() < self.allowed
    }

    /// When something can go that cannot go now; `None` when only an answer can change that.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.lanes.next_retry().filter(|_| self.may_send())
    }

    /// Starts one request with what may go, the oldest first; with `full`, only with what need not wait for more.
    pub(super) fn send(&mut self, full: bool) {
        let records = self.lanes.next_request(Instant::now(), REQUEST, full);
        if !records.is_empty() {
            let stream = self.stream.clone();
            self.flow.starts();
            self.under_way
                .spawn(async move { SenderEvent::Put(stream.put(records).await) });
        }
    }

    /// The next answer. Waits for ever when none is awaited. May be cancelled without losing one.
    ///
    /// # Errors
    /// A request was lost, by a panic in what sends it. Its events are gone with it: the ledger never passes them, nothing more
    /// is sent, and the next invocation reads them again.
    pub(super) async fn next_answer(&mut self) -> Result<SenderEvent, Error> {
        match self.under_way.join_next().await {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => {
                self.closed = true;
                Err(Error::Stream(StreamError::Lost {
                    stream: self.stream.name(),
                    source: Box::new(error),
                }))
            }
            None => std::future::pending().await,
        }
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// The stream refuses for good. From then on nothing is sent.
    pub(super) fn settle(&mut self, done: SenderEvent, report: &mut Report) -> Result<(), Error> {
        let waited = self.lanes.memory();
        let settled = match done {
            SenderEvent::Put(answer) => {
                let settled = self.settle_request(answer, report);
                let passed = waited.saturating_sub(self.lanes.memory());
                self.flow.passed(passed, !self.under_way.is_empty());
                settled
            }
            SenderEvent::Shards(shards) => self.settle_shards(shards),
        };
        // Lanes change only while nothing is under way.
        if let Some(tries) = self.stale
            && self.under_way.is_empty()
            && !self.closed
        {
            let stream = self.stream.clone();
            self.under_way.spawn(async move {
                if tries > 0 {
                    tokio::time::sleep(backoff(0.05, 1.0, tries)).await;
                }
                SenderEvent::Shards(stream.shards().await)
            });
        }
        settled
    }

    fn settle_request(&mut self, answer: PutAnswer, report: &mut Report) -> Result<(), Error> {
        let now = Instant::now();
        report.requests += 1;
        let (fates, error) = match answer.outcome {
            Ok(fates) => (fates, None),
            Err(error) => {
                let fate = match error {
                    StreamError::Throttled { .. } => RecordOutcome::Throttled,
                    _ => RecordOutcome::Failed,
                };
                (vec![fate; answer.records.len()], Some(error))
            }
        };
        // By shard: records that were meant for it, how many it took, and whether it throttled.
        let mut shards: BTreeMap<usize, (usize, usize, bool)> = BTreeMap::new();
        // An answer that is shorter than the request says nothing of the rest: it goes again.
        let fates = fates.into_iter().chain(std::iter::repeat(RecordOutcome::Failed));
        for (record, fate) in answer.records.into_iter().zip(fates) {
            let (sent, stored, throttled) = shards.entry(record.shard()).or_default();
            *sent += 1;
            *stored += usize::from(matches!(fate, RecordOutcome::Stored { .. }));
            *throttled |= fate == RecordOutcome::Throttled;
            self.settle_record(now, record, fate, report);
        }
        for (shard, (records, stored, throttled)) in shards {
            if throttled {
                self.lanes
                    .pause_shard(now, shard, records, |times| backoff(0.05, 0.4, times));
            } else if stored == records {
                self.lanes.raise_share(shard);
            }
        }
        let Some(error) = error else {
            self.allowed = (self.allowed + 1).min(MOST_REQUESTS);
            return Ok(());
        };
        self.allowed = (self.allowed / 2).max(1);
        if error.kind() == ErrorKind::Definite {
            self.closed = true;
            return Err(Error::Stream(error));
        }
        tracing::debug!(error = %error, "request failed, sending again");
        self.trouble = Some(error);
        Ok(())
    }

    fn settle_record(&mut self, now: Instant, record: Record, fate: RecordOutcome, report: &mut Report) {
        let stored = match fate {
            RecordOutcome::Stored { shard } => self.is_in_place(&record, &shard),
            RecordOutcome::Throttled => {
                report.throttled += 1;
                report.retried += 1;
                // All of its shard pauses. If this lane waited longer, younger ones would take its place.
                return self.lanes.retry(now, record, |_| Duration::ZERO);
            }
            RecordOutcome::Failed => {
                self.in_trouble("it refuses records with an internal failure");
                false
            }
        };
        if !stored {
            report.retried += 1;
            return self
                .lanes
                .retry(now, record, |failures| backoff(0.05, 2.0, failures));
        }
        self.trouble = None;
        report.records += 1;
        report.bytes += record.bytes() as u64;
        for event in record.events() {
            self.acknowledgements.acknowledge(event.transaction);
        }
        self.lanes.acknowledge(record);
    }

    /// Whether all events of a record that landed in `shard` are where a consumer takes them for what they are: from an
    /// aggregate of which one lies in another shard than its key the KCL drops all. Either way the map is stale.
    fn is_in_place(&mut self, record: &Record, shard: &str) -> bool {
        if !self.keyed || self.lanes.map().shard(record.shard()).id == shard {
            return true;
        }
        self.stale.get_or_insert(0);
        !record.is_aggregate()
    }

    fn in_trouble(&mut self, why: &'static str) {
        if self.trouble.is_none() {
            self.trouble = Some(StreamError::Unavailable {
                stream: self.stream.name(),
                source: why.into(),
            });
        }
    }

    fn settle_shards(&mut self, shards: Result<ShardMap, StreamError>) -> Result<(), Error> {
        let tries = self.stale.unwrap_or(0) + 1;
        match shards {
            Ok(map) if map != *self.lanes.map() => {
                tracing::info!(
                    stream = self.stream.name(),
                    shards = map.len(),
                    "the stream was resharded"
                );
                self.lanes.reshard(map);
                self.stale = None;
            }
            // An event by itself is right wherever it lies, so there the map need not be.
            Ok(_) | Err(_) if self.aggregation == Aggregation::None => {
                tracing::warn!(
                    stream = self.stream.name(),
                    "records land in other shards than ListShards tells"
                );
                self.keyed = false;
                self.stale = None;
            }
            Ok(_) => {
                self.stale = Some(tries);
                self.in_trouble("it puts records into other shards than ListShards tells");
            }
            Err(error) if error.kind() == ErrorKind::Definite => {
                self.closed = true;
                return Err(Error::Stream(error));
            }
            Err(error) => {
                self.stale = Some(tries);
                self.trouble = Some(error);
            }
        }
        Ok(())
    }
}

/// Doubles with each failure in a row, from `first` to `most` seconds; of that, anything from half to all, so that what failed
/// together does not come back together.
fn backoff(first: f64, most: f64, failures: u32) -> Duration {
    let full = (first * 2f64.powi(failures.clamp(1, 16) as i32 - 1)).min(most);
    Duration::from_secs_f64(full * (0.5 + 0.5 * fastrand::f64()))
}
