//! The variables of the streams.

use super::ConfigError;
use super::variables::{Variables, invalid};
use crate::rules::stream_pattern::{MAX_NAME_BYTES, StreamPattern, is_accepted};

/// The main stream, and the stream pattern of tables.
///
/// Without a pattern, the main stream receives all events. With a pattern, it receives only messages and
/// control events.
pub(super) fn read(variables: &Variables<'_>) -> Result<(String, Option<StreamPattern>), ConfigError> {
    let value = variables.required("STREAM_NAME", "the name or the ARN of the Kinesis data stream")?;
    let pattern = StreamPattern::new(&value);
    let name = pattern
        .as_ref()
        .map_or_else(|| value.clone(), StreamPattern::shortest_name);
    checked(variables, "STREAM_NAME", name, &value)?;
    let messages = variables.get("MESSAGE_STREAM_NAME");
    match (pattern, messages) {
        (None, None) => Ok((value, None)),
        (Some(pattern), Some(messages)) => {
            checked(variables, "MESSAGE_STREAM_NAME", messages.clone(), &messages)?;
            Ok((messages, Some(pattern)))
        }
        (Some(_), None) => Err(ConfigError::Missing(
            "MESSAGE_STREAM_NAME",
            "the stream for messages and control events, which belong to no table, because STREAM_NAME has a \
             placeholder",
        )),
        (None, Some(messages)) => Err(invalid(
            "MESSAGE_STREAM_NAME",
            messages,
            "empty, because STREAM_NAME has no {schema} or {table}",
        )),
    }
}

/// Checks a name or an ARN. `value` is the variable's value, for the error.
fn checked(
    variables: &Variables<'_>,
    variable: &'static str,
    text: String,
    value: &str,
) -> Result<(), ConfigError> {
    let region = variables.get("AWS_REGION");
    let name = stream_of_arn(&text, region.as_deref()).or_else(|| (!text.contains(':')).then_some(&*text));
    match name {
        Some(name) if is_stream_name(name) => Ok(()),
        _ => Err(invalid(
            variable,
            value.to_owned(),
            "a name of 1 to 128 letters, digits and _-. (in STREAM_NAME also {schema} and {table}) \
             or an ARN of the function's region, such as \
             arn:aws:kinesis:eu-central-1:123456789012:stream/NAME",
        )),
    }
}

/// The name in a stream's ARN.
///
/// `None` if the text is no ARN of a stream, or if the ARN has another region than `region`.
fn stream_of_arn<'a>(text: &'a str, region: Option<&str>) -> Option<&'a str> {
    let [arn, partition, service, in_region, account, resource] =
        text.split(':').collect::<Vec<_>>().try_into().ok()?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_stream = arn == "arn" && partition.starts_with("aws") && service == "kinesis" && is_account;
    // The client sends every request to the region of the function.
    let is_here = region.is_none_or(|region| region == in_region);
    resource.strip_prefix("stream/").filter(|_| is_stream && is_here)
}

fn is_stream_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_accepted)
}
