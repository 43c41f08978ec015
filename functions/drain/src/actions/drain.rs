//! The action `drain`: one tick, with the backfill that is pending.

use std::time::Duration;

use serde_json::{Value, json};

use super::app::{App, OpenedSlot, SlotAccess};
use super::pending_backfill::pending_runner;
use crate::aws::parameter_store::Parameter;
use crate::budget::Budget;
use crate::change::{Message, MessageParts};
use crate::checkpoint::Checkpoint;
use crate::clock::now_micros;
use crate::continuity::{ServerInfo, StartPosition};
use crate::drain::reader::GAP_ACCEPTED;
use crate::drain::report::{Report, StopReason};
use crate::drain::{BackfillRunner, DrainPorts, DrainTask, Settings, drain};
use crate::encode::{Envelope, Event};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::ports::SlotError;
use crate::position::Position;
use crate::postgres::connection::Connector;
use crate::postgres::server;
use crate::postgres::slot::PgSlot;
use crate::postgres::unmatched_patterns::unmatched_patterns;

/// How long the summary may take to ask for the oldest transaction.
const OLDEST_TRANSACTION_TIME: Duration = Duration::from_secs(1);

/// Drains the slot until it is empty or the time is over, and answers with a [`Report`].
///
/// With `accept_gap`, the slot's `confirmed_flush_lsn`, it drains in spite of a break of continuity.
pub(crate) async fn run(
    app: &App,
    connector: &Connector,
    accept_gap: Option<Lsn>,
    budget: Budget,
) -> Result<Value, Error> {
    let opened = match app.open(connector, accept_gap).await? {
        SlotAccess::Locked(opened) => *opened,
        SlotAccess::Busy(plugin) => return Ok(json!(busy_report(app, plugin, budget))),
    };
    let pending = pending_runner(app, &opened, accept_gap.is_some()).await?;
    let report = Box::pin(drain_opened(app, connector, opened, accept_gap, pending, budget)).await?;
    Ok(json!(report))
}

fn busy_report(app: &App, plugin: Option<&'static str>, budget: Budget) -> Report {
    Report {
        action: "drain",
        slot: app.config.slot.clone(),
        plugin: plugin.unwrap_or("unknown"),
        stopped: StopReason::Busy,
        elapsed_ms: budget.elapsed_ms(),
        ..Report::default()
    }
}

/// Drains an opened slot, and runs a backfill between its windows.
///
/// # Errors
/// Whatever stopped the drain. The log then holds the report of what it did until then.
pub(super) async fn drain_opened(
    app: &App,
    connector: &Connector,
    opened: OpenedSlot<'_>,
    accept_gap: Option<Lsn>,
    backfill: Option<BackfillRunner<Parameter>>,
    budget: Budget,
) -> Result<Report, Error> {
    let OpenedSlot {
        server,
        stored,
        start,
        settings,
        mut slot,
    } = opened;
    let name = &app.config.slot;
    if !start.stored {
        let lsn = start.confirmed;
        tracing::info!(slot = name, %lsn, "no checkpoint: starting from the slot's own position");
    }
    warn_of_unmatched_patterns(app, connector, &settings, &slot).await;
    let envelope = &app.config.envelope;
    let task = DrainTask {
        settings: &settings,
        envelope,
        start: &start,
        first_event: accept_gap.map(|_| gap_accepted(envelope, &start, stored.as_ref())),
        checkpoint: next_checkpoint(name, &server, &start, stored, accept_gap.is_some()),
        budget,
    };
    let ports = DrainPorts {
        slot: &mut slot,
        stream: app.stream.clone(),
        checkpoints: app.checkpoint.clone(),
        sizing: &app.sizing,
        backfill,
    };
    let drained = drain(ports, task).await;
    let mut report = drained.report;
    report.notices = connector.notices.count();
    report.elapsed_ms = budget.elapsed_ms();
    match drained.result {
        Ok(()) => {}
        // Another session reads the slot without taking Spillway's lock: a person with psql, or a drainer
        // that is ending.
        Err(Error::Slot(SlotError::Busy { .. })) => report.stopped = StopReason::Busy,
        Err(error) => {
            tracing::info!(report = %json!(report), "the drain failed after this much");
            return Err(error);
        }
    }
    let oldest = server::oldest_transaction(connector, slot.control());
    if let Ok(Ok(oldest)) = tokio::time::timeout(OLDEST_TRANSACTION_TIME, oldest).await {
        report.oldest_transaction = oldest;
    }
    report.elapsed_ms = budget.elapsed_ms();
    Ok(report)
}

/// Warns of each pattern of `TABLES` that matches no table: the slot advances, and nothing is sent for it.
async fn warn_of_unmatched_patterns(
    app: &App,
    connector: &Connector,
    settings: &Settings,
    slot: &PgSlot<'_>,
) {
    let (publications, tables) = (&app.config.publications, &settings.tables);
    let (session, name) = (slot.control(), &settings.slot);
    match unmatched_patterns(connector, session, settings.plugin, publications, tables).await {
        Ok(problems) => problems
            .iter()
            .for_each(|problem| tracing::warn!(slot = name, "{problem}")),
        // The check is not worth a drain.
        Err(error) => {
            tracing::warn!(slot = name, error = %Error::from(error).chain(), "TABLES was not checked");
        }
    }
}

/// The checkpoint that this invocation stores; the drain fills in its position.
fn next_checkpoint(
    slot: &str,
    server: &ServerInfo,
    start: &StartPosition,
    stored: Option<Checkpoint>,
    is_gap_accepted: bool,
) -> Checkpoint {
    let first = server.first_checkpoint(slot, start.plugin, start.acknowledged);
    match stored {
        None => first,
        Some(stored) => Checkpoint {
            // After an accepted gap the slot cannot return the last marker.
            marker: stored.marker.filter(|_| !is_gap_accepted),
            others: stored.others,
            ..first
        },
    }
}

/// The control event that tells consumers that changes before it may be missing.
///
/// It is a logical message with the prefix [`GAP_ACCEPTED`] and JSON content.
fn gap_accepted(envelope: &Envelope, start: &StartPosition, stored: Option<&Checkpoint>) -> Event {
    let content = json!({
        "control": "gap_accepted",
        "checkpoint": stored.map(|stored| stored.commit_end.to_string()),
        "checkpoint_system_identifier": stored.map(|stored| stored.system_identifier.clone()),
        "accepted": start.confirmed.to_string(),
    })
    .to_string();
    let message = Message {
        prefix: GAP_ACCEPTED.into(),
        content: content.as_bytes().into(),
        omitted: MessageParts::default(),
    };
    let position = Position {
        commit_end: start.confirmed,
        lsn: start.confirmed,
        index: 0,
    };
    envelope.encode_message(position, &message, now_micros())
}
