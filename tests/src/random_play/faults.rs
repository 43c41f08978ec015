//! Faults of a play and their schedule.

use std::time::Duration;

use crate::fault_proxy::Side;
use crate::proxy;

/// Fault of one part of a play.
#[derive(Debug, Clone, Copy)]
pub(super) enum PlayFault {
    /// SIGKILL of the function.
    Kill(KillPoint),
    /// Invocation of a second sandbox with this deadline, beside the first.
    SecondInvocation(Duration),
    /// Jump of the function's wall clock by this many seconds.
    ClockJump(i64),
    /// Failure of this percentage of all records, drawn from `seed`; the other records are put.
    PartialFailure {
        /// Share of the records, in percent.
        percent: u8,
        /// Draws the records.
        seed: u64,
    },
    /// Failure of every request to a service.
    Requests(Service, RequestFault),
    /// SIGKILL of the server, which restarts on its disk after this time.
    ServerCrash(Duration),
    /// SIGKILL of the primary for good; the standby is promoted after this time.
    Failover(Duration),
    /// Fault of the connections between function and server.
    Network(proxy::Fault),
    /// Fault of the connection between standby and primary: commits wait.
    StandbyNetwork(proxy::Fault),
}

/// Moment at which the function is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum KillPoint {
    /// At once.
    Now,
    /// After this many more PutRecords requests.
    AfterRequests(u64),
    /// During the next PutRecords, before or after it is applied.
    Put(Side),
    /// During the next store of a parameter, before or after it is applied.
    Store(Side),
}

/// AWS service of a play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Kinesis Data Streams.
    Kinesis,
    /// SSM Parameter Store.
    Ssm,
}

/// Fault of all requests to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestFault {
    /// The service throttles them.
    Throttled,
    /// Their connections are cut before they are applied.
    Cut,
    /// The service answers with an internal failure.
    Failed,
    /// They are applied, and their connections are cut before the answer.
    Unanswered,
    /// They take this much longer.
    Slow(Duration),
}

/// Start of a fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum FaultStart {
    /// This long after the end of the fault before it.
    After(Duration),
    /// As soon as the state of the backfill counts this many rows.
    RowsRead(u64),
}

/// Fault with its start and its duration.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScheduledFault {
    pub(super) start: FaultStart,
    pub(super) fault: PlayFault,
    /// Duration of a fault that does not end by itself.
    pub(super) lasts: Duration,
}

/// Four sequences of faults. They run beside each other, the faults of one sequence one after the other.
pub(super) type FaultSchedule = [Vec<ScheduledFault>; 4];

impl PlayFault {
    /// Kind of the fault, as the totals count it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Kill(KillPoint::Now) => "kill",
            Self::Kill(KillPoint::AfterRequests(_)) => "kill at records",
            Self::Kill(KillPoint::Put(_)) => "kill at put",
            Self::Kill(KillPoint::Store(_)) => "kill at store",
            Self::SecondInvocation(_) => "two at once",
            Self::ClockJump(_) => "clock jump",
            Self::PartialFailure { .. } => "kinesis partial failure",
            Self::Requests(Service::Kinesis, RequestFault::Throttled) => "kinesis throttling",
            Self::Requests(Service::Kinesis, RequestFault::Cut) => "kinesis outage",
            Self::Requests(Service::Kinesis, RequestFault::Failed) => "kinesis failure",
            Self::Requests(Service::Kinesis, RequestFault::Unanswered) => "kinesis without answers",
            Self::Requests(Service::Kinesis, RequestFault::Slow(_)) => "kinesis slow",
            Self::Requests(Service::Ssm, RequestFault::Throttled) => "ssm throttling",
            Self::Requests(Service::Ssm, RequestFault::Cut) => "ssm outage",
            Self::Requests(Service::Ssm, RequestFault::Failed) => "ssm failure",
            Self::Requests(Service::Ssm, RequestFault::Unanswered) => "ssm without answers",
            Self::Requests(Service::Ssm, RequestFault::Slow(_)) => "ssm slow",
            Self::ServerCrash(_) => "server crash",
            Self::Failover(_) => "failover",
            Self::Network(proxy::Fault::Cut | proxy::Fault::CutAfter(..)) => "network cut",
            Self::Network(proxy::Fault::HalfClose(_)) => "network half closed",
            Self::Network(proxy::Fault::Stall(..)) => "network stall",
            Self::Network(proxy::Fault::Refuse(_)) => "network refuses",
            Self::StandbyNetwork(_) => "standby cut off",
        }
    }
}
