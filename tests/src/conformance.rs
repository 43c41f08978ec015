//! Comparison of Spillway's events with those of other programs.
//!
//! Spillway writes the envelopes of these programs. All of them decode the same statements of the same
//! database. `make conformance` runs Debezium Server itself, and stores its events as a recording, with which
//! a scenario of `make test` compares.

pub mod comparison;
pub mod debezium_server;
pub mod differences;
pub mod keyed_event;
pub mod recording;
pub mod unwrapped;
pub mod wal2json;

pub use keyed_event::KeyedEvent;

use comparison::{Difference, compare};
use unwrapped::compare_unwrapped;

use crate::consumer::Delivery;
use crate::fixture::{Fixture, Plugin};

/// Statements with each type of PostgreSQL 15, in one transaction.
const TYPES: &str = include_str!("../conformance/types.sql");
/// Statements with each operation; each is a transaction.
const CHANGES: &str = include_str!("../conformance/changes.sql");

/// The last table that the statements write.
pub const LAST_TABLE: &str = "changed.last";

/// Query for the types that no column has.
///
/// The statements themselves try the row types of the catalog.
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
pub struct ValueModes {
    /// `decimal.handling.mode`
    pub decimal: &'static str,
    /// `time.precision.mode`
    pub time: &'static str,
    /// `interval.handling.mode`
    pub interval: &'static str,
    /// `hstore.handling.mode`
    pub hstore: &'static str,
}

impl ValueModes {
    /// Modes that together contain each mode of Debezium. Values depend on one of them each.
    pub const ALL: [ValueModes; 6] = [
        ValueModes::new("string", "isostring", "string", "json"),
        ValueModes::new("precise", "adaptive", "numeric", "map"),
        ValueModes::new("double", "microseconds", "string", "json"),
        ValueModes::new("string", "connect", "numeric", "json"),
        ValueModes::new("precise", "adaptive_time_microseconds", "string", "json"),
        ValueModes::new("double", "nanoseconds", "numeric", "json"),
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

/// Form of the events in the envelope of Debezium.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventForm {
    /// Whether an event is the flat row, as `ExtractNewRecordState` writes it.
    pub unwrap: bool,
    /// Whether an event has its schema: `schemas.enable` of the JSON converter.
    pub schemas: bool,
}

impl EventForm {
    /// The usual envelope.
    pub const ENVELOPED: Self = Self::new(false, false);
    /// The usual envelope with schemas.
    pub const WITH_SCHEMAS: Self = Self::new(false, true);
    /// Flat rows.
    pub const UNWRAPPED: Self = Self::new(true, false);
    /// Flat rows with schemas.
    pub const UNWRAPPED_WITH_SCHEMAS: Self = Self::new(true, true);

    const fn new(unwrap: bool, schemas: bool) -> Self {
        Self { unwrap, schemas }
    }

    /// Description of the form; empty for the usual envelope.
    ///
    /// It follows the description of the modes.
    pub fn description(self) -> &'static str {
        match (self.unwrap, self.schemas) {
            (false, false) => "",
            (true, false) => ", unwrapped",
            (false, true) => ", schemas",
            (true, true) => ", unwrapped, schemas",
        }
    }

    /// End of a slot's and a stream's name for this form.
    fn suffix(self) -> &'static str {
        match (self.unwrap, self.schemas) {
            (false, false) => "",
            (true, false) => "u",
            (false, true) => "s",
            (true, true) => "us",
        }
    }
}

/// Combinations of [`ValueModes::ALL`] for flat rows: the form of an event does not change their values.
pub const UNWRAPPED_MODES: usize = 2;

/// A fixture on which the statements were executed. Copies of its slot are drained.
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
    wal2json::create_slot(&fixture).await;
    fixture.sql(TYPES).await;
    let untried = fixture.value(UNTRIED_TYPES).await;
    assert_eq!(untried, None, "types.sql has no columns of these types");
    for statement in CHANGES.split(";\n") {
        fixture.sql(statement).await;
    }
    fixture
}

/// Spillway's events in these modes and this form, in position order.
///
/// `index` is that of the combination of modes.
pub async fn drain_modes(fixture: &mut Fixture, index: usize, form: EventForm) -> Vec<KeyedEvent> {
    let stream = drain_into_stream(fixture, index, form).await;
    let delivery = Delivery::read(&fixture.kinesis, &stream).await;
    fixture.kinesis.delete_stream(&stream).await;
    delivery.assert_promise();
    events(&delivery)
}

/// Drains a copy of the slot; returns the name of the stream.
///
/// The drain has this combination of modes and this form.
pub async fn drain_into_stream(fixture: &mut Fixture, index: usize, form: EventForm) -> String {
    let ValueModes {
        decimal,
        time,
        interval,
        hstore,
    } = ValueModes::ALL[index];
    let slot = format!("{}_m{index}{}", fixture.slot, form.suffix());
    fixture.copy_slot(&slot).await;
    fixture.kinesis.create_stream(&slot, 1).await;
    for (name, value) in [
        ("SLOT_NAME", slot.as_str()),
        ("STREAM_NAME", &slot),
        ("DECIMAL_HANDLING_MODE", decimal),
        ("TIME_PRECISION_MODE", time),
        ("INTERVAL_HANDLING_MODE", interval),
        ("HSTORE_HANDLING_MODE", hstore),
        ("UNWRAP", &form.unwrap.to_string()),
        ("SCHEMAS_ENABLE", &form.schemas.to_string()),
    ] {
        fixture.function.set(name, value).await;
    }
    fixture.drain().await;
    fixture.ssm.delete(&format!("/spillway/{slot}"));
    slot
}

/// Differences between Debezium's events and Spillway's.
///
/// Debezium's events have a form with schemas. Spillway's events are compared with and without schemas.
/// `is_compared` selects fields.
///
/// # Panics
/// An event of one list has no counterpart.
pub async fn differences(
    fixture: &mut Fixture,
    index: usize,
    unwrap: bool,
    theirs: &[KeyedEvent],
    is_compared: impl Fn(&str) -> bool + Copy,
) -> Vec<Difference> {
    let modes = ValueModes::ALL[index];
    let mut found = Vec::new();
    for schemas in [false, true] {
        let form = EventForm { unwrap, schemas };
        let ours = drain_modes(fixture, index, form).await;
        let mut theirs = theirs.to_vec();
        if !schemas {
            // The converter leaves out the schema, and writes the same event.
            theirs.iter_mut().for_each(|event| event.schema.clear());
        }
        found.extend(match unwrap {
            true => compare_unwrapped(&theirs, &ours, modes, form, is_compared),
            false => compare(&theirs, &ours, Some(modes), form, is_compared),
        });
    }
    found
}

/// The changes of a delivery, in the order of their positions.
pub fn events(delivery: &Delivery) -> Vec<KeyedEvent> {
    let changes = delivery.changes().into_iter();
    changes
        .map(|change| KeyedEvent::new(change.partition_key.clone(), change.json()))
        .collect()
}
