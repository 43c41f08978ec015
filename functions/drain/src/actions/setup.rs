//! The action `setup`: creates the publications, the slot and the first checkpoint.
//!
//! It may be run again.

use serde_json::{Value, json};

use super::app::App;
use super::problems::setting_problems;
use crate::base::budget::Budget;
use crate::base::clock::now_text;
use crate::base::lsn::Lsn;
use crate::base::nonce::random_nonce;
use crate::change::message_prefix;
use crate::config::Config;
use crate::continuity::checkpoint::Checkpoint;
use crate::continuity::marker::{MARKER_TIME, Marker, MarkerDraft};
use crate::continuity::{self, ContinuityError, ServerInfo, SlotState};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::{EmittedMessage, StateStore as _};
use crate::postgres::connection::{Connector, Session};
use crate::postgres::provisioning;
use crate::postgres::server::{self, CommitWait, Inspection};

/// Checks the role and the stream, then creates the missing objects.
///
/// `given` is the plugin of a new slot. The default is that of the checkpoint, or pgoutput without a
/// checkpoint. An existing slot must have the given plugin.
///
/// `problems` of the answer lists a stream or a salt that a drain cannot use, a failed check of continuity,
/// and settings that do not fit the database.
///
/// # Errors
/// The server is a standby, or the role may not use replication slots. The slot cannot be read, or it has
/// another plugin than `given`. Another drainer still has the lock at the deadline. Or a request to
/// PostgreSQL or AWS failed.
pub(crate) async fn run(
    app: &App,
    connector: &Connector,
    given: Option<Plugin>,
    budget: Budget,
) -> Result<Value, Error> {
    let config = &app.config;
    // Fails on a standby.
    let (session, _) = app.inspect(connector).await?;
    provisioning::check_replication_right(connector, &session).await?;
    let stream_status = app.stream.status().await?;
    let usable = app.stream.usable_info().await.map(drop).map_err(Error::from);
    let salt = app.column_rules().await.map(drop).map_err(Error::from);
    let deadline = budget.reading_deadline();
    server::lock_or_busy(connector, &session, &config.slot, deadline).await?;
    let Inspection { server, slot: state } = server::inspect(connector, &session, &config.slot).await?;
    let stored = app.checkpoint.load().await?;
    let former = stored.as_ref().and_then(|stored| stored.plugin.parse().ok());
    let plugin = chosen_plugin(&config.slot, &server, state.as_ref(), given, former)?;
    let mut created = create_publications(config, connector, &session, plugin).await?;
    let is_older_than_publication = state.is_some() && !created.is_empty();
    if state.is_none() {
        provisioning::create_slot(connector, &session, &config.slot, plugin, server.version).await?;
        created.push(format!("slot {}", config.slot));
    }
    let Inspection { server, slot: state } = server::inspect(connector, &session, &config.slot).await?;
    let confirmed = state.as_ref().and_then(|state| state.confirmed_flush_lsn);
    let confirmed = confirmed.unwrap_or(Lsn::ZERO);
    let failures = [usable, salt].into_iter().filter_map(Result::err);
    let mut problems: Vec<String> = failures.map(|error| error.chain()).collect();
    if is_older_than_publication {
        problems.push(older_slot_problem(&config.slot));
    }
    match &stored {
        // An existing checkpoint is not overwritten: if the slot is new, the checkpoint proves the gap.
        Some(stored) => {
            let checked =
                continuity::start_position(&config.slot, &server, state.as_ref(), Some(stored), None);
            problems.extend(checked.err().map(|error| Error::from(error).chain()));
        }
        None => {
            store_first_checkpoint(app, connector, &session, &server, plugin, confirmed).await?;
            created.push(format!("checkpoint {}", app.checkpoint.name));
        }
    }
    problems.extend(setting_problems(app, connector, &session, plugin).await);
    Ok(json!({
        "action": "setup",
        "slot": config.slot,
        "plugin": plugin.name(),
        "database": server.database,
        "confirmed_flush_lsn": confirmed.to_string(),
        "stream": config.stream,
        "stream_status": stream_status,
        "created": created,
        "problems": problems,
    }))
}

/// The plugin of the slot, or of the slot to create.
///
/// # Errors
/// The slot cannot be read, or its plugin differs from the given one.
fn chosen_plugin(
    slot: &str,
    server: &ServerInfo,
    state: Option<&SlotState>,
    given: Option<Plugin>,
    former: Option<Plugin>,
) -> Result<Plugin, Error> {
    let plugin = match state {
        Some(state) => continuity::readable_slot(slot, server, state)?.0,
        None => given.or(former).unwrap_or(Plugin::Pgoutput),
    };
    match given {
        Some(given) if given != plugin => Err(Error::from(ContinuityError::OtherPlugin {
            slot: slot.to_owned(),
            given,
            plugin,
        })),
        _ => Ok(plugin),
    }
}

/// The problem of a slot that existed before a publication was created.
fn older_slot_problem(slot: &str) -> String {
    format!(
        "slot {slot} existed before a publication of PUBLICATIONS was created: changes from before the \
         creation cannot be read with this publication. If a drain stops with PublicationMissing, remove the \
         publication from PUBLICATIONS, wait until a tick answers \"stopped\":\"empty\", and add it again"
    )
}

/// Creates the missing publications. Returns a description of each.
async fn create_publications(
    config: &Config,
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
) -> Result<Vec<String>, Error> {
    let mut created = Vec::new();
    if plugin.reads_publications() {
        for name in server::missing_publications(connector, session, &config.publications).await? {
            let tables = provisioning::create_publication(connector, session, &name, &config.tables).await?;
            created.push(format!("publication {name} of {tables} tables"));
        }
    }
    Ok(created)
}

/// Stores the first checkpoint, at the slot's own position.
async fn store_first_checkpoint(
    app: &App,
    connector: &Connector,
    session: &Session,
    server: &ServerInfo,
    plugin: Plugin,
    confirmed: Lsn,
) -> Result<(), Error> {
    let first = Checkpoint {
        marker: first_marker(app, connector, session, server, plugin).await?,
        updated_at: now_text(),
        ..server.first_checkpoint(&app.config.slot, plugin, confirmed)
    };
    app.checkpoint.store(first.to_text()).await?;
    Ok(())
}

/// Writes the marker of the first checkpoint.
///
/// `None` without markers, or if its commit takes too long. If the slot returns the marker, it lost no change
/// between its position and the marker.
async fn first_marker(
    app: &App,
    connector: &Connector,
    session: &Session,
    server: &ServerInfo,
    plugin: Plugin,
) -> Result<Option<Marker>, Error> {
    if !app.config.markers || !plugin.sends_messages(server.version) {
        return Ok(None);
    }
    let draft = MarkerDraft::new(1, random_nonce());
    let content = draft.content(&app.config.slot);
    let emitted = server::emit(
        connector,
        session,
        message_prefix::MARKER,
        &content,
        CommitWait::ForStandbys,
    );
    let Ok(emitted) = tokio::time::timeout(MARKER_TIME, emitted).await else {
        // The commit probably waits for a standby. So this checkpoint has no marker, and the first drain
        // emits one.
        session.cancel().await;
        return Ok(None);
    };
    let EmittedMessage { lsn, flushed } = emitted?;
    Ok(Some(draft.written(lsn, flushed)))
}
