//! PostgreSQL servers.
//!
//! Each server has one version, an empty data directory and a port of its own. It can crash, and start again
//! on the same directory and port.

pub mod certificates;
pub mod cluster;
pub mod lsn;
pub mod pgbench;
pub mod programs;
pub mod query;
pub mod slots;
pub mod sql_text;
pub mod tcp_proxy;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::postgres::certificates::Certificates;
use crate::postgres::programs::Programs;
use crate::process_usage;
use crate::wait;
use crate::watchdog::{Watchdog, is_alive};

/// Superuser of the scenarios, and the password.
pub const ADMIN: (&str, &str) = ("postgres", "admin of the scenario");
/// The role that the function logs in as, and its password. Its only privilege is REPLICATION.
pub const REPLUSER: (&str, &str) = ("repluser", "replication of the scenario");

/// Settings of a server.
#[derive(Debug, Clone, Default)]
pub struct PostgresSettings {
    /// Major version, one of [`programs::VERSIONS`]. `None` is the version of Debian, which always has
    /// wal2json.
    pub version: Option<u32>,
    /// Require TLS, except of the superuser.
    pub tls: bool,
    /// Accept connections without a password.
    pub trust: bool,
    /// Wait for the disk. Without it a crash of the server process still loses nothing.
    pub fsync: bool,
    /// Language of the messages, such as `de`; only Debian's version has translations.
    pub language: Option<&'static str>,
    /// Further lines of postgresql.conf.
    pub conf: String,
}

impl PostgresSettings {
    /// Default settings with further lines of postgresql.conf.
    pub fn with_conf(conf: &str) -> Self {
        Self {
            conf: conf.to_owned(),
            ..Self::default()
        }
    }
}

/// A server, running or crashed.
#[derive(Debug)]
pub struct Postgres {
    watchdog: Mutex<Watchdog>,
    programs: &'static Programs,
    data: PathBuf,
    port: u16,
    process: Mutex<u32>,
    certificates: Option<Certificates>,
    language: Option<&'static str>,
}

/// Limit for a start. Recovery after a crash replays at most the changes of one scenario.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Postgres {
    /// Creates a data directory, starts the server, and creates [`REPLUSER`].
    pub async fn start(settings: PostgresSettings) -> Self {
        let server = Self::create(&settings);
        server.start_process().await;
        let admin = server.admin("postgres").await;
        let role = format!(
            "create role {} login replication password '{}'",
            REPLUSER.0, REPLUSER.1
        );
        query::execute(&admin, &role).await;
        server
    }

    /// Server that all scenarios of this process share: SCRAM, no TLS. No scenario may crash it.
    pub async fn shared() -> &'static Self {
        Self::shared_of(None).await
    }

    /// Shared server of a major version; `None` is the version of Debian.
    pub async fn shared_of(version: Option<u32>) -> &'static Self {
        static ALL: [OnceCell<Postgres>; programs::KINDS] = [const { OnceCell::const_new() }; _];
        let settings = PostgresSettings {
            version,
            ..PostgresSettings::default()
        };
        let shared = &ALL[programs::kind(version)];
        shared.get_or_init(|| Self::start(settings)).await
    }

    /// Creates a data directory. All of one version have the same content.
    pub(crate) fn create(settings: &PostgresSettings) -> Self {
        tokio::task::block_in_place(|| Self::create_now(settings))
    }

    fn create_now(settings: &PostgresSettings) -> Self {
        let programs = Programs::of(settings.version);
        let mut watchdog = programs::watchdog();
        let folder = watchdog.folder().to_owned();
        let data = folder.join("data");
        programs.copy_empty(&mut watchdog, &data);
        let owner = std::fs::metadata(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));

        let mut conf = programs.conf().to_owned();
        conf.push_str(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nwal_level = logical\n\
             max_connections = 200\nmax_replication_slots = 100\nmax_wal_senders = 100\n\
             log_line_prefix = '%m [%p] %d '\ndynamic_shared_memory_type = mmap\n",
        );
        if !settings.fsync {
            // Without fsync, zero-filled WAL files are wasted time.
            conf.push_str("fsync = off\nwal_init_zero = off\n");
        }
        let certificates = settings.tls.then(|| certify(&folder, &owner));
        if let Some(files) = &certificates {
            conf.push_str(&format!(
                "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
                files.certificate.display(),
                files.key.display()
            ));
        }
        conf.push_str(&settings.conf);
        append(&data.join("postgresql.conf"), &conf);
        let method = if settings.trust { "trust" } else { "scram-sha-256" };
        let host = if settings.tls { "hostssl" } else { "host" };
        let hba = format!(
            "host all,replication {} 127.0.0.1/32 {method}\n{host} all all 127.0.0.1/32 {method}\n",
            ADMIN.0
        );
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap_or_else(|error| panic!("pg_hba.conf: {error}"));

        let (watchdog, process) = (Mutex::new(watchdog), Mutex::new(0));
        Self {
            watchdog,
            programs,
            data,
            port: wait::free_port(),
            process,
            certificates,
            language: settings.language,
        }
    }

    /// Starts the server, and waits until it accepts connections.
    pub(crate) async fn start_process(&self) {
        // It applies to every locale but `C`, so no other locale has to be installed.
        let language = self
            .language
            .map_or_else(String::new, |language| format!("LANGUAGE={language} "));
        let command = format!(
            "{language}'{}/postgres' -D '{}' -p {}",
            self.programs.bin().display(),
            self.data.display(),
            self.port
        );
        let pid = tokio::task::block_in_place(|| lock(&self.watchdog).start_server(&command, "log"));
        *lock(&self.process) = pid;
        wait::until("PostgreSQL accepts connections", START_LIMIT, || async {
            assert!(is_alive(pid), "PostgreSQL does not start:\n{}", self.log());
            self.try_admin("postgres").await.is_ok()
        })
        .await;
    }

    /// Kills all processes of the server with SIGKILL.
    ///
    /// It waits until they have ended. The effect is that of an instance that loses power and keeps its disk.
    pub async fn crash(&self) {
        let postmaster = *lock(&self.process);
        let mut all = vec![postmaster];
        all.extend(children(postmaster));
        let ids: Vec<String> = all.iter().map(u32::to_string).collect();
        let kill = format!("kill -KILL {} 2>/dev/null", ids.join(" "));
        // Some processes may have ended already: the death of one ends others.
        let _ = tokio::task::block_in_place(|| lock(&self.watchdog).run(&kill));
        wait::until("all processes of PostgreSQL end", START_LIMIT, || async {
            !all.iter().any(|pid| is_alive(*pid))
        })
        .await;
        tokio::task::block_in_place(|| lock(&self.watchdog).reap());
    }

    /// Shuts the server down: sessions end, and a checkpoint is written.
    pub(crate) async fn stop(&self) {
        let postmaster = *lock(&self.process);
        self.run_shell(&format!("kill -INT {postmaster}"));
        wait::until("PostgreSQL has shut down", START_LIMIT, || async {
            !is_alive(postmaster)
        })
        .await;
        tokio::task::block_in_place(|| lock(&self.watchdog).reap());
    }

    /// Runs one line of shell in the data directory; returns its output.
    ///
    /// The shell runs as the server's user.
    pub(crate) fn run_shell(&self, command: &str) -> String {
        let command = format!("(cd '{}' && {command}) 2>&1", self.data.display());
        let output = tokio::task::block_in_place(|| lock(&self.watchdog).run(&command));
        output.unwrap_or_else(|output| panic!("{command}:\n{output}"))
    }

    /// Writes a file in the data directory, owned by the server's user.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.run_shell(&format!("touch {name}"));
        std::fs::write(self.data.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// CPU time of all processes of the server so far.
    pub fn cpu_time(&self) -> Duration {
        let postmaster = *lock(&self.process);
        process_usage::family_cpu_time(postmaster, || children(postmaster))
    }

    /// Data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the crashed server again on the same directory and port. It recovers first.
    pub async fn restart(&self) {
        self.start_process().await;
    }

    /// Starts the crashed server as a standby without a primary: it is readable and can be promoted.
    pub async fn restart_as_standby(&self) {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").unwrap_or_else(|error| panic!("{}: {error}", signal.display()));
        self.start_process().await;
    }

    /// Copies the data directory of the crashed server. The copy replaces an earlier one.
    pub fn copy_data(&self) {
        let data = self.data.display();
        self.run_while_stopped(&format!("rm -rf '{data}.copy' && cp -a '{data}' '{data}.copy'"));
    }

    /// Restores the copy of the crashed server's data directory.
    ///
    /// The effect is that of a snapshot of its disk.
    pub fn restore_data(&self) {
        let data = self.data.display();
        self.run_while_stopped(&format!("rm -rf '{data}' && cp -a '{data}.copy' '{data}'"));
    }

    /// Runs shell as the server's user, outside the data directory.
    fn run_while_stopped(&self, command: &str) {
        tokio::task::block_in_place(|| lock(&self.watchdog).run(&format!("{{ {command}; }} 2>&1")))
            .unwrap_or_else(|output| panic!("{command}: {output}"));
    }

    /// Variables for a function's connection to a database of this server.
    ///
    /// The connection uses TCP without TLS.
    pub fn environment(&self, database: &str) -> [(String, String); 6] {
        Self::environment_at(self.port, database)
    }

    /// The same variables for another port.
    pub(crate) fn environment_at(port: u16, database: &str) -> [(String, String); 6] {
        [
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &port.to_string()),
            ("PGUSER", REPLUSER.0),
            ("PGPASSWORD", REPLUSER.1),
            ("PGDATABASE", database),
            ("PGSSLMODE", "disable"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// Port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of client programs such as `psql` and `pgbench`.
    ///
    /// They are always of Debian's version.
    pub fn client_programs(&self) -> PathBuf {
        programs::debian()
    }

    /// Whether the server has the plugin wal2json.
    pub fn has_wal2json(&self) -> bool {
        self.programs.has_wal2json()
    }

    /// Certificates of a server with [`PostgresSettings::tls`].
    ///
    /// # Panics
    /// The server has no TLS.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("this server has no TLS")
    }

    /// Log of the server since its first start.
    pub fn log(&self) -> String {
        let file = lock(&self.watchdog).folder().join("log");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// A new connection of the superuser.
    pub async fn admin(&self, database: &str) -> Client {
        self.try_admin(database)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {database}: {error:?}"))
    }

    /// A new connection of the superuser, if the server is up.
    ///
    /// # Errors
    /// The server is down or starting, or the database does not exist.
    pub async fn try_admin(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        Self::try_admin_at(self.port, database).await
    }

    /// The same connection through another port.
    pub(crate) async fn try_admin_at(port: u16, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .user(ADMIN.0)
            .password(ADMIN.1)
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        // It ends with the client or with the server. The next call of the client fails then.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) {
        let admin = self.admin("postgres").await;
        let version = "select current_setting('server_version_num')::int4";
        // By default, PostgreSQL 15 and later log each page of a new database. That is 4 MB, and the slots of
        // all scenarios read it. A copy of the files is not logged. With it, the scenarios of `rules` needed
        // 6 % less processor time.
        let strategy = match query::value::<i32>(&admin, version).await {
            150_000.. => "strategy file_copy",
            _ => "",
        };
        query::execute(&admin, &format!("create database \"{name}\" {strategy}")).await;
    }

    /// Drops a database and its slots, even those in use. Does nothing when the server is down.
    pub async fn drop_database(&self, name: &str) {
        let Ok(admin) = self.try_admin("postgres").await else {
            return;
        };
        wait::until(
            "the slots of the scenario are dropped",
            Duration::from_secs(30),
            || async {
                // A slot in use cannot be dropped, and its session ends a moment after it is terminated.
                let _ = admin
                    .query(
                        "select pg_terminate_backend(active_pid) from pg_replication_slots \
                     where database = $1 and active",
                        &[&name],
                    )
                    .await;
                let drop = "select pg_drop_replication_slot(slot_name)
                        from pg_replication_slots where database = $1";
                admin.query(drop, &[&name]).await.is_ok()
            },
        )
        .await;
        let _ = admin
            .batch_execute(&format!("drop database if exists \"{name}\" with (force)"))
            .await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn append(file: &Path, text: &str) {
    let old = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    std::fs::write(file, old + "\n" + text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Creates certificates. The server accepts a private key only when nobody but its user can read it.
fn certify(folder: &Path, owner: &std::fs::Metadata) -> Certificates {
    let files = Certificates::create_in(folder);
    let handed = chown(&files.key, Some(owner.uid()), Some(owner.gid()))
        .and_then(|()| chown(&files.certificate, Some(owner.uid()), Some(owner.gid())))
        .and_then(|()| std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)));
    handed.unwrap_or_else(|error| panic!("{}: {error}", files.key.display()));
    files
}

fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc lists the processes");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (name) state ppid …", and the name may contain any character.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    })
    .collect()
}
