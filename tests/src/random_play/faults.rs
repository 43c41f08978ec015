//! Faults of a play: their schedule and their injection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::environment::Environment;
use super::result::Counter;
use crate::aws::fault_proxy::{Fault, FaultProxy, FaultSide, HeldRequest};
use crate::postgres::tcp_proxy;

/// Longest wait of a kill for its moment.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two checks of a moment.
const POLL: Duration = Duration::from_millis(2);

/// Fault of one part of a play.
#[derive(Debug, Clone, Copy)]
pub(super) enum PlayFault {
    /// SIGKILL of the function.
    Kill(KillPoint),
    /// Invocation of a second sandbox with this deadline, beside the first.
    SecondInvocation(Duration),
    /// Jump of the function's wall clock by this many seconds.
    ClockJump(i64),
    /// Failure of this percentage of all records.
    ///
    /// The records are drawn from `seed`. The other records are put.
    PartialFailure {
        /// Share of the records, in percent.
        percent: u8,
        /// Draws the records.
        seed: u64,
    },
    /// Failure of every request to a service.
    Requests(AwsService, RequestFault),
    /// SIGKILL of the server, which restarts on its disk after this time.
    ServerCrash(Duration),
    /// SIGKILL of the primary for good.
    ///
    /// The standby is promoted after this time.
    Failover(Duration),
    /// Fault of the connections between function and server.
    Network(tcp_proxy::ConnectionFault),
    /// Fault of the connection between standby and primary: commits wait.
    StandbyNetwork(tcp_proxy::ConnectionFault),
}

/// Moment at which the function is killed.
#[derive(Debug, Clone, Copy)]
pub(super) enum KillPoint {
    /// At once.
    Now,
    /// After this many more PutRecords requests.
    AfterRequests(u64),
    /// During the next PutRecords, before or after it is applied.
    Put(FaultSide),
    /// During the next parameter store, before or after it is applied.
    Store(FaultSide),
}

/// AWS service of a play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AwsService {
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
    fn kind(&self) -> &'static str {
        match self {
            Self::Kill(KillPoint::Now) => "kill",
            Self::Kill(KillPoint::AfterRequests(_)) => "kill at records",
            Self::Kill(KillPoint::Put(_)) => "kill at put",
            Self::Kill(KillPoint::Store(_)) => "kill at store",
            Self::SecondInvocation(_) => "two at once",
            Self::ClockJump(_) => "clock jump",
            Self::PartialFailure { .. } => "kinesis partial failure",
            Self::Requests(service, fault) => match (service, fault) {
                (AwsService::Kinesis, RequestFault::Throttled) => "kinesis throttling",
                (AwsService::Kinesis, RequestFault::Cut) => "kinesis outage",
                (AwsService::Kinesis, RequestFault::Failed) => "kinesis failure",
                (AwsService::Kinesis, RequestFault::Unanswered) => "kinesis without answers",
                (AwsService::Kinesis, RequestFault::Slow(_)) => "kinesis slow",
                (AwsService::Ssm, RequestFault::Throttled) => "ssm throttling",
                (AwsService::Ssm, RequestFault::Cut) => "ssm outage",
                (AwsService::Ssm, RequestFault::Failed) => "ssm failure",
                (AwsService::Ssm, RequestFault::Unanswered) => "ssm without answers",
                (AwsService::Ssm, RequestFault::Slow(_)) => "ssm slow",
            },
            Self::ServerCrash(_) => "server crash",
            Self::Failover(_) => "failover",
            Self::Network(tcp_proxy::ConnectionFault::Cut | tcp_proxy::ConnectionFault::CutAfter(..)) => {
                "network cut"
            }
            Self::Network(tcp_proxy::ConnectionFault::HalfClose(_)) => "network half closed",
            Self::Network(tcp_proxy::ConnectionFault::Stall(..)) => "network stall",
            Self::Network(tcp_proxy::ConnectionFault::Refuse(_)) => "network refuses",
            Self::StandbyNetwork(_) => "standby cut off",
        }
    }
}

impl Environment {
    /// Injects all faults of `schedule`. A play that is `over` skips the faults that wait for a time.
    pub(super) async fn inject_all(&self, schedule: &FaultSchedule, over: &AtomicBool) {
        let [first, second, third, fourth] = schedule;
        tokio::join!(
            Box::pin(self.inject_sequence(first, over)),
            Box::pin(self.inject_sequence(second, over)),
            Box::pin(self.inject_sequence(third, over)),
            Box::pin(self.inject_sequence(fourth, over)),
        );
    }

    async fn inject_sequence(&self, sequence: &[ScheduledFault], over: &AtomicBool) {
        for scheduled in sequence {
            if self.wait_for_start(scheduled.start, over).await {
                self.count_fault(&scheduled.fault);
                self.inject(scheduled.fault, scheduled.lasts).await;
            }
        }
    }

    /// Waits for the start of a fault. False when the play was over before.
    async fn wait_for_start(&self, start: FaultStart, over: &AtomicBool) -> bool {
        match start {
            FaultStart::After(time) => {
                tokio::time::sleep(time).await;
                !over.load(Ordering::Relaxed)
            }
            FaultStart::RowsRead(rows) => {
                while self.parameters.rows_read() < rows && !over.load(Ordering::Relaxed) {
                    tokio::time::sleep(POLL).await;
                }
                self.parameters.rows_read() >= rows
            }
        }
    }

    fn count_fault(&self, fault: &PlayFault) {
        let mut result = self.result();
        *result.faults.entry(fault.kind().to_owned()).or_default() += 1;
        result.counts.add(Counter::Faults, 1);
        let counter = match fault {
            PlayFault::Kill(_) => Counter::Kills,
            PlayFault::Failover(_) => Counter::Failovers,
            PlayFault::ServerCrash(_) => Counter::Crashes,
            PlayFault::StandbyNetwork(_) => Counter::StandbyFaults,
            _ => return,
        };
        result.counts.add(counter, 1);
    }

    /// Injects one fault and waits for its end.
    async fn inject(&self, fault: PlayFault, lasts: Duration) {
        match fault {
            PlayFault::Kill(point) => self.kill(point).await,
            PlayFault::SecondInvocation(deadline) => {
                let outcome = self.second_sandbox.invoke(&json!({}), deadline).await;
                self.record(outcome);
            }
            PlayFault::ClockJump(seconds) => {
                self.clock.jump(seconds);
                tokio::time::sleep(lasts).await;
                self.clock.jump(0);
            }
            PlayFault::PartialFailure { percent, seed } => {
                self.stream_proxy.flaky(seed, percent);
                tokio::time::sleep(lasts).await;
                self.stream_proxy.flaky(seed, 0);
            }
            PlayFault::Requests(service, fault) => self.fail_requests(service, fault, lasts).await,
            PlayFault::ServerCrash(down) => self.database.crash(down).await,
            PlayFault::Failover(down) => self.database.fail_over(down).await,
            PlayFault::Network(fault) => self.database.inject_network_fault(fault).await,
            PlayFault::StandbyNetwork(fault) => self.database.inject_standby_fault(fault).await,
        }
    }

    async fn kill(&self, point: KillPoint) {
        match point {
            KillPoint::Now => self.function.kill9().await,
            KillPoint::AfterRequests(more) => {
                let requests = || self.stream_proxy.requests("PutRecords");
                let (expected, began) = (requests() + more, Instant::now());
                while requests() < expected && began.elapsed() < KILL_PATIENCE {
                    tokio::time::sleep(POLL).await;
                }
                self.function.kill9().await;
            }
            KillPoint::Put(side) => self.kill_at(self.stream_proxy.hold("PutRecords", side)).await,
            KillPoint::Store(side) => {
                self.kill_at(self.parameter_proxy.hold("PutParameter", side))
                    .await
            }
        }
    }

    /// Kills both sandboxes while a request is held: either may have sent it.
    async fn kill_at(&self, mut request: HeldRequest) {
        request.is_held_within(KILL_PATIENCE).await;
        tokio::join!(self.function.kill9(), self.second_sandbox.kill9());
    }

    async fn fail_requests(&self, service: AwsService, fault: RequestFault, lasts: Duration) {
        let (proxy, operations, throttling): (&FaultProxy, &[&str], _) = match (service, fault) {
            (AwsService::Ssm, _) => {
                let throttling = "ThrottlingException";
                (
                    &self.parameter_proxy,
                    &["PutParameter", "GetParameter"],
                    throttling,
                )
            }
            (AwsService::Kinesis, RequestFault::Cut) => {
                let operations = &["PutRecords", "ListShards", "DescribeStreamSummary"];
                (&self.stream_proxy, operations, "")
            }
            (AwsService::Kinesis, _) => {
                let throttling = "ProvisionedThroughputExceededException";
                (&self.stream_proxy, &["PutRecords"], throttling)
            }
        };
        let fault = match fault {
            RequestFault::Throttled => Fault::refuse(throttling, "Rate exceeded"),
            RequestFault::Cut => Fault::CutRequest,
            RequestFault::Failed => Fault::internal(),
            RequestFault::Unanswered => Fault::CutAnswer,
            RequestFault::Slow(time) => Fault::Delay(time),
        };
        for operation in operations {
            proxy.inject(operation, fault.clone());
        }
        tokio::time::sleep(lasts).await;
        for operation in operations {
            // `clear` would also remove a request that another sequence plans to hold for a kill.
            proxy.inject(operation, Fault::Delay(Duration::ZERO));
        }
    }
}
