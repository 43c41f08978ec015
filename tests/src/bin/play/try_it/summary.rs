//! An event as one line: operation, table, key, other columns.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The envelope that lines are made of: it has a changed key in one event, and names the primary key.
pub(super) const ENVELOPE: &str = "wal2json";

/// An event of this envelope.
#[derive(Deserialize, Default)]
#[serde(default)]
struct SummaryEvent<'a> {
    action: String,
    schema: String,
    table: String,
    prefix: String,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    snapshot: Option<String>,
    #[serde(borrow)]
    columns: Vec<SummaryColumn<'a>>,
    #[serde(borrow)]
    identity: Vec<SummaryColumn<'a>>,
    pk: Vec<SummaryKeyColumn>,
    unchanged: Vec<String>,
    omitted: Vec<String>,
}

/// A column with the JSON of its value. As a number it could lose digits.
#[derive(Deserialize)]
struct SummaryColumn<'a> {
    name: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct SummaryKeyColumn {
    name: String,
}

/// The line of an event, cut to `width` characters.
pub(super) fn line(event: &[u8], width: usize, colours: bool) -> String {
    let Ok(event) = serde_json::from_slice::<SummaryEvent<'_>>(event) else {
        return String::from_utf8_lossy(event).into_owned();
    };
    let (operation, colour) = operation(&event);
    let table = || printable(&format!("{}.{}", event.schema, event.table));
    let (what, rest) = match operation {
        "message" => (
            printable(&event.prefix),
            event
                .content
                .map_or_else(String::new, |content| format!(" {content}")),
        ),
        "truncate" => (table(), String::new()),
        _ => (table(), row(&event)),
    };
    let mut room = width;
    let mut part = |text: &str, code: &str| {
        let cut = cut(text, room);
        room = room.saturating_sub(cut.chars().count());
        match colours && !cut.is_empty() {
            true => format!("\x1b[{code}m{cut}\x1b[0m"),
            false => cut,
        }
    };
    let line = [
        part(&format!("{operation:<8} "), colour),
        part(&what, "1"),
        part(&rest, "0"),
    ];
    line.concat()
}

/// Name and colour of an operation.
fn operation(event: &SummaryEvent<'_>) -> (&'static str, &'static str) {
    match event.action.as_str() {
        "I" if event.snapshot.is_some() => ("read", "36"),
        "I" => ("insert", "32"),
        "U" => ("update", "33"),
        "D" => ("delete", "31"),
        "T" => ("truncate", "31"),
        "M" => ("message", "34"),
        _ => ("event", "0"),
    }
}

/// Text without control characters, which could change the terminal. In JSON they are escaped.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Key and other columns of a row.
fn row(event: &SummaryEvent<'_>) -> String {
    let is_primary = |column: &&SummaryColumn<'_>| event.pk.iter().any(|key| key.name == column.name);
    // Without a primary key, the replica identity identifies the row.
    let is_in_old_key = |column: &&SummaryColumn<'_>| event.pk.is_empty() || is_primary(column);
    let old_key = object(event.identity.iter().filter(is_in_old_key));
    let new_key = object(event.columns.iter().filter(is_primary));
    let mut line = old_key.as_ref().map_or_else(String::new, |key| format!(" {key}"));
    match (&old_key, &new_key) {
        (Some(old), Some(new)) if old != new => line.push_str(&format!(" -> {new}")),
        (None, Some(new)) => line.push_str(&format!(" {new}")),
        _ => {}
    }
    let others: Vec<&SummaryColumn<'_>> = match event.columns.is_empty() {
        true => event
            .identity
            .iter()
            .filter(|column| !is_in_old_key(column))
            .collect(),
        false => event
            .columns
            .iter()
            .filter(|column| !is_primary(column))
            .collect(),
    };
    for SummaryColumn { name, value } in others {
        line.push_str(&format!(" {}={value}", printable(name)));
    }
    for (names, why) in [(&event.unchanged, "unchanged"), (&event.omitted, "omitted")] {
        for name in names {
            line.push_str(&format!(" {}=({why})", printable(name)));
        }
    }
    line
}

/// Columns as a JSON object; `None` without columns.
fn object<'a>(columns: impl Iterator<Item = &'a SummaryColumn<'a>>) -> Option<String> {
    let field = |column: &SummaryColumn<'_>| {
        format!(
            "{}:{}",
            serde_json::Value::from(column.name.as_str()),
            column.value
        )
    };
    let fields: Vec<String> = columns.map(field).collect();
    (!fields.is_empty()).then(|| format!("{{{}}}", fields.join(",")))
}

/// At most `width` characters; the last one shows that there are more.
fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .take(width)
            .collect(),
        false => text.to_owned(),
    }
}
