//! Errors of libraries, and the text of an error with its causes.

use std::error::Error;

/// The cause of an error, as a library returned it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The error and its causes on one line.
///
/// A cause is left out if the line already contains its text. Line breaks become spaces.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace(['\n', '\r'], " ")
}
