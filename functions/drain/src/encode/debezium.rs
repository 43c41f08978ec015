//! The envelope of Debezium's PostgreSQL connector, as its JSON converter writes it without schemas. The fields and
//! their order are Debezium's; what is added is `source.position`, and `source.omitted` where something was left out for its size.

mod decimal;
mod value;

use std::io::Write as _;

pub use value::{DebeziumModes, DecimalMode, TimeMode};

use super::progress::EventPlace;
use super::value::{base64, names, string};
use super::{EventHead, RowEvent, RowOperation, SnapshotPlace, UNAVAILABLE};
use crate::change::{Datum, Message, Relation, Tuple};
use crate::position::Position;

/// Writes events of one database as Debezium does.
#[derive(Debug, Clone)]
pub struct Debezium {
    /// `source.name`: tells databases apart in a stream that many share.
    pub name: String,
    /// `source.db`
    pub database: String,
    /// How decimals and times are written.
    pub modes: DebeziumModes,
    /// Whether a delete is followed by a record of the same key without data (`tombstones.on.delete`).
    pub tombstones: bool,
    /// Whether an event tells its place in its transaction (`provide.transaction.metadata`).
    pub transaction_metadata: bool,
}

impl Debezium {
    pub(super) fn row(&self, row: &RowEvent<'_>) -> Vec<u8> {
        let (op, before, after) = match row.action {
            RowOperation::Insert => ('c', None, row.new),
            RowOperation::Read => ('r', None, row.new),
            RowOperation::Update { .. } => ('u', row.old, row.new),
            RowOperation::Delete => ('d', row.old, None),
        };
        let mut data = Vec::with_capacity(512);
        data.extend_from_slice(br#"{"before":"#);
        self.image(&mut data, row, before);
        data.extend_from_slice(br#","after":"#);
        self.image(&mut data, row, after);
        data.extend_from_slice(br#","source":"#);
        let omitted: Vec<&str> = row.omitted_names().collect();
        self.source(&mut data, &row.head, row.relation, &omitted);
        data.extend_from_slice(br#","transaction":"#);
        self.transaction(&mut data, &row.head);
        close(&mut data, op, row.head.now);
        data
    }

    pub(super) fn truncate(&self, head: &EventHead, relation: &Relation) -> Vec<u8> {
        let mut data = br#"{"source":"#.to_vec();
        self.source(&mut data, head, relation, &[]);
        if self.transaction_metadata {
            data.extend_from_slice(br#","transaction":"#);
            self.transaction(&mut data, head);
        }
        close(&mut data, 't', head.now);
        data
    }

    pub(super) fn message(&self, head: &EventHead, message: &Message<'_>) -> Vec<u8> {
        let mut data = br#"{"source":"#.to_vec();
        self.source_of(&mut data, head, "", "", &[]);
        data.extend_from_slice(br#","message":{"prefix":"#);
        string(&mut data, &message.prefix);
        data.extend_from_slice(br#","content":"#);
        base64(&mut data, &message.content);
        data.push(b'}');
        close(&mut data, 'm', head.now);
        data
    }

    fn source(&self, out: &mut Vec<u8>, head: &EventHead, relation: &Relation, omitted: &[&str]) {
        self.source_of(out, head, &relation.table.schema, &relation.table.name, omitted);
    }

    fn source_of(&self, out: &mut Vec<u8>, head: &EventHead, schema: &str, table: &str, omitted: &[&str]) {
        let position = head.place.position;
        let Position { commit_end, lsn, .. } = position;
        out.extend_from_slice(br#"{"version":""#);
        out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        out.extend_from_slice(br#"","connector":"postgresql","name":"#);
        string(out, &self.name);
        times(out, head.transaction.commit_time.unwrap_or(0));
        let snapshot = head.snapshot.map_or("false", SnapshotPlace::name);
        let _ = write!(out, r#","snapshot":"{snapshot}","db":"#);
        string(out, &self.database);
        // Debezium's pair is the end of the last commit and the change's LSN, for ordering. Ours is the end of the
        // change's own commit: it orders the same and does not depend on where reading began.
        let _ = write!(
            out,
            r#","sequence":"[\"{}\",\"{}\"]","schema":"#,
            commit_end.0, lsn.0
        );
        string(out, schema);
        out.extend_from_slice(br#","table":"#);
        string(out, table);
        let xid = head.transaction.xid;
        let _ = write!(
            out,
            r#","txId":{xid},"lsn":{},"xmin":null,"position":"{position}""#,
            lsn.0
        );
        if !omitted.is_empty() {
            out.extend_from_slice(br#","omitted":"#);
            names(out, omitted.iter().copied());
        }
        out.push(b'}');
    }

    /// The event's place in its transaction. The id is, as Debezium documents it, that of the transaction and the LSN of the change.
    /// Rows of a snapshot have no place there.
    fn transaction(&self, out: &mut Vec<u8>, head: &EventHead) {
        let EventPlace {
            position,
            of_transaction,
            of_table,
        } = head.place;
        let xid = head.transaction.xid;
        let _ = if self.transaction_metadata && head.snapshot.is_none() {
            write!(
                out,
                r#"{{"id":"{xid}:{}","total_order":{of_transaction},"data_collection_order":{of_table}}}"#,
                position.lsn.0
            )
        } else {
            write!(out, "null")
        };
    }

    /// A row as a JSON object, without the columns that are not known.
    fn image(&self, out: &mut Vec<u8>, row: &RowEvent<'_>, tuple: Option<&Tuple<'_>>) {
        let Some(tuple) = tuple else {
            out.extend_from_slice(b"null");
            return;
        };
        out.push(b'{');
        for (at, (column, datum)) in row.image(tuple).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(out, &column.name);
            out.push(b':');
            match datum {
                Datum::Text(text) => self.modes.value(out, &column.kind, text),
                Datum::Unchanged => string(out, UNAVAILABLE),
                Datum::Null | Datum::Absent => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}

/// `,"ts_ms":…,"ts_us":…,"ts_ns":…`; the last one only as far as 64 bits carry it (the year 2262).
fn times(out: &mut Vec<u8>, micros: i64) {
    let _ = write!(
        out,
        r#","ts_ms":{},"ts_us":{micros},"ts_ns":{}"#,
        micros.div_euclid(1000),
        micros.saturating_mul(1000)
    );
}

fn close(out: &mut Vec<u8>, op: char, now: i64) {
    let _ = write!(out, r#","op":"{op}""#);
    times(out, now);
    out.push(b'}');
}

/// The serialized key, `{"id":1}`, whatever the modes: a change of them must not move rows to other lanes.
pub(super) fn key(relation: &Relation, tuple: &Tuple<'_>) -> String {
    let mut key = Vec::with_capacity(32);
    let columns = relation.columns.iter().zip(tuple);
    for (column, datum) in columns.filter(|(column, _)| column.key) {
        key.push(if key.is_empty() { b'{' } else { b',' });
        string(&mut key, &column.name);
        key.push(b':');
        match datum {
            Datum::Text(text) => DebeziumModes::default().value(&mut key, &column.kind, text),
            _ => key.extend_from_slice(b"null"),
        }
    }
    key.push(b'}');
    super::text(key)
}
