//! Types of columns, as far as envelopes distinguish them.

use postgres_types::{Kind, Type as BuiltIn};

use super::format_type;

/// Type of a column, as far as envelopes distinguish it.
///
/// An envelope may write the values of each type in another JSON form. It writes those of
/// [`ValueType::Text`] as strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    /// `boolean`
    Bool,
    /// `smallint`, `integer`, `bigint`, `oid`: their text is a JSON number
    Integer,
    /// `real`, `double precision`
    Float,
    /// `numeric`, with the scale of its modifier, which may be negative
    Numeric(Option<i32>),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`, with 0 to 6 fractional digits of seconds
    Time(u8),
    /// `time with time zone`
    TimeTz,
    /// `timestamp without time zone`, with 0 to 6 fractional digits of seconds
    Timestamp(u8),
    /// `timestamp with time zone`, with 0 to 6 fractional digits of seconds
    TimestampTz(u8),
    /// `interval`
    Interval,
    /// `bit`, `bit varying`, with the number of bits of its modifier
    Bits(Option<u32>),
    /// `money`
    Money,
    /// `point`
    Point,
    /// `hstore`, if the extension `hstore` owns the type
    Hstore,
    /// An array with any number of dimensions: the type of its elements, and the delimiter between them.
    Array(Box<ValueType>, u8),
    /// Every other type; its values are JSON strings.
    Text,
}

/// Delimiter of array elements in built-in types except `box`.
///
/// Source: `pg_type.typdelim`.
pub const COMMA: u8 = b',';

impl ValueType {
    /// The text that the type's output function writes for a value.
    ///
    /// Some plugins write a `boolean` as `true` or `false`. They write all other types as the function does.
    pub fn server_text<'a>(&self, text: &'a str) -> &'a str {
        match (self, text) {
            (ValueType::Bool, "true") => "t",
            (ValueType::Bool, "false") => "f",
            _ => text,
        }
    }

    /// The built-in type with this OID and modifier.
    ///
    /// -1 means no modifier. Returns [`ValueType::Text`] if no built-in type has this OID. The OIDs of
    /// built-in types never change (`pg_type.dat`).
    pub fn of_built_in(oid: u32, modifier: i32) -> ValueType {
        let Some(built_in) = BuiltIn::from_oid(oid) else {
            return ValueType::Text;
        };
        match built_in {
            BuiltIn::BOOL => ValueType::Bool,
            BuiltIn::INT2 | BuiltIn::INT4 | BuiltIn::INT8 | BuiltIn::OID => ValueType::Integer,
            BuiltIn::FLOAT4 | BuiltIn::FLOAT8 => ValueType::Float,
            BuiltIn::NUMERIC => {
                ValueType::Numeric(format_type::numeric_digits(modifier).map(|(_, scale)| scale))
            }
            BuiltIn::BYTEA => ValueType::Bytea,
            BuiltIn::DATE => ValueType::Date,
            BuiltIn::TIME => ValueType::Time(second_digits(modifier)),
            BuiltIn::TIMETZ => ValueType::TimeTz,
            BuiltIn::TIMESTAMP => ValueType::Timestamp(second_digits(modifier)),
            BuiltIn::TIMESTAMPTZ => ValueType::TimestampTz(second_digits(modifier)),
            BuiltIn::INTERVAL => ValueType::Interval,
            BuiltIn::BIT | BuiltIn::VARBIT => ValueType::Bits(u32::try_from(modifier).ok()),
            BuiltIn::MONEY => ValueType::Money,
            BuiltIn::POINT => ValueType::Point,
            // In the type system these two are arrays, but their text has another form.
            BuiltIn::INT2_VECTOR | BuiltIn::OID_VECTOR => ValueType::Text,
            _ => match built_in.kind() {
                Kind::Array(element) => {
                    let delimiter = if *element == BuiltIn::BOX { b';' } else { COMMA };
                    ValueType::Array(
                        Box::new(ValueType::of_built_in(element.oid(), modifier)),
                        delimiter,
                    )
                }
                _ => ValueType::Text,
            },
        }
    }

    /// The built-in type that `format_type` prints with this name.
    #[cfg(test)]
    pub(crate) fn of_name(name: &str) -> ValueType {
        let (oid, modifier) = format_type::built_in_of_name(name).unwrap();
        ValueType::of_built_in(oid, modifier)
    }
}

/// OID of the elements of a built-in array; 0 for another OID.
pub fn element_oid(array_oid: u32) -> u32 {
    match BuiltIn::from_oid(array_oid).as_ref().map(BuiltIn::kind) {
        Some(Kind::Array(element)) => element.oid(),
        _ => 0,
    }
}

/// Fractional digits of a second, 0 to 6; without a modifier, 6.
fn second_digits(modifier: i32) -> u8 {
    const MAX_DIGITS: u8 = 6;
    u8::try_from(modifier).map_or(MAX_DIGITS, |digits| digits.min(MAX_DIGITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_keeps_the_modifier_that_an_envelope_needs() {
        let array = |element| ValueType::Array(Box::new(element), COMMA);
        for (oid, modifier, kind) in [
            (1700, -1, ValueType::Numeric(None)),
            (1700, 655_366, ValueType::Numeric(Some(2))),
            (1700, 198_658, ValueType::Numeric(Some(-2))),
            (1231, 327_684, array(ValueType::Numeric(Some(0)))),
            (1083, -1, ValueType::Time(6)),
            (1083, 3, ValueType::Time(3)),
            (1114, 0, ValueType::Timestamp(0)),
            (1184, 3, ValueType::TimestampTz(3)),
            (1186, 2_147_418_115, ValueType::Interval),
            (1560, 1, ValueType::Bits(Some(1))),
            (1560, -1, ValueType::Bits(None)),
            (1563, -1, array(ValueType::Bits(None))),
            (1266, 3, ValueType::TimeTz),
            (1043, 24, ValueType::Text),
            (22, -1, ValueType::Text),
            (30, -1, ValueType::Text),
            (1006, -1, array(ValueType::Text)),
            (20_000, -1, ValueType::Text),
        ] {
            assert_eq!(ValueType::of_built_in(oid, modifier), kind, "{oid} {modifier}");
        }
    }

    #[test]
    fn the_boxes_of_an_array_are_separated_by_semicolons() {
        assert_eq!(
            ValueType::of_built_in(1020, -1),
            ValueType::Array(Box::new(ValueType::Text), b';')
        );
    }
}
