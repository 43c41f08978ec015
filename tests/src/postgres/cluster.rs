//! Cluster of a primary and a synchronous standby, with one endpoint.
//!
//! To the function it looks like a Multi-AZ DB cluster. The primary can be killed and the standby promoted.
//! The endpoint moves to the new primary, and the old one rejoins as a standby.
//!
//! From PostgreSQL 17 on the server synchronises failover slots to the standby. For older versions the files
//! of a slot can be copied to the standby, as RDS does it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::query::{execute, rows, value};
use crate::postgres::tcp_proxy::TcpProxy;
use crate::postgres::{ADMIN, Postgres, PostgresSettings};
use crate::wait;

/// Names of the instances: `application_name`, and physical slot at the primary.
const NAMES: [&str; 2] = ["one", "two"];

/// Limit for one step, long enough for a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A primary, its standby, and their endpoint.
#[derive(Debug)]
pub struct Cluster {
    instances: [Postgres; 2],
    writer: AtomicUsize,
    version: u32,
    endpoint: TcpProxy,
    replication_proxy: TcpProxy,
}

/// Which files of a slot are copied to the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCopy {
    /// The slot, and the snapshots from which decoding resumes.
    Complete,
    /// The slot alone. After a promotion it may decode nothing, and reports no error.
    WithoutSnapshots,
}

impl Cluster {
    /// Starts both servers. From then on a commit waits for the disk of the standby.
    pub async fn start(mut settings: PostgresSettings) -> Self {
        settings.conf.push_str(
            "hot_standby_feedback = on\nwal_receiver_status_interval = '1s'\n\
             wal_retrieve_retry_interval = '100ms'\n",
        );
        // Both start with the same data directory, so the standby needs no backup.
        let standby = Postgres::create(&settings);
        let primary = Postgres::start(settings).await;
        let admin = primary.admin("postgres").await;
        let number: String = value(&admin, "show server_version_num").await;
        let number: u32 = number.parse().unwrap_or(0);
        let cluster = Self {
            endpoint: TcpProxy::open(primary.port()).await,
            replication_proxy: TcpProxy::open(primary.port()).await,
            instances: [primary, standby],
            writer: AtomicUsize::new(0),
            version: number / 10_000,
        };
        cluster.start_standby().await;
        cluster
    }

    /// The current primary, or the last one.
    pub fn primary(&self) -> &Postgres {
        &self.instances[self.writer.load(Ordering::SeqCst)]
    }

    /// The current standby, or the former primary after a failover.
    pub fn standby(&self) -> &Postgres {
        &self.instances[1 - self.writer.load(Ordering::SeqCst)]
    }

    /// Endpoint of the cluster, to which the function connects. It can inject faults.
    pub fn endpoint(&self) -> &TcpProxy {
        &self.endpoint
    }

    /// Proxy of the replication connection from the standby to the primary.
    ///
    /// Stalled to the client, the standby gets no WAL. Stalled to the server, the primary gets no
    /// acknowledgements. In both cases commits wait.
    pub fn replication_proxy(&self) -> &TcpProxy {
        &self.replication_proxy
    }

    /// Variables by which a function connects to a database through the endpoint.
    pub fn environment(&self, database: &str) -> [(String, String); 6] {
        Postgres::environment_at(self.endpoint.port(), database)
    }

    /// A new connection of the superuser through the endpoint.
    ///
    /// An application connects in the same way.
    ///
    /// # Errors
    /// The primary is down or starting, or the database does not exist.
    pub async fn try_admin(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        Postgres::try_admin_at(self.endpoint.port(), database).await
    }

    /// Whether the server synchronises failover slots.
    pub fn has_failover_slots(&self) -> bool {
        self.version >= 17
    }

    /// Waits until the standby has the slot at its current position.
    ///
    /// After that, the failover slot survives a promotion. `step` has to advance the slot each time: an idle
    /// slot is never synchronised.
    pub async fn wait_until_synced<F: Future<Output = ()>>(&self, slot: &str, step: impl Fn() -> F) {
        let (primary, standby) = (self.primary_admin().await, self.standby_admin().await);
        let position =
            format!("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{slot}'");
        let synced = format!(
            "select synced and not temporary and invalidation_reason is null
                    and confirmed_flush_lsn >= $1::text::pg_lsn
             from pg_replication_slots where slot_name = '{slot}'"
        );
        let confirmed: String = value(&primary, &position).await;
        wait::until("the slot is synchronised", LIMIT, || async {
            execute(&primary, "select pg_log_standby_snapshot()").await;
            step().await;
            // The worker sleeps long when little changes; a reload wakes it.
            execute(&standby, "select pg_reload_conf()").await;
            let found = rows(&standby, &synced, &[&confirmed]).await;
            found.first().is_some_and(|row| row.get(0))
        })
        .await;
    }

    /// Stops the synchronisation of slots: those on the standby lag from now on.
    pub async fn stop_slot_sync(&self) {
        let standby = self.standby_admin().await;
        execute(&standby, "alter system set sync_replication_slots = off").await;
        execute(&standby, "select pg_reload_conf()").await;
        let workers = "select count(*) from pg_stat_activity where backend_type = 'slotsync worker'";
        wait::until("the worker ends", LIMIT, || async {
            value::<i64>(&standby, workers).await == 0
        })
        .await;
    }

    /// Copies a slot's current files to the standby, as RDS does.
    ///
    /// Before PostgreSQL 17 there is no other way. The standby is down meanwhile, and no commit returns.
    pub async fn copy_slot_to_standby(&self, slot: &str, copy: SlotCopy) {
        // The last positions of a slot may be in memory only; a checkpoint writes them to disk.
        execute(&self.primary_admin().await, "checkpoint").await;
        self.standby().stop().await;
        let from = self.primary().data().display();
        let snapshots = match copy {
            SlotCopy::Complete => format!("cp -a '{from}'/pg_logical/snapshots pg_logical/"),
            SlotCopy::WithoutSnapshots => "rm -f pg_logical/snapshots/*".to_owned(),
        };
        self.standby().run_shell(&format!(
            "rm -rf 'pg_replslot/{slot}' && cp -a '{from}/pg_replslot/{slot}' pg_replslot/ && {snapshots}"
        ));
        self.standby().start_process().await;
        self.wait_until_synchronous().await;
    }

    /// Kills all processes of the primary with SIGKILL. There is no primary until [`Cluster::promote`].
    pub async fn kill_primary(&self) {
        self.primary().crash().await;
    }

    /// Promotes the standby, and moves the endpoint to it. Its commits wait for no standby.
    pub async fn promote(&self) {
        let promoted: bool = value(&self.standby_admin().await, "select pg_promote(true, 60)").await;
        assert!(promoted, "the standby is not promoted:\n{}", self.standby().log());
        let writer = 1 - self.writer.load(Ordering::SeqCst);
        self.writer.store(writer, Ordering::SeqCst);
        self.endpoint.set_target(self.primary().port());
    }

    /// Kills the primary and promotes the standby.
    pub async fn failover(&self) {
        self.kill_primary().await;
        self.promote().await;
    }

    /// Makes the killed instance the standby of the new primary.
    ///
    /// It takes a base backup while the primary writes.
    pub async fn rejoin(&self) {
        let primary = self.primary_admin().await;
        let (start, stop) = match self.version {
            ..15 => (
                "select pg_start_backup('rejoin', true, false)",
                "select labelfile from pg_stop_backup(false, false)",
            ),
            15.. => (
                "select pg_backup_start('rejoin', true)",
                "select labelfile from pg_backup_stop(false)",
            ),
        };
        self.create_standby_slot().await;
        execute(&primary, start).await;
        let to = self.standby().data().display();
        // Files may change or vanish meanwhile: WAL replay repairs them. The standby streams the WAL itself.
        self.primary().run_shell(&format!(
            "rm -rf '{to}'/* && {{ tar c --warning=none --exclude='./pg_wal/*' --exclude='./pg_replslot/*' \
             --exclude=./postmaster.* --exclude=./postgresql.auto.conf . || :; }} | tar x -C '{to}'"
        ));
        let label: String = value(&primary, stop).await;
        self.standby().write("backup_label", &label);
        self.start_standby().await;
    }

    /// Starts the standby, and waits until commits wait for it.
    async fn start_standby(&self) {
        self.create_standby_slot().await;
        self.replication_proxy.set_target(self.primary().port());
        self.replication_proxy.clear();
        let name = NAMES[1 - self.writer.load(Ordering::SeqCst)];
        let sync = if self.has_failover_slots() {
            "sync_replication_slots = on\n"
        } else {
            ""
        };
        let conf = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user={user} password=''{password}'' \
             dbname=postgres application_name={name}'\nprimary_slot_name = '{name}'\n{sync}",
            port = self.replication_proxy.port(),
            user = ADMIN.0,
            password = ADMIN.1,
        );
        self.standby().write("postgresql.auto.conf", &conf);
        self.standby().write("standby.signal", "");
        self.standby().start_process().await;
        let primary = self.primary_admin().await;
        execute(
            &primary,
            &format!("alter system set synchronous_standby_names = '{name}'"),
        )
        .await;
        if self.has_failover_slots() {
            execute(
                &primary,
                &format!("alter system set synchronized_standby_slots = '{name}'"),
            )
            .await;
        }
        execute(&primary, "select pg_reload_conf()").await;
        self.wait_until_synchronous().await;
    }

    /// Creates the physical slot that keeps WAL for the standby.
    async fn create_standby_slot(&self) {
        let name = NAMES[1 - self.writer.load(Ordering::SeqCst)];
        let sql = format!(
            "select pg_create_physical_replication_slot('{name}', true)
             where not exists (select from pg_replication_slots where slot_name = '{name}')"
        );
        execute(&self.primary_admin().await, &sql).await;
    }

    async fn wait_until_synchronous(&self) {
        let primary = self.primary_admin().await;
        let follows =
            "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = 'sync'";
        wait::until("the standby is synchronous", LIMIT, || async {
            value::<i64>(&primary, follows).await == 1
        })
        .await;
    }

    async fn primary_admin(&self) -> Client {
        self.primary().admin("postgres").await
    }

    async fn standby_admin(&self) -> Client {
        self.standby().admin("postgres").await
    }
}
