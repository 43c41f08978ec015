//! The slot on a PostgreSQL server: what a drain needs of it, over two sessions. One reads; the other holds the lock of
//! this drainer and answers while the first is busy.

use std::pin::Pin;
use std::sync::Once;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::Fuse;
use postgres_types::{PgLsn, ToSql, Type as PgType};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row as PgRow, RowStream};

use super::connection::{Connector, Session};
use super::server::{self, CommitWait};
use super::sql_error::SlotRefusal;
use crate::catalog::Catalog;
use crate::config::{Config, StandbyAck};
use crate::continuity::ServerInfo;
use crate::lsn::Lsn;
use crate::pattern::TablePattern;
use crate::plugin::Plugin;
use crate::ports::{
    CommitRows, EmittedMessage, PEEK_ROW_BYTES, PeekRow, PeekRows, Slot, SlotError, WalPositions,
};
use crate::window_sizing::Window;

/// A slot that is being drained.
pub(crate) struct PgSlot<'c> {
    pub(super) connector: &'c Connector,
    pub(super) control: Session,
    pub(super) reader: Session,
    slot: String,
    pub(super) plugin: Plugin,
    pub(super) publications: Vec<String>,
    pub(super) tables: Vec<TablePattern>,
    /// Options of the plugin, names and values in turn.
    options: Vec<String>,
    /// Options that only newer versions of the plugin know; dropped when the server says so.
    newer: Vec<String>,
    standby_ack: StandbyAck,
}

impl<'c> PgSlot<'c> {
    /// Opens the second session. `control` holds the lock.
    ///
    /// # Errors
    /// The connection failed, or a publication is missing: from PostgreSQL 18 on the plugin would skip its changes.
    pub(crate) async fn open(
        connector: &'c Connector,
        control: Session,
        config: &Config,
        plugin: Plugin,
        server: &ServerInfo,
    ) -> Result<Self, SlotError> {
        let Config {
            slot,
            publications,
            tables,
            standby_ack,
            ..
        } = config;
        if plugin == Plugin::Pgoutput {
            let missing = server::missing_publications(connector, &control, publications).await?;
            if !missing.is_empty() {
                let (slot, database) = (slot.clone(), server.database.clone());
                return Err(SlotError::PublicationMissing {
                    slot,
                    missing: missing.join(", "),
                    database,
                });
            }
        }
        let reader = connector.connect().await?;
        // The name of the writer may have moved between the two: then the lock and the rows would be of different servers.
        if server::server_of(connector, &control).await? != server::server_of(connector, &reader).await? {
            return Err(SlotError::TwoServers);
        }
        // Its rows wait while the stream is slow, and the server would end a connection that takes nothing for so long.
        let unhurried = reader.client.batch_execute("set tcp_user_timeout = 0").await;
        unhurried.map_err(|error| connector.failed("setting up the session", error))?;
        // There text is bytes, and the server would refuse to send those that are not UTF-8, and with them all of the window.
        if server.encoding == "SQL_ASCII" {
            let raw = "set client_encoding to sql_ascii";
            let set = reader.client.batch_execute(raw).await;
            set.map_err(|error| connector.failed("setting up the session", error))?;
        }
        let options = plugin.options(server.version, publications, tables);
        Ok(PgSlot {
            connector,
            control,
            reader,
            slot: slot.clone(),
            plugin,
            publications: publications.clone(),
            tables: tables.clone(),
            options: options.common,
            newer: options.newer,
            standby_ack: *standby_ack,
        })
    }

    /// The session that is not reading.
    pub(crate) fn control(&self) -> &Session {
        &self.control
    }

    fn failed(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        let refusal = SlotRefusal {
            connector: self.connector,
            slot: &self.slot,
            plugin: self.plugin,
        };
        refusal.error(doing, error)
    }

    pub(crate) async fn limit(&self, session: &Session, time: Duration) -> Result<(), tokio_postgres::Error> {
        let millis = time.as_millis().clamp(1, i32::MAX as u128).to_string();
        session
            .client
            .execute("select set_config('statement_timeout', $1, false)", &[&millis])
            .await
            .map(drop)
    }

    /// Starts a peek and waits for its first row, which comes when the server has decoded the whole window. What the plugin
    /// does not like shows only then.
    async fn start(&self, window: Window) -> Result<(PgPeekRows, Option<PgRow>), tokio_postgres::Error> {
        // A row is taken into memory whole. One that no record could hold stays on the server; its length comes instead.
        const PEEK: &str = "select lsn, case when octet_length(data) <= 16777216 then data end,
                    case when octet_length(data) > 16777216 then octet_length(data) end
             from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4)";
        // Of a transaction that is partly sent, the changes before are left out; what describes tables is not.
        const REST: &str = "select lsn, case when octet_length(data) <= 16777216 then data end,
                    case when octet_length(data) > 16777216 then octet_length(data) end
             from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4)
             where not (lsn < $5 and xid::text = $6 and substr(data, $7, 1) = any($8))";
        let mut types = vec![PgType::NAME, PgType::PG_LSN, PgType::INT4, PgType::TEXT_ARRAY];
        let options: Vec<&String> = self.options.iter().chain(&self.newer).collect();
        let upto = PgLsn::from(window.upto.0);
        let mut arguments: Vec<&(dyn ToSql + Sync)> = vec![&self.slot, &upto, &window.rows, &options];
        let (before, xid);
        let mark = self.plugin.change_mark();
        let peek = match window.sent_prefix {
            None => PEEK,
            Some(known) => {
                types.extend([PgType::PG_LSN, PgType::TEXT, PgType::INT4, PgType::BYTEA_ARRAY]);
                (before, xid) = (PgLsn::from(known.before.0), known.xid.to_string());
                let rest: [&(dyn ToSql + Sync); 4] = [&before, &xid, &mark.place, &mark.bytes];
                arguments.extend(rest);
                REST
            }
        };
        let statement = self.reader.client.prepare_typed(peek, &types).await?;
        let mut rows = Box::pin(
            self.reader
                .client
                .query_raw(&statement, arguments.iter().copied())
                .await?
                .fuse(),
        );
        let first = rows.next().await.transpose()?;
        Ok((
            PgPeekRows {
                rows,
                first: None,
                slot: self.slot.clone(),
                host: self.connector.host().to_owned(),
            },
            first,
        ))
    }
}

impl Slot for PgSlot<'_> {
    type Rows = PgPeekRows;

    async fn wal_positions(&mut self) -> Result<WalPositions, SlotError> {
        let row = self
            .control
            .client
            .query_one(
                "select pg_current_wal_flush_lsn(),
                        (select restart_lsn from pg_replication_slots where slot_name = $1)",
                &[&self.slot],
            )
            .await;
        let row = row.map_err(|error| self.failed("reading the flush position", error))?;
        let restart = row
            .get::<_, Option<PgLsn>>(1)
            .map_or(Lsn::ZERO, |lsn| Lsn(lsn.into()));
        // Read before the standbys' positions: what is read now was not yet there to be acknowledged.
        let flush = Lsn(row.get::<_, PgLsn>(0).into());
        let readable = match self.standby_ack {
            StandbyAck::Off => flush,
            StandbyAck::Auto | StandbyAck::Required => {
                let standbys = server::standbys(self.connector, &self.control).await?;
                let required = self.standby_ack == StandbyAck::Required;
                let acknowledged = standbys.acknowledged(required);
                let acknowledged = acknowledged.map_err(|(why, transient)| SlotError::StandbyUnseen {
                    slot: self.slot.clone(),
                    why,
                    transient,
                })?;
                acknowledged.map_or(flush, |lsn| lsn.min(flush))
            }
        };
        // The server itself waits for these, however long.
        let awaited = server::awaited_standbys(self.connector, &self.control, &self.slot).await?;
        let readable = awaited.map_or(readable, |lsn| lsn.min(readable));
        Ok(WalPositions {
            flush,
            readable,
            restart,
        })
    }

    async fn catalog(&mut self) -> Result<Catalog, SlotError> {
        super::catalog::read(self.connector, &self.control).await
    }

    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<PgPeekRows, SlotError> {
        const DOING: &str = "peeking a window";
        self.limit(&self.reader, timeout)
            .await
            .map_err(|error| self.failed(DOING, error))?;
        let mut started = self.start(window).await;
        let unknown = |error: &tokio_postgres::Error| {
            let message = error
                .as_db_error()
                .map(tokio_postgres::error::DbError::message)
                .unwrap_or_default();
            self.newer
                .iter()
                .step_by(2)
                .any(|option| message.contains(option.as_str()))
        };
        if started.as_ref().is_err_and(unknown) {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(
                    "this wal2json is older than 2.6 and writes NaN and Infinity as null: use pgoutput where they occur"
                );
            });
            self.newer.clear();
            started = self.start(window).await;
        }
        let (mut rows, first) = started.map_err(|error| self.failed(DOING, error))?;
        rows.first = first.map(|row| rows.fits(row)).transpose()?;
        Ok(rows)
    }

    async fn large_commits(&mut self, window: Window, bytes: usize) -> Result<CommitRows, SlotError> {
        // The rows of the first peek are on their way already, so the slot is free. Of a transaction's rows, the commit has
        // the greatest LSN, and it alone begins with its plugin's mark.
        let mark = self.plugin.commit_mark();
        let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = self
            .control
            .client
            .query(
                "select xid::text::int8, max(lsn), (array_agg(data) filter (where substr(data, 1, $5) = $6))[1]
                 from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4::text[])
                 group by xid having sum(octet_length(data) + $7::int8) > $8::int8",
                &[
                    &self.slot,
                    &PgLsn::from(window.upto.0),
                    &window.rows,
                    &self.options,
                    &i32::try_from(mark.len()).unwrap_or(0),
                    &mark,
                    &length(PEEK_ROW_BYTES),
                    &length(bytes),
                ],
            )
            .await
            .map_err(|error| self.failed("looking for the commits of large transactions", error))?;
        let commit = |row: &PgRow| {
            let xid = u32::try_from(row.get::<_, i64>(0)).ok()?;
            Some((
                xid,
                (
                    Lsn(row.get::<_, PgLsn>(1).into()),
                    row.get::<_, Option<Vec<u8>>>(2)?,
                ),
            ))
        };
        Ok(rows.iter().filter_map(commit).collect())
    }

    async fn find(
        &mut self,
        window: Window,
        needle: &str,
        timeout: Duration,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, SlotError> {
        const DOING: &str = "looking for a marker";
        self.limit(&self.reader, timeout)
            .await
            .map_err(|error| self.failed(DOING, error))?;
        let rows = self
            .reader
            .client
            .query(
                "select lsn, data from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4::text[])
                 where octet_length(data) <= 1024 and position(convert_to($5::text, 'UTF8') in data) > 0",
                &[
                    &self.slot,
                    &PgLsn::from(window.upto.0),
                    &window.rows,
                    &self.options,
                    &needle,
                ],
            )
            .await
            .map_err(|error| self.failed(DOING, error))?;
        let row = |row: &PgRow| (Lsn(row.get::<_, PgLsn>(0).into()), row.get(1));
        Ok(rows.iter().map(row).collect())
    }

    async fn emit(&mut self, prefix: &str, content: &str) -> Result<EmittedMessage, SlotError> {
        server::emit(
            self.connector,
            &self.control,
            prefix,
            content,
            CommitWait::ForStandbys,
        )
        .await
    }

    async fn check_lock(&mut self) -> Result<(), SlotError> {
        let asked = self.control.client.simple_query("select 1");
        match tokio::time::timeout(Duration::from_secs(2), asked).await {
            Ok(answer) => answer
                .map(drop)
                .map_err(|error| self.failed("asking for the lock", error)),
            Err(late) => Err(SlotError::Failed {
                host: self.connector.host().to_owned(),
                doing: "asking for the lock",
                transient: true,
                source: Box::new(late),
            }),
        }
    }

    async fn cancel_control(&mut self) {
        self.control.cancel().await;
        self.control.outlast_cancel().await;
    }

    async fn cancel_peek(&mut self) {
        self.reader.cancel().await;
    }

    async fn advance(&mut self, to: Lsn, timeout: Duration) -> Result<(), SlotError> {
        const DOING: &str = "advancing the slot";
        // The guard: PostgreSQL would clamp a position that its log does not reach, and skip what is written there later.
        const ADVANCE: &str = "select case when pg_current_wal_flush_lsn() >= $1 then
               (select end_lsn from pg_replication_slot_advance($2, $1)) end";
        // On the reading session: whatever it was doing with the slot ends before this begins.
        let client = &self.reader.client;
        let mut cancelled = false;
        let row = loop {
            let limited = self.limit(&self.reader, timeout).await;
            let advanced = match limited {
                Ok(()) => client.query_one(ADVANCE, &[&PgLsn::from(to.0), &self.slot]).await,
                Err(error) => Err(error),
            };
            match advanced {
                Ok(row) => break row,
                // A cancel that was meant for the peek before it may come late, once.
                Err(error) if !cancelled && error.to_string().contains("user request") => cancelled = true,
                Err(error) => return Err(self.failed(DOING, error)),
            }
        };
        match row.get::<_, Option<PgLsn>>(0) {
            Some(_) => Ok(()),
            None => Err(SlotError::NotAdvanced {
                slot: self.slot.clone(),
                to,
            }),
        }
    }
}

/// The rows of a peek, as they come from the server.
pub(crate) struct PgPeekRows {
    /// Fused: a stream of tokio-postgres that is asked again after its end says that the connection is closed.
    rows: Pin<Box<Fuse<RowStream>>>,
    first: Option<PgPeekRow>,
    slot: String,
    host: String,
}

impl PeekRows for PgPeekRows {
    type Row = PgPeekRow;

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    async fn next(&mut self) -> Result<Option<PgPeekRow>, SlotError> {
        const DOING: &str = "reading a window";
        if let Some(row) = self.first.take() {
            return Ok(Some(row));
        }
        match self.rows.next().await {
            None => Ok(None),
            Some(Ok(row)) => self.fits(row).map(Some),
            Some(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => Err(SlotError::Timeout {
                slot: self.slot.clone(),
                doing: DOING,
                source: Box::new(error),
            }),
            Some(Err(error)) => {
                let (host, source) = (self.host.clone(), Box::new(error));
                Err(SlotError::Failed {
                    host,
                    doing: DOING,
                    transient: true,
                    source,
                })
            }
        }
    }
}

impl PgPeekRows {
    /// The row, if it is not one that the server kept back for its size.
    fn fits(&self, row: PgRow) -> Result<PgPeekRow, SlotError> {
        let row = PgPeekRow(row);
        match row.0.try_get::<_, Option<i32>>(2) {
            Ok(Some(bytes)) => Err(SlotError::RowTooLarge {
                slot: self.slot.clone(),
                lsn: row.lsn(),
                bytes: bytes.into(),
            }),
            Ok(None) => Ok(row),
            Err(error) => {
                let (host, source) = (self.host.clone(), Box::new(error));
                Err(SlotError::Failed {
                    host,
                    doing: "reading a row",
                    transient: false,
                    source,
                })
            }
        }
    }
}

/// A row of a peek, in the buffer that it came in.
pub(crate) struct PgPeekRow(PgRow);

impl PeekRow for PgPeekRow {
    fn lsn(&self) -> Lsn {
        self.0
            .try_get::<_, PgLsn>(0)
            .map_or(Lsn::ZERO, |lsn| Lsn(lsn.into()))
    }

    fn data(&self) -> &[u8] {
        self.0.try_get(1).unwrap_or_default()
    }
}
