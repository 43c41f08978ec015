//! Errors of SQL statements about a table or the slot.

use tokio_postgres::error::SqlState;

use super::connection::{Connector, Session};
use super::rows;
use super::sql_state::{is_cancelled, is_outage, message};
use crate::base::causes::BoxError;
use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::plugin::Plugin;
use crate::ports::SlotError;

/// PostgreSQL's message about a query that fails because of its table.
///
/// The message has no values of rows.
///
/// # Errors
/// The table is not the cause: the query may succeed later.
pub(super) fn table_refusal(
    connector: &Connector,
    error: tokio_postgres::Error,
) -> Result<String, SlotError> {
    let message = message(&error);
    // A sort needs more disk than `temp_file_limit` allows, or a file of the table is missing. Both SQLSTATEs
    // belong to transient classes, but a retry does not help. Only this table has the problem.
    let is_of_table = matches!(
        error.code(),
        Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED | &SqlState::UNDEFINED_FILE)
    );
    match connector.failed("reading a table", error) {
        SlotError::Failed {
            kind: ErrorKind::Definite,
            ..
        } => Ok(message),
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

/// The server's answers about the requirements of a statement on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirements {
    /// Whether the role may use replication slots.
    may_replicate: bool,
    /// Whether the slot exists.
    has_slot: bool,
    /// The setting `wal_level`.
    wal_level: String,
    /// The setting `output_plugin_libraries`.
    ///
    /// `None` if the release does not have it, or if the role may not read it.
    libraries: Option<String>,
}

/// A requirement that is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnmetRequirement {
    Replication,
    Plugin,
    Publication,
    WalLevel,
}

impl Requirements {
    /// The unmet requirement of a statement that failed with this SQLSTATE.
    ///
    /// `None` if all requirements are met. The SQLSTATE alone is not enough, since each has several causes.
    /// The message is not used, since it is in the language of the server.
    fn unmet(&self, state: &SqlState, plugin: Plugin) -> Option<UnmetRequirement> {
        let is_refused = |libraries: &String| !lists(libraries, plugin.name());
        match *state {
            SqlState::INSUFFICIENT_PRIVILEGE if !self.may_replicate => Some(UnmetRequirement::Replication),
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if self.wal_level != "logical" => {
                Some(UnmetRequirement::WalLevel)
            }
            // The object is the slot itself, or a publication.
            SqlState::UNDEFINED_OBJECT if self.has_slot && plugin.reads_publications() => {
                Some(UnmetRequirement::Publication)
            }
            // The library is not installed.
            SqlState::UNDEFINED_FILE if !plugin.is_built_in() => Some(UnmetRequirement::Plugin),
            // The SQLSTATE of this refusal is not known: no release with the setting was tried.
            _ if !is_outage(state) && self.libraries.as_ref().is_some_and(is_refused) => {
                Some(UnmetRequirement::Plugin)
            }
            _ => None,
        }
    }
}

/// Whether the server lacked temporary space or memory.
///
/// The server stores the whole result of a peek before it sends the first row. So a smaller window may
/// succeed. The SQLSTATE 53400 means that `temp_file_limit` was exceeded.
pub(super) fn is_out_of_space(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| {
        [
            SqlState::INSUFFICIENT_RESOURCES,
            SqlState::DISK_FULL,
            SqlState::OUT_OF_MEMORY,
            SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        ]
        .contains(state)
    })
}

/// Whether a setting that lists libraries, separated by commas, has this one.
fn lists(libraries: &str, library: &str) -> bool {
    let names = libraries.split(',').map(|name| name.trim().trim_matches('"'));
    let mut names = names.map(|name| name.rsplit('/').next().unwrap_or(name));
    names.any(|name| name == library || name == "*")
}

/// [`Requirements`] of the slot $1.
const REQUIREMENTS: &str = concat!(
    "select ",
    include_str!("may_replicate.sql"),
    " as may_replicate,
      exists (select from pg_replication_slots s where s.slot_name = $1) as has_slot,
      current_setting('wal_level') as wal_level,
      (select setting from pg_settings where name = 'output_plugin_libraries') as libraries"
);

/// The position of the slot $1.
const CONFIRMED: &str = "select confirmed_flush_lsn from pg_replication_slots where slot_name = $1";

impl SlotContext<'_> {
    /// The error of a window with a skipped publication.
    ///
    /// A publication did not exist at one of the window's changes. `session` reads the slot's position for
    /// the error.
    pub(crate) async fn publication_skipped(&self, session: &Session, source: BoxError) -> SlotError {
        match session.client.query_one(CONFIRMED, &[&self.slot]).await {
            Ok(row) => SlotError::PublicationSkipped {
                slot: self.slot.to_owned(),
                confirmed: rows::optional_lsn(&row, "confirmed_flush_lsn").unwrap_or(Lsn::ZERO),
                source,
            },
            Err(error) => self.error("reading the slot's position", error),
        }
    }

    /// The error of a statement that failed, by its SQLSTATE alone. `doing` names the step.
    pub(crate) fn error(&self, doing: &'static str, error: tokio_postgres::Error) -> SlotError {
        let slot = self.slot.to_owned();
        match error.code() {
            Some(&SqlState::OBJECT_IN_USE) => SlotError::Busy { slot, holder: None },
            Some(_) if is_cancelled(&error) => SlotError::Timeout {
                slot,
                doing,
                source: Box::new(error),
            },
            // A row of the plugin has at most 1 GB, the limit of every value in PostgreSQL.
            Some(&SqlState::PROGRAM_LIMIT_EXCEEDED) => SlotError::RowOverServerLimit {
                slot,
                source: Box::new(error),
            },
            _ => self.connector.failed(doing, error),
        }
    }

    /// The error of a failed statement; it names an unmet requirement.
    ///
    /// `session` reads which requirement is not met. If all are met, or this query fails, the error names
    /// none.
    pub(crate) async fn explained(
        &self,
        session: &Session,
        doing: &'static str,
        error: tokio_postgres::Error,
    ) -> SlotError {
        let state = match error.code() {
            None | Some(&SqlState::OBJECT_IN_USE) => return self.error(doing, error),
            Some(_) if is_cancelled(&error) => return self.error(doing, error),
            Some(state) => state.clone(),
        };
        let row = session.client.query_one(REQUIREMENTS, &[&self.slot]).await;
        let requirements = row.ok().map(|row| Requirements {
            may_replicate: row.get::<_, Option<bool>>("may_replicate").unwrap_or(true),
            has_slot: row.get("has_slot"),
            wal_level: row.get("wal_level"),
            libraries: row.get("libraries"),
        });
        let unmet = requirements.and_then(|requirements| requirements.unmet(&state, self.plugin));
        let (slot, source) = (self.slot.to_owned(), Box::new(error));
        match unmet {
            None => self.error(doing, *source),
            Some(UnmetRequirement::Replication) => SlotError::RoleLacksReplication {
                user: self.connector.user().to_owned(),
                source,
            },
            Some(UnmetRequirement::Plugin) => SlotError::PluginNotAllowed {
                slot,
                plugin: self.plugin.to_string(),
                source,
            },
            Some(UnmetRequirement::Publication) => self.publication_skipped(session, source).await,
            Some(UnmetRequirement::WalLevel) => SlotError::WalLevelNotLogical { source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sqlstate_and_the_server_show_the_unmet_requirement() {
        let met = Requirements {
            may_replicate: true,
            has_slot: true,
            wal_level: "logical".into(),
            libraries: None,
        };
        let unmet =
            |requirements: &Requirements, state: SqlState, plugin: Plugin| requirements.unmet(&state, plugin);
        let no_role = Requirements {
            may_replicate: false,
            ..met.clone()
        };
        let denied = SqlState::INSUFFICIENT_PRIVILEGE;
        assert_eq!(
            unmet(&no_role, denied.clone(), Plugin::Pgoutput),
            Some(UnmetRequirement::Replication)
        );
        assert_eq!(unmet(&met, denied.clone(), Plugin::Pgoutput), None);
        let undefined = SqlState::UNDEFINED_OBJECT;
        assert_eq!(
            unmet(&met, undefined.clone(), Plugin::Pgoutput),
            Some(UnmetRequirement::Publication)
        );
        assert_eq!(unmet(&met, undefined.clone(), Plugin::Wal2json), None);
        let no_slot = Requirements {
            has_slot: false,
            ..met.clone()
        };
        assert_eq!(unmet(&no_slot, undefined, Plugin::Pgoutput), None);
        let physical = Requirements {
            wal_level: "replica".into(),
            ..met.clone()
        };
        let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        assert_eq!(
            unmet(&physical, state.clone(), Plugin::Pgoutput),
            Some(UnmetRequirement::WalLevel)
        );
        assert_eq!(unmet(&met, state, Plugin::Pgoutput), None);
        assert_eq!(
            unmet(&met, SqlState::UNDEFINED_FILE, Plugin::Wal2json),
            Some(UnmetRequirement::Plugin)
        );
        let listed = Requirements {
            libraries: Some("pgoutput, test_decoding".into()),
            ..met
        };
        assert_eq!(
            unmet(&listed, denied.clone(), Plugin::Wal2json),
            Some(UnmetRequirement::Plugin)
        );
        assert_eq!(unmet(&listed, denied, Plugin::Pgoutput), None);
        assert_eq!(unmet(&listed, SqlState::ADMIN_SHUTDOWN, Plugin::Wal2json), None);
    }

    #[test]
    fn a_library_is_found_in_a_setting_that_lists_it() {
        assert!(lists("pgoutput, test_decoding,wal2json", "wal2json"));
        assert!(lists("\"$libdir/wal2json\"", "wal2json"));
        assert!(!lists("pgoutput, test_decoding", "wal2json"));
        assert!(!lists("", "wal2json"));
    }
}
