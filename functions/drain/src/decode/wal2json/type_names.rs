//! Repair of wal2json rows whose type names lack escapes.
//!
//! If a name begins with a quote, wal2json writes it without escapes, as `format_type` prints it. The names
//! of arrays are an exception. For the type `"My app".status`, the row contains `"type":"My app".status`,
//! which is not JSON.

/// Texts that follow the name of a type in a row.
const FOLLOWERS: [&[u8]; 3] = [br#","typeoid":"#, br#","value":"#, b"}"];

/// Row with escapes in the names of its types.
///
/// `None` if no name needs an escape. The text `"type":` before a name cannot be part of a value: in a value,
/// every quote has a backslash before it.
pub(super) fn escape_type_names(data: &[u8]) -> Option<Vec<u8>> {
    const TYPE_KEY: &[u8] = br#""type":"#;
    let (mut out, mut rest, mut is_changed) = (Vec::with_capacity(data.len() + 16), data, false);
    while let Some(at) = rest.windows(TYPE_KEY.len()).position(|window| window == TYPE_KEY) {
        let (before, name) = rest.split_at(at + TYPE_KEY.len());
        out.extend_from_slice(before);
        rest = name;
        if !name.starts_with(b"\"") || is_escaped(name) {
            continue;
        }
        let (text, length) = type_name(name)?;
        out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => {
                    out.push(*byte);
                    continue;
                }
            }
            is_changed = true;
        }
        out.push(b'"');
        rest = rest.get(length..)?;
    }
    out.extend_from_slice(rest);
    is_changed.then_some(out)
}

/// Whether the name at the start of `text` has escapes.
///
/// An example is `"app.\"Mood\""`. wal2json escapes a name that begins without a quote, and the name of an
/// array. A name without escapes may contain a backslash, too, such as `"a\"`. Read as a JSON string, such a
/// name does not end before one of [`FOLLOWERS`].
fn is_escaped(text: &[u8]) -> bool {
    let length = json_string_length(text);
    length != quoted_length(text) && length.is_some_and(|length| is_end(text, length))
}

/// Name of a type at the start of `text`, and its length.
///
/// The length includes the quotes around the name.
pub(super) fn type_name(text: &[u8]) -> Option<(&[u8], usize)> {
    match raw_name_length(text) {
        // The name is one quoted identifier. Its quotes are also those of the JSON string.
        Some(length) if quoted_length(text) == Some(length) => Some((text.get(1..length - 1)?, length)),
        Some(length) => Some((text.get(..length)?, length)),
        None => {
            let name = text.get(1..)?;
            let is_quote_and_end = |at: &usize| name.get(*at) == Some(&b'"') && is_end(name, at + 1);
            let length = (0..name.len()).find(is_quote_and_end)?;
            Some((name.get(..length)?, length + 2))
        }
    }
}

/// Length of a type's name that wal2json wrote without escapes.
///
/// An example is `"My app".status`. wal2json writes a name in this form if it begins with a quote and is not
/// the name of an array. Returns `None` for another name.
fn raw_name_length(text: &[u8]) -> Option<usize> {
    let mut length = quoted_length(text)?;
    if text.get(length) == Some(&b'.') {
        length += 1;
        if text.get(length) == Some(&b'"') {
            length += quoted_length(text.get(length..)?)?;
        }
    }
    // The rest is an identifier without quotes, a modifier, or nothing.
    let end = (length..text.len()).find(|at| is_end(text, *at))?;
    (!text.get(length..end)?.contains(&b'"')).then_some(end)
}

/// Whether the name of a type ends at the index `at`.
fn is_end(text: &[u8], at: usize) -> bool {
    let rest = text.get(at..).unwrap_or_default();
    FOLLOWERS.iter().any(|follower| rest.starts_with(follower))
}

/// Length of a JSON string with its quotes.
fn json_string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Length of a quoted identifier, including its quotes.
///
/// A doubled quote is part of the identifier.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text.get(at..)?.iter().position(|byte| *byte == b'"')?;
        if text.get(at + 1) != Some(&b'"') {
            return Some(at + 1);
        }
        at += 2;
    }
}
