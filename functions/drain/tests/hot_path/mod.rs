//! The path that each change takes: pgoutput's row, decoded, encoded, packed and acknowledged.

use std::time::Instant;

use drain::base::lsn::Lsn;
use drain::catalog::Catalog;
use drain::change::{Change, DecodedRow};
use drain::decode::Decoder;
use drain::encode::{
    Debezium, EncodedEvents, Envelope, EnvelopeForm, KeylessRows, OversizePolicy, PartitionBy, SchemaCache,
    SpareEvents, Transaction,
};
use drain::pack::{
    Acknowledgements, Aggregation, HashKey, Lanes, MAIN_STREAM, QueuedEvent, RequestLimits, Shard, ShardMap,
};
use drain::plugin::Plugin;
use drain::rules::column_rules::{ColumnRule, ColumnRules, Salt};
use drain::rules::pattern::TableColumns;
use drain::rules::projection::{ProjectionRules, Projections};

/// Changes of a transaction.
const TRANSACTION: u32 = 10;

const LIMITS: RequestLimits = RequestLimits {
    records: 500,
    bytes: 5 << 20,
};

const OID: u32 = 16_384;

/// pgoutput's description of a table.
///
/// The table has the key `id` and the column `filler`.
fn description() -> Vec<u8> {
    let mut row = vec![b'R'];
    row.extend(OID.to_be_bytes());
    row.extend(b"public\0accounts\0d");
    row.extend(2u16.to_be_bytes());
    for (is_key, name, type_oid) in [(1u8, "id", 23u32), (0, "filler", 25)] {
        row.push(is_key);
        row.extend(name.as_bytes());
        row.push(0);
        row.extend(type_oid.to_be_bytes());
        row.extend((-1i32).to_be_bytes());
    }
    row
}

/// Writes pgoutput's update of the row with this key into `row`.
fn write_update(row: &mut Vec<u8>, id: u32) {
    row.clear();
    row.push(b'U');
    row.extend_from_slice(&OID.to_be_bytes());
    row.push(b'N');
    row.extend_from_slice(&2u16.to_be_bytes());
    // PostgreSQL writes no zeros before a number.
    let number = 1_000_000 + id;
    let digits: [u8; 7] =
        std::array::from_fn(|place| b'0' + (number / 10u32.pow(6 - place as u32) % 10) as u8);
    for value in [&digits[..], &[b'x'; 84]] {
        row.push(b't');
        row.extend_from_slice(&(value.len() as u32).to_be_bytes());
        row.extend_from_slice(value);
    }
}

fn shards(count: u128) -> ShardMap {
    let size = u128::MAX / count;
    let shard = |number: u128| Shard {
        id: format!("shardId-{number:012}"),
        first: HashKey(number * size),
        last: HashKey(match number + 1 == count {
            true => u128::MAX,
            false => (number + 1) * size - 1,
        }),
    };
    ShardMap::new((0..count).map(shard).collect()).expect("the ranges cover all hash keys")
}

/// Stages of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The row becomes a change.
    Decode,
    /// The change becomes an event.
    Encode,
    /// The event becomes a part of a record, which is acknowledged.
    Pack,
}

/// Decoder, encoder and lanes, one after the other.
pub(crate) struct Path {
    decoder: Decoder,
    catalog: Catalog,
    /// The projections by rules for columns of other tables.
    projections: Projections<'static>,
    envelope: Envelope,
    lanes: Lanes,
    acknowledgements: Acknowledgements,
    encoded: EncodedEvents,
    spare: SpareEvents,
    row: Vec<u8>,
    /// Bytes of the data of all records.
    pub(crate) bytes: usize,
}

impl Path {
    /// A path without changes, in the usual envelope.
    pub(crate) fn new(aggregation: Aggregation) -> Self {
        Self::with_form(aggregation, false, None)
    }

    /// A path without changes.
    ///
    /// Its events may be flat rows and may have schemas.
    pub(crate) fn with_form(aggregation: Aggregation, unwrap: bool, schemas: Option<SchemaCache>) -> Self {
        let rules = ColumnRule::parse_list("public.users.email:hash,*.*.ssn:omit");
        let rules = ColumnRules::new(rules.expect("they are rules"), Salt::default());
        let rules = ProjectionRules {
            column_rules: rules,
            partition_keys: TableColumns::parse_list("public.orders:customer_id").expect("it is an entry"),
        };
        let mut path = Path {
            projections: Projections::new(Box::leak(Box::new(rules))),
            decoder: Decoder::new(Plugin::Pgoutput),
            catalog: Catalog::default(),
            envelope: Envelope {
                form: EnvelopeForm::Debezium(Debezium {
                    unwrap,
                    schemas,
                    ..Debezium::new("slot", "database")
                }),
                partition_by: PartitionBy::Key,
                keyless: KeylessRows::Spread,
                oversize: OversizePolicy::Fail,
            },
            lanes: Lanes::new(aggregation, shards(16)),
            acknowledgements: Acknowledgements::new(Lsn(1).into()),
            encoded: EncodedEvents::default(),
            spare: SpareEvents::default(),
            row: Vec::new(),
            bytes: 0,
        };
        let row = description();
        let described = path.decoder.decode(&path.catalog, Lsn(1), &row);
        assert_eq!(described, Ok(DecodedRow::Nothing));
        path
    }

    /// Passes transactions with these changes through the stages up to `last`.
    pub(crate) fn pass(&mut self, changes: std::ops::Range<u32>, last: Stage) {
        let first = changes.start;
        for number in changes.step_by(TRANSACTION as usize) {
            let lsn = Lsn(u64::from(number) + 100);
            let transaction = Transaction {
                xid: number + 1,
                commit_time: Some(1_700_000_000_000_000),
            };
            let id = self.acknowledgements.begin();
            let mut progress = self.envelope.begin(transaction, lsn);
            for at in number..number + TRANSACTION {
                write_update(&mut self.row, at - first);
                let decoded = self.decoder.decode(&self.catalog, lsn, &self.row);
                let Ok(DecodedRow::Change(change @ Change::Update { .. })) = decoded else {
                    panic!("not an update: {decoded:?}");
                };
                if last >= Stage::Encode {
                    let out = &mut self.encoded;
                    let projected = self.projections.change(&change);
                    let change = projected.as_ref().unwrap_or(&change);
                    self.envelope.encode(&mut progress, lsn, change, 1, 1 << 20, out);
                }
                self.decoder.recycle(change);
                for event in self.encoded.events.drain(..) {
                    if last < Stage::Pack {
                        self.spare.add(event);
                        continue;
                    }
                    self.acknowledgements.add_event(id);
                    self.lanes.push(QueuedEvent {
                        event,
                        span: id,
                        change_positions: 1,
                        stream: MAIN_STREAM,
                    });
                }
                self.encoded.refill_spare(&mut self.spare);
            }
            self.acknowledgements.commit(id, lsn);
            if number % 10_000 == 0 {
                self.send();
            }
        }
        self.send();
    }

    /// Sends and acknowledges everything that waits.
    fn send(&mut self) {
        while !self.lanes.is_empty() {
            let now = Instant::now();
            for record in self.lanes.next_request(now, LIMITS, false, |_| 1) {
                self.bytes += record.data().len();
                for event in record.events() {
                    self.acknowledgements.acknowledge(event.span);
                }
                for former in self.lanes.acknowledge(now, record) {
                    self.spare.add(former.event);
                }
            }
        }
    }
}
