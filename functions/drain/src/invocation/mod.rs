//! The action that an event requests. Pure.

mod backfill;

pub use backfill::{BackfillCommand, BackfillRequest, MAX_CHUNK_ROWS};

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::base::error_kind::ErrorKind;
use crate::base::lsn::Lsn;
use crate::base::shown_text::shown;
use crate::plugin::Plugin;

/// The action of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Drain the slot, as a tick does.
    Drain {
        /// The slot's position at which the operator accepts a gap.
        ///
        /// The drain continues from this position.
        accept_gap: Option<Lsn>,
    },
    /// Start a backfill, or control the pending one.
    Backfill(BackfillCommand),
    /// Create missing objects: publications, slot and first checkpoint.
    Setup {
        /// The plugin of a new slot; `None` for the default.
        ///
        /// The default is the checkpoint's plugin, or pgoutput without a checkpoint. An existing slot must
        /// have the given plugin.
        plugin: Option<Plugin>,
    },
    /// Report state and problems: server, slot, checkpoint, stream and backfill.
    Status,
    /// Forecast the records of a drain.
    Plan {
        /// Whether the answer has partition keys. Otherwise it has their hashes.
        names_keys: bool,
    },
    /// Drop the slot, and delete the stored documents.
    Teardown,
}

impl Action {
    /// The name of the action in events and answers.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Drain { .. } => "drain",
            Action::Backfill(_) => "backfill",
            Action::Setup { .. } => "setup",
            Action::Status => "status",
            Action::Plan { .. } => "plan",
            Action::Teardown => "teardown",
        }
    }
}

/// The names of the actions, for errors.
const ACTIONS: &str = "drain, backfill, setup, status, plan or teardown";

/// An event that requests no valid action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages describe the variants.
pub enum EventError {
    #[error("it must be a JSON object: {{}} for a tick, or {{\"action\": …}}")]
    NotAnObject,
    #[error("unknown action {0}: it may be {actions}", actions = ACTIONS)]
    UnknownAction(String),
    #[error("unknown field {field}: {action} takes {known}")]
    UnknownField {
        field: String,
        action: &'static str,
        known: &'static str,
    },
    #[error("field {field} is missing: {action} takes {known}")]
    MissingField {
        field: &'static str,
        action: &'static str,
        known: &'static str,
    },
    #[error("field {field} must be {expected}")]
    InvalidField {
        field: &'static str,
        expected: Cow<'static, str>,
    },
}

impl EventError {
    /// The stable `errorType`.
    pub fn name(&self) -> &'static str {
        "EventInvalid"
    }

    /// Kind of the error: always definite.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

/// The known fields of an action that has only `action`, for errors.
const NO_OTHER_FIELDS: &str = "no other fields";

impl Action {
    /// Parses an event. `{}` is a tick, and so is any event of EventBridge or its scheduler.
    ///
    /// # Errors
    /// An action or field is unknown, or a field is missing or invalid. The error states what is valid.
    pub fn parse(event: &Value) -> Result<Self, EventError> {
        let Value::Object(fields) = event else {
            return Err(EventError::NotAnObject);
        };
        let Some(action) = fields.get("action") else {
            return parse_tick(fields);
        };
        let Some(action) = action.as_str() else {
            return Err(EventError::InvalidField {
                field: "action",
                expected: format!("one of {ACTIONS}").into(),
            });
        };
        match action {
            "drain" => parse_drain(fields),
            "backfill" => BackfillCommand::parse(fields).map(Action::Backfill),
            "setup" => parse_setup(fields),
            "status" => check_fields(fields, "status", &[], NO_OTHER_FIELDS).map(|()| Action::Status),
            "plan" => parse_plan(fields),
            "teardown" => check_fields(fields, "teardown", &[], NO_OTHER_FIELDS).map(|()| Action::Teardown),
            other => Err(EventError::UnknownAction(shown(other))),
        }
    }
}

/// Parses an event without an action.
fn parse_tick(fields: &Map<String, Value>) -> Result<Action, EventError> {
    let is_from_eventbridge = fields.contains_key("detail-type") || fields.contains_key("source");
    match fields.keys().next() {
        Some(field) if !is_from_eventbridge => Err(EventError::UnknownField {
            field: shown(field),
            action: "an event without action",
            known: "no fields",
        }),
        _ => Ok(Action::Drain { accept_gap: None }),
    }
}

fn parse_drain(fields: &Map<String, Value>) -> Result<Action, EventError> {
    check_fields(fields, "drain", &["accept_gap"], "accept_gap")?;
    let invalid = EventError::InvalidField {
        field: "accept_gap",
        expected: "the slot's confirmed_flush_lsn, as \"16/B374D848\"".into(),
    };
    let accept_gap = match fields.get("accept_gap") {
        None => None,
        Some(lsn) => Some(lsn.as_str().and_then(|lsn| lsn.parse().ok()).ok_or(invalid)?),
    };
    Ok(Action::Drain { accept_gap })
}

fn parse_setup(fields: &Map<String, Value>) -> Result<Action, EventError> {
    check_fields(fields, "setup", &["plugin"], "plugin")?;
    let invalid = EventError::InvalidField {
        field: "plugin",
        expected: Plugin::NAMES.into(),
    };
    let plugin = match fields.get("plugin") {
        None => None,
        Some(name) => Some(name.as_str().and_then(|name| name.parse().ok()).ok_or(invalid)?),
    };
    Ok(Action::Setup { plugin })
}

fn parse_plan(fields: &Map<String, Value>) -> Result<Action, EventError> {
    check_fields(fields, "plan", &["keys"], "keys")?;
    let names_keys = match fields.get("keys") {
        None => Some(false),
        Some(keys) => keys.as_bool(),
    };
    let invalid = EventError::InvalidField {
        field: "keys",
        expected: "true or false".into(),
    };
    names_keys
        .map(|names_keys| Action::Plan { names_keys })
        .ok_or(invalid)
}

/// Checks that an event has only the allowed fields and `action`.
fn check_fields(
    fields: &Map<String, Value>,
    action: &'static str,
    allowed: &[&str],
    known: &'static str,
) -> Result<(), EventError> {
    match fields
        .keys()
        .find(|field| *field != "action" && !allowed.contains(&field.as_str()))
    {
        Some(field) => Err(EventError::UnknownField {
            field: shown(field),
            action,
            known,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_object_or_an_event_of_eventbridge_is_a_tick() {
        let tick = Ok(Action::Drain { accept_gap: None });
        assert_eq!(Action::parse(&json!({})), tick);
        let scheduled = json!({
            "version": "0", "id": "x", "detail-type": "Scheduled Event", "source": "aws.scheduler",
            "detail": "{}",
        });
        assert_eq!(Action::parse(&scheduled), tick);
        assert_eq!(Action::parse(&json!({"action": "drain"})), tick);
    }

    #[test]
    fn actions_are_parsed_with_their_fields() {
        assert_eq!(Action::parse(&json!({"action": "status"})), Ok(Action::Status));
        assert_eq!(
            Action::parse(&json!({"action": "setup"})),
            Ok(Action::Setup { plugin: None })
        );
        let setup = json!({"action": "setup", "plugin": "wal2json"});
        assert_eq!(
            Action::parse(&setup),
            Ok(Action::Setup {
                plugin: Some(Plugin::Wal2json)
            })
        );
        let accept = json!({"action": "drain", "accept_gap": "0/10"});
        assert_eq!(
            Action::parse(&accept),
            Ok(Action::Drain {
                accept_gap: Some(Lsn(16))
            })
        );
    }

    #[test]
    fn other_events_are_refused_with_the_known_fields() {
        let refused = [
            (json!(null), "must be a JSON object"),
            (json!([]), "must be a JSON object"),
            (json!({"actoin": "drain"}), "unknown field actoin"),
            (json!({"action": 1}), "field action"),
            (
                json!({"action": "flush"}),
                "drain, backfill, setup, status, plan or teardown",
            ),
            (
                json!({"action": "drain", "acceptgap": "0/1"}),
                "drain takes accept_gap",
            ),
            (json!({"action": "drain", "accept_gap": 7}), "field accept_gap"),
            (
                json!({"action": "setup", "plugin": "decoderbufs"}),
                "field plugin",
            ),
            (json!({"action": "status", "x": 1}), "unknown field x"),
        ];
        for (event, part) in refused {
            let error = Action::parse(&event).unwrap_err().to_string();
            assert!(error.contains(part), "{event}: {error}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_long_payload() {
        let long = "x".repeat(1000);
        for event in [
            json!({&long: 1}),
            json!({"action": &long}),
            json!({"action": "status", &long: 1}),
            json!({"action": "backfill", &long: 1}),
            json!({"action": "backfill", "tables": [&long]}),
            json!({"action": "backfill", "cancel": true, &long: 1}),
        ] {
            assert!(Action::parse(&event).unwrap_err().to_string().len() < 200);
        }
    }
}
