//! Answers of several drains.

use serde_json::Value;

/// The sum of a field. A missing field counts as 0.
pub(crate) fn reported_sum(reports: &[Value], name: &str) -> usize {
    let numbers = reports.iter().filter_map(|report| report[name].as_u64());
    usize::try_from(numbers.sum::<u64>()).expect("a count fits")
}
