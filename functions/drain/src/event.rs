//! What an event asks for. Pure.

mod backfill;

pub use backfill::{BackfillCommand, BackfillRequest, MAX_CHUNK_ROWS};

use serde_json::{Map, Value};

use crate::lsn::Lsn;
use crate::plugin::Plugin;

/// What an invocation is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Drain the slot, as a tick does.
    Drain {
        /// The slot's position from which the operator wants to go on in spite of a break.
        accept_gap: Option<Lsn>,
    },
    /// Begin to read whole tables, or go about what was begun.
    Backfill(BackfillCommand),
    /// Create what is missing: publication, slot, first checkpoint.
    Setup {
        /// The plugin of a slot that is to be created.
        plugin: Plugin,
    },
    /// Tell how things stand.
    Status,
    /// Tell what a drain would send.
    Plan,
    /// Drop the slot, and delete the checkpoint and what is kept of a backfill.
    Teardown,
}

/// An event that says what cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what each means.
pub enum EventError {
    #[error("it must be a JSON object: {{}} for a tick, or {{\"action\": …}}")]
    NotAnObject,
    #[error("unknown action {0}: it may be drain, backfill, setup, status, plan or teardown")]
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
    Field {
        field: &'static str,
        expected: &'static str,
    },
}

impl Action {
    /// Reads an event. `{}` and whatever EventBridge or its scheduler sends is a tick.
    ///
    /// # Errors
    /// An unknown action or field; the error lists the known ones.
    pub fn parse(event: &Value) -> Result<Self, EventError> {
        let Value::Object(fields) = event else {
            return Err(EventError::NotAnObject);
        };
        let Some(action) = fields.get("action") else {
            let from_eventbridge = fields.contains_key("detail-type") || fields.contains_key("source");
            return match fields.keys().next() {
                Some(field) if !from_eventbridge => Err(EventError::UnknownField {
                    field: shortened(field),
                    action: "an event without action",
                    known: "no fields",
                }),
                _ => Ok(Action::Drain { accept_gap: None }),
            };
        };
        let Some(action) = action.as_str() else {
            return Err(EventError::Field {
                field: "action",
                expected: "the text drain, backfill, setup, status, plan or teardown",
            });
        };
        match action {
            "drain" => {
                only(fields, "drain", &["accept_gap"], "accept_gap")?;
                let wrong = EventError::Field {
                    field: "accept_gap",
                    expected: "the slot's confirmed_flush_lsn, as \"16/B374D848\"",
                };
                let accept_gap = match fields.get("accept_gap") {
                    None => None,
                    Some(lsn) => Some(lsn.as_str().and_then(|lsn| lsn.parse().ok()).ok_or(wrong)?),
                };
                Ok(Action::Drain { accept_gap })
            }
            "backfill" => BackfillCommand::parse(fields).map(Action::Backfill),
            "setup" => {
                only(fields, "setup", &["plugin"], "plugin")?;
                let wrong = EventError::Field {
                    field: "plugin",
                    expected: "pgoutput, wal2json or test_decoding",
                };
                let plugin = match fields.get("plugin") {
                    None => Plugin::Pgoutput,
                    Some(name) => name.as_str().and_then(|name| name.parse().ok()).ok_or(wrong)?,
                };
                Ok(Action::Setup { plugin })
            }
            "status" => only(fields, "status", &[], "no other fields").map(|()| Action::Status),
            "plan" => only(fields, "plan", &[], "no other fields").map(|()| Action::Plan),
            "teardown" => only(fields, "teardown", &[], "no other fields").map(|()| Action::Teardown),
            other => Err(EventError::UnknownAction(shortened(other))),
        }
    }
}

/// What is recognised by its beginning: an error is no place for a whole payload.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn only(
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
            field: shortened(field),
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
    fn a_tick_is_an_empty_object_or_what_eventbridge_sends() {
        let tick = Ok(Action::Drain { accept_gap: None });
        assert_eq!(Action::parse(&json!({})), tick);
        let scheduled = json!({"version": "0", "id": "x", "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{}"});
        assert_eq!(Action::parse(&scheduled), tick);
        assert_eq!(Action::parse(&json!({"action": "drain"})), tick);
    }

    #[test]
    fn actions_are_read_with_their_fields() {
        assert_eq!(Action::parse(&json!({"action": "status"})), Ok(Action::Status));
        assert_eq!(
            Action::parse(&json!({"action": "setup"})),
            Ok(Action::Setup {
                plugin: Plugin::Pgoutput
            })
        );
        let setup = json!({"action": "setup", "plugin": "wal2json"});
        assert_eq!(
            Action::parse(&setup),
            Ok(Action::Setup {
                plugin: Plugin::Wal2json
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
    fn anything_else_is_refused_with_what_is_known() {
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
