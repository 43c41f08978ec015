//! Dates and times as Debezium writes them.

use crate::base::time::days_from_civil;
use crate::change::ValueType;
use crate::encode::value::{is_date, is_time, split_timestamp, write_ascii};

/// Form of dates and times without a zone: Debezium's `time.precision.mode`.
///
/// Times with a zone are ISO 8601 text in each mode. A date is ISO 8601 text in `isostring`, and a number of
/// days in each other mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimeMode {
    /// `isostring`: ISO 8601 text.
    #[default]
    IsoString,
    /// `adaptive`: milliseconds or microseconds for times and timestamps.
    ///
    /// Milliseconds, if the column's type has at most three fractional digits of a second.
    Adaptive,
    /// `adaptive_time_microseconds`: microseconds for times, and timestamps as with `adaptive`.
    AdaptiveTimeMicroseconds,
    /// `connect`: milliseconds, as in Kafka Connect's own types. Further digits are lost.
    Connect,
    /// `microseconds`: microseconds for times and timestamps.
    Microseconds,
    /// `nanoseconds`: nanoseconds for times and timestamps.
    Nanoseconds,
}

/// The timestamp `infinity` in µs since 1970-01-01.
///
/// The JDBC driver and Debezium write this number. Source: documentation of the connector, "Timestamp types".
const INFINITY: i128 = 9_223_372_036_825_200_000;

/// The timestamp `-infinity`, from the same source.
const MINUS_INFINITY: i128 = -9_223_372_036_832_400_000;

/// Fractional digits of a second up to which `adaptive` uses milliseconds.
pub(super) const MILLISECOND_DIGITS: u8 = 3;

/// Padding of a fraction of a second, for at most six digits.
const ZEROS: &str = "000000";

/// Appends a date, time or timestamp as ISO 8601 text.
///
/// Returns `None` for `infinity`, which ISO 8601 does not have.
pub(super) fn write_iso(out: &mut Vec<u8>, kind: &ValueType, text: &str) -> Option<()> {
    let (text, is_bc) = split_era(text);
    match kind {
        ValueType::Date => write_iso_date(out, text, is_bc, &["Z"]),
        ValueType::Time(_) if is_time(text) => {
            write_ascii(out, &[text, "Z"]);
            Some(())
        }
        ValueType::Timestamp(_) => {
            let (date, time) = split_timestamp(text)?;
            write_iso_date(out, date, is_bc, &["T", time, "Z"])
        }
        ValueType::TimestampTz(digits) => {
            // The session's time zone is UTC, so the offset is always `+00`.
            let (date, time) = text.strip_suffix("+00").and_then(split_timestamp)?;
            let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
            let missing = usize::from(*digits).saturating_sub(fraction.len());
            let padding = ZEROS.get(..missing).unwrap_or(ZEROS);
            let point = if fraction.len() + missing > 0 { "." } else { "" };
            write_iso_date(out, date, is_bc, &["T", whole, point, fraction, padding, "Z"])
        }
        _ => None,
    }
}

/// Date, time or timestamp without a zone as a number.
///
/// A date is the number of days since 1970-01-01. A time counts from midnight. A timestamp counts from
/// 1970-01-01, as if it were in UTC. The unit of both is that of the mode. Returns `None` if the text is not
/// of this type, or if 64 bits cannot hold the number.
pub(super) fn time_number(mode: TimeMode, kind: &ValueType, text: &str) -> Option<i64> {
    let (micros, is_milliseconds) = match kind {
        ValueType::Date => {
            let (date, is_bc) = split_era(text);
            return days_since_epoch(date, is_bc);
        }
        ValueType::Time(digits) => (
            micros_of_day(text)?.into(),
            mode == TimeMode::Adaptive && *digits <= MILLISECOND_DIGITS,
        ),
        ValueType::Timestamp(digits) => (
            micros_since_epoch(text)?,
            matches!(mode, TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds)
                && *digits <= MILLISECOND_DIGITS,
        ),
        _ => return None,
    };
    let number = match mode {
        TimeMode::Connect => micros.div_euclid(1000),
        _ if is_milliseconds => micros.div_euclid(1000),
        // An infinite timestamp is the largest or the smallest number, as in Debezium.
        TimeMode::Nanoseconds if micros == INFINITY => i64::MAX.into(),
        TimeMode::Nanoseconds if micros == MINUS_INFINITY => i64::MIN.into(),
        TimeMode::Nanoseconds => micros * 1000,
        _ => micros,
    };
    i64::try_from(number).ok()
}

/// Text without its era, and whether the era is BC.
fn split_era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

/// Appends a date and the pieces after it as one JSON string.
///
/// In ISO 8601, the year before the year 1 is 0, and a year after 9999 has a sign.
fn write_iso_date(out: &mut Vec<u8>, date: &str, is_bc: bool, behind: &[&str]) -> Option<()> {
    let (year, month_and_day) = Some(date).filter(|date| is_date(date))?.split_at(date.find('-')?);
    out.push(b'"');
    match (is_bc, year.len()) {
        (false, ..=4) => out.extend_from_slice(year.as_bytes()),
        (false, _) => out.extend([b"+", year.as_bytes()].concat()),
        (true, _) => {
            let before: u32 = year.parse().unwrap_or(0);
            let sign = if before > 1 { "-" } else { "" };
            out.extend_from_slice(format!("{sign}{:04}", before.saturating_sub(1)).as_bytes());
        }
    }
    for piece in [month_and_day].iter().chain(behind) {
        out.extend_from_slice(piece.as_bytes());
    }
    out.push(b'"');
    Some(())
}

/// Timestamp without a zone in µs since 1970-01-01.
///
/// The timestamp is read as if it were in UTC. In this unit, 64 bits cannot hold the latest timestamps of
/// PostgreSQL.
fn micros_since_epoch(text: &str) -> Option<i128> {
    match text {
        "infinity" => Some(INFINITY),
        "-infinity" => Some(MINUS_INFINITY),
        _ => {
            let (text, is_bc) = split_era(text);
            let (date, time) = split_timestamp(text)?;
            let midnight = i128::from(days_since_epoch(date, is_bc)?) * 86_400_000_000;
            Some(midnight + i128::from(micros_of_day(time)?))
        }
    }
}

/// Days from 1970-01-01 to a date.
fn days_since_epoch(date: &str, is_bc: bool) -> Option<i64> {
    let mut parts = Some(date).filter(|date| is_date(date))?.split('-');
    // PostgreSQL's last year is 5874897. With the type i32, longer numbers are refused, so the sums cannot
    // overflow.
    let mut number = || parts.next()?.parse::<i32>().ok().map(i64::from);
    let (year, month, day) = (number()?, number()?, number()?);
    let year = if is_bc { 1 - year } else { year };
    let is_valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    let days = days_from_civil(year, month, day);
    i32::try_from(days).is_ok_and(|_| is_valid).then_some(days)
}

/// µs from midnight to a time without a zone.
fn micros_of_day(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = Some(whole).filter(|text| is_time(text))?.split(':');
    let mut number = || parts.next()?.parse::<u8>().ok().map(i64::from);
    let seconds = (number()? * 60 + number()?) * 60 + number()?;
    Some(seconds * 1_000_000 + micros_of_fraction(fraction)?)
}

/// Fraction of a second in µs.
///
/// `digits` are the digits after the decimal point. Returns `None` for more than six digits, and for any
/// other character.
pub(super) fn micros_of_fraction(digits: &str) -> Option<i64> {
    match digits {
        "" => Some(0),
        _ if digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => format!("{digits:0<6}").parse().ok(),
    }
}
