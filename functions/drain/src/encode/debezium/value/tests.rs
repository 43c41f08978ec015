use proptest::prelude::*;

use super::*;

fn json(modes: DebeziumModes, kind: ValueType, text: &str) -> String {
    let mut out = Vec::new();
    modes.write_value(&mut out, &kind, text);
    String::from_utf8(out).unwrap()
}

fn array(element: ValueType) -> ValueType {
    ValueType::Array(Box::new(element), b',')
}

fn boxes() -> ValueType {
    ValueType::Array(Box::new(ValueType::Text), b';')
}

#[test]
fn each_type_is_written_in_its_json_form() {
    let table = [
        (ValueType::Bool, "t", "true"),
        (ValueType::Bool, "false", "false"),
        (ValueType::Integer, "-9223372036854775808", "-9223372036854775808"),
        (ValueType::Float, "1e+20", "1e+20"),
        (ValueType::Float, "NaN", r#""NaN""#),
        (ValueType::Float, "-Infinity", r#""-Infinity""#),
        (ValueType::Numeric(None), "0.10", r#""0.10""#),
        (ValueType::Numeric(Some(2)), "NaN", r#""NaN""#),
        (ValueType::Bytea, "\\xdeadBEEF", r#""3q2+7w==""#),
        (ValueType::Bytea, "\\x", r#""""#),
        (ValueType::Date, "2024-02-29", r#""2024-02-29Z""#),
        (ValueType::Date, "infinity", r#""infinity""#),
        (ValueType::Date, "0044-03-15 BC", r#""-0043-03-15Z""#),
        (ValueType::Date, "0001-03-15 BC", r#""0000-03-15Z""#),
        (ValueType::Date, "12345-06-07", r#""+12345-06-07Z""#),
        (ValueType::Time(6), "12:34:56.789", r#""12:34:56.789Z""#),
        (ValueType::TimeTz, "00:30:00+05:30", r#""19:00:00Z""#),
        (ValueType::TimeTz, "23:30:00.5-02", r#""01:30:00.5Z""#),
        (ValueType::TimeTz, "12:00:00+01:30:15", r#""10:29:45Z""#),
        (
            ValueType::TimeTz,
            "9223372036854775807:00:00+00",
            r#""9223372036854775807:00:00+00""#,
        ),
        (
            ValueType::TimeTz,
            "00:00:00-9223372036854775807",
            r#""00:00:00-9223372036854775807""#,
        ),
        (
            ValueType::Timestamp(6),
            "2024-02-29 12:34:56.789",
            r#""2024-02-29T12:34:56.789Z""#,
        ),
        (ValueType::Timestamp(3), "-infinity", r#""-infinity""#),
        (
            ValueType::TimestampTz(0),
            "2024-02-29 12:34:56+00",
            r#""2024-02-29T12:34:56Z""#,
        ),
        (ValueType::TimestampTz(6), "infinity", r#""infinity""#),
        (
            ValueType::TimestampTz(6),
            "2024-02-29 12:34:56.7+00",
            r#""2024-02-29T12:34:56.700000Z""#,
        ),
        (
            ValueType::TimestampTz(3),
            "0044-03-15 12:00:00+00 BC",
            r#""-0043-03-15T12:00:00.000Z""#,
        ),
        (
            ValueType::TimestampTz(0),
            "294276-12-31 23:59:59.999999+00",
            r#""+294276-12-31T23:59:59.999999Z""#,
        ),
        (
            ValueType::Timestamp(6),
            "4713-01-01 00:00:01 BC",
            r#""-4712-01-01T00:00:01Z""#,
        ),
        (ValueType::Interval, "P1D", r#""P0Y0M1DT0H0M0S""#),
        (ValueType::Money, "-$1,234.50", r#""-1234.50""#),
        (ValueType::Money, "1.234,50 €", r#""1.234,50 €""#),
        (ValueType::Bits(Some(1)), "1", "true"),
        (ValueType::Bits(Some(1)), "", r#""""#),
        (array(ValueType::Bits(None)), "{101,NULL}", r#"["BQ==",null]"#),
        (
            array(ValueType::Hstore),
            r#"{"\"a\"=>NULL"}"#,
            r#"["{\"a\":null}"]"#,
        ),
        (array(ValueType::Integer), "{1,NULL,3}", "[1,null,3]"),
        (array(ValueType::Integer), "[0:1]={1,2}", "[1,2]"),
        (array(ValueType::Integer), "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (array(ValueType::Integer), "{}", "[]"),
        (
            array(ValueType::Text),
            r#"{a,"b \"c\" \\",NULL,"NULL",""}"#,
            r#"["a","b \"c\" \\",null,"NULL",""]"#,
        ),
        (array(ValueType::Numeric(None)), "{1.50,NaN}", r#"["1.50","NaN"]"#),
        (array(ValueType::Text), "not an array", r#""not an array""#),
        (array(ValueType::Text), "{,}", r#""{,}""#),
        (array(ValueType::Text), "{{}}", r#""{{}}""#),
        (array(ValueType::Integer), "{1,}", r#""{1,}""#),
        (array(array(ValueType::Integer)), r#"{"{1,2}"}"#, "[[1,2]]"),
        (
            boxes(),
            "{(1,1),(0,0);NULL;(2,2),(1,1)}",
            r#"["(1,1),(0,0)",null,"(2,2),(1,1)"]"#,
        ),
        (array(boxes()), r#"{"{(1,1),(0,0)}"}"#, r#"[["(1,1),(0,0)"]]"#),
        (boxes(), "{{(1,1),(0,0)};{}}", r#""{{(1,1),(0,0)};{}}""#),
        (ValueType::Text, "a\"b\n", r#""a\"b\n""#),
    ];
    for (kind, text, expected) in table {
        assert_eq!(
            json(DebeziumModes::default(), kind.clone(), text),
            expected,
            "{kind:?} {text}"
        );
    }
}

#[test]
fn a_decimal_has_the_form_of_its_mode_or_stays_text() {
    use DecimalMode::{Double, Precise};
    for (decimal, kind, text, expected) in [
        // The encodings are those of Debezium's documentation: the bytes of 110 and of 123450.
        (Precise, ValueType::Numeric(Some(2)), "1.10", r#""bg==""#),
        (Precise, ValueType::Numeric(Some(4)), "12.3450", r#""AeI6""#),
        (Precise, ValueType::Numeric(Some(0)), "-1", r#""/w==""#),
        (Precise, ValueType::Numeric(Some(-2)), "12300", r#""ew==""#),
        (
            Precise,
            ValueType::Numeric(None),
            "1.10",
            r#"{"scale":1,"value":"Cw=="}"#,
        ),
        (
            Precise,
            ValueType::Numeric(None),
            "0",
            r#"{"scale":0,"value":"AA=="}"#,
        ),
        (Precise, ValueType::Money, "$12.34", r#""BNI=""#),
        (Double, ValueType::Money, "-$1,234.50", "-1234.5"),
        (Precise, ValueType::Numeric(Some(2)), "NaN", r#""NaN""#),
        (Precise, ValueType::Numeric(None), "-Infinity", r#""-Infinity""#),
        (Precise, ValueType::Numeric(Some(1)), "1.25", r#""1.25""#),
        (
            Precise,
            array(ValueType::Numeric(Some(2))),
            "{1.10,NULL,NaN}",
            r#"["bg==",null,"NaN"]"#,
        ),
        (Double, ValueType::Numeric(Some(2)), "1.10", "1.1"),
        (Double, ValueType::Numeric(None), "-3", "-3.0"),
        (Double, ValueType::Numeric(None), "NaN", r#""NaN""#),
        (Double, array(ValueType::Numeric(None)), "{1.50}", "[1.5]"),
    ] {
        let modes = DebeziumModes {
            decimal,
            ..DebeziumModes::default()
        };
        assert_eq!(json(modes, kind, text), expected, "{decimal:?} {text}");
    }
    let modes = DebeziumModes {
        decimal: Double,
        ..DebeziumModes::default()
    };
    let large = "9".repeat(400);
    assert_eq!(
        json(modes, ValueType::Numeric(None), &large),
        format!("\"{large}\"")
    );
}

#[test]
fn a_time_is_a_number_in_the_unit_of_its_mode_or_stays_text() {
    use TimeMode::{Adaptive, AdaptiveTimeMicroseconds, Connect, Microseconds, Nanoseconds};
    const MODES: [TimeMode; 5] = [
        Adaptive,
        AdaptiveTimeMicroseconds,
        Connect,
        Microseconds,
        Nanoseconds,
    ];
    let numbers = |kind: ValueType, text: &str, expected: [&str; 5]| {
        for (time, expected) in MODES.into_iter().zip(expected) {
            let modes = DebeziumModes {
                time,
                ..DebeziumModes::default()
            };
            assert_eq!(
                json(modes, kind.clone(), text),
                expected,
                "{time:?} {kind:?} {text}"
            );
        }
    };
    for (text, days) in [
        ("1970-01-02", "1"),
        ("1969-12-31", "-1"),
        ("2024-02-29", "19782"),
        ("5874897-12-31", "2145042905"),
        ("0044-03-15 BC", "-735160"),
        ("4713-01-01 BC", "-2440550"),
        ("infinity", r#""infinity""#),
    ] {
        numbers(ValueType::Date, text, [days; 5]);
    }
    let (ms, us, ns) = ("45296789", "45296789000", "45296789000000");
    numbers(ValueType::Time(3), "12:34:56.789", [ms, us, ms, us, ns]);
    numbers(ValueType::Time(6), "12:34:56.789", [us, us, ms, us, ns]);
    let (ms, us, ns) = ("86400000", "86400000000", "86400000000000");
    numbers(ValueType::Time(0), "24:00:00", [ms, us, ms, us, ns]);
    let (ms, us, ns) = ("1709210096789", "1709210096789000", "1709210096789000000");
    numbers(
        ValueType::Timestamp(3),
        "2024-02-29 12:34:56.789",
        [ms, ms, ms, us, ns],
    );
    numbers(
        ValueType::Timestamp(6),
        "2024-02-29 12:34:56.789",
        [us, us, ms, us, ns],
    );
    let (ms, us, ns) = ("-1", "-1000", "-1000000");
    numbers(
        ValueType::Timestamp(3),
        "1969-12-31 23:59:59.999",
        [ms, ms, ms, us, ns],
    );
    let (ms, us, ns) = ("9223372036825200", "9223372036825200000", "9223372036854775807");
    numbers(ValueType::Timestamp(6), "infinity", [us, us, ms, us, ns]);
    numbers(ValueType::Timestamp(3), "infinity", [ms, ms, ms, us, ns]);
    let (ms, us, ns) = (
        "-9223372036832400",
        "-9223372036832400000",
        "-9223372036854775808",
    );
    numbers(ValueType::Timestamp(6), "-infinity", [us, us, ms, us, ns]);
    let (text, ms) = ("294276-12-31 23:59:59.999999", "9224318015999999");
    let written = r#""294276-12-31 23:59:59.999999""#;
    numbers(
        ValueType::Timestamp(6),
        text,
        [written, written, ms, written, written],
    );
    let (text, ms, us) = ("0044-03-15 12:00:00 BC", "-63517780800000", "-63517780800000000");
    numbers(
        ValueType::Timestamp(6),
        text,
        [us, us, ms, us, r#""0044-03-15 12:00:00 BC""#],
    );
    let zoned = [r#""2024-02-29T12:34:56Z""#; 5];
    numbers(ValueType::TimestampTz(0), "2024-02-29 12:34:56+00", zoned);
    numbers(ValueType::TimeTz, "00:30:00+05:30", [r#""19:00:00Z""#; 5]);
    numbers(array(ValueType::Date), "{1970-01-02,NULL}", ["[1,null]"; 5]);
}

#[test]
fn every_short_text_of_array_syntax_is_written_as_json() {
    const SYNTAX: &[u8] = b"{}\",\\1N";
    for length in 0..7u32 {
        for mut number in 0..SYNTAX.len().pow(length) {
            let mut text = String::new();
            for _ in 0..length {
                text.push(char::from(SYNTAX[number % SYNTAX.len()]));
                number /= SYNTAX.len();
            }
            let written = json(DebeziumModes::default(), array(ValueType::Integer), &text);
            let parsed = serde_json::from_str::<serde_json::Value>(&written);
            assert!(parsed.is_ok(), "{text} is written as invalid JSON: {written}");
        }
    }
}

/// Any combination of modes.
fn modes() -> impl Strategy<Value = DebeziumModes> {
    use {DecimalMode as D, TimeMode as T};
    (0..3usize, 0..4usize, 0..2usize, 0..2usize).prop_map(|(decimal, time, interval, hstore)| DebeziumModes {
        decimal: [D::String, D::Precise, D::Double][decimal],
        time: [T::IsoString, T::Adaptive, T::Microseconds, T::Nanoseconds][time],
        interval: [IntervalMode::String, IntervalMode::Numeric][interval],
        hstore: [HstoreMode::Json, HstoreMode::Map][hstore],
    })
}

proptest! {
    #[test]
    fn any_text_of_any_type_is_written_as_json(modes in modes(), text: String, index in 0..17usize) {
        let names = ["boolean", "integer", "real", "numeric", "bytea", "date", "time without time zone",
            "time with time zone", "timestamp without time zone", "timestamp with time zone", "text",
            "integer[]", "interval", "bit varying", "money", "point"];
        let kind = names.get(index).map_or(ValueType::Hstore, |name| ValueType::of_name(name));
        let written = json(modes, kind, &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }

    #[test]
    fn text_that_looks_like_a_time_or_a_number_is_written_as_json(
        modes in modes(),
        text in "[-0-9:. +BCPTYMDHS$,()]{0,24}",
        index in 0..10usize,
    ) {
        let names = ["numeric(9,2)", "date", "time(3) without time zone", "time with time zone",
            "timestamp without time zone", "timestamp with time zone", "interval", "bit(3)", "money",
            "point"];
        let written = json(modes, ValueType::of_name(names[index]), &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }

    #[test]
    fn text_that_looks_like_a_hstore_is_written_as_json(modes in modes(), text in r#"["\\=>, NUL]{0,16}"#) {
        let written = json(modes, ValueType::Hstore, &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }

    #[test]
    fn text_that_looks_like_an_array_is_written_as_json(text in r#"[\[\]{}",\\a1= ]{0,12}"#) {
        let written = json(DebeziumModes::default(), array(ValueType::Text), &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }
}
