//! Carries a backfill on between windows: reads the next chunk, lays its watermark, and when all of it has arrived keeps the cursor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::parts::{Bounds, Checkpoints, Looked, Row, Rows, Slot, Stream, Tables, Taken};
use super::report::BackfillReport;
use super::{Drain, keeper};
use crate::backfill::state::{Name, Phase};
use crate::backfill::{Chunk, Load, Side, State, Table, Wanted};
use crate::clock::now_text;
use crate::error::Error;
use crate::event::MOST_ROWS;
use crate::lsn::Lsn;

/// Log that may be unread when a chunk begins, bytes. Until its watermark is there, it only grows by what is written meanwhile.
pub(super) const MOST_LAG: u64 = 64 << 20;

/// What a chunk should take, from its reading to its arrival. Much longer than the peek that it costs, and short enough that losing it is cheap.
const CHUNK_TIME: Duration = Duration::from_secs(3);

/// A chunk is not begun with less time than this.
const LEAST_TIME: Duration = Duration::from_millis(300);

/// The longest that a chunk may be read, unless that is not enough for a row.
const MOST_TIME: Duration = Duration::from_secs(10);

/// How often those who wrote before are looked for in one go.
const LOOKS: usize = 10;

/// A backfill that is carried on.
#[derive(Debug)]
pub struct Beside<C> {
    parameter: C,
    pub(super) state: State,
    /// The tables that are not over, in order; not known at first.
    tables: Option<Vec<Name>>,
    /// The table that nobody writes to any more of those who were writing when this invocation came to it.
    settled: Option<Name>,
    /// Who was writing to the next table when this invocation came to it, and may still be.
    writers: Option<Vec<String>>,
    pub(super) side: Side,
    /// The table of the last chunk.
    reading: Option<Arc<Table>>,
    waits_for: Option<String>,
    chunks: u64,
    read: u64,
    overtaken: u64,
}

/// What came of carrying it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to do.
    Nothing,
    /// A chunk waits for its watermark, which lies in the log.
    Laid,
    /// Something must end first, which no window brings nearer.
    Waits,
    /// A chunk waits for its watermark, which may not be read yet.
    Pending,
    /// There is something to do, and no time for it.
    Late,
}

impl<C> Beside<C> {
    /// To be carried on from what is stored.
    pub fn new(parameter: C, state: State) -> Self {
        Beside {
            parameter,
            state,
            tables: None,
            settled: None,
            writers: None,
            side: Side::default(),
            reading: None,
            waits_for: None,
            chunks: 0,
            read: 0,
            overtaken: 0,
        }
    }

    /// Whether there is something to do for it.
    pub(super) fn is_running(&self) -> bool {
        self.state.phase() == Phase::Running
    }

    /// What is told of it.
    pub fn report(&self) -> BackfillReport {
        let phase = match self.state.phase() {
            Phase::Running if self.waits_for.is_some() => Phase::Waiting,
            phase => phase,
        };
        let mut report = BackfillReport {
            state: phase,
            chunks: self.chunks,
            read: self.read,
            overtaken: self.overtaken,
            waits_for: self.waits_for.clone(),
            ..BackfillReport::of(&self.state)
        };
        report.tables.left = self.tables.as_ref().map(|tables| tables.len() as u64);
        report
    }
}

impl<S: Slot + Tables, K: Stream, C: Checkpoints> Drain<'_, S, K, C>
where
    <S::Rows as Rows>::Row: Row,
{
    /// A table was read in part by an earlier invocation: whatever comes now may bring a row to where it is not read any more.
    pub(super) async fn watch_changes(&mut self) -> Result<(), Error> {
        let reading = self
            .beside
            .as_ref()
            .and_then(|beside| beside.state.table.as_ref());
        let reading = reading.filter(|reading| reading.key.is_some());
        let Some(name) = reading.map(|reading| reading.name.clone()) else {
            return Ok(());
        };
        match self.table(&name).await? {
            Ok(table) => {
                if let Some(beside) = &mut self.beside {
                    beside.watch(table);
                }
                Ok(())
            }
            // What moves in it meanwhile is not seen.
            Err(why) => self.read_anew(&why).await,
        }
    }

    /// Reads the next chunk and lays its watermark, if there is one and time for it.
    pub(super) async fn carry_on(&mut self) -> Result<Step, Error> {
        let left = self.budget.for_reading(Instant::now());
        let Some(beside) = self.beside.as_mut().filter(|beside| beside.is_running()) else {
            return Ok(Step::Nothing);
        };
        if beside.side.chunk.is_some() {
            beside.waits_for =
                Some("a standby, which has not got as far as its chunk's watermark".to_owned());
            return Ok(Step::Pending);
        }
        // There must be time for its window, too, which the server decodes from `restart_lsn` on, as it did the last one.
        if left < LEAST_TIME.max(self.peek_took * 3) {
            if self.whole < self.peek_took * 3 {
                beside.waits_for = Some(format!(
                    "a longer Timeout, or the end of a long transaction: reading the log again takes {} ms",
                    self.peek_took.as_millis()
                ));
            }
            return Ok(Step::Late);
        }
        self.list_tables().await?;
        loop {
            let Some((name, table)) = self.next_table().await? else {
                return self.end().await;
            };
            if !self.is_settled(&name, &table).await? {
                return Ok(Step::Waits);
            }
            if let Some(step) = self.read_chunk(&name, table, left).await? {
                return Ok(step);
            }
        }
    }

    /// Looks which tables are meant, once in an invocation.
    async fn list_tables(&mut self) -> Result<(), Error> {
        if self.beside.as_ref().is_none_or(|beside| beside.tables.is_some()) {
            return Ok(());
        }
        let site = self.slot.describe(None).await?;
        let Some(beside) = &mut self.beside else {
            return Ok(());
        };
        let mut names = site.names(&beside.state.request);
        let reading = beside.state.table.as_ref().map(|reading| reading.name.clone());
        let gone = reading.filter(|reading| !names.contains(reading));
        if let Some(reading) = &beside.state.table {
            // What was made since lies in the log. To turn back for what was renamed or published since would throw the cursor away.
            names.retain(|name| *name >= reading.name);
        }
        names.retain(|name| !beside.state.is_over(name));
        beside.tables = Some(names);
        match gone {
            Some(name) => {
                let why = "it is no longer there, no longer published or left out by TABLES";
                self.fail(&name, why.to_owned()).await
            }
            None => Ok(()),
        }
    }

    /// The first table that is not over and can be read.
    async fn next_table(&mut self) -> Result<Option<(Name, Table)>, Error> {
        loop {
            let tables = self.beside.as_ref().and_then(|beside| beside.tables.as_ref());
            let Some(name) = tables.and_then(|tables| tables.first()).cloned() else {
                return Ok(None);
            };
            match self.table(&name).await? {
                Ok(table) => return Ok(Some((name, table))),
                Err(why) => self.fail(&name, why).await?,
            }
        }
    }

    /// Reads the next rows of a table, and lays their watermark. `None` when the table cannot be read on.
    async fn read_chunk(&mut self, name: &Name, table: Table, left: Duration) -> Result<Option<Step>, Error> {
        let Some(beside) = &mut self.beside else {
            return Ok(Some(Step::Nothing));
        };
        let began = Instant::now();
        let most = beside.state.request.chunk_rows.unwrap_or(MOST_ROWS);
        let reading = beside.state.reading(&table);
        let rows = reading.next_rows(u64::from(most), CHUNK_TIME.min(left / 3));
        let (after, first, is_slow) = (reading.key.clone(), reading.rows == 0, reading.slow);
        let bounds = Bounds {
            rows,
            bytes: self.settings.bytes_in_flight,
            time: if is_slow {
                left * 3 / 4
            } else {
                (left / 2).min(MOST_TIME)
            },
        };
        let taken = self
            .slot
            .read(&table, after.as_deref(), bounds, &mut beside.side.delivered)
            .await?;
        let waits_for = match taken {
            // Also of none: until its watermark, a row may still come that leaves a large value open.
            Taken::Rows { held, more } => {
                beside.waits_for = None;
                beside.watch(table);
                self.lay(Load::Rows { held, first, more }, began).await?;
                return Ok(Some(Step::Laid));
            }
            // The next invocation gives it nearly all of its time.
            Taken::TooSlow if !is_slow || left < self.whole / 2 => {
                beside.state.reading(&table).slow = true;
                self.store_backfill().await?;
                return Ok(Some(Step::Late));
            }
            Taken::TooSlow => {
                let why = "reading its next rows took longer than an invocation has: no index helps `where`, or the server is overloaded";
                self.fail(name, why.to_owned()).await?;
                return Ok(None);
            }
            Taken::Unreadable(why) => match self.table(name).await? {
                // It was altered since it was described.
                Ok(now) if now.relation != table.relation || now.ordering() != table.ordering() => {
                    format!("whoever is altering {name}")
                }
                Ok(_) => {
                    self.fail(name, why).await?;
                    return Ok(None);
                }
                Err(why) => {
                    self.fail(name, why).await?;
                    return Ok(None);
                }
            },
            Taken::Unseen(xid) => {
                format!(
                    "transaction {xid}, which is in the stream and not visible yet: it waits for a standby"
                )
            }
            Taken::Locked => format!("whoever holds a lock on {name} that forbids reading it"),
            Taken::Rewritten => format!("whoever is rewriting {name}"),
        };
        if let Some(beside) = &mut self.beside {
            beside.waits_for = Some(waits_for);
        }
        Ok(Some(Step::Waits))
    }

    /// Lays the watermark of what waits for it.
    async fn lay(&mut self, load: Load, began: Instant) -> Result<(), Error> {
        let nonce = format!("{:016x}", fastrand::u64(..));
        let watermark = json!({"slot": self.settings.slot, "nonce": nonce}).to_string();
        self.slot.lay(&watermark).await?;
        if let Some(beside) = &mut self.beside {
            beside.side.chunk = Some(Chunk::new(watermark, load, began));
        }
        Ok(())
    }

    /// The table as it is now, or why it cannot be read.
    async fn table(&mut self, name: &Name) -> Result<Result<Table, String>, Error> {
        let site = self.slot.describe(Some(name)).await?;
        let Some(beside) = &self.beside else {
            return Ok(Err(String::new()));
        };
        let described = site.relations.iter().find(|described| described.is(name));
        Ok(match described {
            None => Err("it is no longer there".to_owned()),
            Some(described) => site
                .table(described, &beside.state.request)
                .map_err(|refusal| refusal.why),
        })
    }

    /// Whether everybody has ended who had written to the table when this invocation came to it. What an earlier invocation sent may
    /// not be visible before.
    async fn is_settled(&mut self, name: &Name, table: &Table) -> Result<bool, Error> {
        for look in 0..LOOKS {
            let Some(beside) = &mut self.beside else {
                return Ok(false);
            };
            if beside.settled.as_ref() == Some(name) {
                return Ok(true);
            }
            if look > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let writing = self.slot.writers(table).await?;
            let writers = beside.writers.get_or_insert_with(|| writing.clone());
            writers.retain(|writer| writing.contains(writer));
            match writers.first() {
                None => {
                    beside.writers = None;
                    beside.settled = Some(name.clone());
                }
                Some(writer) => {
                    beside.waits_for = Some(format!(
                        "{writer}, which wrote to {name} before and has not ended"
                    ));
                }
            }
        }
        Ok(false)
    }

    async fn fail(&mut self, name: &Name, why: String) -> Result<(), Error> {
        tracing::warn!(slot = self.settings.slot, table = %name, why, "the table's backfill failed; the others go on");
        if let Some(beside) = &mut self.beside {
            beside.state.fail_table(name.clone(), why);
            beside.over(name);
        }
        self.store_backfill().await
    }

    /// No table is left. A repair says so in the stream.
    async fn end(&mut self) -> Result<Step, Error> {
        let Some(beside) = &mut self.beside else {
            return Ok(Step::Nothing);
        };
        let state = &mut beside.state;
        if state.request.repair && state.failures == 0 && state.done > 0 {
            // Those that are known to be read. Where there are very many, some names gave way to others.
            let tables: Vec<String> = state.finished.iter().map(|it| it.name.to_string()).collect();
            let is_complete = tables.len() as u64 == state.done;
            // Everything at or before where it began is older than it.
            let since = format!("{:016x}", state.began.0 + 1);
            let content = match is_complete {
                true => json!({"control": "repaired", "since": since, "tables": tables}),
                false => json!({"control": "repaired", "since": since, "tables": tables, "complete": false}),
            };
            self.lay(Load::Repaired(content.to_string()), Instant::now())
                .await?;
            return Ok(Step::Laid);
        }
        state.finished_at = Some(now_text());
        self.store_backfill().await?;
        Ok(Step::Nothing)
    }

    /// The window is over: what it sent of the chunk has arrived, or has not and is read again. Cursor and position are stored before the slot
    /// advances.
    pub(super) async fn settle_chunk(&mut self, is_whole: bool) -> Result<(), Error> {
        let acknowledged = self.sender.ledger.acknowledged();
        let Some(beside) = &mut self.beside else {
            return Ok(());
        };
        let chunk = match (&beside.side.chunk, is_whole) {
            (None, _) => return Ok(()),
            (Some(chunk), false) => {
                // It was too large for the time that there was, or something failed. Either way the next one is smaller.
                let took = u64::try_from(chunk.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                if let Some(reading) = &mut beside.state.table {
                    reading.ms = reading.ms.saturating_add(took);
                    reading.late += 1;
                    beside.waits_for = (reading.late > 1).then(|| {
                        format!(
                            "the stream, or a longer Timeout: {} chunks in a row did not arrive",
                            reading.late
                        )
                    });
                }
                beside.side.chunk = None;
                return self.store_backfill().await;
            }
            (Some(chunk), true) if chunk.reached.is_none() => return Ok(()),
            (Some(_), true) => beside.side.chunk.take(),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        if chunk.held().is_some_and(|held| held.is_void()) {
            tracing::info!(
                slot = self.settings.slot,
                "a change does not tell its row: the chunk is read again"
            );
            return Ok(());
        }
        if let (Some(why), Some(held)) = (&chunk.failed, chunk.held()) {
            return self.fail(&Name::from(held.table()), why.clone()).await;
        }
        beside.arrived(&chunk, acknowledged);
        match &beside.state.table {
            Some(reading) if !beside.state.fits() => {
                let name = reading.name.clone();
                let why = "the cursor, which is its key, does not fit into the parameter of the backfill";
                self.fail(&name, why.to_owned()).await
            }
            _ => self.store_backfill().await,
        }
    }

    /// Asks the server for a row whose large values a change leaves open.
    pub(super) async fn row_of(&mut self, wanted: &Wanted) -> Result<Looked, Error> {
        let Some(table) = self.beside.as_ref().and_then(|beside| beside.reading.clone()) else {
            return Ok(Looked::Gone);
        };
        let looked = self.slot.row_of(&table, wanted).await?;
        if let Looked::Unknown(why) = &looked {
            self.read_anew(why).await?;
        }
        Ok(looked)
    }

    /// The table that is being read is read from its beginning, since a row may move in it of which a large value cannot be told. To be stored
    /// before its change is sent, which lacks the value.
    pub(super) async fn read_anew(&mut self, why: &str) -> Result<(), Error> {
        let Some(beside) = &mut self.beside else {
            return Ok(());
        };
        let table = beside
            .state
            .table
            .as_ref()
            .map(|reading| reading.name.to_string());
        tracing::warn!(
            slot = self.settings.slot,
            table,
            why,
            "a row that moves could not be told as a whole: the table is read from its beginning"
        );
        beside.reading = None;
        beside.state.read_anew();
        self.store_backfill().await
    }

    /// Stores how far the backfill is, as a checkpoint is stored.
    pub(super) async fn store_backfill(&mut self) -> Result<(), Error> {
        let Some(beside) = &mut self.beside else {
            return Ok(());
        };
        beside.state.updated_at = now_text();
        let end = self.budget.stop_confirming();
        let text = beside.state.to_text();
        let fence = async || self.slot.holds().await;
        keeper::store_until(&beside.parameter, text, end, fence).await
    }
}

impl<C> Beside<C> {
    /// A chunk has arrived.
    fn arrived(&mut self, chunk: &Chunk, acknowledged: Lsn) {
        self.state.position = Some(acknowledged);
        self.waits_for = None;
        let Load::Rows { held, more, .. } = &chunk.load else {
            self.state.finished_at = Some(now_text());
            return;
        };
        let took = chunk.began.elapsed();
        self.chunks += 1;
        self.read += held.len() as u64;
        self.overtaken += held.overtaken();
        self.state.rows += chunk.sent;
        let reading = self.state.reading(held.table());
        reading.key = held.last_key().or(reading.key.take());
        reading.rows += chunk.sent;
        tracing::info!(table = %reading.name, chunk = held.len(), sent = chunk.sent, rows = reading.rows, estimate = held.table().estimate,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "a chunk arrived");
        (reading.slow, reading.late) = (false, 0);
        reading.ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if !more {
            self.finish(&Name::from(held.table()));
        }
    }

    /// Changes of this table are looked at from now on.
    fn watch(&mut self, table: Table) {
        let table = Arc::new(table);
        self.reading = Some(Arc::clone(&table));
        self.side.table = Some(table);
    }

    fn finish(&mut self, name: &Name) {
        tracing::info!(table = %name, "the table is backfilled");
        self.state.finish_table();
        self.over(name);
    }

    fn over(&mut self, name: &Name) {
        self.side.table = None;
        self.writers = None;
        if let Some(tables) = &mut self.tables {
            tables.retain(|left| left != name);
        }
    }
}
