//! Environment variables of scenarios and of `play`.

/// Owned names and values of variables, for the environment of a program.
pub fn owned<'v>(
    variables: impl IntoIterator<Item = (&'v str, &'v str)>,
) -> impl Iterator<Item = (String, String)> {
    let variables = variables.into_iter();
    variables.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

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
