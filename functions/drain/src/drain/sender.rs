//! From parcels to acknowledged records: keeps requests under way, sends again what was refused, slows down when throttled.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::error::Error;
use crate::lsn::Lsn;
use crate::pack::{Lanes, Ledger, Limits, Parcel, Settled};

use super::parts::{Answer, Kind, Refusal, Stream, StreamError};
use super::report::Report;

/// Requests under way at once. More do not help: a lane has one event under way, and a shard takes 1,000 records a second.
const MOST_REQUESTS: usize = 16;

/// Records of a request while the stream throttles, at least.
const LEAST_RECORDS: usize = 25;

pub(super) struct Sender<K> {
    stream: K,
    limits: Limits,
    /// Bytes that may wait here, those under way included.
    capacity: usize,
    lanes: Lanes,
    pub(super) ledger: Ledger,
    under_way: JoinSet<Answer>,
    /// Requests that may be under way: halved when the stream throttles, one more after each clean answer.
    allowed: usize,
    /// Records that one request may hold: halved when the stream throttles, doubled after each clean answer.
    records: usize,
    /// Throttled answers in a row.
    throttles: u32,
    /// When the next request may start: throttling stops all of them for a moment.
    resume: Instant,
    /// Nothing more is sent: the stream refused for good.
    closed: bool,
    /// The last error that stood for a whole request, while nothing has been acknowledged since.
    pub(super) trouble: Option<StreamError>,
}

impl<K: Stream> Sender<K> {
    pub(super) fn new(stream: K, limits: Limits, capacity: usize, acknowledged: Lsn) -> Self {
        Sender {
            stream,
            limits,
            capacity,
            lanes: Lanes::default(),
            ledger: Ledger::new(acknowledged),
            under_way: JoinSet::new(),
            allowed: MOST_REQUESTS / 2,
            records: limits.records,
            throttles: 0,
            resume: Instant::now(),
            closed: false,
            trouble: None,
        }
    }

    pub(super) fn stream_name(&self) -> String {
        self.stream.name()
    }

    pub(super) fn push(&mut self, parcel: Parcel) {
        self.lanes.push(parcel);
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.lanes.memory() < self.capacity
    }

    /// Whether everything that was pushed has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether answers are awaited.
    pub(super) fn waits(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether it has nothing more to do: all has arrived, or the stream refused for good and the last answers are in.
    pub(super) fn is_done(&self) -> bool {
        self.under_way.is_empty() && (self.closed || self.lanes.is_empty())
    }

    /// Whether a request could start now; a full one, or any.
    pub(super) fn can_send(&self, full: bool) -> bool {
        let enough = self.lanes.ready() >= if full { self.records } else { 1 };
        enough && !self.closed && self.under_way.len() < self.allowed && self.resume <= Instant::now()
    }

    /// When something could be sent that cannot be sent now; `None` when only an answer can change that.
    pub(super) fn next_try(&self) -> Option<Instant> {
        if self.closed || self.under_way.len() >= self.allowed {
            return None;
        }
        let ready = if self.lanes.ready() > 0 {
            Some(self.resume)
        } else {
            self.lanes.next_retry()
        };
        ready.map(|at| at.max(self.resume))
    }

    /// Starts one request with what is ready, the oldest first.
    pub(super) fn send(&mut self) {
        let limits = Limits {
            records: self.records,
            ..self.limits
        };
        let parcels = self.lanes.take(Instant::now(), limits);
        if !parcels.is_empty() {
            let stream = self.stream.clone();
            self.under_way.spawn(async move { stream.put(parcels).await });
        }
    }

    /// The next answer. Waits for ever when none is awaited. May be cancelled without losing one.
    ///
    /// # Errors
    /// A request was lost, by a panic in what sends it. Its parcels are gone with it: the ledger never passes them, nothing more
    /// is sent, and the next invocation reads them again.
    pub(super) async fn next_answer(&mut self) -> Result<Answer, Error> {
        match self.under_way.join_next().await {
            Some(Ok(answer)) => Ok(answer),
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
    pub(super) fn settle(&mut self, answer: Answer, report: &mut Report) -> Result<(), Error> {
        let now = Instant::now();
        report.requests += 1;
        let refusals = match answer.outcome {
            Ok(refusals) => refusals,
            Err(error) => {
                let definite = error.kind() == Kind::Definite;
                let refusal = match error {
                    StreamError::Throttled { .. } => Refusal::Throttled,
                    _ => Refusal::Internal,
                };
                let failed = vec![Some(refusal); answer.parcels.len()];
                self.take_in(now, answer.parcels, &failed, report);
                if definite {
                    self.closed = true;
                    return Err(Error::Stream(error));
                }
                tracing::debug!(error = %error, "request failed, sending again");
                self.trouble = Some(error);
                return Ok(());
            }
        };
        self.take_in(now, answer.parcels, &refusals, report);
        Ok(())
    }

    fn take_in(
        &mut self,
        now: Instant,
        parcels: Vec<Parcel>,
        refusals: &[Option<Refusal>],
        report: &mut Report,
    ) {
        let mut throttled = false;
        for (at, parcel) in parcels.into_iter().enumerate() {
            // An answer that is shorter than the request says nothing of the rest: it goes again.
            match refusals.get(at).copied().unwrap_or(Some(Refusal::Internal)) {
                None => {
                    self.trouble = None;
                    report.records += 1;
                    report.bytes += parcel.request_bytes() as u64;
                    self.ledger.acknowledge(parcel.transaction);
                    self.lanes
                        .settle(now, Settled::Acknowledged(parcel), |_| Duration::ZERO);
                }
                Some(refusal) => {
                    if refusal == Refusal::Internal && self.trouble.is_none() {
                        let (stream, source) = (
                            self.stream.name(),
                            "it refuses records with an internal failure".into(),
                        );
                        self.trouble = Some(StreamError::Unavailable { stream, source });
                    }
                    report.retried += 1;
                    report.throttled += u64::from(refusal == Refusal::Throttled);
                    throttled |= refusal == Refusal::Throttled;
                    self.lanes
                        .settle(now, Settled::Again(parcel), |failures| match refusal {
                            Refusal::Internal => backoff(0.05, 2.0, failures),
                            // All requests pause (below). If this lane waited longer, younger ones would take its place.
                            Refusal::Throttled => Duration::ZERO,
                        });
                }
            }
        }
        if throttled {
            self.allowed = (self.allowed / 2).max(1);
            self.records = (self.records / 2).max(LEAST_RECORDS);
            // A shard's second must pass; what asks meanwhile is only refused again.
            self.throttles += 1;
            self.resume = now + backoff(0.05, 0.4, self.throttles);
        } else {
            self.throttles = 0;
            self.allowed = (self.allowed + 1).min(MOST_REQUESTS);
            self.records = (self.records * 2).min(self.limits.records);
        }
    }
}

/// Doubles with each failure in a row, from `first` to `most` seconds; of that, anything from half to all, so that what failed
/// together does not come back together.
fn backoff(first: f64, most: f64, failures: u32) -> Duration {
    let full = (first * 2f64.powi(failures.clamp(1, 16) as i32 - 1)).min(most);
    Duration::from_secs_f64(full * (0.5 + 0.5 * fastrand::f64()))
}
