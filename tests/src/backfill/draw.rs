//! What a play is played with, drawn from its seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::key::{KEYS, Key};
use crate::aws::fake_kinesis;
use crate::aws::fault_proxy::FaultSide;

/// What becomes of the server once so much of the table has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerFault {
    /// Killed with -9 for ever; after so long the standby takes its place.
    FailOver(Duration),
    /// Killed with -9, and started again on its disk after so long.
    Crash(Duration),
}

/// When the function is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kill {
    /// There and then.
    Now,
    /// When it puts records, before or after they are put.
    AtPut(FaultSide),
    /// When it stores a parameter, before or after that is stored.
    AtStore(FaultSide),
}

/// All that a seed decides.
#[derive(Debug, Clone)]
pub(super) struct Draw {
    pub(super) key: Key,
    pub(super) plugin: &'static str,
    pub(super) aggregation: &'static str,
    pub(super) stream: fake_kinesis::FakeKinesisSettings,
    pub(super) chunk_rows: u64,
    pub(super) server: ServerFault,
    /// The part of the table after which that befalls it.
    pub(super) amid: f64,
    /// The function does not wait for the standby, and the wire to it is cut so often and so long: what is delivered is then not
    /// visible for a while.
    pub(super) stuck: Vec<Duration>,
    /// Where commits hang, markers wait with them, and the function with its markers: without any it goes on to read.
    pub(super) markers: &'static str,
    /// Kills of the function, and how long each waits after the one before it.
    pub(super) kills: Vec<(Duration, Kill)>,
    /// The seed of each writer.
    pub(super) writers: Vec<u64>,
    /// Draws the deadlines of ticks.
    pub(super) ticks: Rng,
}

impl Draw {
    /// Draws what the play of `seed` with a table of so many rows is played with.
    pub(super) fn of_seed(seed: u64, rows: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let millis = |random: &mut Rng, range: std::ops::Range<u64>| Duration::from_millis(random.u64(range));
        let key = KEYS[(seed % KEYS.len() as u64) as usize];
        let plugin = ["pgoutput", "pgoutput", "wal2json", "test_decoding"][random.usize(..4)];
        let aggregation = ["none", "kpl", "kpl", "kpl", "kpl"][random.usize(..5)];
        let stream = fake_kinesis::FakeKinesisSettings {
            shards: random.usize(1..=8),
            faults: fake_kinesis::Faults::of_seed(seed),
            ..fake_kinesis::FakeKinesisSettings::default()
        };
        let down = millis(&mut random, 50..1_500);
        // Every second seed fails over, and of the others every second has commits that hang.
        let (server, stuck) = match seed % 4 {
            0 | 2 => (ServerFault::FailOver(down), 0),
            1 => (ServerFault::Crash(down), 0),
            _ => (ServerFault::Crash(down), random.usize(2..6)),
        };
        let longest = (rows / 400).clamp(700, 5_000);
        let kill = |random: &mut Rng| {
            let side = [FaultSide::Request, FaultSide::Answer][random.usize(..2)];
            let kill = [Kill::Now, Kill::Now, Kill::AtPut(side), Kill::AtStore(side)][random.usize(..4)];
            (millis(random, 150..longest), kill)
        };
        let kills = random.usize(3..=3 + (rows / 100_000) as usize);
        Self {
            key,
            plugin,
            aggregation,
            stream,
            chunk_rows: (rows / random.u64(10..100)).clamp(50, 50_000),
            server,
            amid: 0.25 + random.f64() / 2.0,
            stuck: (0..stuck).map(|_| millis(&mut random, 500..4_000)).collect(),
            markers: if seed % 8 == 7 { "off" } else { "on" },
            kills: (0..kills).map(|_| kill(&mut random)).collect(),
            writers: (0..random.usize(2..=4)).map(|_| random.u64(..)).collect(),
            ticks: random,
        }
    }

    /// Whether the server fails over.
    pub(super) fn fails_over(&self) -> bool {
        matches!(self.server, ServerFault::FailOver(_))
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, plugin, aggregation) = (self.key.name, self.plugin, self.aggregation);
        write!(f, "{key} {plugin} {aggregation} chunks of {}", self.chunk_rows)?;
        match self.stuck.is_empty() {
            true => Ok(()),
            false => write!(f, ", commits hang, markers {}", self.markers),
        }
    }
}
