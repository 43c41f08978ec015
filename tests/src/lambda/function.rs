//! The function as Lambda runs it.
//!
//! The real binary runs in a sandbox that stays between invocations. It is killed soon after the deadline,
//! and replaced when it has ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};

use crate::aws::kinesis;
use crate::built_program;
use crate::lambda::log_file;
use crate::lambda::runtime_api::{InvocationIds, RuntimeApi};
use crate::process_usage;
use crate::watchdog::ProcessGuard;

/// Time after the deadline before the process is killed.
///
/// The function answers some milliseconds before its deadline. A busy machine may hold it up for longer, and
/// that is no fault of the function.
const GRACE: Duration = Duration::from_secs(3);

/// A deployed function: its environment, and its warm sandbox, if any.
#[derive(Debug)]
pub struct Function {
    program: PathBuf,
    environment: BTreeMap<String, String>,
    /// Held by the running invocation.
    turn: tokio::sync::Mutex<()>,
    sandbox: Mutex<Option<Arc<Sandbox>>>,
    log: File,
    invocations: Mutex<Vec<InvocationIds>>,
    peak_memory: AtomicU64,
}

/// Outcome of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The answer of the function.
    Answer(Value),
    /// The error of the function.
    Error {
        /// `errorType`: stable name of the cause.
        kind: String,
        /// `errorMessage`: text for people.
        message: String,
    },
    /// The process ended before it answered.
    Exited(ExitStatus),
    /// The process was killed after the deadline.
    TimedOut,
}

impl Outcome {
    /// The answer.
    ///
    /// # Panics
    /// The outcome is no answer.
    pub fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("the function should have answered: {other:?}"),
        }
    }

    /// `errorType` and `errorMessage`.
    ///
    /// # Panics
    /// The outcome is no error.
    pub fn error(self) -> (String, String) {
        match self {
            Self::Error { kind, message } => (kind, message),
            other => panic!("the function should have failed: {other:?}"),
        }
    }
}

impl Function {
    /// The binary `drain`, with these variables and those of Lambda.
    ///
    /// It inherits nothing of the environment of this process.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::of_program(drain_binary(), environment)
    }

    /// Function with another program in place of `drain`.
    ///
    /// Such a program is, for example, a script that starts `drain`.
    pub fn of_program(program: PathBuf, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            program,
            environment: environment.into_iter().collect(),
            turn: tokio::sync::Mutex::default(),
            sandbox: Mutex::default(),
            log: log_file::create(),
            invocations: Mutex::default(),
            peak_memory: AtomicU64::new(0),
        }
    }

    /// Function with the same configuration and its own sandbox.
    ///
    /// It is for invocations that overlap.
    pub fn second_instance(&self) -> Self {
        Self::of_program(self.program.clone(), self.environment.clone())
    }

    /// Sets a variable, which ends the sandbox.
    pub async fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
        self.kill9().await;
    }

    /// Removes a variable, which ends the sandbox.
    pub async fn unset(&mut self, name: &str) {
        self.environment.remove(name);
        self.kill9().await;
    }

    /// Invokes the function. A warm sandbox is used again.
    ///
    /// A second invocation waits until the first has ended.
    pub async fn invoke(&self, event: &Value, deadline: Duration) -> Outcome {
        self.invoke_with_limit(event, deadline, deadline + GRACE).await
    }

    /// Invokes as [`Function::invoke`], and kills the process after `limit`.
    ///
    /// While Lambda freezes a sandbox, the time for its deadline stops, too.
    pub async fn invoke_with_limit(&self, event: &Value, deadline: Duration, limit: Duration) -> Outcome {
        self.invoke_payload(event.to_string(), deadline, limit).await
    }

    async fn invoke_payload(&self, payload: String, deadline: Duration, limit: Duration) -> Outcome {
        let _turn = self.turn.lock().await;
        let warm = self.sandbox().filter(|sandbox| sandbox.exit.borrow().is_none());
        let sandbox = match warm {
            Some(warm) => warm,
            None => self.start().await,
        };
        let (ids, answer) = sandbox.api.invoke(payload, deadline);
        self.invocations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ids);
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

    /// Invokes with a payload that need not be JSON.
    pub async fn invoke_text(&self, payload: &str, deadline: Duration) -> Outcome {
        self.invoke_payload(payload.to_owned(), deadline, deadline + GRACE)
            .await
    }

    /// Kills the process with SIGKILL, and waits until it has ended. The next invocation starts a new one.
    pub async fn kill9(&self) {
        if let Some(sandbox) = self.sandbox() {
            sandbox.kill9().await;
        }
    }

    /// Stops the process with its connections open, as Lambda freezes a sandbox.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Continues a frozen process.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sandbox = self.sandbox().expect("an invoked function has a sandbox");
        let kill = std::process::Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &sandbox.pid.to_string()])
            .status();
        assert!(
            kill.as_ref().is_ok_and(ExitStatus::success),
            "{name} was not sent: {kill:?}"
        );
    }

    /// All lines that its processes have written so far, on both outputs: at least those before the last
    /// answer.
    pub fn log(&self) -> Vec<String> {
        log_file::lines(&self.log)
    }

    /// Identifiers of all its invocations so far, in order.
    pub fn invocations(&self) -> Vec<InvocationIds> {
        let invocations = self.invocations.lock();
        invocations.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Largest resident memory (`VmHWM`) of a process, in bytes.
    ///
    /// It is measured at the end of each invocation.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.peak_memory.load(Ordering::Relaxed)
    }

    /// CPU time of the running process so far; zero without one.
    pub fn cpu_time(&self) -> Duration {
        self.sandbox()
            .map_or(Duration::ZERO, |sandbox| process_usage::cpu_time(sandbox.pid))
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
            .stdout(log_file::output(&self.log))
            .stderr(log_file::output(&self.log))
            .kill_on_drop(true);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        let pid = child.id().expect("a process that was just started has an id");
        let kill = Arc::new(Notify::new());
        let (status_sender, exit) = watch::channel(None);
        tokio::spawn(wait_for_end(
            child,
            ProcessGuard::new(pid),
            Arc::clone(&kill),
            status_sender,
        ));
        let sandbox = Arc::new(Sandbox { api, pid, kill, exit });
        *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&sandbox));
        sandbox
    }
}

/// A process and its Runtime API.
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
        process_usage::peak_memory_bytes(self.pid)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

/// Waits for the end of the process, and sends its status.
async fn wait_for_end(
    mut child: Child,
    guarded: ProcessGuard,
    kill: Arc<Notify>,
    status_sender: watch::Sender<Option<ExitStatus>>,
) {
    let status = tokio::select! {
            status = child.wait() => status,
            () = kill.notified() => {
    // It fails when the process has just ended.
                let _ = child.start_kill();
                child.wait().await
            }
        };
    drop(guarded);
    let _ = status_sender.send(Some(status.expect("a child can be waited for")));
}

async fn exited(exit: &mut watch::Receiver<Option<ExitStatus>>) -> ExitStatus {
    let status = exit
        .wait_for(Option::is_some)
        .await
        .expect("the task sends a status at the end");
    status.expect("it was waited for")
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

/// `DRAIN_BINARY`, or `drain` of the target folder.
pub fn drain_binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("DRAIN_BINARY") {
        return PathBuf::from(binary);
    }
    built_program("drain")
}
