//! Literals, identifiers and session settings in SQL.

/// Session settings for the text form of values: those of the function.
pub const VALUE_SETTINGS: &str = "set datestyle = 'ISO, YMD'; set intervalstyle = 'iso_8601'; \
     set timezone = 'UTC'; set bytea_output = 'hex'; set extra_float_digits = 1; set lc_monetary = 'C'";

/// Literal of a text.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quoted identifier of a name.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
