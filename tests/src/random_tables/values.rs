//! Comparison of a value in an event with PostgreSQL's text of it.
//!
//! Other tests check the exact JSON of each type. Here every form of the same value is valid.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::recorded_table::RecordedColumn;

/// Whether a value of an event equals the value with this text.
///
/// The value of the event is not null.
pub(super) fn is_same(value: &Value, text: &str, column: &RecordedColumn) -> bool {
    match (value, &column.element) {
        (Value::Array(items), Some(element)) => is_same_list(items, text, element, &column.delimiter),
        _ => is_same_scalar(value, text, &column.base),
    }
}

fn is_same_scalar(value: &Value, text: &str, base: &str) -> bool {
    let shown = match value {
        Value::String(shown) => shown.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Object(_) if base == "point" => return is_same_point(value, text),
        _ => return false,
    };
    shown == text
        || match base {
            "bool" => shown.chars().next() == text.chars().next(),
            "bit" | "varbit" => is_same_bits(&shown, text),
            "float4" => same_number::<f32>(&shown, text),
            "float8" => same_number::<f64>(&shown, text),
            "numeric" => shown.parse::<f64>().is_ok() && plain_decimal(&shown) == plain_decimal(text),
            "money" => {
                plain_decimal(&shown.replace(['$', ','], "")) == plain_decimal(&text.replace(['$', ','], ""))
            }
            "bytea" => is_same_bytes(&shown, text),
            "date" | "time" | "timestamp" | "timestamptz" => plain_time(&shown) == plain_time(text),
            "timetz" => in_utc(&shown) == in_utc(text),
            "interval" => parse_interval(&shown).is_some_and(|parsed| Some(parsed) == parse_interval(text)),
            _ => false,
        }
}

fn same_number<T: std::str::FromStr + PartialEq>(one: &str, other: &str) -> bool {
    matches!((one.parse::<T>(), other.parse::<T>()), (Ok(one), Ok(other)) if one == other)
}

/// Decimal without a leading plus.
///
/// A text with an exponent stays as it is.
fn plain_decimal(text: &str) -> String {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    if exponent == "0" {
        return mantissa.trim_start_matches('+').to_owned();
    }
    text.to_owned()
}

fn is_same_bytes(shown: &str, text: &str) -> bool {
    let digits = text.trim_start_matches("\\x");
    shown == digits || hex::decode(digits).is_ok_and(|bytes| STANDARD.encode(bytes) == shown)
}

/// Debezium's bits: a boolean for one bit, otherwise base64 of little-endian bytes.
///
/// Both forms are valid, with and without the zero bytes at the end.
fn is_same_bits(shown: &str, text: &str) -> bool {
    if text.len() == 1 && (shown == "true" || shown == "false") {
        return (shown == "true") == (text == "1");
    }
    let bits: Vec<u8> = text.bytes().rev().map(|bit| bit - b'0').collect();
    let mut bytes: Vec<u8> = bits
        .chunks(8)
        .map(|byte| byte.iter().rev().fold(0, |sum, bit| sum << 1 | bit))
        .collect();
    let is_same = STANDARD.encode(&bytes) == shown;
    while bytes.pop_if(|byte| *byte == 0).is_some() {}
    is_same || STANDARD.encode(bytes) == shown
}

fn is_same_point(value: &Value, text: &str) -> bool {
    let text = text.trim_matches(['(', ')']);
    let parsed = text
        .split_once(',')
        .map(|(x, y)| (x.parse::<f64>().ok(), y.parse::<f64>().ok()));
    parsed == Some((value["x"].as_f64(), value["y"].as_f64()))
}

/// Time in the form `2024-02-29 12:34:56`: without `T`, `Z`, `+00`, and zeros at the end of a fraction.
fn plain_time(text: &str) -> String {
    let text = text.replace('T', " ");
    let text = match text.strip_suffix(" BC").and_then(|era| era.split_once('-')) {
        Some((year, rest)) => match 1 - year.parse::<i32>().unwrap_or_default() {
            0 => format!("0000-{rest}"),
            year => format!("-{:04}-{rest}", -year),
        },
        None => text,
    };
    let text = text.strip_suffix('Z').unwrap_or(&text);
    let text = text.strip_suffix("+00").unwrap_or(text);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    }
}

/// Microseconds since midnight in UTC.
fn in_utc(text: &str) -> Option<i64> {
    const DAY: i64 = 86_400_000_000;
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (time, sign, zone) = match text.rfind(['+', '-']) {
        Some(at) => (
            &text[..at],
            if text.as_bytes()[at] == b'-' { 1 } else { -1 },
            &text[at + 1..],
        ),
        None => (text, 1, "00"),
    };
    let micros = |text: &str| -> Option<i64> {
        let mut sum = 0.0;
        for (part, unit) in text.split(':').zip([3600.0, 60.0, 1.0]) {
            sum += part.parse::<f64>().ok()? * unit;
        }
        Some((sum * 1e6).round() as i64)
    };
    Some((micros(time)? + sign * micros(zone)?).rem_euclid(DAY))
}

/// Months, days and microseconds of an ISO 8601 interval.
fn parse_interval(text: &str) -> Option<(i64, i64, i64)> {
    let text = text.strip_prefix('P')?;
    let (mut months, mut days, mut micros, mut in_time, mut number) = (0.0, 0.0, 0.0, false, String::new());
    for letter in text.chars() {
        if letter == 'T' {
            in_time = true;
            continue;
        }
        if letter.is_ascii_digit() || ".-+".contains(letter) {
            number.push(letter);
            continue;
        }
        let value: f64 = number.parse().ok()?;
        number.clear();
        match (letter, in_time) {
            ('Y', false) => months += value * 12.0,
            ('M', false) => months += value,
            ('D', false) => days += value,
            ('H', true) => micros += value * 3_600e6,
            ('M', true) => micros += value * 60e6,
            ('S', true) => micros += value * 1e6,
            _ => return None,
        }
    }
    Some((months.round() as i64, days.round() as i64, micros.round() as i64))
}

fn is_same_list(items: &[Value], text: &str, element: &str, delimiter: &str) -> bool {
    let delimiter = delimiter.chars().next().unwrap_or(',');
    let text = match text.starts_with('[') {
        // Bounds such as `[0:1]=`.
        true => text.split_once('=').map_or(text, |(_, list)| list),
        false => text,
    };
    let mut parser = ArrayText {
        rest: text,
        delimiter,
    };
    parser
        .list()
        .is_some_and(|parsed| parser.rest.is_empty() && is_same_tree(items, &parsed, element))
}

fn is_same_tree(items: &[Value], texts: &[ArrayItem], element: &str) -> bool {
    items.len() == texts.len()
        && items.iter().zip(texts).all(|pair| match pair {
            (Value::Null, ArrayItem::Null) => true,
            (Value::Array(items), ArrayItem::List(texts)) => is_same_tree(items, texts, element),
            (Value::Null, _) => false,
            (value, ArrayItem::Text(text)) => is_same_scalar(value, text, element),
            _ => false,
        })
}

/// Element of an array's text.
enum ArrayItem {
    Null,
    Text(String),
    List(Vec<ArrayItem>),
}

/// Parser of an array's text.
struct ArrayText<'t> {
    rest: &'t str,
    delimiter: char,
}

impl ArrayText<'_> {
    fn take(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn list(&mut self) -> Option<Vec<ArrayItem>> {
        if self.take()? != '{' {
            return None;
        }
        let mut items = Vec::new();
        if self.rest.starts_with('}') {
            self.take();
            return Some(items);
        }
        loop {
            items.push(self.item()?);
            match self.take()? {
                '}' => return Some(items),
                next if next == self.delimiter => {}
                _ => return None,
            }
        }
    }

    fn item(&mut self) -> Option<ArrayItem> {
        if self.rest.starts_with('{') {
            return Some(ArrayItem::List(self.list()?));
        }
        let mut text = String::new();
        if self.rest.starts_with('"') {
            self.take();
            loop {
                match self.take()? {
                    '"' => return Some(ArrayItem::Text(text)),
                    '\\' => text.push(self.take()?),
                    next => text.push(next),
                }
            }
        }
        while !self.rest.starts_with([self.delimiter, '}']) {
            match self.take()? {
                '\\' => text.push(self.take()?),
                next => text.push(next),
            }
        }
        Some(if text == "NULL" {
            ArrayItem::Null
        } else {
            ArrayItem::Text(text)
        })
    }
}
