//! Writers of live changes: transactions of every shape that PostgreSQL allows.

use std::ops::Range;

use crate::consumer::event::Envelope;
use crate::random_play::row_key::{RowKey, change_key};
use crate::random_play::settings::millis;
use crate::random_play::writer::{Step, TransactionSource, WriterState, transaction_of};

/// Keys of each table. They are few, so that transactions conflict.
const KEYS: usize = 120;

/// Empty tables, and the publication.
///
/// One has a plain key, one a key of two columns, one a key of text that is hard to quote, one no key, one a
/// value that is stored out of line. `copy` fills the last.
pub(super) const SCHEMA: &str = "
    create table simple (id int primary key, n int not null, note text);
    create table composite (a int, b text, n int not null, note text, primary key (a, b));
    create table named (name text primary key, n int not null);
    create table keyless (a int not null, n int not null);
    alter table keyless replica identity full;
    create table toasted (id int primary key, n int not null, large text);
    alter table toasted alter large set storage external;
    create table copied (id bigint primary key, n int not null default 0);
    create publication spillway for all tables;";

/// Writer of live changes.
#[derive(Debug)]
pub(super) struct ChangeWriter {
    state: WriterState,
    /// Tables that this writer made.
    tables: u32,
    /// Repetitions of a word in some text keys.
    repetitions: usize,
    synchronous_commit: &'static str,
}

/// Table with a key.
#[derive(Debug, Clone, Copy)]
enum KeyedTable {
    Simple,
    Composite,
    Named,
    Toasted,
}

impl ChangeWriter {
    /// Writer of this number, for a stream with this envelope.
    pub(super) fn new(number: u32, seed: u64, form: Envelope) -> Self {
        let mut state = WriterState::new(number, seed, KEYS);
        Self {
            synchronous_commit: ["on", "on", "off", "local"][state.random.usize(..4)],
            state,
            tables: 0,
            // Long keys are hashed. Other envelopes make one event of a key change: it has the old key but
            // not the hash, so their keys have to stay below the limit of a partition key.
            repetitions: if form == Envelope::Debezium { 60 } else { 20 },
        }
    }

    fn copy(&mut self) -> Vec<Step> {
        let (first, rows) = (self.state.random.u32(..1_000_000), self.state.random.u32(2..300));
        // One WAL record holds many of these rows.
        let copy = format!(
            "copy copied (id) from program 'seq {first} {last}'",
            last = first + rows
        );
        let mut steps = vec![Step::Sql(copy)];
        steps.extend(self.changes(0..2));
        steps
    }

    fn insert_many(&mut self) -> Step {
        let (n, rows) = (self.state.next_n(), self.state.random.u32(20..150));
        Step::Sql(format!(
            "insert into simple select i, {n}, repeat('y', i % 60) from generate_series(1, {rows}) i
             on conflict (id) do update set n = excluded.n, note = excluded.note"
        ))
    }

    /// Changes around a pause. An open transaction holds `restart_lsn`, from which PostgreSQL decodes again.
    fn changes_around_pause(&mut self) -> Vec<Step> {
        let mut steps = self.changes(1..3);
        steps.push(Step::Pause(millis(&mut self.state.random, 300..2_500)));
        steps.extend(self.changes(1..3));
        steps
    }

    fn truncate(&mut self) -> Step {
        let tables = ["simple", "named", "toasted", "composite, keyless", "copied"];
        Step::Sql(format!(
            "truncate {}",
            tables[self.state.random.usize(..tables.len())]
        ))
    }

    /// Logical message and changes. The message may be outside of the transaction, which may roll back.
    fn message(&mut self) -> Vec<Step> {
        let (transactional, n) = (self.state.random.bool(), self.state.next_n());
        let emit = format!("select pg_logical_emit_message({transactional}, 'breaker', 'message {n}')");
        let mut steps = vec![Step::Sql(emit)];
        steps.extend(self.changes(0..3));
        steps
    }

    /// Change of a table's definition, and an update of all its rows.
    ///
    /// Without the update, the consumer's rows would lack the new column: it knows columns by the events of
    /// rows.
    fn definition(&mut self) -> Vec<Step> {
        let table = ["simple", "composite", "toasted"][self.state.random.usize(..3)];
        let (column, other) = (self.state.random.u8(..4), self.state.random.u8(..4));
        let n = self.state.next_n();
        let alter = match self.state.random.u8(..8) {
            0..3 => format!("add column if not exists extra_{column} text default 'since {n}'"),
            3 | 4 => format!("drop column if exists extra_{column}"),
            5 | 6 => format!("rename column extra_{column} to extra_{other}"),
            _ => return self.new_table(n),
        };
        [
            format!("alter table {table} {alter}"),
            format!("update {table} set n = n"),
        ]
        .map(Step::Sql)
        .into()
    }

    fn new_table(&mut self, n: u32) -> Vec<Step> {
        let table = format!("of_{}_{}", self.state.number, self.tables);
        self.tables += 1;
        [
            format!("create table {table} (id int primary key, n int not null)"),
            format!("insert into {table} select i, {n} from generate_series(1, 5) i"),
        ]
        .map(Step::Sql)
        .into()
    }

    /// Insert, update, delete or key change of one keyed row.
    fn keyed_change(&mut self, table: KeyedTable, n: u32) -> String {
        let (key, new_key) = (self.state.key(), self.state.key());
        let (name, column, on_conflict, on_update) = match table {
            KeyedTable::Simple => {
                let note = Some(("note", format!("repeat('x', {n} % 80)")));
                ("simple", note, ", note = excluded.note", String::new())
            }
            KeyedTable::Composite => ("composite", None, ", note = null", format!(", note = 'of {n}'")),
            KeyedTable::Named => ("named", None, "", String::new()),
            KeyedTable::Toasted => {
                let large = Some(("large", format!("repeat(md5('{n}'), {})", 80 + n % 150)));
                ("toasted", large, ", large = excluded.large", String::new())
            }
        };
        // Most updates of a toasted table leave the large value unchanged.
        let [inserts, updates, deletes] = match table {
            KeyedTable::Toasted => [4, 8, 9],
            _ => [5, 7, 8],
        };
        let row = self.row_key(table, key, key);
        match self.state.random.u8(..10) {
            drawn if drawn < inserts => {
                let (columns, values) = (row.columns(), row.values());
                let (column, value) = column.map_or_else(Default::default, |(column, value)| {
                    (format!(", {column}"), format!(", {value}"))
                });
                format!(
                    "insert into {name} ({columns}, n{column}) values ({values}, {n}{value})
                     on conflict ({columns}) do update set n = excluded.n{on_conflict}"
                )
            }
            drawn if drawn < updates => {
                format!("update {name} set n = {n}{on_update} where {}", row.condition())
            }
            drawn if drawn < deletes => format!("delete from {name} where {}", row.condition()),
            _ => change_key(name, &row, &self.row_key(table, key, new_key), n),
        }
    }

    /// Key number `key`. A composite key that replaces that of `old` shares its first column.
    fn row_key(&self, table: KeyedTable, old: usize, key: usize) -> RowKey {
        RowKey(match table {
            KeyedTable::Simple | KeyedTable::Toasted => vec![("id", key.to_string())],
            KeyedTable::Composite => {
                vec![("a", (old % 7).to_string()), ("b", format!("'b {}'", key / 7))]
            }
            KeyedTable::Named => vec![("name", text_key(key, self.repetitions))],
        })
    }

    fn keyless_change(&mut self, n: u32) -> String {
        let a = self.state.key() % 10;
        let row = format!("ctid = (select ctid from keyless where a = {a} limit 1)");
        match self.state.random.u8(..10) {
            0..5 => format!("insert into keyless values ({a}, {n})"),
            5..8 => format!("update keyless set n = {n} where {row}"),
            _ => format!("delete from keyless where {row}"),
        }
    }

    /// Change of a row of a table that this writer made.
    ///
    /// Without such a table, the row is from the table that `copy` fills.
    fn other_change(&mut self, n: u32) -> String {
        let key = self.state.key();
        if self.tables == 0 {
            return format!("update copied set n = {n} where id % 200 = {key}");
        }
        let table = format!(
            "of_{}_{}",
            self.state.number,
            self.state.random.u32(..self.tables)
        );
        format!("insert into {table} values ({key}, {n}) on conflict (id) do update set n = excluded.n")
    }
}

impl TransactionSource for ChangeWriter {
    fn session_settings(&self) -> String {
        format!(
            "set synchronous_commit = {}; set lock_timeout = '1s'; set statement_timeout = '5s'",
            self.synchronous_commit
        )
    }

    fn pauses(&self) -> Range<u64> {
        2..40
    }

    fn state(&mut self) -> &mut WriterState {
        &mut self.state
    }

    fn change(&mut self) -> String {
        let n = self.state.next_n();
        match self.state.random.u8(..12) {
            0..4 => self.keyed_change(KeyedTable::Simple, n),
            4..6 => self.keyed_change(KeyedTable::Composite, n),
            6..8 => self.keyed_change(KeyedTable::Named, n),
            8 => self.keyless_change(n),
            9..11 => self.keyed_change(KeyedTable::Toasted, n),
            _ => self.other_change(n),
        }
    }

    fn transaction(&mut self) -> Vec<Step> {
        let mut end = "commit";
        let steps = match self.state.random.u8(..100) {
            // A statement without `begin` is a transaction of its own.
            0..20 => return self.changes(1..2),
            20..55 => self.changes(1..6),
            55..63 => {
                end = "rollback";
                self.changes(1..4)
            }
            63..72 => self.changes_in_savepoints(),
            72..78 => self.copy(),
            78..82 => vec![self.insert_many()],
            82..88 => self.changes_around_pause(),
            88..91 => vec![self.truncate()],
            91..95 => self.definition(),
            95..99 => {
                end = ["rollback", "commit"][self.state.random.usize(..2)];
                self.message()
            }
            // A checkpoint of PostgreSQL also writes the slots to disk.
            _ => return vec![Step::sql("checkpoint")],
        };
        transaction_of(steps, end)
    }
}

/// Text key as SQL: quotes, backslashes, control characters, other scripts, and more than a partition key
/// holds.
fn text_key(key: usize, repetitions: usize) -> String {
    let text = match key % 5 {
        0 => format!("it''s \"{key}\" \\ {key}"),
        1 => format!("ключ {key} 🔑"),
        2 => format!("{key}{}", "long ".repeat(repetitions)),
        3 => format!("tab\there, line\n{key}"),
        _ => format!("[{key}]: ''quoted''"),
    };
    format!("'{text}'")
}
