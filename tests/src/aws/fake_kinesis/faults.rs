//! Faults that a fake Kinesis injects, generated from a seed.

use std::time::Duration;

/// Probabilities of faults, from 0 to 1.
///
/// They are shares of all requests, or of all records. The default is no fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Seed of all faults. The same seed gives the same faults for the same requests in the same order.
    pub seed: u64,
    /// Records that are refused because their shard is throttled.
    pub throttled_records: f64,
    /// Records that are refused with an internal failure.
    pub failed_records: f64,
    /// Requests that are throttled as a whole. Nothing is applied.
    pub throttled_requests: f64,
    /// Requests that are answered with status 500. Half of them are applied.
    pub failed_requests: f64,
    /// Applied requests whose connection is cut instead of the answer.
    pub cut_answers: f64,
    /// Requests whose connection is cut before they were applied.
    pub cut_requests: f64,
    /// Requests that are applied, and whose answer omits the last records.
    pub short_answers: f64,
    /// Requests that are delayed: half of them before they are applied, half before they are answered.
    pub slow_requests: f64,
    /// Longest delay.
    pub slowest: Duration,
    /// Requests before which a shard is split, or two are merged.
    pub reshards: f64,
    /// Number of ListShards answers with the old shards after a reshard.
    pub stale_maps: u32,
}

impl Faults {
    /// Faults of every kind, with probabilities from one seed.
    ///
    /// They are small enough that the hottest key does not take minutes: it has every tenth event, and so
    /// sends one request after the other.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut share = |most: f64| most * random.f64();
        Self {
            seed,
            throttled_records: share(0.004),
            failed_records: share(0.01),
            throttled_requests: share(0.002),
            failed_requests: share(0.006),
            cut_answers: share(0.006),
            cut_requests: share(0.004),
            short_answers: share(0.006),
            slow_requests: share(0.02),
            reshards: 0.001 + share(0.004),
            slowest: Duration::from_millis(random.u64(5..=300)),
            stale_maps: random.u32(..4),
        }
    }

    /// The same faults with all probabilities multiplied by `times`. Delays and stale answers are unchanged.
    pub fn times(self, times: f64) -> Self {
        Self {
            throttled_records: self.throttled_records * times,
            failed_records: self.failed_records * times,
            throttled_requests: self.throttled_requests * times,
            failed_requests: self.failed_requests * times,
            cut_answers: self.cut_answers * times,
            cut_requests: self.cut_requests * times,
            short_answers: self.short_answers * times,
            slow_requests: self.slow_requests * times,
            reshards: self.reshards * times,
            ..self
        }
    }
}

/// Outcome of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    Passes,
    Throttled,
    /// Status 500; true when it is applied.
    Failed(bool),
    CutAnswer,
    CutRequest,
    ShortAnswer,
}

/// Outcome of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordOutcome {
    Put,
    Throttled,
    Failed,
}

/// Delay of one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestDelay {
    No,
    BeforePut(Duration),
    BeforeAnswer(Duration),
}

/// Generator of faults.
#[derive(Debug)]
pub(super) struct FaultGenerator {
    faults: Faults,
    pub(super) random: fastrand::Rng,
}

impl FaultGenerator {
    pub(super) fn new(faults: Faults) -> Self {
        let random = fastrand::Rng::with_seed(faults.seed);
        Self { faults, random }
    }

    pub(super) fn request(&mut self) -> (RequestOutcome, RequestDelay) {
        let faults = self.faults;
        let kinds = [
            (faults.throttled_requests, RequestOutcome::Throttled),
            (faults.failed_requests / 2.0, RequestOutcome::Failed(false)),
            (faults.failed_requests / 2.0, RequestOutcome::Failed(true)),
            (faults.cut_answers, RequestOutcome::CutAnswer),
            (faults.cut_requests, RequestOutcome::CutRequest),
            (faults.short_answers, RequestOutcome::ShortAnswer),
        ];
        let fate = self.one_of(&kinds).unwrap_or(RequestOutcome::Passes);
        if self.random.f64() >= faults.slow_requests {
            return (fate, RequestDelay::No);
        }
        let time = faults.slowest.mul_f64(self.random.f64());
        match self.random.bool() {
            true => (fate, RequestDelay::BeforePut(time)),
            false => (fate, RequestDelay::BeforeAnswer(time)),
        }
    }

    pub(super) fn record(&mut self) -> RecordOutcome {
        let kinds = [
            (self.faults.throttled_records, RecordOutcome::Throttled),
            (self.faults.failed_records, RecordOutcome::Failed),
        ];
        self.one_of(&kinds).unwrap_or(RecordOutcome::Put)
    }

    pub(super) fn reshards(&mut self) -> bool {
        self.random.f64() < self.faults.reshards
    }

    pub(super) fn stale_maps(&self) -> u32 {
        self.faults.stale_maps
    }

    fn one_of<T: Copy>(&mut self, kinds: &[(f64, T)]) -> Option<T> {
        let mut drawn = self.random.f64();
        kinds.iter().find_map(|(share, kind)| {
            drawn -= share;
            (drawn < 0.0).then_some(*kind)
        })
    }
}
