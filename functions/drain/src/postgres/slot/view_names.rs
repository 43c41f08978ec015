//! The position from which a name belongs to a materialized view.
//!
//! `refresh materialized view concurrently` and `create materialized view` write rows to the log. wal2json
//! and test_decoding send these rows like rows of a table: a row has the view's name, and nothing shows that
//! it belongs to a view. A table may have had the name before. A row of that table must be sent, and a row
//! of the view must not. The order of commits distinguishes the two. A table is renamed or dropped only after
//! its writers have ended. Only then can the view get the name.
//!
//! The view's row in `pg_type` has the id of the naming transaction as its `xmin`. `refresh` does not change
//! that row. A rename, a move to another schema and a new owner change it. A rename of the schema changes the
//! schema's row in `pg_namespace`. A grant on the schema changes that row, too.
//!
//! - If the schema has no grants, each change of its row counts as a rename.
//! - If it has grants, the change may be a grant. It counts as a rename only if another schema has a relation
//!   with the view's name, and a transaction that is not older than `catalog_xmin` changed that schema's row.
//!   A schema or a relation that was dropped since is not found.
//!
//! Rows from before a rename, a move or a new owner are sent, because the catalog does not show whether they
//! belong to the view.

use std::time::{Duration, Instant};

use postgres_types::PgLsn;

use super::super::rows;
use super::PgSlot;
use crate::base::lsn::Lsn;
use crate::ports::SlotError;

const DOING: &str = "searching for the creation of a materialized view";

/// Longest search of the unconfirmed log.
const SEARCH_TIME: Duration = Duration::from_secs(10);

/// Longest wait for the flush of the log.
///
/// The log must be on disk up to the position at which the catalog was read.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// The transaction that named the materialized view $1.
///
/// If a later transaction changed the row of the view's schema, the result is that transaction. For a schema
/// with grants, see the documentation of this module.
///
/// The column `is_confirmed` states whether the slot $2 has confirmed the transaction. It has if the id is
/// before `catalog_xmin`: all such transactions ended before the slot's position. Ids wrap around, so an id
/// that is more than two billion transactions old has a negative age. It counts as confirmed, too.
///
/// If the last record ends at the end of its page, the server's insert position is after the header of the
/// next page. No flush reaches that position before another record is written. So `insert_lsn` is then the
/// beginning of that page. The header has 40 bytes on the first page of a segment, and 24 bytes elsewhere.
const NAMING: &str = "
    select named.xid::text as xid,
           coalesce(age(named.xid) not between 0 and age(s.catalog_xmin), false) as is_confirmed,
           case
             when mod(i.lsn - '0/0'::pg_lsn, pg_size_bytes(current_setting('wal_segment_size'))) = 40
               then i.lsn - 40::numeric
             when mod(i.lsn - '0/0'::pg_lsn, current_setting('wal_block_size')::numeric) = 24
               then i.lsn - 24::numeric
             else i.lsn
           end as insert_lsn
    from pg_class c
    join pg_type t on t.oid = c.reltype
    join pg_namespace n on n.oid = c.relnamespace
    cross join pg_replication_slots s
    cross join lateral (
      select x.xid
      from (values (t.xmin), (n.xmin)) x(xid)
      where x.xid = t.xmin or n.nspacl is null or exists (
        select
        from pg_class namesake
        join pg_namespace other on other.oid = namesake.relnamespace
        where namesake.relname = c.relname and namesake.oid <> c.oid
          and age(other.xmin) between 0 and age(s.catalog_xmin))
      order by age(x.xid) < 0, age(x.xid)
      limit 1) named
    cross join pg_current_wal_insert_lsn() as i(lsn)
    where c.oid = $1 and c.relkind = 'm' and s.slot_name = $2";

/// The commit of the transaction $2 in the unconfirmed log.
///
/// The log is that of the slot $1, read with the plugin's options $3. The commit row has the largest LSN of
/// its transaction. So `commit_lsn` is the largest LSN of the rows of $2. It is null if $2 is a
/// subtransaction: no plugin shows its id. The top-level transaction has a smaller id. So its commit is at or
/// before `latest_lsn`, the last commit of the transactions with smaller ids.
const NAMING_COMMIT: &str = "
    select max(p.lsn) filter (where p.xid = $2::text::xid) as commit_lsn,
           max(p.lsn) filter (where p.xid <> '0'::xid and age(p.xid) >= age($2::text::xid)) as latest_lsn
    from pg_logical_slot_peek_binary_changes($1, null, null, variadic $3::text[]) p";

impl PgSlot<'_> {
    /// End of the commit that named the view.
    ///
    /// A row of this name is a row of the view if its transaction commits at or after this position. The
    /// result is zero if the slot has already passed that commit, and `None` if the view was dropped since.
    /// A search that takes too long returns the largest position: rows of the view are then sent, too, but no
    /// row of a table is lost.
    ///
    /// # Errors
    /// A query failed.
    pub(super) async fn view_named_since(&mut self, view: u32) -> Result<Option<Lsn>, SlotError> {
        let row = self
            .lock_session
            .client
            .query_opt(NAMING, &[&view, &self.slot])
            .await
            .map_err(|error| self.failed(DOING, error))?;
        let Some(row) = row else {
            return Ok(None);
        };
        if row.get("is_confirmed") {
            return Ok(Some(Lsn::ZERO));
        }
        let xid: String = row.get("xid");
        if let Some((_, since)) = self
            .view_names
            .iter()
            .find(|(naming, _)| *naming == (view, xid.clone()))
        {
            return Ok(Some(*since));
        }
        let insert = rows::lsn(&row, "insert_lsn");
        let since = match self.is_flushed(insert).await? {
            true => self.naming_commit(&xid).await?,
            false => None,
        };
        let since = since.unwrap_or_else(|| {
            tracing::warn!(
                slot = self.slot,
                "the creation of a materialized view was not found in time: its rows are sent, too"
            );
            Lsn(u64::MAX)
        });
        self.view_names.push(((view, xid), since));
        Ok(Some(since))
    }

    /// Waits until the log is on disk up to a position.
    ///
    /// A commit may be visible before it is on disk, and a peek does not show such a commit. Returns `false`
    /// if the flush takes longer than [`FLUSH_TIME`].
    async fn is_flushed(&self, lsn: Lsn) -> Result<bool, SlotError> {
        let began = Instant::now();
        loop {
            let row = self
                .lock_session
                .client
                .query_one(
                    "select pg_current_wal_flush_lsn() >= $1 as is_flushed",
                    &[&PgLsn::from(lsn.0)],
                )
                .await
                .map_err(|error| self.failed(DOING, error))?;
            let is_flushed = row.get("is_flushed");
            if is_flushed || began.elapsed() >= FLUSH_TIME {
                return Ok(is_flushed);
            }
            tokio::time::sleep(FLUSH_TIME / 50).await;
        }
    }

    /// Position of the commit of `xid`, which named the view.
    ///
    /// `None` if the search takes longer than [`SEARCH_TIME`]. If no row shows `xid`, the position is after
    /// the last commit of the transactions with smaller ids, and zero if there is none.
    async fn naming_commit(&self, xid: &str) -> Result<Option<Lsn>, SlotError> {
        let client = &self.lock_session.client;
        let arguments: [&(dyn postgres_types::ToSql + Sync); 3] = [&self.slot, &xid, &self.options];
        let search = client.query_one(NAMING_COMMIT, &arguments);
        let Ok(found) = tokio::time::timeout(SEARCH_TIME, search).await else {
            self.lock_session.cancel().await;
            self.lock_session.outlast_cancel().await;
            return Ok(None);
        };
        let row = found.map_err(|error| self.failed(DOING, error))?;
        let lsn = |column| rows::optional_lsn(&row, column);
        let since = match (lsn("commit_lsn"), lsn("latest_lsn")) {
            (Some(commit), _) => commit,
            (None, Some(latest)) => latest.plus(1),
            (None, None) => Lsn::ZERO,
        };
        Ok(Some(since))
    }
}
