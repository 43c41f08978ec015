//! Events of all envelopes in one form: the operation, the rows and the source.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::consumer::position::position_parts;

/// Values by column.
pub type Row = Map<String, Value>;

/// Placeholder for the value of an unchanged column that was not sent.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Envelope of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Envelope {
    /// Envelope of Debezium.
    #[default]
    Debezium,
    /// Envelope of AWS DMS.
    Dms,
    /// Format version 2 of wal2json.
    Wal2json,
}

/// An event of the stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Operation as in Debezium: c, u, d, r (a row of a backfill), t or m; `definition` for a table
    /// definition.
    pub op: String,
    /// Old row, or its key.
    #[serde(default)]
    pub before: Option<Row>,
    /// New row.
    #[serde(default)]
    pub after: Option<Row>,
    /// Source of the event.
    pub source: Source,
    /// Envelope of the event.
    #[serde(skip)]
    pub envelope: Envelope,
    /// Former partition key of a row whose key this event changes.
    #[serde(skip)]
    pub moved_from: Option<String>,
    /// Logical message, if the event is one.
    #[serde(default)]
    pub message: Option<Message>,
}

/// A logical message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Message {
    /// Prefix.
    pub prefix: String,
    /// Content: text in the envelope of wal2json, base64 in the others.
    pub content: String,
}

/// Source of an event: table, position and transaction.
#[derive(Debug, Clone, Deserialize)]
pub struct Source {
    /// Schema of the table, if the event has a table.
    #[serde(default)]
    pub schema: Option<String>,
    /// Name of the table, if the event has one.
    #[serde(default)]
    pub table: Option<String>,
    /// `<commit end>.<change lsn>.<index>`: 16, 16 and 8 hexadecimal digits. Positions order as strings.
    pub position: String,
    /// Id of the transaction.
    #[serde(default, rename = "txId")]
    pub transaction: Option<u64>,
    /// For a row of a backfill: `first_in_data_collection`, `last_in_data_collection` or `incremental`.
    ///
    /// For a live change `false` or nothing, depending on the envelope.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// ColumnNotes about columns that the schema of the event cannot express.
    #[serde(flatten)]
    pub notes: ColumnNotes,
}

/// ColumnNotes about the columns of an event.
///
/// They are in a flat row, and in an event of Debezium's envelope with a schema.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ColumnNotes {
    /// Columns whose values the log does not hold.
    #[serde(default)]
    pub unchanged: Vec<String>,
    /// PostgreSQL's texts of values that their types cannot hold.
    ///
    /// They are named by their path, `after.amount`, or in a flat row by their column, `amount`.
    #[serde(default)]
    pub texts: BTreeMap<String, String>,
}

impl Event {
    /// Parses the data of one record.
    ///
    /// # Errors
    /// It is not an event, or its position is malformed.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(&data[..data.len().min(300)]).into_owned();
        let payload = payload(data);
        let data = payload.as_ref().map_or(data, |payload| payload.get().as_bytes());
        let read = |error: serde_json::Error| format!("{error}: {}", shown());
        let event = match serde_json::from_slice::<Self>(data) {
            Ok(event) => event,
            Err(error) => {
                let value: Value = serde_json::from_slice(&exact_numbers(data)).map_err(read)?;
                if value.get("metadata").is_some() {
                    Self::of_dms(&value).ok_or_else(shown)?
                } else if value.get("action").is_some() {
                    Self::of_wal2json(&value).ok_or_else(shown)?
                } else if value.get("__op").is_some() {
                    Self::of_flat_row(value).ok_or_else(shown)?
                } else {
                    return Err(read(error));
                }
            }
        };
        match position_parts(&event.source.position) {
            Some(_) => Ok(event.with_notes()),
            None => Err(format!(
                "{:?} is not a position: {}",
                event.source.position,
                shown()
            )),
        }
    }

    /// The event with the values that its notes state. An event without a schema has the same values.
    fn with_notes(mut self) -> Self {
        let ColumnNotes { unchanged, texts } = std::mem::take(&mut self.source.notes);
        for (path, text) in texts {
            let (image, column) = match path.split_once('.') {
                Some(("before", column)) => (&mut self.before, column),
                Some(("after", column)) => (&mut self.after, column),
                _ if self.op == "d" => (&mut self.before, path.as_str()),
                _ => (&mut self.after, path.as_str()),
            };
            if let Some(row) = image {
                row.insert(column.to_owned(), text.into());
            }
        }
        for column in unchanged {
            if let Some(row) = &mut self.after {
                row.insert(column, UNAVAILABLE.into());
            }
        }
        self
    }

    /// A flat row of the envelope of Debezium: its columns, and the fields that begin with two underscores.
    fn of_flat_row(value: Value) -> Option<Self> {
        let Value::Object(fields) = value else {
            return None;
        };
        // A third underscore marks a column with the name of an added field.
        let is_added = |name: &str| name.starts_with("__") && !name.starts_with("___");
        let (added, row): (Row, Row) = fields.into_iter().partition(|(name, _)| is_added(name));
        let column = |name: String| match name.starts_with("___") {
            true => name[1..].to_owned(),
            false => name,
        };
        let row: Row = row
            .into_iter()
            .map(|(name, value)| (column(name), value))
            .collect();
        let text = |name: &str| added.get(name)?.as_str().map(str::to_owned);
        let op = text("__op")?;
        let deleted = match op.as_str() {
            "d" => Some("true"),
            "t" | "m" => None,
            _ => Some("false"),
        };
        if text("__deleted").as_deref() != deleted {
            return None;
        }
        let (before, after) = match op.as_str() {
            "d" => (Some(row), None),
            "t" | "m" => (None, None),
            _ => (None, Some(row)),
        };
        let message = text("__message_prefix").zip(text("__message_content"));
        Some(Event {
            op,
            before,
            after,
            source: Source {
                schema: text("__schema"),
                table: text("__table"),
                position: text("__position")?,
                transaction: None,
                snapshot: None,
                notes: ColumnNotes {
                    unchanged: added
                        .get("__unchanged")
                        .map(|names| strings(names).into_iter().map(column).collect())
                        .unwrap_or_default(),
                    texts: added
                        .get("__texts")
                        .and_then(|texts| serde_json::from_value(texts.clone()).ok())
                        .unwrap_or_default(),
                },
            },
            envelope: Envelope::Debezium,
            moved_from: None,
            message: message.map(|(prefix, content)| Message { prefix, content }),
        })
    }

    fn of_dms(value: &Value) -> Option<Self> {
        let metadata = &value["metadata"];
        let text = |name: &str| metadata[name].as_str().map(str::to_owned);
        let row = |name: &str| value.get(name)?.as_object().cloned();
        let op = match metadata["operation"].as_str()? {
            "insert" => "c",
            "update" => "u",
            "delete" => "d",
            "load" => "r",
            "truncate-table" => "t",
            "logical-message" => "m",
            _ => "definition",
        };
        let (mut before, mut after) = (row("before-image"), row("data"));
        let marked =
            |name: &String| after.as_ref().and_then(|row| row.get(name)) == Some(&UNAVAILABLE.into());
        if !strings(&metadata["unchanged"]).iter().all(marked) {
            return None;
        }
        if op == "d" {
            before = after.take();
        }
        let (schema, table) = (text("schema-name")?, text("table-name")?);
        let message = serde_json::from_value(value["control"]["message"].clone()).ok();
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let keyed = metadata["partition-key-type"] == "primary-key";
        let moved_from = before.as_ref().filter(|_| op == "u" && keyed).map(|key| {
            let values: Vec<String> = key.values().map(plain).collect();
            format!("{schema}.{table}.{}", values.join("."))
        });
        Some(Event {
            op: op.to_owned(),
            before,
            after,
            source: Source {
                schema: Some(schema),
                table: Some(table),
                position: text("position")?,
                transaction: metadata["transaction-id"].as_u64(),
                snapshot: text("snapshot"),
                notes: ColumnNotes::default(),
            },
            envelope: Envelope::Dms,
            moved_from,
            message,
        })
    }

    fn of_wal2json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let row = |name: &str| -> Option<Row> {
            let fields = value.get(name)?.as_array()?.iter();
            fields
                .map(|field| Some((field["name"].as_str()?.to_owned(), field["value"].clone())))
                .collect()
        };
        let op = match value["action"].as_str()? {
            "I" if value.get("snapshot").is_some() => "r",
            "I" => "c",
            "U" => "u",
            "D" => "d",
            "T" => "t",
            _ => "m",
        };
        let (before, mut after) = (row("identity"), row("columns"));
        for name in strings(&value["unchanged"]) {
            after.as_mut()?.insert(name, UNAVAILABLE.into());
        }
        // The key is the identity. It is the primary key where the identity is the whole row.
        let whole = before.as_ref().map(Row::len) == after.as_ref().map(Row::len);
        let primary: Vec<&str> = value["pk"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|field| field["name"].as_str())
            .collect();
        let moved_from = before.as_ref().filter(|_| op == "u").map(|row| {
            let columns = row
                .iter()
                .filter(|(name, _)| !whole || primary.contains(&name.as_str()));
            Value::Object(
                columns
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            )
            .to_string()
        });
        let said = (op == "m").then(|| text("prefix").zip(text("content"))).flatten();
        Some(Event {
            op: op.to_owned(),
            before,
            after,
            source: Source {
                schema: text("schema"),
                table: text("table"),
                position: text("position")?,
                transaction: value["xid"].as_u64(),
                snapshot: text("snapshot"),
                notes: ColumnNotes::default(),
            },
            envelope: Envelope::Wal2json,
            moved_from,
            message: said.map(|(prefix, content)| Message { prefix, content }),
        })
    }

    /// Content of a control event: the JSON of a message whose prefix begins with `spillway.`.
    pub fn control(&self) -> Option<Value> {
        let message = self.message.as_ref()?;
        if !message.prefix.starts_with("spillway.") {
            return None;
        }
        let content = match self.envelope {
            Envelope::Wal2json => message.content.clone().into_bytes(),
            Envelope::Debezium | Envelope::Dms => STANDARD.decode(&message.content).ok()?,
        };
        serde_json::from_slice(&content).ok()
    }

    /// `schema.table`, which is also the partition key of rows without a key.
    pub fn table(&self) -> Option<String> {
        Some(format!(
            "{}.{}",
            self.source.schema.as_ref()?,
            self.source.table.as_ref()?
        ))
    }

    /// Whether this partition key spreads rows without a key over the shards.
    ///
    /// An example is `public.log#3fa2`.
    pub fn is_spread_key(&self, partition_key: &str) -> bool {
        let table = self.table();
        let suffix = table.and_then(|table| partition_key.strip_prefix(&table));
        let digits = suffix.and_then(|suffix| suffix.strip_prefix('#'));
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.is_some_and(|digits| digits.len() == 4 && digits.bytes().all(is_digit))
    }
}

/// The same JSON, with strings for numbers that would lose digits.
fn exact_numbers(data: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut in_string) = (Vec::with_capacity(data.len()), data, false);
    while let [first, ..] = rest {
        let number = rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte));
        let length = match first {
            b'\\' if in_string => 2,
            b'0'..=b'9' | b'-' if !in_string => number.count(),
            _ => 1,
        };
        in_string ^= *first == b'"';
        let (token, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        let kept = serde_json::from_slice::<Value>(token).map(|number| number.to_string());
        if token.len() > 1 && !in_string && kept.is_ok_and(|kept| kept.as_bytes() != token) {
            out.extend([b"\"", token, b"\""].concat());
        } else {
            out.extend(token);
        }
    }
    out
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Payload of an event that has a schema, otherwise `None`.
fn payload(data: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct SchemaEnvelope {
        #[serde(rename = "schema")]
        _schema: Row,
        payload: Box<RawValue>,
    }
    let is_first = data.starts_with(br#"{"schema":{"#);
    let parsed: Option<SchemaEnvelope> = is_first.then(|| serde_json::from_slice(data).ok()).flatten();
    parsed.map(|parsed| parsed.payload)
}

/// Event without its schema and the times of its encoding.
///
/// These times differ when the event is sent again. It also lacks the list of unchanged columns. During a
/// backfill the function may have read their values.
pub fn timeless(data: &[u8]) -> Option<Value> {
    let payload = payload(data);
    let data = payload.as_ref().map_or(data, |payload| payload.get().as_bytes());
    let mut event: Value = serde_json::from_slice(data).ok()?;
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("ts_") && !matches!(&**name, "__ts_ms" | "__unchanged"));
        if let Some(source) = fields.get_mut("source").and_then(Value::as_object_mut) {
            source.remove("unchanged");
        }
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("timestamp");
        }
    }
    Some(event)
}
