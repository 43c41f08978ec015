//! Log that the server retains for a slot.

use super::connection::{Connector, Session};
use crate::ports::{OldestTransaction, Retention, SlotError};

/// The open transaction with the lowest transaction id, in any database.
///
/// Transactions that began less than five seconds ago are left out: they are normal. If the start of a
/// transaction is not readable, the transaction is included, without an age.
///
/// # Errors
/// The query failed.
pub(crate) async fn oldest_transaction(
    connector: &Connector,
    session: &Session,
) -> Result<Option<OldestTransaction>, SlotError> {
    // Every role may read the locks. Only members of pg_monitor may read the start of another role's
    // transaction. A prepared transaction has no process, and every role may read when it was prepared.
    let row = session
        .client
        .query_opt(
            "select l.pid as pid, extract(epoch from clock_timestamp() - b.began)::int8 as age_seconds
             from pg_locks l
             left join pg_stat_activity a using (pid)
             left join pg_prepared_xacts p on p.transaction = l.transactionid
             cross join lateral (select coalesce(a.xact_start, p.prepared) as began) b
             where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
               and l.pid is distinct from pg_backend_pid()
               and coalesce(clock_timestamp() - b.began >= interval '5 seconds', true)
             order by age(l.transactionid) desc limit 1",
            &[],
        )
        .await
        .map_err(|error| connector.failed("searching for old transactions", error))?;
    Ok(row.map(|row| OldestTransaction {
        pid: row.get("pid"),
        age_seconds: row.get("age_seconds"),
    }))
}

/// Log that the server retains for the slot.
///
/// Each field is `None` if the slot does not exist.
///
/// # Errors
/// The query failed.
pub(crate) async fn retention(
    connector: &Connector,
    session: &Session,
    slot: &str,
) -> Result<Retention, SlotError> {
    let row = session
        .client
        .query_opt(
            "select (pg_current_wal_flush_lsn() - restart_lsn)::int8 as retained_bytes,
                    wal_status, safe_wal_size
             from pg_replication_slots where slot_name = $1",
            &[&slot],
        )
        .await
        .map_err(|error| connector.failed("reading what the slot retains", error))?;
    let retention = |row: tokio_postgres::Row| Retention {
        retained_bytes: row
            .get::<_, Option<i64>>("retained_bytes")
            .map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        wal_status: row.get("wal_status"),
        safe_wal_size: row.get("safe_wal_size"),
    };
    Ok(row.map(retention).unwrap_or_default())
}
