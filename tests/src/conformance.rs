//! Comparison of Spillway's events with those of the programs whose envelopes it writes.
//!
//! Both decode the same statements of the same database. `make conformance` runs Debezium Server itself, and
//! stores its events as a recording, with which a scenario of `make test` compares.

pub mod comparison;
pub mod debezium_server;
pub mod differences;
pub mod recording;
pub mod wal2json;

use serde_json::Value;

use crate::consumer::Delivery;
use crate::fixture::{Fixture, Plugin};

/// Statements with each type of PostgreSQL 15, in one transaction.
const TYPES: &str = include_str!("../conformance/types.sql");
/// Statements with each operation; each is a transaction.
const CHANGES: &str = include_str!("../conformance/changes.sql");

/// The last table that the statements write.
pub const LAST_TABLE: &str = "changed.last";

/// Query for the types that no column has; row types of the catalog are tried by the statements themselves.
const UNTRIED_TYPES: &str = "
    select string_agg(format_type(t.oid, null), ', ')
    from pg_type t
    where t.typtype in ('b', 'r', 'm', 'd', 'e')
      and not (t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc)
      and not exists (
        select from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'typed'::regnamespace and a.atttypid = t.oid)";

/// Debezium's modes for values, by the names of its properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// `decimal.handling.mode`
    pub decimal: &'static str,
    /// `time.precision.mode`
    pub time: &'static str,
    /// `interval.handling.mode`
    pub interval: &'static str,
    /// `hstore.handling.mode`
    pub hstore: &'static str,
}

impl Modes {
    /// Modes that together contain each mode of Debezium. Values depend on one of them each.
    pub const ALL: [Modes; 6] = [
        Modes::new("string", "isostring", "string", "json"),
        Modes::new("precise", "adaptive", "numeric", "map"),
        Modes::new("double", "microseconds", "string", "json"),
        Modes::new("string", "connect", "numeric", "json"),
        Modes::new("precise", "adaptive_time_microseconds", "string", "json"),
        Modes::new("double", "nanoseconds", "numeric", "json"),
    ];

    const fn new(
        decimal: &'static str,
        time: &'static str,
        interval: &'static str,
        hstore: &'static str,
    ) -> Self {
        Self {
            decimal,
            time,
            interval,
            hstore,
        }
    }

    /// Values of the modes, in the order of the fields.
    pub fn values(self) -> [&'static str; 4] {
        [self.decimal, self.time, self.interval, self.hstore]
    }
}

/// An event with its partition key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedEvent {
    /// Partition key of the record.
    pub key: String,
    /// The event.
    pub event: Value,
}

/// A fixture with a copy of its slot for each of [`Modes::ALL`], on which the statements were executed.
///
/// Neither markers nor anything else adds events.
///
/// # Panics
/// A type of PostgreSQL has no column.
pub async fn play(plugin: Plugin) -> Fixture {
    let fixture = Fixture::builder(plugin)
        .shards(1)
        .env("MARKERS", "off")
        .env("SOURCE_NAME", "spillway")
        .build()
        .await;
    for index in 0..Modes::ALL.len() {
        copy_slot(&fixture, &mode_slot(&fixture, index)).await;
        copy_slot(&fixture, &debezium_slot(&fixture, index)).await;
    }
    wal2json::create_slot(&fixture).await;
    fixture.sql(TYPES).await;
    let untried = fixture.value(UNTRIED_TYPES).await;
    assert_eq!(untried, None, "types.sql has no columns of these types");
    for statement in CHANGES.split(";\n") {
        fixture.sql(statement).await;
    }
    fixture
}

async fn copy_slot(fixture: &Fixture, copy: &str) {
    fixture
        .sql(&format!(
            "select pg_copy_logical_replication_slot('{}', '{copy}')",
            fixture.slot
        ))
        .await;
}

/// Name of Spillway's slot for a combination of modes.
fn mode_slot(fixture: &Fixture, index: usize) -> String {
    format!("{}_m{index}", fixture.slot)
}

/// Name of Debezium's slot for a combination of modes; of pgoutput only if the fixture is.
pub fn debezium_slot(fixture: &Fixture, index: usize) -> String {
    format!("{}_d{index}", fixture.slot)
}

/// Spillway's events in this combination of modes, in the order of their positions.
pub async fn drain_modes(fixture: &mut Fixture, index: usize) -> Vec<KeyedEvent> {
    let Modes {
        decimal,
        time,
        interval,
        hstore,
    } = Modes::ALL[index];
    let slot = mode_slot(fixture, index);
    fixture.kinesis.create_stream(&slot, 1).await;
    for (name, value) in [
        ("SLOT_NAME", slot.as_str()),
        ("STREAM_NAME", &slot),
        ("DECIMAL_HANDLING_MODE", decimal),
        ("TIME_PRECISION_MODE", time),
        ("INTERVAL_HANDLING_MODE", interval),
        ("HSTORE_HANDLING_MODE", hstore),
    ] {
        fixture.function.set(name, value).await;
    }
    fixture.drain().await;
    let delivery = Delivery::read(&fixture.kinesis, &slot).await;
    fixture.kinesis.delete_stream(&slot).await;
    fixture.ssm.delete(&format!("/spillway/{slot}")).await;
    delivery.assert_promise();
    events(&delivery)
}

/// The changes of a delivery, in the order of their positions.
pub fn events(delivery: &Delivery) -> Vec<KeyedEvent> {
    let changes = delivery.changes().into_iter();
    changes
        .map(|change| KeyedEvent {
            key: change.partition_key.clone(),
            event: change.json(),
        })
        .collect()
}
