//! Values as Debezium writes them, in each of its modes.
//!
//! bytea is base64. A value that does not fit its mode is written as its text, never as null. Examples are
//! `NaN` in the mode `precise`, and an infinite date in a mode with numbers.

use std::cell::Cell;
use std::io::Write as _;

use super::decimal::Decimal;
use super::interval::{IntervalMode, write_interval};
use super::structures::{HstoreMode, MONEY_SCALE, money_decimal, write_bits, write_hstore, write_point};
use super::time::{TimeMode, time_number, write_iso};
use crate::change::ValueType;
use crate::encode::value::UNAVAILABLE_VALUE;
use crate::encode::value::{
    parse_bool, parse_bytea, timetz_in_utc, write_array, write_ascii, write_base64, write_number,
    write_string,
};

/// Form of decimals: Debezium's `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DecimalMode {
    /// `string`: all digits, as text.
    #[default]
    String,
    /// `precise`: the bytes of the unscaled value in base64.
    ///
    /// If the column's type has no scale, the value is an object with `scale` and these bytes as `value`.
    Precise,
    /// `double`: the nearest floating-point number of 64 bits.
    Double,
}

/// Debezium's modes for values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DebeziumModes {
    /// Form of decimals.
    pub decimal: DecimalMode,
    /// Form of dates and times.
    pub time: TimeMode,
    /// Form of intervals.
    pub interval: IntervalMode,
    /// Form of hstores.
    pub hstore: HstoreMode,
}

impl DebeziumModes {
    /// Appends a value of type `kind`. Returns whether it fits its schema.
    pub(in super::super) fn write_value(self, out: &mut Vec<u8>, kind: &ValueType, text: &str) -> bool {
        let fits_schema = Cell::new(true);
        let written = match kind {
            ValueType::Bool => {
                parse_bool(text).map(|value| out.extend_from_slice(if value { b"true" } else { b"false" }))
            }
            ValueType::Integer | ValueType::Float => write_number(out, text),
            ValueType::Numeric(scale) => self.write_decimal(out, *scale, text),
            ValueType::Bytea => parse_bytea(text).map(|bytes| write_base64(out, &bytes)),
            ValueType::TimeTz => timetz_in_utc(text).map(|time| write_ascii(out, &[&time, "Z"])),
            ValueType::TimestampTz(_) => write_iso(out, kind, text),
            ValueType::Date | ValueType::Time(_) | ValueType::Timestamp(_) => {
                self.write_time(out, kind, text)
            }
            ValueType::Interval => write_interval(out, self.interval, text),
            ValueType::Bits(length) => write_bits(out, *length, text),
            ValueType::Money => self.write_money(out, text),
            ValueType::Point => {
                // A converter reads a coordinate that is a string as 0.
                fits_schema.set(!text.contains("NaN") && !text.contains("Infinity"));
                write_point(out, text)
            }
            ValueType::Hstore => write_hstore(out, self.hstore, text),
            ValueType::Array(element, delimiter) => {
                let start = out.len();
                let write_item = |out: &mut Vec<u8>, item: &str| {
                    fits_schema.set(self.write_value(out, element, item) && fits_schema.get());
                };
                let written = write_array(out, text, *delimiter, write_item);
                // The schema of an array is a list of items, never a list of lists.
                fits_schema.set(fits_schema.get() && !has_dimensions(text));
                if written.is_none() {
                    out.truncate(start);
                }
                written
            }
            ValueType::Text => None,
        };
        if written.is_some() {
            return fits_schema.get();
        }
        write_string(out, text);
        self.is_string(kind)
    }

    /// Appends the placeholder of a value that the event lacks.
    ///
    /// The placeholder fits the schema of the value: a string, bytes, or a list of one of these. It is null
    /// for every other type.
    pub(super) fn write_unavailable(self, out: &mut Vec<u8>, kind: &ValueType) {
        match kind {
            ValueType::Bytea => write_base64(out, UNAVAILABLE_VALUE.as_bytes()),
            ValueType::Array(element, _) if **element == ValueType::Bytea || self.is_string(element) => {
                out.push(b'[');
                self.write_unavailable(out, element);
                out.push(b']');
            }
            _ if self.is_string(kind) => write_string(out, UNAVAILABLE_VALUE),
            _ => out.extend_from_slice(b"null"),
        }
    }

    /// Whether the values of this type are strings.
    ///
    /// The schema of such a type accepts every text.
    pub(super) fn is_string(self, kind: &ValueType) -> bool {
        match kind {
            ValueType::Text | ValueType::TimeTz | ValueType::TimestampTz(_) => true,
            ValueType::Numeric(_) | ValueType::Money => self.decimal == DecimalMode::String,
            ValueType::Date | ValueType::Time(_) | ValueType::Timestamp(_) => {
                self.time == TimeMode::IsoString
            }
            ValueType::Interval => self.interval == IntervalMode::String,
            ValueType::Hstore => self.hstore == HstoreMode::Json,
            ValueType::Bool | ValueType::Integer | ValueType::Float | ValueType::Bytea => false,
            ValueType::Bits(_) | ValueType::Point | ValueType::Array(..) => false,
        }
    }

    fn write_money(self, out: &mut Vec<u8>, text: &str) -> Option<()> {
        let decimal = money_decimal(text)?;
        self.write_decimal(out, Some(MONEY_SCALE), &decimal).or_else(|| {
            write_ascii(out, &[&decimal]);
            Some(())
        })
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
    fn write_time(self, out: &mut Vec<u8>, kind: &ValueType, text: &str) -> Option<()> {
        if self.time == TimeMode::IsoString {
            return write_iso(out, kind, text);
        }
        let number = time_number(self.time, kind, text)?;
        // Writing to a Vec does not fail.
        let _ = write!(out, "{number}");
        Some(())
    }
}

/// Whether the text of an array has more than one dimension: `{{1,2}}`.
fn has_dimensions(text: &str) -> bool {
    // An array whose lower bounds are not 1 begins with its bounds: `[0:1][0:1]={…}`.
    let array = match text.starts_with('[') {
        true => text.split_once('=').map_or(text, |(_, array)| array),
        false => text,
    };
    array.starts_with("{{")
}

#[cfg(test)]
mod tests;
