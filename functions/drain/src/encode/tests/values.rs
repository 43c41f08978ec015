//! Values in the JSON of each envelope.

use serde_json::json;

use super::super::{dms, wal2json};
use super::*;

#[test]
fn each_envelope_marks_an_unchanged_large_value_and_never_writes_null() {
    let change = [Change::Update {
        relation: relation(),
        old: None,
        new: vec![Datum::Text("1".into()), Datum::Unchanged],
    }];
    let events = encode(&debezium(), &change);
    assert_eq!(
        parsed(&events[0])["after"],
        json!({"id": 1, "name": UNAVAILABLE_VALUE})
    );
    let event = parsed(encode(&dms(), &change).last().unwrap());
    assert_eq!(
        (&event["data"], &event["metadata"]["unchanged"]),
        (&json!({"id": 1, "name": UNAVAILABLE_VALUE}), &json!(["name"]))
    );
    let event = parsed(&encode(&wal2json(), &change)[0]);
    let id = json!([{"name": "id", "type": "integer", "value": 1}]);
    assert_eq!(
        (&event["columns"], &event["identity"], &event["unchanged"]),
        (&id, &id, &json!(["name"]))
    );
}

#[test]
fn each_type_has_its_json_in_dms_and_in_wal2json() {
    let array = |of| ValueType::Array(Box::new(of), b',');
    for (kind, text, dms_json, wal2json_json) in [
        (ValueType::Bool, "t", r#""true""#, "true"),
        (ValueType::Bool, "false", r#""false""#, "false"),
        (
            ValueType::Integer,
            "-9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775808",
        ),
        (ValueType::Float, "1e+300", "1e+300", "1e+300"),
        (ValueType::Float, "-Infinity", r#""-Infinity""#, r#""-Infinity""#),
        (ValueType::Numeric(Some(2)), "0.10", "0.10", "0.10"),
        (
            ValueType::Numeric(None),
            "123456789012345678901234567890.10",
            "123456789012345678901234567890.10",
            "123456789012345678901234567890.10",
        ),
        (ValueType::Numeric(None), "NaN", r#""NaN""#, r#""NaN""#),
        (ValueType::Bytea, "\\xdead", r#""dead""#, r#""dead""#),
        (ValueType::Bytea, "\\x", r#""""#, r#""""#),
        (
            ValueType::Date,
            "2024-02-29",
            r#""2024-02-29""#,
            r#""2024-02-29""#,
        ),
        (ValueType::Date, "infinity", r#""infinity""#, r#""infinity""#),
        (
            ValueType::Time(6),
            "12:34:56.7",
            r#""12:34:56.7""#,
            r#""12:34:56.7""#,
        ),
        (
            ValueType::TimeTz,
            "12:34:56+05:30",
            r#""12:34:56+05:30""#,
            r#""12:34:56+05:30""#,
        ),
        (
            ValueType::Timestamp(6),
            "2024-02-29 12:34:56.5",
            r#""2024-02-29T12:34:56.5Z""#,
            r#""2024-02-29 12:34:56.5""#,
        ),
        (
            ValueType::TimestampTz(6),
            "2024-02-29 12:34:56+00",
            r#""2024-02-29T12:34:56Z""#,
            r#""2024-02-29 12:34:56+00""#,
        ),
        (
            ValueType::TimestampTz(6),
            "0044-03-15 00:00:00+00 BC",
            r#""0044-03-15 00:00:00+00 BC""#,
            r#""0044-03-15 00:00:00+00 BC""#,
        ),
        (
            array(ValueType::Integer),
            "{1,NULL}",
            r#""{1,NULL}""#,
            r#""{1,NULL}""#,
        ),
        (
            ValueType::Text,
            "{\"a\": \"b\"}",
            r#""{\"a\": \"b\"}""#,
            r#""{\"a\": \"b\"}""#,
        ),
    ] {
        let (mut in_dms, mut in_wal2json) = (Vec::new(), Vec::new());
        dms::write_value(&mut in_dms, &kind, text);
        wal2json::write_value(&mut in_wal2json, &kind, text);
        assert_eq!(String::from_utf8(in_dms).unwrap(), dms_json, "{kind:?} {text}");
        assert_eq!(
            String::from_utf8(in_wal2json).unwrap(),
            wal2json_json,
            "{kind:?} {text}"
        );
    }
}
