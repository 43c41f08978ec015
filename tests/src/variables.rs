//! Environment variables of scenarios and of `play`.

/// Number in an environment variable; `default` without the variable.
///
/// # Panics
/// The value is not a whole number.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a whole number"))
    })
}
