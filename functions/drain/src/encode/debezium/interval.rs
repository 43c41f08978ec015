//! Intervals as Debezium writes them.

use super::time::micros_of_fraction;
use crate::encode::value::write_ascii;

/// Form of intervals: Debezium's `interval.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IntervalMode {
    /// `string`: ISO 8601 text with all fields, `P1Y2M3DT4H5M6.7S`.
    #[default]
    String,
    /// `numeric`: microseconds. A month has 30.4375 days, and a day has 24 hours.
    Numeric,
}

/// Seconds of a month: those of a year of 365.25 days, divided by 12.
const MONTH_SECONDS: i64 = 2_629_800;
const DAY_SECONDS: i64 = 86_400;

/// Fields of an interval; each is the text of a signed number.
struct Interval<'t> {
    years: &'t str,
    months: &'t str,
    days: &'t str,
    hours: &'t str,
    minutes: &'t str,
    /// With up to six digits after a decimal point.
    seconds: &'t str,
}

/// Appends an interval.
///
/// `text` is PostgreSQL's text with `intervalstyle=iso_8601`. Returns `None` for any other text, such as
/// `infinity` (since PostgreSQL 17).
pub(super) fn write_interval(out: &mut Vec<u8>, mode: IntervalMode, text: &str) -> Option<()> {
    let interval = Interval::parse(text)?;
    match mode {
        IntervalMode::String => {
            let Interval {
                years,
                months,
                days,
                hours,
                minutes,
                seconds,
            } = interval;
            let pieces = [
                "P", years, "Y", months, "M", days, "DT", hours, "H", minutes, "M", seconds, "S",
            ];
            write_ascii(out, &pieces);
        }
        IntervalMode::Numeric => out.extend_from_slice(interval.micros()?.to_string().as_bytes()),
    }
    Some(())
}

impl<'t> Interval<'t> {
    /// Parses ISO 8601 text, which omits fields that are zero.
    fn parse(text: &'t str) -> Option<Self> {
        let (date, time) = text.strip_prefix('P')?.split_once('T').map_or_else(
            || (text.strip_prefix('P').unwrap_or_default(), ""),
            |(date, time)| (date, time),
        );
        let (years, date) = field(date, 'Y')?;
        let (months, date) = field(date, 'M')?;
        let (days, date) = field(date, 'D')?;
        let (hours, time) = field(time, 'H')?;
        let (minutes, time) = field(time, 'M')?;
        let (seconds, time) = field(time, 'S')?;
        (date.is_empty() && time.is_empty() && text.len() > 1).then_some(Interval {
            years,
            months,
            days,
            hours,
            minutes,
            seconds,
        })
    }

    /// Interval in µs.
    ///
    /// An interval outside of the range of `i64` becomes the largest or the smallest `i64`.
    fn micros(&self) -> Option<i64> {
        let number = |text: &str| text.parse::<i64>().ok();
        let months = number(self.years)?
            .saturating_mul(12)
            .saturating_add(number(self.months)?);
        let (whole, fraction) = self.seconds.split_once('.').unwrap_or((self.seconds, ""));
        let fraction = micros_of_fraction(fraction)?;
        let fraction = if whole.starts_with('-') {
            -fraction
        } else {
            fraction
        };
        let seconds = months
            .saturating_mul(MONTH_SECONDS)
            .saturating_add(number(self.days)?.saturating_mul(DAY_SECONDS))
            .saturating_add(number(self.hours)?.saturating_mul(3600))
            .saturating_add(number(self.minutes)?.saturating_mul(60))
            .saturating_add(number(whole)?);
        Some(seconds.saturating_mul(1_000_000).saturating_add(fraction))
    }
}

/// Number before a unit, and the text after the unit.
///
/// If the text does not begin with this field, the number is `0` and the text is unchanged. Returns `None` if
/// the text before the unit is not a number.
fn field(text: &str, unit: char) -> Option<(&str, &str)> {
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    match end.filter(|end| text[*end..].starts_with(unit)) {
        None => Some(("0", text)),
        Some(end) => {
            let number = &text[..end];
            let digits = number.strip_prefix('-').unwrap_or(number);
            let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
                && digits
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b == b'.' && unit == 'S'));
            is_number.then_some((number, &text[end + 1..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(mode: IntervalMode, text: &str) -> Option<String> {
        let mut out = Vec::new();
        write_interval(&mut out, mode, text)?;
        Some(String::from_utf8(out).unwrap())
    }

    /// The values are Debezium's: see `make conformance`.
    #[test]
    fn an_interval_has_all_fields_or_is_in_microseconds() {
        for (text, string, numeric) in [
            ("P1Y2M3DT4H5M6.7S", "P1Y2M3DT4H5M6.7S", 37_091_106_700_000),
            ("P-1DT2H", "P0Y0M-1DT2H0M0S", -79_200_000_000),
            ("PT0S", "P0Y0M0DT0H0M0S", 0),
            ("P1M-1D", "P0Y1M-1DT0H0M0S", 2_543_400_000_000),
            ("PT-0.000001S", "P0Y0M0DT0H0M-0.000001S", -1),
            ("P1DT-0.5S", "P0Y0M1DT0H0M-0.5S", 86_399_500_000),
            (
                "P-1Y-2M3DT-4H-5M-6.789S",
                "P-1Y-2M3DT-4H-5M-6.789S",
                -36_572_706_789_000,
            ),
            ("P178000000Y", "P178000000Y0M0DT0H0M0S", i64::MAX),
            ("P-178000000Y", "P-178000000Y0M0DT0H0M0S", i64::MIN),
        ] {
            assert_eq!(
                json(IntervalMode::String, text),
                Some(format!("\"{string}\"")),
                "{text}"
            );
            assert_eq!(
                json(IntervalMode::Numeric, text),
                Some(numeric.to_string()),
                "{text}"
            );
        }
        for text in [
            "infinity",
            "",
            "P",
            "1 day",
            "P1",
            "PT1D",
            "P1DT1.2.3S",
            "P--1D",
            "P1D1Y",
            "PY",
        ] {
            assert_eq!(json(IntervalMode::Numeric, text), None, "{text}");
        }
    }
}
