//! Watchdog that ends child processes when this process ends, for any reason.
//!
//! A process that is killed with SIGKILL runs no destructor. So a small shell starts each server. Its
//! standard input is a pipe from this process, which the kernel closes in any case. The shell then reads end
//! of file, stops the server and removes its folder. Each shell leads its own process group, so an interrupt
//! at the terminal does not reach it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A shell with a temporary folder, and at most one server.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    /// Standard input of the shell; `None` only while dropping.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

/// Script of the shell: it evaluates the lines that it reads. `$pid` is the server.
///
/// At the end the server gets SIGQUIT, on which PostgreSQL removes its shared memory, and SIGKILL five
/// seconds later.
const SCRIPT: &str = r#"
ulimit -c 0
folder=$(mktemp -d "$1/spillway.XXXXXX") || exit 1
echo "$folder"
pid=
while read -r command; do
    eval "$command"
    echo "done $?"
done
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    (sleep 5; kill -KILL "$pid") 2>/dev/null &
killer=$!
    wait "$pid" 2>/dev/null
kill "$killer" 2>/dev/null
fi
rm -rf "$folder"
"#;

impl Watchdog {
    /// Starts the shell with a new empty folder in `parent`.
    ///
    /// It runs as `user`, if given; only root can do that.
    pub fn start(user: Option<&str>, parent: &Path) -> Self {
        let mut command = match user {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--", "sh"]);
                command
            }
            None => Command::new("sh"),
        };
        let mut shell = command
            .args(["-c", SCRIPT, "watchdog"])
            .arg(parent)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        let commands = shell.stdin.take();
        let mut answers = BufReader::new(shell.stdout.take().expect("the shell's output is a pipe"));
        let folder = line(&mut answers);
        let folder = folder.unwrap_or_else(|| panic!("cannot create a folder in {}", parent.display()));
        Self {
            shell,
            commands,
            answers,
            folder: PathBuf::from(folder),
        }
    }

    /// Folder that is removed with this process.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs one line of shell, and returns its output.
    ///
    /// # Errors
    /// The status is not zero. The error is the output.
    pub fn run(&mut self, command: &str) -> Result<String, String> {
        let commands = self.commands.as_mut();
        let commands = commands.expect("the shell reads commands until it is dropped");
        writeln!(commands, "{command}").unwrap_or_else(|error| panic!("the watchdog has ended: {error}"));
        let mut printed = String::new();
        loop {
            let Some(answer) = line(&mut self.answers) else {
                return Err(format!("{printed}the watchdog has ended"));
            };
            match answer.strip_prefix("done ") {
                Some("0") => return Ok(printed),
                Some(_) => return Err(printed),
                None => printed.push_str(&format!("{answer}\n")),
            }
        }
    }

    /// Starts `command` as the server, and returns its process id. Its output is appended to `log` in the
    /// folder.
    pub fn start_server(&mut self, command: &str, log: &str) -> u32 {
        let log = self.folder.join(log);
        let start = format!(
            "{command} </dev/null >>'{}' 2>&1 & pid=$!; echo $pid",
            log.display()
        );
        let printed = self
            .run(&start)
            .unwrap_or_else(|printed| panic!("{command}: {printed}"));
        printed
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{command}: no process id in {printed:?}"))
    }

    /// Reaps the server, which has ended.
    ///
    /// Until then it is a zombie, and PostgreSQL refuses to start again on the same folder.
    pub fn reap(&mut self) {
        let _ = self.run("wait \"$pid\" 2>/dev/null; pid=");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.shell.wait();
    }
}

/// Next line; `None` at the end or after an error.
///
/// The caller reports the error.
fn line(from: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_owned()),
    }
}

/// Guard that kills a child when this process ends.
///
/// It is for children whose output and status we read.
#[derive(Debug)]
pub struct ProcessGuard(u32);

static GUARDED_PIDS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

impl ProcessGuard {
    /// Guards the child `pid` until this value is dropped.
    ///
    /// Drop it as soon as the child has been waited for: afterwards its id may belong to another process.
    pub fn new(pid: u32) -> Self {
        update_guard(pid, true);
        Self(pid)
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        update_guard(self.0, false);
    }
}

/// Adds a process to the guarded ones, or removes it.
///
/// The new list is sent to the shell that guards all of them.
fn update_guard(pid: u32, guarded: bool) {
    static GUARD: OnceLock<Mutex<Child>> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        let shell = Command::new("sh")
            .args([
                "-c",
                "pids=; while read -r now; do pids=$now; done; [ -z \"$pids\" ] || kill -KILL $pids",
            ])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start sh: {error}"));
        Mutex::new(shell)
    });
    let mut pids = GUARDED_PIDS.lock().unwrap_or_else(PoisonError::into_inner);
    if guarded {
        pids.insert(pid);
    } else {
        pids.remove(&pid);
    }
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(input) = guard.stdin.as_mut() {
        let _ = writeln!(input, "{}", list.join(" "));
    }
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}
