//! Settings of one play.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::database::DatabaseKind;
use super::faults::FaultSchedule;
use super::result::Counter;
use crate::aws::fake_kinesis;

/// `errorType`s of invocations that a later one repairs, during faults.
pub(super) const TRANSIENT_ERRORS: [&str; 9] = [
    "PostgresUnreachable",
    "PostgresFailed",
    "NotWriter",
    "PeekTimeout",
    "Busy",
    "OutOfTime",
    "StreamUnavailable",
    "CheckpointUnavailable",
    "StandbyUnseen",
];

/// Settings of one play, most of them drawn from its seed.
#[derive(Debug, Clone)]
pub(super) struct PlaySettings {
    /// Name of the slot and the stream.
    ///
    /// It is also the name of the database, unless plays share one.
    pub(super) name: String,
    /// Servers of the play's database.
    pub(super) database: DatabaseKind,
    /// Whether the function's role is a member of `pg_monitor`.
    ///
    /// Such a role sees the position of the standby.
    pub(super) sees_standby: bool,
    /// Output plugin of the slot.
    pub(super) plugin: &'static str,
    /// More environment variables of the function.
    pub(super) variables: Vec<(&'static str, &'static str)>,
    /// Shards and faults of the stream.
    pub(super) stream: fake_kinesis::FakeKinesisSettings,
    /// Seed of each writer.
    pub(super) writers: Vec<u64>,
    /// Injected faults. With an empty schedule, the function connects without any proxy.
    pub(super) faults: FaultSchedule,
    /// Deadlines of the invocations while faults are injected, in milliseconds.
    pub(super) deadlines: Range<u64>,
    /// Pauses between these invocations, in milliseconds.
    pub(super) pauses: Range<u64>,
    /// Draws deadlines and pauses.
    pub(super) random: Rng,
    /// Longest time for these invocations.
    pub(super) time_limit: Duration,
    /// Deadline of each invocation that empties the slot in the end.
    pub(super) drain_deadline: Duration,
    /// Most invocations that may empty the slot in the end.
    pub(super) drain_invocations: usize,
    /// `errorType`s that are no violation.
    pub(super) tolerated_errors: &'static [&'static str],
    /// Counters that a play must raise: at least one counter of each group must not be 0.
    pub(super) required: Vec<&'static [Counter]>,
    /// The settings in a few words.
    pub(super) summary: String,
}

impl PlaySettings {
    /// Draws the part of the settings that all workloads share.
    ///
    /// The stream's faults are those of [`fake_kinesis::Faults::of_seed`], `times` as frequent.
    pub(super) fn draw(
        name: String,
        seed: u64,
        plugin: &'static str,
        shards: Range<usize>,
        times: f64,
        random: &mut Rng,
    ) -> Self {
        Self {
            name,
            database: DatabaseKind::Single,
            sees_standby: true,
            plugin,
            variables: Vec::new(),
            stream: fake_kinesis::FakeKinesisSettings {
                shards: random.usize(shards),
                faults: fake_kinesis::Faults::of_seed(seed).times(times),
                ..fake_kinesis::FakeKinesisSettings::default()
            },
            writers: (0..random.usize(2..=4)).map(|_| random.u64(..)).collect(),
            faults: FaultSchedule::default(),
            deadlines: 2_000..6_000,
            pauses: 20..400,
            random: random.fork(),
            time_limit: Duration::from_secs(600),
            drain_deadline: Duration::from_secs(15),
            drain_invocations: 40,
            tolerated_errors: &TRANSIENT_ERRORS,
            required: Vec::new(),
            summary: String::new(),
        }
    }
}

/// Time of so many milliseconds, drawn from `range`.
pub(super) fn millis(random: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}
