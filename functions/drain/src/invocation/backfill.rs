//! The fields of an invocation that start or control a backfill.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{EventError, NO_OTHER_FIELDS, check_fields};
use crate::rules::pattern::TablePattern;

/// The command of a backfill event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackfillCommand {
    /// Start a backfill.
    Start {
        /// Its tables, rows and columns.
        request: BackfillRequest,
        /// Whether this invocation begins to read. Otherwise the next tick begins.
        reads_now: bool,
    },
    /// Cancel the pending backfill.
    Cancel,
    /// Pause the pending backfill.
    Pause,
    /// Resume the paused backfill.
    Resume {
        /// Whether this invocation continues to read. Otherwise the next tick continues.
        reads_now: bool,
    },
}

/// The request of a backfill: tables, rows and columns to read.
///
/// It is stored with the field names of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackfillRequest {
    /// The tables; empty for all.
    #[serde(serialize_with = "write_tables", deserialize_with = "stored_tables")]
    pub tables: Vec<TablePattern>,
    /// The SQL condition that a row must meet.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The columns, by name; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Most rows of one chunk, from 1 to [`MAX_CHUNK_ROWS`].
    ///
    /// Time and bytes also limit a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_rows: Option<u32>,
    /// Whether consumers may delete the rows that no longer exist.
    ///
    /// If so, the backfill sends a control event at its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repair: bool,
}

/// The fields of a backfill event.
const KNOWN: &str = "tables, where, columns, chunk_rows, repair and wait, or one of cancel, pause and resume";

/// Most rows of a chunk. All rows of a chunk are in memory.
pub const MAX_CHUNK_ROWS: u32 = 1_000_000;

impl BackfillCommand {
    pub(super) fn parse(fields: &Map<String, Value>) -> Result<Self, EventError> {
        for (field, action, command) in [
            ("cancel", "backfill with cancel", BackfillCommand::Cancel),
            ("pause", "backfill with pause", BackfillCommand::Pause),
        ] {
            if is_set(fields, field)? {
                check_fields(fields, action, &[field], NO_OTHER_FIELDS)?;
                return Ok(command);
            }
        }
        let reads_now = is_set(fields, "wait")?;
        if is_set(fields, "resume")? {
            check_fields(fields, "backfill with resume", &["resume", "wait"], "wait")?;
            return Ok(BackfillCommand::Resume { reads_now });
        }
        let request = BackfillRequest::parse(fields)?;
        Ok(BackfillCommand::Start { request, reads_now })
    }
}

impl BackfillRequest {
    fn parse(fields: &Map<String, Value>) -> Result<Self, EventError> {
        let repair = is_set(fields, "repair")?;
        if repair {
            let allowed = ["repair", "tables", "chunk_rows", "wait"];
            let known = "tables, chunk_rows and wait";
            check_fields(fields, "backfill with repair", &allowed, known)?;
        } else {
            check_fields(
                fields,
                "backfill",
                &["tables", "where", "columns", "chunk_rows", "wait"],
                KNOWN,
            )?;
        }
        let expected = "\"all\" or a list of patterns like public.orders, public.* or *.orders";
        let tables = match optional(fields, "tables", expected, tables)? {
            Some(tables) => tables,
            None if repair => Vec::new(),
            None => {
                return Err(EventError::MissingField {
                    field: "tables",
                    action: "backfill",
                    known: KNOWN,
                });
            }
        };
        let expected_rows = format!("a whole number from 1 to {MAX_CHUNK_ROWS}");
        Ok(BackfillRequest {
            tables,
            condition: optional(fields, "where", "a condition in SQL, as \"id > 5\"", text)?,
            columns: optional(fields, "columns", "a list of names, each of them once", names)?
                .unwrap_or_default(),
            chunk_rows: optional(fields, "chunk_rows", expected_rows, rows)?,
            repair,
        })
    }
}

/// The parsed value of an optional field.
///
/// `None` if the field is missing.
fn optional<T>(
    fields: &Map<String, Value>,
    field: &'static str,
    expected: impl Into<Cow<'static, str>>,
    parse: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, EventError> {
    let invalid = || EventError::InvalidField {
        field,
        expected: expected.into(),
    };
    fields
        .get(field)
        .map(|value| parse(value).ok_or_else(invalid))
        .transpose()
}

/// Whether a field is set. Its only valid value is `true`.
fn is_set(fields: &Map<String, Value>, field: &'static str) -> Result<bool, EventError> {
    let parse = |value: &Value| (*value == Value::Bool(true)).then_some(());
    Ok(optional(fields, field, "true, or left out", parse)?.is_some())
}

/// The table patterns of an event; empty for all.
fn tables(value: &Value) -> Option<Vec<TablePattern>> {
    match value {
        Value::String(word) if word == "all" => Some(Vec::new()),
        Value::Array(texts) if !texts.is_empty() => {
            texts.iter().map(|text| text.as_str()?.parse().ok()).collect()
        }
        _ => None,
    }
}

fn write_tables<S: Serializer>(tables: &[TablePattern], serializer: S) -> Result<S::Ok, S::Error> {
    match tables {
        [] => serializer.serialize_str("all"),
        tables => tables.serialize(serializer),
    }
}

fn stored_tables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TablePattern>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    tables(&value).ok_or_else(|| D::Error::custom("tables are neither \"all\" nor a list of patterns"))
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}

fn names(value: &Value) -> Option<Vec<String>> {
    let names: Vec<&str> = value
        .as_array()?
        .iter()
        .map(Value::as_str)
        .collect::<Option<_>>()?;
    let distinct: BTreeSet<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    let is_valid = !names.is_empty() && distinct.len() == names.len();
    is_valid.then(|| names.into_iter().map(str::to_owned).collect())
}

fn rows(value: &Value) -> Option<u32> {
    let rows = u32::try_from(value.as_u64()?).ok()?;
    (1..=MAX_CHUNK_ROWS).contains(&rows).then_some(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::invocation::Action;

    /// The command of an event with these fields.
    fn parse(mut fields: Value) -> Result<BackfillCommand, EventError> {
        fields["action"] = json!("backfill");
        match Action::parse(&fields)? {
            Action::Backfill(backfill) => Ok(backfill),
            other => panic!("{other:?}"),
        }
    }

    fn all() -> BackfillRequest {
        BackfillRequest {
            tables: Vec::new(),
            condition: None,
            columns: Vec::new(),
            chunk_rows: None,
            repair: false,
        }
    }

    fn patterns(texts: &[&str]) -> Vec<TablePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_start_has_tables_and_optional_fields() {
        assert_eq!(
            parse(json!({"tables": "all"})),
            Ok(BackfillCommand::Start {
                request: all(),
                reads_now: false
            })
        );
        let fields = json!({
            "tables": ["public.accounts", "audit.*", "a\\.b.c"], "where": "id > 5", "columns": ["b", "a"],
            "chunk_rows": 1_000_000,
        });
        let request = BackfillRequest {
            tables: patterns(&["public.accounts", "audit.*", "a\\.b.c"]),
            condition: Some("id > 5".into()),
            columns: vec!["b".into(), "a".into()],
            chunk_rows: Some(1_000_000),
            repair: false,
        };
        assert_eq!(
            parse(fields),
            Ok(BackfillCommand::Start {
                request,
                reads_now: false
            })
        );
    }

    #[test]
    fn a_repair_without_tables_repairs_all() {
        let repair = |tables: &[&str], chunk_rows| {
            let tables = patterns(tables);
            let request = BackfillRequest {
                tables,
                chunk_rows,
                repair: true,
                ..all()
            };
            Ok(BackfillCommand::Start {
                request,
                reads_now: false,
            })
        };
        assert_eq!(parse(json!({"repair": true})), repair(&[], None));
        assert_eq!(parse(json!({"repair": true, "tables": "all"})), repair(&[], None));
        let fields = json!({"repair": true, "tables": ["*.t"], "chunk_rows": 1});
        assert_eq!(parse(fields), repair(&["*.t"], Some(1)));
    }

    #[test]
    fn the_pending_backfill_is_cancelled_paused_or_resumed() {
        assert_eq!(parse(json!({"cancel": true})), Ok(BackfillCommand::Cancel));
        assert_eq!(parse(json!({"pause": true})), Ok(BackfillCommand::Pause));
        for reads_now in [false, true] {
            let mut fields = json!({"resume": true});
            let mut start = json!({"tables": "all"});
            if reads_now {
                fields["wait"] = json!(true);
                start["wait"] = json!(true);
            }
            assert_eq!(parse(fields), Ok(BackfillCommand::Resume { reads_now }));
            let request = all();
            assert_eq!(parse(start), Ok(BackfillCommand::Start { request, reads_now }));
        }
        assert!(parse(json!({"pause": true, "wait": true})).is_err());
    }

    #[test]
    fn other_events_are_refused_with_the_known_fields() {
        let takes = "backfill takes tables, where, columns, chunk_rows, repair and wait, \
                     or one of cancel, pause and resume";
        let tables =
            "field tables must be \"all\" or a list of patterns like public.orders, public.* or *.orders";
        let columns = "field columns must be a list of names, each of them once";
        let rows = "field chunk_rows must be a whole number from 1 to 1000000";
        let refused = [
            (json!({}), "field tables is missing"),
            (json!({}), takes),
            (json!({"where": "id > 5"}), takes),
            (json!({"table": "public.t"}), "unknown field table"),
            (json!({"table": "public.t"}), takes),
            (json!({"tables": null}), tables),
            (json!({"tables": []}), tables),
            (json!({"tables": "public.t"}), tables),
            (json!({"tables": ["all"]}), tables),
            (json!({"tables": ["public.t", 1]}), tables),
            (json!({"tables": ["public.t", "a.b.c"]}), tables),
            (
                json!({"tables": "all", "where": " "}),
                "field where must be a condition in SQL",
            ),
            (
                json!({"tables": "all", "where": ["id > 5"]}),
                "field where must be a condition in SQL",
            ),
            (json!({"tables": "all", "columns": "a"}), columns),
            (json!({"tables": "all", "columns": []}), columns),
            (json!({"tables": "all", "columns": ["a", ""]}), columns),
            (json!({"tables": "all", "columns": ["a", "b", "a"]}), columns),
            (json!({"tables": "all", "chunk_rows": 0}), rows),
            (json!({"tables": "all", "chunk_rows": 1_000_001}), rows),
            (json!({"tables": "all", "chunk_rows": 1.5}), rows),
            (json!({"tables": "all", "chunk_rows": "10"}), rows),
            (
                json!({"tables": "all", "repair": false}),
                "field repair must be true, or left out",
            ),
            (
                json!({"repair": true, "where": "id > 5"}),
                "field where: backfill with repair takes tables, chunk_rows and wait",
            ),
            (
                json!({"repair": true, "columns": ["a"]}),
                "field columns: backfill with repair takes tables",
            ),
            (json!({"repair": true, "tables": []}), tables),
            (json!({"cancel": false}), "field cancel must be true, or left out"),
            (
                json!({"tables": "all", "pause": false}),
                "field pause must be true",
            ),
            (json!({"resume": 1}), "field resume must be true"),
            (
                json!({"cancel": true, "tables": "all"}),
                "field tables: backfill with cancel takes no other fields",
            ),
            (
                json!({"pause": true, "repair": true}),
                "field repair: backfill with pause takes no other",
            ),
            (
                json!({"pause": true, "resume": true}),
                "field resume: backfill with pause takes no other",
            ),
            (
                json!({"resume": true, "x": 1}),
                "unknown field x: backfill with resume takes wait",
            ),
        ];
        for (fields, part) in refused {
            let error = parse(fields.clone()).unwrap_err().to_string();
            assert!(error.contains(part), "{fields}: {error}");
        }
    }

    #[test]
    fn a_request_is_stored_with_the_fields_of_its_event() {
        for fields in [
            json!({"tables": "all"}),
            json!({"tables": "all", "repair": true}),
            json!({
                "tables": ["public.*", "a\\.b.c\\,d"], "where": "id > 5", "columns": ["a", "b"],
                "chunk_rows": 10_000,
            }),
        ] {
            let Ok(BackfillCommand::Start { request, .. }) = parse(fields.clone()) else {
                panic!("{fields}");
            };
            let stored = serde_json::to_value(&request).unwrap();
            assert_eq!(stored, fields);
            assert_eq!(
                serde_json::from_value::<BackfillRequest>(stored).unwrap(),
                request
            );
        }
        for tables in [json!([]), json!("some"), json!(["t"])] {
            assert!(serde_json::from_value::<BackfillRequest>(json!({"tables": tables})).is_err());
        }
    }
}
