//! Writer sessions: each runs transactions until the play is over.
//!
//! A statement may fail, because of a conflict or of a fault. PostgreSQL reports the committed changes
//! afterwards.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::database::Database;
use super::settings::millis;
use crate::zipf::Zipf;

/// Pause before a writer tries again to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Step of a transaction.
#[derive(Debug)]
pub(super) enum Step {
    /// Statement to run.
    Sql(String),
    /// Pause inside the transaction.
    Pause(Duration),
}

impl Step {
    /// Statement of a fixed text.
    pub(super) fn sql(text: &str) -> Self {
        Self::Sql(text.to_owned())
    }
}

/// Random numbers and counters of one writer.
#[derive(Debug)]
pub(super) struct WriterState {
    pub(super) random: Rng,
    /// Draws keys: a few of them often.
    keys: Zipf,
    /// Number of the writer, from 0. It keeps the writer's values and tables apart from those of others.
    pub(super) number: u32,
    written: u32,
}

impl WriterState {
    /// State of a writer with this number, seed and number of keys.
    pub(super) fn new(number: u32, seed: u64, keys: usize) -> Self {
        Self {
            random: Rng::with_seed(seed),
            keys: Zipf::of(keys),
            number,
            written: 0,
        }
    }

    /// Number that no other change has, and that no filled row has.
    pub(super) fn next_n(&mut self) -> u32 {
        self.written += 1;
        (self.number + 1) * 100_000_000 + self.written
    }

    /// Rank of a key, from 0.
    pub(super) fn key(&mut self) -> usize {
        self.keys.draw(&mut self.random)
    }
}

/// Source of one writer's transactions. They depend on its seed, not on the success of earlier ones.
pub(super) trait TransactionSource: Send {
    /// State of this writer.
    fn state(&mut self) -> &mut WriterState;

    /// Statements that open each session.
    fn session_settings(&self) -> String {
        String::new()
    }

    /// Range of the pause between two transactions, in milliseconds.
    fn pauses(&self) -> Range<u64>;

    /// One statement that changes rows.
    fn change(&mut self) -> String;

    /// The next transaction, statement by statement.
    fn transaction(&mut self) -> Vec<Step>;

    /// Changes of rows, their number drawn from `count`.
    fn changes(&mut self, count: Range<u8>) -> Vec<Step> {
        let count = self.state().random.u8(count);
        (0..count).map(|_| Step::Sql(self.change())).collect()
    }

    /// Changes inside savepoints, each of which is rolled back or released.
    fn changes_in_savepoints(&mut self) -> Vec<Step> {
        let mut steps = self.changes(1..3);
        for _ in 0..self.state().random.u8(1..4) {
            steps.push(Step::sql("savepoint s"));
            steps.extend(self.changes(1..4));
            let end = ["rollback to s", "release s"][self.state().random.usize(..2)];
            steps.push(Step::sql(end));
        }
        steps.extend(self.changes(0..2));
        steps
    }
}

/// Encloses steps in `begin` and `end`, which is `commit` or `rollback`.
pub(super) fn transaction_of(steps: impl IntoIterator<Item = Step>, end: &str) -> Vec<Step> {
    let begin = std::iter::once(Step::sql("begin"));
    begin.chain(steps).chain([Step::sql(end)]).collect()
}

/// Runs the transactions of `source` until `over`.
///
/// It opens a new session whenever one ends.
pub(super) async fn write(
    mut source: Box<dyn TransactionSource>,
    database: Arc<Database>,
    over: Arc<AtomicBool>,
) {
    let is_over = || over.load(Ordering::Relaxed);
    while !is_over() {
        let Ok(client) = database.connect().await else {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        if client.batch_execute(&source.session_settings()).await.is_err() {
            continue;
        }
        while !is_over() && !client.is_closed() {
            for step in source.transaction() {
                match step {
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Sql(sql) => {
                        if client.batch_execute(&sql).await.is_err() {
                            // A single statement has no transaction to roll back.
                            let _ = client.batch_execute("rollback").await;
                            break;
                        }
                    }
                }
            }
            let pauses = source.pauses();
            tokio::time::sleep(millis(&mut source.state().random, pauses)).await;
        }
    }
}
