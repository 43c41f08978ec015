//! State of the server: its identity, the slot, the lock, the standbys, the transactions and the
//! publications.

use std::time::{Duration, Instant};

use super::connection::{Connector, Session};
use super::publications::PUBLISHED;
use super::rows;
use crate::base::causes::BoxError;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::continuity::{ServerInfo, SlotState};
use crate::ports::{EmittedMessage, LockHolder, Retention, SlotError, SlotFigures};

/// State of the server and of one slot.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The server.
    pub server: ServerInfo,
    /// The slot; `None` when the server has no slot of this name.
    pub slot: Option<SlotState>,
}

impl Inspection {
    /// The slot's lag, and the log that the server retains for it.
    pub(crate) fn figures(&self) -> SlotFigures {
        let slot = self.slot.as_ref();
        let bytes_since = |lsn: Lsn| self.server.flush.bytes_since(lsn);
        SlotFigures {
            lag_bytes: slot.and_then(|slot| slot.confirmed_flush_lsn).map(bytes_since),
            retention: Retention {
                retained_bytes: slot.and_then(|slot| slot.restart_lsn).map(bytes_since),
                wal_status: slot.and_then(|slot| slot.wal_status.clone()),
                safe_wal_size: slot.and_then(|slot| slot.safe_wal_size),
            },
        }
    }
}

/// Reads the state of the server and of a slot.
///
/// # Errors
/// The server is a standby, or the query failed.
pub(crate) async fn inspect(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Inspection, SlotError> {
    const DOING: &str = "inspecting the server and the slot";
    let row = session
        .client
        .query_one(INSPECTION, &[&slot])
        .await
        .map_err(|error| connector.failed(DOING, error))?;
    let (Some(flush), Some(timeline)) = (
        rows::optional_lsn(&row, "flush_lsn"),
        row.get::<_, Option<String>>("timeline"),
    ) else {
        return Err(SlotError::NotWriter {
            host: connector.host().to_owned(),
        });
    };
    let undecodable = |source: BoxError| SlotError::Failed {
        host: connector.host().to_owned(),
        doing: DOING,
        kind: ErrorKind::Definite,
        source,
    };
    let slot = row
        .get::<_, Option<String>>("slot")
        .map(|text| serde_json::from_str::<SlotState>(&text))
        .transpose();
    Ok(Inspection {
        server: ServerInfo {
            version: row.get("version"),
            system_identifier: row.get("system_identifier"),
            timeline: u32::from_str_radix(&timeline, 16).map_err(|error| undecodable(Box::new(error)))?,
            database: row.get("database"),
            database_oid: row.get("database_oid"),
            encoding: row.get("encoding"),
            flush,
        },
        slot: slot.map_err(|error| undecodable(Box::new(error)))?,
    })
}

/// The server, and the slot $1 as JSON: the columns of `pg_replication_slots` depend on the server's version.
///
/// The position and the timeline are null on a standby. The first eight hexadecimal digits of a WAL file's
/// name are the timeline.
const INSPECTION: &str = "
    select current_setting('server_version_num')::int4 as version,
           (select system_identifier::text from pg_control_system()) as system_identifier,
           case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end as flush_lsn,
           case when not pg_is_in_recovery()
                then left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline,
           current_database()::text as database,
           (select oid from pg_database where datname = current_database()) as database_oid,
           current_setting('server_encoding') as encoding,
           (select to_jsonb(s)::text from pg_replication_slots s where s.slot_name = $1) as slot";

/// The key of a slot's advisory lock. Parameter `$1` is the slot's name.
const LOCK_KEY: &str = "hashtextextended('spillway:' || $1, 0)";

/// Longest pause between two attempts to acquire the lock.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Acquires the lock of the slot's only drainer.
///
/// The session holds the lock until it ends. Returns false when another session still has the lock at
/// `deadline`.
///
/// # Errors
/// The query failed.
pub(crate) async fn lock(
    connector: &Connector,
    session: &Session,
    slot: &str,
    deadline: Instant,
) -> Result<bool, SlotError> {
    let mut pause = Duration::from_millis(50);
    loop {
        let row = session
            .client
            .query_one(
                &format!("select pg_try_advisory_lock({LOCK_KEY}) as is_locked"),
                &[&slot],
            )
            .await
            .map_err(|error| connector.failed("locking the slot", error))?;
        let is_locked = row.get("is_locked");
        let time_left = deadline.saturating_duration_since(Instant::now());
        if is_locked || time_left.is_zero() {
            return Ok(is_locked);
        }
        tokio::time::sleep(pause.min(time_left)).await;
        pause = (pause * 2).min(LOCK_PAUSE);
    }
}

/// Acquires the lock for an action that cannot run without it.
///
/// # Errors
/// [`SlotError::Busy`] when another session still has the lock at `deadline`, or the query failed.
pub(crate) async fn lock_or_busy(
    connector: &Connector,
    session: &Session,
    slot: &str,
    deadline: Instant,
) -> Result<(), SlotError> {
    match lock(connector, session, slot, deadline).await? {
        true => Ok(()),
        false => Err(SlotError::Busy {
            slot: slot.to_owned(),
            holder: lock_holder(connector, session, slot).await?,
        }),
    }
}

/// Checks that the session which acquired the slot's lock still has it.
///
/// A lock ends with its session.
///
/// # Errors
/// The session has ended, or does not answer within two seconds.
pub(crate) async fn check_lock(connector: &Connector, session: &Session) -> Result<(), SlotError> {
    const DOING: &str = "checking the lock";
    let answer = session.client.simple_query("select 1");
    match tokio::time::timeout(Duration::from_secs(2), answer).await {
        Ok(answer) => answer.map(drop).map_err(|error| connector.failed(DOING, error)),
        Err(elapsed) => Err(SlotError::Failed {
            host: connector.host().to_owned(),
            doing: DOING,
            kind: ErrorKind::Transient,
            source: Box::new(elapsed),
        }),
    }
}

/// The session that holds the slot's lock; `None` if there is none.
///
/// # Errors
/// The query failed.
pub(crate) async fn lock_holder(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Option<LockHolder>, SlotError> {
    let row = session
        .client
        .query_opt(
            &format!(
                "select l.pid as pid,
                        extract(epoch from clock_timestamp() - a.backend_start)::int8 as age_seconds
                 from pg_locks l left join pg_stat_activity a using (pid)
                 where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                   and l.database = (select oid from pg_database where datname = current_database())
                   and (l.classid::int8 << 32 | l.objid::int8) = {LOCK_KEY}
                 limit 1"
            ),
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("searching for the drainer", error))?;
    Ok(row.map(|row| LockHolder {
        pid: row.get("pid"),
        age_seconds: row.get("age_seconds"),
    }))
}

/// State of the server's physical standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StandbyInfo {
    /// The number of connected standbys.
    pub(crate) count: i64,
    /// Whether the role may read their positions.
    pub(crate) visible: bool,
    /// The highest position that a standby has flushed to disk.
    ///
    /// If `synchronous_standby_names` is set, asynchronous standbys do not count.
    pub(crate) flushed: Option<Lsn>,
    /// Whether `synchronous_standby_names` is set, so that commits wait for standbys.
    pub(crate) synchronous: bool,
}

/// The position of the standbys is required and not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnseenStandby {
    pub(crate) why: &'static str,
    /// Transient if a standby may connect later.
    pub(crate) kind: ErrorKind,
}

impl StandbyInfo {
    /// Position up to which a standby has the log.
    ///
    /// The log up to this position survives the loss of this server. If no position is known, the result is:
    /// - zero, if commits wait for standbys and none has acknowledged a position;
    /// - zero, if a position is `required` and the connected standbys have acknowledged none;
    /// - `None` in all other cases, also if the role may not read the positions.
    ///
    /// # Errors
    /// A position is `required`, but no standby is connected, or the role may not read the positions.
    pub(crate) fn acknowledged(&self, required: bool) -> Result<Option<Lsn>, UnseenStandby> {
        match (self.visible, self.flushed) {
            (true, Some(lsn)) => Ok(Some(lsn)),
            _ if required && self.count == 0 => Err(UnseenStandby {
                why: "no standby is connected",
                kind: ErrorKind::Transient,
            }),
            (false, _) if required => Err(UnseenStandby {
                why: "the role may not read the positions of the standbys: grant pg_monitor to it",
                kind: ErrorKind::Definite,
            }),
            // No standby has acknowledged any position. So no part of the log is known to survive.
            (true, None) if required || self.synchronous => Ok(Some(Lsn::ZERO)),
            (false, _) if self.synchronous && self.count == 0 => Ok(Some(Lsn::ZERO)),
            _ => Ok(None),
        }
    }
}

/// Reads the state of the physical standbys.
///
/// # Errors
/// The query failed.
pub(crate) async fn standbys(connector: &Connector, session: &Session) -> Result<StandbyInfo, SlotError> {
    let row = session
        .client
        .query_one(STANDBYS, &[])
        .await
        .map_err(|error| connector.failed("reading the positions of the standbys", error))?;
    Ok(StandbyInfo {
        count: row.get("count"),
        visible: row.get("is_visible"),
        flushed: rows::optional_lsn(&row, "flush_lsn"),
        synchronous: row.get("is_synchronous"),
    })
}

/// The physical standbys, without logical subscribers and base backups.
///
/// A role without `pg_read_all_stats` sees null in `state`, `sync_state` and `flush_lsn`.
const STANDBYS: &str = "
    select count(r.pid) as count,
           pg_has_role(current_user, 'pg_read_all_stats', 'usage') as is_visible,
           max(r.flush_lsn) filter (
             where current_setting('synchronous_standby_names') = '' or r.sync_state <> 'async') as flush_lsn,
           current_setting('synchronous_standby_names') <> '' as is_synchronous
    from pg_stat_replication r
    where coalesce(r.state, '') <> 'backup'
      and not exists (
        select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')";

/// Position up to which all standbys of `synchronized_standby_slots` have the log.
///
/// From PostgreSQL 17 on, reading a failover slot waits for each of these standbys. One missing standby stops
/// all reading. `None` when the server waits for no standby.
///
/// # Errors
/// The query failed.
pub(crate) async fn awaited_standbys(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Option<Lsn>, SlotError> {
    let row = session
        .client
        .query_opt(
            "select min(coalesce(s.restart_lsn, '0/0')) as awaited_lsn
             from unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) w(name)
             left join pg_replication_slots s on s.slot_name = btrim(w.name, ' \"')
             where btrim(w.name) <> ''
               and (select to_jsonb(o) ->> 'failover' from pg_replication_slots o
                    where o.slot_name = $1) = 'true'",
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("reading synchronized_standby_slots", error))?;
    Ok(row.and_then(|row| rows::optional_lsn(&row, "awaited_lsn")))
}

/// A standby's slot that blocks the reading of `slot`.
///
/// `synchronized_standby_slots` lists the standby's slot, but no standby uses it: it is missing, invalid or
/// inactive. If it has a position, the position is at or before that of `slot`. `None` without such a slot,
/// or if `slot` has confirmed the whole log.
///
/// # Errors
/// The query failed.
pub(crate) async fn stalling_standby_slot(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Option<String>, SlotError> {
    let row = session
        .client
        .query_opt(
            "select btrim(w.name, ' \"') as name
             from pg_replication_slots o
             cross join unnest(
               string_to_array(current_setting('synchronized_standby_slots', true), ',')) w(name)
             left join pg_replication_slots s on s.slot_name = btrim(w.name, ' \"')
             where o.slot_name = $1 and to_jsonb(o) ->> 'failover' = 'true' and btrim(w.name) <> ''
               and o.confirmed_flush_lsn < pg_current_wal_flush_lsn()
               and s.active_pid is null
               and coalesce(s.restart_lsn, '0/0') <= o.confirmed_flush_lsn
             limit 1",
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("reading synchronized_standby_slots", error))?;
    Ok(row.map(|row| row.get("name")))
}

/// The durability that the commit of a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitWait {
    /// The flush to the server's own disk.
    ForDisk,
    /// Also the flush of the synchronous standbys, if the server has any.
    ForStandbys,
}

/// Writes a logical message in its own transaction.
///
/// The call waits for the commit of that transaction.
///
/// # Errors
/// The query failed.
pub(crate) async fn emit(
    connector: &Connector,
    session: &Session,
    prefix: &str,
    content: &str,
    commit_wait: CommitWait,
) -> Result<EmittedMessage, SlotError> {
    let failed = |error| connector.failed("writing a logical message", error);
    let synchronous_commit = match commit_wait {
        CommitWait::ForDisk => "local",
        CommitWait::ForStandbys => "on",
    };
    let row = session
        .client
        .query_one(
            "select pg_logical_emit_message(true, $1::text, $2::text) as lsn,
                    set_config('synchronous_commit', $3, true) as synchronous_commit",
            &[&prefix, &content, &synchronous_commit],
        )
        .await
        .map_err(failed)?;
    let lsn = rows::lsn(&row, "lsn");
    let row = session
        .client
        .query_one("select pg_current_wal_flush_lsn() as flush_lsn", &[])
        .await
        .map_err(failed)?;
    let flushed = rows::lsn(&row, "flush_lsn");
    Ok(EmittedMessage { lsn, flushed })
}

/// The `publications` that the database does not have.
///
/// # Errors
/// The query failed.
pub(crate) async fn missing_publications(
    connector: &Connector,
    session: &Session,
    publications: &[String],
) -> Result<Vec<String>, SlotError> {
    let rows = session
        .client
        .query(
            "select p.name as name from unnest($1::text[]) p(name)
             where not exists (select from pg_publication where pubname = p.name)",
            &[&publications],
        )
        .await
        .map_err(|error| connector.failed("checking the publications", error))?;
    Ok(rows.iter().map(|row| row.get("name")).collect())
}

/// The number of published tables.
///
/// A table counts once for each of its `publications`.
///
/// # Errors
/// The query failed.
pub(crate) async fn published_tables(
    connector: &Connector,
    session: &Session,
    publications: &[String],
) -> Result<i64, SlotError> {
    let statement = format!("with recursive {PUBLISHED} select count(*) as count from published_oids");
    let row = session
        .client
        .query_one(&statement, &[&publications])
        .await
        .map_err(|error| connector.failed("counting the published tables", error))?;
    Ok(row.get("count"))
}

/// Identity of the running server.
///
/// It differs from server to server, and changes when a server restarts.
///
/// # Errors
/// The query failed.
pub(crate) async fn instance(connector: &Connector, session: &Session) -> Result<String, SlotError> {
    let row = session
        .client
        .query_one(
            "select pg_postmaster_start_time()::text || coalesce(host(inet_server_addr()), '') as instance",
            &[],
        )
        .await
        .map_err(|error| connector.failed("comparing the sessions' servers", error))?;
    Ok(row.get("instance"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_no_standby_has_is_not_acknowledged() {
        let no_standby = StandbyInfo {
            count: 0,
            visible: true,
            flushed: None,
            synchronous: false,
        };
        let one_standby = StandbyInfo {
            count: 1,
            flushed: Some(Lsn(7)),
            ..no_standby
        };
        let invisible_standby = StandbyInfo {
            visible: false,
            flushed: None,
            ..one_standby
        };
        let missing_standby = StandbyInfo {
            synchronous: true,
            ..no_standby
        };
        let auto = |standbys: StandbyInfo| standbys.acknowledged(false);
        assert_eq!(auto(no_standby), Ok(None));
        assert_eq!(auto(one_standby), Ok(Some(Lsn(7))));
        assert_eq!(auto(invisible_standby), Ok(None));
        assert_eq!(auto(missing_standby), Ok(Some(Lsn::ZERO)));
        let required = |standbys: StandbyInfo| standbys.acknowledged(true);
        assert_eq!(required(one_standby), Ok(Some(Lsn(7))));
        for unknown in [no_standby, invisible_standby, missing_standby] {
            assert!(required(unknown).is_err());
        }
    }
}
