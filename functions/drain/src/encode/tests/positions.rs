//! Positions and counts of skipped changes and of messages.

use super::*;

#[test]
fn a_skipped_change_counts_like_an_encoded_change() {
    let with_counts = Debezium {
        transaction_metadata: true,
        ..debezium_form()
    };
    let changes = [
        insert(relation(), "1", "x"),
        key_change(),
        delete(relation()),
        message(),
        Change::Truncate {
            relations: vec![relation(), keyless()],
        },
    ];
    for form in [
        EnvelopeForm::Debezium(with_counts),
        EnvelopeForm::Dms(Dms::default()),
        EnvelopeForm::Wal2json(Wal2json),
    ] {
        let envelope = envelope(form);
        // Announces the table, so that no definition precedes the last change.
        encode(&envelope, &changes);
        let last = insert(relation(), "9", "z");
        let last_events = [true, false].map(|is_skipped| {
            let (mut progress, mut out) = (progress(), EncodedEvents::default());
            for change in &changes {
                // With one LSN for all changes, the index of the position counts them.
                if is_skipped {
                    envelope.skip(&mut progress, Lsn(16), change);
                } else {
                    envelope.encode(
                        &mut progress,
                        Lsn(16),
                        change,
                        NOW,
                        usize::MAX,
                        &mut EncodedEvents::default(),
                    );
                }
            }
            envelope.encode(&mut progress, Lsn(16), &last, NOW, usize::MAX, &mut out);
            out.events.pop().unwrap()
        });
        assert_eq!(last_events[0], last_events[1]);
        assert_eq!(last_events[0].position.index, 7, "the same in each envelope");
    }
}

#[test]
fn a_control_message_is_encoded_like_a_message_and_is_a_barrier() {
    for envelope in [debezium(), dms(), wal2json()] {
        let mut progress = progress();
        let control = envelope.encode_control_message(&mut progress, Lsn(16), &logical_message(), NOW);
        let expected = encode(&envelope, &[message()]).pop().unwrap();
        assert!(control.barrier && !expected.barrier);
        let expected = Event {
            barrier: true,
            ..expected
        };
        assert_eq!(control, expected);
        let next = envelope.encode_control_message(&mut progress, Lsn(16), &logical_message(), NOW);
        assert_eq!(next.position.to_string(), position(16, 1));
    }
}
