//! What a play is played with, drawn from its seed.

use std::fmt;

use fastrand::Rng;

use super::faults::Faults;
use super::site::Kind;
use crate::aws::fake_kinesis;
use crate::consumer::event::Envelope;

/// All that a seed decides.
#[derive(Debug, Clone)]
pub(super) struct Draw {
    pub(super) site: Kind,
    /// Whether the function may see how far the standby is.
    pub(super) sees_standby: bool,
    pub(super) markers: &'static str,
    pub(super) plugin: &'static str,
    pub(super) envelope: &'static str,
    pub(super) form: Envelope,
    pub(super) aggregation: &'static str,
    pub(super) stream: fake_kinesis::FakeKinesisSettings,
    /// The seed of each writer.
    pub(super) writers: Vec<u64>,
    pub(super) faults: Faults,
    /// Draws the deadlines of ticks.
    pub(super) ticks: Rng,
}

impl Draw {
    /// Draws what the play of `seed` is played with.
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let site = if random.bool() {
            Kind::Single
        } else {
            Kind::Cluster
        };
        let plugins: &[&str] = match site {
            Kind::Single => &["pgoutput", "wal2json", "test_decoding"],
            Kind::Cluster => &["pgoutput", "pgoutput", "test_decoding"],
        };
        let plugin = plugins[random.usize(..plugins.len())];
        let markers = if random.u8(..8) == 0 { "off" } else { "on" };
        let (envelope, form) = match random.u8(..10) {
            0 => ("dms", Envelope::Dms),
            1 => ("wal2json", Envelope::Wal2json),
            _ => ("debezium", Envelope::Debezium),
        };
        let aggregation = ["none", "none", "kpl"][random.usize(..3)];
        let times = if aggregation == "kpl" { 15.0 } else { 4.0 };
        let stream = fake_kinesis::FakeKinesisSettings {
            shards: random.usize(1..=8),
            faults: fake_kinesis::Faults::of_seed(seed).times(times),
            ..fake_kinesis::FakeKinesisSettings::default()
        };
        Self {
            site,
            sees_standby: random.bool(),
            markers,
            plugin,
            envelope,
            form,
            aggregation,
            stream,
            writers: (0..random.usize(2..=4)).map(|_| random.u64(..)).collect(),
            faults: Faults::draw(&mut random, site),
            ticks: random,
        }
    }
}

impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = match self.site {
            Kind::Single => "single",
            Kind::Cluster => "pair",
        };
        write!(f, "{site} {} {} {}", self.plugin, self.envelope, self.aggregation)?;
        match self.markers {
            "on" => Ok(()),
            _ => f.write_str(", no markers"),
        }
    }
}
