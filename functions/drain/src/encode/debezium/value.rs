//! Values as Debezium writes them, in each mode for decimals and for times.
//!
//! Intervals are ISO 8601 text (`interval.handling.mode=string`), and bytea is base64. A value that does not
//! fit its mode is written as its text, never as null: `NaN` as a precise decimal, an infinite date as a
//! number of days, a year before Christ.

use std::io::Write as _;

use super::decimal::Decimal;
use crate::change::Type;
use crate::encode::value::{
    is_date, is_time, parse_bool, parse_bytea, split_timestamp, split_timestamptz, timetz_in_utc,
    write_array, write_ascii, write_base64, write_number, write_string,
};
use crate::time::days_from_civil;

/// Form of decimals: Debezium's `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DecimalMode {
    /// `string`: all digits, as text.
    #[default]
    String,
    /// `precise`: the bytes of the unscaled value in base64.
    ///
    /// Where the column fixes no scale, an object of `scale` and `value` holds them.
    Precise,
    /// `double`: the nearest number of 64 bits.
    Double,
}

/// Form of dates and times without a zone: Debezium's `time.precision.mode`.
///
/// Times with a zone are ISO 8601 text in each mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeMode {
    /// `isostring`: ISO 8601 text.
    #[default]
    IsoString,
    /// `adaptive`: days for dates; milliseconds or microseconds for times.
    ///
    /// Milliseconds are used where the column keeps at most three digits of a second.
    Adaptive,
    /// `microseconds`: days for dates, microseconds for times.
    Microseconds,
}

/// Debezium's modes for values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DebeziumModes {
    /// Form of decimals.
    pub decimal: DecimalMode,
    /// Form of dates and times.
    pub time: TimeMode,
}

/// The timestamp `infinity`, µs since 1970-01-01, as the JDBC driver and Debezium write it.
///
/// Source: documentation of the connector, "Timestamp types".
const INFINITY: i64 = 9_223_372_036_825_200_000;

/// The timestamp `-infinity`, from the same source.
const MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;

impl DebeziumModes {
    /// Appends a value of type `kind`.
    pub(in super::super) fn write_value(self, out: &mut Vec<u8>, kind: &Type, text: &str) {
        let written = match kind {
            Type::Bool => {
                parse_bool(text).map(|value| out.extend_from_slice(if value { b"true" } else { b"false" }))
            }
            Type::Integer | Type::Float => write_number(out, text),
            Type::Numeric(scale) => self.write_decimal(out, *scale, text),
            Type::Bytea => parse_bytea(text).map(|bytes| write_base64(out, &bytes)),
            Type::TimeTz => timetz_in_utc(text).map(|time| write_ascii(out, &[&time, "Z"])),
            Type::TimestampTz => {
                split_timestamptz(text).map(|(date, time)| write_ascii(out, &[date, "T", time, "Z"]))
            }
            Type::Date | Type::Time(_) | Type::Timestamp(_) => self.write_time(out, kind, text),
            Type::Array(element, delimiter) => {
                let start = out.len();
                let write_item = |out: &mut Vec<u8>, item: &str| self.write_value(out, element, item);
                let written = write_array(out, text, *delimiter, write_item);
                if written.is_none() {
                    out.truncate(start);
                }
                written
            }
            Type::Text => None,
        };
        if written.is_none() {
            write_string(out, text);
        }
    }

    fn write_decimal(self, out: &mut Vec<u8>, scale: Option<i32>, text: &str) -> Option<()> {
        match self.decimal {
            DecimalMode::String => None,
            DecimalMode::Precise => {
                let decimal = Decimal::parse(text, scale)?;
                if scale.is_none() {
                    let _ = write!(out, r#"{{"scale":{},"value":"#, decimal.scale);
                }
                write_base64(out, &decimal.unscaled);
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

    /// Appends a date, time or timestamp without a zone.
    fn write_time(self, out: &mut Vec<u8>, kind: &Type, text: &str) -> Option<()> {
        if self.time == TimeMode::IsoString {
            return write_iso(out, kind, text);
        }
        let number = self.time_number(kind, text)?;
        // Writing to a Vec does not fail.
        let _ = write!(out, "{number}");
        Some(())
    }

    /// A date, time or timestamp without a zone as a number.
    ///
    /// A date is in days since 1970-01-01. A time is in ms or µs since midnight, a timestamp in ms or µs
    /// since 1970-01-01 as if it were in UTC.
    fn time_number(self, kind: &Type, text: &str) -> Option<i64> {
        let (micros, digits) = match kind {
            Type::Date => return days_since_epoch(text),
            Type::Time(digits) => (micros_of_day(text)?, *digits),
            Type::Timestamp(digits) => (micros_since_epoch(text)?, *digits),
            _ => return None,
        };
        let is_in_millis = self.time == TimeMode::Adaptive && digits <= 3;
        Some(if is_in_millis {
            micros.div_euclid(1000)
        } else {
            micros
        })
    }
}

fn write_iso(out: &mut Vec<u8>, kind: &Type, text: &str) -> Option<()> {
    match kind {
        Type::Date if is_date(text) => write_ascii(out, &[text, "Z"]),
        Type::Time(_) if is_time(text) => write_ascii(out, &[text, "Z"]),
        Type::Timestamp(_) => {
            let (date, time) = split_timestamp(text)?;
            write_ascii(out, &[date, "T", time, "Z"]);
        }
        _ => return None,
    }
    Some(())
}

/// µs since 1970-01-01 of a timestamp without a zone, as if it were in UTC.
fn micros_since_epoch(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(INFINITY),
        "-infinity" => Some(MINUS_INFINITY),
        _ => {
            let (date, time) = split_timestamp(text)?;
            let midnight = days_since_epoch(date)?.checked_mul(86_400_000_000)?;
            midnight.checked_add(micros_of_day(time)?)
        }
    }
}

/// Days since 1970-01-01 of a date.
fn days_since_epoch(text: &str) -> Option<i64> {
    let mut parts = Some(text).filter(|text| is_date(text))?.split('-');
    // PostgreSQL's last year is 5874897. The type i32 keeps longer numbers from overflowing the sums.
    let mut number = || parts.next()?.parse::<i32>().ok().map(i64::from);
    let (year, month, day) = (number()?, number()?, number()?);
    let is_valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    let days = days_from_civil(year, month, day);
    i32::try_from(days).is_ok_and(|_| is_valid).then_some(days)
}

/// µs since midnight of a time without a zone.
fn micros_of_day(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = Some(whole).filter(|text| is_time(text))?.split(':');
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
