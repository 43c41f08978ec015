//! What a server says of itself, of a slot, of its tables' keys, and of what stands in a drain's way.

use std::time::{Duration, Instant};

use postgres_types::PgLsn;

use crate::continuity::{ServerInfo, SlotState};
use crate::lsn::Lsn;
use crate::ports::OldestTransaction;
use crate::ports::{BoxError, EmittedMessage, SlotError};
use crate::postgres::connection::{Connector, Session};

/// What the server and the slot say of themselves.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The server.
    pub server: ServerInfo,
    /// The slot, if there is one by this name.
    pub slot: Option<SlotState>,
}

/// Looks at the server and at a slot.
///
/// # Errors
/// The server is a standby, or the query failed.
pub(crate) async fn inspect(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Inspection, SlotError> {
    const DOING: &str = "looking at the server and the slot";
    let failed = |error| connector.failed(DOING, error);
    let row = session
        .client
        .query_one(
            "select current_setting('server_version_num')::int4,
                    (select system_identifier::text from pg_control_system()),
                    case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end,
                    case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
                    current_database()::text,
                    current_setting('server_encoding'),
                    (select to_jsonb(s)::text from pg_replication_slots s where s.slot_name = $1)",
            &[&slot],
        )
        .await
        .map_err(failed)?;
    let (Some(flush), Some(timeline)) = (row.get::<_, Option<PgLsn>>(2), row.get::<_, Option<String>>(3))
    else {
        return Err(SlotError::NotWriter {
            host: connector.host().to_owned(),
        });
    };
    let broken = |source: BoxError| SlotError::Failed {
        host: connector.host().to_owned(),
        doing: DOING,
        transient: false,
        source,
    };
    let state = row
        .get::<_, Option<String>>(6)
        .map(|text| serde_json::from_str::<SlotState>(&text))
        .transpose();
    Ok(Inspection {
        server: ServerInfo {
            version: row.get(0),
            system_identifier: row.get(1),
            timeline: u32::from_str_radix(&timeline, 16).map_err(|error| broken(Box::new(error)))?,
            database: row.get(4),
            encoding: row.get(5),
            flush: Lsn(flush.into()),
        },
        slot: state.map_err(|error| broken(Box::new(error)))?,
    })
}

/// How long to wait for the lock. The session of an invocation that just ended takes a moment to end on the server.
const LOCK_TIME: Duration = Duration::from_millis(500);

/// Takes the lock of the one drainer of this slot, for as long as the session lives. False when another one has it.
///
/// # Errors
/// The query failed.
pub(crate) async fn lock(connector: &Connector, session: &Session, slot: &str) -> Result<bool, SlotError> {
    let began = Instant::now();
    loop {
        let row = session
            .client
            .query_one(
                "select pg_try_advisory_lock(hashtextextended('spillway:' || $1, 0))",
                &[&slot],
            )
            .await
            .map_err(|error| connector.failed("locking the slot", error))?;
        if row.get(0) || began.elapsed() >= LOCK_TIME {
            return Ok(row.get(0));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes the lock where nothing can be done without it.
///
/// # Errors
/// Another one has it, or the query failed.
pub(crate) async fn lock_or_busy(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<(), SlotError> {
    match lock(connector, session, slot).await? {
        true => Ok(()),
        false => Err(SlotError::Busy {
            slot: slot.to_owned(),
        }),
    }
}

/// What the server tells of its standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StandbyInfo {
    /// How many are connected.
    pub(crate) count: i64,
    /// Whether we may see how far they are.
    pub(crate) visible: bool,
    /// The furthest position that one has on its disk.
    pub(crate) flushed: Option<Lsn>,
    /// Whether commits wait for some of them.
    pub(crate) synchronous: bool,
}

impl StandbyInfo {
    /// Up to where the log is surely in a second place, and survives the loss of this server; `None` where that is not known, or
    /// where there is no second place.
    ///
    /// # Errors
    /// It is `required`, and not known: why, and whether that may pass by itself.
    pub(crate) fn acknowledged(&self, required: bool) -> Result<Option<Lsn>, (&'static str, bool)> {
        match (self.visible, self.flushed) {
            (true, Some(lsn)) => Ok(Some(lsn)),
            _ if required && self.count == 0 => Err(("no standby is connected", true)),
            (false, _) if required => Err((
                "the role may not see how far the standbys are: grant pg_monitor to it",
                false,
            )),
            // Commits wait, and nobody has acknowledged anything: nothing of it can be told to survive.
            (true, None) if required || self.synchronous => Ok(Some(Lsn::ZERO)),
            (false, _) if self.synchronous && self.count == 0 => Ok(Some(Lsn::ZERO)),
            _ => Ok(None),
        }
    }
}

/// How far the physical standbys are.
///
/// # Errors
/// The query failed.
pub(crate) async fn standbys(connector: &Connector, session: &Session) -> Result<StandbyInfo, SlotError> {
    // Subscribers and base backups are no standbys. Without the right to see it, all but the process is null.
    let row = session
        .client
        .query_one(
            "select count(r.pid), pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
                    max(r.flush_lsn) filter (where current_setting('synchronous_standby_names') = '' or r.sync_state <> 'async'),
                    current_setting('synchronous_standby_names') <> ''
             from pg_stat_replication r
             where coalesce(r.state, '') <> 'backup'
               and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')",
            &[],
        )
        .await
        .map_err(|error| connector.failed("looking at the standbys", error))?;
    Ok(StandbyInfo {
        count: row.get(0),
        visible: row.get(1),
        flushed: row.get::<_, Option<PgLsn>>(2).map(|lsn| Lsn(lsn.into())),
        synchronous: row.get(3),
    })
}

/// From 17 on, up to where all standbys of `synchronized_standby_slots` have the log. Reading a failover slot waits for each of them, so
/// one that is missing holds everything back. `None` where the server waits for none.
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
            "select min(coalesce(s.restart_lsn, '0/0'))
             from unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) w(name)
             left join pg_replication_slots s on s.slot_name = btrim(w.name, ' \"')
             where btrim(w.name) <> ''
               and (select to_jsonb(o) ->> 'failover' from pg_replication_slots o where o.slot_name = $1) = 'true'",
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("looking at synchronized_standby_slots", error))?;
    let lsn = row.and_then(|row| row.get::<_, Option<PgLsn>>(0));
    Ok(lsn.map(|lsn| Lsn(lsn.into())))
}

/// What the commit of a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitWait {
    /// The server's disk.
    ForDisk,
    /// The standbys, too, where transactions wait for them that must not be lost.
    ForStandbys,
}

/// Writes a logical message in a transaction of its own, and waits for its commit.
///
/// # Errors
/// The query failed.
pub(crate) async fn emit(
    connector: &Connector,
    session: &Session,
    prefix: &str,
    content: &str,
    waits: CommitWait,
) -> Result<EmittedMessage, SlotError> {
    let failed = |error| connector.failed("writing a logical message", error);
    let commit = match waits {
        CommitWait::ForDisk => "local",
        CommitWait::ForStandbys => "on",
    };
    let row = session
        .client
        .query_one(
            "select pg_logical_emit_message(true, $1::text, $2::text), set_config('synchronous_commit', $3, true)",
            &[&prefix, &content, &commit],
        )
        .await
        .map_err(failed)?;
    let lsn = Lsn(row.get::<_, PgLsn>(0).into());
    let row = session
        .client
        .query_one("select pg_current_wal_flush_lsn()", &[])
        .await
        .map_err(failed)?;
    let flushed = Lsn(row.get::<_, PgLsn>(0).into());
    Ok(EmittedMessage { lsn, flushed })
}

/// The oldest transaction that is writing, in any database.
///
/// # Errors
/// The query failed.
pub(crate) async fn oldest_transaction(
    connector: &Connector,
    session: &Session,
) -> Result<Option<OldestTransaction>, SlotError> {
    // Everybody may see the locks; when a transaction began, only members of pg_monitor. A transaction of less than five
    // seconds is everyday life.
    let row = session
        .client
        .query_opt(
            "select l.pid, extract(epoch from clock_timestamp() - a.xact_start)::int8
             from pg_locks l left join pg_stat_activity a using (pid)
             where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
               and l.pid is distinct from pg_backend_pid()
               and coalesce(clock_timestamp() - a.xact_start >= interval '5 seconds', true)
             order by age(l.transactionid) desc limit 1",
            &[],
        )
        .await
        .map_err(|error| connector.failed("looking for old transactions", error))?;
    Ok(row.map(|row| OldestTransaction {
        pid: row.get(0),
        age_seconds: row.get(1),
    }))
}

/// Publications of `wanted` that the database does not have.
///
/// # Errors
/// The query failed.
pub(crate) async fn missing_publications(
    connector: &Connector,
    session: &Session,
    wanted: &[String],
) -> Result<Vec<String>, SlotError> {
    let rows = session
        .client
        .query(
            "select w from unnest($1::text[]) w where not exists (select from pg_publication where pubname = w)",
            &[&wanted],
        )
        .await
        .map_err(|error| connector.failed("looking for publications", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How many tables the publications hold together.
///
/// # Errors
/// The query failed.
pub(crate) async fn published_tables(
    connector: &Connector,
    session: &Session,
    publications: &[String],
) -> Result<i64, SlotError> {
    let row = session
        .client
        .query_one(
            "select count(*) from pg_publication_tables where pubname = any($1)",
            &[&publications],
        )
        .await
        .map_err(|error| connector.failed("counting the published tables", error))?;
    Ok(row.get(0))
}

/// Tells one server from another, and from itself before a restart.
pub(crate) async fn server_of(connector: &Connector, session: &Session) -> Result<String, SlotError> {
    let row = session
        .client
        .query_one(
            "select pg_postmaster_start_time()::text || coalesce(host(inet_server_addr()), '')",
            &[],
        )
        .await
        .map_err(|error| connector.failed("comparing the sessions' servers", error))?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_standby_has_is_held_back_where_that_can_be_seen() {
        let none = StandbyInfo {
            count: 0,
            visible: true,
            flushed: None,
            synchronous: false,
        };
        let ahead = StandbyInfo {
            count: 1,
            flushed: Some(Lsn(7)),
            ..none
        };
        let blind = StandbyInfo {
            visible: false,
            flushed: None,
            ..ahead
        };
        let lonely = StandbyInfo {
            synchronous: true,
            ..none
        };
        let auto = |standbys: StandbyInfo| standbys.acknowledged(false);
        assert_eq!(auto(none), Ok(None));
        assert_eq!(auto(ahead), Ok(Some(Lsn(7))));
        assert_eq!(auto(blind), Ok(None));
        assert_eq!(auto(lonely), Ok(Some(Lsn::ZERO)));
        let required = |standbys: StandbyInfo| standbys.acknowledged(true);
        assert_eq!(required(ahead), Ok(Some(Lsn(7))));
        for unknown in [none, blind, lonely] {
            assert!(required(unknown).is_err());
        }
    }
}
