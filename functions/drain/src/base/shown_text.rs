//! Texts of the user, as errors show them.

/// The first 40 characters of a text.
///
/// An error must not repeat a whole payload.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}
