//! Faults of a play of live changes: function, stream, parameter store and server each fail in their own
//! sequence.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use crate::aws::fault_proxy::FaultSide;
use crate::postgres::tcp_proxy;
use crate::random_play::database::DatabaseKind;
use crate::random_play::faults::{
    AwsService, FaultSchedule, FaultStart, KillPoint, PlayFault, RequestFault, ScheduledFault,
};
use crate::random_play::settings::millis;

/// Draws the faults of a play. A cluster fails over exactly once.
pub(super) fn draw(random: &mut Rng, database: DatabaseKind) -> FaultSchedule {
    let function = sequence(random, 3..8, function_fault);
    let stream = sequence(random, 1..4, |random| request_fault(random, AwsService::Kinesis));
    let parameters = sequence(random, 1..3, |random| request_fault(random, AwsService::Ssm));
    let mut server = sequence(random, 1..4, |random| server_fault(random, database));
    if database == DatabaseKind::Cluster {
        let index = random.usize(..=server.len());
        let failover = |random: &mut Rng| PlayFault::Failover(millis(random, 50..1_500));
        server.splice(index..index, sequence(random, 1..2, failover));
    }
    [function, stream, parameters, server]
}

fn sequence(
    random: &mut Rng,
    count: Range<u32>,
    fault: impl Fn(&mut Rng) -> PlayFault,
) -> Vec<ScheduledFault> {
    let count = random.u32(count);
    let scheduled = |_| ScheduledFault {
        start: FaultStart::After(millis(random, 100..1_500)),
        fault: fault(random),
        lasts: millis(random, 200..1_800),
    };
    (0..count).map(scheduled).collect()
}

fn function_fault(random: &mut Rng) -> PlayFault {
    match random.u8(..10) {
        0..3 => PlayFault::Kill(KillPoint::Now),
        3..5 => PlayFault::Kill(KillPoint::AfterRequests(random.u64(1..12))),
        5 => PlayFault::Kill(KillPoint::Store(FaultSide::Request)),
        6 => PlayFault::Kill(KillPoint::Store(FaultSide::Answer)),
        7 | 8 => PlayFault::SecondInvocation(millis(random, 2_000..5_000)),
        _ => PlayFault::ClockJump([-86_400, -90, -3, 2, 3, 90, 86_400][random.usize(..7)]),
    }
}

fn request_fault(random: &mut Rng, service: AwsService) -> PlayFault {
    let fault = match random.u8(..4) {
        0 => RequestFault::Throttled,
        1 => RequestFault::Cut,
        2 => RequestFault::Unanswered,
        _ => RequestFault::Slow(millis(random, 200..1_500)),
    };
    match (service, random.u8(..6)) {
        (AwsService::Kinesis, 0) => PlayFault::PartialFailure {
            percent: random.u8(10..70),
            seed: random.u64(..),
        },
        (AwsService::Kinesis, 1) => PlayFault::Requests(service, RequestFault::Failed),
        _ => PlayFault::Requests(service, fault),
    }
}

fn server_fault(random: &mut Rng, database: DatabaseKind) -> PlayFault {
    let network = |random: &mut Rng| tcp_proxy::ConnectionFault::draw(random, Duration::from_millis(2_000));
    match (random.u8(..6), database) {
        (0..2, _) | (2..4, DatabaseKind::Single) => PlayFault::ServerCrash(millis(random, 50..1_500)),
        (2..4, DatabaseKind::Cluster) => PlayFault::StandbyNetwork(network(random)),
        _ => PlayFault::Network(network(random)),
    }
}
