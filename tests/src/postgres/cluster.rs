//! Two servers of which one writes and the other follows it synchronously, and an endpoint that leads to the one that
//! writes: what a Multi-AZ DB cluster is to the function. The writer can be killed, the standby promoted, the endpoint
//! moves, and a new standby joins.
//!
//! From PostgreSQL 17 on failover slots are synchronised to the standby, by PostgreSQL itself. Before, as on RDS, the
//! files of a slot can be carried over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::tcp_proxy::TcpProxy;
use crate::postgres::{ADMIN, Postgres, PostgresSettings};
use crate::wait;

/// As instances call themselves in `application_name`, and their slots at the writer.
const NAMES: [&str; 2] = ["one", "two"];

/// Longer than any step takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A writer, its standby, and the endpoint.
#[derive(Debug)]
pub struct Cluster {
    instances: [Postgres; 2],
    writer: AtomicUsize,
    version: u32,
    endpoint: TcpProxy,
    replication_proxy: TcpProxy,
}

/// What of a slot reaches the standby with its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCopy {
    /// Also the snapshots from which decoding goes on.
    Complete,
    /// The file alone: after a promotion it may decode nothing, without an error.
    WithoutSnapshots,
}

impl Cluster {
    /// Makes both. Ready when the standby follows: from then on a commit waits for its disk.
    pub async fn start(mut settings: PostgresSettings) -> Self {
        settings.conf.push_str(
            "hot_standby_feedback = on\nwal_receiver_status_interval = '1s'\nwal_retrieve_retry_interval = '100ms'\n",
        );
        // Both begin as copies of one empty cluster, so that the standby needs no backup.
        let standby = Postgres::create(&settings);
        let primary = Postgres::start(settings).await;
        let row = primary
            .admin("postgres")
            .await
            .query_one("show server_version_num", &[])
            .await;
        let number = row.map(|row| row.get::<_, String>(0).parse().unwrap_or(0));
        let number: u32 = number.unwrap_or_else(|error| panic!("which version is it? {error:?}"));
        let cluster = Self {
            endpoint: TcpProxy::open(primary.port()).await,
            replication_proxy: TcpProxy::open(primary.port()).await,
            instances: [primary, standby],
            writer: AtomicUsize::new(0),
            version: number / 10_000,
        };
        cluster.follow().await;
        cluster
    }

    /// The instance that writes, or wrote last.
    pub fn primary(&self) -> &Postgres {
        &self.instances[self.writer.load(Ordering::SeqCst)]
    }

    /// The other one.
    pub fn standby(&self) -> &Postgres {
        &self.instances[1 - self.writer.load(Ordering::SeqCst)]
    }

    /// What a function connects to. It can be made to cut connections, too.
    pub fn endpoint(&self) -> &TcpProxy {
        &self.endpoint
    }

    /// Between the standby and the primary: stalled to the client, the log does not arrive at the standby; to the server,
    /// its acknowledgements do not arrive at the primary. Either way commits wait.
    pub fn replication_proxy(&self) -> &TcpProxy {
        &self.replication_proxy
    }

    /// By which variables a function finds a database, whichever instance writes.
    pub fn environment(&self, database: &str) -> [(String, String); 6] {
        Postgres::environment_at(self.endpoint.port(), database)
    }

    /// Whether the server itself can keep slots on the standby.
    pub fn has_failover_slots(&self) -> bool {
        self.version >= 17
    }

    /// Waits until the failover slot stands on the standby where it stands now on the primary, and would outlive a
    /// promotion. `step` has to move the slot forwards, again and again: an idle one never gets so far.
    pub async fn wait_until_synced<F: Future<Output = ()>>(&self, slot: &str, step: impl Fn() -> F) {
        let (primary, standby) = (self.primary_admin().await, self.standby_admin().await);
        let stands =
            format!("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{slot}'");
        let synced = format!(
            "select synced and not temporary and invalidation_reason is null and confirmed_flush_lsn >= $1::text::pg_lsn
             from pg_replication_slots where slot_name = '{slot}'"
        );
        let wanted: String = value(&primary, &stands)
            .await
            .unwrap_or_else(|| panic!("there is no slot {slot}"));
        wait::until("the slot is synchronised", LIMIT, || async {
            query(&primary, "select pg_log_standby_snapshot()").await;
            step().await;
            // The worker looks seldom where little happens; a reload wakes it.
            query(&standby, "select pg_reload_conf()").await;
            let row = standby.query_opt(&synced, &[&wanted]).await;
            let row = row.unwrap_or_else(|error| panic!("{synced}: {error:?}"));
            row.is_some_and(|row| row.get(0))
        })
        .await;
    }

    /// No slot is synchronised any more: those on the standby lag from now on.
    pub async fn stop_slot_sync(&self) {
        let standby = self.standby_admin().await;
        query(&standby, "alter system set sync_replication_slots = off").await;
        query(&standby, "select pg_reload_conf()").await;
        let workers = "select count(*) from pg_stat_activity where backend_type = 'slotsync worker'";
        wait::until("the worker ends", LIMIT, || async {
            value(&standby, workers).await == Some(0_i64)
        })
        .await;
    }

    /// Puts the slot as it is now on the standby, as the files that it consists of: before 17 there is no other way, and
    /// it is how RDS does it. The standby is shut down meanwhile, and no commit returns.
    pub async fn carry_slot(&self, slot: &str, copy: SlotCopy) {
        // A slot is saved when it moved, but its last steps may be in memory only.
        query(&self.primary_admin().await, "checkpoint").await;
        self.standby().stop().await;
        let from = self.primary().data().display();
        let snapshots = match copy {
            SlotCopy::Complete => format!("cp -a '{from}'/pg_logical/snapshots pg_logical/"),
            SlotCopy::WithoutSnapshots => "rm -f pg_logical/snapshots/*".to_owned(),
        };
        self.standby().order(&format!(
            "rm -rf 'pg_replslot/{slot}' && cp -a '{from}/pg_replslot/{slot}' pg_replslot/ && {snapshots}"
        ));
        self.standby().serve().await;
        self.wait_until_synchronous().await;
    }

    /// Kills the primary and every process of it with -9. Nobody writes until [`Cluster::promote`].
    pub async fn kill_primary(&self) {
        self.primary().crash().await;
    }

    /// The standby becomes the primary, which waits for nobody, and the endpoint leads to it.
    pub async fn promote(&self) {
        let promoted = value(&self.standby_admin().await, "select pg_promote(true, 60)").await;
        assert_eq!(
            promoted,
            Some(true),
            "the standby is not promoted:\n{}",
            self.standby().log()
        );
        let writer = 1 - self.writer.load(Ordering::SeqCst);
        self.writer.store(writer, Ordering::SeqCst);
        self.endpoint.set_target(self.primary().port());
    }

    /// Kills the primary and promotes the standby.
    pub async fn failover(&self) {
        self.kill_primary().await;
        self.promote().await;
    }

    /// After a failover: the instance that was killed becomes the standby of the other, by a backup while that one
    /// writes.
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
        self.reserve().await;
        query(&primary, start).await;
        let to = self.standby().data().display();
        // Files that change or vanish meanwhile are what the log is for; the log itself comes over the wire.
        self.primary().order(&format!(
            "rm -rf '{to}'/* && {{ tar c --warning=none --exclude='./pg_wal/*' --exclude='./pg_replslot/*' \
             --exclude=./postmaster.* --exclude=./postgresql.auto.conf . || :; }} | tar x -C '{to}'"
        ));
        let label: Option<String> = value(&primary, stop).await;
        let label = label.expect("a backup has a label");
        self.standby().write("backup_label", &label);
        self.follow().await;
    }

    /// Starts the standby on its cluster, and waits until commits wait for it.
    async fn follow(&self) {
        self.reserve().await;
        self.replication_proxy.set_target(self.primary().port());
        self.replication_proxy.clear();
        let name = NAMES[1 - self.writer.load(Ordering::SeqCst)];
        let sync = if self.has_failover_slots() {
            "sync_replication_slots = on\n"
        } else {
            ""
        };
        let conf = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user={user} password=''{password}'' dbname=postgres \
             application_name={name}'\nprimary_slot_name = '{name}'\n{sync}",
            port = self.replication_proxy.port(),
            user = ADMIN.0,
            password = ADMIN.1,
        );
        self.standby().write("postgresql.auto.conf", &conf);
        self.standby().write("standby.signal", "");
        self.standby().serve().await;
        let primary = self.primary_admin().await;
        query(
            &primary,
            &format!("alter system set synchronous_standby_names = '{name}'"),
        )
        .await;
        if self.has_failover_slots() {
            query(
                &primary,
                &format!("alter system set synchronized_standby_slots = '{name}'"),
            )
            .await;
        }
        query(&primary, "select pg_reload_conf()").await;
        self.wait_until_synchronous().await;
    }

    /// The primary keeps the log for the standby, from now on.
    async fn reserve(&self) {
        let name = NAMES[1 - self.writer.load(Ordering::SeqCst)];
        let sql = format!(
            "select pg_create_physical_replication_slot('{name}', true)
             where not exists (select from pg_replication_slots where slot_name = '{name}')"
        );
        query(&self.primary_admin().await, &sql).await;
    }

    async fn wait_until_synchronous(&self) {
        let primary = self.primary_admin().await;
        let follows =
            "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = 'sync'";
        wait::until("the standby follows", LIMIT, || async {
            value(&primary, follows).await == Some(1_i64)
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

async fn query(client: &Client, sql: &str) {
    let answered = client.query(sql, &[]).await;
    answered.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first column of the first row.
async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> Option<T> {
    let row = client.query_opt(sql, &[]).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .map(|row| row.get(0))
}
