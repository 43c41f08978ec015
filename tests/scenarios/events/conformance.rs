//! Events equal those of Debezium Server and wal2json, but for intended differences.
//!
//! The scenarios here compare with recorded events of Debezium Server. `make conformance` runs the program
//! itself.

use std::collections::BTreeMap;

use scenarios::conformance::comparison::{Difference, compare};
use scenarios::conformance::differences::{DifferenceList, problems};
use scenarios::conformance::recording::is_recorded;
use scenarios::conformance::{
    EventForm, UNWRAPPED_MODES, ValueModes, differences, drain_into_stream, play, recording, wal2json,
};
use scenarios::consumer::Delivery;
use scenarios::consumer::third_party::ThirdPartyConsumer;
use scenarios::fixture::Plugin;
use scenarios::postgres::REPLUSER;
use serde_json::{Value, json};

use crate::support::backfill::run_backfill;

crate::scenarios![
    events_of_each_type_are_those_of_debezium,
    events_of_each_type_are_those_of_wal2json,
    the_converter_of_kafka_connect_reads_each_event,
    a_backfill_has_the_values_of_the_log_in_each_type,
    each_intended_difference_is_documented,
];

async fn events_of_each_type_are_those_of_debezium() {
    let mut fixture = play(Plugin::Pgoutput).await;
    let mut found: Vec<Difference> = Vec::new();
    for form in [EventForm::WITH_SCHEMAS, EventForm::UNWRAPPED_WITH_SCHEMAS] {
        let recorded = recording::load(form);
        let combinations = if form.unwrap {
            UNWRAPPED_MODES
        } else {
            ValueModes::ALL.len()
        };
        assert_eq!(recorded.len(), combinations);
        for (index, theirs) in recorded.iter().enumerate() {
            found.extend(differences(&mut fixture, index, form.unwrap, theirs, is_recorded).await);
        }
    }
    let problems = problems(&DifferenceList::load().debezium, &found, is_recorded);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

async fn events_of_each_type_are_those_of_wal2json() {
    let mut fixture = play(Plugin::Pgoutput).await;
    let theirs = wal2json::events(&fixture).await;
    fixture.function.set("ENVELOPE", "wal2json").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let ours: Vec<String> = delivery
        .changes()
        .into_iter()
        .map(|change| {
            let text = String::from_utf8(change.data.clone()).unwrap();
            text.split(r#","position":""#).next().unwrap().to_owned() + "}"
        })
        .collect();
    assert_eq!(theirs.len(), ours.len());
    let mut found: Vec<Difference> = Vec::new();
    for (theirs, ours) in theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours) {
        let theirs_parsed = wal2json::keyed_event(theirs);
        let ours_parsed = wal2json::keyed_event(ours).expect("Spillway writes JSON");
        let Some(theirs_parsed) = theirs_parsed else {
            panic!("wal2json writes no JSON: {theirs}");
        };
        let differences = compare(
            &[theirs_parsed],
            &[ours_parsed],
            None,
            EventForm::ENVELOPED,
            |_| true,
        );
        assert!(!differences.is_empty(), "the texts differ:\n{theirs}\n{ours}");
        found.extend(differences);
    }
    let problems = problems(&DifferenceList::load().wal2json, &found, |_| true);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Events with their schemas, read by Kafka Connect's own converter.
///
/// The converter must make the same values of them.
async fn the_converter_of_kafka_connect_reads_each_event() {
    let mut fixture = play(Plugin::Pgoutput).await;
    let mut drained = Vec::new();
    for modes in 0..ValueModes::ALL.len() {
        for form in [EventForm::WITH_SCHEMAS, EventForm::UNWRAPPED_WITH_SCHEMAS] {
            drained.push((modes, drain_into_stream(&mut fixture, modes, form).await));
        }
    }
    let streams: Vec<&str> = drained.iter().map(|(_, stream)| stream.as_str()).collect();
    let read = ThirdPartyConsumer::Connect
        .read_all(&fixture.kinesis, &streams)
        .await;
    let mut read = read.iter();
    for (modes, stream) in &drained {
        let delivery = Delivery::read(&fixture.kinesis, stream).await;
        assert!(!delivery.arrivals.is_empty());
        for arrival in &delivery.arrivals {
            let read = read.next().expect("the converter reads each event");
            let read: Value = serde_json::from_str(read).expect("the converter writes JSON");
            let written = arrival.json()["payload"].take();
            let modes = ValueModes::ALL[*modes];
            assert!(is_read(&read, &written), "{modes:?}: {read}\n{written}");
        }
    }
    assert_eq!(read.len(), 0, "the converter reads no other event");
}

/// Whether the converter read what was written. It adds fields that an event lacks, with null.
fn is_read(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            let is_same = |(name, read): (&String, &Value)| match written.get(name) {
                Some(written) => is_read(read, written),
                None => read.is_null(),
            };
            written.keys().all(|name| read.contains_key(name)) && read.iter().all(is_same)
        }
        (Value::Array(read), Value::Array(written)) => {
            read.len() == written.len()
                && read
                    .iter()
                    .zip(written)
                    .all(|(read, written)| is_read(read, written))
        }
        // Java writes a `real` with other digits.
        (Value::Number(read), Value::Number(written)) if read.is_f64() => {
            let (read, written) = (read.as_f64(), written.as_f64());
            read == written || read.map(|number| number as f32) == written.map(|number| number as f32)
        }
        (read, written) => read == written,
    }
}

async fn a_backfill_has_the_values_of_the_log_in_each_type() {
    let fixture = play(Plugin::TestDecoding).await;
    let role = REPLUSER.0;
    fixture
        .sql(&format!(
            "grant usage on schema typed to {role}; grant select on all tables in schema typed to {role}"
        ))
        .await;
    fixture.drain().await;
    run_backfill(&fixture, json!({"action": "backfill", "tables": ["typed.*"]})).await;
    let delivery = fixture.consume().await;
    let (mut logged, mut read) = (BTreeMap::new(), BTreeMap::new());
    for change in delivery.changes() {
        let event = change.json();
        let table = event["source"]["table"].as_str().unwrap_or_default().to_owned();
        let row = (table, change.partition_key.clone());
        match event["op"].as_str().unwrap_or_default() {
            _ if event["source"]["schema"] != "typed" => None,
            "c" => logged.insert(row, event["after"].clone()),
            "d" => logged.remove(&row),
            "r" => read.insert(row, event["after"].clone()),
            _ => None,
        };
    }
    assert!(read.len() > 300, "only {} rows were read", read.len());
    for (row, value) in &logged {
        assert_eq!(read.get(row), Some(value), "{row:?}");
    }
    assert_eq!(logged.len(), read.len());
}

async fn each_intended_difference_is_documented() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(include_str!("../../../docs/events.md"));
    let list = DifferenceList::load();
    for entry in list.debezium.iter().chain(&list.wal2json) {
        let reason = words(&entry.reason);
        assert!(page.contains(&reason), "docs/events.md does not quote: {reason}");
    }
}
