//! The writers of a play: sessions that change the rows which are being read. What fails of it fails; PostgreSQL says afterwards
//! what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::draw::Draw;
use super::key::Key;
use crate::breaker::site::Site;
use crate::zipf::Zipf;

/// Between the numbers of two rows of the table as it is filled: writers have the others.
pub(super) const STEP: u64 = 4;
/// Of so many rows one has a large value, which is stored apart.
pub(super) const LARGE: u64 = 50;
/// Rows that are in most of the changes.
const HOT: u64 = 64;

/// The longest pause between two transactions, milliseconds.
const PAUSE: u64 = 12;

/// A large value, as SQL over `{}`: more than two kilobytes.
const BODY: &str = "repeat(md5({}::text), 70)";

/// Creates the table `t` and fills it. The publication and the right to read it are made, too.
pub(super) fn fill(key: &Key, rows: u64, role: &str) -> String {
    let (definition, names, values) = (key.definition(), key.names(), key.of(&format!("(i * {STEP})")));
    format!(
        "create table t ({definition}, n bigint not null, small text, body text, primary key ({names}));
         alter table t alter body set storage external;
         insert into t select {values}, i, 'row ' || i, case when i % {LARGE} = 0 then {body} end
             from generate_series(0::bigint, {last}) i;
         create publication spillway for all tables; grant select on t to {role}",
        body = BODY.replace("{}", "i"),
        last = rows - 1
    )
}

/// One writer.
#[derive(Debug)]
pub(super) struct Writer {
    random: Rng,
    hot: Zipf,
    key: Key,
    rows: u64,
    /// Rows of a chunk.
    chunk: u64,
    /// Rows that the backfill has sent: what comes next is being read.
    sent: Arc<AtomicU64>,
    /// Which one it is: its numbers are its own.
    number: u64,
    written: u64,
}

impl Writer {
    /// The writer of this number, counted from 0, on a table that had so many rows.
    pub(super) fn new(number: u64, draw: &Draw, rows: u64, sent: Arc<AtomicU64>) -> Self {
        Self {
            random: Rng::with_seed(draw.writers[number as usize]),
            hot: Zipf::of(HOT as usize),
            key: draw.key,
            rows,
            chunk: draw.chunk_rows,
            sent,
            number,
            written: 0,
        }
    }

    /// Writes until it is told to stop, whatever the server does meanwhile.
    pub(super) async fn write(mut self, site: Arc<Site>, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let Ok(client) = site.connect().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                for sql in self.transaction() {
                    if client.batch_execute(&sql).await.is_err() {
                        // Of the whole transaction, if there is one.
                        let _ = client.batch_execute("rollback").await;
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(self.random.u64(..PAUSE))).await;
            }
        }
    }

    /// The next transaction, statement by statement.
    fn transaction(&mut self) -> Vec<String> {
        let text = |text: &str| text.to_owned();
        let mut steps = vec![text("begin")];
        match self.random.u8(..100) {
            // Without begin and commit.
            0..40 => return vec![self.change()],
            40..70 => steps.extend(self.changes(2..6)),
            70..80 => {
                steps.extend(self.changes(1..4));
                steps.push(text("rollback"));
                return steps;
            }
            80..92 => {
                steps.extend(self.changes(1..3));
                for _ in 0..self.random.u8(1..4) {
                    steps.push(text("savepoint s"));
                    steps.extend(self.changes(1..4));
                    steps.push(text(["rollback to s", "release s"][self.random.usize(..2)]));
                }
            }
            // A row that goes all the way, and another that comes the other way.
            92..98 => {
                let (from, to) = self.far();
                steps.push(self.moves(from, to));
                steps.extend(self.changes(0..2));
                steps.push(self.moves(to, from));
            }
            _ => {
                let (first, n) = (self.cold(), self.n());
                let (values, rows) = (
                    self.key.of(&format!("({first} + {STEP} * i + 1)")),
                    self.random.u64(20..200),
                );
                steps.push(format!(
                    "insert into t select {values}, {n}, 'many', null from generate_series(1::bigint, {rows}) i on conflict do nothing"
                ));
            }
        }
        steps.push(text("commit"));
        steps
    }

    fn changes(&mut self, count: std::ops::Range<u8>) -> Vec<String> {
        (0..self.random.u8(count)).map(|_| self.change()).collect()
    }

    /// A number that no other change has.
    fn n(&mut self) -> u64 {
        self.written += 1;
        (self.number + 1) * 1_000_000_000 + self.written
    }

    /// Of any row that the table had.
    fn cold(&mut self) -> u64 {
        self.random.u64(..self.rows) * STEP
    }

    /// Of a row that is about to be read, one that is changed often, or any.
    fn row(&mut self) -> u64 {
        match self.random.u8(..10) {
            0..2 => return self.cold(),
            2..6 => {
                let next = self.sent.load(Ordering::Relaxed) + self.random.u64(..self.chunk * 2);
                return next.min(self.rows - 1) * STEP;
            }
            _ => {}
        }
        let rank = self.hot.draw(&mut self.random) as u64;
        // Spread over the table, every third with a large value.
        let row = rank * self.rows / HOT;
        let row = if rank.is_multiple_of(3) {
            row - row % LARGE
        } else {
            row
        };
        row * STEP
    }

    /// Of a row at the end of the table, and of none yet at its beginning; or the other way round.
    fn far(&mut self) -> (u64, u64) {
        let edge = (self.rows / 20).max(1);
        let mut end = self.rows - 1 - self.random.u64(..edge);
        if self.random.bool() {
            end -= end % LARGE;
        }
        let beginning = self.random.u64(..edge) * STEP + self.random.u64(1..STEP);
        match self.random.u8(..3) {
            0 => (beginning, end * STEP),
            _ => (end * STEP, beginning),
        }
    }

    fn moves(&mut self, from: u64, to: u64) -> String {
        let (n, key) = (self.n(), self.key);
        format!(
            "update t set {}, n = {n} where {} and not exists (select from t where {})",
            key.becomes(to),
            key.is(from),
            key.is(to)
        )
    }

    /// One statement that changes rows. Most do not touch the large value.
    fn change(&mut self) -> String {
        let (n, row, key) = (self.n(), self.row(), self.key);
        let beside = row + self.random.u64(1..STEP);
        let (is, names) = (key.is(row), key.names());
        match self.random.u8(..20) {
            0..7 => format!("update t set n = {n} where {is}"),
            7 => format!("update t set n = {n}, small = null where {is}"),
            8 => {
                let others: Vec<String> = (0..8).map(|at| key.is(row + at * STEP)).collect();
                format!("update t set n = {n} where {}", others.join(" or "))
            }
            9 => {
                let body = BODY.replace("{}", &n.to_string());
                format!("update t set n = {n}, body = case when body is null then {body} end where {is}")
            }
            10..13 => {
                let at = if self.random.bool() { row } else { beside };
                let body = match self.random.u64(..LARGE / 5) {
                    0 => BODY.replace("{}", &n.to_string()),
                    _ => "null".to_owned(),
                };
                format!(
                    "insert into t ({names}, n, small, body) values ({}, {n}, 'new', {body})
                     on conflict ({names}) do update set n = excluded.n, small = excluded.small",
                    key.of(&at.to_string())
                )
            }
            13 | 14 => format!("delete from t where {is}"),
            15 | 16 => self.moves(row, beside),
            17 => self.moves(beside, row),
            _ => {
                let (from, to) = self.far();
                self.moves(from, to)
            }
        }
    }
}
