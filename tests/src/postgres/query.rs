//! SQL that has to succeed.
//!
//! Each function panics with the statement and the error of the server.

use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row};

/// Executes statements.
pub async fn execute(client: &Client, sql: &str) {
    let executed = client.batch_execute(sql).await;
    executed.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// All rows of a query.
pub async fn rows(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
    let rows = client.query(sql, parameters).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// The only row of a query.
pub async fn row(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Row {
    let row = client.query_one(sql, parameters).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// First column of the only row of a query.
pub async fn value<T: for<'a> FromSql<'a>>(client: &Client, sql: &str) -> T {
    row(client, sql, &[]).await.get(0)
}
