//! Timestamps and durations: PostgreSQL's text under `datestyle = iso`, its epoch, ISO 8601, milliseconds.
//!
//! PostgreSQL's years reach from 4713 BC to 294276. The crates `chrono` and `jiff` end before that, so the
//! two conversions between days and dates are here.

use std::time::Duration;

/// µs from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
pub const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// µs since 1970-01-01 UTC of a timestamp such as `2026-11-22 23:50:33.999286+00`.
///
/// The offset may have minutes. Each month accepts the days 1 to 31: `02-30` is the first or second of March.
/// Returns `None` for any other text, and for years outside -4800 to 299999.
pub fn micros_of_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    // Each valid part fits into 32 bits. A larger part would overflow the sums.
    let number = |part: &str| part.parse::<i32>().ok().map(i64::from);
    let mut parts = date.split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let zone_at = time.find(['+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let (second, fraction) = parts.next().map(|s| s.split_once('.').unwrap_or((s, "")))?;
    let second = number(second)?;
    let micros = match fraction {
        "" => 0,
        _ => number(format!("{fraction:0<6}").get(..6)?)?,
    };
    let mut parts = zone.get(1..)?.split(':').map(number);
    let (zone_hour, zone_minute) = (parts.next()??, parts.next().unwrap_or(Some(0))?);
    let offset = (zone_hour * 60 + zone_minute) * if zone.starts_with('-') { -60 } else { 60 };
    let is_date = (-4800..300_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_clock = (0..=24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    let is_fraction = (0..1_000_000).contains(&micros);
    (is_date && is_clock && is_fraction && offset.abs() <= 86_400).then(|| {
        let seconds =
            days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        seconds * 1_000_000 + micros
    })
}

/// The whole milliseconds of a duration; `u64::MAX` if they exceed it.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// ISO 8601 text of seconds since 1970-01-01 UTC: `2026-11-23T12:00:00Z`.
pub fn iso_utc(seconds: u64) -> String {
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let second = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// ISO 8601 text of µs since 1970-01-01 UTC: `2026-11-23T12:00:00.000001Z`.
///
/// `micros` must not be negative. The text of a negative value begins with `1970-01-01T00:00:00`.
pub fn iso_micros(micros: i64) -> String {
    let seconds = iso_utc(u64::try_from(micros.div_euclid(1_000_000)).unwrap_or_default());
    format!(
        "{}.{:06}Z",
        seconds.trim_end_matches('Z'),
        micros.rem_euclid(1_000_000)
    )
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.
///
/// In the calculation, a year begins in March. So a leap day is the last day of its year. 400 years always
/// have 146,097 days.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_timestamps_become_microseconds() {
        let of = |text| micros_of_timestamp(text);
        assert_eq!(of("1970-01-01 00:00:00+00"), Some(0));
        assert_eq!(of("2000-01-01 00:00:00+00"), Some(POSTGRES_EPOCH));
        assert_eq!(of("2024-02-29 12:00:00.5+00"), Some(1_709_208_000_500_000));
        assert_eq!(of("2024-02-29 17:30:00.5+05:30"), Some(1_709_208_000_500_000));
    }

    #[test]
    fn days_and_dates_convert_both_ways() {
        for days in (-800_000..800_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(iso_utc(1_709_208_000), "2024-02-29T12:00:00Z");
    }

    #[test]
    fn a_text_that_is_not_a_timestamp_is_refused() {
        for text in [
            "",
            "infinity",
            "2024-02-29",
            "2024-02-29 12:00:00",
            "2024-13-01 00:00:00+00",
            "x-y-z a:b:c+d",
            "2024-02-29 12:00:00+9223372036854775807",
            "2024-02-29 12:00:00-00:9223372036854775807",
            "-9223372036854775808-01-01 00:00:00+00",
        ] {
            assert_eq!(micros_of_timestamp(text), None, "{text}");
        }
    }
}
