//! pgbench, the load generator of PostgreSQL, with its standard TPC-B-like script.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::postgres::{ADMIN, Postgres};
use crate::watchdog::ProcessGuard;

/// Tables of pgbench. A transaction updates one row in each of the first three, and inserts one into the
/// last.
///
/// The last table has no key.
pub const TABLES: [&str; 4] = [
    "pgbench_accounts",
    "pgbench_tellers",
    "pgbench_branches",
    "pgbench_history",
];

/// A running pgbench. Dropping it ends the process.
#[derive(Debug)]
pub struct Pgbench {
    child: Child,
    _guarded: ProcessGuard,
}

impl Pgbench {
    /// Creates and fills the tables.
    ///
    /// They have 100,000 accounts for each unit of `scale`.
    pub async fn init(postgres: &Postgres, database: &str, scale: u32) {
        let scale = scale.to_string();
        let running = start(postgres, database, &["-i", "-q", "-s", &scale]);
        running
            .finished()
            .await
            .unwrap_or_else(|stderr| panic!("pgbench -i -s {scale}:\n{stderr}"));
    }

    /// Starts pgbench with these options.
    ///
    /// An example is `["-c", "4", "-R", "500", "-T", "30"]`.
    pub fn run(postgres: &Postgres, database: &str, options: &[&str]) -> Self {
        let mut all = vec!["-n"];
        all.extend(options);
        start(postgres, database, &all)
    }

    /// Executes a script in at least `transactions` transactions of four clients.
    ///
    /// # Panics
    /// pgbench failed.
    pub async fn run_script(postgres: &Postgres, database: &str, script: &str, transactions: u64) {
        let path = std::env::temp_dir().join(format!("{}.sql", crate::unique("pgbench")));
        std::fs::write(&path, script).expect("a script can be written");
        let (each, file) = (transactions.div_ceil(4).to_string(), path.to_string_lossy());
        let options = ["-c", "4", "-j", "2", "-t", &each, "-f", &file];
        let running = Self::run(postgres, database, &options);
        let ended = running.finished().await;
        let _ = std::fs::remove_file(&path);
        ended.unwrap_or_else(|stderr| panic!("pgbench:\n{stderr}"));
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It failed, for example because the server ended. The error is its standard error.
    pub async fn finished(self) -> Result<(), String> {
        let ended = self
            .child
            .wait_with_output()
            .await
            .expect("a child can be waited for");
        match ended.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
        }
    }
}

fn start(postgres: &Postgres, database: &str, options: &[&str]) -> Pgbench {
    let program = postgres.client_programs().join("pgbench");
    let child = Command::new(&program)
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &postgres.port().to_string(),
            "-U",
            ADMIN.0,
        ])
        .args(options)
        .arg(database)
        .env("PGPASSWORD", ADMIN.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    let pid = child.id().expect("a process that was just started has an id");
    Pgbench {
        child,
        _guarded: ProcessGuard::new(pid),
    }
}
