//! The function as Lambda runs it: the real binary in a sandbox that is kept between invocations, killed at the
//! deadline, and replaced when it has gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};

use crate::aws::kinesis;
use crate::lambda::runtime_api::RuntimeApi;
use crate::watchdog::ProcessGuard;

/// A deployed function: its environment, and the sandbox that is warm, if one is.
#[derive(Debug)]
pub struct Function {
    program: PathBuf,
    environment: BTreeMap<String, String>,
    /// Held by the invocation that runs.
    turn: tokio::sync::Mutex<()>,
    sandbox: Mutex<Option<Arc<Sandbox>>>,
    log: Arc<Mutex<Vec<String>>>,
    peak_memory: AtomicU64,
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It answered.
    Answer(Value),
    /// It answered with an error.
    Error {
        /// `errorType`: the stable name of the cause.
        kind: String,
        /// `errorMessage`: what to tell a person.
        message: String,
    },
    /// The process ended before it answered.
    Exited(ExitStatus),
    /// It was killed at the deadline.
    TimedOut,
}

impl Outcome {
    /// The answer.
    ///
    /// # Panics
    /// There was none.
    pub fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("the function should have answered: {other:?}"),
        }
    }

    /// `errorType` and `errorMessage`.
    ///
    /// # Panics
    /// It was no error.
    pub fn error(self) -> (String, String) {
        match self {
            Self::Error { kind, message } => (kind, message),
            other => panic!("the function should have failed: {other:?}"),
        }
    }
}

impl Function {
    /// The function `drain`, built beside this program, with these variables and those that Lambda adds. Nothing of
    /// our own environment reaches it.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::of_program(drain_binary(), environment)
    }

    /// Another program in its place.
    fn of_program(program: PathBuf, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            program,
            environment: environment.into_iter().collect(),
            turn: tokio::sync::Mutex::default(),
            sandbox: Mutex::default(),
            log: Arc::default(),
            peak_memory: AtomicU64::new(0),
        }
    }

    /// Another sandbox with the same configuration, as when two invocations overlap.
    pub fn second_instance(&self) -> Self {
        Self::of_program(self.program.clone(), self.environment.clone())
    }

    /// Changes the configuration, which ends the sandbox.
    pub async fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
        self.kill9().await;
    }

    /// Removes a variable, which ends the sandbox.
    pub async fn unset(&mut self, name: &str) {
        self.environment.remove(name);
        self.kill9().await;
    }

    /// Invokes the function, in the warm sandbox if there is one. Invocations of one `Function` queue.
    pub async fn invoke(&self, event: &Value, deadline: Duration) -> Outcome {
        self.invoke_with_limit(event, deadline, deadline).await
    }

    /// As [`Function::invoke`], but it is killed only after `limit`, whatever deadline it was told: where a sandbox
    /// froze, the clock of who would have killed it stood still, too.
    pub async fn invoke_with_limit(&self, event: &Value, deadline: Duration, limit: Duration) -> Outcome {
        let _turn = self.turn.lock().await;
        let warm = self.sandbox().filter(|sandbox| sandbox.exit.borrow().is_none());
        let sandbox = match warm {
            Some(warm) => warm,
            None => self.start().await,
        };
        let answer = sandbox.api.hand_out(event, deadline);
        let mut exit = sandbox.exit.clone();
        let outcome = tokio::select! {
            biased;
            Ok(posted) = answer => match posted {
                Ok(answer) => Outcome::Answer(answer),
                Err(error) => failed(&error),
            },
            status = exited(&mut exit) => match sandbox.api.init_error() {
                Some(error) => failed(&error),
                None => Outcome::Exited(status),
            },
            () = tokio::time::sleep(limit) => {
                sandbox.kill9().await;
                Outcome::TimedOut
            }
        };
        self.peak_memory
            .fetch_max(sandbox.peak_memory(), Ordering::Relaxed);
        outcome
    }

    /// Kills the process with -9, whatever it does, and waits until it is gone. The next invocation starts another.
    pub async fn kill9(&self) {
        if let Some(sandbox) = self.sandbox() {
            sandbox.kill9().await;
        }
    }

    /// Stops the process where it is, with all that it has open, as Lambda freezes a sandbox.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen process go on where it was.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sandbox = self.sandbox().expect("a function that was invoked has a sandbox");
        let kill = std::process::Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &sandbox.pid.to_string()])
            .status();
        assert!(
            kill.as_ref().is_ok_and(ExitStatus::success),
            "{name} was not sent: {kill:?}"
        );
    }

    /// All lines that its processes have written so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most memory that a process had resident (`VmHWM`) by the end of an invocation, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.peak_memory.load(Ordering::Relaxed)
    }

    fn sandbox(&self) -> Option<Arc<Sandbox>> {
        self.sandbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn start(&self) -> Arc<Sandbox> {
        let api = RuntimeApi::start().await;
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(kinesis::ENVIRONMENT)
            .env("AWS_LAMBDA_FUNCTION_NAME", "drain")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_LAMBDA_RUNTIME_API", api.address())
            .envs(&self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        let pid = child.id().expect("a process that was just started has an id");
        let readers = [
            tokio::spawn(collect(child.stdout.take(), Arc::clone(&self.log))),
            tokio::spawn(collect(child.stderr.take(), Arc::clone(&self.log))),
        ];
        let kill = Arc::new(Notify::new());
        let (told, exit) = watch::channel(None);
        tokio::spawn(attend(
            child,
            ProcessGuard::new(pid),
            Arc::clone(&kill),
            readers,
            told,
        ));
        let sandbox = Arc::new(Sandbox { api, pid, kill, exit });
        *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&sandbox));
        sandbox
    }
}

/// One process and the API that drives it.
#[derive(Debug)]
struct Sandbox {
    api: RuntimeApi,
    pid: u32,
    kill: Arc<Notify>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Sandbox {
    async fn kill9(&self) {
        self.kill.notify_one();
        exited(&mut self.exit.clone()).await;
    }

    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

/// Owns the process to its end: tells it when all it wrote has been read, so that the log is complete.
async fn attend(
    mut child: Child,
    guarded: ProcessGuard,
    kill: Arc<Notify>,
    readers: [tokio::task::JoinHandle<()>; 2],
    told: watch::Sender<Option<ExitStatus>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.notified() => {
            // It fails when the process has just gone by itself.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    drop(guarded);
    for reader in readers {
        let _ = reader.await;
    }
    let _ = told.send(Some(status.expect("a child can be waited for")));
}

async fn exited(exit: &mut watch::Receiver<Option<ExitStatus>>) -> ExitStatus {
    let status = exit
        .wait_for(Option::is_some)
        .await
        .expect("the process is attended to its end");
    status.expect("it was waited for")
}

async fn collect(from: Option<impl AsyncRead + Unpin>, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(from.expect("the process writes into our pipe")).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

fn failed(error: &Value) -> Outcome {
    let text = |name: &str| {
        error[name]
            .as_str()
            .map_or_else(|| error.to_string(), str::to_owned)
    };
    Outcome::Error {
        kind: text("errorType"),
        message: text("errorMessage"),
    }
}

/// `DRAIN_BINARY`, or `drain` in the folder of this profile: beside a program of ours, one above a test of ours.
pub fn drain_binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("DRAIN_BINARY") {
        return PathBuf::from(binary);
    }
    let ours = std::env::current_exe().expect("a running program has a path");
    let found = ours
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("drain"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no drain beside {}: `cargo build -p drain` builds it, DRAIN_BINARY names another",
            ours.display()
        )
    })
}
