//! PostgreSQL's text forms, taken apart and written as JSON: what the envelopes share. The session's settings are pinned
//! (`connect.rs`): ISO dates, UTC, hexadecimal bytea, ISO 8601 intervals, shortest exact floats.
//!
//! Nothing is guessed: a text that does not have the form of its type is for the caller to write as a string, as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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

/// Appends a JSON string of pieces that need no escapes.
pub(super) fn ascii(out: &mut Vec<u8>, pieces: &[&str]) {
    out.push(b'"');
    for piece in pieces {
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
}

/// Appends names as a JSON list of strings.
pub(super) fn names<'n>(out: &mut Vec<u8>, names: impl Iterator<Item = &'n str>) {
    out.push(b'[');
    for (at, name) in names.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(out, name);
    }
    out.push(b']');
}

/// A truth value, as any plugin writes it.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// What JSON takes as a number; not `NaN`, not `Infinity`.
pub(super) fn is_json_number(text: &str) -> bool {
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

/// The hexadecimal digits of a bytea.
pub(super) fn hex(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("\\x")?;
    (digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

/// The bytes of a bytea.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("\\x")?).ok()
}

/// `2024-02-29`, and years beyond 9999; not `infinity`, not a year before Christ.
pub(super) fn is_date(text: &str) -> bool {
    let mut parts = text
        .split('-')
        .map(|part| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_digit()));
    matches!(
        (parts.next(), parts.next(), parts.next(), parts.next()),
        (Some(true), Some(true), Some(true), None)
    )
}

/// `12:34:56` or `12:34:56.789`
pub(super) fn is_clock(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'.')
}

/// The date and the clock of a timestamp without a zone.
pub(super) fn date_and_clock(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
        .filter(|(date, clock)| is_date(date) && is_clock(clock))
}

/// The date and the clock, in UTC, of a timestamp with a zone. The session's time zone is UTC, so the offset is always +00.
pub(super) fn date_and_clock_in_utc(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix("+00").and_then(date_and_clock)
}

/// `12:34:56.789+05:30` as the clock in UTC. A day has no place in it: what leaves it comes in at the other end.
pub(super) fn clock_in_utc(text: &str) -> Option<String> {
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

/// An array's text, `{1,NULL,"a b",{…}}`, as a JSON list whose items `item` writes. `None` when it is not the text of an array; `out`
/// is then half written.
pub(super) fn array(out: &mut Vec<u8>, text: &str, item: impl Fn(&mut Vec<u8>, &str)) -> Option<()> {
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
                let mut unescaped = Vec::new();
                at += 1;
                while bytes.get(at)? != &b'"' {
                    at += usize::from(bytes[at] == b'\\');
                    unescaped.push(*bytes.get(at)?);
                    at += 1;
                }
                at += 1;
                item(out, std::str::from_utf8(&unescaped).ok()?);
            }
            _ => {
                let end = at + text.get(at..)?.find([',', '}'])?;
                match &text[at..end] {
                    "NULL" => out.extend_from_slice(b"null"),
                    text => item(out, text),
                }
                at = end;
            }
        }
        behind_item = true;
    }
}
