//! Wall clock that jumps: a library that the function loads before the C library.
//!
//! The C compiler that Rust links with builds it once per process.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::watchdog::Watchdog;

const SOURCE: &str = include_str!("clock.c");

/// Wall clock of one function.
#[derive(Debug)]
pub(super) struct Clock {
    file: File,
    name: PathBuf,
}

impl Clock {
    /// Clock that shows the right time.
    pub(super) fn new() -> Self {
        let name = folder().join(crate::unique("clock"));
        let file = File::create(&name).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let clock = Self { file, name };
        clock.jump(0);
        clock
    }

    /// Sets the clock ahead by `seconds`, or back when they are negative.
    pub(super) fn jump(&self, seconds: i64) {
        let written = self.file.write_all_at(&seconds.to_ne_bytes(), 0);
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name.display()));
    }

    /// Environment variables that make a process use this clock.
    pub(super) fn environment(&self) -> [(String, String); 2] {
        let library = folder().join("clock.so");
        [("LD_PRELOAD", library), ("CLOCK_FILE", self.name.clone())]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
    }
}

/// Folder of the library and the clocks' files.
///
/// It is removed when this process ends.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<Mutex<Watchdog>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let watchdog = Watchdog::start(None, &std::env::temp_dir());
        build(watchdog.folder());
        Mutex::new(watchdog)
    });
    let watchdog = made.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog.folder().to_owned()
}

fn build(folder: &Path) {
    let source = folder.join("clock.c");
    std::fs::write(&source, SOURCE).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(folder.join("clock.so"))
        .arg(&source)
        .output()
        .unwrap_or_else(|error| panic!("cannot start cc, with which Rust links: {error}"));
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cc does not build the clock:\n{errors}");
}
