//! Checks of the events that each envelope writes for a decoded row.
//!
//! An event is JSON, and its partition key is one that Kinesis accepts. The position of an event is the same
//! whether the changes before it were encoded or skipped.

use drain::base::lsn::Lsn;
use drain::base::position::{Position, PositionSequence};
use drain::change::{Change, Datum, DecodedRow, Message, Relation};
use drain::encode::{
    Debezium, DebeziumModes, DecimalMode, Dms, EncodedEvents, Envelope, EnvelopeForm, Event, HstoreMode,
    IntervalMode, KeylessRows, OversizePolicy, PartitionBy, Progress, SchemaCache, TimeMode, Transaction,
    Wal2json,
};
use serde::de::IgnoredAny;

use super::allocation::{AllocationBound, AllocationSum};

/// The time of every event, µs since 1970-01-01 UTC.
const NOW: i64 = 1_700_000_001_000_000;

/// The most Unicode characters of a partition key (Kinesis API, PutRecordsRequestEntry).
const MAX_KEY_CHARACTERS: usize = 256;

/// One envelope, and its progress in a transaction that does not end.
struct EnvelopeCheck {
    envelope: Envelope,
    /// The most bytes of an event.
    limit: usize,
    /// The progress if every change is encoded.
    encoded: Progress,
    /// The progress if every change is skipped.
    skipped: Progress,
}

/// The checks of every envelope.
pub(super) struct EnvelopeChecks(Vec<EnvelopeCheck>);

impl EnvelopeChecks {
    /// The checks in the modes that the bits of `options` choose.
    ///
    /// Bits 1 and 2 choose the partition key, bits 3 and 4 the form of decimals, bit 5 the form of times,
    /// intervals and hstores.
    /// Bit 6 adds tombstones and transaction metadata, bit 7 limits the size of an event.
    pub(super) fn new(options: u8) -> Self {
        let bits = |from: u8, mask: u8| usize::from(options >> from & mask);
        let partition_by = [
            PartitionBy::Key,
            PartitionBy::Table,
            PartitionBy::Transaction,
            PartitionBy::Key,
        ][bits(1, 3)];
        // Both orders of rows without a key, with the first and the last choice of the partition key.
        let keyless = [KeylessRows::Spread, KeylessRows::Table][bits(2, 1)];
        let decimal = [
            DecimalMode::String,
            DecimalMode::Precise,
            DecimalMode::Double,
            DecimalMode::Precise,
        ][bits(3, 3)];
        let time = [
            TimeMode::IsoString,
            [TimeMode::Adaptive, TimeMode::Nanoseconds][bits(4, 1)],
        ][bits(5, 1)];
        let interval = [IntervalMode::String, IntervalMode::Numeric][bits(5, 1)];
        let hstore = [HstoreMode::Json, HstoreMode::Map][bits(5, 1)];
        let is_extended = bits(6, 1) == 1;
        let debezium = Debezium {
            name: "slot".to_owned(),
            database: "db".to_owned(),
            modes: DebeziumModes {
                decimal,
                time,
                interval,
                hstore,
            },
            tombstones: is_extended,
            transaction_metadata: is_extended,
            unwrap: false,
            schemas: None,
        };
        let (oversize, limit) = [(OversizePolicy::Fail, usize::MAX), (OversizePolicy::Omit, 600)][bits(7, 1)];
        let transaction = Transaction {
            xid: 7,
            commit_time: Some(NOW),
        };
        let check = |form| {
            let envelope = Envelope {
                form,
                partition_by,
                keyless,
                oversize,
            };
            EnvelopeCheck {
                limit,
                encoded: envelope.begin(transaction, Lsn(u64::MAX)),
                skipped: envelope.begin(transaction, Lsn(u64::MAX)),
                envelope,
            }
        };
        let flat = Debezium {
            unwrap: true,
            ..debezium.clone()
        };
        let [with_schemas, flat_with_schemas] = [&debezium, &flat].map(|form| Debezium {
            schemas: Some(SchemaCache::default()),
            ..form.clone()
        });
        EnvelopeChecks(
            [
                EnvelopeForm::Debezium(debezium),
                EnvelopeForm::Debezium(flat),
                EnvelopeForm::Debezium(with_schemas),
                EnvelopeForm::Debezium(flat_with_schemas),
                EnvelopeForm::Dms(Dms::default()),
                EnvelopeForm::Wal2json(Wal2json),
            ]
            .map(check)
            .into(),
        )
    }

    /// Encodes an item in each envelope and checks its events.
    pub(super) fn encode(&mut self, lsn: Lsn, item: &DecodedRow<'_>) {
        for check in &mut self.0 {
            let envelope = &check.envelope;
            match item {
                DecodedRow::Change(change) => {
                    let (mut allocated, mut encoded) = (AllocationSum::default(), EncodedEvents::default());
                    let (progress, limit) = (&mut check.encoded, check.limit);
                    let omitted =
                        allocated.add(|| envelope.encode(progress, lsn, change, NOW, limit, &mut encoded));
                    if envelope.oversize == OversizePolicy::Fail {
                        let is_message = matches!(change, Change::Message(_));
                        assert!(omitted == 0 || is_message, "{omitted}");
                        // A schema is many times longer than the names of its columns.
                        if !has_schemas(envelope) {
                            allocated.assert_within(AllocationBound::CHANGE, bytes(change));
                        }
                    }
                    envelope.skip(&mut check.skipped, lsn, change);
                    encoded.events.iter().for_each(assert_event);
                }
                DecodedRow::Message(message) => {
                    assert_event(&envelope.encode_message(
                        PositionSequence::new(lsn).next(lsn),
                        message,
                        NOW,
                    ));
                }
                DecodedRow::Begin { .. } | DecodedRow::Commit { .. } | DecodedRow::Nothing => {}
            }
        }
    }

    /// Checks that the next event has the same position in every envelope.
    ///
    /// In flat rows, an update without a key is two events, so the next one of the same LSN has another
    /// index. The event is the same, too, whether the changes before it were encoded or skipped.
    pub(super) fn assert_positions_agree(self) {
        let mut positions: Vec<Position> = Vec::new();
        for check in self.0 {
            let EnvelopeCheck { envelope, limit, .. } = check;
            let [after_encoded, after_skipped] = [check.encoded, check.skipped].map(|mut progress| {
                let message = Change::Message(Message {
                    prefix: "next".into(),
                    content: b"".into(),
                    omitted: Default::default(),
                });
                let mut encoded = EncodedEvents::default();
                envelope.encode(&mut progress, Lsn(u64::MAX), &message, NOW, limit, &mut encoded);
                encoded.events
            });
            assert_eq!(after_encoded, after_skipped);
            if !is_flat(&envelope) {
                positions.extend(after_encoded.iter().map(|event| event.position));
            }
        }
        positions.dedup();
        assert_eq!(positions.len(), 1, "the envelopes differ in a position");
    }
}

fn has_schemas(envelope: &Envelope) -> bool {
    matches!(&envelope.form, EnvelopeForm::Debezium(form) if form.schemas.is_some())
}

fn is_flat(envelope: &Envelope) -> bool {
    matches!(&envelope.form, EnvelopeForm::Debezium(form) if form.unwrap)
}

fn assert_event(event: &Event) {
    let characters = event.partition_key.chars().count();
    assert!(
        (1..=MAX_KEY_CHARACTERS).contains(&characters),
        "a key of {characters} characters"
    );
    if event.data.is_empty() {
        return;
    }
    let text = std::str::from_utf8(&event.data).expect("an event is text");
    // The check ignores the values of numbers: PostgreSQL's have more digits than Rust's.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        panic!("an event is not JSON, {error}: {text}");
    }
}

/// Approximate bytes that an event adds for each table, column or value.
const OVERHEAD: usize = 16;

/// Bytes of the names, types and values in a change's event.
fn bytes(change: &Change<'_>) -> usize {
    let of_relation = |relation: &Relation| {
        let columns = relation
            .columns
            .iter()
            .map(|column| column.name.len() + column.type_name.len() + OVERHEAD);
        let primary = relation
            .primary_key
            .iter()
            .map(|(name, type_name)| name.len() + type_name.len() + OVERHEAD);
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
        // Each table has an event of its own.
        Change::Truncate { relations } => relations
            .iter()
            .map(|relation| of_relation(relation) + OVERHEAD)
            .sum(),
        Change::Message(message) => message.prefix.len() + message.content.len(),
    }
}
