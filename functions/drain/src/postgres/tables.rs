//! The tables beside the slot, on a PostgreSQL server: what the catalog says of them, and the rows of a backfill. Reads only, and takes no
//! lock that a writer waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio_postgres::Row as PgRow;
use tokio_postgres::error::SqlState;

use super::connection::{Connector, Session};
use super::server::{self, CommitWait};
use super::sql_error::{is_cancelled, is_lock_timeout};
use crate::backfill::schema::{ColumnInfo, DatabaseSchema, PublicationInfo, RelationInfo};
use crate::backfill::table::{KeyOrder, SizeProbe};
use crate::backfill::{BackfillTable, ChunkRows, RowLookup, RowRequest, Snapshot, WATERMARK, query};
use crate::pattern::TablePattern;
use crate::plugin::Plugin;
use crate::ports::{ChunkBounds, ChunkRead, SlotError, TableSource};
use crate::table_name::TableName;

use super::slot::PgSlot;

/// What the server says of its relations, or of one, and of what is published.
///
/// # Errors
/// A query failed.
pub(crate) async fn describe(
    connector: &Connector,
    session: &Session,
    plugin: Plugin,
    publications: &[String],
    tables: &[TablePattern],
    only: Option<&TableName>,
) -> Result<DatabaseSchema, SlotError> {
    let failed = |error| connector.failed("describing the tables", error);
    let (schema, name) = only.map(|only| (&only.schema, &only.name)).unzip();
    // Of the unique indexes that tell every row from every other, the replica identity's is best: updates always tell its old key.
    let relations = session
        .client
        .query(
            "select n.nspname::text, c.relname::text, c.oid, c.relkind::text, c.relpersistence = 'p',
                    case when c.relispartition then array(
                      with recursive up(oid) as (select inhparent from pg_inherits where inhrelid = c.oid
                                                 union select i.inhparent from up join pg_inherits i on i.inhrelid = up.oid)
                      select oid from up) else '{}' end,
                    has_schema_privilege(n.oid, 'usage'), row_security_active(c.oid),
                    case when c.relkind <> 'p' then nullif(c.reltuples, -1)::int8
                         else (
                      with recursive down(oid) as (select inhrelid from pg_inherits where inhparent = c.oid
                                                   union select i.inhrelid from down join pg_inherits i on i.inhparent = down.oid)
                      select sum(nullif(l.reltuples, -1))::int8 from down join pg_class l using (oid) where l.relkind = 'r') end,
                    k.names, k.operators, k.collations, a.names, a.readable, a.generated, a.virtual, a.large, k.identities, c.relreplident <> 'n'
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             cross join lateral (
               select array_agg(a.attname::text order by k.place), array_agg((
                        select string_agg(format('operator(%I.%s)', opn.nspname, op.oprname), chr(1) order by am.amopstrategy)
                        from pg_opclass oc join pg_amop am on am.amopfamily = oc.opcfamily and am.amoplefttype = oc.opcintype and am.amoprighttype = oc.opcintype
                        join pg_operator op on op.oid = am.amopopr join pg_namespace opn on opn.oid = op.oprnamespace
                        where oc.oid = k.class and am.amoppurpose = 's' and am.amopstrategy in (1, 3, 4, 5)) order by k.place),
                      array_agg(case when k.coll <> a.attcollation then format('%I.%I', cn.nspname, co.collname) end order by k.place),
                      array_agg(format('%s %s %s', a.atttypid, k.class, k.coll) order by k.place)
               from pg_index i cross join unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[]) with ordinality k(attnum, coll, class, place)
               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
               left join pg_collation co on co.oid = k.coll left join pg_namespace cn on cn.oid = co.collnamespace
               where k.place <= i.indnkeyatts and i.indexrelid = (
                 select u.indexrelid from pg_index u
                 where u.indrelid = c.oid and u.indisunique and u.indisvalid and u.indimmediate and u.indpred is null and u.indexprs is null
                   and not exists (select from unnest(u.indkey::int2[]) with ordinality uk(attnum, place)
                                   join pg_attribute ua on ua.attrelid = c.oid and ua.attnum = uk.attnum
                                   where uk.place <= u.indnkeyatts and (not ua.attnotnull or exists (
                                     select from pg_constraint nn where nn.conrelid = c.oid and nn.contype = 'n' and not nn.convalidated and ua.attnum = any(nn.conkey))))
                 order by case c.relreplident when 'i' then u.indisreplident else u.indisprimary end desc, u.indisprimary desc, u.indnkeyatts, u.indexrelid
                 limit 1)) k(names, operators, collations, identities)
             cross join lateral (
               select array_agg(a.attname::text order by a.attnum), array_agg(has_column_privilege(c.oid, a.attnum, 'select') order by a.attnum),
                      array_agg(a.attgenerated <> '' and current_setting('server_version_num')::int4 < 180000 order by a.attnum), array_agg(a.attgenerated = 'v' order by a.attnum),
                      array_agg(case when a.attlen >= 0 or a.attstorage = 'p' or a.atttypid in ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype)
                                       or (a.atttypid in ('varchar'::regtype, 'bpchar'::regtype) and a.atttypmod between 0 and 100000) then 0
                                     when t.typcategory = 'S' or a.atttypid = 'bytea'::regtype then 1 else 2 end order by a.attnum)
               from pg_attribute a join pg_type t on t.oid = a.atttypid
               where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) a(names, readable, generated, virtual, large)
             where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
               and ($1::text is null or (n.nspname = $1::text and c.relname = $2::text))",
            &[&schema, &name],
        )
        .await
        .map_err(failed)?;
    let published = match plugin {
        Plugin::Pgoutput => {
            // Columns and filters are known from 15 on.
            let rows = session
                .client
                .query(
                    "select t.schemaname::text, t.tablename::text,
                            case when to_jsonb(t) ? 'attnames' then array(select jsonb_array_elements_text(to_jsonb(t) -> 'attnames')) end,
                            to_jsonb(t) ->> 'rowfilter'
                     from pg_publication_tables t
                     where t.pubname = any($1) and ($2::text is null or (t.schemaname = $2::text and t.tablename = $3::text))",
                    &[&publications, &schema, &name],
                )
                .await
                .map_err(failed)?;
            Some(published(&rows))
        }
        Plugin::Wal2json | Plugin::TestDecoding => None,
    };
    Ok(DatabaseSchema {
        relations: relations.iter().map(described).collect(),
        published,
        tables: tables.to_vec(),
        catalog: super::catalog::read(connector, session).await?,
        role: connector.user().to_owned(),
    })
}

fn described(row: &PgRow) -> RelationInfo {
    let names = row.get::<_, Option<Vec<String>>>(9).unwrap_or_default();
    let operators = row.get::<_, Option<Vec<String>>>(10).unwrap_or_default();
    let collations = row.get::<_, Option<Vec<Option<String>>>>(11).unwrap_or_default();
    let identities = row.get::<_, Option<Vec<String>>>(17).unwrap_or_default();
    let order = |((operators, collation), identity): ((String, Option<String>), String)| {
        let mut operators = operators.split('\u{1}').map(str::to_owned);
        let mut next = || operators.next().unwrap_or_default();
        KeyOrder {
            less: next(),
            equal: next(),
            at_least: next(),
            greater: next(),
            collation,
            identity,
        }
    };
    let list = |at: usize| row.get::<_, Option<Vec<bool>>>(at).unwrap_or_default();
    let columns = row
        .get::<_, Option<Vec<String>>>(12)
        .unwrap_or_default()
        .into_iter()
        .zip(list(13))
        .zip(list(14).into_iter().zip(list(15)))
        .zip(row.get::<_, Option<Vec<i32>>>(16).unwrap_or_default());
    RelationInfo {
        table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        oid: row.get(2),
        kind: row.get::<_, String>(3).chars().next().unwrap_or_default(),
        is_permanent: row.get(4),
        roots: row.get(5),
        may_use_schema: row.get(6),
        hides_rows: row.get(7),
        estimate: row
            .get::<_, Option<i64>>(8)
            .and_then(|rows| u64::try_from(rows).ok()),
        key: names,
        key_order: operators
            .into_iter()
            .zip(collations)
            .zip(identities)
            .map(order)
            .collect(),
        is_identified: row.get(18),
        columns: columns
            .map(
                |(((name, may_read), (is_generated, is_virtual)), large)| ColumnInfo {
                    name,
                    may_read,
                    is_generated,
                    is_virtual,
                    size_probe: match large {
                        0 => SizeProbe::No,
                        1 => SizeProbe::Text,
                        _ => SizeProbe::Other,
                    },
                },
            )
            .collect(),
    }
}

/// A table may be in several publications: then it comes with the columns of any, and a row that any lets through.
fn published(rows: &[PgRow]) -> BTreeMap<TableName, PublicationInfo> {
    let mut published: BTreeMap<TableName, PublicationInfo> = BTreeMap::new();
    for row in rows {
        let columns: Option<Vec<String>> = row.get(2);
        let filters = row.get::<_, Option<String>>(3).map(|filter| vec![filter]);
        published
            .entry(TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .and_modify(|known| {
                known.columns = known
                    .columns
                    .take()
                    .zip(columns.clone())
                    .map(|(one, other)| [one, other].concat());
                known.filters = known
                    .filters
                    .take()
                    .zip(filters.clone())
                    .map(|(one, other)| [one, other].concat());
            })
            .or_insert(PublicationInfo { columns, filters });
    }
    published
}

/// Tries what a chunk of a table would ask, without reading a row.
///
/// # Errors
/// The outer one: a query failed. The inner one: what the server says against this one.
pub(crate) async fn try_query(
    connector: &Connector,
    session: &Session,
    table: &BackfillTable,
) -> Result<Result<(), String>, SlotError> {
    let begun = session.client.batch_execute(BEGIN).await;
    begun.map_err(|error| connector.failed("trying out a table", error))?;
    // One statement, whatever a condition says.
    let tried = session
        .client
        .query(&query::explain_table(table), &[])
        .await
        .map(drop);
    let ended = session.client.batch_execute("rollback").await;
    ended.map_err(|error| connector.failed("trying out a table", error))?;
    match tried {
        Ok(()) => Ok(Ok(())),
        Err(error) => refused(connector, error).map(Err),
    }
}

/// What the server says against a query.
///
/// # Errors
/// It may pass later.
fn refused(connector: &Connector, error: tokio_postgres::Error) -> Result<String, SlotError> {
    const DOING: &str = "reading a table";
    let said = error
        .as_db_error()
        .map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned());
    let code = error.code().map_or("", SqlState::code).to_owned();
    match connector.failed(DOING, error) {
        SlotError::Failed { transient: false, .. } => Ok(said),
        // Too large to be sorted, or its file is gone: that does not pass by itself, and is this table's trouble only.
        SlotError::Failed { .. } if ["53400", "58P01"].contains(&code.as_str()) => Ok(said),
        error => Err(error),
    }
}

impl TableSource for PgSlot<'_> {
    async fn describe(&mut self, only: Option<&TableName>) -> Result<DatabaseSchema, SlotError> {
        describe(
            self.connector,
            &self.control,
            self.plugin,
            &self.publications,
            &self.tables,
            only,
        )
        .await
    }

    async fn writers(&mut self, table: &BackfillTable) -> Result<Vec<String>, SlotError> {
        let (schema, name) = (&table.name().schema, &table.name().name);
        // Who writes to a table, or truncates it, keeps its lock until its changes are visible. Everybody may see the locks.
        let rows = self
            .control
            .client
            .query(
                "with recursive t(oid) as (
                   select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and c.relname = $2::text
                   union select i.inhrelid from t join pg_inherits i on i.inhparent = t.oid)
                 select distinct coalesce('process ' || l.pid, 'a prepared transaction') || ' (' || l.virtualtransaction || ')'
                 from pg_locks l
                 where l.locktype = 'relation' and l.granted and l.pid is distinct from pg_backend_pid()
                   and l.database = (select oid from pg_database where datname = current_database())
                   and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                   and l.relation in (select oid from t)
                 order by 1",
                &[schema, name],
            )
            .await
            .map_err(|error| self.connector.failed("looking for who writes to a table", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn snapshot(&mut self) -> Result<Snapshot, SlotError> {
        snapshot(self.connector, &self.control).await
    }

    async fn read(
        &mut self,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<ChunkRead, SlotError> {
        let failed = |error| self.connector.failed("reading a table", error);
        self.limit(&self.reader, bounds.time).await.map_err(failed)?;
        let client = &self.reader.client;
        client.batch_execute(BEGIN).await.map_err(failed)?;
        let taken = self.take(table, after, bounds, delivered).await;
        let mut is_over = false;
        if !matches!(taken, Ok((_, false))) {
            self.reader.cancel().await;
            // The cancel may hit this one, too.
            is_over = client.batch_execute("rollback").await.is_ok();
            self.reader.outlast_cancel().await;
        }
        if !is_over {
            client.batch_execute("rollback").await.map_err(failed)?;
        }
        match taken {
            Ok((taken, _)) => Ok(taken),
            Err(ChunkReadError::Slot(error)) => Err(error),
            Err(ChunkReadError::Query(error)) => self.untaken(error),
        }
    }

    async fn find_row(
        &mut self,
        table: &BackfillTable,
        request: &RowRequest,
    ) -> Result<RowLookup, SlotError> {
        let failed = |error| self.connector.failed("reading a row that moved", error);
        let began = Instant::now();
        loop {
            self.control.client.batch_execute(BEGIN).await.map_err(failed)?;
            let looked = self.look(table, request).await;
            self.control
                .client
                .batch_execute("rollback")
                .await
                .map_err(failed)?;
            // A commit lies in the log a moment before others see it, and for longer where it waits for a standby.
            match looked? {
                Some(looked) => return Ok(looked),
                None if began.elapsed() < UNSEEN => tokio::time::sleep(UNSEEN / 50).await,
                None => {
                    let why = format!("transaction {}, which moved it, is not visible yet", request.xid);
                    return Ok(RowLookup::Unknown(why));
                }
            }
        }
    }

    async fn emit_watermark(&mut self, content: &str) -> Result<(), SlotError> {
        // Only its place in the log matters. If that is lost with the server, so is the chunk, which is read again.
        server::emit(
            self.connector,
            &self.control,
            WATERMARK,
            content,
            CommitWait::ForDisk,
        )
        .await
        .map(drop)
    }
}

/// A transaction that reads with one snapshot, waits for nobody for long, and fails rather than leave out rows that policies hide.
const BEGIN: &str = "begin isolation level repeatable read read only; set local lock_timeout = '2s'; set local row_security = off";

/// How long a row is waited for whose change is not visible yet.
const UNSEEN: Duration = Duration::from_secs(1);

/// Why a chunk was not taken.
enum ChunkReadError {
    /// The server refused it, or did not get on with it.
    Query(tokio_postgres::Error),
    /// The server could not be asked.
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
    /// What a query that was not answered comes to.
    fn untaken(&self, error: tokio_postgres::Error) -> Result<ChunkRead, SlotError> {
        match error.code() {
            _ if is_cancelled(&error) => Ok(ChunkRead::TooSlow),
            _ if is_lock_timeout(&error) => Ok(ChunkRead::Locked),
            _ => refused(self.connector, error).map(ChunkRead::Unreadable),
        }
    }

    /// Looks for one row. `None` when its change is not visible yet.
    async fn look(
        &self,
        table: &BackfillTable,
        request: &RowRequest,
    ) -> Result<Option<RowLookup>, SlotError> {
        if !snapshot(self.connector, &self.control).await?.shows(request.xid) {
            return Ok(None);
        }
        let sql = query::copy_row(table, &request.key);
        let lines = match self.control.client.copy_out(&sql).await {
            Ok(lines) => lines.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        let looked = match lines {
            Ok(lines) => match lines.first() {
                Some(line) if size(line) > query::MAX_ROW_BYTES => Ok(RowLookup::Unknown(
                    "it has more bytes than a record can hold".to_owned(),
                )),
                Some(line) => Ok(RowLookup::Row(line.to_vec())),
                // The snapshot may show nothing of it any more.
                None if is_rewritten(self.connector, &self.control, table).await? => {
                    Ok(RowLookup::Unknown("it was rewritten meanwhile".to_owned()))
                }
                None => Ok(RowLookup::Gone),
            },
            Err(error) if is_lock_timeout(&error) => Ok(RowLookup::Unknown(
                "somebody holds a lock that forbids reading it".to_owned(),
            )),
            Err(error) => refused(self.connector, error).map(RowLookup::Unknown),
        };
        looked.map(Some)
    }

    /// Takes rows, and tells whether the server was giving more when that was enough.
    async fn take(
        &self,
        table: &BackfillTable,
        after: Option<&[String]>,
        bounds: ChunkBounds,
        delivered: &mut BTreeSet<u32>,
    ) -> Result<(ChunkRead, bool), ChunkReadError> {
        // Planned first: from then on nobody can rewrite the table. Who did between the snapshot and that took its rows out of it.
        self.reader
            .client
            .query(&query::explain_chunk(table, after), &[])
            .await?;
        if is_rewritten(self.connector, &self.reader, table).await? {
            return Ok((ChunkRead::Rewritten, false));
        }
        let snapshot = snapshot(self.connector, &self.reader).await?;
        delivered.retain(|xid| !snapshot.shows(*xid));
        if let Some(xid) = delivered.first() {
            return Ok((ChunkRead::Unseen(*xid), false));
        }
        // One more than is taken tells whether there are more.
        let sql = query::copy_chunk(table, after, bounds.rows.saturating_add(1));
        let lines = self.reader.client.copy_out(&sql).await?;
        let mut lines = std::pin::pin!(lines);
        let mut held = Box::new(ChunkRows::new(table.clone(), snapshot));
        let unreadable = |why: String| Ok((ChunkRead::Unreadable(why), true));
        loop {
            let line = match lines.try_next().await {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // What came in time is a chunk.
                Err(error) if is_cancelled(&error) && !held.is_empty() => {
                    return Ok((
                        ChunkRead::Rows {
                            rows: held,
                            more: true,
                        },
                        false,
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            if held.len() as u64 >= bounds.rows {
                // It was the last one. A cancel would come late, and take what is asked next.
                while lines.try_next().await?.is_some() {}
                return Ok((
                    ChunkRead::Rows {
                        rows: held,
                        more: true,
                    },
                    false,
                ));
            }
            if held.memory() >= bounds.bytes && !held.is_empty() {
                return Ok((
                    ChunkRead::Rows {
                        rows: held,
                        more: true,
                    },
                    true,
                ));
            }
            let bytes = size(&line);
            if bytes > query::MAX_ROW_BYTES {
                return unreadable(format!(
                    "a row of it has {bytes} bytes, which no record can hold; it is the first behind the key {:?}",
                    held.last_key().or_else(|| after.map(<[String]>::to_vec))
                ));
            }
            if let Err(error) = held.push(&line) {
                return unreadable(error.to_string());
            }
        }
        Ok((
            ChunkRead::Rows {
                rows: held,
                more: false,
            },
            false,
        ))
    }
}

/// A row's size, which stands before it.
fn size(line: &[u8]) -> u64 {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0u64, |size, digit| {
        size.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

/// Whether another table has the name, or a table or a partition of it is another file than it was when the transaction's snapshot was taken. A rewriting `alter table` gives
/// all rows its own transaction's id, so that an older snapshot shows none (PostgreSQL documentation, "Serialization Failure Handling", caveats).
///
/// # Errors
/// The query failed.
async fn is_rewritten(
    connector: &Connector,
    session: &Session,
    table: &BackfillTable,
) -> Result<bool, SlotError> {
    let (schema, name) = (&table.name().schema, &table.name().name);
    // The catalog is read with that snapshot, and the functions tell what is now.
    let row = session
        .client
        .query_one(
            "with recursive t(oid) as (
               select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1::text and c.relname = $2::text
               union select i.inhrelid from t join pg_inherits i on i.inhparent = t.oid)
             select not exists (select from t where t.oid = $3::oid and t.oid = to_regclass(format('%I.%I', $1::text, $2::text))::oid)
                 or exists (select from t join pg_class c using (oid)
                            where c.relfilenode <> 0 and c.relfilenode is distinct from pg_relation_filenode(c.oid))",
            &[schema, name, &table.oid],
        )
        .await
        .map_err(|error| connector.failed("looking at a table", error))?;
    Ok(row.get(0))
}

async fn snapshot(connector: &Connector, session: &Session) -> Result<Snapshot, SlotError> {
    const DOING: &str = "taking a snapshot";
    let row = session
        .client
        .query_one("select pg_current_snapshot()::text", &[])
        .await
        .map_err(|error| connector.failed(DOING, error))?;
    row.get::<_, String>(0).parse().map_err(|()| SlotError::Failed {
        host: connector.host().to_owned(),
        doing: DOING,
        transient: false,
        source: "it is not written as it should be".into(),
    })
}
