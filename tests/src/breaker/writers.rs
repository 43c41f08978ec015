//! The writers: sessions that write beside each other, whatever a database lets one do. What fails of it fails; PostgreSQL
//! says afterwards what was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::site::Site;
use crate::consumer::event::Envelope;
use crate::zipf::Zipf;

/// Keys of each table. They are few, so that transactions meet.
const KEYS: usize = 120;

/// Empty tables: a plain key, one of two columns, one of text that is hard to quote, none at all, a value that is stored
/// apart, and one that is filled by `copy`.
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

/// What a writer does next.
#[derive(Debug)]
enum Step {
    Sql(String),
    /// It thinks.
    Pause(Duration),
}

/// One writer: what it writes depends on its seed alone, and not on what became of what it wrote before.
#[derive(Debug)]
pub(super) struct Writer {
    random: Rng,
    keys: Zipf,
    /// Which one it is: its numbers and its tables are its own.
    number: u32,
    written: u32,
    tables: u32,
    /// How long some names are.
    long: usize,
    /// Its `synchronous_commit`.
    commit: &'static str,
}

impl Writer {
    /// The writer of this number, counted from 0, for a consumer of this form.
    pub(super) fn new(number: u32, seed: u64, form: Envelope) -> Self {
        let mut random = Rng::with_seed(seed);
        let commit = ["on", "on", "off", "local"][random.usize(..4)];
        Self {
            random,
            keys: Zipf::of(KEYS),
            number,
            written: 0,
            tables: 0,
            // A change of the key tells the old one, and not what it was hashed to; in Debezium's envelope it is two events.
            long: if form == Envelope::Debezium { 60 } else { 20 },
            commit,
        }
    }

    /// Writes until it is told to stop, over as many sessions as that takes.
    pub(super) async fn write(mut self, site: Arc<Site>, stop: Arc<AtomicBool>) {
        let settings = format!(
            "set synchronous_commit = {}; set lock_timeout = '1s'; set statement_timeout = '5s'",
            self.commit
        );
        while !stop.load(Ordering::Relaxed) {
            let Ok(client) = site.connect().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if client.batch_execute(&settings).await.is_err() {
                continue;
            }
            while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                for step in self.transaction() {
                    match step {
                        Step::Pause(time) => tokio::time::sleep(time).await,
                        Step::Sql(sql) => {
                            if client.batch_execute(&sql).await.is_err() {
                                // Of the whole transaction, if there is one.
                                let _ = client.batch_execute("rollback").await;
                                break;
                            }
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(self.random.u64(2..40))).await;
            }
        }
    }

    /// The next transaction, statement by statement.
    fn transaction(&mut self) -> Vec<Step> {
        let sql = |text: &str| Step::Sql(text.to_owned());
        let mut steps = vec![sql("begin")];
        let drawn = self.random.u8(..100);
        match drawn {
            // Without begin and commit.
            0..20 => return self.changes(1..2).collect(),
            20..55 => steps.extend(self.changes(1..6)),
            55..63 => {
                steps.extend(self.changes(1..4));
                steps.push(sql("rollback"));
                return steps;
            }
            63..72 => {
                steps.extend(self.changes(1..3));
                for _ in 0..self.random.u8(1..4) {
                    steps.push(sql("savepoint s"));
                    steps.extend(self.changes(1..4));
                    let end = ["rollback to s", "release s"][self.random.usize(..2)];
                    steps.push(sql(end));
                }
                steps.extend(self.changes(0..2));
            }
            72..78 => {
                let (first, rows) = (self.random.u32(..1_000_000), self.random.u32(2..300));
                // One record of the log holds many of these rows.
                let copy = format!(
                    "copy copied (id) from program 'seq {first} {last}'",
                    last = first + rows
                );
                steps.push(Step::Sql(copy));
                steps.extend(self.changes(0..2));
            }
            78..82 => {
                let (n, rows) = (self.n(), self.random.u32(20..150));
                steps.push(Step::Sql(format!(
                    "insert into simple select i, {n}, repeat('y', i % 60) from generate_series(1, {rows}) i
                     on conflict (id) do update set n = excluded.n, note = excluded.note"
                )));
            }
            // Held open beside the others, it pins the log from which everything is read again.
            82..88 => {
                steps.extend(self.changes(1..3));
                steps.push(Step::Pause(Duration::from_millis(self.random.u64(300..2_500))));
                steps.extend(self.changes(1..3));
            }
            88..91 => steps.push(Step::Sql(self.truncate())),
            91..95 => steps.extend(self.definition()),
            95..99 => {
                let (transactional, n) = (self.random.bool(), self.n());
                steps.push(Step::Sql(format!(
                    "select pg_logical_emit_message({transactional}, 'breaker', 'message {n}')"
                )));
                steps.extend(self.changes(0..3));
                let end = ["rollback", "commit"][self.random.usize(..2)];
                steps.push(sql(end));
                return steps;
            }
            // Slots are saved, too.
            _ => return vec![sql("checkpoint")],
        }
        steps.push(sql("commit"));
        steps
    }

    fn changes(&mut self, count: std::ops::Range<u8>) -> impl Iterator<Item = Step> + use<> {
        let count = self.random.u8(count);
        let changes: Vec<Step> = (0..count).map(|_| Step::Sql(self.change())).collect();
        changes.into_iter()
    }

    /// A number that no other change has.
    fn n(&mut self) -> u32 {
        self.written += 1;
        self.number * 1_000_000 + self.written
    }

    fn key(&mut self) -> usize {
        self.keys.draw(&mut self.random)
    }

    /// One statement that changes rows.
    fn change(&mut self) -> String {
        let (n, key, other) = (self.n(), self.key(), self.key());
        let how = self.random.u8(..10);
        match self.random.u8(..12) {
            0..4 => match how {
                0..5 => format!(
                    "insert into simple (id, n, note) values ({key}, {n}, repeat('x', {n} % 80))
                     on conflict (id) do update set n = excluded.n, note = excluded.note"
                ),
                5..7 => format!("update simple set n = {n} where id = {key}"),
                7 => format!("delete from simple where id = {key}"),
                _ => format!(
                    "update simple set id = {other}, n = {n} where id = {key} and not exists (select from simple where id = {other})"
                ),
            },
            4..6 => {
                let (a, b, c) = (key % 7, key / 7, other / 7);
                match how {
                    0..5 => format!(
                        "insert into composite (a, b, n) values ({a}, 'b {b}', {n})
                         on conflict (a, b) do update set n = excluded.n, note = null"
                    ),
                    5..7 => {
                        format!("update composite set n = {n}, note = 'of {n}' where a = {a} and b = 'b {b}'")
                    }
                    7 => format!("delete from composite where a = {a} and b = 'b {b}'"),
                    _ => format!(
                        "update composite set b = 'b {c}', n = {n} where a = {a} and b = 'b {b}'
                         and not exists (select from composite where a = {a} and b = 'b {c}')"
                    ),
                }
            }
            6..8 => {
                let (name, new) = (name(key, self.long), name(other, self.long));
                match how {
                    0..5 => format!(
                        "insert into named values ({name}, {n}) on conflict (name) do update set n = excluded.n"
                    ),
                    5..7 => format!("update named set n = {n} where name = {name}"),
                    7 => format!("delete from named where name = {name}"),
                    _ => format!(
                        "update named set name = {new}, n = {n} where name = {name} and not exists (select from named where name = {new})"
                    ),
                }
            }
            8 => {
                let row = format!("ctid = (select ctid from keyless where a = {} limit 1)", key % 10);
                match how {
                    0..5 => format!("insert into keyless values ({}, {n})", key % 10),
                    5..8 => format!("update keyless set n = {n} where {row}"),
                    _ => format!("delete from keyless where {row}"),
                }
            }
            9..11 => match how {
                0..4 => format!(
                    "insert into toasted (id, n, large) values ({key}, {n}, repeat(md5('{n}'), {}))
                     on conflict (id) do update set n = excluded.n, large = excluded.large",
                    80 + n % 150
                ),
                4..8 => format!("update toasted set n = {n} where id = {key}"),
                8 => format!("delete from toasted where id = {key}"),
                _ => format!(
                    "update toasted set id = {other}, n = {n} where id = {key} and not exists (select from toasted where id = {other})"
                ),
            },
            _ if self.tables > 0 => {
                let table = format!("of_{}_{}", self.number, self.random.u32(..self.tables));
                format!(
                    "insert into {table} values ({key}, {n}) on conflict (id) do update set n = excluded.n"
                )
            }
            _ => format!("update copied set n = {n} where id % 200 = {key}"),
        }
    }

    fn truncate(&mut self) -> String {
        let tables = ["simple", "named", "toasted", "composite, keyless", "copied"];
        format!("truncate {}", tables[self.random.usize(..tables.len())])
    }

    /// A definition that changes, and with it every row of the table: a consumer knows a column by the rows that have it.
    fn definition(&mut self) -> Vec<Step> {
        let table = ["simple", "composite", "toasted"][self.random.usize(..3)];
        let (column, other) = (self.random.u8(..4), self.random.u8(..4));
        let (number, n) = (self.number, self.n());
        let mut made = match self.random.u8(..8) {
            0..3 => vec![format!(
                "alter table {table} add column if not exists extra_{column} text default 'since {n}'"
            )],
            3 | 4 => vec![format!(
                "alter table {table} drop column if exists extra_{column}"
            )],
            5 | 6 => vec![format!(
                "alter table {table} rename column extra_{column} to extra_{other}"
            )],
            _ => {
                self.tables += 1;
                let new = format!("of_{number}_{}", self.tables - 1);
                return [
                    format!("create table {new} (id int primary key, n int not null)"),
                    format!("insert into {new} select i, {n} from generate_series(1, 5) i"),
                ]
                .map(Step::Sql)
                .into();
            }
        };
        made.push(format!("update {table} set n = n"));
        made.into_iter().map(Step::Sql).collect()
    }
}

/// A key of text, as SQL: quotes, backslashes, control characters, other scripts, and more than a partition key holds.
fn name(key: usize, long: usize) -> String {
    let text = match key % 5 {
        0 => format!("it''s \"{key}\" \\ {key}"),
        1 => format!("ключ {key} 🔑"),
        2 => format!("{key}{}", "long ".repeat(long)),
        3 => format!("tab\there, line\n{key}"),
        _ => format!("[{key}]: 'quoted'").replace('\'', "''"),
    };
    format!("'{text}'")
}
