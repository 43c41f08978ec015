//! Sees to it that what we started ends with us.
//!
//! A test process can be killed with -9, and then runs no destructor. So servers are started by a small shell whose
//! standard input is a pipe that we hold: the kernel closes it however we end, the shell reads end of file, ends the
//! server and removes its folder. Each shell is the leader of its own process group, so that an interrupt typed at
//! the terminal reaches us and not it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A folder of its own, and at most one server at a time that works in it.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    /// `None` only while dropping.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

/// `$pid` is the server. A server that was asked to go (QUIT: PostgreSQL then removes its shared memory) has five
/// seconds before it is made to.
const SCRIPT: &str = r#"
ulimit -c 0
folder=$(mktemp -d "$1/spillway.XXXXXX") || exit 1
echo "$folder"
pid=
while read -r order; do
    eval "$order"
    echo "done $?"
done
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    (sleep 5; kill -KILL "$pid") 2>/dev/null &
    reminder=$!
    wait "$pid" 2>/dev/null
    kill "$reminder" 2>/dev/null
fi
rm -rf "$folder"
"#;

impl Watchdog {
    /// Starts the shell, as `user` when one is given (only root can), with a new empty folder in `parent`.
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
        let orders = shell.stdin.take();
        let mut answers = BufReader::new(shell.stdout.take().expect("the shell's output is a pipe"));
        let folder = line(&mut answers);
        let folder = folder.unwrap_or_else(|| panic!("no folder could be made in {}", parent.display()));
        Self {
            shell,
            orders,
            answers,
            folder: PathBuf::from(folder),
        }
    }

    /// The folder that goes away with us.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs one line of shell, and returns what it printed.
    ///
    /// # Errors
    /// What it printed, when its status is not zero.
    pub fn order(&mut self, order: &str) -> Result<String, String> {
        let orders = self
            .orders
            .as_mut()
            .expect("the shell takes orders until it is dropped");
        writeln!(orders, "{order}").unwrap_or_else(|error| panic!("the watchdog is gone: {error}"));
        let mut printed = String::new();
        loop {
            let Some(answer) = line(&mut self.answers) else {
                return Err(format!("{printed}the watchdog is gone"));
            };
            match answer.strip_prefix("done ") {
                Some("0") => return Ok(printed),
                Some(_) => return Err(printed),
                None => printed.push_str(&format!("{answer}\n")),
            }
        }
    }

    /// Starts `command` as the server, its output appended to `log` in the folder, and returns its process id.
    pub fn serve(&mut self, command: &str, log: &str) -> u32 {
        let log = self.folder.join(log);
        let order = format!(
            "{command} </dev/null >>'{}' 2>&1 & pid=$!; echo $pid",
            log.display()
        );
        let printed = self
            .order(&order)
            .unwrap_or_else(|printed| panic!("{command}: {printed}"));
        printed
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{command}: no process id in {printed:?}"))
    }

    /// Waits for the server, which somebody has ended. Until then its process id is neither free nor alive, and
    /// PostgreSQL would not start again on the same folder.
    pub fn bury(&mut self) {
        let _ = self.order("wait \"$pid\" 2>/dev/null; pid=");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}

/// `None` at the end; an error reads as the end, and whoever asked says what is missing.
fn line(from: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_owned()),
    }
}

/// A process that ends at the latest with us, for those whose output and status we read ourselves.
#[derive(Debug)]
pub struct ProcessGuard(u32);

static GUARDED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

impl ProcessGuard {
    /// Puts `pid`, a child of ours, under guard until this value is dropped. Drop it as soon as the child has been
    /// waited for: afterwards its id may belong to somebody else.
    pub fn new(pid: u32) -> Self {
        tell(pid, true);
        Self(pid)
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        tell(self.0, false);
    }
}

/// One shell for all of them, which knows the current list.
fn tell(pid: u32, alive: bool) {
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
    let mut pids = GUARDED.lock().unwrap_or_else(PoisonError::into_inner);
    if alive {
        pids.insert(pid);
    } else {
        pids.remove(&pid);
    }
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut guard = guard.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = guard.stdin.as_mut() {
        let _ = writeln!(orders, "{}", list.join(" "));
    }
}

/// Whether a process is there and not merely waiting to be buried.
pub fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}
