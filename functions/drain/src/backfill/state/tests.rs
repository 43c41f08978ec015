use super::*;

fn state() -> BackfillState {
    let request = BackfillRequest {
        tables: Vec::new(),
        condition: None,
        columns: Vec::new(),
        chunk_rows: None,
        repair: false,
    };
    BackfillState::new("s", "7", request, Lsn(0x10), "2026-11-25T12:00:00Z")
}

fn name(number: u32) -> TableName {
    TableName::new("public", format!("table_{number:04}"))
}

/// The progress of a table before its first chunk.
fn progress_of(name: TableName) -> TableProgress {
    TableProgress {
        name,
        key: None,
        columns: vec!["id".into()],
        rows: 0,
        ms: 0,
        slow: false,
        late: 0,
        invalid: 0,
    }
}

#[test]
fn a_stored_state_is_read_back_and_another_version_is_refused() {
    let mut state = state();
    state.table = Some(TableProgress {
        key: Some(vec!["7".into(), "it's".into()]),
        columns: vec!["a".into(), "b".into()],
        rows: 9,
        ms: 3,
        slow: true,
        ..progress_of(name(1))
    });
    assert_eq!(BackfillState::parse(&state.to_text()).unwrap(), state);
    let other = state.to_text().replace("\"version\":1", "\"version\":2");
    let error = BackfillState::parse(&other).unwrap_err();
    assert!(matches!(error, InvalidDocument::Version { found, .. } if found == "2"));
    assert!(matches!(
        BackfillState::parse("{}"),
        Err(InvalidDocument::Unreadable { .. })
    ));
}

#[test]
fn the_rate_and_the_time_bound_the_rows_of_a_chunk() {
    let progress = |rows, ms, slow| TableProgress {
        rows,
        ms,
        slow,
        ..progress_of(name(1))
    };
    for (rows, ms, slow, most, expected) in [
        // The rate is unknown.
        (0, 0, false, 1_000_000, 2_000),
        (0, 0, false, 500, 500),
        // 10 rows take 1 ms.
        (100_000, 10_000, false, 1_000_000, 30_000),
        (100_000, 10_000, false, 5, 5),
        // The rate is the same, but few rows were acknowledged so far.
        (4_000, 400, false, 1_000_000, 4_000),
        (1_000, 100, false, 1_000_000, 2_000),
        // A row takes a second. In the next case a chunk was dropped before its first row.
        (10, 10_000, false, 1_000_000, 100),
        (0, 5_000, false, 1_000_000, 100),
        (100_000, 10_000, true, 1_000_000, 100),
        (100_000, 10_000, true, 50, 50),
    ] {
        let next = progress(rows, ms, slow).next_rows(most, Duration::from_secs(3));
        assert_eq!(next, expected, "{rows} rows in {ms} ms, at most {most}");
    }
    // Each chunk that is late or invalid makes the next one smaller, down to one row.
    for (late, invalid, expected) in [(1, 0, 50), (0, 1, 50), (2, 1, 12), (0, 6, 1), (200, 0, 1)] {
        let progress = TableProgress {
            late,
            invalid,
            ..progress(10, 10_000, false)
        };
        let next = progress.next_rows(1_000_000, Duration::from_secs(3));
        assert_eq!(next, expected, "{late} late and {invalid} invalid chunks");
    }
}

#[test]
fn a_state_with_many_finished_tables_fits_into_a_parameter() {
    let mut state = state();
    for number in 0..1000 {
        state.table = Some(TableProgress {
            rows: 1_000_000,
            ms: 60_000,
            ..progress_of(name(number))
        });
        state.finish_table();
        assert!(state.fits());
    }
    let stored = BackfillState::parse(&state.to_text()).unwrap();
    assert_eq!(stored.done, 1000);
    assert!(stored.has_ended(&name(0)) && stored.has_ended(&name(999)) && !stored.has_ended(&name(1000)));
    assert_eq!(stored.finished.last().unwrap().name, name(999));
    state.table = Some(TableProgress {
        key: Some(vec!["x".repeat(5000)]),
        rows: 1,
        ms: 1,
        ..progress_of(name(1000))
    });
    assert!(!state.fits(), "the key is larger than a parameter");
    state.fail_table(name(1000), "too long".into());
    assert!(state.fits());
}

#[test]
fn failed_tables_with_long_names_leave_space_for_the_next_cursor() {
    let mut state = state();
    state.request.condition = Some("x".repeat(1_200));
    assert!(state.has_room());
    let long_name = |number: u32| TableName::new("é".repeat(31), format!("{}{number}", "\"{".repeat(31)));
    for number in 0..20 {
        state.fail_table(long_name(number), "\"".repeat(MAX_REASON_BYTES));
        assert!(
            state.to_text().len() <= stored_document::MAX_DOCUMENT_BYTES,
            "{number} failed tables"
        );
    }
    state.table = Some(TableProgress {
        key: Some(vec!["x".repeat(1_000)]),
        rows: 1,
        ms: 1,
        ..progress_of(long_name(20))
    });
    assert!(state.fits());
    let stored = BackfillState::parse(&state.to_text()).unwrap();
    assert_eq!((stored.failures, stored.table), (20, state.table));
}

#[test]
fn a_stored_cursor_leaves_bytes_for_larger_counters() {
    let mut state = state();
    let progress = |key: usize| TableProgress {
        key: Some(vec!["x".repeat(key)]),
        ..progress_of(name(1))
    };
    let longest = (0..4_096).rev().find(|key| {
        state.table = Some(progress(*key));
        state.fits()
    });
    state.rows = u64::MAX;
    state.done = u64::MAX;
    state.failures = u64::MAX;
    state.table = longest.map(|key| TableProgress {
        rows: u64::MAX,
        ms: u64::MAX,
        late: u32::MAX,
        invalid: u32::MAX,
        ..progress(key)
    });
    assert!(state.to_text().len() <= stored_document::MAX_DOCUMENT_BYTES);
}

#[test]
fn a_key_with_braces_is_stored_without_a_parameter_reference() {
    let mut state = state();
    state.table = Some(TableProgress {
        key: Some(vec!["{{1,2},{3,4}}".into(), "{{{name}}}".into()]),
        columns: vec!["a".into(), "b".into()],
        rows: 9,
        ms: 3,
        ..progress_of(name(1))
    });
    assert!(!state.to_text().contains("{{"));
    assert_eq!(BackfillState::parse(&state.to_text()).unwrap(), state);
}

#[test]
fn the_start_position_is_after_the_backlog_and_before_the_first_row() {
    let mut state = state();
    let requested = state.began;
    let later = Lsn(requested.0 + 100);
    state.begin(later);
    state.begin(requested);
    assert_eq!(state.began, later);
    state.fail_table(name(1), "it no longer exists".into());
    state.begin(Lsn(requested.0 + 200));
    assert_eq!(state.began, later);
}

#[test]
fn the_phase_follows_from_the_state() {
    let mut state = state();
    assert_eq!(state.phase(), BackfillPhase::Running);
    state.paused = true;
    assert_eq!(state.phase(), BackfillPhase::Paused);
    state.finished_at = Some("2026-11-25T12:00:00Z".into());
    assert_eq!(state.phase(), BackfillPhase::Finished);
    state.fail_table(name(1), "it no longer exists".into());
    assert_eq!(state.phase(), BackfillPhase::Failed);
    state.restart("s", "8", Lsn(0x20));
    assert_eq!(
        (state.phase(), state.began, state.after),
        (BackfillPhase::Paused, Lsn(0x20), None)
    );
}
