//! Tests of the encoder, one file per concept.
//!
//! This file has their common helpers.

mod backfill;
mod debezium;
mod dms;
mod oversize;
mod partition_keys;
mod positions;
mod schemas;
mod unwrapped;
mod values;
mod wal2json;

use serde_json::Value;

use super::value::UNAVAILABLE_VALUE;
use super::*;
use crate::base::table_name::TableName;
use crate::change::{Datum, Tuple, ValueType};

const NOW: i64 = 1_700_000_001_000_000;
const COMMITTED: i64 = 1_700_000_000_123_456;

/// Table `public.t` with columns of these names and types.
///
/// `true` marks a column of the key.
fn table(columns: &[(&str, &str, bool)]) -> Arc<Relation> {
    Arc::new(Relation::of_columns(TableName::new("public", "t"), columns))
}

fn relation() -> Arc<Relation> {
    table(&[("id", "integer", true), ("name", "text", false)])
}

fn keyless() -> Arc<Relation> {
    table(&[("id", "integer", false), ("name", "text", false)])
}

fn row<'a>(values: &[Option<&'a str>]) -> Tuple<'a> {
    let datum = |value: &Option<&'a str>| value.map_or(Datum::Null, |text| Datum::Text(text.into()));
    values.iter().map(datum).collect()
}

fn insert<'a>(relation: Arc<Relation>, id: &'a str, name: &'a str) -> Change<'a> {
    Change::Insert {
        relation,
        new: row(&[Some(id), Some(name)]),
    }
}

/// An update that changes the key from 1 to 2.
fn key_change() -> Change<'static> {
    Change::Update {
        relation: relation(),
        old: Some(vec![Datum::Text("1".into()), Datum::Absent]),
        new: row(&[Some("2"), Some("x")]),
    }
}

fn delete(relation: Arc<Relation>) -> Change<'static> {
    Change::Delete {
        relation,
        old: vec![Datum::Text("1".into()), Datum::Absent],
    }
}

fn truncate() -> Change<'static> {
    Change::Truncate {
        relations: vec![relation()],
    }
}

/// A message whose content is not valid UTF-8.
fn logical_message() -> Message<'static> {
    Message {
        prefix: "p".into(),
        content: b"\xff1".as_slice().into(),
        omitted: Default::default(),
    }
}

fn message() -> Change<'static> {
    Change::Message(logical_message())
}

fn debezium_form() -> Debezium {
    Debezium::new("slot", "db")
}

fn envelope(form: EnvelopeForm) -> Envelope {
    Envelope {
        form,
        partition_by: PartitionBy::Key,
        keyless: KeylessRows::Spread,
        oversize: OversizePolicy::Fail,
    }
}

fn debezium() -> Envelope {
    envelope(EnvelopeForm::Debezium(debezium_form()))
}

fn dms() -> Envelope {
    envelope(EnvelopeForm::Dms(Dms::default()))
}

fn wal2json() -> Envelope {
    envelope(EnvelopeForm::Wal2json(Wal2json))
}

fn all_forms() -> [EnvelopeForm; 3] {
    [debezium(), dms(), wal2json()].map(|envelope| envelope.form)
}

fn progress() -> Progress {
    let transaction = Transaction {
        xid: 7,
        commit_time: Some(COMMITTED),
    };
    Progress::new(transaction, Lsn(32), true)
}

/// Position of a message outside any transaction.
const OUTSIDE: Position = Position {
    commit_end: Lsn(9),
    lsn: Lsn(9),
    index: 0,
};

/// Events of one transaction's changes.
///
/// The changes were logged at the LSNs 16, 17 and so on.
fn encode(envelope: &Envelope, changes: &[Change<'_>]) -> Vec<Event> {
    let (mut progress, mut out) = (progress(), EncodedEvents::default());
    for (at, change) in changes.iter().enumerate() {
        envelope.encode(
            &mut progress,
            Lsn(16 + at as u64),
            change,
            NOW,
            usize::MAX,
            &mut out,
        );
    }
    out.events
}

/// Events of a backfill's rows.
///
/// All rows have one watermark, which was logged at the LSN 16.
fn encode_backfill(envelope: &Envelope, rows: &[(&str, SnapshotPlace)]) -> Vec<Event> {
    let (mut progress, mut out) = (progress(), EncodedEvents::default());
    for (id, place) in rows {
        let row = row(&[Some(id), Some("x")]);
        envelope.encode_backfill_row(
            &mut progress,
            Lsn(16),
            &BackfillRow {
                relation: &relation(),
                values: &row,
                place: *place,
            },
            NOW,
            usize::MAX,
            &mut out,
        );
    }
    out.events
}

const THREE_ROWS: &[(&str, SnapshotPlace)] = &[
    ("1", SnapshotPlace::First),
    ("2", SnapshotPlace::Within),
    ("3", SnapshotPlace::Last),
];

fn parsed(event: &Event) -> Value {
    serde_json::from_slice(&event.data).unwrap()
}

fn texts(events: &[Event]) -> Vec<&str> {
    let texts = events.iter().map(|event| std::str::from_utf8(&event.data));
    texts.collect::<Result<_, _>>().unwrap()
}

fn position(lsn: u64, index: u32) -> String {
    format!("0000000000000020.{lsn:016x}.{index:08x}")
}
