//! Reads chunks and single rows of the tables on a PostgreSQL server.
//!
//! Every statement only reads, except the statement that writes the watermark. The strongest lock on a table
//! is ACCESS SHARE. Inserts, updates and deletes never wait for this lock. A truncate and most forms of
//! `alter table` wait for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;

use super::connection::{Connector, Session};
use super::server::{self, CommitWait};
use super::slot::PgSlot;
use super::sql_error::table_refusal;
use super::sql_state::{is_cancelled, is_lock_timeout};
use super::tables::schema::SchemaSource;
use crate::backfill::database_schema::DatabaseSchema;
use crate::backfill::{BackfillTable, ChunkRows, RowLookup, RowRequest, Snapshot, query};
use crate::base::error_kind::ErrorKind;
use crate::base::table_name::TableName;
use crate::change::message_prefix;
use crate::ports::{ChunkBounds, ChunkRead, SlotError, TableSource};

/// Begins a read-only transaction with one snapshot.
///
/// A statement waits for a lock for at most two seconds. A query fails if row security would hide rows from
/// it.
const BEGIN: &str = "begin isolation level repeatable read read only; \
     set local lock_timeout = '2s'; set local row_security = off";

/// Sets the transaction's search path to that of role and database.
///
/// The session's settings have another path. The condition of a request may name functions and operators of
/// any schema in the role's path, such as those of an extension.
const DEFAULT_PATH: &str = "set local search_path to default";

/// Longest wait until the change of a row's key is visible.
const VISIBILITY_TIME: Duration = Duration::from_secs(1);

/// The open transactions with a writer's lock on the table $1.$2.
///
/// They have written to the table, or may write to it. A transaction with such a lock on a partition of the
/// table counts, too. A transaction that writes to or truncates a table holds its lock until its changes are
/// visible. Every role may read `pg_locks`.
const WRITERS: &str = concat!(
    include_str!("table_and_partitions.sql"),
    "select distinct
      coalesce('process ' || l.pid, 'a prepared transaction') || ' (' || l.virtualtransaction || ')' as writer
    from pg_locks l
    where l.locktype = 'relation' and l.granted and l.pid is distinct from pg_backend_pid()
      and l.database = (select oid from pg_database where datname = current_database())
      and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      and l.relation in (select oid from t)
    order by writer"
);

/// Query for a rewrite or replacement of table $1.$2 since the snapshot.
///
/// The object id of the table is $3. The snapshot is that of the transaction. A query of the catalog's tables
/// returns their state in the snapshot. The functions `to_regclass` and `pg_relation_filenode` return the
/// present state. So a difference between the two is a later change.
const IS_REWRITTEN: &str = concat!(
    include_str!("table_and_partitions.sql"),
    "select not exists (
             select from t
             where t.oid = $3::oid
               and t.oid = to_regclass(pg_catalog.format('%I.%I', $1::text, $2::text))::oid)
        or exists (
             select from t join pg_class c using (oid)
             where c.relfilenode <> 0 and c.relfilenode is distinct from pg_relation_filenode(c.oid))
           as is_rewritten"
);

/// Checks the query of a table's chunks without reading a row.
///
/// # Errors
/// The outer error: a statement failed, and the table is not the cause. The inner error: the reason why this
/// query is refused.
pub(crate) async fn check_query(
    connector: &Connector,
    session: &Session,
    table: &BackfillTable,
) -> Result<Result<(), String>, SlotError> {
    let failed = |error| connector.failed("checking the query of a table", error);
    session
        .client
        .batch_execute(&begin(table))
        .await
        .map_err(failed)?;
    let explained = explain(session, &query::explain_conditions(table)).await;
    session.client.batch_execute("rollback").await.map_err(failed)?;
    match explained {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Ok(Err(
            "the condition has a parameter, such as $1: a condition must have no parameters".to_owned(),
        )),
        Err(error) => table_refusal(connector, error).map(|why| Err(format!("PostgreSQL says: {why}"))),
    }
}

/// Runs an `EXPLAIN` statement. If it has parameters, returns `false` without running it.
///
/// The extended protocol accepts only one statement. So the request's condition cannot add another statement.
/// A condition can contain a parameter such as `$1`, but there is no value for it.
async fn explain(session: &Session, sql: &str) -> Result<bool, tokio_postgres::Error> {
    let statement = session.client.prepare(sql).await?;
    if !statement.params().is_empty() {
        return Ok(false);
    }
    session.client.query(&statement, &[]).await.map(|_| true)
}

/// The statements that begin a transaction for reading a table's chunks.
fn begin(table: &BackfillTable) -> String {
    match table.has_request_condition {
        true => format!("{BEGIN}; {DEFAULT_PATH}"),
        false => BEGIN.to_owned(),
    }
}

impl TableSource for PgSlot<'_> {
    async fn list_relations(&mut self) -> Result<DatabaseSchema, SlotError> {
        self.schema_source().list().await
    }

    async fn describe_relation(&mut self, name: &TableName) -> Result<DatabaseSchema, SlotError> {
        self.schema_source().describe(std::slice::from_ref(name)).await
    }

    async fn open_writers(&mut self, table: &BackfillTable) -> Result<Vec<String>, SlotError> {
        let TableName { schema, name } = table.name();
        let rows = self.lock_session.client.query(WRITERS, &[schema, name]).await;
        let rows = rows.map_err(|error| self.connector.failed("listing the writers of a table", error))?;
        Ok(rows.iter().map(|row| row.get("writer")).collect())
    }

    async fn current_snapshot(&mut self) -> Result<Snapshot, SlotError> {
        snapshot(self.connector, &self.lock_session).await
    }

    async fn read_chunk(
        &mut self,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError> {
        let failed = |error| self.connector.failed("reading a table", error);
        let peek_session = self.peek_session().await?;
        self.set_timeout(peek_session, bounds.time)
            .await
            .map_err(failed)?;
        let client = &peek_session.client;
        client.batch_execute(&begin(table)).await.map_err(failed)?;
        let read = self
            .copy_chunk(peek_session, table, after, bounds, delivered)
            .await;
        let mut is_rolled_back = false;
        if !matches!(&read, Ok(read) if read.has_query_ended) {
            peek_session.cancel().await;
            // The cancel may arrive late, and end this rollback. Then the rollback is sent again below.
            is_rolled_back = client.batch_execute("rollback").await.is_ok();
            peek_session.outlast_cancel().await;
        }
        if !is_rolled_back {
            client.batch_execute("rollback").await.map_err(failed)?;
        }
        match read {
            Ok(read) => Ok(read.chunk),
            Err(ChunkReadError::Slot(error)) => Err(error),
            Err(ChunkReadError::Query(error)) => self.chunk_refusal(error),
        }
    }

    async fn find_row(
        &mut self,
        table: &BackfillTable,
        request: &RowRequest,
    ) -> Result<RowLookup, SlotError> {
        let failed = |error| {
            self.connector
                .failed("looking up a row after a key change", error)
        };
        let client = &self.lock_session.client;
        let began = Instant::now();
        loop {
            client.batch_execute(BEGIN).await.map_err(failed)?;
            let lookup = self.visible_row(table, request).await;
            client.batch_execute("rollback").await.map_err(failed)?;
            // A commit is in the log a moment before other sessions see it. The delay is longer if the commit
            // waits for a standby.
            match lookup? {
                Some(lookup) => return Ok(lookup),
                None if began.elapsed() < VISIBILITY_TIME => tokio::time::sleep(VISIBILITY_TIME / 50).await,
                None => {
                    let why = format!("transaction {} of the key change is not visible yet", request.xid);
                    return Ok(RowLookup::Unknown(why));
                }
            }
        }
    }

    async fn emit_watermark(&mut self, content: &str) -> Result<(), SlotError> {
        // The flush on this server suffices. If a failover loses the watermark, the chunk is read again.
        server::emit(
            self.connector,
            &self.lock_session,
            message_prefix::WATERMARK,
            content,
            CommitWait::ForDisk,
        )
        .await
        .map(drop)
    }
}

/// A chunk, and whether its query has ended.
struct QueriedChunk {
    chunk: ChunkRead,
    /// If not, the server still sends rows: the query must be cancelled.
    has_query_ended: bool,
}

impl QueriedChunk {
    fn of_ended_query(chunk: ChunkRead) -> Self {
        QueriedChunk {
            chunk,
            has_query_ended: true,
        }
    }

    fn of_running_query(chunk: ChunkRead) -> Self {
        QueriedChunk {
            chunk,
            has_query_ended: false,
        }
    }
}

/// Error of the read of a chunk.
enum ChunkReadError {
    /// The server refused the query or its `EXPLAIN`, or ended it.
    Query(tokio_postgres::Error),
    /// Another statement before the query failed: the check for a rewrite, or the snapshot.
    Slot(SlotError),
}

impl From<tokio_postgres::Error> for ChunkReadError {
    fn from(error: tokio_postgres::Error) -> Self {
        ChunkReadError::Query(error)
    }
}

impl From<SlotError> for ChunkReadError {
    fn from(error: SlotError) -> Self {
        ChunkReadError::Slot(error)
    }
}

impl PgSlot<'_> {
    fn schema_source(&self) -> SchemaSource<'_> {
        SchemaSource {
            connector: self.connector,
            session: &self.lock_session,
            plugin: self.plugin,
            publications: &self.publications,
            tables: &self.tables,
            column_rules: &self.column_rules,
        }
    }

    /// The outcome of a chunk whose query failed.
    ///
    /// # Errors
    /// The table is not the cause of the failure. For example, the connection is lost.
    fn chunk_refusal(&self, error: tokio_postgres::Error) -> Result<ChunkRead, SlotError> {
        match error.code() {
            _ if is_cancelled(&error) => Ok(ChunkRead::TooSlow),
            _ if is_lock_timeout(&error) => Ok(ChunkRead::Locked),
            _ => table_refusal(self.connector, error).map(ChunkRead::Unreadable),
        }
    }

    /// The row of a request, read in the open transaction.
    ///
    /// `None` while the change of the row is not visible.
    async fn visible_row(
        &self,
        table: &BackfillTable,
        request: &RowRequest,
    ) -> Result<Option<RowLookup>, SlotError> {
        let snapshot = snapshot(self.connector, &self.lock_session).await?;
        if !snapshot.shows(request.xid) {
            return Ok(None);
        }
        let sql = query::copy_row(table, &request.key);
        let lines = match self.lock_session.client.copy_out(&sql).await {
            Ok(lines) => lines.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        let unknown = |why: &str| Ok(RowLookup::Unknown(why.to_owned()));
        let lookup = match lines {
            Ok(lines) => match lines.first() {
                Some(line) => Ok(RowLookup::Row(line.to_vec())),
                // After a rewrite, an older snapshot shows no row of the table.
                None if is_rewritten(self.connector, &self.lock_session, table).await? => {
                    unknown("the table was rewritten or replaced during the lookup of a row")
                }
                None => Ok(RowLookup::Gone),
            },
            Err(error) if is_lock_timeout(&error) => {
                unknown("another session holds a lock that blocks the lookup of a row")
            }
            Err(error) => table_refusal(self.connector, error).map(RowLookup::Unknown),
        };
        lookup.map(Some)
    }

    /// Reads a chunk in the open transaction.
    async fn copy_chunk(
        &self,
        peek_session: &Session,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<QueriedChunk, ChunkReadError> {
        // Planning locks the table with ACCESS SHARE, so no other session can rewrite it from now on. A
        // rewrite between the snapshot and this lock would hide all rows from the snapshot.
        peek_session
            .client
            .query(&query::explain_chunk(table, after), &[])
            .await?;
        if is_rewritten(self.connector, peek_session, table).await? {
            return Ok(QueriedChunk::of_ended_query(ChunkRead::Rewritten));
        }
        let snapshot = snapshot(self.connector, peek_session).await?;
        delivered.retain(|xid| !snapshot.shows(*xid));
        if let Some(xid) = delivered.first() {
            return Ok(QueriedChunk::of_ended_query(ChunkRead::Unseen(*xid)));
        }
        self.copy_rows(peek_session, table, after, bounds, snapshot).await
    }

    /// Copies rows until the table's end or one of the bounds.
    async fn copy_rows(
        &self,
        peek_session: &Session,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        snapshot: Snapshot,
    ) -> Result<QueriedChunk, ChunkReadError> {
        // One row beyond the bound shows whether the table has more rows.
        let sql = query::copy_chunk(table, after, bounds.rows.saturating_add(1));
        let lines = peek_session.client.copy_out(&sql).await?;
        let mut lines = std::pin::pin!(lines);
        let mut rows = Box::new(ChunkRows::new(table.clone(), snapshot));
        loop {
            let line = match lines.try_next().await {
                Ok(Some(line)) => line,
                Ok(None) => {
                    return Ok(QueriedChunk::of_ended_query(ChunkRead::Rows {
                        rows,
                        more: false,
                    }));
                }
                // The rows that were received before the timeout form a chunk.
                Err(error) if is_cancelled(&error) && !rows.is_empty() => {
                    return Ok(QueriedChunk::of_ended_query(ChunkRead::Rows { rows, more: true }));
                }
                Err(error) => return Err(error.into()),
            };
            if rows.len() as u64 >= bounds.rows {
                // The query ends after this row, so no cancel is sent. A late one could cancel the next
                // statement.
                while lines.try_next().await?.is_some() {}
                return Ok(QueriedChunk::of_ended_query(ChunkRead::Rows { rows, more: true }));
            }
            if rows.memory() >= bounds.bytes && !rows.is_empty() {
                return Ok(QueriedChunk::of_running_query(ChunkRead::Rows {
                    rows,
                    more: true,
                }));
            }
            if let Err(error) = rows.push(&line) {
                return Ok(QueriedChunk::of_running_query(ChunkRead::Unreadable(
                    error.to_string(),
                )));
            }
        }
    }
}

/// Whether the table was rewritten or replaced since the transaction's snapshot.
///
/// A table is replaced if its name no longer belongs to this object id. It is rewritten if it or a partition
/// has another file. `alter table` then wrote all rows with its own transaction id, so an older snapshot
/// shows no row (PostgreSQL documentation, "Concurrency Control", "Caveats").
///
/// # Errors
/// The query failed.
async fn is_rewritten(
    connector: &Connector,
    session: &Session,
    table: &BackfillTable,
) -> Result<bool, SlotError> {
    let TableName { schema, name } = table.name();
    let row = session
        .client
        .query_one(IS_REWRITTEN, &[schema, name, &table.oid])
        .await
        .map_err(|error| connector.failed("checking a table for a rewrite", error))?;
    Ok(row.get("is_rewritten"))
}

async fn snapshot(connector: &Connector, session: &Session) -> Result<Snapshot, SlotError> {
    const DOING: &str = "reading the snapshot of a transaction";
    let row = session
        .client
        .query_one("select pg_current_snapshot()::text as snapshot", &[])
        .await
        .map_err(|error| connector.failed(DOING, error))?;
    let text: String = row.get("snapshot");
    text.parse().map_err(|()| SlotError::Failed {
        host: connector.host().to_owned(),
        doing: DOING,
        kind: ErrorKind::Definite,
        source: "PostgreSQL returned it in an unknown format".into(),
    })
}
