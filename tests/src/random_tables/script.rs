//! Session that runs the SQL of one round.
//!
//! It logs the SQL for the report.

use fastrand::Rng;
use tokio_postgres::Client;

use crate::postgres::sql_text::{VALUE_SETTINGS, quote_identifier, quote_literal};

/// SQL of one round, and the random numbers that generate it.
#[derive(Debug)]
pub(super) struct Script {
    client: Client,
    /// Random numbers of the round.
    pub(super) random: Rng,
    /// Name of the schema in SQL.
    pub(super) schema: String,
    /// Name of the schema without quotes.
    pub(super) schema_name: String,
    /// Statements so far. A refused one is a comment with its SQLSTATE.
    pub(super) lines: Vec<String>,
    /// Number of statements that the server refused.
    pub(super) refused: u64,
}

impl Script {
    /// Script of a round in a schema of this name.
    pub(super) async fn open(client: Client, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let odd = ["r", "R", "r ", "r,", "r\"", "ü"][random.usize(..6)];
        let schema_name = format!("{odd}{seed}");
        let mut script = Self {
            client,
            random,
            schema: quote_identifier(&schema_name),
            schema_name,
            lines: Vec::new(),
            refused: 0,
        };
        let schema = &script.schema;
        let settings =
            format!("{VALUE_SETTINGS}; set client_min_messages = error; set search_path = {schema}");
        script.must(&settings).await;
        script
    }

    /// Runs SQL that has to succeed.
    pub(super) async fn must(&mut self, sql: &str) {
        let done = self.client.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{}\n{sql}: {error:?}", self.lines.join("\n")));
        self.lines.push(format!("{sql};"));
    }

    /// Runs SQL that the server may refuse; returns whether it did not.
    ///
    /// Inside a transaction, the caller must have set a savepoint.
    pub(super) async fn try_run(&mut self, sql: &str) -> bool {
        match self.client.batch_execute(sql).await {
            Ok(()) => {
                self.lines.push(format!("{sql};"));
                true
            }
            Err(error) => {
                let state = error.code().map_or("closed", |state| state.code()).to_owned();
                assert!(!self.client.is_closed(), "{}\n{sql}", self.lines.join("\n"));
                self.lines.push(format!("-- {state}: {sql};"));
                self.refused += 1;
                false
            }
        }
    }

    /// Runs DDL; returns whether the server accepted it.
    ///
    /// If so, the tables are described afterwards.
    pub(super) async fn ddl(&mut self, sql: &str) -> bool {
        let done = self.try_run(sql).await;
        if done {
            self.describe().await;
        }
        done
    }

    /// Describes the tables of the schema for the recording.
    pub(super) async fn describe(&mut self) {
        self.call("describe").await;
    }

    /// Records the present rows of the schema in the recording.
    pub(super) async fn capture(&mut self) {
        self.call("capture").await;
    }

    async fn call(&mut self, function: &str) {
        let call = format!(
            "select recording.{function}({})",
            quote_literal(&self.schema_name)
        );
        let done = self.client.batch_execute(&call).await;
        done.unwrap_or_else(|error| panic!("{}\n{call}: {error:?}", self.lines.join("\n")));
    }

    /// One of these, at random.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.random.usize(..from.len())]
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }
}
