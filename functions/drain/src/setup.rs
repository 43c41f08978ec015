//! The actions around the drain: create what it needs, tell how it stands, take it away. Each may be run again.

pub(crate) mod backfill;

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;

use crate::checkpoint::{Checkpoint, VERSION};
use crate::clock::now_text;
use crate::config::{Config, StandbyAck};
use crate::connect::{Connector, Session};
use crate::continuity::{self, Server};
use crate::decode::Plugin;
use crate::drain::MARKER_TIME;
use crate::drain::parts::{CheckpointError, Checkpoints as _, Emitted, SlotError};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::marker::{self, Marker};
use crate::parameter::Parameter;
use crate::server::{self, Look, Waits};
use crate::stream::Kinesis;

/// What the actions work on.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    pub(crate) connector: &'a Connector,
    pub(crate) parameter: &'a Parameter,
    /// That of the backfill.
    pub(crate) backfill: &'a Parameter,
    pub(crate) stream: &'a Kinesis,
}

/// Checks the role and the stream, creates the publications, the slot and the first checkpoint, as far as they are missing.
pub(crate) async fn setup(context: &Context<'_>, plugin: Plugin) -> Result<Value, Error> {
    let Context {
        config,
        connector,
        parameter,
        stream,
        ..
    } = context;
    let (session, Look { server, slot: state }) = look(connector, &config.slot).await?;
    may_replicate(connector, &session).await?;
    let stream_status = stream.status().await?;
    let plugin = match &state {
        Some(state) => continuity::readable(&config.slot, &server, state)?.0,
        None => plugin,
    };
    server::lock_or_busy(connector, &session, &config.slot).await?;
    let known = parameter.load().await?;
    let mut created = Vec::new();
    if plugin == Plugin::Pgoutput {
        for publication in server::missing_publications(connector, &session, &config.publications).await? {
            let tables = publish(context, &session, &publication).await?;
            created.push(format!("publication {publication} of {tables} tables"));
        }
    }
    if state.is_none() {
        create_slot(context, &session, &server, plugin).await?;
        created.push(format!("slot {}", config.slot));
    }
    let Look { server, slot: state } = server::look(connector, &session, &config.slot).await?;
    let confirmed = state
        .as_ref()
        .and_then(|state| state.confirmed_flush_lsn)
        .unwrap_or(Lsn::ZERO);
    // An old checkpoint is not overwritten: with a slot made anew it tells of the gap.
    let gap = match &known {
        Some(_) => continuity::check(&config.slot, &server, state.as_ref(), known.as_ref(), None).err(),
        None => {
            let first = Checkpoint {
                version: VERSION,
                system_identifier: server.system_identifier.clone(),
                timeline: server.timeline,
                database: server.database.clone(),
                slot: config.slot.clone(),
                plugin: plugin.name().to_owned(),
                commit_end: confirmed,
                progress: None,
                marker: first_marker(context, &session, &server, plugin).await?,
                updated_at: now_text(),
                others: serde_json::Map::new(),
            };
            parameter.store(first.to_text()).await?;
            created.push(format!("checkpoint {}", parameter.name));
            None
        }
    };
    let mut problems: Vec<String> = gap.map(|gap| Error::from(gap).chain()).into_iter().collect();
    if plugin == Plugin::Pgoutput
        && server::published_tables(connector, &session, &config.publications).await? == 0
    {
        problems.push(nothing_published(config));
    }
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

fn nothing_published(config: &Config) -> String {
    let names = config.publications.join(", ");
    format!(
        "the publications {names} hold no tables: let the tables' owner run alter publication … add table …"
    )
}

async fn may_replicate(connector: &Connector, session: &Session) -> Result<(), Error> {
    let row = session
        .client
        .query_one(
            "select r.rolsuper or r.rolreplication
                 or exists (select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(current_user, m.oid, 'member'))
             from pg_roles r where r.rolname = current_user",
            &[],
        )
        .await
        .map_err(|error| connector.failed("checking the role", error))?;
    if row.get(0) {
        return Ok(());
    }
    let source = "the role has neither the attribute nor the membership".into();
    Err(SlotError::RoleLacksReplication {
        user: connector.user().to_owned(),
        source,
    }
    .into())
}

/// Creates a publication of the tables that the role owns and the configuration wants, since `for all tables` needs a
/// superuser and makes updates of tables without a replica identity fail in the application.
async fn publish(context: &Context<'_>, session: &Session, publication: &str) -> Result<usize, Error> {
    const DOING: &str = "creating the publication (the role must own the tables and may need create on the database; otherwise let their owner run create publication)";
    let failed = |error| context.connector.failed(DOING, error);
    let rows = session
        .client
        .query(
            "select n.nspname::text, c.relname::text, format('%I.%I', n.nspname, c.relname)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence = 'p'
               and n.nspname not in ('pg_catalog', 'information_schema') and pg_has_role(current_user, c.relowner, 'usage')
               and (c.relreplident = 'f' or exists (
                 select from pg_index i where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                   and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end))
             order by 3",
            &[],
        )
        .await
        .map_err(failed)?;
    let tables = &context.config.tables;
    let wanted: Vec<String> = rows
        .iter()
        .filter(|row| {
            tables.is_empty()
                || tables
                    .iter()
                    .any(|pattern| pattern.matches(row.get(0), row.get(1)))
        })
        .map(|row| row.get(2))
        .collect();
    let name = format!("\"{}\"", publication.replace('"', "\"\""));
    let statement = match wanted.is_empty() {
        true => format!("create publication {name}"),
        false => format!("create publication {name} for table {}", wanted.join(", ")),
    };
    session.client.batch_execute(&statement).await.map_err(failed)?;
    Ok(wanted.len())
}

/// The marker behind a new slot's first position, so that nothing of it goes unproved.
async fn first_marker(
    context: &Context<'_>,
    session: &Session,
    server: &Server,
    plugin: Plugin,
) -> Result<Option<Marker>, Error> {
    if !context.config.markers || !plugin.tells_messages(server.version) {
        return Ok(None);
    }
    let (number, nonce) = (1, format!("{:016x}", fastrand::u64(..)));
    let content = Marker::content(&context.config.slot, number, &nonce);
    let emitted = server::emit(
        context.connector,
        session,
        marker::PREFIX,
        &content,
        Waits::ForStandbys,
    );
    let Ok(emitted) = tokio::time::timeout(MARKER_TIME, emitted).await else {
        // It waits for a standby. The first drain lays one.
        session.cancel().await;
        return Ok(None);
    };
    let Emitted { lsn, flushed } = emitted?;
    Ok(Some(Marker {
        number,
        nonce,
        lsn,
        flushed,
    }))
}

async fn create_slot(
    context: &Context<'_>,
    session: &Session,
    server: &Server,
    plugin: Plugin,
) -> Result<(), Error> {
    let Context {
        config, connector, ..
    } = context;
    // From 17 on, a standby can keep a copy of the slot that is good after its promotion.
    let create = match server.version {
        170_000.. => "select lsn from pg_create_logical_replication_slot($1, $2, failover => true)",
        _ => "select lsn from pg_create_logical_replication_slot($1, $2)",
    };
    // It waits for every transaction that is writing, up to the session's lock_timeout.
    let created = session
        .client
        .query_one(create, &[&config.slot, &plugin.name()])
        .await;
    let error = match created {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        let oldest = server::oldest_transaction(connector, session).await?;
        if let Some(pid) = oldest.and_then(|oldest| oldest.pid) {
            return Err(SlotError::CreationWaits {
                slot: config.slot.clone(),
                pid,
                source: Box::new(error),
            }
            .into());
        }
    }
    let text = error
        .as_db_error()
        .map(|refusal| refusal.message().to_owned())
        .unwrap_or_default();
    Err(match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => SlotError::RoleLacksReplication {
            user: connector.user().to_owned(),
            source: Box::new(error),
        },
        Some(code) if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE && text.contains("wal_level") => {
            SlotError::WalLevelNotLogical {
                source: Box::new(error),
            }
        }
        Some(code)
            if *code == SqlState::UNDEFINED_FILE || text.contains("may not be used as an output plugin") =>
        {
            SlotError::PluginNotAllowed {
                slot: config.slot.clone(),
                plugin: plugin.to_string(),
                source: Box::new(error),
            }
        }
        _ => connector.failed("creating the slot", error),
    }
    .into())
}

/// Tells how server, slot, stream and checkpoint stand, and whether a drain would go on. Changes nothing.
pub(crate) async fn status(context: &Context<'_>) -> Result<Value, Error> {
    let Context {
        config,
        connector,
        parameter,
        stream,
        ..
    } = context;
    let (session, Look { server, slot: state }) = look(connector, &config.slot).await?;
    let known = parameter.load().await?;
    let stream_status = stream.status().await;
    let oldest = server::oldest_transaction(connector, &session).await?;
    let standbys = server::standbys(connector, &session).await?;
    let verdict = continuity::check(&config.slot, &server, state.as_ref(), known.as_ref(), None);
    let mut problems: Vec<String> = Vec::new();
    let mut plugin = None;
    match verdict {
        Ok(start) => plugin = Some(start.plugin),
        Err(error) => problems.push(Error::from(error).chain()),
    }
    if config.standby_ack == StandbyAck::Required
        && let Err((why, _)) = standbys.acknowledged(true)
    {
        problems.push(format!("STANDBY_ACK=required, and {why}"));
    }
    if plugin == Some(Plugin::Pgoutput) {
        let missing = server::missing_publications(connector, &session, &config.publications).await?;
        if missing.is_empty()
            && server::published_tables(connector, &session, &config.publications).await? == 0
        {
            problems.push(nothing_published(config));
        }
        problems.extend(
            missing
                .iter()
                .map(|name| format!("publication {name} is missing: run {{\"action\":\"setup\"}}")),
        );
    }
    let stream_status = match stream_status {
        Ok(status) => status,
        Err(error) => {
            problems.push(Error::from(error).chain());
            "unknown".to_owned()
        }
    };
    let backfill = match plugin {
        Some(plugin) => {
            let stood = backfill::status(context, &session, &server, plugin, &mut problems).await;
            stood.unwrap_or_else(|error| {
                problems.push(error.chain());
                Value::Null
            })
        }
        None => Value::Null,
    };
    let confirmed = state.as_ref().and_then(|state| state.confirmed_flush_lsn);
    let restart = state.as_ref().and_then(|state| state.restart_lsn);
    let text = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
    Ok(json!({
        "action": "status",
        "slot": config.slot,
        "plugin": state.as_ref().and_then(|state| state.plugin.clone()),
        "database": server.database,
        "server_version": server.version,
        "timeline": server.timeline,
        "flush_lsn": server.flush.to_string(),
        "confirmed_flush_lsn": text(confirmed),
        "restart_lsn": text(restart),
        "wal_status": state.as_ref().and_then(|state| state.wal_status.clone()),
        "safe_wal_size": state.as_ref().and_then(|state| state.safe_wal_size),
        "active_pid": state.as_ref().and_then(|state| state.active_pid),
        "checkpoint": known.as_ref().map(|known| known.commit_end.to_string()),
        "checkpoint_updated_at": known.as_ref().map(|known| known.updated_at.clone()),
        "marker": known.as_ref().and_then(|known| known.marker.clone()),
        "rows_of_next_transaction": known.as_ref().and_then(|known| known.progress.as_ref().map(|inside| inside.rows)),
        "failover": state.as_ref().and_then(|state| state.failover),
        "standbys": standbys.count,
        "standby_flush_lsn": text(standbys.flushed),
        "lag_bytes": confirmed.map(|confirmed| server.flush.bytes_since(confirmed)),
        "retained_bytes": restart.map(|restart| server.flush.bytes_since(restart)),
        "oldest_transaction": oldest,
        "stream": config.stream,
        "stream_status": stream_status,
        "backfill": backfill,
        "problems": problems,
    }))
}

/// Drops the slot, so that the server may remove its log, and deletes the checkpoint and what is kept of a backfill. Publications stay: they cost nothing, and
/// others may use them.
pub(crate) async fn teardown(context: &Context<'_>) -> Result<Value, Error> {
    let Context {
        config,
        connector,
        parameter,
        ..
    } = context;
    let (session, Look { slot: state, server }) = look(connector, &config.slot).await?;
    let mut dropped = Vec::new();
    if let Some(state) = state {
        if state
            .database
            .as_deref()
            .is_some_and(|database| database != server.database)
        {
            continuity::readable(&config.slot, &server, &state)?;
        }
        server::lock_or_busy(connector, &session, &config.slot).await?;
        session
            .client
            .query("select pg_drop_replication_slot($1)", &[&config.slot])
            .await
            .map_err(|error| connector.failed("dropping the slot", error))?;
        dropped.push(format!("slot {}", config.slot));
    }
    if parameter.delete().await? {
        dropped.push(format!("checkpoint {}", parameter.name));
    }
    match context.backfill.delete().await {
        Ok(true) => dropped.push(format!("backfill {}", context.backfill.name)),
        Ok(false) => {}
        // An older stack may not let us, and has none.
        Err(CheckpointError::Denied { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(json!({"action": "teardown", "slot": config.slot, "dropped": dropped}))
}

/// A session, and what was seen through it.
async fn look(connector: &Connector, slot: &str) -> Result<(Session, Look), Error> {
    let session = connector.connect().await?;
    let look = server::look(connector, &session, slot).await?;
    Ok((session, look))
}
