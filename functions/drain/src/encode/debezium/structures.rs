//! Debezium's forms of bits, `money`, `point` and `hstore`.

use std::io::Write as _;

use crate::encode::value::{write_base64, write_string};

/// Form of hstores: Debezium's `hstore.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HstoreMode {
    /// `json`: a string that holds a JSON object.
    #[default]
    Json,
    /// `map`: an object.
    Map,
}

/// Appends bits: a boolean for a column of one bit, otherwise bytes in base64.
///
/// The last bit of the text is the lowest bit of the first byte. Zero bytes at the end are left out, as in
/// Java's `BitSet`. Returns `None` if the text is not bits.
pub(super) fn write_bits(out: &mut Vec<u8>, length: Option<u32>, text: &str) -> Option<()> {
    match (length, text) {
        (Some(1), "0") => out.extend_from_slice(b"false"),
        (Some(1), "1") => out.extend_from_slice(b"true"),
        // A `bit varying(1)` may be empty.
        (Some(1), _) => return None,
        _ => {
            let mut bytes = vec![0; text.len().div_ceil(8)];
            for (index, bit) in text.bytes().rev().enumerate() {
                match bit {
                    b'0' => {}
                    b'1' => *bytes.get_mut(index / 8)? |= 1 << (index % 8),
                    _ => return None,
                }
            }
            let end = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            write_base64(out, &bytes[..end]);
        }
    }
    Some(())
}

/// Converts a money to a decimal number: `-$1,234.50` to `-1234.50`.
///
/// The session sets `lc_monetary` to `C`, where an amount has two digits after the decimal point.
pub(super) fn money_decimal(text: &str) -> Option<String> {
    let (sign, amount) = match text.strip_prefix('-') {
        Some(amount) => ("-", amount),
        None => ("", text),
    };
    let (whole, cents) = amount.strip_prefix('$')?.split_once('.')?;
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let whole = whole.replace(',', "");
    (are_digits(&whole) && are_digits(cents) && cents.len() == MONEY_SCALE as usize)
        .then(|| format!("{sign}{whole}.{cents}"))
}

/// Digits after the decimal point of a money.
///
/// Debezium's default of `money.fraction.digits`.
pub(super) const MONEY_SCALE: i32 = 2;

/// Appends a point as Debezium's `io.debezium.data.geometry.Point`.
///
/// `wkb` is Well-Known Binary: the byte order (1 is little-endian), the type (1 is a point), and the
/// coordinates. A point of PostgreSQL has no spatial reference system, so `srid` is null.
pub(super) fn write_point(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (x, y) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let (x, y): (f64, f64) = (x.parse().ok()?, y.parse().ok()?);
    let mut wkb = vec![1];
    wkb.extend_from_slice(&1u32.to_le_bytes());
    wkb.extend_from_slice(&x.to_le_bytes());
    wkb.extend_from_slice(&y.to_le_bytes());
    out.extend_from_slice(br#"{"x":"#);
    write_double(out, x);
    out.extend_from_slice(br#","y":"#);
    write_double(out, y);
    out.extend_from_slice(br#","wkb":"#);
    write_base64(out, &wkb);
    out.extend_from_slice(br#","srid":null}"#);
    Some(())
}

/// Appends a number of 64 bits. NaN and infinities are strings.
fn write_double(out: &mut Vec<u8>, number: f64) {
    match (number.is_finite(), number.is_nan()) {
        (true, _) => {
            let _ = serde_json::to_writer(out, &number);
        }
        (false, true) => write_string(out, "NaN"),
        (false, false) => {
            let sign = if number < 0.0 { "-" } else { "" };
            let _ = write!(out, "\"{sign}Infinity\"");
        }
    }
}

/// Appends a hstore. Its values are strings or null.
pub(super) fn write_hstore(out: &mut Vec<u8>, mode: HstoreMode, text: &str) -> Option<()> {
    let mut object = b"{".to_vec();
    let mut rest = text;
    while !rest.is_empty() {
        if object.len() > 1 {
            object.push(b',');
            rest = rest.strip_prefix(", ")?;
        }
        let (key, behind) = quoted(rest)?;
        write_string(&mut object, &key);
        object.push(b':');
        rest = behind.strip_prefix("=>")?;
        match rest.strip_prefix("NULL") {
            Some(behind) => {
                object.extend_from_slice(b"null");
                rest = behind;
            }
            None => {
                let (value, behind) = quoted(rest)?;
                write_string(&mut object, &value);
                rest = behind;
            }
        }
    }
    object.push(b'}');
    match mode {
        HstoreMode::Json => write_string(out, &crate::encode::into_string(object)),
        HstoreMode::Map => out.extend_from_slice(&object),
    }
    Some(())
}

/// Quoted text at the start of `text`, and the rest of `text`.
///
/// The quotes and escapes of the quoted text are removed.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.strip_prefix('"')?.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((content, &text[at + 2..])),
            '\\' => content.push(characters.next()?.1),
            _ => content.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(write: impl Fn(&mut Vec<u8>) -> Option<()>) -> Option<String> {
        let mut out = Vec::new();
        write(&mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    /// The values are Debezium's: see `make conformance`.
    #[test]
    fn bits_are_a_boolean_or_little_endian_bytes() {
        for (length, text, expected) in [
            (Some(1), "0", Some("false")),
            (Some(1), "1", Some("true")),
            (Some(1), "", None),
            (Some(3), "101", Some(r#""BQ==""#)),
            (Some(12), "000000000001", Some(r#""AQ==""#)),
            (Some(12), "101010101010", Some(r#""qgo=""#)),
            (Some(12), "000000000000", Some(r#""""#)),
            (None, "1", Some(r#""AQ==""#)),
            (None, "1000000000000001", Some(r#""AYA=""#)),
            (None, "", Some(r#""""#)),
            (None, "12", None),
        ] {
            let written = json(|out| write_bits(out, length, text));
            assert_eq!(written.as_deref(), expected, "{length:?} {text}");
        }
    }

    #[test]
    fn a_money_is_a_decimal() {
        for (text, expected) in [
            ("$0.00", Some("0.00")),
            ("-$1,234.50", Some("-1234.50")),
            ("$92,233,720,368,547,758.07", Some("92233720368547758.07")),
            ("1.234,50 €", None),
            ("$1", None),
            ("$.50", None),
        ] {
            assert_eq!(money_decimal(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_point_has_coordinates_and_well_known_binary() {
        let written = json(|out| write_point(out, "(1,-2.5)"));
        let expected = r#"{"x":1.0,"y":-2.5,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAATA","srid":null}"#;
        assert_eq!(written.as_deref(), Some(expected));
        let written = json(|out| write_point(out, "(NaN,-Infinity)"));
        assert!(written.unwrap().starts_with(r#"{"x":"NaN","y":"-Infinity","#));
        assert_eq!(json(|out| write_point(out, "(1)")), None);
    }

    #[test]
    fn a_hstore_is_a_json_object_or_its_text() {
        for (text, expected) in [
            ("", Some("{}")),
            (
                r#""a"=>"1", "b c"=>NULL, "d\"e"=>"\\""#,
                Some(r#"{"a":"1","b c":null,"d\"e":"\\"}"#),
            ),
            (r#""k"=>"""#, Some(r#"{"k":""}"#)),
            (r#""k"=>"é", "l"=>"NULL""#, Some(r#"{"k":"é","l":"NULL"}"#)),
            (r#""a""#, None),
            (r#""a"=>"b"#, None),
            (r#""a"=>"b" "#, None),
            ("a=>b", None),
        ] {
            let map = json(|out| write_hstore(out, HstoreMode::Map, text));
            assert_eq!(map.as_deref(), expected, "{text}");
            let string = json(|out| write_hstore(out, HstoreMode::Json, text));
            let string = string.map(|json| serde_json::from_str::<String>(&json).unwrap());
            assert_eq!(string.as_deref(), expected, "{text}");
        }
    }
}
