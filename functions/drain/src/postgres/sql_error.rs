//! Errors of SQL statements: what the SQLSTATE of a refusal means for a slot.

use tokio_postgres::error::SqlState;

use super::connection::Connector;
use crate::plugin::Plugin;
use crate::ports::SlotError;

/// Whether the statement may pass later: the connection broke, the server is starting or stopping, it lacked a
/// resource, or it gave up waiting. Decided by the class of the SQLSTATE.
pub(crate) fn is_transient(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|state| {
        let class = state.code().get(..2);
        matches!(class, Some("08" | "40" | "53" | "55" | "57" | "58"))
    })
}

/// Whether the statement gave up waiting for a lock.
pub(crate) fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the statement was cancelled, by its timeout or by request.
pub(crate) fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

/// The slot that a statement was about, for its errors.
pub(crate) struct SlotRefusal<'a> {
    pub(crate) connector: &'a Connector,
    pub(crate) slot: &'a str,
    pub(crate) plugin: Plugin,
}

impl SlotRefusal<'_> {
    /// The error of a statement about the slot that the server refused.
    pub(crate) fn error(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        let Some(refusal) = error.as_db_error() else {
            return self.connector.failed(doing, error);
        };
        let (code, text) = (refusal.code().clone(), refusal.message().to_owned());
        let slot = self.slot.to_owned();
        match code {
            SqlState::OBJECT_IN_USE => SlotError::Busy { slot },
            SqlState::QUERY_CANCELED => SlotError::Timeout {
                slot,
                doing,
                source: Box::new(error),
            },
            SqlState::UNDEFINED_FILE => self.plugin_not_allowed(error),
            _ if text.contains("may not be used as an output plugin") => self.plugin_not_allowed(error),
            SqlState::INSUFFICIENT_PRIVILEGE if text.contains("replication") => {
                SlotError::RoleLacksReplication {
                    user: self.connector.user().to_owned(),
                    source: Box::new(error),
                }
            }
            SqlState::UNDEFINED_OBJECT if text.contains("publication") => SlotError::PublicationLater {
                slot,
                source: Box::new(error),
            },
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if text.contains("wal_level") => {
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
