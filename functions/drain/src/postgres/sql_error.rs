//! Errors of SQL statements, classified by SQLSTATE.

use tokio_postgres::error::SqlState;

use super::connection::Connector;
use crate::plugin::Plugin;
use crate::ports::SlotError;

/// Whether the same statement may succeed later.
///
/// An error without a SQLSTATE means that the connection broke, which passes. Otherwise the class of the
/// SQLSTATE decides (PostgreSQL documentation, "PostgreSQL Error Codes"):
/// - 08: the connection broke. 40: the server rolled the transaction back.
/// - 53 and 58: the server lacked a resource, or the system below it failed.
/// - 55: the statement gave up waiting for a lock, or an object was not in the required state.
/// - 57: the server is starting or stopping, or cancelled the statement.
pub(crate) fn is_transient(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|state| {
        let class = state.code().get(..2);
        matches!(class, Some("08" | "40" | "53" | "55" | "57" | "58"))
    })
}

/// Whether the statement waited longer for a lock than `lock_timeout`.
pub(crate) fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the statement was cancelled, by its timeout or by request.
pub(crate) fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

/// PostgreSQL's message about a query that one table makes impossible.
///
/// # Errors
/// The query may succeed later.
pub(super) fn table_refusal(
    connector: &Connector,
    error: tokio_postgres::Error,
) -> Result<String, SlotError> {
    let message = error
        .as_db_error()
        .map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned());
    // These two belong to transient classes, but do not pass by themselves, and only this table has the
    // problem: a sort needs more disk than `temp_file_limit` allows, or a file of the table is gone.
    let is_of_table = matches!(
        error.code(),
        Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED | &SqlState::UNDEFINED_FILE)
    );
    match connector.failed("reading a table", error) {
        SlotError::Failed { transient: false, .. } => Ok(message),
        SlotError::Failed { .. } if is_of_table => Ok(message),
        error => Err(error),
    }
}

/// The slot that a statement concerns, for the statement's errors.
pub(crate) struct SlotContext<'a> {
    pub(crate) connector: &'a Connector,
    pub(crate) slot: &'a str,
    pub(crate) plugin: Plugin,
}

impl SlotContext<'_> {
    /// The error of a statement that failed. `doing` names the step.
    pub(crate) fn error(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        let Some(refusal) = error.as_db_error() else {
            return self.connector.failed(doing, error);
        };
        let (code, message) = (refusal.code().clone(), refusal.message().to_owned());
        let slot = self.slot.to_owned();
        match code {
            SqlState::OBJECT_IN_USE => SlotError::Busy { slot },
            SqlState::QUERY_CANCELED => SlotError::Timeout {
                slot,
                doing,
                source: Box::new(error),
            },
            SqlState::UNDEFINED_FILE => self.plugin_not_allowed(error),
            _ if message.contains("may not be used as an output plugin") => self.plugin_not_allowed(error),
            SqlState::INSUFFICIENT_PRIVILEGE if message.contains("replication") => {
                SlotError::RoleLacksReplication {
                    user: self.connector.user().to_owned(),
                    source: Box::new(error),
                }
            }
            SqlState::UNDEFINED_OBJECT if message.contains("publication") => SlotError::PublicationLater {
                slot,
                source: Box::new(error),
            },
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if message.contains("wal_level") => {
                SlotError::WalLevelNotLogical {
                    source: Box::new(error),
                }
            }
            _ => self.connector.failed(doing, error),
        }
    }

    fn plugin_not_allowed(&self, error: tokio_postgres::Error) -> SlotError {
        SlotError::PluginNotAllowed {
            slot: self.slot.to_owned(),
            plugin: self.plugin.to_string(),
            source: Box::new(error),
        }
    }
}
