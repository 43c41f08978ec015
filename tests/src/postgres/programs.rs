//! The programs of PostgreSQL: a server of each version, where the user whom it runs as can reach it, and an empty
//! cluster of that version, which a process makes once and copies for each of its servers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::postgres::ADMIN;
use crate::watchdog::Watchdog;

/// The major versions that servers can be of, beside Debian's.
pub const VERSIONS: [u32; 5] = [14, 15, 16, 17, 18];

/// All of them, and Debian's.
pub(crate) const KINDS: usize = 1 + VERSIONS.len();

/// Which of [`KINDS`] a major version is; `None`: Debian's.
pub(crate) fn kind(version: Option<u32>) -> usize {
    version.map_or(0, |version| {
        let known = VERSIONS.iter().position(|known| *known == version);
        1 + known.unwrap_or_else(|| panic!("there are no programs of PostgreSQL {version}"))
    })
}

/// The folder of Debian's programs, the only one with clients (`psql`, `pgbench` and their like): `PG_BIN`, or where
/// Debian puts those of version 15.
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

/// The server of one version.
#[derive(Debug)]
pub(crate) struct Programs {
    bin: PathBuf,
    /// A cluster that never ran.
    empty: PathBuf,
    /// Lines that every configuration of this version needs.
    conf: &'static str,
    wal2json: bool,
    /// Its folder holds the cluster, and goes with the process.
    _folder: Mutex<Watchdog>,
}

impl Programs {
    /// Those of a major version; `None`: Debian's.
    pub(crate) fn of(version: Option<u32>) -> &'static Self {
        static ALL: [OnceLock<Programs>; KINDS] = [const { OnceLock::new() }; _];
        ALL[kind(version)].get_or_init(|| Self::make(version))
    }

    fn make(version: Option<u32>) -> Self {
        let mut folder = watchdog();
        let bin = match version {
            None => debian(),
            Some(version) => reachable(&installed(version), &mut folder).join("bin"),
        };
        let empty = folder.folder().join("empty");
        let (bin_path, empty_path, in_folder) = (bin.display(), empty.display(), folder.folder().display());
        let initdb = format!(
            "echo '{password}' >'{in_folder}/password' && '{bin_path}/initdb' -D '{empty_path}' -U {user} \
             --pwfile='{in_folder}/password' --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync 2>&1",
            user = ADMIN.0,
            password = ADMIN.1,
        );
        let made = folder.order(&initdb);
        made.unwrap_or_else(|printed| panic!("initdb failed:\n{printed}"));
        // The minor releases that know this setting refuse wal2json without it, older ones refuse the setting.
        let known = format!("'{bin_path}/postgres' -D '{empty_path}' -C output_plugin_libraries 2>&1");
        let conf = match folder.order(&known) {
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

    /// Where `postgres` is.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// What a configuration has to begin with.
    pub(crate) fn conf(&self) -> &'static str {
        self.conf
    }

    /// Whether the plugin wal2json is installed beside PostgreSQL's own.
    pub(crate) fn has_wal2json(&self) -> bool {
        self.wal2json
    }

    /// Makes the cluster `data` in the folder of `watchdog`. Those of one version all have one system identifier.
    pub(crate) fn copy_empty(&self, watchdog: &mut Watchdog, data: &Path) {
        let copy = format!(
            "cp -a --sparse=always '{}' '{}' 2>&1",
            self.empty.display(),
            data.display()
        );
        let copied = watchdog.order(&copy);
        copied.unwrap_or_else(|printed| panic!("the empty cluster cannot be copied:\n{printed}"));
    }
}

/// A watchdog as a user that a server runs as: initdb and postgres refuse root. Its folder is in `SERVERS_IN`, where that is set.
pub(crate) fn watchdog() -> Watchdog {
    let wanted = std::env::var_os("SERVERS_IN")
        .filter(|wanted| !wanted.is_empty())
        .map(PathBuf::from);
    match std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        // It must be one that `postgres` can reach.
        true => Watchdog::start(Some("postgres"), &wanted.unwrap_or_else(|| "/tmp".into())),
        false => Watchdog::start(None, &wanted.unwrap_or_else(std::env::temp_dir)),
    }
}

fn installed(version: u32) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let native = here.join(format!("../.tools/postgres/node_modules/{version}/native"));
    native
        .canonicalize()
        .unwrap_or_else(|_| panic!("no {}: `make tools-postgres` installs it", native.display()))
}

/// The same folder, or a copy of it when the user of the server cannot enter it: a project of root's is often closed.
fn reachable(native: &Path, watchdog: &mut Watchdog) -> PathBuf {
    let enter = format!("'{}/bin/postgres' --version 2>&1", native.display());
    if watchdog.order(&enter).is_ok() {
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
