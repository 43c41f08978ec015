//! A psql that answers queries.
//!
//! psql connects as libpq does, with its variables and its password file. So there is no second
//! implementation of them here.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Line that ends an answer.
const END: &str = "end of the answer";

/// A running psql. It ends with this value, and with this process.
pub(super) struct Psql {
    child: Child,
    queries: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Command of psql that reads no start file and prints values only.
///
/// It never asks for a password.
pub(super) const COMMAND: [&str; 7] = [
    "psql",
    "-XAtqw",
    "-v",
    "ON_ERROR_STOP=1",
    "-v",
    "VERBOSITY=terse",
    "-f-",
];

impl Psql {
    /// Starts psql, which connects on its own. Its session is named after the slot as long as the run lasts.
    ///
    /// # Errors
    /// psql is not installed.
    pub(super) fn start(slot: &str) -> Result<Self, String> {
        let mut child = Command::new(COMMAND[0])
            .args(&COMMAND[1..])
            .env("PGAPPNAME", slot)
            .env(
                "PGCONNECT_TIMEOUT",
                super::variable("PGCONNECT_TIMEOUT").as_deref().unwrap_or("10"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                format!("psql does not start: {error}. On Debian: apt-get install postgresql-client")
            })?;
        let queries = child.stdin.take().expect("its input is a pipe");
        let answers = child.stdout.take().expect("its output is a pipe");
        Ok(Self {
            child,
            queries,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Runs one query or command, and returns its lines.
    ///
    /// # Errors
    /// psql cannot connect, or the query failed: the error is psql's. psql has ended then.
    pub(super) async fn ask(&mut self, query: &str) -> Result<Vec<String>, String> {
        let text = format!("{query}\n\\echo {END}\n");
        // A psql that has ended is noticed below, with its reason.
        let _ = self.queries.write_all(text.as_bytes()).await;
        let mut lines = Vec::new();
        while let Ok(Some(line)) = self.answers.next_line().await {
            if line == END {
                return Ok(lines);
            }
            lines.push(line);
        }
        let mut error = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = stderr.read_to_string(&mut error).await;
        }
        Err(error.trim_start_matches("psql: error: ").trim_end().to_owned())
    }
}
