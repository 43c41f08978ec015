//! The envelope of Debezium's PostgreSQL connector, as its JSON converter writes it without schemas. The fields and
//! their order are Debezium's; `source.position` is the one that is added.

use std::io::Write as _;
use std::sync::Arc;

use super::value::{base64, string, value};
use super::{Event, Transaction};
use crate::change::{Change, Datum, Message, Relation, Tuple};
use crate::lsn::Lsn;
use crate::position::{Position, Positions};

/// What Debezium puts for a large value that an update did not touch.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Writes events for one database.
#[derive(Debug, Clone)]
pub struct Debezium {
    /// `source.name`: tells databases apart in a stream that many share.
    pub name: String,
    /// `source.db`
    pub database: String,
}

/// What an event is about, beside its rows.
struct Head<'a> {
    op: char,
    transaction: Transaction,
    position: Position,
    schema: &'a str,
    table: &'a str,
}

impl Debezium {
    /// Appends the events of a change to `out`. Most changes are one event; a changed key is a delete of the old key
    /// and a create of the new; a truncate is one for each table.
    ///
    /// `lsn` is the row's from the peek. `now` is when the change was read, µs since 1970-01-01 UTC: it is the outer `ts_ms`,
    /// the only part of an event that differs when it is sent again.
    pub fn encode(
        &self,
        transaction: Transaction,
        positions: &mut Positions,
        lsn: Lsn,
        change: &Change<'_>,
        now: i64,
        out: &mut Vec<Event>,
    ) {
        let mut row = |op,
                       relation: &Arc<Relation>,
                       key: &Tuple<'_>,
                       before: Option<&Tuple<'_>>,
                       after: Option<&Tuple<'_>>| {
            let position = positions.next(lsn);
            let head = Head {
                op,
                transaction,
                position,
                schema: &relation.schema,
                table: &relation.name,
            };
            let data = self.row(&head, relation, before, after, now);
            let (partition_key, relation) = (partition_key(relation, key), Some(Arc::clone(relation)));
            out.push(Event {
                position,
                partition_key,
                barrier: false,
                relation,
                data,
            });
        };
        match change {
            Change::Insert { relation, new } => row('c', relation, new, None, Some(new)),
            Change::Delete { relation, old } => row('d', relation, old, Some(old), None),
            Change::Update {
                relation,
                old: Some(old),
                new,
            } if key_differs(relation, old, new) => {
                row('d', relation, old, Some(old), None);
                row('c', relation, new, None, Some(new));
            }
            Change::Update { relation, old, new } => row('u', relation, new, old.as_ref(), Some(new)),
            Change::Truncate { relations } => {
                for relation in relations {
                    let position = positions.next(lsn);
                    let head = Head {
                        op: 't',
                        transaction,
                        position,
                        schema: &relation.schema,
                        table: &relation.name,
                    };
                    let mut data = self.open(&head);
                    close(&mut data, &head, now);
                    let (partition_key, relation) = (relation.to_string(), Some(Arc::clone(relation)));
                    out.push(Event {
                        position,
                        partition_key,
                        barrier: true,
                        relation,
                        data,
                    });
                }
            }
            Change::Message(message) => {
                out.push(self.message(transaction, positions.next(lsn), message, now))
            }
        }
    }

    /// The event of a logical message. Its key is its prefix.
    pub fn message(
        &self,
        transaction: Transaction,
        position: Position,
        message: &Message<'_>,
        now: i64,
    ) -> Event {
        let head = Head {
            op: 'm',
            transaction,
            position,
            schema: "",
            table: "",
        };
        let mut data = self.open(&head);
        data.extend_from_slice(br#","message":{"prefix":"#);
        string(&mut data, &message.prefix);
        data.extend_from_slice(br#","content":"#);
        base64(&mut data, &message.content);
        data.push(b'}');
        close(&mut data, &head, now);
        let mut key = br#"{"prefix":"#.to_vec();
        string(&mut key, &message.prefix);
        key.push(b'}');
        Event {
            position,
            partition_key: text(key),
            barrier: false,
            relation: None,
            data,
        }
    }

    fn row(
        &self,
        head: &Head<'_>,
        relation: &Relation,
        before: Option<&Tuple<'_>>,
        after: Option<&Tuple<'_>>,
        now: i64,
    ) -> Vec<u8> {
        let mut data = Vec::with_capacity(512);
        data.extend_from_slice(br#"{"before":"#);
        image(&mut data, relation, before);
        data.extend_from_slice(br#","after":"#);
        image(&mut data, relation, after);
        data.extend_from_slice(br#","source":"#);
        self.source(&mut data, head);
        data.extend_from_slice(br#","transaction":null"#);
        close(&mut data, head, now);
        // It waits, perhaps with many others, and what waits is counted by what it occupies.
        data.shrink_to_fit();
        data
    }

    /// `{"source":{…}`, for events that have no row.
    fn open(&self, head: &Head<'_>) -> Vec<u8> {
        let mut data = br#"{"source":"#.to_vec();
        self.source(&mut data, head);
        data
    }

    fn source(&self, out: &mut Vec<u8>, head: &Head<'_>) {
        let Position { commit_end, lsn, .. } = head.position;
        let micros = head.transaction.commit_time.unwrap_or(0);
        out.extend_from_slice(br#"{"version":""#);
        out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        out.extend_from_slice(br#"","connector":"postgresql","name":"#);
        string(out, &self.name);
        times(out, micros);
        out.extend_from_slice(br#","snapshot":"false","db":"#);
        string(out, &self.database);
        // Debezium's pair is the end of the last commit and the change's LSN, for ordering. Ours is the end of the
        // change's own commit: it orders the same and does not depend on where reading began.
        let _ = write!(
            out,
            r#","sequence":"[\"{}\",\"{}\"]","schema":"#,
            commit_end.0, lsn.0
        );
        string(out, head.schema);
        out.extend_from_slice(br#","table":"#);
        string(out, head.table);
        let (xid, position) = (head.transaction.xid, head.position);
        let _ = write!(
            out,
            r#","txId":{xid},"lsn":{},"xmin":null,"position":"{position}"}}"#,
            lsn.0
        );
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

fn close(out: &mut Vec<u8>, head: &Head<'_>, now: i64) {
    let _ = write!(out, r#","op":"{}""#, head.op);
    times(out, now);
    out.push(b'}');
}

/// A row as a JSON object, without the columns that are not known.
fn image(out: &mut Vec<u8>, relation: &Relation, tuple: Option<&Tuple<'_>>) {
    let Some(tuple) = tuple else {
        out.extend_from_slice(b"null");
        return;
    };
    let mut separator = b'{';
    for (column, datum) in relation.columns.iter().zip(tuple) {
        if *datum == Datum::Absent {
            continue;
        }
        out.push(std::mem::replace(&mut separator, b','));
        string(out, &column.name);
        out.push(b':');
        match datum {
            Datum::Text(text) => value(out, &column.kind, text),
            Datum::Unchanged => string(out, UNAVAILABLE),
            Datum::Null | Datum::Absent => out.extend_from_slice(b"null"),
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

/// Whether the update moved the row to another key.
fn key_differs(relation: &Relation, old: &Tuple<'_>, new: &Tuple<'_>) -> bool {
    let pairs = relation.columns.iter().zip(old.iter().zip(new));
    pairs
        .filter(|(column, _)| column.key)
        .any(|(_, (old, new))| *old != Datum::Absent && old != new)
}

/// The serialized key, `{"id":1}`; the table for a row that has none.
fn partition_key(relation: &Relation, tuple: &Tuple<'_>) -> String {
    if !relation.has_key() {
        return relation.to_string();
    }
    let mut key = Vec::with_capacity(32);
    for (column, datum) in relation
        .columns
        .iter()
        .zip(tuple)
        .filter(|(column, _)| column.key)
    {
        key.push(if key.is_empty() { b'{' } else { b',' });
        string(&mut key, &column.name);
        key.push(b':');
        match datum {
            Datum::Text(text) => value(&mut key, &column.kind, text),
            _ => key.extend_from_slice(b"null"),
        }
    }
    key.push(b'}');
    text(key)
}

/// Bytes that were written from strs.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::{Value, json};

    use super::*;
    use crate::change::{Column, Type};

    fn relation() -> Arc<Relation> {
        let column = |name: &str, kind, key| Column {
            name: name.into(),
            kind,
            key,
        };
        let columns = vec![
            column("id", Type::Integer, true),
            column("name", Type::Text, false),
        ];
        Arc::new(Relation {
            schema: "public".into(),
            name: "t".into(),
            columns,
        })
    }

    fn row(id: &'static str, name: &'static str) -> Tuple<'static> {
        vec![Datum::Text(Cow::Borrowed(id)), Datum::Text(Cow::Borrowed(name))]
    }

    fn encode(change: &Change<'_>) -> Vec<(String, Value)> {
        let debezium = Debezium {
            name: "slot".into(),
            database: "db".into(),
        };
        let transaction = Transaction {
            xid: 7,
            commit_time: Some(1_700_000_000_123_456),
        };
        let mut out = Vec::new();
        debezium.encode(
            transaction,
            &mut Positions::new(Lsn(32)),
            Lsn(16),
            change,
            1_700_000_001_000_000,
            &mut out,
        );
        out.into_iter()
            .map(|e| (e.partition_key, serde_json::from_slice(&e.data).unwrap()))
            .collect()
    }

    #[test]
    fn an_insert_is_a_create_with_debeziums_fields() {
        let events = encode(&Change::Insert {
            relation: relation(),
            new: row("1", "x"),
        });
        let source = json!({"version": env!("CARGO_PKG_VERSION"), "connector": "postgresql", "name": "slot",
            "ts_ms": 1_700_000_000_123i64, "ts_us": 1_700_000_000_123_456i64, "ts_ns": 1_700_000_000_123_456_000i64,
            "snapshot": "false", "db": "db", "sequence": "[\"32\",\"16\"]", "schema": "public", "table": "t", "txId": 7,
            "lsn": 16, "xmin": null, "position": "0000000000000020.0000000000000010.00000000"});
        let event = json!({"before": null, "after": {"id": 1, "name": "x"}, "source": source, "transaction": null, "op": "c",
            "ts_ms": 1_700_000_001_000i64, "ts_us": 1_700_000_001_000_000i64, "ts_ns": 1_700_000_001_000_000_000i64});
        assert_eq!(events, [(r#"{"id":1}"#.to_owned(), event)]);
    }

    #[test]
    fn a_changed_key_is_a_delete_of_the_old_and_a_create_of_the_new() {
        let old = vec![Datum::Text(Cow::Borrowed("1")), Datum::Absent];
        let events = encode(&Change::Update {
            relation: relation(),
            old: Some(old),
            new: row("2", "x"),
        });
        let seen: Vec<_> = events
            .iter()
            .map(|(key, e)| (key.as_str(), &e["op"], &e["before"], &e["after"]))
            .collect();
        let (one, two) = (json!({"id": 1}), json!({"id": 2, "name": "x"}));
        let expected = [
            (r#"{"id":1}"#, &json!("d"), &one, &Value::Null),
            (r#"{"id":2}"#, &json!("c"), &Value::Null, &two),
        ];
        assert_eq!(seen, expected);
        assert!(events[0].1["source"]["position"].as_str() < events[1].1["source"]["position"].as_str());
    }

    #[test]
    fn an_untouched_large_value_is_marked_and_never_null() {
        let new = vec![Datum::Text(Cow::Borrowed("1")), Datum::Unchanged];
        let events = encode(&Change::Update {
            relation: relation(),
            old: None,
            new,
        });
        assert_eq!(events[0].1["after"], json!({"id": 1, "name": UNAVAILABLE}));
    }
}
