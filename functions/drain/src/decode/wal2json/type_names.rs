//! Repair of rows in which wal2json wrote the name of a type without escapes.
//!
//! wal2json writes a name that begins with a quote as `format_type` prints it. For the type `"Order Status"`
//! the row has `"type":""Order Status""`, which is not JSON.

/// The row with escapes in the names of its types; `None` if no name needs one.
///
/// The mark before a name cannot be part of a value: in a value, every quote has a backslash before it.
pub(super) fn escape_type_names(data: &[u8]) -> Option<Vec<u8>> {
    const MARK: &[u8] = br#""type":"#;
    let (mut out, mut rest, mut is_changed) = (Vec::with_capacity(data.len() + 16), data, false);
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        let (before, name) = rest.split_at(at + MARK.len());
        out.extend_from_slice(before);
        rest = name;
        // wal2json escapes the name of an array correctly.
        if !name.starts_with(b"\"") || name.starts_with(br#""\""#) {
            continue;
        }
        let (text, length) = type_name(name)?;
        out.push(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                is_changed = true;
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
        rest = rest.get(length..)?;
    }
    out.extend_from_slice(rest);
    is_changed.then_some(out)
}

/// The name of a type at the start of `text`, and its length with the quotes around it.
pub(super) fn type_name(text: &[u8]) -> Option<(&[u8], usize)> {
    const ENDS: [&[u8]; 3] = [br#"","value":"#, br#""}"#, br#"","typeoid":"#];
    match raw_name_length(text) {
        // The name is one quoted identifier. Its quotes are also those of the JSON string.
        Some(length) if quoted_length(text) == Some(length) => Some((text.get(1..length - 1)?, length)),
        Some(length) => Some((text.get(..length)?, length)),
        None => {
            let name = text.get(1..)?;
            let is_end = |at: &usize| {
                name.get(*at..)
                    .is_some_and(|rest| ENDS.iter().any(|end| rest.starts_with(end)))
            };
            let length = (0..name.len()).find(is_end)?;
            Some((name.get(..length)?, length + 2))
        }
    }
}

/// Length of a type's name that has no quotes of a JSON string, such as `"My app".status`.
///
/// wal2json writes every name that begins with a quote in this form. Returns `None` for another name.
fn raw_name_length(text: &[u8]) -> Option<usize> {
    const FOLLOWERS: [&[u8]; 3] = [br#","value":"#, b"}", br#","typeoid":"#];
    let mut length = quoted_length(text)?;
    if text.get(length) == Some(&b'.') {
        let name = text.get(length + 1..)?;
        length += 1 + match name.first() {
            Some(b'"') => quoted_length(name)?,
            _ => name.iter().position(|byte| matches!(byte, b',' | b'}'))?,
        };
    }
    let rest = text.get(length..)?;
    FOLLOWERS
        .iter()
        .any(|follower| rest.starts_with(follower))
        .then_some(length)
}

/// Length of a quoted identifier with its quotes; a doubled quote is part of the identifier.
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
