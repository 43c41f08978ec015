//! Markers: proofs that the slot has the history of the checkpoint.

use super::super::markers::Markers;
use super::super::window_sizing::WindowSizing;
use super::*;

#[tokio::test]
async fn the_slot_never_advances_past_the_last_marker() {
    let TestOutcome { log, outcome, .. } = run(BACKLOG, start(1, 1)).await;
    outcome.unwrap();
    let mut marked = Lsn::ZERO;
    for entry in log.entries() {
        match entry {
            LogEntry::MarkerWritten(lsn) => marked = lsn,
            LogEntry::Advanced(to) => assert!(
                to <= marked,
                "advanced to {to}, and the last marker is at {marked}"
            ),
            _ => {}
        }
    }
    assert!(marked > Lsn(500 * MIB));
}

/// One read precedes the marker, the other shows that it is readable.
#[tokio::test]
async fn the_positions_are_read_twice_for_a_window_with_a_new_marker() {
    let commits = vec![(Lsn(100 * MIB), "a".to_owned())];
    let mut slot = FakeSlot::new(&Log::default(), commits, Lsn(1));
    let mut markers = Markers::new(&settings(Aggregation::None), None, None);
    let budget = Budget::new(Instant::now(), Instant::now() + Duration::from_secs(60));
    let next = markers.next_window(&mut slot, WindowSizing::default(), Lsn(1), budget);
    let (positions, window) = next.await.unwrap();
    assert_eq!(slot.position_reads, 2);
    assert!(window.upto > Lsn(100 * MIB) && positions.readable >= window.upto);
}

#[tokio::test]
async fn log_that_no_standby_has_is_left_to_a_later_tick() {
    let faults = Faults {
        commits_wait: true,
        ..Faults::default()
    };
    let TestOutcome { log, report, outcome } = run_faulty(BACKLOG, start(1, 1), faults).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), Vec::<String>::new());
    assert!(
        !log.entries()
            .iter()
            .any(|entry| matches!(entry, LogEntry::Advanced(_)))
    );
    assert!(
        report.held_bytes > 0 && Some(report.held_bytes) == report.lag_bytes,
        "{report:?}"
    );
    assert_eq!(report.behind_seconds, None);
}

/// A drain of a log with a marker.
///
/// The last commit before the marker ends at 250 MiB. The marker ends at 260 MiB. Later commits are new.
async fn with_marker(start: StartPosition, blind_to: u64) -> TestOutcome {
    let (_, content) = marker(7, 260);
    let backlog = [
        (100, "a"),
        (250, "b"),
        (260, content.as_str()),
        (270, "c"),
        (500, "d"),
    ];
    let faults = Faults {
        blind_to: Lsn(blind_to * MIB),
        ..Faults::default()
    };
    run_faulty(&backlog, start, faults).await
}

#[tokio::test]
async fn a_marker_that_returns_is_not_sent_and_the_drain_continues() {
    let expected = Some(marker(7, 260).0);
    let start = StartPosition {
        expected,
        ..start(1, 250)
    };
    let TestOutcome { log, outcome, .. } = with_marker(start, 0).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.c", "public.d"]);
}

#[tokio::test]
async fn a_marker_that_does_not_return_stops_the_drain_before_it_stores_or_advances() {
    let expected = Some(marker(7, 260).0);
    let same = StartPosition {
        expected: expected.clone(),
        ..start(250, 250)
    };
    // With 265, the slot has lost the marker but returns later commits. With 501, it returns nothing: that is
    // no proof of its history either.
    for (start, blind_to) in [
        (same.clone(), 265),
        (same, 501),
        (promoted(1, 250, expected.clone()), 265),
        (promoted(1, 250, expected), 501),
    ] {
        let TestOutcome { log, outcome, .. } = with_marker(start, blind_to).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.name(), "MarkerMissing");
        assert_eq!(error.kind(), crate::base::error_kind::ErrorKind::Definite);
        // The drain may write a new marker, but stores nothing and advances no slot.
        assert!(
            log.entries()
                .iter()
                .all(|entry| matches!(entry, LogEntry::MarkerWritten(_) | LogEntry::Peeked(_)))
        );
    }
}

#[tokio::test]
async fn after_a_promotion_a_transaction_before_the_marker_is_not_sent_again() {
    let (marker, content) = marker(7, 260);
    let backlog = [
        (100, "a"),
        (250, "b"),
        (260, content.as_str()),
        (270, "c"),
        (500, "d"),
    ];
    // The earlier invocation sent `c`, which is after its marker, and died.
    let TestOutcome { log, report, outcome } = run(&backlog, promoted(1, 270, Some(marker))).await;
    outcome.unwrap();
    assert_eq!(log.arrived(), ["public.c", "public.d"]);
    // The first window has only `a`, which is skipped. Then the slot advances to the marker. `b` is before
    // the marker, so it is never read.
    assert_eq!((report.skipped, report.replayed), (1, 1));
}

#[tokio::test]
async fn a_marker_of_another_history_is_not_the_marker() {
    let (expected, _) = marker(7, 260);
    let other = format!(
        "{MARKER}{}",
        MarkerDraft::new(7, "another".to_owned()).content("s")
    );
    let backlog = [(100, "a"), (260, other.as_str()), (270, "c")];
    for start in [
        promoted(1, 100, Some(expected.clone())),
        StartPosition {
            expected: Some(expected),
            ..start(1, 100)
        },
    ] {
        let TestOutcome { log, outcome, .. } = run(&backlog, start).await;
        assert_eq!(outcome.unwrap_err().name(), "MarkerMissing");
        // No position after the marker is confirmed.
        let place = Lsn(260 * MIB - 8);
        let moved =
            |entry: &LogEntry| matches!(entry, LogEntry::Stored(to) | LogEntry::Advanced(to) if *to > place);
        assert!(!log.entries().iter().any(moved), "{:?}", log.entries());
        assert!(log.arrived().is_empty());
    }
}
