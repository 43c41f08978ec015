//! The log of a function: a file without a name, which its processes append to.
//!
//! A process writes a line before it answers, so the file has the line when the answer arrives. With a pipe,
//! the line is available only after a read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

/// An empty log. The system removes it with the last process that has it open.
pub(crate) fn create() -> File {
    let path = std::env::temp_dir().join(crate::unique("function-log"));
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
    std::fs::remove_file(&path).unwrap_or_else(|error| panic!("cannot unlink {}: {error}", path.display()));
    file
}

/// The log as an output of a process.
pub(crate) fn output(log: &File) -> Stdio {
    log.try_clone().expect("an open file can be opened again").into()
}

/// All whole lines.
pub(crate) fn lines(log: &File) -> Vec<String> {
    let size = log.metadata().expect("an open file has a size").len();
    let mut bytes = vec![0; usize::try_from(size).expect("a log fits into memory")];
    // Not `read`, which moves the offset that the processes share.
    log.read_exact_at(&mut bytes, 0).expect("the log only grows");
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}
