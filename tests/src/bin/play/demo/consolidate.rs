//! `SCENARIO=consolidate`: three databases of three versions in one stream, and one question over all of
//! them.
//!
//! Writers change all three, ticks of three functions drain them, and the consumer of
//! `examples/consumers/lambda_duckdb` keeps their tables in DuckDB. At random moments a server is killed, a
//! standby is promoted, and a function is killed. At the end a query joins the three in DuckDB. PostgreSQL
//! answers the same query from the sources. The demo succeeds only when the answers and all rows are equal.
//!
//! `SEED` decides the writes and the moments of the faults. Without `CHANGES`, the writers run small
//! transactions for 30 seconds. With `CHANGES=10000000`, they write about that many rows. Small transactions
//! then alternate with transactions of a thousand rows.
//! `DEMO_FAULT=drop` loses records on their way to the consumer, and kills nothing: the demo must fail.

mod source;
mod verdict;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scenarios::aws::kinesis::{Kinesis, Limits};
use scenarios::aws::ssm::Ssm;
use scenarios::consumer::example::{ExampleConsumer, ExampleFigures};
use scenarios::variables::number;

use super::screen::{DemoScreen, TextStyle};
use source::{KINDS, SourceDatabase, WriterLoad};

const STREAM: &str = "spillway";
const SHARDS: i32 = 8;
/// Time in which the writers write, without `CHANGES`.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Time in which the writers write if records are lost, without `CHANGES`.
const FAULTY_WRITE_TIME: Duration = Duration::from_secs(5);
/// First and last second of the faults, without `CHANGES`.
const FAULT_SECONDS: std::ops::Range<f64> = 8.0..20.0;
/// Rows of a database for which the faults get one more second.
const ROWS_PER_SECOND: f64 = 4_000.0;
/// Pause between two reads of the stream by the consumer.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two lines of progress.
const PROGRESS_PAUSE: Duration = Duration::from_secs(3);

const PATH: &str = r"
   writers          three functions           one stream        your consumer

  +-------------------+       +-------+
  | PostgreSQL 15     | ----> | drain | ---+
  | shop, wal2json    |       +-------+    |
  +-------------------+                    |
  +-------------------+       +-------+    |     +---------+      +---------------+      +---------+
  | PostgreSQL 17     | ----> | drain | ---+---> | Kinesis | ---> | Python Lambda | ---> | DuckDB  |
  | billing, pgoutput |       +-------+    |     +---------+      | deduplicates  |      | 1 query |
  +-------------------+                    |                      | by position   |      +---------+
  +-------------------+       +-------+    |                      +---------------+           |
  | PostgreSQL 18     | ----> | drain | ---+                                                  |
  | logistics,        |       +-------+                                                       |
  | partitions        |                                                                       |
  +-------------------+                                                                       |
            |                                                                                 |
            +----------------------- is the answer the same? ---------------------------------+
";

/// Runs the demo; true if the answers and all rows are equal.
///
/// With `loses_records`, the result must be false.
pub(super) async fn demo(screen: &DemoScreen, loses_records: bool) -> bool {
    screen.print_untimed(TextStyle::Faint, PATH.trim_start_matches('\n'));
    let seed = number("SEED", fastrand::u64(..1_000_000));
    screen.title(&format!("Setting up (SEED={seed} repeats it)"));
    let (kinesis, ssm) = tokio::join!(Kinesis::start(Limits::Enforced), Ssm::start());
    kinesis.create_stream(STREAM, SHARDS).await;
    screen.print_line(
        TextStyle::Plain,
        &format!("Kinesis (ferrokinesis): {SHARDS} shards, with their limits"),
    );
    let start = |kind| SourceDatabase::start(kind, &kinesis, &ssm);
    let (shop, billing, logistics) = tokio::join!(start(KINDS[0]), start(KINDS[1]), start(KINDS[2]));
    let sources = [shop, billing, logistics];
    for source in &sources {
        let kind = source.kind;
        let standby = if kind.has_standby { ", with a standby" } else { "" };
        let line = format!(
            "{}: PostgreSQL {}{standby}, {}, filled before its slot was created",
            kind.name, kind.version, kind.plugin
        );
        screen.print_line(TextStyle::Plain, &line);
    }
    let folder = std::env::temp_dir().join(scenarios::unique("consolidate"));
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let file = folder.join("spillway.duckdb");
    let began = Instant::now();
    let consolidation = Consolidation {
        screen,
        sources,
        kinesis,
        seed,
        loses_records,
        load: match number("CHANGES", 0) {
            0 if loses_records => WriterLoad::Time(FAULTY_WRITE_TIME),
            0 => WriterLoad::Time(WRITE_TIME),
            changes => WriterLoad::Rows(changes.div_ceil(KINDS.len() as u64)),
        },
        faults_ended: AtomicBool::new(false),
        drained: AtomicBool::new(false),
        file,
    };
    let is_equal = Box::pin(consolidation.run(began)).await;
    let _ = std::fs::remove_dir_all(&folder);
    is_equal
}

/// All parts of the demo.
struct Consolidation<'a> {
    screen: &'a DemoScreen,
    sources: [SourceDatabase; 3],
    kinesis: Kinesis,
    seed: u64,
    /// Whether records are lost on their way to the consumer.
    loses_records: bool,
    /// Amount of work of each writer.
    load: WriterLoad,
    /// Whether the writers and the faults have ended.
    faults_ended: AtomicBool,
    /// Whether all slots are empty.
    drained: AtomicBool,
    /// DuckDB's file.
    file: PathBuf,
}

impl Consolidation<'_> {
    async fn run(&self, began: Instant) -> bool {
        let [shop, billing, logistics] = &self.sources;
        self.screen
            .title("Writers, ticks, backfills, the consumer and faults, all at the same time");
        let variables = [("DUCKDB_FILE".to_owned(), self.file.to_string_lossy().into_owned())];
        let mut options = vec![format!("--seed={}", self.seed)];
        options.extend(["--fails=0.05".to_owned(), "--batch=50".to_owned()]);
        if let WriterLoad::Rows(_) = self.load {
            // The mapping keeps the records that it sends again at the end. Of many rows, these must be few.
            options.extend(["--late=0.02".to_owned(), "--again=0.05".to_owned()]);
        }
        if self.loses_records {
            let lost = "DEMO_FAULT=drop: a twentieth of the records is lost on its way to the consumer";
            self.screen.print_line(TextStyle::Bad, lost);
            options.push("--lose=0.05".to_owned());
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let consumer = ExampleConsumer::start("lambda_duckdb", &options, &variables);
        let work = async {
            tokio::join!(
                self.write_and_inject_faults(),
                self.tick(shop),
                self.tick(billing),
                self.tick(logistics),
            );
            self.drained.store(true, Ordering::Relaxed);
        };
        let ((), consumer) = tokio::join!(work, self.consume(consumer));
        self.screen.print_line(
            TextStyle::Plain,
            "all slots are empty, all backfills are finished, and the stream is read",
        );
        verdict::report(self, consumer, began).await
    }

    async fn write_and_inject_faults(&self) {
        let [shop, billing, logistics] = &self.sources;
        let write = async {
            tokio::join!(
                shop.write(self.seed, self.load),
                billing.write(self.seed + 1, self.load),
                logistics.write(self.seed + 2, self.load),
            );
            self.screen.print_line(
                TextStyle::Plain,
                "the writers have ended; ticks until each slot is empty",
            );
        };
        // With lost records, nothing is killed: the demo must fail because of these records only.
        match self.loses_records {
            true => write.await,
            false => drop(tokio::join!(write, self.inject_faults())),
        }
        self.faults_ended.store(true, Ordering::Relaxed);
    }

    async fn tick(&self, source: &SourceDatabase) {
        let report = |text: &str| {
            let tone = if text.contains("failed") {
                TextStyle::Bad
            } else {
                TextStyle::Good
            };
            self.screen
                .print_line(tone, &format!("{}: {text}", source.kind.name));
        };
        source.tick_until_empty(&self.faults_ended, report).await;
    }

    /// Kills a server, promotes a standby and kills a function.
    ///
    /// Each happens at a random moment.
    async fn inject_faults(&self) {
        let [shop, billing, logistics] = &self.sources;
        let mut random = fastrand::Rng::with_seed(self.seed);
        let longer = match self.load {
            WriterLoad::Time(_) => 0.0,
            WriterLoad::Rows(rows) => rows as f64 / ROWS_PER_SECOND,
        };
        let length = FAULT_SECONDS.end - FAULT_SECONDS.start + longer;
        let mut moment = || Duration::from_secs_f64(FAULT_SECONDS.start + length * random.f64());
        let (first, second, third) = (moment(), moment(), moment());
        let crash = async {
            tokio::time::sleep(first).await;
            self.screen
                .print_line(TextStyle::Bad, "shop: PostgreSQL 15 is killed with SIGKILL");
            shop.postgres.crash().await;
            shop.wait_for_tick().await;
            shop.postgres.restart().await;
            self.screen.print_line(
                TextStyle::Good,
                "shop: PostgreSQL 15 runs again on the same folder",
            );
        };
        let failover = async {
            tokio::time::sleep(second).await;
            let scenarios::fixture::PostgresHost::Cluster(cluster) = &billing.postgres else {
                panic!("billing has no standby");
            };
            self.screen.print_line(
                TextStyle::Bad,
                "billing: the writer of PostgreSQL 17 is killed with SIGKILL",
            );
            cluster.failover().await;
            self.screen.print_line(
                TextStyle::Good,
                "billing: the standby is promoted, and is the writer now",
            );
        };
        let kill = async {
            tokio::time::sleep(third).await;
            logistics.wait_for_tick().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.screen
                .print_line(TextStyle::Bad, "logistics: the function is killed with SIGKILL");
            logistics.function.kill9().await;
        };
        tokio::join!(crash, failover, kill);
    }

    /// Passes the stream to the consumer until all slots are empty.
    ///
    /// It also prints the progress.
    async fn consume(&self, mut consumer: ExampleConsumer) -> ExampleConsumer {
        let mut printed = Instant::now();
        loop {
            let is_last = self.drained.load(Ordering::Relaxed);
            consumer.send(&self.kinesis, STREAM).await;
            let figures = consumer.flush().await;
            if is_last {
                return consumer;
            }
            if printed.elapsed() >= PROGRESS_PAUSE {
                printed = Instant::now();
                self.print_progress(figures);
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    fn print_progress(&self, figures: ExampleFigures) {
        let of_source = |source: &SourceDatabase| {
            let written = source.rows_written.load(Ordering::Relaxed);
            let sent = source.changes.load(Ordering::Relaxed);
            format!("{} {written}/{sent}", source.kind.name)
        };
        let sources: Vec<String> = self.sources.iter().map(of_source).collect();
        let line = format!(
            "rows written/changes sent: {}; DuckDB: {} records",
            sources.join(", "),
            figures.records
        );
        self.screen.print_line(TextStyle::Faint, &line);
    }
}
