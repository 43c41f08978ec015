//! Where the database is: a server that crashes and comes back, or a cluster of which one takes over; and the network before
//! it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::cluster::Cluster;
use crate::postgres::tcp_proxy::{ConnectionFault, TcpProxy};
use crate::postgres::{Postgres, PostgresSettings, REPLUSER};

/// Deadlocks are part of the play, and nobody but its writers may write. A standby that was cut off is back soon.
const CONF: &str = "autovacuum = off\ndeadlock_timeout = '100ms'\nshared_buffers = '32MB'\n\
     wal_sender_timeout = '2s'\nwal_receiver_timeout = '2s'\n";

/// The kinds of sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's PostgreSQL.
    Single,
    /// PostgreSQL 17 and its synchronous standby, with failover slots.
    Cluster,
}

/// A database, wherever it is now.
#[derive(Debug)]
pub(crate) struct Site {
    servers: Servers,
    database: String,
    failed_over: AtomicBool,
}

#[derive(Debug)]
enum Servers {
    Single(Box<Postgres>, TcpProxy),
    Cluster(Box<Cluster>),
}

impl Site {
    /// Servers of their own, without the database.
    pub(crate) async fn make(kind: Kind) -> Self {
        let settings = PostgresSettings {
            trust: true,
            version: (kind == Kind::Cluster).then_some(17),
            conf: CONF.to_owned(),
            ..PostgresSettings::default()
        };
        let servers = match kind {
            Kind::Single => {
                let postgres = Box::new(Postgres::start(settings).await);
                let proxy = TcpProxy::open(postgres.port()).await;
                Servers::Single(postgres, proxy)
            }
            Kind::Cluster => Servers::Cluster(Box::new(Cluster::start(settings).await)),
        };
        Self {
            servers,
            database: String::new(),
            failed_over: AtomicBool::new(false),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.servers {
            Servers::Single(..) => Kind::Single,
            Servers::Cluster(_) => Kind::Cluster,
        }
    }

    /// An empty database of this name. The function may see how far the standby is, or may not.
    pub(crate) async fn settle(&mut self, database: &str, sees_standby: bool) {
        self.server().create_database(database).await;
        database.clone_into(&mut self.database);
        let verb = if sees_standby {
            "grant pg_monitor to"
        } else {
            "revoke pg_monitor from"
        };
        let sql = format!("{verb} {}", REPLUSER.0);
        let admin = self.server().admin("postgres").await;
        admin
            .batch_execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Drops the database and its slots, and makes the cluster whole again.
    pub(crate) async fn clear(&mut self) {
        self.server().drop_database(&self.database).await;
        if let (true, Servers::Cluster(cluster)) =
            (self.failed_over.swap(false, Ordering::Relaxed), &self.servers)
        {
            cluster.rejoin().await;
        }
    }

    /// The database, which has the name of the play.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// A session of the superuser with the server that writes.
    ///
    /// # Errors
    /// The server is down or starts.
    pub(crate) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.server().try_admin(&self.database).await
    }

    /// By which variables the function finds it.
    pub(crate) fn environment(&self) -> [(String, String); 6] {
        Postgres::environment_at(self.network().port(), &self.database)
    }

    /// Creates a slot: one that outlives a failover, on a cluster.
    pub(crate) async fn create_slot(&self, client: &Client, slot: &str, plugin: &str) {
        let failover = match self.kind() {
            Kind::Single => "",
            Kind::Cluster => ", false, false, true",
        };
        let create = format!("select pg_create_logical_replication_slot('{slot}', '{plugin}'{failover})");
        super::run(client, &create).await;
    }

    /// Waits until these slots would outlive a failover, which moves them to the end of the log. False when there is none.
    pub(crate) async fn keep_slots(&self, client: &Client, slots: &[&str]) -> bool {
        let Servers::Cluster(cluster) = &self.servers else {
            return false;
        };
        let advance =
            |slot: &&str| format!("select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())");
        let advance: Vec<String> = slots.iter().map(advance).collect();
        let advance = advance.join(";");
        for slot in slots {
            cluster
                .wait_until_synced(slot, || super::run(client, &advance))
                .await;
        }
        true
    }

    /// The server that writes loses its power for so long, and keeps its disk.
    pub(crate) async fn crash(&self, down: Duration) {
        self.server().crash().await;
        tokio::time::sleep(down).await;
        self.server().restart().await;
    }

    /// The server that writes loses its power for ever; after so long the standby takes its place.
    pub(crate) async fn fail_over(&self, down: Duration) {
        if let Servers::Cluster(cluster) = &self.servers {
            self.failed_over.store(true, Ordering::Relaxed);
            cluster.kill_primary().await;
            tokio::time::sleep(down).await;
            cluster.promote().await;
        }
    }

    /// The way from the function to the server suffers.
    pub(crate) async fn suffer(&self, fault: ConnectionFault) {
        self.network().inject(fault).await;
    }

    /// The way from the standby to the primary suffers.
    pub(crate) async fn suffer_within(&self, fault: ConnectionFault) {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.replication_proxy().inject(fault).await;
        }
    }

    /// Nothing suffers any more.
    pub(crate) fn calm(&self) {
        self.network().clear();
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.replication_proxy().clear();
        }
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
