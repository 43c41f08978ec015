//! The state of the backfill, as `status` shows it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::load;
use crate::actions::app::App;
use crate::backfill::BackfillState;
use crate::backfill::database_schema::RelationInfo;
use crate::backfill::state::TableProgress;
use crate::base::table_name::TableName;
use crate::continuity::ServerInfo;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::postgres::connection::{Connector, Session};

/// The backfill's part of the answer; null if no backfill is stored.
///
/// Adds the backfill's problems to `problems`, even if a query fails afterwards.
///
/// # Errors
/// A query failed, or the stored state cannot be read.
pub(in crate::actions) async fn describe(
    app: &App,
    connector: &Connector,
    session: &Session,
    server: &ServerInfo,
    plugin: Plugin,
    problems: &mut Vec<String>,
) -> Result<Value, Error> {
    let Some(state) = load(&app.backfill).await? else {
        return Ok(Value::Null);
    };
    problems.extend(state_problems(app, server, &state));
    let schema = app.schema_source(connector, session, plugin).list().await?;
    let names = match state.is_pending() {
        true => schema.table_names(&state.request),
        false => {
            let finished = state.finished.iter().map(|table| &table.name);
            let failed = state.failed.iter().map(|table| &table.name);
            finished.chain(failed).cloned().collect()
        }
    };
    let relations = schema.relations.iter().map(|info| (&info.table, info));
    let relations: BTreeMap<&TableName, &RelationInfo> = relations.collect();
    let tables: Vec<Value> = names
        .iter()
        .map(|name| describe_table(&state, relations.get(name).copied(), name))
        .collect();
    Ok(json!({
        "state": state.phase(),
        "tables": tables,
        "rows": state.rows,
        "done": state.done,
        "position": state.position.map(|position| position.to_string()),
        "request": state.request,
        "started_at": state.started_at,
        "updated_at": state.updated_at,
        "finished_at": state.finished_at,
    }))
}

fn state_problems(app: &App, server: &ServerInfo, state: &BackfillState) -> Vec<String> {
    let is_same = state.is_of(&app.config.slot, &server.system_identifier);
    let restarts = (state.is_pending() && !is_same).then(|| {
        "the pending backfill belongs to another slot or server: the next tick restarts it".to_owned()
    });
    let failed = state.failed.iter();
    let failed = failed.map(|table| format!("backfill of {}: {}", table.name, table.why));
    restarts.into_iter().chain(failed).collect()
}

fn describe_table(state: &BackfillState, info: Option<&RelationInfo>, name: &TableName) -> Value {
    let estimate = info.and_then(|info| info.estimate);
    let failed = state.failed.iter().find(|table| table.name == *name);
    let TableStatus { phase, rows, ms } = table_status(state, name);
    let rate = rows
        .filter(|_| ms > 0)
        .map(|rows| rows as f64 * 1000.0 / ms as f64);
    let remaining = estimate.zip(rows).map(|(all, rows)| all.saturating_sub(rows));
    let seconds_left = rate
        .zip(remaining)
        .filter(|(rate, _)| phase == "reading" && !state.paused && *rate > 0.0)
        .map(|(rate, remaining)| remaining as f64 / rate);
    json!({
        "table": name.unquoted(),
        "state": phase,
        "rows": rows,
        "estimate": estimate,
        "rows_per_second": rate.map(f64::round),
        "seconds_left": seconds_left.map(f64::round),
        "reason": failed.map(|table| table.why.clone()),
    })
}

/// What the state of a backfill has of one table.
struct TableStatus {
    phase: &'static str,
    /// Acknowledged rows; `None` if they are not known.
    rows: Option<u64>,
    /// Time of the table's chunks in milliseconds.
    ms: u64,
}

fn table_status(state: &BackfillState, name: &TableName) -> TableStatus {
    let status = |phase, rows, ms| TableStatus { phase, rows, ms };
    if let Some(TableProgress { rows, ms, .. }) = state.table.as_ref().filter(|table| table.name == *name) {
        return status("reading", Some(*rows), *ms);
    }
    if let Some(finished) = state.finished.iter().find(|table| table.name == *name) {
        return status("done", Some(finished.rows), finished.ms);
    }
    if state.failed.iter().any(|table| table.name == *name) {
        return status("failed", None, 0);
    }
    match state.has_ended(name) {
        false => status("queued", Some(0), 0),
        // The state had room neither for this table's figures nor for every failure. So it is not known
        // whether the table failed.
        true if state.failures > state.failed.len() as u64 => status("over", None, 0),
        true => status("done", None, 0),
    }
}
