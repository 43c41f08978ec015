//! Files of the project that scenarios compare with the code.

use scenarios::project_path;

/// The text of a file of the project.
///
/// # Panics
/// The file cannot be read.
pub(crate) fn read_project_file(path: &str) -> String {
    std::fs::read_to_string(project_path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
