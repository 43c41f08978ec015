//! Lines of the function's log.

use scenarios::fixture::Fixture;

/// Lines of warnings about a setting, since the function was deployed.
pub(crate) fn warnings(fixture: &Fixture, setting: &str) -> Vec<String> {
    let mut lines = fixture.function.log();
    lines.retain(|line| line.contains(r#""level":"WARN""#) && line.contains(&format!("{setting}: ")));
    lines
}
