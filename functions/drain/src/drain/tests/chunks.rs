//! The runner of a backfill at the end of a window.

use super::*;
use crate::backfill::{Chunk, ChunkPayload, ChunkRows};

type TestRunner = BackfillRunner<FakeStateStore>;

/// A runner, and a slot whose windows have no row.
fn runner() -> (TestRunner, FakeSlot) {
    let log = Log::default();
    let state = BackfillState::new("s", "7", request(&["public.t"]), Lsn(1), "");
    let slot = FakeSlot::new(&log, Vec::new(), Lsn(1));
    (BackfillRunner::new(FakeStateStore(log), state), slot)
}

/// A chunk with this number of rows. Its watermark was read.
fn chunk(rows: usize) -> Chunk {
    let schema = DatabaseSchema::default();
    let table = schema.backfill_table(&table_info("t", 1), &request(&["public.t"]));
    let mut chunk_rows = ChunkRows::new(table.unwrap(), "100:100:".parse().unwrap());
    for row in 0..rows {
        chunk_rows.push(format!("0\t{row}\tn").as_bytes()).unwrap();
    }
    let payload = ChunkPayload::Rows {
        rows: Box::new(chunk_rows),
        first: true,
        more: true,
    };
    let mut chunk = Chunk::new("w".into(), payload, Instant::now());
    chunk.watermark_lsn = Some(Lsn(2));
    chunk
}

/// Ends a window with this chunk.
///
/// Returns the state of the backfill, and the cause of its wait.
async fn close(runner: &mut TestRunner, slot: &mut FakeSlot, chunk: Chunk) -> (String, String) {
    runner.context.chunk = Some(chunk);
    let budget = Budget::new(Instant::now(), Instant::now() + Duration::from_secs(60));
    runner.close_chunk(slot, true, Lsn(3), budget).await.unwrap();
    let report = runner.report();
    let state = serde_json::to_value(report.state).unwrap();
    (
        state.as_str().unwrap().to_owned(),
        report.waits_for.unwrap_or_default(),
    )
}

#[tokio::test]
async fn an_invalid_chunk_is_reported_and_fails_its_table_if_it_stays_invalid_with_one_row() {
    let (mut runner, mut slot) = runner();
    let invalid = |rows| {
        let mut chunk = chunk(rows);
        chunk.rows_mut().unwrap().invalidate("its cause");
        chunk
    };
    // Chunks with more rows do not fail their table.
    for number in 1..=40 {
        let (state, waits_for) = close(&mut runner, &mut slot, invalid(2)).await;
        assert_eq!(state, "waiting");
        assert!(
            waits_for.contains(&format!("its cause, in {number} consecutive chunks")),
            "{waits_for}"
        );
    }
    // A valid chunk resets the count.
    let mut valid = chunk(1);
    valid.next_row = None;
    let valid = close(&mut runner, &mut slot, valid).await;
    assert_eq!(valid, ("running".to_owned(), String::new()));
    for _ in 1..32 {
        let (state, _) = close(&mut runner, &mut slot, invalid(1)).await;
        assert_eq!(state, "waiting");
    }
    assert_eq!(runner.report().tables.failed, 0);
    close(&mut runner, &mut slot, invalid(1)).await;
    assert_eq!(runner.report().tables.failed, 1);
}

#[tokio::test]
async fn a_row_that_cannot_be_sent_fails_its_table_also_in_an_invalid_chunk() {
    let (mut runner, mut slot) = runner();
    let mut failed = chunk(1);
    failed.failure = Some("too large".into());
    failed.rows_mut().unwrap().invalidate("its cause");
    close(&mut runner, &mut slot, failed).await;
    assert_eq!(runner.report().tables.failed, 1);
}

#[tokio::test]
async fn an_invocation_without_time_for_its_first_chunk_names_the_cause() {
    let settings = settings(Aggregation::None);
    // Times in ms: of the invocation, of a peek, and the time that is left after the windows.
    for (reading, peek, left, cause) in [
        (
            1_000,
            400,
            500,
            "a longer Timeout, or the end of a long transaction",
        ),
        // A window precedes the chunk: 1000 ms are too short for four peeks.
        (
            1_000,
            300,
            650,
            "a longer Timeout, or the end of a long transaction",
        ),
        (300, 20, 250, "a longer Timeout"),
        (60_000, 200, 500, "more time in an invocation"),
    ] {
        let (mut runner, mut slot) = runner();
        let deadline = Instant::now() + Duration::from_millis(left);
        let environment = ChunkEnvironment {
            settings: &settings,
            budget: Budget::new(Instant::now(), deadline),
            acknowledged: Lsn(1),
            reading_time: Duration::from_millis(reading),
            peek_took: Duration::from_millis(peek),
        };
        let step = runner.next_chunk(&mut slot, &environment).await.unwrap();
        assert_eq!(step, BackfillStep::OutOfTime);
        let waits_for = runner.report().waits_for.unwrap_or_default();
        assert!(
            waits_for.starts_with(cause),
            "{reading} {peek} {left}: {waits_for}"
        );
    }
}

#[tokio::test]
async fn a_table_is_described_again_after_its_writers_have_ended() {
    let settings = settings(Aggregation::None);
    let (mut runner, mut slot) = runner();
    slot.renaming = Some("renamed");
    let environment = ChunkEnvironment {
        settings: &settings,
        budget: Budget::new(Instant::now(), Instant::now() + Duration::from_secs(60)),
        acknowledged: Lsn(1),
        reading_time: Duration::from_secs(60),
        peek_took: Duration::from_millis(1),
    };
    runner.next_chunk(&mut slot, &environment).await.unwrap();
    assert_eq!(slot.read_columns, ["id", "renamed"]);
}
