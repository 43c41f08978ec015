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
fn the_values_of_the_old_row_are_omitted_first() {
    let (old, new) = ("a".repeat(300), "b".repeat(200));
    let change = Change::Update {
        relation: relation(),
        old: Some(row(&[Some("1"), Some(&old)])),
        new: row(&[Some("1"), Some(&new)]),
    };
    let encode_within = |form: EnvelopeForm, limit: usize| {
        let mut out = EncodedEvents::default();
        let envelope = Envelope {
            oversize: OversizePolicy::Omit,
            ..envelope(form)
        };
        envelope.encode(&mut progress(), Lsn(16), &change, NOW, limit, &mut out);
        let event = out.events.pop().unwrap();
        (event.bytes(), parsed(&event))
    };
    let debezium = |limit| encode_within(debezium().form, limit);
    let (whole, event) = debezium(usize::MAX);
    assert_eq!(event["before"]["name"], old);
    let (less, event) = debezium(whole - 1);
    assert_eq!(event["before"]["name"], "__debezium_unavailable_value");
    assert_eq!(event["after"]["name"], new, "the new value fits");
    assert_eq!(event["source"]["omitted"], Value::Null);
    let (_, event) = debezium(less - 1);
    assert_eq!(event["after"]["name"], "__debezium_unavailable_value");
    assert_eq!(event["source"]["omitted"], json!(["name"]));
    // In DMS, the old row of an update has only its key.
    let dms = || dms().form;
    let (whole, event) = encode_within(dms(), usize::MAX);
    assert_eq!(event["data"]["name"], new);
    let (_, event) = encode_within(dms(), whole - 1);
    assert_eq!(event["metadata"]["omitted"], json!(["name"]));
}

#[test]
fn a_large_old_value_omits_no_value_that_fits() {
    let relation = table(&[("id", "text", true), ("a", "text", false), ("b", "text", false)]);
    let (old, new) = ("o".repeat(900), "n".repeat(800));
    let change = Change::Update {
        relation,
        old: Some(row(&[Some("1"), Some(&old), Some("x")])),
        new: row(&[Some("1"), Some("small"), Some(&new)]),
    };
    for form in all_forms() {
        let envelope = Envelope {
            oversize: OversizePolicy::Omit,
            ..envelope(form)
        };
        let mut out = EncodedEvents::default();
        envelope.encode(&mut progress(), Lsn(16), &change, NOW, 1_000, &mut out);
        let event = out.events.pop().unwrap();
        let text = String::from_utf8_lossy(&event.data).into_owned();
        assert!(event.bytes() <= 1_000 && text.contains("small"), "{text}");
    }
}

#[test]
fn a_value_that_the_decoder_dropped_is_omitted_or_makes_the_event_too_large() {
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
            // Even with a limit above the size of the missing value, the event has a size problem: it would
            // look complete.
            assert_eq!(event.size_problem(1 << 31).is_some(), !is_sent);
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
        let encode_without = |omitted: MessageParts, prefix: &str, content: &str, limit| {
            let message = Message {
                prefix: prefix.into(),
                content: content.as_bytes().into(),
                omitted,
            };
            let change = Change::Message(message);
            let mut out = EncodedEvents::default();
            let omitted = envelope.encode(&mut progress(), Lsn(16), &change, NOW, limit, &mut out);
            let event = out.events.pop().unwrap();
            assert!(event.bytes() <= limit);
            (omitted, parsed(&event).to_string())
        };
        let encode_within = |prefix: &str, content: &str, limit| {
            encode_without(MessageParts::default(), prefix, content, limit)
        };
        let large = "x".repeat(2000);
        let (omitted, event) = encode_within("p", "content", 1000);
        assert!(omitted == 0 && !event.contains("omitted"), "{event}");
        let (omitted, event) = encode_within("p", &large, 1000);
        assert!(
            omitted == 1 && event.contains(r#""omitted":["content"]"#) && event.contains(r#""prefix":"p""#)
        );
        // The decoder may have dropped a large prefix, and kept the content.
        let without_prefix = MessageParts {
            prefix: true,
            content: false,
        };
        for (omitted, event) in [
            encode_within(&large, "content", 1000),
            encode_without(without_prefix, "", &large, 1000),
        ] {
            assert!(
                omitted == 1 && event.contains(r#""omitted":["prefix","content"]"#),
                "{event}"
            );
        }
    }
}

#[test]
fn a_dropped_value_does_not_count_if_its_event_lacks_the_image() {
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
        assert!(parsed(&event).to_string().contains("small"));
    }
}

/// In DMS, the event of a key change contains the old key.
#[test]
fn an_old_key_that_the_decoder_dropped_makes_the_event_too_large() {
    let relation = table(&[("id", "text", true), ("value", "text", false)]);
    let old = vec![Datum::Oversize { bytes: 300 }, Datum::Null];
    let change = Change::Update {
        relation,
        old: Some(old),
        new: row(&[Some("k"), Some("v")]),
    };
    for form in all_forms() {
        for policy in [OversizePolicy::Fail, OversizePolicy::Omit] {
            let envelope = Envelope {
                oversize: policy,
                ..envelope(form.clone())
            };
            let mut out = EncodedEvents::default();
            envelope.encode(&mut progress(), Lsn(16), &change, NOW, 1 << 20, &mut out);
            let mut events = out.events.iter();
            assert!(events.any(|event| event.size_problem(1 << 20).is_some()));
        }
    }
}
