//! The action `status`: state and problems of server, slot, checkpoint, stream and backfill.
//!
//! It changes nothing.

use serde_json::{Value, json};

use super::app::App;
use super::pending_backfill;
use super::problems::{setting_problems, tables_no_longer_sent};
use crate::base::lsn::Lsn;
use crate::config::StandbyAck;
use crate::continuity::checkpoint::Checkpoint;
use crate::continuity::{self, ServerInfo, SlotState};
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::SlotFigures;
use crate::postgres::connection::{Connector, Session};
use crate::postgres::server::{self, Inspection, StandbyInfo};
use crate::postgres::{provisioning, retention};
use crate::rules::stream_pattern::StreamPattern;

/// Most repeated reads of slot and checkpoint while a drain runs.
const CONSISTENT_READS: usize = 3;

/// Answers with the state of everything that a drain uses.
///
/// The answer lists problems. Some stop a drain. Others only need attention, such as a failed backfill.
///
/// # Errors
/// A request to PostgreSQL failed, or the checkpoint cannot be read. A failed request to the stream is a
/// problem in the answer.
pub(crate) async fn run(app: &App, connector: &Connector) -> Result<Value, Error> {
    let config = &app.config;
    let session = connector.connect().await?;
    let (inspection, stored) = inspect_with_checkpoint(app, connector, &session).await?;
    let Inspection { server, slot: state } = &inspection;
    let mut problems: Vec<String> = Vec::new();
    let stream_status = app.stream.status().await;
    let oldest = retention::oldest_transaction(connector, &session).await?;
    let standbys = server::standbys(connector, &session).await?;
    let checked = continuity::start_position(&config.slot, server, state.as_ref(), stored.as_ref(), None);
    let plugin = match checked {
        Ok(start) => Some(start.plugin),
        Err(error) => {
            problems.push(Error::from(error).chain());
            None
        }
    };
    problems.extend(standby_problem(config.standby_ack, &standbys));
    let stalling = server::stalling_standby_slot(connector, &session, &config.slot).await?;
    problems.extend(stalling.map(|name| stalling_problem(&name)));
    problems.extend(access_problems(app, connector, &session, stream_status.is_ok()).await);
    if let Some(plugin) = plugin {
        problems.extend(setting_problems(app, connector, &session, plugin).await);
        problems.extend(table_problems(app, connector, &session, plugin).await);
    }
    let stream_status = stream_status.unwrap_or_else(|error| {
        problems.push(Error::from(error).chain());
        "unknown".to_owned()
    });
    let backfill = match plugin {
        Some(plugin) => {
            let described =
                pending_backfill::status::describe(app, connector, &session, server, plugin, &mut problems)
                    .await;
            described.unwrap_or_else(|error| {
                problems.push(error.chain());
                Value::Null
            })
        }
        None => Value::Null,
    };
    let mut answer = positions(&config.slot, &inspection, stored.as_ref(), &standbys);
    answer["drainer"] = json!(server::lock_holder(connector, &session, &config.slot).await?);
    answer["oldest_transaction"] = json!(oldest);
    answer["stream"] = json!(config.stream);
    answer["stream_pattern"] = json!(config.stream_pattern.as_ref().map(StreamPattern::to_string));
    answer["stream_status"] = json!(stream_status);
    answer["backfill"] = backfill;
    answer["problems"] = json!(problems);
    Ok(answer)
}

/// The server, the slot and the checkpoint, consistent with each other.
///
/// A running drain may move checkpoint and slot between the two reads. The result looks like a discontinuity.
/// In that case both are read again, until the checkpoint is the same before and after the slot's read.
async fn inspect_with_checkpoint(
    app: &App,
    connector: &Connector,
    session: &Session,
) -> Result<(Inspection, Option<Checkpoint>), Error> {
    let slot = &app.config.slot;
    let mut inspection = server::inspect(connector, session, slot).await?;
    let mut stored = app.checkpoint.load().await?;
    for _ in 0..CONSISTENT_READS {
        let (server, state) = (&inspection.server, inspection.slot.as_ref());
        let checked = continuity::start_position(slot, server, state, stored.as_ref(), None);
        if !checked.is_err_and(|error| error.is_discontinuity()) {
            break;
        }
        inspection = server::inspect(connector, session, slot).await?;
        let later = app.checkpoint.load().await?;
        if later == stored {
            break;
        }
        stored = later;
    }
    Ok((inspection, stored))
}

/// Problems of the role's rights, the salt and the stream.
async fn access_problems(
    app: &App,
    connector: &Connector,
    session: &Session,
    stream_answers: bool,
) -> Vec<String> {
    let role = provisioning::check_replication_right(connector, session).await;
    let salt = app.column_rules().await;
    let mut problems: Vec<Error> = role.err().map(Error::from).into_iter().collect();
    problems.extend(salt.err().map(Error::from));
    // Otherwise, the failed request for the stream's status is already a problem of the answer.
    if stream_answers {
        problems.extend(app.stream.usable_info().await.err().map(Error::from));
    }
    problems.iter().map(Error::chain).collect()
}

/// The first fields of the answer: action, slot, server and checkpoint, with positions.
fn positions(
    slot_name: &str,
    inspection: &Inspection,
    stored: Option<&Checkpoint>,
    standbys: &StandbyInfo,
) -> Value {
    let server: &ServerInfo = &inspection.server;
    let slot: Option<&SlotState> = inspection.slot.as_ref();
    let SlotFigures { lag_bytes, retention } = inspection.figures();
    let resume = stored.and_then(|stored| stored.resume.as_ref());
    let text = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
    json!({
        "action": "status",
        "slot": slot_name,
        "plugin": slot.and_then(|slot| slot.plugin.clone()),
        "database": server.database,
        "server_version": server.version,
        "timeline": server.timeline,
        "flush_lsn": server.flush.to_string(),
        "confirmed_flush_lsn": text(slot.and_then(|slot| slot.confirmed_flush_lsn)),
        "restart_lsn": text(slot.and_then(|slot| slot.restart_lsn)),
        "wal_status": retention.wal_status,
        "safe_wal_size": retention.safe_wal_size,
        "active_pid": slot.and_then(|slot| slot.active_pid),
        "checkpoint": stored.map(|stored| stored.commit_end.to_string()),
        "checkpoint_updated_at": stored.map(|stored| stored.updated_at.clone()),
        "marker": stored.and_then(|stored| stored.marker.clone()),
        "rows_of_next_transaction": resume.map(|resume| resume.rows),
        "failover": slot.and_then(|slot| slot.failover),
        "standbys": standbys.count,
        "standby_flush_lsn": text(standbys.flushed),
        "lag_bytes": lag_bytes,
        "retained_bytes": retention.retained_bytes,
    })
}

/// Tables that were sent, and are not any more. A failed check is a problem, too.
async fn table_problems(app: &App, connector: &Connector, session: &Session, plugin: Plugin) -> Vec<String> {
    match tables_no_longer_sent::check(app, connector, session, plugin).await {
        Ok(checked) => checked.no_longer_sent.sentences,
        Err(error) => vec![error.chain()],
    }
}

fn stalling_problem(standby_slot: &str) -> String {
    format!(
        "synchronized_standby_slots has {standby_slot}, which no standby reads: the drain sends nothing \
         until one does. Start that standby, or remove the name from the setting"
    )
}

fn standby_problem(standby_ack: StandbyAck, standbys: &StandbyInfo) -> Option<String> {
    match (
        standby_ack,
        standbys.acknowledged(standby_ack == StandbyAck::Required),
    ) {
        (StandbyAck::Off, _) => None,
        (_, Err(unseen)) => Some(format!("STANDBY_ACK=required, and {}", unseen.why)),
        (_, Ok(Some(Lsn::ZERO))) => {
            let why = match standbys.synchronous {
                true => "synchronous_standby_names is set, and no such standby",
                false => "STANDBY_ACK=required, and no standby",
            };
            Some(format!(
                "{why} has acknowledged any log: the drain sends nothing until one does"
            ))
        }
        (_, Ok(_)) => None,
    }
}
