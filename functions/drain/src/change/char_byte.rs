//! The type `"char"`, whose values are one byte.

/// OID of the type `"char"`.
const CHAR: u32 = 18;

/// Name of the type `"char"`, as `format_type` prints it.
const CHAR_NAME: &str = "\"char\"";

/// The text of a `"char"` that is no text by itself.
///
/// It is the form of PostgreSQL 15 and later: `\303`. PostgreSQL 14 writes the byte itself, which is not
/// valid UTF-8. `None` for other values, and for types with another OID.
pub fn of_oid(type_oid: u32, value: &[u8]) -> Option<String> {
    escaped(value).filter(|_| type_oid == CHAR)
}

/// As [`of_oid`], for a type by its printed name.
pub fn of_name(type_name: &str, value: &[u8]) -> Option<String> {
    escaped(value).filter(|_| type_name == CHAR_NAME)
}

fn escaped(value: &[u8]) -> Option<String> {
    match value {
        [byte] if !byte.is_ascii() => Some(format!("\\{byte:03o}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_byte_that_is_no_text_is_escaped() {
        assert_eq!(of_oid(CHAR, b"\xc3").as_deref(), Some("\\303"));
        assert_eq!(of_name("\"char\"", b"\xff").as_deref(), Some("\\377"));
        for (type_oid, value) in [
            (CHAR, "x".as_bytes()),
            (CHAR, b""),
            (CHAR, "é".as_bytes()),
            (25, b"\xc3"),
        ] {
            assert_eq!(of_oid(type_oid, value), None, "{value:?}");
        }
        assert_eq!(of_name("text", b"\xc3"), None);
    }
}
