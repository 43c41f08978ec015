//! Errors of SQL statements about a table or the slot.

use tokio_postgres::error::SqlState;

use super::connection::Connector;
use crate::plugin::Plugin;
use crate::ports::SlotError;

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
            SqlState::INSUFFICIENT_PRIVILEGE if message.contains("replication") => {
                SlotError::RoleLacksReplication {
                    user: self.connector.user().to_owned(),
                    source: Box::new(error),
                }
            }
            // A row of the plugin has at most 1 GB, as every value has.
            SqlState::PROGRAM_LIMIT_EXCEEDED => SlotError::RowOverServerLimit {
                slot,
                source: Box::new(error),
            },
            SqlState::UNDEFINED_FILE => self.plugin_not_allowed(error),
            _ if message.contains("may not be used as an output plugin") => self.plugin_not_allowed(error),
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
