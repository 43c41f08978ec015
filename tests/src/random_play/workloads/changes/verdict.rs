//! Verdict on live changes: the stream against PostgreSQL, and every checkpoint against the stream of its
//! moment.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tokio_postgres::Client;

use super::EXPECTED_SLOT;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::consumer::Delivery;
use crate::consumer::event::{Envelope, UNAVAILABLE};
use crate::consumer::oracle::{self, ComparedRows};
use crate::consumer::position::position_parts;
use crate::postgres::query::rows;
use crate::random_play::kcl;
use crate::random_play::parameter_store::StoredCheckpoint;
use crate::random_play::result::{Counter, PlayVerdict};
use crate::random_play::settings::PlaySettings;

/// Violations of one kind that are reported.
const MAX_CASES: usize = 5;

/// Positions of all expected events, with the kinds of their changes.
///
/// A consumer has to receive all of these events.
type ExpectedEvents = BTreeMap<String, String>;

/// Checks a play after its end.
pub(super) async fn check_play(
    client: &Client,
    settings: &PlaySettings,
    form: Envelope,
    stream: &FakeKinesis,
    checkpoints: &[StoredCheckpoint],
) -> PlayVerdict {
    let delivery = Delivery::from_fake(stream);
    let expected = expected_events(client, form).await;
    let mut verdict = PlayVerdict::default();
    let counts = &mut verdict.counts;
    counts.add(Counter::Events, expected.len() as u64);
    counts.add(Counter::Duplicates, delivery.duplicates() as u64);
    compare_positions(&delivery, &expected, &mut verdict);
    let violations = &mut verdict.violations;
    violations.extend(match settings.plugin {
        // wal2json leaves out a column whose value is stored out of line and did not change. A column that
        // was added after the change is left out, too, so the function cannot mark the first kind alone.
        "wal2json" => without_marks(delivery.clone()).violations(),
        _ => delivery.violations(),
    });
    violations.extend(early_checkpoints(stream, checkpoints));
    let rebuilt = delivery.rebuild();
    violations.extend(rebuilt.disagreements.iter().take(MAX_CASES).cloned());
    for table in tables(client).await {
        let compared = oracle::compare(client, &table, &rebuilt, ComparedRows::All).await;
        let differences = compared.differences.into_iter().take(MAX_CASES);
        violations.extend(differences.map(|difference| format!("{table}: {difference}")));
    }
    verdict
}

/// Finds expected positions that did not arrive, and unexpected positions that did.
fn compare_positions(delivery: &Delivery, expected: &ExpectedEvents, verdict: &mut PlayVerdict) {
    let arrivals = delivery.arrivals.iter();
    let arrived: HashSet<&str> = arrivals.map(|arrival| arrival.position.as_str()).collect();
    let lost = expected
        .iter()
        .filter(|(position, _)| !arrived.contains(position.as_str()));
    verdict.counts.add(Counter::Lost, lost.clone().count() as u64);
    let lost = lost.take(MAX_CASES);
    verdict
        .violations
        .extend(lost.map(|(position, change)| format!("lost: {position} {change}")));
    // A change that was sent with a second position shows here: PostgreSQL does not know that position.
    let unknown = arrived
        .iter()
        .filter(|position| !expected.contains_key(**position));
    let unknown = unknown.take(MAX_CASES);
    verdict
        .violations
        .extend(unknown.map(|position| format!("never committed: {position}")));
}

/// The same events without their marks of columns that were left out.
fn without_marks(mut delivery: Delivery) -> Delivery {
    for arrival in &mut delivery.arrivals {
        let mut event = arrival.json();
        remove_marks(&mut event);
        arrival.data = event.to_string().into_bytes();
    }
    delivery
}

fn remove_marks(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "unchanged" && value.as_str() != Some(UNAVAILABLE));
            fields.values_mut().for_each(remove_marks);
        }
        Value::Array(elements) => elements.iter_mut().for_each(remove_marks),
        _ => {}
    }
}

/// Finds checkpoints that were stored too early.
///
/// The stream did not have all events that they confirm.
fn early_checkpoints(stream: &FakeKinesis, checkpoints: &[StoredCheckpoint]) -> Vec<String> {
    let mut violations = Vec::new();
    for (position, number) in first_records(stream) {
        let (commit_end, lsn, _) = position_parts(&position).expect("an arrival has a position");
        let is_early = |checkpoint: &&StoredCheckpoint| {
            let progress = checkpoint.progress;
            let in_progress = progress.is_some_and(|(end, before)| end == commit_end && lsn < before);
            (commit_end <= checkpoint.commit_end || in_progress) && checkpoint.records < number
        };
        if let Some(early) = checkpoints.iter().find(is_early) {
            violations.push(format!(
                "the checkpoint {:X} was stored after {} records, \
                 and {position} first arrived with record {number}",
                early.commit_end, early.records
            ));
        }
    }
    violations.truncate(MAX_CASES);
    violations
}

/// Number of the record with which each position first arrived.
fn first_records(stream: &FakeKinesis) -> HashMap<String, u64> {
    let mut first: HashMap<String, u64> = HashMap::new();
    stream.read_numbered(|number, range, key, data| {
        let mut delivery = Delivery::default();
        // An aggregate that cannot be read has no positions: it is a violation of its own.
        let _ = kcl::deliver(range, key, data, |key, data| delivery.add_event(key, data));
        for arrival in delivery.arrivals {
            let known = first.entry(arrival.position).or_insert(number);
            *known = number.min(*known);
        }
    });
    first
}

/// Change of [`EXPECTED_SLOT`]: its LSN, its kind, and the number of its events.
type ExpectedChange = (u64, String, usize);

/// Events that a consumer has to receive, as the server reports them.
///
/// They are read from [`EXPECTED_SLOT`].
async fn expected_events(client: &Client, form: Envelope) -> ExpectedEvents {
    let sql = format!(
        "select (lsn - '0/0')::int8 as lsn, data \
         from pg_logical_slot_peek_changes('{EXPECTED_SLOT}', null, null, 'include-xids', '1')"
    );
    let mut expected = ExpectedEvents::new();
    let mut open: Option<Vec<ExpectedChange>> = None;
    for row in rows(client, &sql, &[]).await {
        let (lsn, data): (i64, String) = (row.get("lsn"), row.get("data"));
        let lsn = lsn.cast_unsigned();
        if data.starts_with("BEGIN") {
            open = Some(Vec::new());
        } else if data.starts_with("COMMIT") {
            add_transaction(lsn, open.take().unwrap_or_default(), &mut expected);
        } else {
            let (kind, events) = parse_change(&data, form);
            match &mut open {
                Some(changes) => changes.push((lsn, kind, events)),
                // A non-transactional message has the position of a transaction of its own.
                None => add_transaction(lsn, vec![(lsn, kind, events)], &mut expected),
            }
        }
    }
    expected
}

/// Adds a transaction's events with their positions: commit end, LSN of the change, index among events of
/// this LSN.
fn add_transaction(commit_end: u64, changes: Vec<ExpectedChange>, expected: &mut ExpectedEvents) {
    let mut last: Option<(u64, u32)> = None;
    for (lsn, kind, events) in changes {
        for _ in 0..events {
            let index = match last {
                Some((same, index)) if same == lsn => index + 1,
                _ => 0,
            };
            last = Some((lsn, index));
            expected.insert(format!("{commit_end:016x}.{lsn:016x}.{index:08x}"), kind.clone());
        }
    }
}

/// Kind of a change without values, and number of its events.
///
/// `data` is a row of `test_decoding`.
fn parse_change(data: &str, form: Envelope) -> (String, usize) {
    let Some((tables, rest)) = data.strip_prefix("table ").and_then(|data| data.split_once(": ")) else {
        // The function consumes its own markers.
        let is_marker = data.contains("prefix: spillway.marker,");
        return ("message".to_owned(), usize::from(!is_marker));
    };
    let kind = rest.split(':').next().unwrap_or_default();
    let changes_key = rest.starts_with("UPDATE: old-key:") && tables != "public.keyless";
    let events = match form {
        _ if kind == "TRUNCATE" => tables.split(", ").count(),
        // A delete of the old key and a create of the new one.
        Envelope::Debezium if changes_key => 2,
        _ => 1,
    };
    (format!("{kind} of {tables}"), events)
}

async fn tables(client: &Client) -> Vec<String> {
    let sql = "select quote_ident(relname) as name from pg_class \
               where relkind = 'r' and relnamespace = 'public'::regnamespace";
    let rows = rows(client, sql, &[]).await;
    rows.into_iter().map(|row| row.get("name")).collect()
}
