//! Reads environment variables: required ones, choices and lists.

use super::ConfigError;

/// Environment variables. An empty variable counts as not set.
pub(super) struct Variables<'g>(&'g dyn Fn(&str) -> Option<String>);

impl<'g> Variables<'g> {
    /// The variables that `get` returns.
    pub(super) fn new(get: &'g dyn Fn(&str) -> Option<String>) -> Self {
        Variables(get)
    }

    /// The value of a variable; `None` when it is not set.
    pub(super) fn get(&self, variable: &str) -> Option<String> {
        (self.0)(variable).filter(|value| !value.is_empty())
    }

    /// The value of a required variable. `meaning` is for the error.
    pub(super) fn required(
        &self,
        variable: &'static str,
        meaning: &'static str,
    ) -> Result<String, ConfigError> {
        self.get(variable).ok_or(ConfigError::Missing(variable, meaning))
    }

    /// The choice that a variable names, or the default.
    pub(super) fn choice<T: Copy>(
        &self,
        variable: &'static str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let value = self.get(variable).unwrap_or_else(|| default.to_owned());
        let choice = choices
            .iter()
            .find(|(name, _)| *name == value)
            .map(|(_, choice)| *choice);
        choice.ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            invalid(variable, value, &format!("one of {}", names.join(", ")))
        })
    }

    /// The names in a variable, separated by commas, without spaces around them.
    ///
    /// A backslash escapes the next character, such as a comma.
    pub(super) fn list(&self, variable: &str, default: &str) -> Vec<String> {
        let text = self.get(variable).unwrap_or_else(|| default.to_owned());
        let mut names = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, names.last_mut()) {
                (',', _) => names.push(String::new()),
                ('\\', Some(name)) => name.extend(chars.next()),
                (c, Some(name)) => name.push(c),
                (_, None) => {}
            }
        }
        names
            .into_iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// The error of a variable with an invalid value.
///
/// `expected` describes the valid values.
pub(super) fn invalid(variable: &'static str, value: String, expected: &str) -> ConfigError {
    ConfigError::Invalid {
        variable,
        value,
        expected: expected.to_owned(),
    }
}
