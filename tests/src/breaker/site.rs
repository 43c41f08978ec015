//! Where the database is: a server that crashes and comes back.

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::{Postgres, Settings};

/// A database, wherever it is now.
#[derive(Debug)]
pub(super) struct Site {
    postgres: Postgres,
    database: String,
}

/// Deadlocks are part of the play. Nothing but writers may write.
const CONF: &str = "autovacuum = off\ndeadlock_timeout = '100ms'\nshared_buffers = '32MB'\n";

impl Site {
    /// A server of its own, without the database.
    pub(super) async fn make() -> Self {
        let settings = Settings {
            trust: true,
            conf: CONF.to_owned(),
            ..Settings::default()
        };
        Self {
            postgres: Postgres::start(settings).await,
            database: String::new(),
        }
    }

    /// An empty database of this name.
    pub(super) async fn settle(&mut self, database: &str) {
        self.postgres.create_database(database).await;
        database.clone_into(&mut self.database);
    }

    /// Drops the database and its slots.
    pub(super) async fn clear(&mut self) {
        self.postgres.drop_database(&self.database).await;
    }

    /// The database, which has the name of the play.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// A session of the superuser.
    ///
    /// # Errors
    /// The server is down or starts.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.postgres.try_admin(&self.database).await
    }

    /// By which variables the function finds it.
    pub(super) fn environment(&self) -> [(String, String); 6] {
        self.postgres.environment(&self.database)
    }

    /// The server loses its power for so long, and keeps its disk.
    pub(super) async fn crash(&self, down: Duration) {
        self.postgres.crash().await;
        tokio::time::sleep(down).await;
        self.postgres.restart().await;
    }
}
