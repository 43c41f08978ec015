//! An event as a consumer reads it: the parts of the Debezium envelope that say what happened to which row, and when.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Columns and their values.
pub type Row = Map<String, Value>;

/// What stands for a column that was not sent because it did not change.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// One change.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// c, u, d, r, t or m.
    pub op: String,
    /// The old row, or its key.
    #[serde(default)]
    pub before: Option<Row>,
    /// The new row.
    #[serde(default)]
    pub after: Option<Row>,
    /// Where it comes from.
    pub source: Source,
}

/// What tells one change from every other.
#[derive(Debug, Clone, Deserialize)]
pub struct Source {
    /// Schema, of an event about a table.
    #[serde(default)]
    pub schema: Option<String>,
    /// Table, of an event about a table.
    #[serde(default)]
    pub table: Option<String>,
    /// `<commit end>.<change lsn>.<index>`: 16, 16 and 8 hexadecimal digits. They order as strings.
    pub position: String,
    /// The transaction.
    #[serde(default, rename = "txId")]
    pub transaction: Option<u64>,
}

impl Event {
    /// Reads the data of one record.
    ///
    /// # Errors
    /// It is no event, or its position is none.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let shown = || String::from_utf8_lossy(&data[..data.len().min(300)]).into_owned();
        let event: Self = serde_json::from_slice(data).map_err(|error| format!("{error}: {}", shown()))?;
        match is_position(&event.source.position) {
            true => Ok(event),
            false => Err(format!("{:?} is no position: {}", event.source.position, shown())),
        }
    }

    /// `schema.table`, which is also the partition key of what has no key of its own.
    pub fn table(&self) -> Option<String> {
        Some(format!(
            "{}.{}",
            self.source.schema.as_ref()?,
            self.source.table.as_ref()?
        ))
    }
}

fn is_position(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let hex = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [16, 16, 8] && parts.iter().all(hex)
}

/// The whole event without the times at which it was made, which differ when it is sent again.
pub fn timeless(data: &[u8]) -> Option<Value> {
    let mut event: Value = serde_json::from_slice(data).ok()?;
    if let Some(fields) = event.as_object_mut() {
        fields.retain(|name, _| !name.starts_with("ts_"));
    }
    Some(event)
}
