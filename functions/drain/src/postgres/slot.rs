//! The slot on a PostgreSQL server, read through two sessions.
//!
//! The peek session runs the peeks. The lock session holds this drainer's lock, and runs every statement that
//! must not wait for a peek.

mod peek_rows;
mod queries;
mod view_names;

use std::sync::Once;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use postgres_types::PgLsn;
use tokio::sync::OnceCell;
use tokio_postgres::Row as PgRow;
use tokio_postgres::error::SqlState;

use super::catalog::{self, CatalogHorizon, UntrackedKind, UntrackedRelation};
use super::connection::{Connector, Session};
use super::rows;
use super::server::{self, CommitWait, UnseenStandby};
use super::sql_error::{SlotContext, is_out_of_space};
use super::sql_state::is_cancelled;
use crate::base::lsn::Lsn;
use crate::base::window::Window;
use crate::catalog::{Catalog, TableRequest};
use crate::config::{Config, StandbyAck};
use crate::continuity::ServerInfo;
use crate::decode::KeptBytes;
use crate::plugin::{Plugin, PluginOptions};
use crate::ports::{CommitRows, EmittedMessage, PEEK_ROW_BYTES, Slot, SlotError, WalPositions};
use crate::rules::column_rules::ColumnRule;
use crate::rules::pattern::TablePattern;

use peek_rows::{CopyRows, PgPeekRows};

/// A slot that one drainer has locked.
pub(crate) struct PgSlot<'c> {
    pub(super) connector: &'c Connector,
    pub(super) lock_session: Session,
    /// The session that runs the peeks. It is opened with the first window.
    peek_session: OnceCell<Session>,
    /// The server's encoding.
    encoding: String,
    /// Whether the server's version has `synchronized_standby_slots`.
    has_synchronized_standby_slots: bool,
    pub(super) slot: String,
    pub(super) plugin: Plugin,
    pub(super) publications: Vec<String>,
    pub(super) tables: Vec<TablePattern>,
    pub(super) column_rules: Vec<ColumnRule>,
    /// Options of the plugin: a name, its value, the next name, and so on.
    pub(super) options: Vec<String>,
    /// Options that only newer versions of the plugin have.
    ///
    /// The list is empty once the server has refused them.
    newer_options: Vec<String>,
    standby_ack: StandbyAck,
    /// Most bytes of values that a shortened row keeps.
    ///
    /// A row that is too large for memory is shortened.
    kept: KeptBytes,
    /// First position at which each materialized view has its name.
    ///
    /// A row of this name belongs to the view if its transaction commits at or after this position. The key
    /// is the view's object id, and the id of the transaction that named the view.
    pub(super) view_names: Vec<((u32, String), Lsn)>,
    /// The transactions whose rows the slot can still send.
    ///
    /// [`Slot::catalog`] sets it.
    horizon: CatalogHorizon,
}

impl<'c> PgSlot<'c> {
    /// The slot whose lock the session `lock_session` holds.
    ///
    /// `kept` limits the values that a shortened row keeps.
    ///
    /// # Errors
    /// A publication is missing: from PostgreSQL 18 on, pgoutput would skip its changes.
    pub(crate) async fn open(
        connector: &'c Connector,
        lock_session: Session,
        config: &Config,
        plugin: Plugin,
        kept: KeptBytes,
        server: &ServerInfo,
    ) -> Result<Self, SlotError> {
        if plugin.reads_publications() {
            check_publications(connector, &lock_session, config, server).await?;
        }
        let options = plugin.options(server.version, &config.publications, &config.tables);
        Ok(PgSlot {
            connector,
            lock_session,
            peek_session: OnceCell::new(),
            encoding: server.encoding.clone(),
            has_synchronized_standby_slots: server.version >= 170_000,
            slot: config.slot.clone(),
            plugin,
            publications: config.publications.clone(),
            tables: config.tables.clone(),
            column_rules: config.column_rules.clone(),
            options: options.common,
            newer_options: options.newer,
            standby_ack: config.standby_ack,
            kept,
            view_names: Vec::new(),
            horizon: CatalogHorizon::default(),
        })
    }

    /// The session that runs the peeks.
    ///
    /// # Errors
    /// The connection failed, or it leads to another server than that of the lock.
    pub(super) async fn peek_session(&self) -> Result<&Session, SlotError> {
        self.peek_session
            .get_or_try_init(|| self.open_peek_session())
            .await
    }

    async fn open_peek_session(&self) -> Result<Session, SlotError> {
        let (connector, lock_session) = (self.connector, &self.lock_session);
        let peek_session = connector.connect().await?;
        // A failover between the two connections may change the address of the host name. The lock and the
        // rows would then belong to different servers.
        if server::instance(connector, lock_session).await?
            != server::instance(connector, &peek_session).await?
        {
            return Err(SlotError::TwoServers);
        }
        prepare_peek_session(&peek_session, &self.encoding)
            .await
            .map_err(|error| connector.failed("setting up the session", error))?;
        Ok(peek_session)
    }

    /// The session that holds the lock.
    pub(crate) fn lock_session(&self) -> &Session {
        &self.lock_session
    }

    fn context(&self) -> SlotContext<'_> {
        SlotContext {
            connector: self.connector,
            slot: &self.slot,
            plugin: self.plugin,
        }
    }

    pub(super) fn failed(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        self.context().error(doing, error)
    }

    /// The error of a failed peek or a failed marker search.
    ///
    /// If a requirement of the statement is not met, the error names it.
    async fn explained(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        if is_out_of_space(&error) {
            return SlotError::OutOfSpace {
                slot: self.slot.clone(),
                doing,
                source: Box::new(error),
            };
        }
        self.context().explained(&self.lock_session, doing, error).await
    }

    /// Checks that pgoutput found each publication for each change of the window.
    ///
    /// The server decodes the whole window before it sends the first row. So all warnings of the window have
    /// arrived with the first row.
    ///
    /// # Errors
    /// [`SlotError::PublicationSkipped`]: the rows lack changes.
    async fn check_skipped_publication(&self, peek_session: &Session) -> Result<(), SlotError> {
        match peek_session.skipped_publication.take() {
            Some(warning) if self.plugin.reads_publications() => {
                let context = self.context();
                Err(context
                    .publication_skipped(&self.lock_session, Box::new(warning))
                    .await)
            }
            _ => Ok(()),
        }
    }

    /// Sets the session's `statement_timeout`.
    ///
    /// The value is a whole number of milliseconds, at least one: 0 would mean no limit.
    pub(super) async fn set_timeout(
        &self,
        session: &Session,
        timeout: Duration,
    ) -> Result<(), tokio_postgres::Error> {
        let millis = timeout.as_millis().clamp(1, i32::MAX as u128).to_string();
        session
            .client
            .execute("select set_config('statement_timeout', $1, false)", &[&millis])
            .await
            .map(drop)
    }

    /// Starts a peek, and waits for its first row.
    ///
    /// The server sends the first row after it has decoded the whole window. If the plugin refuses an option,
    /// the error arrives in place of the first row.
    async fn start_peek(
        &self,
        peek_session: &Session,
        window: Window,
    ) -> Result<(CopyRows, Option<Bytes>), tokio_postgres::Error> {
        let options = self.options.iter().chain(&self.newer_options);
        let sql = queries::copy_peek(&self.slot, window, options, self.plugin);
        let mut rows = peek_session.client.copy_out(&sql).await?.boxed_local().fuse();
        let first = rows.next().await.transpose()?;
        Ok((rows, first))
    }

    /// Whether the plugin may have refused one of the newer options.
    ///
    /// The SQLSTATE may also have another cause. Then the peek fails again without these options.
    fn refuses_newer_options(&self, error: &tokio_postgres::Error) -> bool {
        !self.newer_options.is_empty() && error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE)
    }
}

/// Checks that the database has each configured publication.
///
/// # Errors
/// [`SlotError::PublicationMissing`], or the query failed.
async fn check_publications(
    connector: &Connector,
    lock_session: &Session,
    config: &Config,
    server: &ServerInfo,
) -> Result<(), SlotError> {
    let missing = server::missing_publications(connector, lock_session, &config.publications).await?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(SlotError::PublicationMissing {
            slot: config.slot.clone(),
            missing: missing.join(", "),
            database: server.database.clone(),
        }),
    }
}

/// Changes settings of the peek session that do not suit a peek.
async fn prepare_peek_session(peek_session: &Session, encoding: &str) -> Result<(), tokio_postgres::Error> {
    let client = &peek_session.client;
    // While the stream is slow, the drain does not read the rows of a peek. With a timeout, the server would
    // close the connection then.
    client.batch_execute("set tcp_user_timeout = 0").await?;
    // A peek joins each row with its slices. To cache the result of this join, the server would hash each
    // row.
    client.batch_execute("set enable_memoize = off").await?;
    // In a database with this encoding, text may have any bytes. To a client with UTF-8, the server refuses
    // to send other bytes, and the peek of the whole window fails.
    if encoding == "SQL_ASCII" {
        client.batch_execute("set client_encoding to sql_ascii").await?;
    }
    Ok(())
}

impl Slot for PgSlot<'_> {
    type Rows = PgPeekRows;

    async fn wal_positions(&mut self) -> Result<WalPositions, SlotError> {
        let row = self
            .lock_session
            .client
            .query_one(
                "select pg_current_wal_flush_lsn() as flush_lsn,
                        (select restart_lsn from pg_replication_slots where slot_name = $1) as restart_lsn",
                &[&self.slot],
            )
            .await
            .map_err(|error| self.failed("reading the flush position", error))?;
        // The flush position is read before the standbys' positions. Log that is written between the two
        // reads is not readable yet, even if a standby acknowledges it.
        let flush = rows::lsn(&row, "flush_lsn");
        let restart = rows::optional_lsn(&row, "restart_lsn").unwrap_or(Lsn::ZERO);
        let mut readable = flush;
        if self.standby_ack != StandbyAck::Off {
            let standbys = server::standbys(self.connector, &self.lock_session).await?;
            let acknowledged = standbys.acknowledged(self.standby_ack == StandbyAck::Required);
            let acknowledged =
                acknowledged.map_err(|UnseenStandby { why, kind }| SlotError::StandbyUnseen {
                    slot: self.slot.clone(),
                    why,
                    kind,
                })?;
            readable = acknowledged.map_or(flush, |lsn| lsn.min(flush));
        }
        // Reading after this position would make the server wait for its standbys, without a limit.
        let awaited = match self.has_synchronized_standby_slots {
            true => server::awaited_standbys(self.connector, &self.lock_session, &self.slot).await?,
            false => None,
        };
        Ok(WalPositions {
            flush,
            readable: awaited.map_or(readable, |lsn| lsn.min(readable)),
            restart,
        })
    }

    async fn catalog(&mut self) -> Result<Catalog, SlotError> {
        let (catalog, horizon) =
            catalog::partial(self.connector, &self.lock_session, Some(&self.slot)).await?;
        self.horizon = horizon;
        Ok(catalog)
    }

    async fn add_tables(&mut self, catalog: &mut Catalog, request: &TableRequest) -> Result<(), SlotError> {
        let untracked =
            catalog::add_tables(self.connector, &self.lock_session, catalog, self.horizon, request).await?;
        let is_checked = self.plugin.sends_other_relations();
        for UntrackedRelation { name, kind } in untracked.into_iter().filter(|_| is_checked) {
            let since = match kind {
                UntrackedKind::System => Some(Lsn::ZERO),
                UntrackedKind::View(oid) => self.view_named_since(oid).await?,
            };
            if let Some(since) = since {
                catalog.insert_other_relation(name, since);
            }
        }
        Ok(())
    }

    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<PgPeekRows, SlotError> {
        const DOING: &str = "peeking a window";
        let peek_session = self.peek_session().await?;
        let limited = self.set_timeout(peek_session, timeout).await;
        limited.map_err(|error| self.failed(DOING, error))?;
        // A peek that was cancelled may have left its warning.
        peek_session.skipped_publication.take();
        let mut started = self.start_peek(peek_session, window).await;
        if started
            .as_ref()
            .is_err_and(|error| self.refuses_newer_options(error))
        {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(slot = self.slot, "{}", PluginOptions::WITHOUT_NEWER);
            });
            self.newer_options.clear();
            started = self.start_peek(self.peek_session().await?, window).await;
        }
        let (rows, first) = match started {
            Ok(started) => started,
            Err(error) => {
                // The server sends the error first, and releases the slot later. It answers an empty
                // statement only after the release. So the lock session finds the slot free.
                if !error.is_closed() {
                    let _ = self.peek_session().await?.client.batch_execute("").await;
                }
                return Err(self.explained(DOING, error).await);
            }
        };
        self.check_skipped_publication(self.peek_session().await?).await?;
        let host = self.connector.host();
        PgPeekRows::new(rows, first, self.plugin, self.kept, self.slot.clone(), host).await
    }

    async fn large_commits(&mut self, window: Window, bytes: usize) -> Result<CommitRows, SlotError> {
        // The first peek has decoded its whole window, and only its rows are in transit. So the slot is free
        // for this second peek.
        let prefix = self.plugin.commit_prefix();
        let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = self
            .lock_session
            .client
            .query(
                queries::LARGE_COMMITS,
                &[
                    &self.slot,
                    &PgLsn::from(window.upto.0),
                    &window.rows,
                    &self.options,
                    &i32::try_from(prefix.len()).unwrap_or(0),
                    &prefix,
                    &length(PEEK_ROW_BYTES),
                    &length(bytes),
                ],
            )
            .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                const DOING: &str = "searching for the commits of large transactions";
                return Err(self.explained(DOING, error).await);
            }
        };
        let commit = |row: &PgRow| {
            let xid = u32::try_from(row.get::<_, i64>("transaction_id")).ok()?;
            let lsn = rows::lsn(row, "commit_lsn");
            let data = row.get::<_, Option<Vec<u8>>>("commit_row")?;
            Some((xid, (lsn, data)))
        };
        Ok(rows.iter().filter_map(commit).collect())
    }

    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError> {
        const DOING: &str = "searching for a marker";
        let peek_session = self.peek_session().await?;
        let limited = self.set_timeout(peek_session, timeout).await;
        limited.map_err(|error| self.failed(DOING, error))?;
        let rows = peek_session
            .client
            .query(
                queries::ROWS_WITH_TEXT,
                &[
                    &self.slot,
                    &PgLsn::from(window.upto.0),
                    &window.rows,
                    &self.options,
                    &needle,
                ],
            )
            .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Err(self.explained(DOING, error).await),
        };
        let row = |row: &PgRow| (rows::lsn(row, "lsn"), row.get("data"));
        Ok(rows.iter().map(row).collect())
    }

    async fn emit(&mut self, prefix: &str, content: &str) -> Result<EmittedMessage, SlotError> {
        server::emit(
            self.connector,
            &self.lock_session,
            prefix,
            content,
            CommitWait::ForStandbys,
        )
        .await
    }

    async fn check_lock(&mut self) -> Result<(), SlotError> {
        server::check_lock(self.connector, &self.lock_session).await
    }

    async fn cancel_lock_session(&mut self) {
        self.lock_session.cancel().await;
        self.lock_session.outlast_cancel().await;
    }

    async fn cancel_peek(&mut self) {
        if let Some(peek_session) = self.peek_session.get() {
            peek_session.cancel().await;
        }
    }

    async fn advance(&mut self, to: Lsn, timeout: Duration) -> Result<(), SlotError> {
        const DOING: &str = "advancing the slot";
        // On the peek session, PostgreSQL ends the peek before it runs this statement. So the slot is free.
        let peek_session = self.peek_session().await?;
        let client = &peek_session.client;
        let mut was_cancelled = false;
        let row = loop {
            let began = Instant::now();
            let limited = self.set_timeout(peek_session, timeout).await;
            let advanced = match limited {
                Ok(()) => {
                    client
                        .query_one(queries::ADVANCE, &[&PgLsn::from(to.0), &self.slot])
                        .await
                }
                Err(error) => Err(error),
            };
            match advanced {
                Ok(row) => break row,
                // A late cancel of the peek may cancel this statement instead, once. A timeout has the same
                // SQLSTATE, but does not occur before `timeout` is over.
                Err(error) if !was_cancelled && is_cancelled(&error) && began.elapsed() < timeout => {
                    was_cancelled = true;
                }
                Err(error) => return Err(self.failed(DOING, error)),
            }
        };
        match rows::optional_lsn(&row, "end_lsn") {
            Some(_) => Ok(()),
            None => Err(SlotError::NotAdvanced {
                slot: self.slot.clone(),
                to,
            }),
        }
    }
}
