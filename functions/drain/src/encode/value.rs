//! PostgreSQL's text forms as JSON values, the way Debezium writes them with `decimal.handling.mode=string`,
//! `time.precision.mode=isostring` and `interval.handling.mode=string`. The session's settings are pinned (`connect.rs`): ISO
//! dates, UTC, hexadecimal bytea, ISO 8601 intervals, shortest exact floats.
//!
//! Nothing is guessed: a text that does not have the form of its type is written as a string, as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::change::Type;

/// Appends `text` as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec does not fail, and a str is always serialisable.
    let _ = serde_json::to_writer(out, text);
}

/// Appends bytes as a JSON string in base64.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// Appends a value of type `kind`.
pub(super) fn value(out: &mut Vec<u8>, kind: &Type, text: &str) {
    match kind {
        Type::Bool if matches!(text, "t" | "true") => out.extend_from_slice(b"true"),
        Type::Bool if matches!(text, "f" | "false") => out.extend_from_slice(b"false"),
        Type::Integer | Type::Float if is_json_number(text) => out.extend_from_slice(text.as_bytes()),
        Type::Bytea => match text.strip_prefix("\\x").and_then(unhex) {
            Some(bytes) => base64(out, &bytes),
            None => string(out, text),
        },
        Type::Date if is_date(text) => ascii(out, &[text, "Z"]),
        Type::Time if is_clock(text) => ascii(out, &[text, "Z"]),
        Type::TimeTz => match clock_in_utc(text) {
            Some(clock) => ascii(out, &[&clock, "Z"]),
            None => string(out, text),
        },
        Type::Timestamp => match date_and_clock(text) {
            Some((date, clock)) => ascii(out, &[date, "T", clock, "Z"]),
            None => string(out, text),
        },
        // The session's time zone is UTC, so the offset is always +00.
        Type::TimestampTz => match text.strip_suffix("+00").and_then(date_and_clock) {
            Some((date, clock)) => ascii(out, &[date, "T", clock, "Z"]),
            None => string(out, text),
        },
        Type::Array(element) => {
            let start = out.len();
            if array(out, element, text).is_none() {
                out.truncate(start);
                string(out, text);
            }
        }
        _ => string(out, text),
    }
}

/// A JSON string of pieces that need no escapes.
fn ascii(out: &mut Vec<u8>, pieces: &[&str]) {
    out.push(b'"');
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
}

/// What JSON takes as a number; not `NaN`, not `Infinity`.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(w, f)| (w, Some(f)));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::try_from(nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?).ok())
        .collect()
}

/// `2024-02-29`, and years beyond 9999; not `infinity`, not a year before Christ.
fn is_date(text: &str) -> bool {
    let mut parts = text
        .split('-')
        .map(|part| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_digit()));
    matches!(
        (parts.next(), parts.next(), parts.next(), parts.next()),
        (Some(true), Some(true), Some(true), None)
    )
}

/// `12:34:56` or `12:34:56.789`
fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'.')
}

fn date_and_clock(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
        .filter(|(date, clock)| is_date(date) && is_clock(clock))
}

/// `12:34:56.789+05:30` as the clock in UTC. A day has no place in it: what leaves it comes in at the other end.
fn clock_in_utc(text: &str) -> Option<String> {
    let (clock, zone) = text.split_at(text.rfind(['+', '-'])?);
    // No part has more than two digits; what has more must not overflow the sum.
    let number = |part: Option<&str>| part.map_or(Some(0), |part| part.parse::<u8>().map(i64::from).ok());
    let mut parts = zone[1..].split(':');
    let offset = number(parts.next())? * 3600 + number(parts.next())? * 60 + number(parts.next())?;
    let offset = if zone.starts_with('-') { -offset } else { offset };
    let (whole, fraction) = clock
        .split_once('.')
        .map_or((clock, ""), |(whole, _)| (whole, &clock[whole.len()..]));
    let mut parts = whole.split(':');
    let seconds = number(parts.next())? * 3600 + number(parts.next())? * 60 + number(parts.next())?;
    let utc = (seconds - offset).rem_euclid(86_400);
    is_clock(clock).then(|| format!("{:02}:{:02}:{:02}{fraction}", utc / 3600, utc / 60 % 60, utc % 60))
}

/// An array's text, `{1,NULL,"a b",{…}}`, as JSON. `None` when it is not the text of an array; `out` is then half written.
fn array(out: &mut Vec<u8>, element: &Type, text: &str) -> Option<()> {
    // Bounds other than 1 stand before it: `[0:1]={…}`.
    let text = if text.starts_with('[') {
        text.split_once('=')?.1
    } else {
        text
    };
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    // Behind an item comes a comma or the end of its list; behind a brace or a comma comes an item. `{}` is
    // the one list that may hold nothing.
    let mut behind_item = false;
    loop {
        let byte = *bytes.get(at)?;
        match byte {
            b'}' if behind_item || text == "{}" => {
                out.push(b']');
                depth -= 1;
                at += 1;
                behind_item = true;
                if depth == 0 {
                    return (at == bytes.len()).then_some(());
                }
                continue;
            }
            b',' if behind_item => {
                out.push(b',');
                at += 1;
                behind_item = false;
                continue;
            }
            b'}' | b',' => return None,
            _ if behind_item => return None,
            b'{' => {
                out.push(b'[');
                depth += 1;
                at += 1;
                continue;
            }
            _ if depth == 0 => return None,
            b'"' => {
                let mut item = Vec::new();
                at += 1;
                while bytes.get(at)? != &b'"' {
                    at += usize::from(bytes[at] == b'\\');
                    item.push(*bytes.get(at)?);
                    at += 1;
                }
                at += 1;
                value(out, element, std::str::from_utf8(&item).ok()?);
            }
            _ => {
                let end = at + text.get(at..)?.find([',', '}'])?;
                match &text[at..end] {
                    "NULL" => out.extend_from_slice(b"null"),
                    item => value(out, element, item),
                }
                at = end;
            }
        }
        behind_item = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(kind: Type, text: &str) -> String {
        let mut out = Vec::new();
        value(&mut out, &kind, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_type_has_its_json() {
        let array = |element| Type::Array(Box::new(element));
        let table = [
            (Type::Bool, "t", "true"),
            (Type::Bool, "false", "false"),
            (Type::Integer, "-9223372036854775808", "-9223372036854775808"),
            (Type::Float, "1e+20", "1e+20"),
            (Type::Float, "NaN", r#""NaN""#),
            (Type::Float, "-Infinity", r#""-Infinity""#),
            (Type::Numeric, "0.10", r#""0.10""#),
            (Type::Numeric, "NaN", r#""NaN""#),
            (Type::Bytea, "\\xdeadBEEF", r#""3q2+7w==""#),
            (Type::Bytea, "\\x", r#""""#),
            (Type::Date, "2024-02-29", r#""2024-02-29Z""#),
            (Type::Date, "infinity", r#""infinity""#),
            (Type::Date, "0044-03-15 BC", r#""0044-03-15 BC""#),
            (Type::Time, "12:34:56.789", r#""12:34:56.789Z""#),
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
                Type::Timestamp,
                "2024-02-29 12:34:56.789",
                r#""2024-02-29T12:34:56.789Z""#,
            ),
            (Type::Timestamp, "-infinity", r#""-infinity""#),
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
            (array(Type::Numeric), "{1.50,NaN}", r#"["1.50","NaN"]"#),
            (array(Type::Text), "not an array", r#""not an array""#),
            (array(Type::Text), "{,}", r#""{,}""#),
            (array(Type::Text), "{{}}", r#""{{}}""#),
            (array(Type::Integer), "{1,}", r#""{1,}""#),
            (array(array(Type::Integer)), r#"{"{1,2}"}"#, "[[1,2]]"),
            (Type::Text, "a\"b\n", r#""a\"b\n""#),
        ];
        for (kind, text, expected) in table {
            assert_eq!(json(kind.clone(), text), expected, "{kind:?} {text}");
        }
    }

    #[test]
    fn every_short_text_of_the_marks_of_an_array_is_json() {
        const MARKS: &[u8] = b"{}\",\\1N";
        for length in 0..7u32 {
            for mut number in 0..MARKS.len().pow(length) {
                let mut text = String::new();
                for _ in 0..length {
                    text.push(char::from(MARKS[number % MARKS.len()]));
                    number /= MARKS.len();
                }
                let written = json(Type::Array(Box::new(Type::Integer)), &text);
                let parsed = serde_json::from_str::<serde_json::Value>(&written);
                assert!(parsed.is_ok(), "{text} is written as {written}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_of_any_type_is_json(text: String, of in 0..12usize) {
            let kinds = ["boolean", "integer", "real", "numeric", "bytea", "date", "time without time zone", "time with time zone",
                "timestamp without time zone", "timestamp with time zone", "text", "integer[]"];
            let written = json(Type::of_name(kinds[of]), &text);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
        }

        #[test]
        fn text_that_looks_like_an_array_is_json(text in r#"[\[\]{}",\\a1= ]{0,12}"#) {
            let written = json(Type::Array(Box::new(Type::Text)), &text);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&written).is_ok(), "{}", written);
        }
    }
}
