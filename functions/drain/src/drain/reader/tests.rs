use proptest::prelude::*;

use super::*;
use crate::backfill::RowLookup;
use crate::backfill::database_schema::tests::{request, table_info};
use crate::backfill::database_schema::{ColumnInfo, DatabaseSchema};
use crate::base::table_name::TableName;
use crate::continuity::checkpoint::{AckPosition, ResumePoint};
use crate::encode::{Debezium, EnvelopeForm, Event, KeylessRows, OversizePolicy, PartitionBy};
use crate::pack::Aggregation;

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
    crate::drain::tests::settings(Aggregation::None)
}

fn envelope() -> Envelope {
    Envelope {
        form: EnvelopeForm::Debezium(Debezium {
            transaction_metadata: true,
            ..Debezium::new("n", "d")
        }),
        partition_by: PartitionBy::Key,
        keyless: KeylessRows::Spread,
        oversize: OversizePolicy::Fail,
    }
}

fn history(resume: Option<ResumePoint>) -> SentHistory {
    SentHistory {
        settled: Lsn(1),
        queued_upto: Lsn(1),
        acknowledged: Lsn(1),
        resume,
        expected: None,
        ahead: None,
        readable: Lsn(u64::MAX),
    }
}

const COMMIT_END: Lsn = Lsn(1 << 40);

/// One transaction with a change at each of these LSNs.
///
/// The changes are of two tables in turn. Some changes change a key and become two events.
fn transaction(lsns: &[u64]) -> Vec<TestRow> {
    let change = |(n, lsn): (usize, &u64)| {
        let table = ["t", "u"][n / 3 % 2];
        let row = match n % 5 {
            4 => format!(
                "table public.{table}: UPDATE: old-key: id[integer]:{n} \
                 new-tuple: id[integer]:{} x[text]:'v'",
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

/// What a reader puts out.
struct Outputs {
    acknowledgements: Acknowledgements,
    events: Vec<QueuedEvent>,
    barriers: Barriers,
    report: Report,
}

impl Outputs {
    fn new(resume: Option<ResumePoint>) -> Self {
        let commit_end = Lsn(1);
        Outputs {
            acknowledgements: Acknowledgements::new(AckPosition { commit_end, resume }),
            events: Vec::new(),
            barriers: Barriers::default(),
            report: Report::default(),
        }
    }

    /// Processes the reader's next row.
    fn next(
        &mut self,
        reader: &mut WindowReader<'_, TestRow>,
        chunk: Option<&mut ChunkContext>,
    ) -> Result<Option<ReaderRequest>, Error> {
        reader.next(&mut ReaderOutput {
            acknowledgements: &mut self.acknowledgements,
            events: &mut self.events,
            barriers: &mut self.barriers,
            report: &mut self.report,
            chunk,
        })
    }
}

/// Reads at most `most` changes. Returns the events, the resume point, and whether it failed.
fn read(
    rows: Vec<TestRow>,
    resume: Option<ResumePoint>,
    most: usize,
) -> (Vec<Event>, Option<ResumePoint>, Result<(), Error>) {
    let (settings, envelope) = (settings(), envelope());
    let mut catalog = Catalog::default();
    for table in ["t", "u"] {
        let table_of = crate::catalog::CatalogTable {
            key: vec!["id".into()],
            primary_key: vec!["id".into()],
            ..crate::catalog::CatalogTable::default()
        };
        catalog.insert(TableName::new("public", table), table_of);
    }
    let mut out = Outputs::new(resume.clone());
    let mut reader = WindowReader::new(&settings, &envelope, catalog, history(resume), 0);
    for row in rows {
        reader.push_row(row).unwrap();
        while reader.has_rows(None) && out.report.changes < most as u64 {
            if let Err(error) = out.next(&mut reader, None) {
                return (Vec::new(), None, Err(error));
            }
        }
    }
    reader.end_section(&mut out.acknowledgements, None);
    for event in &out.events {
        out.acknowledgements.acknowledge(event.span);
    }
    let events = out.events.into_iter().map(|queued| queued.event).collect();
    (events, out.acknowledgements.position().resume.clone(), Ok(()))
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
    /// Interrupted invocations together emit the events of one whole invocation.
    ///
    /// Each may stop after any row. The server may omit the rows that were sent, or may not.
    #[test]
    fn a_transaction_that_is_read_in_parts_has_the_same_events(
        gaps in prop::collection::vec(0u64..3, 1..40),
        stops in prop::collection::vec(1usize..12, 0..6),
        left_out: bool,
    ) {
        let lsns = lsns(&gaps);
        let (whole, resume, _) = read(transaction(&lsns), None, usize::MAX);
        prop_assert_eq!(resume, None);
        let (mut parts, mut resume) = (Vec::new(), None::<ResumePoint>);
        for most in stops.into_iter().chain([usize::MAX]) {
            let text = serde_json::to_string(&resume).unwrap();
            resume = serde_json::from_str(&text).unwrap();
            let is_before = |row: &TestRow| resume.as_ref().is_some_and(|point| row.0 < point.lsn);
            let known = |row: &TestRow| row.1.starts_with('t') && is_before(row);
            let rows = transaction(&lsns).into_iter().filter(|row| !(left_out && known(row))).collect();
            let finished = most == usize::MAX;
            let (events, next, outcome) = read(rows, resume.clone(), most);
            outcome.unwrap();
            parts.extend(events);
            resume = next;
            if resume.is_none() || finished {
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
fn a_transaction_with_other_rows_than_before_is_not_resumed() {
    let lsns = lsns(&[1; 10]);
    let (_, resume, _) = read(transaction(&lsns), None, 5);
    let resume = resume.unwrap();
    assert_eq!((resume.rows, resume.lsn), (5, Lsn(105)));
    let changed = |change: &dyn Fn(&mut ResumePoint)| {
        let mut resume = resume.clone();
        change(&mut resume);
        read(transaction(&lsns), Some(resume), usize::MAX).2
    };
    changed(&|_| {}).unwrap();
    let changes: [&dyn Fn(&mut ResumePoint); 3] = [
        &|resume| resume.hash = "0".repeat(32),
        &|resume| resume.rows_at_lsn = 2,
        &|resume| resume.lsn = Lsn(1 << 30),
    ];
    for change in changes {
        let error = changed(change).unwrap_err();
        assert_eq!(error.name(), "NotResumed", "{}", error.chain());
    }
}

#[test]
fn a_resume_point_without_rows_reads_the_transaction_from_its_beginning() {
    let lsns = lsns(&[1; 5]);
    let (whole, ..) = read(transaction(&lsns), None, usize::MAX);
    let (_, resume, _) = read(transaction(&lsns), None, 2);
    let known = ResumePoint {
        lsn: Lsn::ZERO,
        rows_at_lsn: 0,
        rows: 0,
        hash: String::new(),
        counts: Default::default(),
        ..resume.unwrap()
    };
    let (events, next, outcome) = read(transaction(&lsns), Some(known), usize::MAX);
    outcome.unwrap();
    assert_eq!((events, next), (whole, None));
}

/// Also if a window before has sent a part of it. The readable position may become smaller.
#[test]
fn a_transaction_that_ends_after_the_readable_position_is_left_out() {
    let lsns = lsns(&[1; 5]);
    let (_, resume, _) = read(transaction(&lsns), None, 2);
    assert!(resume.is_some());
    for resume in [None, resume] {
        let (settings, envelope) = (settings(), envelope());
        let history = SentHistory {
            readable: Lsn(COMMIT_END.0 - 1),
            ..history(resume)
        };
        let mut out = Outputs::new(None);
        let mut reader = WindowReader::new(&settings, &envelope, Catalog::default(), history, 0);
        for row in transaction(&lsns) {
            reader.push_row(row).unwrap();
            while reader.has_rows(None) {
                out.next(&mut reader, None).unwrap();
            }
        }
        assert!(out.events.is_empty() && reader.has_left_out() && !reader.is_open());
        // The slot must not advance past the start of the transaction's commit record.
        assert_eq!(out.acknowledgements.acknowledged(), Lsn(1));
    }
}

#[test]
fn a_message_outside_of_transactions_does_not_pass_a_missing_marker() {
    let (settings, envelope) = (settings(), envelope());
    let message = |lsn| {
        TestRow(
            Lsn(lsn),
            "message: transactional: 0 prefix: app, sz: 1 content:x".into(),
        )
    };
    let marker = Marker {
        number: 7,
        nonce: "0123456789abcdef".into(),
        lsn: Lsn(250),
        flushed: Lsn(260),
    };
    for (lsn, fails) in [(255, false), (270, true)] {
        let history = SentHistory {
            expected: Some(marker.clone()),
            ..history(None)
        };
        let mut out = Outputs::new(None);
        let mut reader = WindowReader::new(&settings, &envelope, Catalog::default(), history, 0);
        reader.push_row(message(lsn)).unwrap();
        let outcome = out.next(&mut reader, None).map_err(|error| error.name());
        assert_eq!(outcome.err(), fails.then_some("MarkerMissing"), "{lsn}");
        assert_eq!(out.events.is_empty(), fails, "{lsn}");
    }
}

/// The reader's need after each row of a large transaction.
///
/// The held rows exceed [`HOLD_BYTES`].
fn needs_of_large_transaction(first_commits: CommitRows) -> Vec<ReaderNeed> {
    let (settings, envelope) = (settings(), envelope());
    let mut reader = WindowReader::new(&settings, &envelope, Catalog::default(), history(None), 0);
    reader.add_first_commits(first_commits);
    let row = |n: u64| {
        let text = format!("table public.t: INSERT: x[text]:'{}'", "x".repeat(1 << 20));
        TestRow(Lsn(n), text)
    };
    let begin = TestRow(Lsn(2), "BEGIN 7".into());
    let needs = std::iter::once(begin).chain((3..12).map(row)).map(|row| {
        let need = reader.push_row(row).unwrap();
        if !reader.is_open() {
            Outputs::new(None).next(&mut reader, None).unwrap();
        }
        need
    });
    needs.collect()
}

#[test]
fn a_commit_that_was_sent_first_is_not_requested() {
    let commit = |xid: u32| {
        let row = format!("COMMIT {xid} (at 2026-11-22 23:50:33.999286+00)");
        CommitRows::from([(xid, (COMMIT_END, row.into_bytes()))])
    };
    let rows_only = |needs: &[ReaderNeed]| needs.iter().all(|need| *need == ReaderNeed::Row);
    assert!(rows_only(&needs_of_large_transaction(commit(7))));
    for first_commits in [CommitRows::new(), commit(8)] {
        let needs = needs_of_large_transaction(first_commits);
        assert_eq!(needs.last(), Some(&ReaderNeed::LargeCommits));
        assert!(rows_only(&needs[..8]));
    }
}

/// An update that moves a row to another key.
///
/// Two of its values are looked up. Both values together exceed a record.
#[test]
fn a_moved_row_keeps_the_looked_up_values_that_fit_into_its_record() {
    let mut info = table_info("t", 1);
    info.columns.push(ColumnInfo {
        name: "m".into(),
        ..info.columns[1].clone()
    });
    let table = DatabaseSchema::default().backfill_table(&info, &request(&["public.t"]));
    let mut context = ChunkContext::default();
    context.table = Some(std::sync::Arc::new(table.unwrap()));
    let (settings, mut envelope) = (settings(), envelope());
    envelope.oversize = OversizePolicy::Omit;
    let mut catalog = Catalog::default();
    let table_of = crate::catalog::CatalogTable {
        key: vec!["id".into()],
        primary_key: vec!["id".into()],
        ..crate::catalog::CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table_of);
    let mut out = Outputs::new(None);
    let mut reader = WindowReader::new(&settings, &envelope, catalog, history(None), 0);
    let update = "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 \
                  n[text]:unchanged-toast-datum m[text]:unchanged-toast-datum";
    let mut rows = transaction(&[100]);
    rows[1].1 = update.to_owned();
    let looked_up = format!("0\t2\t{}\t{}", "n".repeat(700_000), "m".repeat(600_000));
    for row in rows {
        reader.push_row(row).unwrap();
        while reader.has_rows(Some(&context)) {
            if let Some(ReaderRequest::Row(_)) = out.next(&mut reader, Some(&mut context)).unwrap() {
                context.add_lookup(RowLookup::Row(looked_up.clone().into_bytes()));
            }
        }
    }
    let created = out.events.last().unwrap().event.bytes();
    assert!(
        (600_000..700_000).contains(&created),
        "the event has {created} bytes"
    );
    assert_eq!(out.report.omitted, 1);
}
