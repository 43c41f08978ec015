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
    /// A server of its own with an empty database.
    pub(super) async fn single(database: &str) -> Self {
        let settings = Settings {
            trust: true,
            conf: CONF.to_owned(),
            ..Settings::default()
        };
        let postgres = Postgres::start(settings).await;
        postgres.create_database(database).await;
        Self {
            postgres,
            database: database.to_owned(),
        }
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
