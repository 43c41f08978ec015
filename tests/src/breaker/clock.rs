//! A wall clock that jumps: a library which the function loads before the C library, built once by the C compiler that
//! Rust links with.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::watchdog::Watchdog;

const SOURCE: &str = include_str!("clock.c");

/// A clock of its own for one function.
#[derive(Debug)]
pub(super) struct Clock {
    file: File,
    name: PathBuf,
}

impl Clock {
    /// One that goes right.
    pub(super) fn new() -> Self {
        let name = folder().join(crate::unique("clock"));
        let file = File::create(&name).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let clock = Self { file, name };
        clock.jump(0);
        clock
    }

    /// From now on it is so many seconds ahead, or behind when negative.
    pub(super) fn jump(&self, seconds: i64) {
        let written = self.file.write_all_at(&seconds.to_ne_bytes(), 0);
        written.unwrap_or_else(|error| panic!("{}: {error}", self.name.display()));
    }

    /// The variables by which a process goes by it.
    pub(super) fn environment(&self) -> [(String, String); 2] {
        let library = folder().join("clock.so");
        [("LD_PRELOAD", library), ("CLOCK_FILE", self.name.clone())]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
    }
}

/// Where the library is, and the clocks are. It goes away with this process.
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
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cc does not build the clock:\n{said}");
}
