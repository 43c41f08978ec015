//! The alarms of template.yaml, evaluated on metrics as CloudWatch does.
//!
//! Source: "Using Amazon CloudWatch alarms" in the CloudWatch user guide: periods, datapoints to alarm,
//! missing data.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::aws::template;

/// An alarm of the template.
#[derive(Debug, Clone, Deserialize)]
pub struct Alarm {
    /// Whether its metric is in the namespace of the stack.
    pub is_own: bool,
    /// Name of its metric.
    pub metric: String,
    statistic: String,
    /// Seconds of a period.
    period: u64,
    periods: u64,
    datapoints: u64,
    comparison: String,
    threshold: f64,
    missing: String,
}

/// Values of metrics, each with its second.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, Vec<(u64, f64)>>);

/// The alarms by their names. `parameters` are `NAME=VALUE`; the others have their defaults.
///
/// # Panics
/// The template has no such parameter, or the value is too small for it.
pub fn alarms(parameters: &[&str]) -> BTreeMap<String, Alarm> {
    let alarms = template::script("alarms.py", parameters);
    serde_json::from_value(alarms).expect("alarms.py prints alarms")
}

impl Metrics {
    /// Adds a value.
    pub fn add(&mut self, second: u64, metric: &str, value: f64) {
        self.0.entry(metric.to_owned()).or_default().push((second, value));
    }

    /// Adds the metrics of all summary lines, as values of this second.
    ///
    /// `lines` are lines of a log. Other lines than summaries are skipped.
    ///
    /// # Panics
    /// A line names a metric that it does not have as a number.
    pub fn add_lines(&mut self, second: u64, lines: &[String]) {
        for line in lines {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let directives = line["_aws"]["CloudWatchMetrics"].as_array();
            for directive in directives.map(Vec::as_slice).unwrap_or_default() {
                for metric in directive["Metrics"].as_array().expect("a directive has metrics") {
                    let name = metric["Name"].as_str().expect("a metric has a name");
                    let value = line[name].as_f64();
                    self.add(
                        second,
                        name,
                        value.unwrap_or_else(|| panic!("no {name} in {line}")),
                    );
                }
            }
        }
    }

    /// The values of a metric.
    pub fn values(&self, metric: &str) -> Vec<f64> {
        let points = self.0.get(metric).map(Vec::as_slice).unwrap_or_default();
        points.iter().map(|(_, value)| *value).collect()
    }
}

impl Alarm {
    /// Whether the alarm is in the state ALARM at this second.
    ///
    /// The periods that end at this second decide.
    pub fn fires(&self, metrics: &Metrics, now: u64) -> bool {
        let points = metrics.0.get(&self.metric).map(Vec::as_slice).unwrap_or_default();
        let breaches = |number: u64| {
            let end = now.checked_sub(number * self.period)?;
            let start = end.saturating_sub(self.period);
            let within = points.iter().filter(|(second, _)| (start..end).contains(second));
            let values: Vec<f64> = within.map(|(_, value)| *value).collect();
            match self.statistic(&values) {
                Some(value) => Some(self.is_breach(value)),
                None if self.missing == "breaching" => Some(true),
                None if self.missing == "notBreaching" => Some(false),
                None => None,
            }
        };
        let breaching = (0..self.periods).filter_map(breaches).filter(|it| *it).count();
        breaching as u64 >= self.datapoints
    }

    fn statistic(&self, values: &[f64]) -> Option<f64> {
        let values = || values.iter().copied();
        values().next()?;
        Some(match self.statistic.as_str() {
            "Sum" => values().sum(),
            "Minimum" => values().fold(f64::MAX, f64::min),
            "Maximum" => values().fold(f64::MIN, f64::max),
            other => panic!("the statistic {other}"),
        })
    }

    fn is_breach(&self, value: f64) -> bool {
        match self.comparison.as_str() {
            "GreaterThanOrEqualToThreshold" => value >= self.threshold,
            "GreaterThanThreshold" => value > self.threshold,
            "LessThanThreshold" => value < self.threshold,
            other => panic!("the comparison {other}"),
        }
    }
}
