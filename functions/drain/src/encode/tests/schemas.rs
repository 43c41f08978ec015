//! Events with their schemas, as Kafka Connect's JSON converter writes them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn form(unwrap: bool, modes: DebeziumModes) -> Envelope {
    envelope(EnvelopeForm::Debezium(Debezium {
        unwrap,
        modes,
        schemas: Some(SchemaCache::default()),
        ..debezium_form()
    }))
}

fn with_schemas(unwrap: bool) -> Envelope {
    form(unwrap, DebeziumModes::default())
}

/// Decimals, dates and intervals as numbers, and hstores as maps.
const NUMBERS: DebeziumModes = DebeziumModes {
    decimal: DecimalMode::Precise,
    time: TimeMode::Adaptive,
    interval: IntervalMode::Numeric,
    hstore: HstoreMode::Map,
};

/// The schema of a field by its path.
fn field<'v>(schema: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(schema, |schema, name| {
        let fields = schema["fields"].as_array().unwrap();
        fields.iter().find(|field| field["field"] == *name).unwrap()
    })
}

/// The text is that of Debezium Server 3.6, with two differences. The fields `position`, `omitted`,
/// `unchanged` and `texts` are Spillway's own. Debezium's fields `origin` and `origin_lsn` are absent.
#[test]
fn an_event_has_the_schema_of_debezium() {
    let events = encode(&with_schemas(false), &[insert(relation(), "1", "x")]);
    let columns = concat!(
        r#"[{"type":"int32","optional":false,"field":"id"},{"type":"string","optional":true,"field":"name"}],"#,
        r#""optional":true,"name":"slot.public.t.Value","#
    );
    let strings = r#"{"type":"array","items":{"type":"string","optional":false},"optional":true,"#;
    let expected = [
        r#"{"schema":{"type":"struct","fields":[{"type":"struct","fields":"#,
        columns,
        r#""field":"before"},{"type":"struct","fields":"#,
        columns,
        r#""field":"after"},{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},"#,
        r#"{"type":"string","optional":false,"field":"connector"},"#,
        r#"{"type":"string","optional":false,"field":"name"},{"type":"int64","optional":false,"field":"ts_ms"},"#,
        r#"{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"#,
        r#""true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"#,
        r#""default":"false","field":"snapshot"},{"type":"string","optional":false,"field":"db"},"#,
        r#"{"type":"string","optional":true,"field":"sequence"},{"type":"int64","optional":true,"field":"ts_us"},"#,
        r#"{"type":"int64","optional":true,"field":"ts_ns"},{"type":"string","optional":false,"field":"schema"},"#,
        r#"{"type":"string","optional":false,"field":"table"},{"type":"int64","optional":true,"field":"txId"},"#,
        r#"{"type":"int64","optional":true,"field":"lsn"},{"type":"int64","optional":true,"field":"xmin"},"#,
        r#"{"type":"string","optional":false,"field":"position"},"#,
        strings,
        r#""field":"omitted"},"#,
        strings,
        r#""field":"unchanged"},{"type":"map","keys":{"type":"string","optional":false},"#,
        r#""values":{"type":"string","optional":false},"optional":true,"field":"texts"}],"optional":false,"#,
        r#""name":"io.debezium.connector.postgresql.Source","version":1,"field":"source"},"#,
        r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},"#,
        r#"{"type":"int64","optional":false,"field":"total_order"},"#,
        r#"{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"#,
        r#""name":"event.block","version":1,"field":"transaction"},"#,
        r#"{"type":"string","optional":false,"field":"op"},{"type":"int64","optional":true,"field":"ts_ms"},"#,
        r#"{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"}],"#,
        r#""optional":false,"name":"slot.public.t.Envelope","version":2},"payload":"#,
    ]
    .concat();
    let text = texts(&events)[0];
    assert!(text.starts_with(&expected), "{text}\n{expected}");
    let plain = encode(&debezium(), &[insert(relation(), "1", "x")]);
    assert_eq!(&text[expected.len()..], format!("{}}}", texts(&plain)[0]));
}

#[test]
fn each_type_has_the_schema_of_its_mode() {
    let plain = |name: &str| json!({"type": name, "optional": true});
    let named = |kind: &str, name: &str| json!({"type": kind, "optional": true, "name": name, "version": 1});
    let list = |items: Value| json!({"type": "array", "items": items, "optional": true});
    let decimal = |scale: &str, precision: Option<&str>| {
        let mut schema = named("bytes", "org.apache.kafka.connect.data.Decimal");
        schema["parameters"] = json!({"scale": scale});
        if let Some(precision) = precision {
            schema["parameters"]["connect.decimal.precision"] = json!(precision);
        }
        schema
    };
    let mut bits = named("bytes", "io.debezium.data.Bits");
    bits["parameters"] = json!({"length": "12"});
    for (type_name, strings, numbers) in [
        ("smallint", plain("int16"), plain("int16")),
        ("bigint[]", list(plain("int64")), list(plain("int64"))),
        ("oid", plain("int64"), plain("int64")),
        ("real", plain("float"), plain("float")),
        ("double precision[]", list(plain("double")), list(plain("double"))),
        ("numeric(10,2)", plain("string"), decimal("2", Some("10"))),
        (
            "numeric(3,-2)[]",
            list(plain("string")),
            list(decimal("-2", Some("3"))),
        ),
        ("money", plain("string"), decimal("2", None)),
        ("bit(1)", plain("boolean"), plain("boolean")),
        ("bit varying(12)", bits.clone(), bits),
        (
            "uuid[]",
            list(named("string", "io.debezium.data.Uuid")),
            list(named("string", "io.debezium.data.Uuid")),
        ),
        (
            "jsonb",
            named("string", "io.debezium.data.Json"),
            named("string", "io.debezium.data.Json"),
        ),
        (
            "date",
            named("string", "io.debezium.time.IsoDate"),
            named("int32", "io.debezium.time.Date"),
        ),
        (
            "time(3) without time zone",
            named("string", "io.debezium.time.IsoTime"),
            named("int32", "io.debezium.time.Time"),
        ),
        (
            "timestamp without time zone",
            named("string", "io.debezium.time.IsoTimestamp"),
            named("int64", "io.debezium.time.MicroTimestamp"),
        ),
        (
            "timestamp with time zone",
            named("string", "io.debezium.time.ZonedTimestamp"),
            named("string", "io.debezium.time.ZonedTimestamp"),
        ),
        (
            "interval",
            named("string", "io.debezium.time.Interval"),
            named("int64", "io.debezium.time.MicroDuration"),
        ),
        ("int4range", plain("string"), plain("string")),
    ] {
        let relation = table(&[("id", "integer", true), ("c", type_name, false)]);
        for (modes, expected) in [(DebeziumModes::default(), strings), (NUMBERS, numbers)] {
            let change = Change::Insert {
                relation: Arc::clone(&relation),
                new: row(&[Some("1"), None]),
            };
            let event = parsed(&encode(&form(true, modes), &[change])[0]);
            let mut expected = expected.clone();
            expected["field"] = json!("c");
            assert_eq!(
                field(&event["schema"], &["c"]),
                &expected,
                "{type_name} {modes:?}"
            );
        }
    }
}

#[test]
fn a_value_that_its_type_cannot_hold_is_null_and_its_text_is_in_texts() {
    let relation = table(&[
        ("id", "integer", true),
        ("n", "numeric(10,2)", false),
        ("f", "double precision", false),
        ("d", "date", false),
        ("list", "integer[]", false),
        ("p", "point", false),
        ("ok", "numeric(10,2)", false),
    ]);
    let values = [
        Some("1"),
        Some("NaN"),
        Some("Infinity"),
        Some("infinity"),
        Some("{{1},{2}}"),
        Some("(NaN,1)"),
        Some("1.50"),
    ];
    let texts = json!({"n": "NaN", "f": "Infinity", "d": "infinity", "list": "{{1},{2}}", "p": "(NaN,1)"});
    let change = || Change::Update {
        relation: Arc::clone(&relation),
        old: Some(row(&values)),
        new: row(&values),
    };
    let event = parsed(&encode(&form(true, NUMBERS), &[change()])[0])["payload"].take();
    assert_eq!(event["__texts"], texts);
    assert_eq!(
        (&event["n"], &event["list"], &event["ok"]),
        (&Value::Null, &Value::Null, &json!("AJY="))
    );
    let event = parsed(&encode(&form(false, NUMBERS), &[change()])[0])["payload"].take();
    let mut expected = serde_json::Map::new();
    for image in ["before", "after"] {
        for (name, text) in texts.as_object().unwrap() {
            expected.insert(format!("{image}.{name}"), text.clone());
        }
    }
    assert_eq!(event["source"]["texts"], Value::Object(expected));
    assert_eq!(
        (&event["before"]["f"], &event["after"]["d"]),
        (&Value::Null, &Value::Null)
    );
    // The type string accepts any text.
    let event = parsed(&encode(&with_schemas(true), &[change()])[0])["payload"].take();
    assert_eq!((&event["n"], &event["d"]), (&json!("NaN"), &json!("infinity")));
    assert_eq!(
        event["__texts"],
        json!({"f": "Infinity", "list": "{{1},{2}}", "p": "(NaN,1)"})
    );
}

#[test]
fn an_unchanged_value_is_a_placeholder_of_its_type_or_null_and_unchanged_names_it() {
    let relation = table(&[
        ("id", "integer", true),
        ("t", "text", false),
        ("b", "bytea", false),
        ("ts", "text[]", false),
        ("n", "numeric", false),
        ("is", "integer[]", false),
    ]);
    let unchanged = |_| Datum::Unchanged;
    let change = Change::Update {
        relation,
        old: None,
        new: [Datum::Text("1".into())]
            .into_iter()
            .chain((0..5).map(unchanged))
            .collect(),
    };
    let events = encode(&form(false, NUMBERS), &[change]);
    let event = parsed(&events[0])["payload"].take();
    let encoded = "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==";
    let expected = json!({"id": 1, "t": UNAVAILABLE_VALUE, "b": encoded, "ts": [UNAVAILABLE_VALUE], "n": null,
        "is": null});
    assert_eq!(event["after"], expected);
    assert_eq!(event["source"]["unchanged"], json!(["t", "b", "ts", "n", "is"]));
}

#[test]
fn a_column_of_the_key_is_required_where_each_image_has_it() {
    let relation = || table(&[("id", "date", true), ("name", "text", false)]);
    let is_required = |envelope: &Envelope, id: Datum<'static>| {
        let change = Change::Insert {
            relation: relation(),
            new: vec![id, Datum::Null],
        };
        let event = parsed(&encode(envelope, &[change])[0]);
        field(&event["schema"], &["id"])["optional"] == false
    };
    let form = form(true, NUMBERS);
    assert!(is_required(&form, Datum::Text("2026-11-27".into())));
    assert!(!is_required(&form, Datum::Null));
    // As a number of days, `infinity` is null.
    assert!(!is_required(&form, Datum::Text("infinity".into())));
    assert!(is_required(&with_schemas(true), Datum::Text("infinity".into())));
}

#[test]
fn a_truncate_and_a_message_have_schemas() {
    for unwrap in [false, true] {
        let events = encode(&with_schemas(unwrap), &[truncate(), message()]);
        let [truncate, message] = [parsed(&events[0]), parsed(&events[1])];
        let (op, content) = match unwrap {
            true => ("__op", field(&message["schema"], &["__message_content"])),
            false => ("op", field(&message["schema"], &["message", "content"])),
        };
        assert_eq!(
            (&truncate["payload"][op], &message["payload"][op]),
            (&json!("t"), &json!("m"))
        );
        assert_eq!(content["type"], "bytes");
        for event in [&truncate, &message] {
            let schema: Vec<&Value> = event["schema"]["fields"].as_array().unwrap().iter().collect();
            let names: Vec<&str> = schema
                .iter()
                .map(|field| field["field"].as_str().unwrap())
                .collect();
            let payload = event["payload"].as_object().unwrap();
            assert!(
                payload.keys().all(|name| names.contains(&name.as_str())),
                "{event}"
            );
        }
    }
}

#[test]
fn the_placeholder_of_a_message_is_base64() {
    let long = Message {
        content: vec![b'x'; 5000].into(),
        ..logical_message()
    };
    for unwrap in [false, true] {
        let (event, omitted) = with_schemas(unwrap).encode_message_within(OUTSIDE, &long, NOW, 4000);
        let event = parsed(&event)["payload"].take();
        let content = if unwrap {
            &event["__message_content"]
        } else {
            &event["message"]["content"]
        };
        assert_eq!(
            (content.as_str(), omitted),
            (Some("X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="), 1)
        );
    }
}

#[test]
fn a_table_that_changes_has_its_new_schema() {
    let envelope = with_schemas(true);
    let changed = table(&[("id", "bigint", true), ("name", "text", false)]);
    let changes = [
        insert(relation(), "1", "x"),
        insert(changed, "2", "x"),
        insert(relation(), "3", "x"),
    ];
    let events = encode(&envelope, &changes);
    let types: Vec<Value> = events
        .iter()
        .map(|event| field(&parsed(event)["schema"], &["id"])["type"].clone())
        .collect();
    assert_eq!(types, ["int32", "int64", "int32"]);
}

/// Whether the converter reads the same value with this schema.
fn is_readable(schema: &Value, value: &Value) -> bool {
    if value.is_null() {
        return schema["optional"] == true;
    }
    match schema["type"].as_str().unwrap() {
        "boolean" => value.is_boolean(),
        "int16" | "int32" | "int64" => value.is_i64() || value.is_u64(),
        "float" | "double" => value.is_number(),
        "string" => value.is_string(),
        "bytes" => value.as_str().is_some_and(is_base64),
        "array" => value
            .as_array()
            .is_some_and(|items| items.iter().all(|item| is_readable(&schema["items"], item))),
        "map" => value
            .as_object()
            .is_some_and(|fields| fields.values().all(|value| is_readable(&schema["values"], value))),
        "struct" => schema["fields"].as_array().unwrap().iter().all(|field| {
            let name = field["field"].as_str().unwrap();
            is_readable(field, &value[name])
        }),
        other => panic!("{other}"),
    }
}

fn is_base64(text: &str) -> bool {
    base64_simd::STANDARD.decode_to_vec(text).is_ok()
}

const TYPES: [&str; 20] = [
    "boolean",
    "integer",
    "real",
    "numeric(9,2)",
    "numeric",
    "bytea",
    "date",
    "time(3) without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "interval",
    "bit varying",
    "bit(1)",
    "money",
    "point",
    "text",
    "integer[]",
    "numeric(9,2)[]",
    "bytea[]",
];

proptest! {
    #[test]
    fn the_converter_can_read_any_text_of_any_type(
        unwrap: bool,
        is_numeric: bool,
        type_name in prop::sample::select(&TYPES[..]),
        text in r"any|[-0-9:. +BCPTYMDHS$,()]{0,24}|[\[\]{}\\,x1= ]{0,12}|NaN|infinity|\(NaN,1\)|\PC{0,9}",
        is_key: bool,
        is_unchanged: bool,
    ) {
        let modes = if is_numeric { NUMBERS } else { DebeziumModes::default() };
        let datum = match is_unchanged && !is_key {
            true => Datum::Unchanged,
            false => Datum::Text(text.as_str().into()),
        };
        let change = Change::Insert {
            relation: table(&[("id", "integer", true), ("c", type_name, is_key)]),
            new: vec![Datum::Text("1".into()), datum],
        };
        let event = parsed(&encode(&form(unwrap, modes), &[change])[0]);
        prop_assert!(is_readable(&event["schema"], &event["payload"]), "{}", event);
    }
}
