//! Values in PostgreSQL's text forms: parsing and JSON that the envelopes share.
//!
//! The session pins the settings that the forms depend on (`postgres/connection.rs`): ISO dates, UTC,
//! hexadecimal bytea, ISO 8601 intervals, shortest exact floats. A text that does not have the form of its
//! type is not converted: the caller writes it as a string, unchanged.

use base64_simd::STANDARD;

use crate::change::Message;

/// Placeholder of a value that the event does not have.
///
/// It is the default of Debezium's `unavailable.value.placeholder`.
pub(super) const UNAVAILABLE_VALUE: &str = "__debezium_unavailable_value";

/// Appends `text` as a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    if needs_escapes(text) {
        // Writing to a Vec does not fail, and every str can be serialised.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Whether the JSON string of a text needs escapes.
///
/// Most names and values need no escapes. The loop has no early exit, so that the compiler can use vector
/// instructions.
fn needs_escapes(text: &str) -> bool {
    let is_escaped = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    text.bytes().fold(false, |found, byte| found | is_escaped(byte))
}

/// Appends a whole number in decimal digits.
pub(super) fn write_integer(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends bytes as a JSON string in base64.
pub(super) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    STANDARD.encode_append(bytes, out);
    out.push(b'"');
}

/// Appends a logical message as a JSON object.
///
/// Its content is base64. An omitted part is [`UNAVAILABLE_VALUE`].
pub(super) fn write_message(out: &mut Vec<u8>, message: &Message<'_>) {
    out.extend_from_slice(br#"{"prefix":"#);
    write_message_prefix(out, message);
    out.extend_from_slice(br#","content":"#);
    write_message_content(out, message);
    out.push(b'}');
}

/// Appends the prefix of a logical message, or its placeholder.
pub(super) fn write_message_prefix(out: &mut Vec<u8>, message: &Message<'_>) {
    match message.omitted.prefix {
        false => write_string(out, &message.prefix),
        true => write_string(out, UNAVAILABLE_VALUE),
    }
}

/// Appends the content of a logical message in base64, or its placeholder.
pub(super) fn write_message_content(out: &mut Vec<u8>, message: &Message<'_>) {
    match message.omitted.content {
        false => write_base64(out, &message.content),
        true => write_string(out, UNAVAILABLE_VALUE),
    }
}

/// Appends the pieces, which need no escapes, as one JSON string.
pub(super) fn write_ascii(out: &mut Vec<u8>, pieces: &[&str]) {
    out.push(b'"');
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
}

/// Appends names as a JSON list of strings.
pub(super) fn write_names<'n>(out: &mut Vec<u8>, names: impl Iterator<Item = &'n str>) {
    out.push(b'[');
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
    }
    out.push(b']');
}

/// Appends a number's text, if JSON accepts it as a number.
pub(super) fn write_number(out: &mut Vec<u8>, text: &str) -> Option<()> {
    is_json_number(text).then(|| out.extend_from_slice(text.as_bytes()))
}

/// The value of a boolean, as any output plugin writes it.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// Whether JSON accepts the text as a number. It accepts neither `NaN` nor `Infinity`.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    // Most numbers are whole.
    if digits(text) {
        return text == "0" || !text.starts_with('0');
    }
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

/// The hexadecimal digits of a bytea.
pub(super) fn hex_digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("\\x")?;
    (digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

/// The bytes of a bytea.
pub(super) fn parse_bytea(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("\\x")?).ok()
}

/// Whether the text is a date such as `2024-02-29`.
///
/// The year may exceed 9999. False for `infinity`, and for a text with the era BC.
pub(super) fn is_date(text: &str) -> bool {
    let mut parts = text
        .split('-')
        .map(|part| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_digit()));
    matches!(
        (parts.next(), parts.next(), parts.next(), parts.next()),
        (Some(true), Some(true), Some(true), None)
    )
}

/// Whether the text is a time of day.
///
/// Examples are `12:34:56` and `12:34:56.789`.
pub(super) fn is_time(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'.')
}

/// The date and the time of a timestamp without a zone.
pub(super) fn split_timestamp(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
        .filter(|(date, time)| is_date(date) && is_time(time))
}

/// Date and time in UTC of a timestamp with a zone.
///
/// The session's time zone is UTC, so the offset is always `+00`.
pub(super) fn split_timestamptz(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix("+00").and_then(split_timestamp)
}

/// Converts a time with a zone, such as `12:34:56.789+05:30`, to UTC.
///
/// The type has no date, so the result wraps around at midnight.
pub(super) fn timetz_in_utc(text: &str) -> Option<String> {
    let (time, zone) = text.split_at(text.rfind(['+', '-'])?);
    // PostgreSQL prints at most two digits per part. With the type u8, longer numbers are refused, so the
    // sums cannot overflow.
    let number = |part: Option<&str>| part.map_or(Some(0), |part| part.parse::<u8>().map(i64::from).ok());
    let mut parts = zone[1..].split(':');
    let offset = number(parts.next())? * 3600 + number(parts.next())? * 60 + number(parts.next())?;
    let offset = if zone.starts_with('-') { -offset } else { offset };
    let (whole, fraction) = time
        .split_once('.')
        .map_or((time, ""), |(whole, _)| (whole, &time[whole.len()..]));
    let mut parts = whole.split(':');
    let seconds = number(parts.next())? * 3600 + number(parts.next())? * 60 + number(parts.next())?;
    let utc = (seconds - offset).rem_euclid(86_400);
    is_time(time).then(|| format!("{:02}:{:02}:{:02}{fraction}", utc / 3600, utc / 60 % 60, utc % 60))
}

/// Appends an array's text, `{1,NULL,"a b",{…}}`, as a JSON list. `write_item` writes the items.
///
/// `delimiter` separates the items in the text. It is a comma, except for `box` and some types of extensions.
///
/// Returns `None` if the text is not an array; `out` then ends with an incomplete list.
pub(super) fn write_array(
    out: &mut Vec<u8>,
    text: &str,
    delimiter: u8,
    write_item: impl Fn(&mut Vec<u8>, &str),
) -> Option<()> {
    // An array whose lower bound is not 1 begins with its bounds: `[0:1]={…}`.
    let text = match text.starts_with('[') {
        true => text.split_once('=')?.1,
        false => text,
    };
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    // After an item, a delimiter or the end of the list is valid. After an opening brace or a delimiter, only
    // an item or a nested list is valid. The only empty list is `{}`.
    let mut after_item = false;
    loop {
        match *bytes.get(at)? {
            b'}' if after_item || text == "{}" => {
                out.push(b']');
                depth -= 1;
                at += 1;
                after_item = true;
                if depth == 0 {
                    return (at == bytes.len()).then_some(());
                }
            }
            byte if byte == delimiter && after_item => {
                out.push(b',');
                at += 1;
                after_item = false;
            }
            byte if byte == b'}' || byte == delimiter || after_item => return None,
            b'{' => {
                out.push(b'[');
                depth += 1;
                at += 1;
            }
            _ if depth == 0 => return None,
            b'"' => {
                let (item, end) = read_quoted_item(bytes, at)?;
                write_item(out, std::str::from_utf8(&item).ok()?);
                at = end;
                after_item = true;
            }
            _ => {
                let is_end = |byte: &u8| *byte == delimiter || *byte == b'}';
                let end = at + bytes.get(at..)?.iter().position(is_end)?;
                match text.get(at..end)? {
                    "NULL" => out.extend_from_slice(b"null"),
                    item => write_item(out, item),
                }
                at = end;
                after_item = true;
            }
        }
    }
}

/// Array item in quotes, and the index after its closing quote.
///
/// The opening quote is at `start`. The quotes and escapes of the item are removed.
fn read_quoted_item(bytes: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let mut item = Vec::new();
    let mut at = start + 1;
    while bytes.get(at)? != &b'"' {
        at += usize::from(bytes[at] == b'\\');
        item.push(*bytes.get(at)?);
        at += 1;
    }
    Some((item, at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_written_as_serde_json_writes_it() {
        let ascii: String = (0..=127u8).map(char::from).collect();
        let single = (0..=127u8).map(|byte| format!("twenty characters and {}", char::from(byte)));
        let others = ["", "ä\u{2028}😀", "a \"quote\"", "back\\slash", ascii.as_str()];
        for text in single.chain(others.map(str::to_owned)) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            assert_eq!(String::from_utf8(out).ok(), serde_json::to_string(&text).ok());
        }
    }
}
