//! Writers beside a backfill: they change the rows that it is about to read.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::key_type::KeyType;
use crate::random_play::row_key::{RowKey, change_key};
use crate::random_play::writer::{Step, TransactionSource, WriterState, transaction_of};

/// Distance between the key numbers of two rows of the filled table. Writers insert between them.
const STEP: u64 = 4;
/// Interval between rows with a large value, in rows.
///
/// The value is stored out of line.
const LARGE: u64 = 50;
/// Rows that take part in most changes.
const HOT_ROWS: u64 = 64;
/// Large value as SQL over `{}`: more than two kilobytes.
const BODY: &str = "repeat(md5({}::text), 70)";

/// Table `t` that writers change and a backfill reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrittenTable {
    pub(super) key_type: KeyType,
    /// Rows of the table when the slot is created.
    pub(super) rows: u64,
    /// Rows of a chunk of the backfill.
    pub(super) chunk_rows: u64,
}

impl WrittenTable {
    /// SQL that creates and fills the table, and creates the publication. `role` may read the table.
    pub(super) fn fill(&self, role: &str) -> String {
        let key = self.key_type.key(format!("(i * {STEP})"));
        let (definition, columns, values) = (self.key_type.definition(), key.columns(), key.values());
        let (body, last) = (BODY.replace("{}", "i"), self.rows - 1);
        format!(
            "create table t ({definition}, n bigint not null, small text, body text, primary key ({columns}));
             alter table t alter body set storage external;
             insert into t select {values}, i, 'row ' || i, case when i % {LARGE} = 0 then {body} end
                 from generate_series(0::bigint, {last}) i;
             create publication spillway for all tables; grant select on t to {role}"
        )
    }
}

/// Writer beside a backfill.
#[derive(Debug)]
pub(super) struct RowWriter {
    /// Its keys are the hot rows.
    state: WriterState,
    table: WrittenTable,
    /// Rows that the backfill has read: it reads the rows after them next.
    rows_read: Arc<AtomicU64>,
}

impl RowWriter {
    /// Writer of this number.
    pub(super) fn new(number: u32, seed: u64, table: WrittenTable, rows_read: Arc<AtomicU64>) -> Self {
        Self {
            state: WriterState::new(number, seed, HOT_ROWS as usize),
            table,
            rows_read,
        }
    }

    fn key(&self, number: u64) -> RowKey {
        self.table.key_type.key(number)
    }

    /// Key number of any row of the filled table.
    fn any_row(&mut self) -> u64 {
        self.state.random.u64(..self.table.rows) * STEP
    }

    /// Key number of a row for a change.
    ///
    /// The row is about to be read, changes often, or is any row.
    fn row(&mut self) -> u64 {
        let rows = self.table.rows;
        match self.state.random.u8(..10) {
            0..2 => self.any_row(),
            2..6 => {
                let distance = self.state.random.u64(..self.table.chunk_rows * 2);
                let next = self.rows_read.load(Ordering::Relaxed) + distance;
                next.min(rows - 1) * STEP
            }
            _ => {
                let rank = self.state.key() as u64;
                // Hot rows are spread over the table, and every third has a large value.
                let row = rank * rows / HOT_ROWS;
                let row = if rank.is_multiple_of(3) {
                    row - row % LARGE
                } else {
                    row
                };
                row * STEP
            }
        }
    }

    /// Key numbers of a row and of a distant free key.
    ///
    /// The row is near the end, and the free key near the beginning. They are in either order.
    fn distant_keys(&mut self) -> (u64, u64) {
        let edge = (self.table.rows / 20).max(1);
        let mut end = self.table.rows - 1 - self.state.random.u64(..edge);
        if self.state.random.bool() {
            end -= end % LARGE;
        }
        let beginning = self.state.random.u64(..edge) * STEP + self.state.random.u64(1..STEP);
        match self.state.random.u8(..3) {
            0 => (beginning, end * STEP),
            _ => (end * STEP, beginning),
        }
    }

    fn change_key(&mut self, from: u64, to: u64) -> String {
        let n = self.state.next_n();
        change_key("t", &self.key(from), &self.key(to), n)
    }

    /// Key changes over the whole table: one row there, and one row back.
    fn exchange_distant_keys(&mut self) -> Vec<Step> {
        let (from, to) = self.distant_keys();
        let mut steps = vec![Step::Sql(self.change_key(from, to))];
        steps.extend(self.changes(0..2));
        steps.push(Step::Sql(self.change_key(to, from)));
        steps
    }

    fn insert_many(&mut self) -> Step {
        let (first, n, rows) = (
            self.any_row(),
            self.state.next_n(),
            self.state.random.u64(20..200),
        );
        let values = self
            .table
            .key_type
            .key(format!("({first} + {STEP} * i + 1)"))
            .values();
        Step::Sql(format!(
            "insert into t select {values}, {n}, 'many', null from generate_series(1::bigint, {rows}) i
             on conflict do nothing"
        ))
    }

    fn upsert(&mut self, row: u64, n: u32) -> String {
        let key = self.key(row);
        let body = match self.state.random.u64(..LARGE / 5) {
            0 => BODY.replace("{}", &n.to_string()),
            _ => "null".to_owned(),
        };
        let (columns, values) = (key.columns(), key.values());
        format!(
            "insert into t ({columns}, n, small, body) values ({values}, {n}, 'new', {body})
             on conflict ({columns}) do update set n = excluded.n, small = excluded.small"
        )
    }
}

impl TransactionSource for RowWriter {
    fn pauses(&self) -> Range<u64> {
        0..12
    }

    fn state(&mut self) -> &mut WriterState {
        &mut self.state
    }

    /// One statement that changes rows. Most statements leave the large value unchanged.
    fn change(&mut self) -> String {
        let (n, row) = (self.state.next_n(), self.row());
        let (neighbour, is_row) = (row + self.state.random.u64(1..STEP), self.key(row).condition());
        match self.state.random.u8(..20) {
            0..7 => format!("update t set n = {n} where {is_row}"),
            7 => format!("update t set n = {n}, small = null where {is_row}"),
            8 => {
                let rows = (0..8).map(|index| self.key(row + index * STEP).condition());
                let rows = rows.collect::<Vec<String>>().join(" or ");
                format!("update t set n = {n} where {rows}")
            }
            9 => {
                let body = BODY.replace("{}", &n.to_string());
                format!("update t set n = {n}, body = case when body is null then {body} end where {is_row}")
            }
            10..13 => {
                let row = if self.state.random.bool() { row } else { neighbour };
                self.upsert(row, n)
            }
            13 | 14 => format!("delete from t where {is_row}"),
            15 | 16 => self.change_key(row, neighbour),
            17 => self.change_key(neighbour, row),
            _ => {
                let (from, to) = self.distant_keys();
                self.change_key(from, to)
            }
        }
    }

    fn transaction(&mut self) -> Vec<Step> {
        let mut end = "commit";
        let steps = match self.state.random.u8(..100) {
            // A statement without `begin` is a transaction of its own.
            0..40 => return self.changes(1..2),
            40..70 => self.changes(2..6),
            70..80 => {
                end = "rollback";
                self.changes(1..4)
            }
            80..92 => self.changes_in_savepoints(),
            92..98 => self.exchange_distant_keys(),
            _ => vec![self.insert_many()],
        };
        transaction_of(steps, end)
    }
}
