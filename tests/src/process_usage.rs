//! CPU time and memory of processes, as Linux counts them. CPU time has steps of 10 ms.

use std::time::Duration;

/// Ticks of CPU time in a second.
///
/// The number is `sysconf(_SC_CLK_TCK)`, which is 100 on Linux.
const TICKS: u64 = 100;

/// CPU time of a process so far; zero if it has ended.
///
/// It includes all threads of the process.
pub fn cpu_time(pid: u32) -> Duration {
    ticks(pid).map_or(Duration::ZERO, |ticks| of_ticks(ticks[0] + ticks[1]))
}

/// CPU time of a process and its children.
///
/// The children are those that run, and those that the process has waited for. `children` lists those that
/// run.
pub fn family_cpu_time(pid: u32, children: impl Fn() -> Vec<u32>) -> Duration {
    loop {
        let running = children();
        let before = ticks(pid).unwrap_or_default();
        let sum = running.iter().map(|child| cpu_time(*child)).sum::<Duration>();
        // A child that the process waits for meanwhile would be counted nowhere.
        let after = ticks(pid).unwrap_or_default();
        if before[2..] == after[2..] && running == children() {
            return of_ticks(after.iter().sum()) + sum;
        }
    }
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// `utime`, `stime`, `cutime` and `cstime` of `/proc/[pid]/stat` (proc(5)).
fn ticks(pid: u32) -> Option<[u64; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state ppid …", and the name may contain any character. `utime` is the fourteenth field.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse);
    let mut next = || fields.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

/// Largest resident memory of a process so far, in bytes.
///
/// It is `VmHWM`, and zero if the process has ended.
pub fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
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
