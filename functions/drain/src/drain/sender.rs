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
        let ready = self.lanes.ready();
        !self.closed
            && self.under_way.len() < self.allowed
            && ready >= if full { self.limits.records } else { 1 }
    }

    /// When a lane that backs off may go on; `None` when nothing could be sent then anyway.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.lanes
            .next_retry()
            .filter(|_| !self.closed && self.under_way.len() < self.allowed)
    }

    /// Starts one request with what is ready.
    pub(super) fn send(&mut self) {
        let parcels = self.lanes.take(Instant::now(), self.limits);
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
                        .settle(now, Settled::Again(parcel), |failures| backoff(refusal, failures));
                }
            }
        }
        self.allowed = if throttled {
            (self.allowed / 2).max(1)
        } else {
            (self.allowed + 1).min(MOST_REQUESTS)
        };
    }
}

/// Doubles with each failure in a row, to two seconds at most; of that, anything from half to all, so that lanes which
/// failed together do not come back together.
fn backoff(refusal: Refusal, failures: u32) -> Duration {
    let first = match refusal {
        Refusal::Throttled => 0.1,
        Refusal::Internal => 0.05,
    };
    let most = (first * 2f64.powi(failures.clamp(1, 16) as i32 - 1)).min(2.0);
    Duration::from_secs_f64(most * (0.5 + 0.5 * fastrand::f64()))
}
