//! The action `drain`: one tick, with the pending backfill.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::app::{App, LOCK_TIME, OpenedSlot, SlotAccess};
use super::pending_backfill::pending_runner;
use super::problems::{rule_problems, tables_no_longer_sent};
use crate::aws::parameter_store::Parameter;
use crate::base::budget::Budget;
use crate::base::clock::now_micros;
use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::base::time::micros_of_timestamp;
use crate::change::{Message, message_prefix};
use crate::config::Config;
use crate::continuity::checkpoint::{AckAhead, Checkpoint, settings_hash};
use crate::continuity::{ContinuityError, ServerInfo, StartPosition};
use crate::drain::report::{Report, StopReason};
use crate::drain::{BackfillRunner, DrainPorts, DrainTask, Settings, drain};
use crate::encode::Event;
use crate::error::Error;
use crate::ports::SlotError;
use crate::postgres::connection::Connector;
use crate::postgres::retention;
use crate::postgres::slot::PgSlot;
use crate::rules::pattern::TablePattern;
use crate::rules::stream_pattern::StreamPattern;

/// Longest time of each query of the summary.
const SUMMARY_TIME: Duration = Duration::from_secs(1);

/// Drains the slot until it is empty or the time is over.
///
/// The answer is a [`Report`]. With `accept_gap`, a discontinuity does not stop the drain. The value must be
/// the slot's `confirmed_flush_lsn`.
pub(crate) async fn run(
    app: &App,
    connector: &Connector,
    accept_gap: Option<Lsn>,
    budget: Budget,
) -> Result<Value, Error> {
    let opened = match app.open(connector, accept_gap, Instant::now() + LOCK_TIME).await {
        Ok(SlotAccess::Locked(opened)) => *opened,
        Ok(SlotAccess::Busy(busy)) => {
            let mut report = idle_report(app, busy.plugin, StopReason::Busy, budget);
            report.set_figures(busy.figures);
            report.drainer = busy.drainer;
            return Ok(json!(report));
        }
        // The schedule also runs before setup and after teardown. This is not a failure.
        Err(Error::Continuity(error)) if matches!(*error, ContinuityError::NotSetUp { .. }) => {
            let mut answer = json!(idle_report(app, None, StopReason::NotSetUp, budget));
            answer["errorType"] = json!(error.name());
            answer["errorMessage"] = json!(error.to_string());
            return Ok(answer);
        }
        Err(error) => return Err(error),
    };
    let pending = pending_runner(app, &opened, accept_gap.is_some()).await?;
    let report = Box::pin(drain_opened(app, connector, opened, accept_gap, pending, budget)).await?;
    Ok(json!(report))
}

/// The report of a drain that did nothing.
fn idle_report(app: &App, plugin: Option<&'static str>, stopped: StopReason, budget: Budget) -> Report {
    Report {
        action: "drain",
        slot: app.config.slot.clone(),
        plugin: plugin.unwrap_or("unknown"),
        stopped,
        elapsed_ms: budget.elapsed_ms(),
        ..Report::default()
    }
}

/// Drains an opened slot, and runs a backfill between its windows.
///
/// # Errors
/// The error that stopped the drain. The summary line then has the report of the drain.
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
    log_first_start(name, &start);
    let checkpoint_age = stored.as_ref().and_then(|stored| age_seconds(&stored.updated_at));
    warn_of_rule_problems(app, connector, &settings, &slot).await;
    let checked = tables_no_longer_sent::check_and_store(app, connector, slot.lock_session(), &settings);
    let tables_left = checked.await;
    let settings_hash = hash_of_settings(&app.config, &server, &settings);
    let ahead = stored.as_ref().filter(|_| accept_gap.is_none());
    let ahead = ahead.and_then(|stored| ack_ahead(stored, &settings_hash));
    let task = DrainTask {
        settings: &settings,
        envelope: &app.config.envelope,
        start: &start,
        first_event: accept_gap.map(|_| gap_accepted(&app.config, &start, stored.as_ref())),
        checkpoint: next_checkpoint(name, &server, &start, stored, accept_gap.is_some()),
        ahead,
        settings_hash,
        budget,
    };
    let ports = DrainPorts {
        slot: &mut slot,
        stream: app.stream.clone(),
        checkpoint_store: app.checkpoint.clone(),
        sizing: &app.sizing,
        backfill,
    };
    let drained = Box::pin(drain(ports, task)).await;
    let mut report = Report {
        notices: connector.notices.count(),
        tables_left,
        checkpoint_age_seconds: checkpoint_age,
        ..drained.report
    };
    add_server_state(&mut report, connector, &slot, budget).await;
    report.elapsed_ms = budget.elapsed_ms();
    finished(app, report, drained.result)
}

/// The report, or the error of the drain.
fn finished(app: &App, mut report: Report, result: Result<(), Error>) -> Result<Report, Error> {
    match result {
        Ok(()) => Ok(report),
        // Another session reads the slot without Spillway's lock: a person with psql, or a drainer that is
        // ending.
        Err(Error::Slot(SlotError::Busy { .. })) => {
            report.stopped = StopReason::Busy;
            Ok(report)
        }
        Err(error) => {
            if matches!(error, Error::Stream(_) | Error::Oversize { .. }) {
                app.stream.forget_descriptions();
            }
            app.add_failure_fields(json!(report));
            Err(error)
        }
    }
}

fn log_first_start(slot: &str, start: &StartPosition) {
    if !start.has_checkpoint {
        let lsn = start.confirmed;
        tracing::info!(slot, %lsn, "no checkpoint is used: starting from the slot's own position");
    }
}

/// Hash of the settings that decide which events a change has.
///
/// It also covers the slot, the server and the stream. With other settings, the same change may have other
/// events. The acknowledgements of an earlier invocation are then not valid.
fn hash_of_settings(config: &Config, server: &ServerInfo, settings: &Settings) -> String {
    let tables: Vec<String> = settings.tables.iter().map(TablePattern::to_string).collect();
    settings_hash(&[
        env!("CARGO_PKG_VERSION"),
        &server.system_identifier,
        &server.timeline.to_string(),
        &server.version.to_string(),
        &server.database_oid.to_string(),
        &settings.slot,
        settings.plugin.name(),
        &config.stream,
        &config
            .stream_pattern
            .as_ref()
            .map(StreamPattern::to_string)
            .unwrap_or_default(),
        &config.publications.join("\n"),
        &tables.join("\n"),
        &settings.projection.settings_text(),
        &format!("{:?}", settings.skipped),
        &config.envelope.settings_text(),
        &settings.record_bytes.to_string(),
    ])
}

/// The acknowledged changes after a stored checkpoint's position.
///
/// Returns `None` if none are stored, or if they cannot be used, for example with other settings.
fn ack_ahead(stored: &Checkpoint, settings_hash: &str) -> Option<AckAhead> {
    match stored.ack_ahead(settings_hash)? {
        Ok(ahead) => Some(ahead),
        Err(why) => {
            let slot = &stored.slot;
            tracing::debug!(slot, why, "changes that were acknowledged ahead are sent again");
            None
        }
    }
}

/// Adds the server's state: retained log and oldest transaction.
///
/// If the server does not answer a query in time, the report lacks that part.
async fn add_server_state(report: &mut Report, connector: &Connector, slot: &PgSlot<'_>, budget: Budget) {
    let limit = || budget.answering_deadline().min(Instant::now() + SUMMARY_TIME);
    let retained = retention::retention(connector, slot.lock_session(), &report.slot);
    if let Ok(Ok(retention)) = tokio::time::timeout_at(limit().into(), retained).await {
        report.set_retention(retention);
    }
    let oldest = retention::oldest_transaction(connector, slot.lock_session());
    if let Ok(Ok(oldest)) = tokio::time::timeout_at(limit().into(), oldest).await {
        report.oldest_transaction = oldest;
    }
}

/// Warns of each setting or publication that does not fit the database.
///
/// The drain runs nevertheless: the slot advances although a table is not sent, or a column is not hidden.
async fn warn_of_rule_problems(app: &App, connector: &Connector, settings: &Settings, slot: &PgSlot<'_>) {
    let name = &settings.slot;
    match rule_problems(app, connector, slot.lock_session(), settings.plugin).await {
        Ok(problems) => problems
            .iter()
            .for_each(|problem| tracing::warn!(slot = name, "{problem}")),
        // A failed check does not stop the drain.
        Err(error) => {
            let error = Error::from(error).chain();
            tracing::warn!(
                slot = name,
                error,
                "TABLES, COLUMN_RULES, PARTITION_KEYS and the published partitions were not checked"
            );
        }
    }
}

/// Seconds since the time of a checkpoint.
///
/// `text` is a time such as `2026-11-23T12:00:00Z`. Returns `None` for any other text, and for a time that is
/// a second or more in the future.
fn age_seconds(text: &str) -> Option<u64> {
    let stored = micros_of_timestamp(&text.replace('T', " ").replace('Z', "+00"))?;
    u64::try_from((now_micros() - stored) / 1_000_000).ok()
}

/// The checkpoint that this invocation stores. The drain sets its position.
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

/// The control event of an accepted gap.
///
/// It informs consumers that earlier changes may be missing. It has the form of a logical message with the
/// prefix [`message_prefix::GAP_ACCEPTED`]. The message's content is JSON: the source name, and the positions
/// of the gap.
fn gap_accepted(config: &Config, start: &StartPosition, stored: Option<&Checkpoint>) -> Event {
    let content = json!({
        "control": "gap_accepted",
        "source_name": config.source_name,
        "checkpoint": stored.map(|stored| stored.commit_end.to_string()),
        "checkpoint_system_identifier": stored.map(|stored| stored.system_identifier.clone()),
        "accepted": start.confirmed.to_string(),
    })
    .to_string();
    let message = Message::control(message_prefix::GAP_ACCEPTED, &content);
    let position = Position {
        commit_end: start.confirmed,
        lsn: start.confirmed,
        index: 0,
    };
    config.envelope.encode_message(position, &message, now_micros())
}
