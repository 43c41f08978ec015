//! Batch of rounds: one database, and a slot and a function for each plugin. The rounds write in sequence.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::aws::fake_kinesis::{FakeKinesis, FakeKinesisSettings};
use crate::consumer::Delivery;
use crate::fixture::Plugin;
use crate::lambda::function::{Function, Outcome};
use crate::postgres::sql_text::create_slot_sql;
use crate::postgres::{Postgres, REPLUSER, query};
use crate::random_play::parameter_store::ParameterStore;
use crate::variables::owned;

use super::alignment::ParsedArrival;
use super::recorded_table::{self, RECORDING, RecordedTable, Recording};
use super::result::Failure;
use super::schema::{self, GENERATED, PUBLICATIONS, RandomTable};
use super::script::Script;
use super::verdict::{FinishedRound, PluginEvents};
use super::{ddl, writes};

/// Version, envelope and seeds of a batch.
#[derive(Debug, Clone)]
pub(super) struct BatchSettings {
    /// Major version; `None` is Debian's 15.
    pub(super) version: Option<u32>,
    /// `ENVELOPE` of the functions.
    pub(super) envelope: &'static str,
    /// Whether the role's settings change the form of printed names.
    pub(super) odd_role: bool,
    pub(super) seeds: Vec<u64>,
}

/// Round of a batch.
#[derive(Debug)]
pub(super) struct BatchRound {
    pub(super) seed: u64,
    pub(super) script: Script,
    tables: Vec<RandomTable>,
    drained: i64,
    catalog_version: i32,
    pub(super) finished: Option<FinishedRound>,
}

/// Slot, stream and function of one plugin.
struct Drainer {
    plugin: Plugin,
    stream: Arc<FakeKinesis>,
    _parameters: ParameterStore,
    function: Function,
}

/// Limit of an invocation.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of the names of tables in one request of a backfill.
const MAX_NAME_BYTES: usize = 700;

/// Runs a batch.
///
/// `Err` if a slot cannot be drained, or a table cannot be backfilled.
pub(super) async fn run(settings: &BatchSettings) -> Result<Vec<BatchRound>, Failure> {
    let postgres = Postgres::shared_of(settings.version).await;
    let database = crate::unique("tables");
    postgres.create_database(&database).await;
    let rounds = run_in(settings, postgres, &database).await;
    postgres.drop_database(&database).await;
    rounds
}

async fn run_in(
    settings: &BatchSettings,
    postgres: &Postgres,
    database: &str,
) -> Result<Vec<BatchRound>, Failure> {
    let version = settings.version.unwrap_or(15);
    let admin = postgres.admin(database).await;
    prepare(&admin, version).await;
    if settings.odd_role {
        set_odd_role(&admin, database).await;
    }
    let mut drainers = Vec::new();
    for plugin in Plugin::ALL {
        if plugin != Plugin::Wal2json || postgres.has_wal2json() {
            drainers.push(Drainer::open(plugin, postgres, database, settings.envelope, &admin).await);
        }
    }
    let mut rounds = Vec::new();
    for seed in &settings.seeds {
        let mut round = BatchRound::create(postgres.admin(database).await, *seed, version).await;
        round.write_and_alter().await;
        rounds.push(round);
    }
    each(&drainers, |drainer| drainer.drain()).await?;
    for round in &mut rounds {
        round.write_after_drain(&admin).await;
    }
    let recordings = recorded_table::load(&admin).await;
    let names = backfill_all(&drainers, &recordings).await?;
    let events = read_all(&drainers, names).await?;
    finish(&mut rounds, recordings, events, version);
    Ok(rounds)
}

/// Names of tables by schema.
type TableNames = HashMap<String, Vec<String>>;

/// Backfills each plugin's tables; returns their names per plugin.
async fn backfill_all(
    drainers: &[Drainer],
    recordings: &HashMap<String, Recording>,
) -> Result<Vec<TableNames>, Failure> {
    let names_of = |drainer: &Drainer| -> TableNames {
        let schemas = recordings.iter();
        schemas
            .map(|(schema, recording)| (schema.clone(), backfill_names(drainer.plugin, recording)))
            .collect()
    };
    let names: Vec<TableNames> = drainers.iter().map(names_of).collect();
    let lists: Vec<(&Drainer, Vec<String>)> = drainers
        .iter()
        .zip(&names)
        .map(|(drainer, names)| (drainer, patterns(names)))
        .collect();
    each(&lists, |(drainer, tables)| drainer.backfill(tables)).await?;
    Ok(names)
}

/// Ends the functions; returns the plugins' events by schema.
async fn read_all(
    drainers: &[Drainer],
    names: Vec<TableNames>,
) -> Result<HashMap<String, Vec<PluginEvents>>, Failure> {
    let mut by_schema: HashMap<String, Vec<PluginEvents>> = HashMap::new();
    for (drainer, names) in drainers.iter().zip(names) {
        drainer.function.kill9().await;
        for (schema, events) in drainer.events(names)? {
            by_schema.entry(schema).or_default().push(events);
        }
    }
    Ok(by_schema)
}

/// Sets the recording and the events of each finished round.
fn finish(
    rounds: &mut [BatchRound],
    mut recordings: HashMap<String, Recording>,
    mut events: HashMap<String, Vec<PluginEvents>>,
    version: u32,
) {
    for round in rounds {
        let name = &round.script.schema_name;
        round.finished = Some(FinishedRound {
            recording: recordings.remove(name).unwrap_or_default(),
            plugins: events.remove(name).unwrap_or_default(),
            drained: round.drained,
            catalog_version: round.catalog_version,
            version,
        });
    }
}

/// Runs a function for each element, concurrently. Returns the last failure.
async fn each<'t, T, F>(all: &'t [T], run: impl Fn(&'t T) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut futures: Vec<_> = all.iter().map(|one| Box::pin(run(one))).collect();
    let mut outcome = Ok(());
    // A wake-up polls all futures: there are three at most, and most of the time they wait for a server.
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(Err(failure)) => {
                outcome = Err(failure);
                false
            }
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Pending => true,
        });
        match futures.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    outcome
}

async fn prepare(admin: &Client, version: u32) {
    let mut sql = RECORDING.to_owned();
    let more = (version >= 18).then_some(GENERATED);
    for (name, settings) in PUBLICATIONS.into_iter().chain(more) {
        sql.push_str(&format!("create publication {name} with ({settings});"));
    }
    let role = REPLUSER.0;
    sql.push_str(&format!(
        "alter default privileges grant usage on schemas to {role};
         alter default privileges grant select on tables to {role};"
    ));
    query::execute(admin, &sql).await;
}

/// Sets the role's settings that change the form of printed names.
///
/// All names have quotes, and types with the names of built-in types are first in the search path.
async fn set_odd_role(admin: &Client, database: &str) {
    let role = format!("alter role {} in database {database} set", REPLUSER.0);
    let sql = format!(
        "create schema odd; create type odd.date as enum ('x'); create domain odd.bytea as int;
         create type odd.timestamptz as (a int);
         grant usage on schema odd to {};
         {role} quote_all_identifiers = on; {role} search_path = odd, pg_catalog",
        REPLUSER.0
    );
    query::execute(admin, &sql).await;
}

/// Names of the tables that a backfill of this plugin can read.
fn backfill_names(plugin: Plugin, recording: &Recording) -> Vec<String> {
    let event_table = |table: &Arc<RecordedTable>| match plugin {
        Plugin::Pgoutput => recording.published_table(table).cloned(),
        _ => Some(Arc::clone(table)),
    };
    // docs/backfill.md: a table needs a replica identity, or, with publications, a key that is sent.
    let is_sent = |table: &RecordedTable, name: &str| {
        let generates = table
            .publication
            .as_ref()
            .is_some_and(|publication| publication.generated);
        generates
            || table
                .column(name)
                .is_some_and(|column| column.generated.is_empty())
    };
    let fits = |table: &Arc<RecordedTable>| match plugin {
        Plugin::Pgoutput => table.key.iter().all(|name| is_sent(table, name)),
        _ => table.is_identified() && (table.identity == "f" || !table.key.is_empty()),
    };
    let leaves = recording
        .now()
        .filter(|table| table.kind == "r")
        .filter_map(event_table);
    let leaves = leaves.filter(|table| !table.unique_keys.is_empty() && fits(table));
    let mut names: Vec<String> = leaves.map(|table| table.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Patterns of the tables, for the event of a backfill.
fn patterns(names: &TableNames) -> Vec<String> {
    let escaped = |name: &str| -> String {
        let special = |letter: char| "\\,.*".contains(letter).then_some('\\');
        name.chars()
            .flat_map(|letter| special(letter).into_iter().chain([letter]))
            .collect()
    };
    let mut all = Vec::new();
    for (schema, tables) in names {
        all.extend(
            tables
                .iter()
                .map(|table| format!("{}.{}", escaped(schema), escaped(table))),
        );
    }
    all.sort();
    all
}

impl BatchRound {
    async fn create(client: Client, seed: u64, version: u32) -> Self {
        let mut script = Script::open(client, seed).await;
        let tables = schema::create(&mut script, version).await;
        Self {
            seed,
            script,
            tables,
            drained: 0,
            catalog_version: 0,
            finished: None,
        }
    }

    /// Writes before the drain, with DDL.
    ///
    /// The DDL is between some of the writes and after them.
    async fn write_and_alter(&mut self) {
        let phases = self.script.random.u32(1..4);
        for _ in 0..phases {
            let transactions = self.script.random.u32(1..4);
            writes::write(&mut self.script, &self.tables, transactions).await;
            if self.script.chance(50) {
                for _ in 0..self.script.random.u32(1..4) {
                    ddl::alter(&mut self.script, &mut self.tables).await;
                }
            }
        }
        self.script.lines.push("-- drain".to_owned());
    }

    /// Writes after the drain, and captures the rows for the backfill.
    async fn write_after_drain(&mut self, admin: &Client) {
        // Only this round writes at present, so the last change of all rounds separates its changes, too.
        let sql = "
            select (select coalesce(max(seq), 0) from recording.change) as drained,
                   (select max(number) from recording.catalog_version where schema_name = $1) as version";
        let row = query::row(admin, sql, &[&self.script.schema_name]).await;
        (self.drained, self.catalog_version) = (row.get("drained"), row.get("version"));
        let transactions = self.script.random.u32(1..4);
        writes::write(&mut self.script, &self.tables, transactions).await;
        self.script.lines.push("-- backfill".to_owned());
        self.script.capture().await;
    }
}

impl Drainer {
    async fn open(
        plugin: Plugin,
        postgres: &Postgres,
        database: &str,
        envelope: &str,
        admin: &Client,
    ) -> Self {
        let slot = format!("{database}_{}", plugin.name());
        let stream = Arc::new(FakeKinesis::open(&slot, FakeKinesisSettings::default()).await);
        let parameters = ParameterStore::open(Arc::clone(&stream)).await;
        let mut publications: Vec<&str> = PUBLICATIONS.iter().map(|(name, _)| *name).collect();
        query::execute(admin, &create_slot_sql(&slot, plugin.name())).await;
        let known = "select exists (select from pg_publication where pubname = 'generated')";
        if query::value(admin, known).await {
            publications.push(GENERATED.0);
        }
        let publications = publications.join(",");
        let variables = [
            ("DB_AUTH", "password"),
            ("SLOT_NAME", &*slot),
            ("STREAM_NAME", &*slot),
            ("PUBLICATIONS", &*publications),
            ("ENVELOPE", envelope),
            ("AWS_ENDPOINT_URL_KINESIS", stream.endpoint()),
            ("AWS_ENDPOINT_URL_SSM", parameters.endpoint()),
        ];
        Self {
            plugin,
            function: Function::new(owned(variables).chain(postgres.environment(database))),
            stream,
            _parameters: parameters,
        }
    }

    async fn invoke(&self, event: &Value) -> Result<Value, Failure> {
        match self.function.invoke(event, DEADLINE).await {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Error { kind, message } => Err(Failure {
                kind: format!("{}: {kind}", self.plugin.name()),
                detail: format!("{event} fails: {message}"),
            }),
            other => Err(Failure {
                kind: format!("{}: the function ended", self.plugin.name()),
                detail: format!("{event}: {other:?}\n{}", self.function.log().join("\n")),
            }),
        }
    }

    /// Ticks until the slot is empty.
    async fn drain(&self) -> Result<(), Failure> {
        while self.invoke(&json!({})).await?["stopped"] != "empty" {}
        Ok(())
    }

    /// Backfills these tables, and drains the rest of the log.
    ///
    /// The backfill takes several requests.
    async fn backfill(&self, tables: &[String]) -> Result<(), Failure> {
        let mut rest = tables;
        while !rest.is_empty() {
            // A request, and the state of each of its tables, are stored in a parameter of 4 KB.
            let mut bytes = 0;
            let fits = rest.iter().take_while(|table| {
                bytes += table.len() + 8;
                bytes < MAX_NAME_BYTES
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            self.backfill_together(now).await?;
            rest = later;
        }
        self.drain().await
    }

    /// Backfills these tables in one request.
    async fn backfill_together(&self, tables: &[String]) -> Result<(), Failure> {
        let mut report = self
            .invoke(&json!({"action": "backfill", "wait": true, "tables": tables}))
            .await?;
        while report["backfill"]["state"] != "finished" {
            if report["backfill"]["state"] == "failed" {
                let status = self.invoke(&json!({"action": "status"})).await?;
                return Err(Failure {
                    kind: format!("{}: a table of the backfill fails", self.plugin.name()),
                    detail: status["backfill"].to_string(),
                });
            }
            report = self.invoke(&json!({})).await?;
        }
        Ok(())
    }

    /// The plugin's events by schema. `names` are the backfilled tables by schema.
    fn events(&self, mut names: TableNames) -> Result<HashMap<String, PluginEvents>, Failure> {
        let delivery = Delivery::from_fake(&self.stream);
        let broken = delivery.violations();
        if !broken.is_empty() {
            return Err(Failure {
                kind: format!("{}: the delivery breaks the promise", self.plugin.name()),
                detail: broken.join("\n"),
            });
        }
        let mut all: HashMap<String, PluginEvents> = HashMap::new();
        let mut empty = |schema: &str| PluginEvents {
            plugin: self.plugin,
            events: Vec::new(),
            backfilled: names.remove(schema).unwrap_or_default(),
        };
        for arrival in delivery.changes() {
            let event = ParsedArrival::of(arrival);
            if event.event.op == "m" {
                continue;
            }
            let schema = event.event.source.schema.clone().unwrap_or_default();
            let known = all.entry(schema).or_insert_with_key(|schema| empty(schema));
            known.events.push(event);
        }
        let rest: Vec<String> = names.keys().cloned().collect();
        for schema in rest {
            let backfilled = names.remove(&schema).unwrap_or_default();
            let events = PluginEvents {
                plugin: self.plugin,
                events: Vec::new(),
                backfilled,
            };
            all.insert(schema, events);
        }
        Ok(all)
    }
}
