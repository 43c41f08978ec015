//! How the backfill stands.

use serde_json::{Value, json};

use super::Context;
use crate::backfill::State;
use crate::backfill::state::{Name, Reading};
use crate::backfill::table::Site;
use crate::connect::Session;
use crate::continuity::Server;
use crate::decode::Plugin;
use crate::error::Error;
use crate::parameter::Parameter;
use crate::slot::tables;

/// How the stored backfill is read.
///
/// # Errors
/// It cannot be read, or is not one.
pub(crate) async fn load(parameter: &Parameter) -> Result<Option<State>, Error> {
    let Some(text) = parameter.text().await? else {
        return Ok(None);
    };
    State::parse(&text)
        .map(Some)
        .map_err(|source| Error::BackfillInvalid {
            parameter: parameter.name.clone(),
            source,
        })
}

/// All relations of the database, and what is published of them.
///
/// # Errors
/// A query failed.
pub(crate) async fn describe(
    context: &Context<'_>,
    session: &Session,
    plugin: Plugin,
) -> Result<Site, Error> {
    let (config, connector) = (context.config, context.connector);
    let (publications, tables) = (&config.publications, &config.tables);
    Ok(tables::describe(connector, session, plugin, publications, tables, None).await?)
}

/// How the backfill stands, for `status`: null when there is none.
///
/// # Errors
/// A query failed, or the stored backfill cannot be read.
pub(crate) async fn status(
    context: &Context<'_>,
    session: &Session,
    server: &Server,
    plugin: Plugin,
    problems: &mut Vec<String>,
) -> Result<Value, Error> {
    let Some(state) = load(context.backfill).await? else {
        return Ok(Value::Null);
    };
    let is_same = state.slot == context.config.slot && state.system_identifier == server.system_identifier;
    if state.is_pending() && !is_same {
        problems.push(
            "the pending backfill was begun with another slot or server: the next tick begins it anew"
                .to_owned(),
        );
    }
    for failed in &state.failed {
        problems.push(format!("backfill of {}: {}", failed.name, failed.why));
    }
    let site = describe(context, session, plugin).await?;
    let names = match state.is_pending() {
        true => site.names(&state.request),
        false => state
            .finished
            .iter()
            .map(|finished| finished.name.clone())
            .chain(state.failed.iter().map(|failed| failed.name.clone()))
            .collect(),
    };
    let tables: Vec<Value> = names.iter().map(|name| of_table(&state, &site, name)).collect();
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

fn of_table(state: &State, site: &Site, name: &Name) -> Value {
    let described = site.relations.iter().find(|described| described.is(name));
    let estimate = described.and_then(|described| described.estimate);
    let reading = state.table.as_ref().filter(|reading| reading.name == *name);
    let finished = state.finished.iter().find(|finished| finished.name == *name);
    let failed = state.failed.iter().find(|failed| failed.name == *name);
    let (phase, rows, ms) = match (reading, finished, failed) {
        (Some(Reading { rows, ms, .. }), _, _) => ("reading", Some(*rows), *ms),
        (_, Some(finished), _) => ("done", Some(finished.rows), finished.ms),
        (_, _, Some(_)) => ("failed", None, 0),
        // Done so long ago that its figures gave way to others.
        _ if state.is_over(name) && state.failures > state.failed.len() as u64 => ("over", None, 0),
        _ if state.is_over(name) => ("done", None, 0),
        _ => ("queued", Some(0), 0),
    };
    let rate = rows
        .filter(|_| ms > 0)
        .map(|rows| rows as f64 * 1000.0 / ms as f64);
    let left = estimate.zip(rows).map(|(all, rows)| all.saturating_sub(rows));
    let seconds_left = match phase {
        "reading" => rate
            .zip(left)
            .filter(|(rate, _)| *rate > 0.0)
            .map(|(rate, left)| left as f64 / rate),
        _ => None,
    };
    json!({
        "table": name.to_string(),
        "state": phase,
        "rows": rows,
        "estimate": estimate,
        "rows_per_second": rate.map(f64::round),
        "seconds_left": seconds_left.map(f64::round),
        "reason": failed.map(|failed| failed.why.clone()),
    })
}
