//! Stored documents: JSON with a format version, kept in an SSM parameter.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Most bytes of a document: the limit of a standard parameter of SSM.
pub const MAX_DOCUMENT_BYTES: usize = 4_096;

/// A stored text that is not a document of the expected version.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// The text is not the expected JSON.
    #[error("it is not a {document}")]
    Unreadable {
        /// The expected document: `checkpoint`, `backfill` or `list of sent tables`.
        document: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// The document has another format version.
    ///
    /// In another version, a field of the same name may have another meaning.
    #[error(
        "it has format version {found}, and this release of Spillway reads format version {expected}: deploy \
         a release that reads format version {found}"
    )]
    Version {
        /// The version of the document.
        found: String,
        /// The version that this Spillway reads.
        expected: u64,
    },
}

/// Reads a document of format version `expected`. Errors call it `document`.
///
/// # Errors
/// The text is not JSON, not such a document, or of another version.
pub fn parse<T: DeserializeOwned>(
    document: &'static str,
    expected: u64,
    text: &str,
) -> Result<T, InvalidDocument> {
    let unreadable = |source| InvalidDocument::Unreadable { document, source };
    let value: Value = serde_json::from_str(text).map_err(unreadable)?;
    match value.get("version") {
        Some(version) if version.as_u64() != Some(expected) => Err(InvalidDocument::Version {
            found: version.to_string(),
            expected,
        }),
        _ => serde_json::from_value(value).map_err(unreadable),
    }
}

/// The text to store.
///
/// SSM interprets `{{name}}` in a value as a reference to another parameter, and refuses the value. In JSON,
/// two adjacent opening braces occur only inside a string. So the second one is escaped.
pub fn to_text<T: Serialize>(document: &T) -> String {
    // Documents contain only types that always serialise: texts, numbers, and maps with text keys.
    let text = serde_json::to_string(document).unwrap_or_default();
    text.replace("{{", "{\\u007b")
}
