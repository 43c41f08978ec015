//! The end of a chunk, of a table and of the backfill.
//!
//! The cursor is stored after a chunk is acknowledged. A chunk that was not acknowledged in time, or that a
//! change made invalid, is read again.

use std::time::Instant;

use serde_json::json;

use super::{BackfillRunner, BackfillStep, ChunkEnvironment};
use crate::backfill::{BackfillState, Chunk, ChunkPayload, ChunkRows};
use crate::base::budget::Budget;
use crate::base::clock::now_text;
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::base::time::millis;
use crate::error::Error;
use crate::ports::{Slot, StateStore, TableSource};

/// Number of consecutive invalid chunks after which a table fails.
///
/// The last of these chunks must have at most one row. Each invalid chunk halves the next one. Twenty
/// halvings reduce any chunk to one row, so several chunks of one row were invalid.
const MAX_INVALID_CHUNKS: u32 = 32;

impl<C: StateStore> BackfillRunner<C> {
    /// Finishes the backfill after its last table.
    ///
    /// A repair first emits its control event, if it read a table and no table failed.
    pub(super) async fn finish<S: Slot + TableSource>(
        &mut self,
        slot: &mut S,
        environment: &ChunkEnvironment<'_>,
    ) -> Result<BackfillStep, Error> {
        let state = &mut self.state;
        if state.request.repair && state.failures == 0 && state.done > 0 {
            let payload = ChunkPayload::Repaired(repaired(state, &environment.settings.source_name));
            self.emit_watermark(slot, payload, Instant::now(), environment)
                .await?;
            return Ok(BackfillStep::WatermarkEmitted);
        }
        state.finished_at = Some(now_text());
        self.store_state(slot, environment.budget).await?;
        Ok(BackfillStep::Idle)
    }

    /// Closes the chunk at the end of a window: stores the cursor if every row was acknowledged.
    ///
    /// The cursor is stored before the slot advances. `is_whole` is true if the window was read completely,
    /// and every event of it was acknowledged.
    ///
    /// # Errors
    /// The state cannot be stored.
    pub(in crate::drain) async fn close_chunk<S: Slot>(
        &mut self,
        slot: &mut S,
        is_whole: bool,
        acknowledged: Lsn,
        budget: Budget,
    ) -> Result<(), Error> {
        let Some(chunk) = &self.context.chunk else {
            return Ok(());
        };
        if !is_whole {
            self.drop_chunk();
            return self.store_state(slot, budget).await;
        }
        if chunk.watermark_lsn.is_none() {
            return Ok(());
        }
        let Some(chunk) = self.context.chunk.take() else {
            return Ok(());
        };
        if let (Some(why), Some(rows)) = (&chunk.failure, chunk.rows()) {
            let name = rows.table().relation.table.clone();
            return self.fail_table(slot, &name, why.clone(), budget).await;
        }
        if let Some(rows) = chunk.rows()
            && let Some(reason) = rows.invalid_reason()
        {
            let ms = millis(chunk.started.elapsed());
            return self.drop_invalid_chunk(slot, rows, reason, ms, budget).await;
        }
        self.apply_acknowledged(&chunk, acknowledged);
        match &self.state.table {
            Some(progress) if !self.state.fits() => {
                let name = progress.name.clone();
                let why = "its key, which is the cursor, does not fit into the parameter of the backfill";
                self.fail_table(slot, &name, why.to_owned(), budget).await
            }
            _ => self.store_state(slot, budget).await,
        }
    }

    /// Drops an invalid chunk, which took `ms`. The next chunk is smaller.
    ///
    /// A change makes a smaller chunk invalid less often. If even chunks of one row stay invalid, the table
    /// fails.
    async fn drop_invalid_chunk<S: Slot>(
        &mut self,
        slot: &mut S,
        rows: &ChunkRows,
        reason: &str,
        ms: u64,
        budget: Budget,
    ) -> Result<(), Error> {
        let progress = self.state.table_progress(rows.table());
        progress.ms = progress.ms.saturating_add(ms);
        progress.invalid += 1;
        let invalid = progress.invalid;
        tracing::info!(
            slot = self.state.slot,
            reason,
            invalid,
            "an invalid chunk is read again"
        );
        if invalid >= MAX_INVALID_CHUNKS && rows.len() <= 1 {
            self.waits_for = None;
            let why = format!("{reason}, in each of {invalid} reads of its next rows");
            return self.fail_table(slot, rows.table().name(), why, budget).await;
        }
        self.waits_for = Some(format!(
            "a chunk that no change makes invalid: {reason}, in {invalid} consecutive chunks"
        ));
        self.store_state(slot, budget).await
    }

    /// Drops a chunk that was not acknowledged. The next chunk is smaller.
    ///
    /// Either the chunk was too large for the time that was left, or its window failed.
    fn drop_chunk(&mut self) {
        let Some(chunk) = self.context.chunk.take() else {
            return;
        };
        if let Some(progress) = &mut self.state.table {
            progress.ms = progress.ms.saturating_add(millis(chunk.started.elapsed()));
            progress.late += 1;
            let late = progress.late;
            if late > 1 || progress.invalid == 0 {
                self.waits_for = (late > 1).then(|| {
                    format!(
                        "the stream, or a longer Timeout: {late} consecutive chunks were not acknowledged"
                    )
                });
            }
        }
    }

    /// Sets the cursor to the last key of an acknowledged chunk.
    fn apply_acknowledged(&mut self, chunk: &Chunk, acknowledged: Lsn) {
        self.state.position = Some(acknowledged);
        self.waits_for = None;
        let ChunkPayload::Rows { rows, more, .. } = &chunk.payload else {
            self.state.finished_at = Some(now_text());
            return;
        };
        let ms = millis(chunk.started.elapsed());
        self.chunks += 1;
        self.read += rows.len() as u64;
        self.overtaken += rows.overtaken();
        self.state.rows += chunk.rows_sent;
        let progress = self.state.table_progress(rows.table());
        progress.key = rows.last_key().or(progress.key.take());
        progress.rows += chunk.rows_sent;
        (progress.slow, progress.late, progress.invalid) = (false, 0, 0);
        progress.ms += ms;
        tracing::info!(
            table = %progress.name,
            chunk = rows.len(),
            sent = chunk.rows_sent,
            rows = progress.rows,
            estimate = rows.table().estimate,
            ms,
            "a chunk was acknowledged"
        );
        if !more {
            let name = rows.table().relation.table.clone();
            tracing::info!(table = %name, "the table's backfill finished");
            self.state.finish_table();
            self.remove_table(&name);
        }
    }

    pub(super) fn remove_table(&mut self, name: &TableName) {
        self.context.table = None;
        self.writers = None;
        if let Some(tables) = &mut self.tables {
            tables.retain(|table| table != name);
        }
    }
}

/// Content of the control event that ends a repair.
///
/// It names its source, since a stream may have events of several databases. A consumer deletes rows of this
/// database only.
fn repaired(state: &BackfillState, source_name: &str) -> String {
    // The parameter is small, so the state may lack the names of some finished tables.
    let tables: Vec<String> = state.finished.iter().map(|table| table.name.unquoted()).collect();
    let is_complete = tables.len() as u64 == state.done;
    // `began` was acknowledged before the repair, so every event up to it is older than the repair.
    let since = format!("{:016x}", state.began.0 + 1);
    let mut content = json!({
        "control": "repaired",
        "source_name": source_name,
        "since": since,
        "tables": tables,
    });
    if !is_complete {
        content["complete"] = json!(false);
    }
    content.to_string()
}
