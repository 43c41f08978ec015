use proptest::prelude::*;

use super::*;

fn json(modes: DebeziumModes, kind: Type, text: &str) -> String {
    let mut out = Vec::new();
    modes.write_value(&mut out, &kind, text);
    String::from_utf8(out).unwrap()
}

fn array(element: Type) -> Type {
    Type::Array(Box::new(element), b',')
}

fn boxes() -> Type {
    Type::Array(Box::new(Type::Text), b';')
}

#[test]
fn each_type_is_written_in_its_json_form() {
    let table = [
        (Type::Bool, "t", "true"),
        (Type::Bool, "false", "false"),
        (Type::Integer, "-9223372036854775808", "-9223372036854775808"),
        (Type::Float, "1e+20", "1e+20"),
        (Type::Float, "NaN", r#""NaN""#),
        (Type::Float, "-Infinity", r#""-Infinity""#),
        (Type::Numeric(None), "0.10", r#""0.10""#),
        (Type::Numeric(Some(2)), "NaN", r#""NaN""#),
        (Type::Bytea, "\\xdeadBEEF", r#""3q2+7w==""#),
        (Type::Bytea, "\\x", r#""""#),
        (Type::Date, "2024-02-29", r#""2024-02-29Z""#),
        (Type::Date, "infinity", r#""infinity""#),
        (Type::Date, "0044-03-15 BC", r#""0044-03-15 BC""#),
        (Type::Time(6), "12:34:56.789", r#""12:34:56.789Z""#),
        (Type::TimeTz, "00:30:00+05:30", r#""19:00:00Z""#),
        (Type::TimeTz, "23:30:00.5-02", r#""01:30:00.5Z""#),
        (Type::TimeTz, "12:00:00+01:30:15", r#""10:29:45Z""#),
        (
            Type::TimeTz,
            "9223372036854775807:00:00+00",
            r#""9223372036854775807:00:00+00""#,
        ),
        (
            Type::TimeTz,
            "00:00:00-9223372036854775807",
            r#""00:00:00-9223372036854775807""#,
        ),
        (
            Type::Timestamp(6),
            "2024-02-29 12:34:56.789",
            r#""2024-02-29T12:34:56.789Z""#,
        ),
        (Type::Timestamp(3), "-infinity", r#""-infinity""#),
        (
            Type::TimestampTz,
            "2024-02-29 12:34:56+00",
            r#""2024-02-29T12:34:56Z""#,
        ),
        (Type::TimestampTz, "infinity", r#""infinity""#),
        (array(Type::Integer), "{1,NULL,3}", "[1,null,3]"),
        (array(Type::Integer), "[0:1]={1,2}", "[1,2]"),
        (array(Type::Integer), "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (array(Type::Integer), "{}", "[]"),
        (
            array(Type::Text),
            r#"{a,"b \"c\" \\",NULL,"NULL",""}"#,
            r#"["a","b \"c\" \\",null,"NULL",""]"#,
        ),
        (array(Type::Numeric(None)), "{1.50,NaN}", r#"["1.50","NaN"]"#),
        (array(Type::Text), "not an array", r#""not an array""#),
        (array(Type::Text), "{,}", r#""{,}""#),
        (array(Type::Text), "{{}}", r#""{{}}""#),
        (array(Type::Integer), "{1,}", r#""{1,}""#),
        (array(array(Type::Integer)), r#"{"{1,2}"}"#, "[[1,2]]"),
        (
            boxes(),
            "{(1,1),(0,0);NULL;(2,2),(1,1)}",
            r#"["(1,1),(0,0)",null,"(2,2),(1,1)"]"#,
        ),
        (array(boxes()), r#"{"{(1,1),(0,0)}"}"#, r#"[["(1,1),(0,0)"]]"#),
        (boxes(), "{{(1,1),(0,0)};{}}", r#""{{(1,1),(0,0)};{}}""#),
        (Type::Text, "a\"b\n", r#""a\"b\n""#),
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
        (Precise, Type::Numeric(Some(2)), "1.10", r#""bg==""#),
        (Precise, Type::Numeric(Some(4)), "12.3450", r#""AeI6""#),
        (Precise, Type::Numeric(Some(0)), "-1", r#""/w==""#),
        (Precise, Type::Numeric(Some(-2)), "12300", r#""ew==""#),
        (
            Precise,
            Type::Numeric(None),
            "1.10",
            r#"{"scale":2,"value":"bg=="}"#,
        ),
        (Precise, Type::Numeric(None), "0", r#"{"scale":0,"value":"AA=="}"#),
        (Precise, Type::Numeric(Some(2)), "NaN", r#""NaN""#),
        (Precise, Type::Numeric(None), "-Infinity", r#""-Infinity""#),
        (Precise, Type::Numeric(Some(1)), "1.25", r#""1.25""#),
        (
            Precise,
            array(Type::Numeric(Some(2))),
            "{1.10,NULL,NaN}",
            r#"["bg==",null,"NaN"]"#,
        ),
        (Double, Type::Numeric(Some(2)), "1.10", "1.1"),
        (Double, Type::Numeric(None), "-3", "-3.0"),
        (Double, Type::Numeric(None), "NaN", r#""NaN""#),
        (Double, array(Type::Numeric(None)), "{1.50}", "[1.5]"),
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
    assert_eq!(json(modes, Type::Numeric(None), &large), format!("\"{large}\""));
}

#[test]
fn a_time_is_a_number_in_the_unit_of_its_mode_or_stays_text() {
    use TimeMode::{Adaptive, Microseconds};
    for (kind, text, adaptive, microseconds) in [
        (Type::Date, "1970-01-02", "1", "1"),
        (Type::Date, "1969-12-31", "-1", "-1"),
        (Type::Date, "2024-02-29", "19782", "19782"),
        (Type::Date, "5874897-12-31", "2145042905", "2145042905"),
        (Type::Date, "infinity", r#""infinity""#, r#""infinity""#),
        (
            Type::Date,
            "0044-03-15 BC",
            r#""0044-03-15 BC""#,
            r#""0044-03-15 BC""#,
        ),
        (Type::Time(3), "12:34:56.789", "45296789", "45296789000"),
        (Type::Time(6), "12:34:56.789", "45296789000", "45296789000"),
        (Type::Time(0), "24:00:00", "86400000", "86400000000"),
        (
            Type::Timestamp(3),
            "2024-02-29 12:34:56.789",
            "1709210096789",
            "1709210096789000",
        ),
        (
            Type::Timestamp(6),
            "2024-02-29 12:34:56.789001",
            "1709210096789001",
            "1709210096789001",
        ),
        (Type::Timestamp(3), "1969-12-31 23:59:59.999", "-1", "-1000"),
        (
            Type::Timestamp(6),
            "infinity",
            "9223372036825200000",
            "9223372036825200000",
        ),
        (
            Type::Timestamp(6),
            "-infinity",
            "-9223372036832400000",
            "-9223372036832400000",
        ),
        (
            Type::Timestamp(3),
            "infinity",
            "9223372036825200",
            "9223372036825200000",
        ),
        (
            Type::Timestamp(6),
            "0044-03-15 00:00:00 BC",
            r#""0044-03-15 00:00:00 BC""#,
            r#""0044-03-15 00:00:00 BC""#,
        ),
        (
            Type::TimestampTz,
            "2024-02-29 12:34:56+00",
            r#""2024-02-29T12:34:56Z""#,
            r#""2024-02-29T12:34:56Z""#,
        ),
        (Type::TimeTz, "00:30:00+05:30", r#""19:00:00Z""#, r#""19:00:00Z""#),
        (array(Type::Date), "{1970-01-02,NULL}", "[1,null]", "[1,null]"),
    ] {
        for (time, expected) in [(Adaptive, adaptive), (Microseconds, microseconds)] {
            let modes = DebeziumModes {
                time,
                ..DebeziumModes::default()
            };
            assert_eq!(json(modes, kind.clone(), text), expected, "{time:?} {text}");
        }
    }
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
            let written = json(DebeziumModes::default(), array(Type::Integer), &text);
            let parsed = serde_json::from_str::<serde_json::Value>(&written);
            assert!(parsed.is_ok(), "{text} is written as invalid JSON: {written}");
        }
    }
}

/// Any combination of modes.
fn modes() -> impl Strategy<Value = DebeziumModes> {
    use {DecimalMode as D, TimeMode as T};
    (0..3usize, 0..3usize).prop_map(|(decimal, time)| DebeziumModes {
        decimal: [D::String, D::Precise, D::Double][decimal],
        time: [T::IsoString, T::Adaptive, T::Microseconds][time],
    })
}

proptest! {
    #[test]
    fn any_text_of_any_type_is_written_as_json(modes in modes(), text: String, index in 0..12usize) {
        let names = ["boolean", "integer", "real", "numeric", "bytea", "date", "time without time zone",
            "time with time zone", "timestamp without time zone", "timestamp with time zone", "text",
            "integer[]"];
        let written = json(modes, Type::of_name(names[index]), &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }

    #[test]
    fn text_that_looks_like_a_time_or_a_number_is_written_as_json(
        modes in modes(),
        text in "[-0-9:. +BC]{0,24}",
        index in 0..6usize,
    ) {
        let names = ["numeric(9,2)", "date", "time(3) without time zone", "time with time zone",
            "timestamp without time zone", "timestamp with time zone"];
        let written = json(modes, Type::of_name(names[index]), &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }

    #[test]
    fn text_that_looks_like_an_array_is_written_as_json(text in r#"[\[\]{}",\\a1= ]{0,12}"#) {
        let written = json(DebeziumModes::default(), array(Type::Text), &text);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
    }
}
