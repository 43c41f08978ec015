use proptest::prelude::*;

use super::*;
use crate::encode::{Debezium, DebeziumModes, EnvelopeForm, Oversize, PartitionBy};
use crate::pack::{Aggregation, ShardMap};
use crate::table_name::TableName;

struct TestRow(Lsn, String);

impl PeekRow for TestRow {
    fn lsn(&self) -> Lsn {
        self.0
    }

    fn data(&self) -> &[u8] {
        self.1.as_bytes()
    }
}

fn settings() -> Settings {
    Settings {
        slot: "s".into(),
        plugin: crate::plugin::Plugin::TestDecoding,
        tables: Vec::new(),
        record_bytes: 1 << 20,
        aggregation: Aggregation::None,
        shards: ShardMap::even(1),
        keyed: true,
        bytes_in_flight: 1 << 20,
        linger: std::time::Duration::ZERO,
        markers: true,
    }
}

fn envelope() -> Envelope {
    Envelope {
        form: EnvelopeForm::Debezium(Debezium {
            name: "n".into(),
            database: "d".into(),
            modes: DebeziumModes::default(),
            tombstones: false,
            transaction_metadata: true,
        }),
        partition_by: PartitionBy::Key,
        oversize: Oversize::Fail,
    }
}

fn past(inside: Option<ResumePoint>) -> SentHistory {
    SentHistory {
        settled: Lsn(1),
        acknowledged: Lsn(1),
        resume: inside,
        expected: None,
        upto: Lsn(u64::MAX),
    }
}

const COMMIT_END: Lsn = Lsn(1 << 40);

/// One transaction whose changes were logged at these LSNs, of two tables in turn; some change a key and make two events.
fn transaction(lsns: &[u64]) -> Vec<TestRow> {
    let change = |(n, lsn): (usize, &u64)| {
        let table = ["t", "u"][n / 3 % 2];
        let row = match n % 5 {
            4 => format!(
                "table public.{table}: UPDATE: old-key: id[integer]:{n} new-tuple: id[integer]:{} x[text]:'v'",
                n + 1
            ),
            _ => format!("table public.{table}: INSERT: id[integer]:{n} x[text]:'{n}'"),
        };
        TestRow(Lsn(*lsn), row)
    };
    let begin = TestRow(Lsn(lsns[0]), "BEGIN 7".into());
    let commit = TestRow(COMMIT_END, "COMMIT 7 (at 2026-11-22 23:50:33.999286+00)".into());
    let changes = lsns.iter().enumerate().map(change);
    std::iter::once(begin).chain(changes).chain([commit]).collect()
}

/// Reads at most `most` changes, and stops there: the events, up to where it came, and whether it failed.
fn read(
    rows: Vec<TestRow>,
    inside: Option<ResumePoint>,
    most: usize,
) -> (Vec<Event>, Option<ResumePoint>, Result<(), Error>) {
    let (settings, envelope) = (settings(), envelope());
    let mut catalog = Catalog::default();
    for table in ["t", "u"] {
        let table_of = crate::catalog::CatalogTable {
            key: vec!["id".into()],
            primary_key: vec!["id".into()],
            deferrable: false,
            identity_full: false,
            columns: Vec::new(),
        };
        catalog.insert(TableName::new("public", table), table_of);
    }
    let reached = crate::checkpoint::AckPosition {
        commit_end: Lsn(1),
        resume: inside.clone(),
    };
    let mut ledger = Acknowledgements::new(reached);
    let (mut parcels, mut report) = (Vec::new(), Report::default());
    let mut reader = WindowReader::new(&settings, &envelope, catalog, past(inside), 0);
    for row in rows {
        reader.take(row).unwrap();
        while reader.has_rows(None) && report.changes < most as u64 {
            let mut out = ReaderOutput {
                acknowledgements: &mut ledger,
                events: &mut parcels,
                report: &mut report,
                chunk: None,
            };
            if let Err(error) = reader.next(&mut out) {
                return (Vec::new(), None, Err(error));
            }
        }
    }
    reader.end_section(&mut ledger, None);
    for parcel in &parcels {
        ledger.acknowledge(parcel.transaction);
    }
    let events = parcels.into_iter().map(|parcel| parcel.event).collect();
    (events, ledger.position().resume.clone(), Ok(()))
}

fn lsns(gaps: &[u64]) -> Vec<u64> {
    let mut lsn = 100;
    let mut next = |gap: &u64| {
        lsn += gap;
        lsn
    };
    gaps.iter().map(&mut next).collect()
}

proptest! {
    /// Wherever invocations stop, together they make the events that one alone makes, whether or not the server leaves out what is
    /// known.
    #[test]
    fn parts_of_a_transaction_are_the_whole(gaps in prop::collection::vec(0u64..3, 1..40), stops in prop::collection::vec(1usize..12, 0..6), left_out: bool) {
        let lsns = lsns(&gaps);
        let (whole, inside, _) = read(transaction(&lsns), None, usize::MAX);
        prop_assert_eq!(inside, None);
        let (mut parts, mut inside) = (Vec::new(), None::<ResumePoint>);
        for most in stops.into_iter().chain([usize::MAX]) {
            let text = serde_json::to_string(&inside).unwrap();
            inside = serde_json::from_str(&text).unwrap();
            let known = |row: &TestRow| row.1.starts_with('t') && inside.as_ref().is_some_and(|inside| row.0 < inside.lsn);
            let rows = transaction(&lsns).into_iter().filter(|row| !(left_out && known(row))).collect();
            let finished = most == usize::MAX;
            let (events, reached, outcome) = read(rows, inside.clone(), most);
            outcome.unwrap();
            parts.extend(events);
            inside = reached;
            if inside.is_none() || finished {
                break;
            }
        }
        prop_assert!(whole.len() >= lsns.len());
        prop_assert_eq!(parts.len(), whole.len());
        for (part, whole) in parts.iter().zip(&whole) {
            prop_assert_eq!(part, whole);
        }
    }
}

#[test]
fn a_transaction_whose_rows_are_not_what_they_were_begins_again() {
    let lsns = lsns(&[1; 10]);
    let (_, inside, _) = read(transaction(&lsns), None, 5);
    let inside = inside.unwrap();
    assert_eq!((inside.rows, inside.lsn), (5, Lsn(105)));
    let changed = |change: &dyn Fn(&mut ResumePoint)| {
        let mut inside = inside.clone();
        change(&mut inside);
        read(transaction(&lsns), Some(inside), usize::MAX).2
    };
    changed(&|_| {}).unwrap();
    let changes: [&dyn Fn(&mut ResumePoint); 3] = [
        &|inside| inside.hash = "0".repeat(32),
        &|inside| inside.rows_at_lsn = 2,
        &|inside| inside.lsn = Lsn(1 << 30),
    ];
    for change in changes {
        let error = changed(change).unwrap_err();
        assert_eq!(error.name(), "NotResumed", "{}", error.chain());
    }
}

#[test]
fn a_transaction_of_which_only_the_end_is_known_is_read_from_its_beginning() {
    let lsns = lsns(&[1; 5]);
    let (whole, ..) = read(transaction(&lsns), None, usize::MAX);
    let (_, inside, _) = read(transaction(&lsns), None, 2);
    let known = ResumePoint {
        lsn: Lsn::ZERO,
        rows_at_lsn: 0,
        rows: 0,
        hash: String::new(),
        counts: Default::default(),
        ..inside.unwrap()
    };
    let (events, reached, outcome) = read(transaction(&lsns), Some(known), usize::MAX);
    outcome.unwrap();
    assert_eq!((events, reached), (whole, None));
}

#[test]
fn a_transaction_that_ends_beyond_what_may_be_read_is_left_for_later() {
    let (settings, envelope) = (settings(), envelope());
    let past = SentHistory {
        upto: Lsn(COMMIT_END.0 - 1),
        ..past(None)
    };
    let mut ledger = Acknowledgements::new(Lsn(1).into());
    let (mut parcels, mut report) = (Vec::new(), Report::default());
    let mut reader = WindowReader::new(&settings, &envelope, Catalog::default(), past, 0);
    for row in transaction(&[100, 101]) {
        reader.take(row).unwrap();
        while reader.has_rows(None) {
            let mut out = ReaderOutput {
                acknowledgements: &mut ledger,
                events: &mut parcels,
                report: &mut report,
                chunk: None,
            };
            reader.next(&mut out).unwrap();
        }
    }
    assert!(parcels.is_empty() && reader.has_left_out() && !reader.is_open());
    // The slot's next position must not lie behind the beginning of its commit record.
    assert_eq!(ledger.acknowledged(), Lsn(1));
}
