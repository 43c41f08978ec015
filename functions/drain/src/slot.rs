//! The slot on a PostgreSQL server: what a drain needs of it, over two sessions. One reads; the other holds the lock of
//! this drainer and answers while the first is busy.

use std::pin::Pin;
use std::sync::Once;
use std::time::Duration;

use futures_util::StreamExt as _;
use postgres_types::{PgLsn, ToSql, Type as PgType};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row as PgRow, RowStream};

use crate::catalog::{Catalog, Table};
use crate::config::TablePattern;
use crate::connect::{Connector, Session};
use crate::continuity::{Server, SlotState, slot_state};
use crate::decode::Plugin;
use crate::drain::parts::{Row, Rows, Slot, SlotError};
use crate::drain::report::OldestTransaction;
use crate::lsn::Lsn;
use crate::window::Window;

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
    let broken = |source: crate::drain::parts::Source| SlotError::Failed {
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
             where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted and l.pid <> pg_backend_pid()
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

/// A slot that is being drained.
pub struct PgSlot<'c> {
    connector: &'c Connector,
    control: Session,
    reader: Session,
    slot: String,
    plugin: Plugin,
    /// Options of the plugin, names and values in turn.
    options: Vec<String>,
    /// Options that only newer versions of the plugin know; dropped when the server says so.
    newer: Vec<String>,
}

impl<'c> PgSlot<'c> {
    /// Opens the second session. `control` holds the lock.
    ///
    /// # Errors
    /// The connection failed, or a publication is missing: from PostgreSQL 18 on the plugin would skip its changes.
    pub async fn open(
        connector: &'c Connector,
        control: Session,
        slot: &str,
        plugin: Plugin,
        server: &Server,
        publications: &[String],
        tables: &[TablePattern],
    ) -> Result<Self, SlotError> {
        if plugin == Plugin::Pgoutput {
            let missing = missing_publications(connector, &control, publications).await?;
            if !missing.is_empty() {
                let (slot, database) = (slot.to_owned(), server.database.clone());
                return Err(SlotError::PublicationMissing {
                    slot,
                    missing: missing.join(", "),
                    database,
                });
            }
        }
        let reader = connector.connect().await?;
        let (options, newer) = options(plugin, server.version, publications, tables);
        Ok(PgSlot {
            connector,
            control,
            reader,
            slot: slot.to_owned(),
            plugin,
            options,
            newer,
        })
    }

    /// The session that is not reading.
    pub fn control(&self) -> &Session {
        &self.control
    }

    fn failed(&self, doing: &'static str, error: tokio_postgres::Error, seconds: u64) -> SlotError {
        let slot = || self.slot.clone();
        let Some(refusal) = error.as_db_error() else {
            return self.connector.failed(doing, error);
        };
        let text = refusal.message();
        match refusal.code() {
            code if *code == SqlState::OBJECT_IN_USE => SlotError::Busy { slot: slot() },
            code if *code == SqlState::QUERY_CANCELED => SlotError::Timeout {
                slot: slot(),
                doing,
                seconds,
                source: Box::new(error),
            },
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE && text.contains("replication") => {
                SlotError::RoleLacksReplication {
                    user: self.connector.user().to_owned(),
                    source: Box::new(error),
                }
            }
            code if text.contains("may not be used as an output plugin")
                || *code == SqlState::UNDEFINED_FILE =>
            {
                SlotError::PluginNotAllowed {
                    slot: slot(),
                    plugin: self.plugin.to_string(),
                    source: Box::new(error),
                }
            }
            code if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE && text.contains("wal_level") => {
                SlotError::WalLevelNotLogical {
                    source: Box::new(error),
                }
            }
            _ => self.connector.failed(doing, error),
        }
    }

    async fn limit(&self, session: &Session, time: Duration) -> Result<(), tokio_postgres::Error> {
        let millis = time.as_millis().clamp(1, i32::MAX as u128).to_string();
        session
            .client
            .execute("select set_config('statement_timeout', $1, false)", &[&millis])
            .await
            .map(drop)
    }

    /// Starts a peek and waits for its first row, which comes when the server has decoded the whole window. What the plugin
    /// does not like shows only then.
    async fn start(&self, window: Window) -> Result<PgRows, tokio_postgres::Error> {
        const PEEK: &str =
            "select lsn, data from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4)";
        let types = [PgType::NAME, PgType::PG_LSN, PgType::INT4, PgType::TEXT_ARRAY];
        let statement = self.reader.client.prepare_typed(PEEK, &types).await?;
        let options: Vec<&String> = self.options.iter().chain(&self.newer).collect();
        let upto = PgLsn::from(window.upto.0);
        let arguments: [&(dyn ToSql + Sync); 4] = [&self.slot, &upto, &window.rows, &options];
        let mut rows = Box::pin(self.reader.client.query_raw(&statement, arguments).await?);
        let first = rows.next().await.transpose()?.map(PeekRow);
        Ok(PgRows {
            rows,
            first,
            slot: self.slot.clone(),
            host: self.connector.host().to_owned(),
        })
    }
}

/// What the plugin is asked for, and what only its newer versions can be asked.
fn options(
    plugin: Plugin,
    version: i32,
    publications: &[String],
    tables: &[TablePattern],
) -> (Vec<String>, Vec<String>) {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .map(str::to_owned)
            .collect()
    };
    let quoted: Vec<_> = publications
        .iter()
        .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
        .collect();
    let patterns: Vec<_> = tables.iter().map(TablePattern::for_wal2json).collect();
    match plugin {
        Plugin::Pgoutput => {
            let mut options: Vec<String> =
                pairs(&[("proto_version", "1"), ("publication_names", &quoted.join(","))]);
            if version >= 140_000 {
                options.extend(["messages".to_owned(), "true".to_owned()]);
            }
            (options, Vec::new())
        }
        Plugin::Wal2json => {
            let mut options: Vec<String> = pairs(&[
                ("format-version", "2"),
                ("include-transaction", "true"),
                ("include-xids", "true"),
                ("include-timestamp", "true"),
                ("include-lsn", "true"),
                ("include-types", "true"),
                ("include-typmod", "true"),
                ("include-domain-data-type", "true"),
                ("include-pk", "true"),
            ]);
            if !patterns.is_empty() {
                options.extend(["add-tables".to_owned(), patterns.join(",")]);
            }
            // Without it NaN and Infinity arrive as null. Known from 2.6 on.
            (options, pairs(&[("numeric-data-types-as-string", "true")]))
        }
        Plugin::TestDecoding => (
            pairs(&[("include-xids", "true"), ("include-timestamp", "true")]),
            Vec::new(),
        ),
    }
}

impl Slot for PgSlot<'_> {
    type Rows = PgRows;

    async fn flush(&mut self) -> Result<Lsn, SlotError> {
        let row = self
            .control
            .client
            .query_one("select pg_current_wal_flush_lsn()", &[])
            .await;
        let row = row.map_err(|error| self.failed("reading the flush position", error, 0))?;
        Ok(Lsn(row.get::<_, PgLsn>(0).into()))
    }

    async fn catalog(&mut self) -> Result<Catalog, SlotError> {
        let client = &self.control.client;
        let failed = |error| self.failed("reading the catalog", error, 0);
        let mut catalog = Catalog::default();
        let domains = client
            .query(
                "with recursive d(oid, base) as (
                   select oid, typbasetype from pg_type where typtype = 'd'
                   union all
                   select d.oid, t.typbasetype from d join pg_type t on t.oid = d.base where t.typtype = 'd')
                 select format_type(d.oid, null), format_type(d.base, null)
                 from d join pg_type t on t.oid = d.base where t.typtype <> 'd'",
                &[],
            )
            .await
            .map_err(failed)?;
        for row in domains {
            catalog.insert_domain(row.get(0), crate::change::Type::of_name(row.get(1)));
        }
        let tables = client
            .query(
                "select n.nspname::text, c.relname::text,
                        array(select a.attname::text
                              from pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place)
                              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                              where i.indrelid = c.oid and k.place <= i.indnkeyatts
                                and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
                              order by k.place),
                        array(select a.attname::text from pg_attribute a
                              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attlen = -1 and a.attstorage <> 'p'
                              order by a.attnum),
                        array(select format_type(a.atttypid, a.atttypmod) from pg_attribute a
                              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attlen = -1 and a.attstorage <> 'p'
                              order by a.attnum)
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'p') and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema')",
                &[],
            )
            .await
            .map_err(failed)?;
        for row in tables {
            let names: Vec<String> = row.get(3);
            let types: Vec<String> = row.get(4);
            let toastable = names
                .into_iter()
                .zip(types.iter().map(|name| catalog.type_of(name)))
                .collect();
            catalog.insert(
                row.get(0),
                row.get(1),
                Table {
                    key: row.get(2),
                    toastable,
                },
            );
        }
        Ok(catalog)
    }

    async fn peek(&mut self, window: Window, timeout: Duration) -> Result<PgRows, SlotError> {
        const DOING: &str = "peeking a window";
        let failed = |slot: &Self, error| slot.failed(DOING, error, timeout.as_secs());
        self.limit(&self.reader, timeout)
            .await
            .map_err(|error| failed(self, error))?;
        match self.start(window).await {
            Err(error)
                if !self.newer.is_empty() && error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) =>
            {
                static ONCE: Once = Once::new();
                ONCE.call_once(|| {
                    tracing::warn!("this wal2json is older than 2.6 and writes NaN and Infinity as null: use pgoutput where they occur");
                });
                self.newer.clear();
                self.start(window).await.map_err(|error| failed(self, error))
            }
            started => started.map_err(|error| failed(self, error)),
        }
    }

    async fn commit_row(&mut self, window: Window, xid: u32) -> Result<Option<(Lsn, Vec<u8>)>, SlotError> {
        // The rows of the first peek are on their way already, so the slot is free. Only a commit row has the marks of
        // its plugin at its start; the condition keeps the others on the server.
        let mark: &[u8] = match self.plugin {
            Plugin::Pgoutput => b"C",
            Plugin::Wal2json => br#"{"action":"C""#,
            Plugin::TestDecoding => b"COMMIT ",
        };
        let row = self
            .control
            .client
            .query_opt(
                "select lsn, data from pg_logical_slot_peek_binary_changes($1, $2, $3, variadic $4::text[])
                 where xid::text = $5 and substr(data, 1, $6) = $7 limit 1",
                &[
                    &self.slot,
                    &PgLsn::from(window.upto.0),
                    &window.rows,
                    &self.options,
                    &xid.to_string(),
                    &i32::try_from(mark.len()).unwrap_or(0),
                    &mark,
                ],
            )
            .await
            .map_err(|error| self.failed("looking for the commit of a large transaction", error, 0))?;
        Ok(row.map(|row| (Lsn(row.get::<_, PgLsn>(0).into()), row.get(1))))
    }

    async fn abandon(&mut self) {
        self.reader.cancel().await;
    }

    async fn advance(&mut self, to: Lsn) -> Result<(), SlotError> {
        const DOING: &str = "advancing the slot";
        // On the reading session: whatever it was doing with the slot ends before this begins.
        let failed = |error| self.failed(DOING, error, 0);
        let client = &self.reader.client;
        client
            .execute("select set_config('statement_timeout', '0', false)", &[])
            .await
            .map_err(failed)?;
        // The guard: PostgreSQL would clamp a position that its log does not reach, and skip what is written there later.
        let row = client
            .query_one(
                "select case when pg_current_wal_flush_lsn() >= $1 then
                   (select end_lsn from pg_replication_slot_advance($2, $1)) end",
                &[&PgLsn::from(to.0), &self.slot],
            )
            .await
            .map_err(failed)?;
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
pub struct PgRows {
    rows: Pin<Box<RowStream>>,
    first: Option<PeekRow>,
    slot: String,
    host: String,
}

impl Rows for PgRows {
    type Row = PeekRow;

    async fn next(&mut self) -> Result<Option<PeekRow>, SlotError> {
        const DOING: &str = "reading a window";
        if let Some(row) = self.first.take() {
            return Ok(Some(row));
        }
        match self.rows.next().await {
            None => Ok(None),
            Some(Ok(row)) => Ok(Some(PeekRow(row))),
            Some(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => Err(SlotError::Timeout {
                slot: self.slot.clone(),
                doing: DOING,
                seconds: 0,
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

/// A row of a peek, in the buffer that it came in.
pub struct PeekRow(PgRow);

impl Row for PeekRow {
    fn lsn(&self) -> Lsn {
        self.0
            .try_get::<_, PgLsn>(0)
            .map_or(Lsn::ZERO, |lsn| Lsn(lsn.into()))
    }

    fn data(&self) -> &[u8] {
        self.0.try_get(1).unwrap_or_default()
    }
}
