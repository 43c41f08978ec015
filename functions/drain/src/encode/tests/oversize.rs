//! Events that exceed a record.

use serde_json::{Value, json};

use super::*;

#[test]
fn an_event_that_exceeds_a_record_loses_and_names_its_largest_columns_outside_the_key() {
    let relation = table(&[
        ("id", "text", true),
        ("small", "text", false),
        ("large", "text", false),
        ("larger", "text", false),
    ]);
    let (key, small, large, larger) = ("k".repeat(400), "s".repeat(20), "l".repeat(200), "m".repeat(210));
    let change = Change::Insert {
        relation,
        new: row(&[Some(&key), Some(&small), Some(&large), Some(&larger)]),
    };
    for form in all_forms() {
        let envelope = Envelope {
            oversize: OversizePolicy::Omit,
            ..envelope(form)
        };
        let encode_within = |limit: usize| {
            let mut out = EncodedEvents::default();
            let omitted = envelope.encode(&mut progress(), Lsn(16), &change, NOW, limit, &mut out);
            let event = out.events.pop().unwrap();
            let size = event.data.len() + event.partition_key.len();
            (size, omitted, parsed(&event))
        };
        let omitted_names = |event: &Value| {
            let fields = [
                &event["source"]["omitted"],
                &event["metadata"]["omitted"],
                &event["omitted"],
            ];
            fields.into_iter().find(|names| !names.is_null()).cloned()
        };
        let (whole, ..) = encode_within(usize::MAX);
        for limit in [whole, whole + 1] {
            let (size, omitted, event) = encode_within(limit);
            assert_eq!((size, omitted, omitted_names(&event)), (whole, 0, None));
        }
        let (less, omitted, event) = encode_within(whole - 1);
        assert_eq!((omitted, omitted_names(&event)), (1, Some(json!(["larger"]))));
        assert_eq!(encode_within(less).2, event);
        let (size, omitted, event) = encode_within(less - 1);
        assert!(size < less);
        assert_eq!(
            (omitted, omitted_names(&event)),
            (1, Some(json!(["large", "larger"])))
        );
        // The key is never omitted, so this event exceeds the limit.
        let (size, omitted, event) = encode_within(10);
        assert!(size > 10 && event.to_string().contains(&key));
        assert_eq!(
            (omitted, omitted_names(&event)),
            (1, Some(json!(["small", "large", "larger"])))
        );
        match &envelope.form {
            EnvelopeForm::Debezium(_) => assert_eq!(event["after"]["small"], "__debezium_unavailable_value"),
            EnvelopeForm::Dms(_) => assert_eq!(event["metadata"]["unchanged"], event["metadata"]["omitted"]),
            EnvelopeForm::Wal2json(_) => assert_eq!(event["unchanged"], event["omitted"]),
        }
    }
}

#[test]
fn a_column_is_omitted_from_both_images() {
    let relation = relation();
    let (old, new) = ("a".repeat(100), "b".repeat(100));
    let change = Change::Update {
        relation,
        old: Some(row(&[Some("1"), Some(&old)])),
        new: row(&[Some("1"), Some(&new)]),
    };
    let envelope = Envelope {
        oversize: OversizePolicy::Omit,
        ..debezium()
    };
    let mut out = EncodedEvents::default();
    envelope.encode(&mut progress(), Lsn(16), &change, NOW, 600, &mut out);
    let event = parsed(&out.events[0]);
    assert_eq!(event["before"], event["after"]);
    assert_eq!(event["after"]["name"], "__debezium_unavailable_value");
}

#[test]
fn a_value_that_was_not_kept_is_omitted_or_makes_the_event_too_large() {
    let relation = table(&[
        ("id", "text", true),
        ("small", "text", false),
        ("large", "text", false),
    ]);
    let huge = Datum::Oversize { bytes: 1 << 30 };
    let tuple = |key: Datum<'static>| vec![key, Datum::Text("s".into()), huge.clone()];
    for form in all_forms() {
        for (policy, key, is_sent) in [
            (OversizePolicy::Omit, Datum::Text("k".into()), true),
            (OversizePolicy::Fail, Datum::Text("k".into()), false),
            (OversizePolicy::Omit, huge.clone(), false),
        ] {
            let envelope = Envelope {
                oversize: policy,
                ..envelope(form.clone())
            };
            let change = Change::Insert {
                relation: Arc::clone(&relation),
                new: tuple(key),
            };
            let mut out = EncodedEvents::default();
            let omitted = envelope.encode(&mut progress(), Lsn(16), &change, NOW, 1 << 20, &mut out);
            let event = out.events.pop().unwrap();
            assert_eq!((omitted, event.bytes() < 1 << 20), (u64::from(is_sent), is_sent));
            assert!(is_sent || event.bytes() > 1 << 30);
            let text = parsed(&event).to_string();
            assert!(
                text.contains(r#""omitted":["#) && !text.contains("null,\"large\""),
                "{text}"
            );
        }
    }
}

#[test]
fn a_message_that_exceeds_a_record_loses_its_content_and_then_its_prefix() {
    for form in all_forms() {
        let envelope = envelope(form);
        let encode_within = |prefix: &str, content: &str, limit| {
            let message = Message {
                prefix: prefix.into(),
                content: content.as_bytes().into(),
                omitted: Default::default(),
            };
            let change = Change::Message(message);
            let mut out = EncodedEvents::default();
            let omitted = envelope.encode(&mut progress(), Lsn(16), &change, NOW, limit, &mut out);
            let event = out.events.pop().unwrap();
            assert!(event.bytes() <= limit);
            (omitted, parsed(&event).to_string())
        };
        let large = "x".repeat(2000);
        let (omitted, event) = encode_within("p", "content", 1000);
        assert!(omitted == 0 && !event.contains("omitted"), "{event}");
        let (omitted, event) = encode_within("p", &large, 1000);
        assert!(
            omitted == 1 && event.contains(r#""omitted":["content"]"#) && event.contains(r#""prefix":"p""#)
        );
        let (omitted, event) = encode_within(&large, "content", 1000);
        assert!(
            omitted == 1 && event.contains(r#""omitted":["prefix","content"]"#),
            "{event}"
        );
    }
}

#[test]
fn a_value_of_an_image_that_the_event_lacks_is_not_missing() {
    let change = Change::Update {
        relation: relation(),
        old: Some(vec![Datum::Text("1".into()), Datum::Oversize { bytes: 1 << 30 }]),
        new: row(&[Some("1"), Some("small")]),
    };
    for form in all_forms() {
        let is_dms = matches!(form, EnvelopeForm::Dms(_));
        let mut out = EncodedEvents::default();
        envelope(form).encode(&mut progress(), Lsn(16), &change, NOW, 1 << 20, &mut out);
        let event = out.events.pop().unwrap();
        assert_eq!(event.bytes() < 1 << 20, is_dms);
        assert_eq!(parsed(&event).to_string().contains("small"), is_dms);
    }
}
