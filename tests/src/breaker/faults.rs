//! What goes wrong in a play, drawn from its seed: four rows of faults that run beside each other, one after the other
//! within a row.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::site::Kind;
use crate::aws::fault_proxy::FaultSide;
use crate::postgres::tcp_proxy;

/// What befalls the function, one thing after the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum FunctionFault {
    /// Killed with -9 there and then.
    Kill,
    /// Killed when so many more requests have brought records.
    KillAtRecords(u64),
    /// Killed at its next store of the checkpoint, before or after that is applied.
    KillAtStore(FaultSide),
    /// Invoked a second time, beside itself, with so much time.
    Twice(Duration),
    /// Its clock jumps by so many seconds.
    Clock(i64),
}

/// What befalls the stream, and goes away again.
#[derive(Debug, Clone, Copy)]
pub(super) enum StreamFault {
    /// So many of a hundred records fail, while the others of their request are put.
    Partial(u8),
    /// Every request is throttled.
    Throttling,
    /// Every connection is cut.
    Outage,
    /// Every request fails inside of Kinesis.
    Failure,
    /// Every request is applied, and no answer arrives.
    Mute,
    /// Every request takes longer: deadlines pass in the middle.
    Slow(Duration),
}

/// What befalls the checkpoint's parameter, and goes away again.
#[derive(Debug, Clone, Copy)]
pub(super) enum ParameterFault {
    /// Every store is throttled.
    Throttling,
    /// Every connection is cut.
    Outage,
    /// Every store is applied, and no answer arrives.
    Mute,
    /// Every store takes longer.
    Slow(Duration),
}

/// What befalls the server, and the way to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum ServerFault {
    /// Killed with -9, and started again on its disk after so long.
    Crash(Duration),
    /// Killed with -9 for ever; after so long the standby takes its place.
    FailOver(Duration),
    /// Connections of the function are cut, stall, or end on one side.
    Network(tcp_proxy::ConnectionFault),
    /// The same between standby and primary: commits wait, or are not on the standby.
    Wire(tcp_proxy::ConnectionFault),
}

/// A fault, and how long it waits after the one before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<F> {
    pub(super) after: Duration,
    pub(super) fault: F,
    /// How long it lasts, where it does not end by itself.
    pub(super) lasts: Duration,
}

/// All faults of a play.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    pub(super) function: Vec<Due<FunctionFault>>,
    pub(super) stream: Vec<Due<StreamFault>>,
    pub(super) parameter: Vec<Due<ParameterFault>>,
    pub(super) server: Vec<Due<ServerFault>>,
}

impl Faults {
    pub(super) fn draw(random: &mut Rng, kind: Kind) -> Self {
        let mut faults = Self {
            function: row(random, 3..8, function),
            stream: row(random, 1..4, stream),
            parameter: row(random, 1..3, parameter),
            server: row(random, 1..4, |random| server(random, kind)),
        };
        if kind == Kind::Cluster {
            let fail_over = |random: &mut Rng| ServerFault::FailOver(millis(random, 50..1_500));
            let at = random.usize(..=faults.server.len());
            faults.server.splice(at..at, row(random, 1..2, fail_over));
        }
        faults
    }
}

fn row<F>(random: &mut Rng, count: std::ops::Range<u32>, mut draw: impl FnMut(&mut Rng) -> F) -> Vec<Due<F>> {
    let due = |random: &mut Rng| Due {
        after: millis(random, 100..1_500),
        fault: draw(random),
        lasts: millis(random, 200..1_800),
    };
    let count = random.u32(count);
    let mut due = due;
    (0..count).map(|_| due(random)).collect()
}

fn millis(random: &mut Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

fn function(random: &mut Rng) -> FunctionFault {
    match random.u8(..10) {
        0..3 => FunctionFault::Kill,
        3..5 => FunctionFault::KillAtRecords(random.u64(1..12)),
        5 => FunctionFault::KillAtStore(FaultSide::Request),
        6 => FunctionFault::KillAtStore(FaultSide::Answer),
        7 | 8 => FunctionFault::Twice(millis(random, 2_000..5_000)),
        _ => FunctionFault::Clock([-86_400, -90, -3, 2, 3, 90, 86_400][random.usize(..7)]),
    }
}

fn stream(random: &mut Rng) -> StreamFault {
    match random.u8(..6) {
        0 => StreamFault::Partial(random.u8(10..70)),
        1 => StreamFault::Throttling,
        2 => StreamFault::Outage,
        3 => StreamFault::Failure,
        4 => StreamFault::Mute,
        _ => StreamFault::Slow(millis(random, 200..1_500)),
    }
}

fn parameter(random: &mut Rng) -> ParameterFault {
    match random.u8(..4) {
        0 => ParameterFault::Throttling,
        1 => ParameterFault::Outage,
        2 => ParameterFault::Mute,
        _ => ParameterFault::Slow(millis(random, 200..1_500)),
    }
}

fn server(random: &mut Rng, kind: Kind) -> ServerFault {
    let network = |random: &mut Rng| tcp_proxy::ConnectionFault::draw(random, Duration::from_millis(2_000));
    match random.u8(..6) {
        0..2 => ServerFault::Crash(millis(random, 50..1_500)),
        2 | 3 if kind == Kind::Single => ServerFault::Crash(millis(random, 50..1_500)),
        2 | 3 => ServerFault::Wire(network(random)),
        _ => ServerFault::Network(network(random)),
    }
}
