//! A worker of KCL: the example in `examples/consumers/kcl`, in a Java process.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::aws::kinesis::{ENVIRONMENT, Kinesis};
use crate::aws::ssm::Ssm;
use crate::wait;
use crate::watchdog::{Watchdog, is_alive};

/// Longest time of a worker on a busy machine.
///
/// In this time, it elects a leader, takes its leases and reads the stream.
const MAX_TIME: Duration = Duration::from_secs(240);

/// A running worker. It ends with this value.
#[derive(Debug)]
pub struct KclWorker {
    watchdog: Watchdog,
    pid: u32,
}

/// A line of the worker's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KclProgress {
    /// All events of a shard through this sequence number are stored.
    Stored {
        /// The shard's id.
        shard: String,
        /// Sequence number of the last record.
        through: String,
    },
    /// A shard was read to its end.
    Ended {
        /// The shard's id.
        shard: String,
    },
}

impl KclWorker {
    /// Starts a worker of this application, which stores rows in this database.
    pub async fn start(kinesis: &Kinesis, stream: &str, application: &str, jdbc_url: &str) -> Self {
        let classes = classes().await;
        let dynamodb = Ssm::shared().await.endpoint();
        let mut environment: Vec<(&str, &str)> = ENVIRONMENT.to_vec();
        environment.extend([
            ("AWS_ENDPOINT_URL_KINESIS", kinesis.endpoint()),
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
            ("STREAM_NAME", stream),
            ("APPLICATION_NAME", application),
            ("JDBC_URL", jdbc_url),
            ("FAILOVER_MILLIS", "1000"),
            // The emulator adds child shards to answers in JSON only.
            ("CBOR_ENABLED", "false"),
        ]);
        let environment: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}='{value}'"))
            .collect();
        // A short run costs less without the optimizing compiler.
        let command = format!(
            "env {} java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m -cp '{}:{}/*' spillway.Main",
            environment.join(" "),
            classes.display(),
            libraries().display()
        );
        let mut watchdog = Watchdog::start(None, &std::env::temp_dir());
        let pid = watchdog.start_server(&command, "log");
        Self { watchdog, pid }
    }

    /// Waits until `is_done` is true of what it has logged.
    ///
    /// # Panics
    /// The worker ends before.
    pub async fn wait_until(&self, what: &str, is_done: impl Fn(&[KclProgress]) -> bool) {
        wait::until(what, MAX_TIME, || async {
            let is_done = is_done(&self.progress());
            assert!(
                is_done || is_alive(self.pid),
                "the worker has ended:\n{}",
                self.log()
            );
            is_done
        })
        .await;
    }

    /// Progress of its shards, as it logged it so far.
    pub fn progress(&self) -> Vec<KclProgress> {
        self.log().lines().filter_map(progress_of).collect()
    }

    /// Output of the consumer so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.watchdog.folder().join("log")).unwrap_or_default()
    }

    /// Stops it with SIGTERM, on which it checkpoints.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
    }

    /// Kills it; returns what it logged about its shards.
    pub async fn kill(mut self) -> Vec<KclProgress> {
        self.signal("KILL").await;
        self.progress()
    }

    async fn signal(&mut self, name: &str) {
        let sent = self.watchdog.run(&format!("kill -{name} {}", self.pid));
        sent.unwrap_or_else(|_| panic!("the worker has ended:\n{}", self.log()));
        wait::until("the worker ends", MAX_TIME, || async { !is_alive(self.pid) }).await;
        self.watchdog.reap();
    }
}

/// `…: stored 3 events through 49…` or `…: ended`, after other text.
fn progress_of(line: &str) -> Option<KclProgress> {
    let (before, what) = line.rsplit_once(": ")?;
    let shard = before.rsplit(' ').next()?.to_owned();
    if what == "ended" {
        return Some(KclProgress::Ended { shard });
    }
    let (_, through) = what.strip_prefix("stored ")?.split_once(" events through ")?;
    let through = through.to_owned();
    Some(KclProgress::Stored { shard, through })
}

/// Folder of KCL and its dependencies.
fn libraries() -> PathBuf {
    let folder = crate::project_path(".tools/kcl");
    assert!(
        folder.exists(),
        "no {}: `make tools-kcl` installs it",
        folder.display()
    );
    folder
}

/// Folder with the compiled example. It is removed with this process.
async fn classes() -> PathBuf {
    static COMPILED: OnceCell<Mutex<Watchdog>> = OnceCell::const_new();
    let compiled = COMPILED.get_or_init(async || Mutex::new(compile())).await;
    let watchdog = compiled.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog.folder().to_owned()
}

fn compile() -> Watchdog {
    let mut watchdog = Watchdog::start(None, &std::env::temp_dir());
    // Debian's Java runtime has the compiler, but no program for it: that would replace the `*` of a class
    // path.
    let command = format!(
        "java -m jdk.compiler/com.sun.tools.javac.Main -d \"$folder\" \
         -cp \"$(printf %s: '{}'/*.jar)\" '{}'/*.java 2>&1",
        libraries().display(),
        crate::project_path("examples/consumers/kcl/src/main/java/spillway").display()
    );
    let compiled = tokio::task::block_in_place(|| watchdog.run(&command));
    compiled.unwrap_or_else(|printed| panic!("the example cannot be compiled:\n{printed}"));
    watchdog
}
