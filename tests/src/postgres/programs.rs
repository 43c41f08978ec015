//! Programs of PostgreSQL, and an empty data directory of each version.
//!
//! The server's user must be able to reach the programs. A process runs initdb once for each version, and
//! copies the result for each server.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::postgres::ADMIN;
use crate::watchdog::Watchdog;

/// Major versions that are installed beside Debian's.
pub const VERSIONS: [u32; 5] = [14, 15, 16, 17, 18];

/// Number of installations: [`VERSIONS`] and Debian's.
pub(crate) const KINDS: usize = 1 + VERSIONS.len();

/// Index of a major version among the [`KINDS`]; `None` is Debian's.
pub(crate) fn kind(version: Option<u32>) -> usize {
    version.map_or(0, |version| {
        let known = VERSIONS.iter().position(|known| *known == version);
        1 + known.unwrap_or_else(|| panic!("there are no programs of PostgreSQL {version}"))
    })
}

/// Folder of Debian's programs: `PG_BIN`, or the folder of version 15.
///
/// Only this one has client programs such as `psql` and `pgbench`.
pub fn debian() -> PathBuf {
    let bin = std::env::var_os("PG_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    let bin = PathBuf::from(bin);
    assert!(
        bin.join("postgres").exists() && bin.join("initdb").exists(),
        "no PostgreSQL server in {}: `make tools-demo` installs one, PG_BIN names another",
        bin.display()
    );
    bin
}

/// Server programs of one version.
#[derive(Debug)]
pub(crate) struct Programs {
    bin: PathBuf,
    /// Data directory that no server ever used.
    empty: PathBuf,
    /// Configuration lines that this version needs.
    conf: &'static str,
    wal2json: bool,
    /// Owns the folder of `empty`, which is removed with the process.
    _folder: Mutex<Watchdog>,
}

impl Programs {
    /// Programs of a major version; `None` is Debian's.
    pub(crate) fn of(version: Option<u32>) -> &'static Self {
        static ALL: [OnceLock<Programs>; KINDS] = [const { OnceLock::new() }; _];
        ALL[kind(version)].get_or_init(|| Self::prepare(version))
    }

    /// Finds the programs of a version, and creates the empty data directory.
    fn prepare(version: Option<u32>) -> Self {
        let mut folder = watchdog();
        let bin = match version {
            None => debian(),
            Some(version) => reachable(&installed(version), &mut folder).join("bin"),
        };
        let empty = folder.folder().join("empty");
        let (bin_path, empty_path, in_folder) = (bin.display(), empty.display(), folder.folder().display());
        let initdb = format!(
            "echo '{password}' >'{in_folder}/password' && '{bin_path}/initdb' -D '{empty_path}' -U {user} \
             --pwfile='{in_folder}/password' --auth=scram-sha-256 \
             --encoding=UTF8 --locale=C.UTF-8 --no-sync 2>&1",
            user = ADMIN.0,
            password = ADMIN.1,
        );
        let made = folder.run(&initdb);
        made.unwrap_or_else(|printed| panic!("initdb failed:\n{printed}"));
        // Minor releases that have this setting refuse wal2json without it; older ones refuse the setting.
        let known = format!("'{bin_path}/postgres' -D '{empty_path}' -C output_plugin_libraries 2>&1");
        let conf = match folder.run(&known) {
            Ok(_) => "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'\n",
            Err(_) => "",
        };
        let wal2json = version.is_none() || bin.join("../lib/postgresql/wal2json.so").exists();
        Self {
            bin,
            empty,
            conf,
            wal2json,
            _folder: Mutex::new(folder),
        }
    }

    /// Folder of `postgres`.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Lines at the beginning of every configuration.
    pub(crate) fn conf(&self) -> &'static str {
        self.conf
    }

    /// Whether the plugin wal2json is installed.
    pub(crate) fn has_wal2json(&self) -> bool {
        self.wal2json
    }

    /// Copies the empty data directory to `data`. All copies of one version have the same system identifier.
    pub(crate) fn copy_empty(&self, watchdog: &mut Watchdog, data: &Path) {
        let copy = format!(
            "cp -a --sparse=always '{}' '{}' 2>&1",
            self.empty.display(),
            data.display()
        );
        let copied = watchdog.run(&copy);
        copied.unwrap_or_else(|printed| panic!("cannot copy the empty data directory:\n{printed}"));
    }
}

/// A watchdog that runs as a user who may start servers: initdb and postgres refuse root.
///
/// Its folder is in `SERVERS_IN`, if that variable is set.
pub(crate) fn watchdog() -> Watchdog {
    let servers_folder = std::env::var_os("SERVERS_IN")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from);
    match std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        // The user `postgres` must be able to reach the folder.
        true => Watchdog::start(Some("postgres"), &servers_folder.unwrap_or_else(|| "/tmp".into())),
        false => Watchdog::start(None, &servers_folder.unwrap_or_else(std::env::temp_dir)),
    }
}

fn installed(version: u32) -> PathBuf {
    let native = crate::project_path(&format!(".tools/postgres/node_modules/{version}/native"));
    native
        .canonicalize()
        .unwrap_or_else(|_| panic!("no {}: `make tools-postgres` installs it", native.display()))
}

/// Folder of programs that the server's user can enter.
///
/// It is a copy when the user cannot enter `native`, as in a project of root.
fn reachable(native: &Path, watchdog: &mut Watchdog) -> PathBuf {
    let enter = format!("'{}/bin/postgres' --version 2>&1", native.display());
    if watchdog.run(&enter).is_ok() {
        return native.to_owned();
    }
    let copy = watchdog.folder().join("native");
    let status = Command::new("sh")
        .args([
            "-c",
            r#"cp -R "$1" "$2" && chown -R --reference="$3" "$2""#,
            "copy",
        ])
        .args([native, &copy, watchdog.folder()])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{} cannot be copied to {}",
        native.display(),
        copy.display()
    );
    copy
}
