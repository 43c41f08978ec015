//! PostgreSQL: a private server of one version, on an empty cluster in a folder of its own, that can be crashed and
//! started again on the same folder and port.

pub mod certificates;
pub mod cluster;
pub mod pgbench;
pub mod programs;
pub mod tcp_proxy;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::postgres::certificates::Certificates;
use crate::postgres::programs::Programs;
use crate::wait;
use crate::watchdog::{Watchdog, alive};

/// The superuser whom scenarios speak as, and his password.
pub const ADMIN: (&str, &str) = ("postgres", "admin of the scenario");
/// The role that the function logs in as: REPLICATION and nothing else.
pub const REPLUSER: (&str, &str) = ("repluser", "replication of the scenario");

/// How a server is made.
#[derive(Debug, Clone, Default)]
pub struct PostgresSettings {
    /// The major version, one of [`programs::VERSIONS`]; `None`: Debian's, the only one sure to have wal2json.
    pub version: Option<u32>,
    /// Require TLS of everybody but the superuser.
    pub tls: bool,
    /// Let everybody in without a password.
    pub trust: bool,
    /// Wait for the disk, as a server in service does. A crash of the server alone loses nothing without it.
    pub fsync: bool,
    /// More lines of postgresql.conf.
    pub conf: String,
}

/// A running (or crashed) server.
#[derive(Debug)]
pub struct Postgres {
    watchdog: Mutex<Watchdog>,
    programs: &'static Programs,
    data: PathBuf,
    port: u16,
    process: Mutex<u32>,
    certificates: Option<Certificates>,
}

/// Recovery after a crash replays at most what a scenario wrote.
const START_LIMIT: Duration = Duration::from_secs(60);

impl Postgres {
    /// Makes a cluster and starts it.
    pub async fn start(settings: PostgresSettings) -> Self {
        let server = Self::create(&settings);
        server.serve().await;
        let admin = server.admin("postgres").await;
        let role = format!(
            "create role {} login replication password '{}'",
            REPLUSER.0, REPLUSER.1
        );
        admin
            .batch_execute(&role)
            .await
            .unwrap_or_else(|error| panic!("{role}: {error:?}"));
        server
    }

    /// The one that the scenarios of this process share: SCRAM, no TLS. Nobody may crash it.
    pub async fn shared() -> &'static Self {
        Self::shared_of(None).await
    }

    /// The shared one of a major version; `None`: Debian's.
    pub async fn shared_of(version: Option<u32>) -> &'static Self {
        static ALL: [OnceCell<Postgres>; programs::KINDS] = [const { OnceCell::const_new() }; _];
        let settings = PostgresSettings {
            version,
            ..PostgresSettings::default()
        };
        let shared = &ALL[programs::kind(version)];
        shared.get_or_init(|| Self::start(settings)).await
    }

    /// Makes a cluster, which has nothing of a server's own yet: the same for each of one version.
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
            // Nor write its log's files before they are used.
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
        }
    }

    /// Starts the server on its folder, and waits until it lets somebody in.
    pub(crate) async fn serve(&self) {
        let command = format!(
            "'{}/postgres' -D '{}' -p {}",
            self.programs.bin().display(),
            self.data.display(),
            self.port
        );
        let pid = tokio::task::block_in_place(|| lock(&self.watchdog).serve(&command, "log"));
        *lock(&self.process) = pid;
        wait::until("PostgreSQL lets somebody in", START_LIMIT, || async {
            assert!(alive(pid), "PostgreSQL does not start:\n{}", self.log());
            self.try_admin("postgres").await.is_ok()
        })
        .await;
    }

    /// Kills the postmaster and every process of it with -9, and waits until they are gone: as when the instance
    /// loses its power and keeps its disk.
    pub async fn crash(&self) {
        let postmaster = *lock(&self.process);
        let mut all = vec![postmaster];
        all.extend(children(postmaster));
        let ids: Vec<String> = all.iter().map(u32::to_string).collect();
        let order = format!("kill -KILL {} 2>/dev/null", ids.join(" "));
        // Not all have to be there still: the first death ends others.
        let _ = tokio::task::block_in_place(|| lock(&self.watchdog).order(&order));
        wait::until("all processes of PostgreSQL are gone", START_LIMIT, || async {
            !all.iter().any(|pid| alive(*pid))
        })
        .await;
        tokio::task::block_in_place(|| lock(&self.watchdog).bury());
    }

    /// Shuts the server down in order: everybody is sent away, and a checkpoint is written.
    pub(crate) async fn stop(&self) {
        let postmaster = *lock(&self.process);
        self.order(&format!("kill -INT {postmaster}"));
        wait::until("PostgreSQL has shut down", START_LIMIT, || async {
            !alive(postmaster)
        })
        .await;
        tokio::task::block_in_place(|| lock(&self.watchdog).bury());
    }

    /// Runs one line of shell as the user of the server, in the folder of its cluster; returns what it printed.
    pub(crate) fn order(&self, order: &str) -> String {
        let order = format!("(cd '{}' && {order}) 2>&1", self.data.display());
        let done = tokio::task::block_in_place(|| lock(&self.watchdog).order(&order));
        done.unwrap_or_else(|printed| panic!("{order}:\n{printed}"))
    }

    /// Writes a file in the folder of its cluster, as its own.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.order(&format!("touch {name}"));
        std::fs::write(self.data.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The folder of its cluster.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the crashed server again: same folder, same port, recovery first.
    pub async fn restart(&self) {
        self.serve().await;
    }

    /// Starts the crashed server as a standby that follows nobody: it lets people read, and waits to be promoted.
    pub async fn restart_as_standby(&self) {
        let signal = self.data.join("standby.signal");
        std::fs::write(&signal, "").unwrap_or_else(|error| panic!("{}: {error}", signal.display()));
        self.serve().await;
    }

    /// Copies the folder of the crashed server, in place of the copy before.
    pub fn copy_data(&self) {
        let data = self.data.display();
        self.arrange(&format!("rm -rf '{data}.copy' && cp -a '{data}' '{data}.copy'"));
    }

    /// Puts the copy in the place of the crashed server's folder, as when a snapshot of its disk is restored.
    pub fn restore_data(&self) {
        let data = self.data.display();
        self.arrange(&format!("rm -rf '{data}' && cp -a '{data}.copy' '{data}'"));
    }

    fn arrange(&self, order: &str) {
        tokio::task::block_in_place(|| lock(&self.watchdog).order(&format!("{{ {order}; }} 2>&1")))
            .unwrap_or_else(|printed| panic!("{order}: {printed}"));
    }

    /// By which variables a function finds a database here, and gets in: over TCP, without TLS.
    pub fn environment(&self, database: &str) -> [(String, String); 6] {
        Self::environment_at(self.port, database)
    }

    /// The same by way of another port.
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

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of client programs, of Debian's version whatever the server's: `psql`, `pgbench` and their like.
    pub fn client_programs(&self) -> PathBuf {
        programs::debian()
    }

    /// Whether a slot here can have the plugin wal2json.
    pub fn has_wal2json(&self) -> bool {
        self.programs.has_wal2json()
    }

    /// With [`PostgresSettings::tls`]: its certificates.
    pub fn certificates(&self) -> &Certificates {
        self.certificates
            .as_ref()
            .expect("this server was made without TLS")
    }

    /// What the server logged since it was made.
    pub fn log(&self) -> String {
        let file = lock(&self.watchdog).folder().join("log");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// A connection of the superuser.
    pub async fn admin(&self, database: &str) -> Client {
        self.try_admin(database)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {database}: {error:?}"))
    }

    /// A connection of the superuser, if the server is up.
    ///
    /// # Errors
    /// The server is down, starting, or has no such database.
    pub async fn try_admin(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(ADMIN.0)
            .password(ADMIN.1)
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        // It ends when the client is dropped or the server goes; either is told by the client's next call.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) {
        let admin = self.admin("postgres").await;
        let made = admin.batch_execute(&format!("create database \"{name}\"")).await;
        made.unwrap_or_else(|error| panic!("cannot create database {name}: {error:?}"));
    }

    /// Drops the slots of a database, whoever uses them, and then the database. Does nothing when the server is down.
    pub async fn drop_database(&self, name: &str) {
        let Ok(admin) = self.try_admin("postgres").await else {
            return;
        };
        wait::until("the slots of the scenario are dropped", Duration::from_secs(30), || async {
            // A slot that is in use cannot be dropped; its user goes a moment after it was told.
            let _ = admin
                .query(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots \
                     where database = $1 and active",
                    &[&name],
                )
                .await;
            let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1";
            admin.query(drop, &[&name]).await.is_ok()
        })
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

/// The server reads a private key only when it is the owner's and nobody else's.
fn certify(folder: &Path, owner: &std::fs::Metadata) -> Certificates {
    let files = Certificates::make(folder);
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
        // "pid (name) state ppid …", and the name may hold anything.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    })
    .collect()
}
