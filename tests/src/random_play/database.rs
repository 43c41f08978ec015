//! Database of a play: one server, or a cluster of a primary and its standby.
//!
//! With network faults, the function connects through a proxy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::result::Log;
use crate::postgres::cluster::Cluster;
use crate::postgres::query::execute;
use crate::postgres::sql_text::{create_failover_slot_sql, create_slot_sql, drop_slot_sql};
use crate::postgres::tcp_proxy::{ConnectionFault, TcpProxy};
use crate::postgres::{Postgres, PostgresSettings, REPLUSER};
use crate::wait;

/// Deadlocks belong to a play, and only its writers write. A standby that was cut off returns soon.
const CONF: &str = "autovacuum = off\ndeadlock_timeout = '100ms'\nshared_buffers = '32MB'\n\
     wal_sender_timeout = '2s'\nwal_receiver_timeout = '2s'\n";

/// Kind of the servers of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DatabaseKind {
    /// One PostgreSQL of Debian's version.
    Single,
    /// PostgreSQL 17 and its synchronous standby, with failover slots.
    Cluster,
}

/// Database on the server that currently writes.
#[derive(Debug)]
pub(super) struct Database {
    servers: Servers,
    name: String,
    failed_over: AtomicBool,
}

#[derive(Debug)]
enum Servers {
    Single(Box<Postgres>, TcpProxy),
    Cluster(Box<Cluster>),
}

impl Database {
    /// Starts new servers, without the database itself. `conf` is appended to postgresql.conf.
    pub(super) async fn start(kind: DatabaseKind, conf: &str) -> Self {
        let settings = PostgresSettings {
            trust: true,
            version: (kind == DatabaseKind::Cluster).then_some(17),
            conf: format!("{CONF}{conf}"),
            ..PostgresSettings::default()
        };
        let servers = match kind {
            DatabaseKind::Single => {
                let postgres = Box::new(Postgres::start(settings).await);
                let proxy = TcpProxy::open(postgres.port()).await;
                Servers::Single(postgres, proxy)
            }
            DatabaseKind::Cluster => Servers::Cluster(Box::new(Cluster::start(settings).await)),
        };
        Self {
            servers,
            name: String::new(),
            failed_over: AtomicBool::new(false),
        }
    }

    /// Kind of the servers.
    pub(super) fn kind(&self) -> DatabaseKind {
        match self.servers {
            Servers::Single(..) => DatabaseKind::Single,
            Servers::Cluster(_) => DatabaseKind::Cluster,
        }
    }

    /// Creates the empty database. `sees_standby` decides whether the function sees the standby's position.
    pub(super) async fn create(&mut self, name: &str, sees_standby: bool) {
        self.server().create_database(name).await;
        name.clone_into(&mut self.name);
        let verb = if sees_standby {
            "grant pg_monitor to"
        } else {
            "revoke pg_monitor from"
        };
        let admin = self.server().admin("postgres").await;
        execute(&admin, &format!("{verb} {}", REPLUSER.0)).await;
    }

    /// Drops the database and its slots. After a failover, a new standby joins.
    pub(super) async fn clear(&mut self) {
        self.server().drop_database(&self.name).await;
        if let (true, Servers::Cluster(cluster)) =
            (self.failed_over.swap(false, Ordering::Relaxed), &self.servers)
        {
            cluster.rejoin().await;
        }
    }

    /// Opens a session of the superuser on the server that writes.
    ///
    /// # Errors
    /// The server is down or starting.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.server().try_admin(&self.name).await
    }

    /// Opens a session while no fault is active.
    ///
    /// # Panics
    /// The server does not answer.
    pub(super) async fn session(&self) -> Client {
        let client = self.connect().await;
        client.unwrap_or_else(|error| panic!("no fault is active, and the server does not answer: {error:?}"))
    }

    /// Environment variables by which the function connects.
    ///
    /// Without `network_faults`, it connects to the server directly. A proxy runs in the process of the play,
    /// and a busy process would delay the function's queries beyond their time limits.
    pub(super) fn environment(&self, network_faults: bool) -> [(String, String); 6] {
        let port = match network_faults {
            true => self.network().port(),
            false => self.server().port(),
        };
        Postgres::environment_at(port, &self.name)
    }

    /// Creates a slot; on a cluster, one that survives a failover.
    pub(super) async fn create_slot(&self, client: &Client, slot: &str, plugin: &str) {
        let create = match self.kind() {
            DatabaseKind::Single => create_slot_sql(slot, plugin),
            DatabaseKind::Cluster => create_failover_slot_sql(slot, plugin),
        };
        execute(client, &create).await;
    }

    /// Waits until the standby has these slots, and advances them for that. False on a single server.
    pub(super) async fn synchronise_slots(&self, client: &Client, slots: &[&str]) -> bool {
        let Servers::Cluster(cluster) = &self.servers else {
            return false;
        };
        let advance =
            |slot: &&str| format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())");
        let advance: Vec<String> = slots.iter().map(advance).collect();
        let advance = advance.join(";");
        for slot in slots {
            cluster
                .wait_until_synced(slot, || execute(client, &advance))
                .await;
        }
        true
    }

    /// Drops a slot as soon as no session uses it.
    pub(super) async fn drop_slot(&self, slot: &str) {
        let client = self.session().await;
        wait::until("the play's slot is dropped", Duration::from_secs(600), || async {
            client.batch_execute(&drop_slot_sql(slot)).await.is_ok()
        })
        .await;
    }

    /// Kills the server that writes, and restarts it after `down`.
    ///
    /// It is killed with SIGKILL, and restarts on its disk.
    pub(super) async fn crash(&self, down: Duration) {
        self.server().crash().await;
        tokio::time::sleep(down).await;
        self.server().restart().await;
    }

    /// Kills a cluster's primary for good, and promotes the standby.
    ///
    /// The standby is promoted after `down`.
    pub(super) async fn fail_over(&self, down: Duration) {
        if let Servers::Cluster(cluster) = &self.servers {
            self.failed_over.store(true, Ordering::Relaxed);
            cluster.kill_primary().await;
            tokio::time::sleep(down).await;
            cluster.promote().await;
        }
    }

    /// Injects a fault between function and server, and waits for its end.
    pub(super) async fn inject_network_fault(&self, fault: ConnectionFault) {
        self.network().inject(fault).await;
    }

    /// Injects a fault between standby and primary of a cluster.
    ///
    /// It waits for the end of the fault.
    pub(super) async fn inject_standby_fault(&self, fault: ConnectionFault) {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.replication_proxy().inject(fault).await;
        }
    }

    /// Ends all network faults.
    pub(super) fn end_network_faults(&self) {
        self.network().clear();
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.replication_proxy().clear();
        }
    }

    /// Logs of the servers since their first start.
    pub(super) fn logs(&self) -> Vec<Log> {
        let servers = match &self.servers {
            Servers::Single(postgres, _) => vec![("postgres.log", &**postgres)],
            Servers::Cluster(cluster) => vec![
                ("postgres-primary.log", cluster.primary()),
                ("postgres-standby.log", cluster.standby()),
            ],
        };
        let servers = servers.into_iter();
        servers
            .map(|(name, server)| Log {
                name,
                text: server.log(),
            })
            .collect()
    }

    fn server(&self) -> &Postgres {
        match &self.servers {
            Servers::Single(postgres, _) => postgres,
            Servers::Cluster(cluster) => cluster.primary(),
        }
    }

    fn network(&self) -> &TcpProxy {
        match &self.servers {
            Servers::Single(_, proxy) => proxy,
            Servers::Cluster(cluster) => cluster.endpoint(),
        }
    }
}
