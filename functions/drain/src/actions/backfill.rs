//! The action `backfill`: starts, pauses, resumes or cancels a backfill.

use serde_json::{Value, json};

use super::app::{App, OpenedSlot};
use super::drain::drain_opened;
use super::pending_backfill::{load, restart_if_needed};
use crate::backfill::BackfillState;
use crate::base::budget::Budget;
use crate::base::clock::now_text;
use crate::drain::BackfillRunner;
use crate::drain::report::BackfillReport;
use crate::error::Error;
use crate::invocation::{BackfillCommand, BackfillRequest};
use crate::plugin::Plugin;
use crate::ports::StateStore as _;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::{server, table_source};

/// Executes a command of a backfill event.
///
/// The command waits until a running drain ends. It then only changes the stored state, and the next ticks
/// read the tables. With `wait`, the commands `start` and `resume` drain at once, as a tick does.
///
/// # Errors
/// The request is refused, a backfill is pending already, or none is pending. Another drainer still has the
/// lock at the deadline, or an error stopped the drain.
pub(crate) async fn run(
    app: &App,
    connector: &Connector,
    command: BackfillCommand,
    budget: Budget,
) -> Result<Value, Error> {
    match command {
        BackfillCommand::Start { request, reads_now } => {
            Box::pin(start(app, connector, request, reads_now, budget)).await
        }
        BackfillCommand::Resume { reads_now } => Box::pin(resume(app, connector, reads_now, budget)).await,
        BackfillCommand::Pause => pause(app, connector, budget).await,
        BackfillCommand::Cancel => cancel(app, connector, budget).await,
    }
}

async fn start(
    app: &App,
    connector: &Connector,
    request: BackfillRequest,
    reads_now: bool,
    budget: Budget,
) -> Result<Value, Error> {
    let slot = &app.config.slot;
    let opened = app.open_or_busy(connector, budget.reading_deadline()).await?;
    if let Some(pending) = load(&app.backfill).await?.filter(BackfillState::is_pending) {
        return Err(Error::BackfillPending {
            slot: slot.clone(),
            started_at: pending.started_at,
        });
    }
    check(app, connector, &opened, &request).await?;
    let system = &opened.server.system_identifier;
    let state = BackfillState::new(slot, system, request, opened.start.acknowledged, &now_text());
    if !state.has_room() {
        return Err(Error::BackfillRefused {
            slot: slot.clone(),
            reasons:
                "the request is too long for the 4 KB of a parameter; patterns, or several backfills, are \
                      shorter"
                    .to_owned(),
        });
    }
    app.backfill.store(state.to_text()).await?;
    log_start(app, &state.request);
    match reads_now {
        true => drain_with(app, connector, opened, state, budget).await,
        false => Ok(answer(app, &json!(BackfillReport::of(&state)))),
    }
}

/// Logs the start of a backfill, without its condition.
///
/// The condition may contain values of rows.
fn log_start(app: &App, request: &BackfillRequest) {
    let slot = &app.config.slot;
    let has_where = request.condition.is_some();
    let logged = BackfillRequest {
        condition: None,
        ..request.clone()
    };
    tracing::info!(slot, request = %json!(logged), has_where, "a backfill starts");
    if app.backfill.lacks_encryption() {
        let parameter = &app.backfill.name;
        tracing::warn!(
            slot,
            parameter,
            "the backfill's parameter is of an earlier version, and not encrypted. SSM cannot change that: \
             delete the parameter when no backfill is pending"
        );
    }
}

async fn resume(app: &App, connector: &Connector, reads_now: bool, budget: Budget) -> Result<Value, Error> {
    let opened = app.open_or_busy(connector, budget.reading_deadline()).await?;
    let pending = load(&app.backfill).await?.filter(BackfillState::is_pending);
    let mut state = pending.ok_or_else(|| no_backfill(app))?;
    state.paused = false;
    restart_if_needed(app, &mut state, &opened, false);
    app.backfill.store(state.to_text()).await?;
    match reads_now {
        true => drain_with(app, connector, opened, state, budget).await,
        false => Ok(answer(app, &json!(BackfillReport::of(&state)))),
    }
}

async fn drain_with(
    app: &App,
    connector: &Connector,
    opened: OpenedSlot<'_>,
    state: BackfillState,
    budget: Budget,
) -> Result<Value, Error> {
    let runner = BackfillRunner::new(app.backfill.clone(), state);
    let drained = drain_opened(app, connector, opened, None, Some(runner), budget);
    let mut report = Box::pin(drained).await?;
    report.action = "backfill";
    Ok(json!(report))
}

async fn pause(app: &App, connector: &Connector, budget: Budget) -> Result<Value, Error> {
    let (_lock, mut state) = lock_pending(app, connector, budget).await?;
    state.paused = true;
    state.updated_at = now_text();
    app.backfill.store(state.to_text()).await?;
    Ok(answer(app, &json!(BackfillReport::of(&state))))
}

async fn cancel(app: &App, connector: &Connector, budget: Budget) -> Result<Value, Error> {
    let (_lock, state) = lock_pending(app, connector, budget).await?;
    app.backfill.delete().await?;
    let mut report = json!(BackfillReport::of(&state));
    report["state"] = json!("cancelled");
    Ok(answer(app, &report))
}

fn answer(app: &App, report: &Value) -> Value {
    json!({"action": "backfill", "slot": app.config.slot, "backfill": report})
}

/// The pending backfill, and the session that has the slot's lock.
async fn lock_pending(
    app: &App,
    connector: &Connector,
    budget: Budget,
) -> Result<(Session, BackfillState), Error> {
    let session = connector.connect().await?;
    let deadline = budget.reading_deadline();
    server::lock_or_busy(connector, &session, &app.config.slot, deadline).await?;
    let pending = load(&app.backfill).await?.filter(BackfillState::is_pending);
    Ok((session, pending.ok_or_else(|| no_backfill(app))?))
}

fn no_backfill(app: &App) -> Error {
    Error::BackfillMissing {
        slot: app.config.slot.clone(),
    }
}

/// Checks that every table of a request can be read.
///
/// # Errors
/// [`Error::BackfillRefused`] names each table that cannot be read, and why.
async fn check(
    app: &App,
    connector: &Connector,
    opened: &OpenedSlot<'_>,
    request: &BackfillRequest,
) -> Result<(), Error> {
    let refused = |reasons: Vec<String>| {
        Err(Error::BackfillRefused {
            slot: app.config.slot.clone(),
            reasons: reasons.join("; "),
        })
    };
    let plugin = opened.settings.plugin;
    if !plugin.sends_messages(opened.server.version) {
        return refused(vec![Plugin::WITHOUT_MESSAGES.to_owned()]);
    }
    let session = opened.slot.lock_session();
    let source = app.schema_source(connector, session, plugin);
    let mut schema = source.list().await?;
    schema.add_details(source.describe(&schema.table_names(request)).await?);
    let tables = match schema.backfill_tables(request) {
        Ok(tables) => tables,
        Err(refusals) => return refused(refusals.iter().map(ToString::to_string).collect()),
    };
    let mut reasons = Vec::new();
    for table in &tables {
        if let Err(why) = table_source::check_query(connector, session, table).await? {
            let with = request.condition.as_ref().map_or("", |_| "with this where, ");
            reasons.push(format!("{table}: {with}{why}"));
        }
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => refused(reasons),
    }
}
