//! Group of processes that gets a share of one core.
//!
//! Lambda gives such a share to a function.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Period of the quota. Linux's default.
const PERIOD_MICROS: u64 = 100_000;

/// A control group of Linux with a CPU quota. It is removed when it is dropped.
#[derive(Debug)]
pub struct CpuQuota {
    folder: PathBuf,
}

impl CpuQuota {
    /// Group that gets `share` of one core.
    ///
    /// `None` if this process may not create one.
    pub fn create(share: f64) -> Option<Self> {
        let quota = (share * PERIOD_MICROS as f64) as u64;
        let name = crate::unique("spillway");
        let version_1 = Path::new("/sys/fs/cgroup/cpu");
        let folder = match version_1.exists() {
            true => version_1.join(name),
            false => Path::new("/sys/fs/cgroup").join(name),
        };
        std::fs::create_dir(&folder).ok()?;
        let group = CpuQuota { folder };
        let files = match version_1.exists() {
            true => [
                ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            false => [
                ("cpu.max", format!("{quota} {PERIOD_MICROS}")),
                ("cpu.max.burst", "0".to_owned()),
            ],
        };
        let written = files
            .iter()
            .all(|(file, text)| std::fs::write(group.folder.join(file), text).is_ok());
        written.then_some(group)
    }

    /// Shell script that joins the group, and then runs `program`.
    ///
    /// The program replaces the shell in its process.
    pub fn script(&self, program: &Path) -> String {
        let (group, program) = (self.folder.join("cgroup.procs"), program.display());
        format!("#!/bin/sh\necho $$ > '{}'\nexec '{program}'\n", group.display())
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        // The last process of the group may end a moment later.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
