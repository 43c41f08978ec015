//! What was decoded, in every envelope: it is JSON, has a partition key that the stream takes, and the same position whether or not what
//! came before it was sent.

use drain::change::{Change, Datum, Item, Message, Relation};
use drain::encode::{
    Debezium, DebeziumModes, DecimalMode, Dms, Envelope, EnvelopeForm, Event, Oversize, PartitionBy,
    Progress, TimeMode, Transaction, Wal2json,
};
use drain::lsn::Lsn;
use drain::position::{Position, Positions};
use serde::de::IgnoredAny;

use super::allocated::{Bound, Sum};

const NOW: i64 = 1_700_000_001_000_000;

/// Unicode characters of a partition key (Kinesis API, PutRecordsRequestEntry).
const KEY_CHARACTERS: usize = 256;

/// Each envelope with how far it has come in a transaction that has no end, and how far it would have if nothing had been sent.
pub(super) struct Envelopes(Vec<(Envelope, usize, Progress, Progress)>);

impl Envelopes {
    /// `options`: bits 1 to 2 the key, 3 to 4 decimals, 5 times, 6 what else Debezium can be asked for, 7 a record's size.
    pub(super) fn new(options: u8) -> Self {
        let bits = |from: u8, mask: u8| usize::from(options >> from & mask);
        let partition_by = [
            PartitionBy::Key,
            PartitionBy::Table,
            PartitionBy::Transaction,
            PartitionBy::Key,
        ][bits(1, 3)];
        let decimal = [
            DecimalMode::String,
            DecimalMode::Precise,
            DecimalMode::Double,
            DecimalMode::Precise,
        ][bits(3, 3)];
        let time = [
            TimeMode::IsoString,
            [TimeMode::Adaptive, TimeMode::Microseconds][bits(4, 1)],
        ][bits(5, 1)];
        let more = bits(6, 1) == 1;
        let debezium = Debezium {
            name: "slot".to_owned(),
            database: "db".to_owned(),
            modes: DebeziumModes { decimal, time },
            tombstones: more,
            transaction_metadata: more,
        };
        let (oversize, limit) = [(Oversize::Fail, usize::MAX), (Oversize::Omit, 600)][bits(7, 1)];
        let progress = || {
            let transaction = Transaction {
                xid: 7,
                commit_time: Some(NOW),
            };
            Progress::new(transaction, Lsn(u64::MAX))
        };
        let of = |form| {
            let envelope = Envelope {
                form,
                partition_by,
                oversize,
            };
            (envelope, limit, progress(), progress())
        };
        Envelopes(
            [
                EnvelopeForm::Debezium(debezium),
                EnvelopeForm::Dms(Dms::default()),
                EnvelopeForm::Wal2json(Wal2json),
            ]
            .map(of)
            .into(),
        )
    }

    /// Writes what an item tells.
    pub(super) fn write(&mut self, lsn: Lsn, item: &Item<'_>) {
        for (envelope, limit, sent, skipped) in &mut self.0 {
            match item {
                Item::Change(change) => {
                    let (mut spent, mut events) = (Sum::default(), Vec::new());
                    let left_out = spent.add(|| envelope.encode(sent, lsn, change, NOW, *limit, &mut events));
                    if envelope.oversize == Oversize::Fail {
                        assert_eq!(left_out, 0);
                        spent.assert_within(Bound::CHANGE, bytes(change));
                    }
                    envelope.skip(skipped, lsn, change);
                    events.iter().for_each(assert_event);
                }
                Item::Message(message) => {
                    assert_event(&envelope.encode_message(Positions::new(lsn).next(lsn), message, NOW));
                }
                Item::Begin { .. } | Item::Commit { .. } | Item::Nothing => {}
            }
        }
    }

    /// What comes next has the same position in each, and stands at the same place of the transaction, sent or not.
    pub(super) fn agree(self) {
        let mut positions: Vec<Position> = Vec::new();
        for (envelope, limit, sent, skipped) in self.0 {
            let [next, after_nothing] = [sent, skipped].map(|mut progress| {
                let message = Change::Message(Message {
                    prefix: "next".into(),
                    content: b"".into(),
                });
                let mut events = Vec::new();
                envelope.encode(&mut progress, Lsn(u64::MAX), &message, NOW, limit, &mut events);
                events
            });
            assert_eq!(next, after_nothing);
            positions.extend(next.iter().map(|event| event.position));
        }
        positions.dedup();
        assert_eq!(positions.len(), 1, "the envelopes differ in a position");
    }
}

fn assert_event(event: &Event) {
    let characters = event.partition_key.chars().count();
    assert!(
        (1..=KEY_CHARACTERS).contains(&characters),
        "a key of {characters} characters"
    );
    if event.data.is_empty() {
        return;
    }
    let text = std::str::from_utf8(&event.data).expect("an event is text");
    // Numbers are not looked at: PostgreSQL's have more digits than Rust's.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        panic!("an event is no JSON, {error}: {text}");
    }
}

/// About what frames a table, a column or a value in an event, bytes.
const FRAME: usize = 16;

/// Bytes of all that an event of a change can hold.
fn bytes(change: &Change<'_>) -> usize {
    let of_relation = |relation: &Relation| {
        let columns = relation
            .columns
            .iter()
            .map(|column| column.name.len() + column.type_name.len() + FRAME);
        let primary = relation
            .primary
            .iter()
            .map(|(name, type_name)| name.len() + type_name.len() + FRAME);
        relation.table.schema.len() + relation.table.name.len() + columns.chain(primary).sum::<usize>()
    };
    let of_tuple = |tuple: &Vec<Datum<'_>>| {
        let texts = tuple.iter().map(|datum| match datum {
            Datum::Text(text) => text.len(),
            _ => 0,
        });
        texts.sum::<usize>()
    };
    match change {
        Change::Insert { relation, new } => of_relation(relation) + of_tuple(new),
        Change::Update { relation, old, new } => {
            of_relation(relation) + of_tuple(new) + old.as_ref().map_or(0, of_tuple)
        }
        Change::Delete { relation, old } => of_relation(relation) + of_tuple(old),
        // An event each.
        Change::Truncate { relations } => relations
            .iter()
            .map(|relation| of_relation(relation) + FRAME)
            .sum(),
        Change::Message(message) => message.prefix.len() + message.content.len(),
    }
}
