//! Values as Debezium writes them, in each of its modes for decimals and for times. Intervals are ISO 8601 text
//! (`interval.handling.mode=string`), bytea is base64.
//!
//! A value that does not fit its mode is written as its text, never as null: `NaN` as a precise decimal, an infinite date as a number of
//! days, a year before Christ.

use std::io::Write as _;

use super::decimal::Decimal;
use crate::change::Type;
use crate::encode::value::{
    array, ascii, base64, bytes, clock_in_utc, date_and_clock, date_and_clock_in_utc, is_clock, is_date,
    is_json_number, string, truth,
};
use crate::time::days_from_civil;

/// How a decimal is written: Debezium's `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DecimalMode {
    /// `string`: all digits, as text.
    #[default]
    String,
    /// `precise`: the bytes of the unscaled value in base64; with `{"scale","value"}` around them where the column fixes no scale.
    Precise,
    /// `double`: the nearest number that 64 bits hold.
    Double,
}

/// How dates and times without a zone are written: Debezium's `time.precision.mode`. Those with a zone are ISO 8601 text in each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeMode {
    /// `isostring`: ISO 8601 text.
    #[default]
    IsoString,
    /// `adaptive`: days; milliseconds where the column keeps three digits of a second or fewer, otherwise microseconds.
    Adaptive,
    /// `microseconds`: days and microseconds.
    Microseconds,
}

/// The modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DebeziumModes {
    /// For decimals.
    pub decimal: DecimalMode,
    /// For times.
    pub time: TimeMode,
}

/// What the JDBC driver, and with it Debezium, takes for the two infinities of a timestamp (documentation of the connector, "Timestamp
/// types"), µs since 1970-01-01.
const INFINITY: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;

impl DebeziumModes {
    /// Appends a value of type `kind`.
    pub(in super::super) fn value(self, out: &mut Vec<u8>, kind: &Type, text: &str) {
        let written = match kind {
            Type::Bool => {
                truth(text).map(|value| out.extend_from_slice(if value { b"true" } else { b"false" }))
            }
            Type::Integer | Type::Float => {
                is_json_number(text).then(|| out.extend_from_slice(text.as_bytes()))
            }
            Type::Numeric(scale) => self.decimal(out, *scale, text),
            Type::Bytea => bytes(text).map(|bytes| base64(out, &bytes)),
            Type::TimeTz => clock_in_utc(text).map(|clock| ascii(out, &[&clock, "Z"])),
            Type::TimestampTz => {
                date_and_clock_in_utc(text).map(|(date, clock)| ascii(out, &[date, "T", clock, "Z"]))
            }
            Type::Date | Type::Time(_) | Type::Timestamp(_) if self.time == TimeMode::IsoString => {
                iso(out, kind, text)
            }
            Type::Date | Type::Time(_) | Type::Timestamp(_) => {
                self.number(kind, text).map(|number| {
                    // Writing to a Vec does not fail.
                    let _ = write!(out, "{number}");
                })
            }
            Type::Array(element) => {
                let start = out.len();
                let written = array(out, text, |out, item| self.value(out, element, item));
                if written.is_none() {
                    out.truncate(start);
                }
                written
            }
            Type::Text => None,
        };
        if written.is_none() {
            string(out, text);
        }
    }

    fn decimal(self, out: &mut Vec<u8>, scale: Option<i32>, text: &str) -> Option<()> {
        match self.decimal {
            DecimalMode::String => None,
            DecimalMode::Precise => {
                let decimal = Decimal::parse(text, scale)?;
                if scale.is_none() {
                    let _ = write!(out, r#"{{"scale":{},"value":"#, decimal.scale);
                }
                base64(out, &decimal.unscaled);
                if scale.is_none() {
                    out.push(b'}');
                }
                Some(())
            }
            DecimalMode::Double => {
                let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
                serde_json::to_writer(out, &number).ok()
            }
        }
    }

    /// A date or time as a number: days since 1970-01-01; since midnight, or since 1970-01-01 as if in UTC, ms or µs.
    fn number(self, kind: &Type, text: &str) -> Option<i64> {
        let (micros, digits) = match kind {
            Type::Date => return days(text),
            Type::Time(digits) => (micros_of_day(text)?, *digits),
            Type::Timestamp(digits) => match text {
                "infinity" => (INFINITY, *digits),
                "-infinity" => (MINUS_INFINITY, *digits),
                _ => {
                    let (date, clock) = date_and_clock(text)?;
                    let day = days(date)?.checked_mul(86_400_000_000)?;
                    (day.checked_add(micros_of_day(clock)?)?, *digits)
                }
            },
            _ => return None,
        };
        let millis = self.time == TimeMode::Adaptive && digits <= 3;
        Some(if millis { micros.div_euclid(1000) } else { micros })
    }
}

fn iso(out: &mut Vec<u8>, kind: &Type, text: &str) -> Option<()> {
    match kind {
        Type::Date if is_date(text) => ascii(out, &[text, "Z"]),
        Type::Time(_) if is_clock(text) => ascii(out, &[text, "Z"]),
        Type::Timestamp(_) => {
            let (date, clock) = date_and_clock(text)?;
            ascii(out, &[date, "T", clock, "Z"]);
        }
        _ => return None,
    }
    Some(())
}

fn days(text: &str) -> Option<i64> {
    let mut parts = Some(text).filter(|text| is_date(text))?.split('-');
    // PostgreSQL's last year is 5874897; what is larger must not overflow.
    let mut number = || parts.next()?.parse::<i32>().ok().map(i64::from);
    let (year, month, day) = (number()?, number()?, number()?);
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    let days = days_from_civil(year, month, day);
    i32::try_from(days).is_ok_and(|_| valid).then_some(days)
}

fn micros_of_day(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = Some(whole).filter(|text| is_clock(text))?.split(':');
    let mut number = || parts.next()?.parse::<u8>().ok().map(i64::from);
    let seconds = (number()? * 60 + number()?) * 60 + number()?;
    let micros: i64 = match fraction {
        "" => 0,
        _ if fraction.len() > 6 => return None,
        _ => format!("{fraction:0<6}").parse().ok()?,
    };
    Some(seconds * 1_000_000 + micros)
}

#[cfg(test)]
mod tests;
