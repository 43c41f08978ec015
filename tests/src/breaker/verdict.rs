//! Whether the promise was kept: what PostgreSQL says was committed, held against what a consumer of the stream has, and
//! every checkpoint against what the stream had when it was stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use tokio_postgres::Client;

use super::parameter::Store;
use crate::aws::aggregate;
use crate::aws::fake_kinesis::FakeKinesis;
use crate::consumer::Delivery;
use crate::consumer::event::{Envelope, UNAVAILABLE};
use crate::consumer::oracle::{self, ComparedRows};

/// Cases of one kind that are told.
const MOST_CASES: usize = 5;

/// What a consumer has.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Changes that PostgreSQL has, as events.
    pub(super) events: usize,
    /// Events that arrived although they had arrived before.
    pub(super) duplicates: usize,
    /// Changes that never arrived.
    pub(super) lost: usize,
    /// What broke the promise.
    pub(super) broken: Vec<String>,
}

/// Judges a play that is over. `witness` is a slot of `test_decoding` from before the first change that nobody ever moved.
pub(super) async fn judge(
    client: &Client,
    witness: &str,
    plugin: &str,
    form: Envelope,
    stream: &FakeKinesis,
    stores: &[Store],
) -> Verdict {
    let delivery = Delivery::from_fake(stream);
    let arrived: HashSet<&str> = delivery.arrivals.iter().map(|it| it.position.as_str()).collect();
    let expected = expected(client, witness, form).await;
    let lost: Vec<&String> = expected
        .keys()
        .filter(|it| !arrived.contains(it.as_str()))
        .collect();
    let mut verdict = Verdict {
        events: expected.len(),
        duplicates: delivery.duplicates(),
        lost: lost.len(),
        broken: Vec::new(),
    };
    let broken = &mut verdict.broken;
    for position in lost.iter().take(MOST_CASES) {
        broken.push(format!("lost: {position} {}", expected[*position]));
    }
    // A change with a second position has one that PostgreSQL does not know.
    let unknown = arrived
        .iter()
        .filter(|position| !expected.contains_key(**position));
    broken.extend(
        unknown
            .take(MOST_CASES)
            .map(|position| format!("never committed: {position}")),
    );
    broken.extend(match plugin {
        // It leaves out a column whose value is stored apart and did not change; a column that was added since looks the same.
        "wal2json" => without_marks(delivery.clone()).broken(),
        _ => delivery.broken(),
    });
    broken.extend(too_early(stream, stores));
    let rebuilt = delivery.rebuild();
    broken.extend(rebuilt.disagreements.iter().take(MOST_CASES).cloned());
    for table in tables(client).await {
        let compared = oracle::compare(client, &table, &rebuilt, ComparedRows::All).await;
        let told = compared.differences.into_iter().take(MOST_CASES);
        broken.extend(told.map(|difference| format!("{table}: {difference}")));
    }
    verdict
}

/// The same events, not telling which columns were left out.
fn without_marks(mut delivery: Delivery) -> Delivery {
    for arrival in &mut delivery.arrivals {
        let mut event = arrival.json();
        strip(&mut event);
        arrival.data = event.to_string().into_bytes();
    }
    delivery
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| name != "unchanged" && value.as_str() != Some(UNAVAILABLE));
            fields.values_mut().for_each(strip);
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Where a checkpoint was stored before all of what it says had arrived.
fn too_early(stream: &FakeKinesis, stores: &[Store]) -> Vec<String> {
    let mut first: HashMap<String, u64> = HashMap::new();
    let mut note = |number: u64, key: &str, data: &[u8]| {
        let mut one = Delivery::default();
        one.add_event(key, data);
        for arrival in one.arrivals {
            let known = first.entry(arrival.position).or_insert(number);
            *known = number.min(*known);
        }
    };
    stream.read_numbered(|number, range, key, data| match aggregate::split(data) {
        // The KCL drops all of an aggregate of which one part lies in the wrong shard.
        Ok(Some(records)) if records.iter().all(|it| range.contains(it.hash())) => {
            for record in records {
                note(number, record.partition_key, record.data);
            }
        }
        Ok(Some(_)) | Err(_) => {}
        Ok(None) => note(number, key, data),
    });
    let mut broken = Vec::new();
    for (position, number) in first {
        let part = |at: usize| u64::from_str_radix(&position[at..at + 16], 16).unwrap_or(u64::MAX);
        let (commit_end, lsn) = (part(0), part(17));
        let holds = |store: &&Store| {
            let progress = store
                .progress
                .is_some_and(|(end, upto)| end == commit_end && lsn < upto);
            (commit_end <= store.commit_end || progress) && store.arrived < number
        };
        if let Some(store) = stores.iter().find(holds).filter(|_| broken.len() < MOST_CASES) {
            broken.push(format!(
                "the checkpoint {:X} was stored after {} records, and {position} came first with record {number}",
                store.commit_end, store.arrived
            ));
        }
    }
    broken
}

/// The positions of all events that PostgreSQL's own text of its log makes, and what each is about.
async fn expected(client: &Client, witness: &str, form: Envelope) -> BTreeMap<String, String> {
    let sql = format!(
        "select (lsn - '0/0')::int8, data from pg_logical_slot_peek_changes('{witness}', null, null, 'include-xids', '1')"
    );
    let rows = client.query(&sql, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut expected = BTreeMap::new();
    let mut open: Option<Vec<(u64, String, usize)>> = None;
    for row in rows {
        let (lsn, data): (i64, String) = (row.get(0), row.get(1));
        let lsn = lsn.cast_unsigned();
        if data.starts_with("BEGIN") {
            open = Some(Vec::new());
        } else if data.starts_with("COMMIT") {
            place(lsn, open.take().unwrap_or_default(), &mut expected);
        } else {
            let (what, events) = events(&data, form);
            match &mut open {
                Some(changes) => changes.push((lsn, what, events)),
                // A message that is not part of a transaction stands for itself.
                None => place(lsn, vec![(lsn, what, events)], &mut expected),
            }
        }
    }
    expected
}

/// Gives a transaction's events their positions: commit end, LSN of the change, index among those of one LSN.
fn place(commit_end: u64, changes: Vec<(u64, String, usize)>, expected: &mut BTreeMap<String, String>) {
    let mut last: Option<(u64, u32)> = None;
    for (lsn, what, events) in changes {
        for _ in 0..events {
            let index = match last {
                Some((same, index)) if same == lsn => index + 1,
                _ => 0,
            };
            last = Some((lsn, index));
            expected.insert(format!("{commit_end:016x}.{lsn:016x}.{index:08x}"), what.clone());
        }
    }
}

/// What a row of `test_decoding` is about, without values, and how many events that makes.
fn events(data: &str, form: Envelope) -> (String, usize) {
    let Some((tables, rest)) = data.strip_prefix("table ").and_then(|it| it.split_once(": ")) else {
        let marker = data.contains("prefix: spillway.marker,");
        return ("message".to_owned(), usize::from(!marker));
    };
    let what = rest.split(':').next().unwrap_or_default();
    let moves = rest.starts_with("UPDATE: old-key:") && tables != "public.keyless";
    let events = match form {
        _ if what == "TRUNCATE" => tables.split(", ").count(),
        // The old key goes, the new one comes.
        Envelope::Debezium if moves => 2,
        _ => 1,
    };
    (format!("{what} of {tables}"), events)
}

async fn tables(client: &Client) -> Vec<String> {
    let sql = "select quote_ident(relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
    let rows = client.query(sql, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.into_iter().map(|row| row.get(0)).collect()
}
