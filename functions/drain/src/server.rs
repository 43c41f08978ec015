//! What a server says of itself, of a slot, and of what stands in a drain's way.

use postgres_types::PgLsn;

use crate::connect::{Connector, Session};
use crate::continuity::{Server, SlotState, slot_state};
use crate::drain::parts::{SlotError, Source};
use crate::drain::report::OldestTransaction;
use crate::lsn::Lsn;

/// What the server and the slot say of themselves.
#[derive(Debug)]
pub struct Look {
    /// The server.
    pub server: Server,
    /// The slot, if there is one by this name.
    pub slot: Option<SlotState>,
}

/// Looks at the server and at a slot.
///
/// # Errors
/// The server is a standby, or the query failed.
pub async fn look(connector: &Connector, session: &Session, slot: &str) -> Result<Look, SlotError> {
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
    let broken = |source: Source| SlotError::Failed {
        host: connector.host().to_owned(),
        doing: DOING,
        transient: false,
        source,
    };
    let state = row
        .get::<_, Option<String>>(6)
        .map(|text| slot_state(serde_json::from_str(&text)?))
        .transpose();
    Ok(Look {
        server: Server {
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

/// Takes the lock of the one drainer of this slot, for as long as the session lives. False when another one has it.
///
/// # Errors
/// The query failed.
pub async fn lock(connector: &Connector, session: &Session, slot: &str) -> Result<bool, SlotError> {
    let row = session
        .client
        .query_one(
            "select pg_try_advisory_lock(hashtextextended('spillway:' || $1, 0))",
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("locking the slot", error))?;
    Ok(row.get(0))
}

/// The oldest transaction that is writing, in any database.
///
/// # Errors
/// The query failed.
pub async fn oldest_transaction(
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
pub async fn missing_publications(
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
pub async fn published_tables(
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
