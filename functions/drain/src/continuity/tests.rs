use super::*;
use serde_json::json;

fn server() -> ServerInfo {
    ServerInfo {
        version: 150_018,
        system_identifier: "7".into(),
        timeline: 1,
        database: "d".into(),
        database_oid: 5,
        encoding: "UTF8".into(),
        flush: Lsn(1000),
    }
}

fn state(confirmed: &str) -> SlotState {
    serde_json::from_value(
        json!({"plugin": "pgoutput", "database": "d", "active": false, "restart_lsn": "0/1",
        "confirmed_flush_lsn": confirmed, "wal_status": "reserved", "a_column_of_tomorrow": 1}),
    )
    .unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint::parse(
        r#"{"version":1,"system_identifier":"7","timeline":1,"database":"d","slot":"s","plugin":"pgoutput",
        "commit_end":"0/64","updated_at":""}"#,
    )
    .unwrap()
}

fn verdict(server: &ServerInfo, state: Option<&SlotState>, checkpoint: &Checkpoint) -> ContinuityError {
    start_position("s", server, state, Some(checkpoint), None).unwrap_err()
}

#[test]
fn a_slot_behind_its_checkpoint_continues_and_skips_to_the_checkpoint() {
    let start = start_position("s", &server(), Some(&state("0/60")), Some(&checkpoint()), None).unwrap();
    assert_eq!(
        (start.confirmed, start.acknowledged, start.settled),
        (Lsn(0x60), Lsn(0x64), Lsn(0x64))
    );
}

#[test]
fn after_a_promotion_only_the_slots_position_is_settled() {
    let server = ServerInfo {
        timeline: 2,
        ..server()
    };
    let start = start_position("s", &server, Some(&state("0/60")), Some(&checkpoint()), None).unwrap();
    assert!(start.is_promoted);
    assert_eq!((start.settled, start.acknowledged), (Lsn(0x60), Lsn(0x64)));
}

#[test]
fn a_drain_without_a_checkpoint_starts_at_the_slots_position() {
    let start = start_position("s", &server(), Some(&state("0/60")), None, None).unwrap();
    assert_eq!((start.acknowledged, start.has_checkpoint), (Lsn(0x60), false));
}

#[test]
fn each_break_of_continuity_is_its_own_error() {
    use ContinuityError as D;
    let (server, state, checkpoint) = (server(), state("0/60"), checkpoint());
    assert!(matches!(
        start_position("s", &server, None, None, None),
        Err(D::NotSetUp { .. })
    ));
    assert!(matches!(
        verdict(&server, None, &checkpoint),
        D::SlotMissing {
            checkpoint: Lsn(0x64),
            ..
        }
    ));
    let lost = SlotState {
        wal_status: Some("lost".into()),
        ..state.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&lost), &checkpoint),
        D::SlotLost { .. }
    ));
    let invalid = SlotState {
        invalidation_reason: Some("idle_timeout".into()),
        ..state.clone()
    };
    let lost = verdict(&server, Some(&invalid), &checkpoint);
    assert!(matches!(
        lost,
        D::SlotLost {
            loss: SlotLoss::Idle,
            ..
        }
    ));
    let elsewhere = SlotState {
        database: Some("e".into()),
        ..state.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&elsewhere), &checkpoint),
        D::WrongDatabase { .. }
    ));
    let physical = SlotState {
        plugin: None,
        database: None,
        ..state.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&physical), &checkpoint),
        D::Physical { .. }
    ));
    let other = SlotState {
        plugin: Some("decoderbufs".into()),
        ..state.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&other), &checkpoint),
        D::PluginUnsupported { .. }
    ));
    let foreign = Checkpoint {
        slot: "x".into(),
        ..checkpoint.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&state), &foreign),
        D::CheckpointMismatch { .. }
    ));
    let system = Checkpoint {
        system_identifier: "8".into(),
        ..checkpoint.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&state), &system),
        D::SystemChanged { .. }
    ));
    let ahead = Checkpoint {
        commit_end: Lsn(1001),
        ..checkpoint.clone()
    };
    assert!(matches!(
        verdict(&server, Some(&state), &ahead),
        D::Divergence {
            flush: Lsn(1000),
            checkpoint: Lsn(1001),
            ..
        }
    ));
    let behind = Checkpoint {
        commit_end: Lsn(0x5F),
        ..checkpoint
    };
    assert!(matches!(
        verdict(&server, Some(&state), &behind),
        D::Gap {
            confirmed: Lsn(0x60),
            checkpoint: Lsn(0x5F),
            ..
        }
    ));
}

#[test]
fn a_renamed_database_is_the_same_database() {
    let renamed = ServerInfo {
        database: "e".into(),
        ..server()
    };
    let state = SlotState {
        database: Some("e".into()),
        ..state("0/60")
    };
    let stored = |database_oid| Checkpoint {
        database_oid,
        ..checkpoint()
    };
    start_position("s", &renamed, Some(&state), Some(&stored(Some(5))), None).unwrap();
    for oid in [None, Some(6)] {
        assert!(matches!(
            verdict(&renamed, Some(&state), &stored(oid)),
            ContinuityError::CheckpointMismatch { .. }
        ));
    }
}

#[test]
fn the_oid_of_a_database_decides_before_its_name() {
    let is_of = |system_identifier: &str, database: &str, database_oid| {
        let stored = Checkpoint {
            system_identifier: system_identifier.into(),
            database: database.into(),
            database_oid,
            ..checkpoint()
        };
        stored.is_of_database(&server())
    };
    assert!(is_of("7", "d", Some(5)));
    assert!(is_of("7", "renamed", Some(5)));
    // A database of the same name was dropped.
    assert!(!is_of("7", "d", Some(6)));
    // An older version stored no OID.
    assert!(is_of("7", "d", None));
    assert!(!is_of("7", "other", None));
    // Databases of two clusters may have the same OID.
    assert!(is_of("8", "d", Some(6)));
    assert!(!is_of("8", "other", Some(5)));
}

#[test]
fn a_database_on_another_cluster_is_an_error_of_the_cluster() {
    let moved = Checkpoint {
        system_identifier: "8".into(),
        database_oid: Some(6),
        ..checkpoint()
    };
    assert!(matches!(
        verdict(&server(), Some(&state("0/60")), &moved),
        ContinuityError::SystemChanged { .. }
    ));
}

#[test]
fn each_kind_of_unusable_slot_has_its_stable_error_name() {
    let name = |changed: serde_json::Value| {
        let mut row = json!({"plugin": "test_decoding", "database": "d", "restart_lsn": "0/1",
            "confirmed_flush_lsn": "0/60", "wal_status": "reserved", "temporary": false, "two_phase": false});
        let (row, changed) = (row.as_object_mut().unwrap(), changed.as_object().unwrap().clone());
        row.extend(changed);
        let state: SlotState = serde_json::from_value(json!(row)).unwrap();
        readable_slot("s", &server(), &state).map_err(|error| error.name())
    };
    assert_eq!(name(json!({})), Ok((Plugin::TestDecoding, Lsn(0x60))));
    assert_eq!(name(json!({"two_phase": true})), Err("SlotTwoPhase"));
    assert_eq!(name(json!({"temporary": true})), Err("SlotUnusable"));
    // The loss precedes the other problem: a lost slot can only be dropped.
    let lost = json!({"two_phase": true, "wal_status": "lost"});
    assert_eq!(name(lost), Err("SlotLost"));
    // PostgreSQL 16 has the same values for each kind of loss.
    let unstated = SlotState {
        wal_status: Some("lost".into()),
        conflicting: Some(true),
        ..state("0/60")
    };
    assert_eq!(SlotLoss::of(&unstated), Some(SlotLoss::Unstated));
}

#[test]
fn an_accepted_gap_must_name_the_slots_position() {
    let behind = Checkpoint {
        commit_end: Lsn(0x5F),
        ..checkpoint()
    };
    let accept = |lsn| {
        start_position(
            "s",
            &server(),
            Some(&state("0/60")),
            Some(&behind),
            Some(Lsn(lsn)),
        )
    };
    assert_eq!(accept(0x60).unwrap().acknowledged, Lsn(0x60));
    assert!(matches!(
        accept(0x61),
        Err(ContinuityError::AcceptedElsewhere { .. })
    ));
}
