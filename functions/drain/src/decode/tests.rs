//! Tests of all three decoders on rows of the same statements.
//!
//! One server wrote the rows of all plugins. Each decoder yields the same events in each envelope,
//! except for the statements of `sends_other_values`. No row makes a decoder panic.
//!
//! `tests/captured.txt` has the rows. PostgreSQL 15.18 and wal2json 2.5 wrote them, with the options of
//! `plugin.rs` and the session settings of `postgres/connection.rs`. The file starts with the catalog. Then
//! each statement has the rows of the three plugins, and their events: `=` for all plugins, `=plugin` for
//! one. Rows of pgoutput are hex. Rows of the others are text, or `hex …` if they are not text. Only the
//! first statement has begin and commit. `↵` is a newline, and `«a*9»` is nine times a.

mod captured;
mod tables;

use proptest::prelude::*;

use super::*;
use crate::base::position::Position;
use crate::base::time::micros_of_timestamp;
use crate::catalog::CatalogColumn;
use crate::change::Change;
use crate::encode::{
    Debezium, Dms, EncodedEvents, Envelope, EnvelopeForm, Event, KeylessRows, OversizePolicy, PartitionBy,
    Progress, Transaction, Wal2json,
};
use captured::CapturedStatement;
pub(super) use captured::{captured, rows_of};

/// Fields of an event that a test line contains.
///
/// The test does not parse the other fields. Their numbers may exceed the range of a double.
#[derive(serde::Deserialize)]
struct DecodedHead {
    op: String,
    message: Option<serde_json::Value>,
}

/// The events of an item, one line for each.
fn lines(lsn: Lsn, item: &DecodedRow<'_>) -> Vec<String> {
    let change = match item {
        DecodedRow::Begin {
            xid,
            commit_end,
            commit_time,
        } => return vec![format!("begin {xid} {commit_end:?} {commit_time:?}")],
        DecodedRow::Commit {
            commit_end,
            commit_time,
        } => {
            return vec![format!("commit {commit_end} {commit_time:?}")];
        }
        DecodedRow::Message(message) => {
            let content = String::from_utf8_lossy(&message.content);
            return vec![format!("message {} {content}", message.prefix)];
        }
        DecodedRow::Nothing => return Vec::new(),
        DecodedRow::Change(change) => change,
    };
    let transaction = Transaction {
        xid: 1,
        commit_time: Some(0),
    };
    let line = |event: Event| {
        let data = String::from_utf8(event.data).unwrap();
        let head: DecodedHead = serde_json::from_str(&data).unwrap();
        let (op, key) = (head.op.as_str(), event.partition_key);
        match op {
            "t" => format!("t {key}"),
            "m" => format!("m {key} {}", head.message.unwrap()["content"]),
            // This is the text, not the parsed value: the order of the columns is part of the event.
            _ => format!(
                "{op} {key} {}}}",
                data.split(r#","source":{"version""#).next().unwrap()
            ),
        }
    };
    let envelope = envelope(debezium());
    let progress = &mut envelope.begin(transaction, lsn);
    let events = encoded(&envelope, progress, lsn, change);
    events.into_iter().map(line).collect()
}

fn debezium() -> EnvelopeForm {
    EnvelopeForm::Debezium(Debezium::new("slot", "db"))
}

fn envelope(form: EnvelopeForm) -> Envelope {
    Envelope {
        form,
        partition_by: PartitionBy::Key,
        keyless: KeylessRows::Table,
        oversize: OversizePolicy::Fail,
    }
}

fn encoded(envelope: &Envelope, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) -> Vec<Event> {
    let mut encoded = EncodedEvents::default();
    envelope.encode(progress, lsn, change, 0, usize::MAX, &mut encoded);
    encoded.events
}

/// Checks that each envelope writes an item as JSON.
fn assert_json(lsn: Lsn, item: &DecodedRow<'_>) {
    lines(lsn, item);
    for form in [
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let envelope = envelope(form);
        let progress = &mut envelope.begin(Transaction::NONE, lsn);
        for event in events(&envelope, progress, lsn, item) {
            let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&event.data);
            assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(&event.data));
        }
    }
}

fn events(envelope: &Envelope, progress: &mut Progress, lsn: Lsn, item: &DecodedRow<'_>) -> Vec<Event> {
    match item {
        DecodedRow::Change(change) => encoded(envelope, progress, lsn, change),
        DecodedRow::Message(message) => {
            let position = Position {
                commit_end: lsn,
                lsn,
                index: 0,
            };
            vec![envelope.encode_message(position, message, 0)]
        }
        _ => Vec::new(),
    }
}

/// Texts of a statement's events, from the rows of one plugin.
///
/// `form` is the form of the envelope.
fn event_texts(
    plugin: Plugin,
    catalog: &Catalog,
    statement: &CapturedStatement,
    form: EnvelopeForm,
) -> Vec<String> {
    let envelope = envelope(form);
    let mut decoder = Decoder::new(plugin);
    // The end of the transaction is arbitrary here. It is the same for all plugins.
    let mut progress = envelope.begin(statement.transaction(), Lsn(u64::MAX));
    let mut texts = Vec::new();
    for (_, lsn, data) in statement.rows.iter().filter(|row| row.0 == plugin) {
        let item = decoder.decode(catalog, *lsn, data).unwrap();
        let events = events(&envelope, &mut progress, *lsn, &item);
        texts.extend(events.into_iter().map(|e| String::from_utf8(e.data).unwrap()));
    }
    texts
}

impl CapturedStatement {
    /// The transaction of the statement, from the rows of wal2json.
    fn transaction(&self) -> Transaction {
        let transaction = self.wal2json().find_map(|row| {
            let row: serde_json::Value = serde_json::from_str(row).ok()?;
            Some(Transaction {
                xid: u32::try_from(row["xid"].as_u64()?).ok()?,
                commit_time: micros_of_timestamp(row["timestamp"].as_str()?),
            })
        });
        transaction.unwrap_or(Transaction::NONE)
    }

    /// The rows of wal2json, without begin and commit.
    fn wal2json(&self) -> impl Iterator<Item = &str> {
        let rows = self.rows.iter().filter(|row| row.0 == Plugin::Wal2json);
        rows.filter_map(|(_, _, data)| std::str::from_utf8(data).ok())
            .filter(|row| !row.starts_with(r#"{"action":"B""#) && !row.starts_with(r#"{"action":"C""#))
    }
}

/// Whether only this plugin sends other values for this statement.
///
/// Its events then differ from those of the other plugins.
fn sends_other_values(plugin: Plugin, statement: &str) -> bool {
    let parts: &[&str] = match plugin {
        // pgoutput does not send generated columns.
        Plugin::Pgoutput => &["generated"],
        // wal2json sends null for NaN. After a table is altered, it does not send the columns that an earlier
        // update omits. It ends a message at a zero byte.
        Plugin::Wal2json => &["'NaN'", "into altered", "pg_logical_emit_message(true, 'zero'"],
        // test_decoding omits the nulls of a whole old row. Here the catalog does not know that the row is
        // whole. Without a replica identity, only test_decoding sends updates and deletes.
        Plugin::TestDecoding => &["update full_id set id", "delete from full_id", "nothing_id"],
    };
    parts.iter().any(|part| statement.contains(part))
}

/// Row of wal2json without the OIDs of types.
///
/// The events do not have these OIDs.
fn without_type_oids(row: &str) -> String {
    let mut parts = row.split(r#","typeoid":"#);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |row, part| {
        row + part.trim_start_matches(|byte: char| byte.is_ascii_digit())
    })
}

#[test]
fn the_wal2json_envelope_writes_wal2jsons_own_rows_for_every_plugin() {
    let (catalog, statements) = captured();
    let mut compared = 0;
    for statement in &statements {
        let text = statement.statement;
        // The envelope differs on purpose: in domains, bytes that are not text, and large values of the old
        // row.
        let differing = [
            "own_types",
            "into arrays",
            "'bytes'",
            "update full_id",
            "update large_key",
        ];
        if differing.iter().any(|part| text.contains(part)) {
            continue;
        }
        let expected: Vec<String> = statement.wal2json().map(without_type_oids).collect();
        for plugin in Plugin::ALL {
            // wal2json alone lacks these values.
            let wal2json_differs = text.contains("'NaN'") || text.contains("'zero'");
            let is_skipped = match wal2json_differs {
                true => plugin != Plugin::Wal2json,
                false => sends_other_values(plugin, text),
            };
            if is_skipped {
                continue;
            }
            let events: Vec<String> =
                event_texts(plugin, &catalog, statement, EnvelopeForm::Wal2json(Wal2json))
                    .iter()
                    .map(|event| event.split(r#","position":""#).next().unwrap().to_owned() + "}")
                    .collect();
            assert_eq!(events, expected, "{plugin}: {text}");
            compared += events.len();
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn every_plugin_yields_the_same_events_in_each_envelope() {
    let (catalog, statements) = captured();
    for statement in &statements {
        let text = statement.statement;
        for form in [
            || EnvelopeForm::Dms(Dms::default()),
            || EnvelopeForm::Wal2json(Wal2json),
            debezium,
        ] {
            let events: Vec<_> = Plugin::ALL
                .into_iter()
                .filter(|plugin| !sends_other_values(*plugin, text))
                .map(|plugin| (plugin, event_texts(plugin, &catalog, statement, form())))
                // Only pgoutput describes a table before a delete.
                .map(|(plugin, mut events)| {
                    events.retain(|event| !text.starts_with("delete") || !event.starts_with(r#"{"control""#));
                    (plugin, events)
                })
                .filter(|(_, events)| !events.is_empty())
                .collect();
            for pair in events.windows(2) {
                assert_eq!(pair[0].1, pair[1].1, "{} and {}: {text}", pair[0].0, pair[1].0);
            }
        }
    }
}

/// A column of the catalog that is never large.
pub(super) fn catalog_column(name: &str, type_oid: u32, type_name: &str) -> CatalogColumn {
    CatalogColumn {
        name: name.into(),
        type_oid,
        modifier: -1,
        type_name: type_name.into(),
        toastable: false,
    }
}

pub(super) fn int_column(name: &str) -> CatalogColumn {
    catalog_column(name, 23, "integer")
}

/// A decoder that has read the descriptions of every captured table.
///
/// Only pgoutput sends descriptions.
fn primed_decoder(plugin: Plugin, catalog: &Catalog, statements: &[CapturedStatement]) -> Decoder {
    let mut decoder = Decoder::new(plugin);
    for (_, lsn, data) in statements
        .iter()
        .flat_map(|s| &s.rows)
        .filter(|row| row.0 == plugin)
    {
        if matches!(data[0], b'R' | b'Y') {
            decoder.decode(catalog, *lsn, data).unwrap();
        }
    }
    decoder
}

#[test]
fn every_plugin_yields_the_expected_events_of_each_statement() {
    let (catalog, statements) = captured();
    for plugin in Plugin::ALL {
        let mut decoder = Decoder::new(plugin);
        for CapturedStatement {
            statement,
            rows,
            expected,
        } in &statements
        {
            let mut events = Vec::new();
            for (_, lsn, data) in rows.iter().filter(|row| row.0 == plugin) {
                let item = decoder.decode(&catalog, *lsn, data);
                events.extend(lines(*lsn, &item.unwrap_or_else(|e| panic!("{statement}: {e}"))));
            }
            let expected: Vec<_> = expected
                .iter()
                .filter(|(of, _)| of.is_none_or(|of| of == plugin))
                .map(|(_, line)| line.clone())
                .collect();
            assert_eq!(events, expected, "{plugin}: {statement}");
        }
    }
}

#[test]
fn the_first_bytes_of_a_row_show_whether_it_is_a_commit() {
    for (plugin, _, data) in captured().1.into_iter().flat_map(|statement| statement.rows) {
        let decoder = Decoder::new(plugin);
        let commit: &[u8] = match plugin {
            Plugin::Pgoutput => b"C",
            Plugin::Wal2json => br#"{"action":"C","#,
            Plugin::TestDecoding => b"COMMIT ",
        };
        assert_eq!(decoder.is_commit(&data), data.starts_with(commit));
    }
}

#[test]
fn the_start_of_a_row_is_refused_or_decoded_and_never_panics() {
    let (catalog, statements) = captured();
    for plugin in Plugin::ALL {
        let mut decoder = primed_decoder(plugin, &catalog, &statements);
        for (_, lsn, data) in statements
            .iter()
            .flat_map(|s| &s.rows)
            .filter(|row| row.0 == plugin)
        {
            // The long rows repeat one letter, so a sample of their lengths is enough.
            for end in (0..data.len()).step_by(1 + data.len() / 1000) {
                let item = decoder.decode(&catalog, *lsn, &data[..end]);
                // Only a cut row of test_decoding can be a valid row: pgoutput has lengths, and JSON has
                // closing brackets.
                assert!(plugin == Plugin::TestDecoding || item.is_err(), "{plugin} {end}");
                if let Ok(item) = item {
                    assert_json(*lsn, &item);
                }
            }
        }
    }
}

/// Edits of a row: the place in thousandths of its length, the kind of edit, and its byte.
fn edits() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    proptest::collection::vec((0..1000usize, 0..5u8, any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_edited_row_does_not_panic_and_its_events_are_json(
        row in any::<proptest::sample::Index>(),
        edits in edits(),
    ) {
        let (catalog, statements) = captured();
        let rows: Vec<_> = statements.iter().flat_map(|s| &s.rows).collect();
        let (plugin, lsn, data) = row.get(&rows);
        let mut data = data.clone();
        for (thousandth, kind, byte) in edits {
            let at = thousandth * data.len() / 1000;
            match kind {
                0 if at < data.len() => data[at] = byte,
                1 if at < data.len() => data[at] ^= 1 << (byte % 8),
                2 if at < data.len() => drop(data.remove(at)),
                3 => data.insert(at, byte),
                // Bytes of the formats' own syntax.
                _ => data.insert(at, b"{}[]\":,\\' \0\xff"[usize::from(byte) % 12]),
            }
        }
        let mut decoder = primed_decoder(*plugin, &catalog, &statements);
        if let Ok(item) = decoder.decode(&catalog, *lsn, &data) {
            assert_json(*lsn, &item);
        }
    }

    #[test]
    fn no_row_panics(of in 0..3usize, start in 0..8usize, data: Vec<u8>) {
        let plugin = Plugin::ALL[of];
        let start: &str = match plugin {
            Plugin::Pgoutput => ["", "I", "U", "D", "T", "R", "M", "Y"][start],
            Plugin::Wal2json => [
                "",
                "{",
                r#"{"action":"#,
                r#"{"action":"M""#,
                r#"{"action":"B","nextlsn":"#,
                r#"{"action":"I","#,
                r#"{"action":"D","#,
                r#"{"action":"U","schema":"s","table":"t","columns":["#,
            ][start],
            Plugin::TestDecoding => [
                "",
                "BEGIN ",
                "COMMIT ",
                "message: transactional: 1 prefix: ",
                "table ",
                "table a.b: INSERT: ",
                "table a.b: DELETE: ",
                "table a.b: UPDATE: old-key: a[b]:1 new-tuple: ",
            ][start],
        };
        let data = [start.as_bytes(), &data].concat();
        if let Ok(item) = Decoder::new(plugin).decode(&Catalog::default(), Lsn(1), &data) {
            assert_json(Lsn(1), &item);
        }
    }
}
