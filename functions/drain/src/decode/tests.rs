//! All three decoders on the rows that one server wrote for the same statements, `tests/captured.txt`: each
//! tells the same events, in each envelope. And what no row may do to any of them.
//!
//! The file is PostgreSQL 15.18's and wal2json 2.5's own output, with the options of `slot.rs` and the
//! session settings of `connect.rs`: first what the catalog said, then for each statement the rows of the
//! three plugins (pgoutput as hex, the others as text, or as `hex …` where they are none) and the events that
//! they stand for, `=` for all plugins or `=plugin` for one. Begin and commit are there for the first
//! statement only. `↵` is a newline, `«a*9»` is nine times a.

use proptest::prelude::*;

use super::*;
use crate::catalog::{CatalogColumn, CatalogTable};
use crate::change::Change;
use crate::encode::{
    Debezium, DebeziumModes, Dms, Envelope, EnvelopeForm, Event, Oversize, PartitionBy, Progress,
    Transaction, Wal2json,
};
use crate::position::Position;
use crate::table_name::TableName;
use crate::time::micros_of_timestamp;

/// A statement of the capture.
pub(super) struct Captured {
    pub(super) statement: &'static str,
    pub(super) rows: Vec<(Plugin, Lsn, Vec<u8>)>,
    expected: Vec<(Option<Plugin>, String)>,
}

fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('«') {
        let (run, after) = after.split_once('»').unwrap();
        let (piece, count) = run.rsplit_once('*').unwrap();
        out += before;
        out += &piece.repeat(count.parse().unwrap());
        rest = after;
    }
    out + rest
}

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let digits = expanded(hex);
    let digits = digits.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The catalog as it was at the end, and the statements.
pub(super) fn captured() -> (Catalog, Vec<Captured>) {
    let (mut catalog, mut statements) = (Catalog::default(), Vec::<Captured>::new());
    for line in include_str!("tests/captured.txt")
        .lines()
        .filter(|line| !line.is_empty())
    {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "domain" => {
                let (name, base): (String, String) = serde_json::from_str(rest).unwrap();
                catalog.insert_domain(&name, base);
            }
            "table" => {
                type Names = Vec<String>;
                type Written = (String, String, Names, Names, Vec<(String, String, bool)>);
                let (schema, name, key, primary, columns): Written = serde_json::from_str(rest).unwrap();
                let known = |(name, type_name, toastable)| CatalogColumn {
                    name,
                    type_name,
                    toastable,
                };
                let columns = columns.into_iter().map(known).collect();
                let table = CatalogTable {
                    key,
                    primary,
                    columns,
                    ..CatalogTable::default()
                };
                catalog.insert(TableName::new(schema, name), table);
            }
            "#" => statements.push(Captured {
                statement: rest,
                rows: Vec::new(),
                expected: Vec::new(),
            }),
            _ => {
                let statement = statements.last_mut().unwrap();
                if let Some(plugin) = word.strip_prefix('=') {
                    statement.expected.push((plugin.parse().ok(), expanded(rest)));
                    continue;
                }
                let (lsn, data) = rest.split_once(' ').unwrap();
                let plugin: Plugin = word.parse().unwrap();
                let data = match (plugin, data.strip_prefix("hex ")) {
                    (Plugin::Pgoutput, _) => unhex(data),
                    (_, Some(hex)) => unhex(hex),
                    _ => expanded(data).replace('↵', "\n").into_bytes(),
                };
                statement.rows.push((plugin, lsn.parse().unwrap(), data));
            }
        }
    }
    (catalog, statements)
}

/// The rows of one plugin for the one statement that starts so.
pub(super) fn rows_of(plugin: Plugin, statement: &str) -> Vec<(Lsn, Vec<u8>)> {
    let (_, statements) = captured();
    let mut found = statements
        .into_iter()
        .filter(|c| c.statement.starts_with(statement));
    let rows = found.next().unwrap().rows;
    rows.into_iter()
        .filter(|(of, ..)| *of == plugin)
        .map(|(_, lsn, data)| (lsn, data))
        .collect()
}

/// What an item says, in a line for each event.
fn lines(lsn: Lsn, item: &Item<'_>) -> Vec<String> {
    let change = match item {
        Item::Begin {
            xid,
            commit_end,
            commit_time,
        } => return vec![format!("begin {xid} {commit_end:?} {commit_time:?}")],
        Item::Commit {
            commit_end,
            commit_time,
        } => {
            return vec![format!("commit {commit_end} {commit_time:?}")];
        }
        Item::Message(message) => {
            let content = String::from_utf8_lossy(&message.content);
            return vec![format!("message {} {content}", message.prefix)];
        }
        Item::Nothing => return Vec::new(),
        Item::Change(change) => change,
    };
    let transaction = Transaction {
        xid: 1,
        commit_time: Some(0),
    };
    let line = |event: Event| {
        let data = String::from_utf8(event.data).unwrap();
        let value: serde_json::Value = serde_json::from_str(&data).unwrap();
        let (op, key) = (value["op"].as_str().unwrap(), event.partition_key);
        match op {
            "t" => format!("t {key}"),
            "m" => format!("m {key} {}", value["message"]["content"]),
            // As it was written: the order of the columns is part of it.
            _ => format!(
                "{op} {key} {}}}",
                data.split(r#","source":{"version""#).next().unwrap()
            ),
        }
    };
    let progress = &mut Progress::new(transaction, lsn);
    let events = encoded(&envelope(debezium()), progress, lsn, change);
    events.into_iter().map(line).collect()
}

fn debezium() -> EnvelopeForm {
    EnvelopeForm::Debezium(Debezium {
        name: "slot".into(),
        database: "db".into(),
        modes: DebeziumModes::default(),
        tombstones: false,
        transaction_metadata: false,
    })
}

fn envelope(form: EnvelopeForm) -> Envelope {
    Envelope {
        form,
        partition_by: PartitionBy::Key,
        oversize: Oversize::Fail,
    }
}

fn encoded(envelope: &Envelope, progress: &mut Progress, lsn: Lsn, change: &Change<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    envelope.encode(progress, lsn, change, 0, usize::MAX, &mut events);
    events
}

/// What an item is in each envelope must be JSON.
fn assert_json(lsn: Lsn, item: &Item<'_>) {
    lines(lsn, item);
    for form in [
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let progress = &mut Progress::new(Transaction::NONE, lsn);
        for event in events(&envelope(form), progress, lsn, item) {
            let parsed = serde_json::from_slice::<serde_json::Value>(&event.data);
            assert!(parsed.is_ok(), "{}", String::from_utf8_lossy(&event.data));
        }
    }
}

fn events(envelope: &Envelope, progress: &mut Progress, lsn: Lsn, item: &Item<'_>) -> Vec<Event> {
    match item {
        Item::Change(change) => encoded(envelope, progress, lsn, change),
        Item::Message(message) => {
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

/// The events of one plugin's rows of a statement, as text.
fn written(plugin: Plugin, catalog: &Catalog, statement: &Captured, form: EnvelopeForm) -> Vec<String> {
    let envelope = envelope(form);
    let mut decoder = Decoder::new(plugin);
    // Where it ends is the same for all, and beside the point.
    let mut progress = Progress::new(statement.transaction(), Lsn(u64::MAX));
    let mut written = Vec::new();
    for (_, lsn, data) in statement.rows.iter().filter(|row| row.0 == plugin) {
        let item = decoder.decode(catalog, *lsn, data).unwrap();
        let events = events(&envelope, &mut progress, *lsn, &item);
        written.extend(events.into_iter().map(|e| String::from_utf8(e.data).unwrap()));
    }
    written
}

impl Captured {
    /// What wal2json told of the statement's transaction.
    fn transaction(&self) -> Transaction {
        let told = self.wal2json().find_map(|row| {
            let row: serde_json::Value = serde_json::from_str(row).ok()?;
            Some(Transaction {
                xid: u32::try_from(row["xid"].as_u64()?).ok()?,
                commit_time: micros_of_timestamp(row["timestamp"].as_str()?),
            })
        });
        told.unwrap_or(Transaction::NONE)
    }

    /// The rows of wal2json about changes.
    fn wal2json(&self) -> impl Iterator<Item = &str> {
        let rows = self.rows.iter().filter(|row| row.0 == Plugin::Wal2json);
        rows.filter_map(|(_, _, data)| std::str::from_utf8(data).ok())
            .filter(|row| !row.starts_with(r#"{"action":"B""#) && !row.starts_with(r#"{"action":"C""#))
    }
}

/// What one plugin does not tell, so that its events are not those of the others.
fn tells_less(plugin: Plugin, statement: &str) -> bool {
    let less: &[&str] = match plugin {
        // Generated columns.
        Plugin::Pgoutput => &["generated"],
        // NaN; what an update left out if the table was altered since.
        Plugin::Wal2json => &["'NaN'", "into altered", "pg_logical_emit_message(true, 'zero'"],
        // Nulls of a whole old row, where the catalog does not say that it is one; the identity is not needed for a row.
        Plugin::TestDecoding => &["update full_id set id", "delete from full_id", "nothing_id"],
    };
    less.iter().any(|part| statement.contains(part))
}

#[test]
fn what_wal2json_wrote_is_written_again_whichever_plugin_read_it() {
    let (catalog, statements) = captured();
    let mut compared = 0;
    for statement in &statements {
        let text = statement.statement;
        // On purpose: domains, bytes that are no text, and large values that the old row tells.
        let differs = [
            "own_types",
            "into arrays",
            "'bytes'",
            "update full_id",
            "update large_key",
        ];
        if differs.iter().any(|part| text.contains(part)) {
            continue;
        }
        let expected: Vec<&str> = statement.wal2json().collect();
        for plugin in Plugin::ALL {
            let blind = text.contains("'NaN'") || text.contains("'zero'");
            let others = blind && plugin != Plugin::Wal2json;
            if others || (!blind && tells_less(plugin, text)) {
                continue;
            }
            let ours: Vec<String> = written(plugin, &catalog, statement, EnvelopeForm::Wal2json(Wal2json))
                .iter()
                .map(|event| event.split(r#","position":""#).next().unwrap().to_owned() + "}")
                .collect();
            assert_eq!(ours, expected, "{plugin}: {text}");
            compared += ours.len();
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn the_same_statement_is_the_same_events_in_every_envelope() {
    let (catalog, statements) = captured();
    for statement in &statements {
        let text = statement.statement;
        for form in [
            || EnvelopeForm::Dms(Dms::default()),
            || EnvelopeForm::Wal2json(Wal2json),
            debezium,
        ] {
            let told: Vec<_> = Plugin::ALL
                .into_iter()
                .filter(|plugin| !tells_less(*plugin, text))
                .map(|plugin| (plugin, written(plugin, &catalog, statement, form())))
                // Only pgoutput describes a table before a delete.
                .map(|(plugin, mut events)| {
                    events.retain(|event| !text.starts_with("delete") || !event.starts_with(r#"{"control""#));
                    (plugin, events)
                })
                .filter(|(_, events)| !events.is_empty())
                .collect();
            for pair in told.windows(2) {
                assert_eq!(pair[0].1, pair[1].1, "{} and {}: {text}", pair[0].0, pair[1].0);
            }
        }
    }
}

/// A decoder that has been told of every table of the capture.
fn primed(plugin: Plugin, catalog: &Catalog, statements: &[Captured]) -> Decoder {
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
fn the_same_statement_is_the_same_events_whichever_plugin_tells_it() {
    let (catalog, statements) = captured();
    for plugin in Plugin::ALL {
        let mut decoder = Decoder::new(plugin);
        for Captured {
            statement,
            rows,
            expected,
        } in &statements
        {
            let mut told = Vec::new();
            for (_, lsn, data) in rows.iter().filter(|row| row.0 == plugin) {
                let item = decoder.decode(&catalog, *lsn, data);
                told.extend(lines(*lsn, &item.unwrap_or_else(|e| panic!("{statement}: {e}"))));
            }
            let expected: Vec<_> = expected
                .iter()
                .filter(|(of, _)| of.is_none_or(|of| of == plugin))
                .map(|(_, line)| line.clone())
                .collect();
            assert_eq!(told, expected, "{plugin}: {statement}");
        }
    }
}

#[test]
fn a_commit_is_told_from_its_first_bytes() {
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
fn a_row_that_was_cut_off_is_an_error_or_a_row_and_never_a_panic() {
    let (catalog, statements) = captured();
    for plugin in Plugin::ALL {
        let mut decoder = primed(plugin, &catalog, &statements);
        for (_, lsn, data) in statements
            .iter()
            .flat_map(|s| &s.rows)
            .filter(|row| row.0 == plugin)
        {
            // The long rows are long runs of one letter.
            for end in (0..data.len()).step_by(1 + data.len() / 1000) {
                let item = decoder.decode(&catalog, *lsn, &data[..end]);
                // Only text has rows that are rows without their end: pgoutput counts, and JSON has its
                // brackets.
                assert!(plugin == Plugin::TestDecoding || item.is_err(), "{plugin} {end}");
                if let Ok(item) = item {
                    assert_json(*lsn, &item);
                }
            }
        }
    }
}

/// Edits of a row: where (in thousandths of its length), what is done, and with which byte.
fn edits() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    proptest::collection::vec((0..1000usize, 0..5u8, any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_row_that_was_tampered_with_does_not_panic_and_what_it_yields_is_json(
        row in any::<proptest::sample::Index>(),
        edits in edits(),
    ) {
        let (catalog, statements) = captured();
        let rows: Vec<_> = statements.iter().flat_map(|s| &s.rows).collect();
        let (plugin, lsn, data) = row.get(&rows);
        let mut data = data.clone();
        for (place, what, byte) in edits {
            let at = place * data.len() / 1000;
            match what {
                0 if at < data.len() => data[at] = byte,
                1 if at < data.len() => data[at] ^= 1 << (byte % 8),
                2 if at < data.len() => drop(data.remove(at)),
                3 => data.insert(at, byte),
                // What the formats are made of.
                _ => data.insert(at, b"{}[]\":,\\' \0\xff"[usize::from(byte) % 12]),
            }
        }
        let mut decoder = primed(*plugin, &catalog, &statements);
        if let Ok(item) = decoder.decode(&catalog, *lsn, &data) {
            assert_json(*lsn, &item);
        }
    }

    #[test]
    fn no_bytes_panic(of in 0..3usize, start in 0..8usize, data: Vec<u8>) {
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
