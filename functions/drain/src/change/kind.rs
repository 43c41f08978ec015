//! Types of columns, as far as an envelope writes their values in different ways.

/// Type of a column, as far as an envelope does not write its values as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
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
    /// `time without time zone`, with its fractional digits of a second, 0 to 6
    Time(u8),
    /// `time with time zone`
    TimeTz,
    /// `timestamp without time zone`, with its fractional digits of a second, 0 to 6
    Timestamp(u8),
    /// `timestamp with time zone`
    TimestampTz,
    /// An array with any number of dimensions.
    Array(Box<Type>),
    /// Every other type; its values are JSON strings.
    Text,
}

/// Fractional digits of a second of a type without a modifier.
const DEFAULT_DIGITS: u8 = 6;

impl Type {
    /// The type of this name, as `format_type` prints it, with or without a modifier.
    ///
    /// Examples: `numeric(10,2)`, `timestamp(3) with time zone`, `integer[]`.
    pub fn of_name(name: &str) -> Type {
        // The name of an array has one pair of brackets, whatever its number of dimensions. The name of an
        // array of a domain that is an array itself has two. More pairs are ignored: a name may hold any
        // number of them, and each would be a level of recursion.
        let element = name.trim_end_matches("[]");
        let depth = (name.len() - element.len()) / 2;
        // `box` is the only type whose array has semicolons as separators (`typdelim`).
        if depth > 0 && element == "box" {
            return Type::Text;
        }
        (0..depth.min(2)).fold(Type::of_element(element), |inner, _| Type::Array(Box::new(inner)))
    }

    /// The type of a name without brackets at its end.
    fn of_element(name: &str) -> Type {
        let (base, modifier, rest) = match (name.find('('), name.find(')')) {
            (Some(open), Some(close)) if open < close => {
                (&name[..open], &name[open + 1..close], name[close + 1..].trim())
            }
            _ => (name, "", ""),
        };
        let digits = || modifier.parse().unwrap_or(DEFAULT_DIGITS);
        match (base, rest) {
            ("boolean", _) => Type::Bool,
            ("smallint" | "integer" | "bigint" | "oid", _) => Type::Integer,
            ("real" | "double precision", _) => Type::Float,
            ("numeric", _) => {
                let scale = modifier.split_once(',').map(|(_, scale)| scale.parse());
                Type::Numeric(scale.and_then(Result::ok))
            }
            ("bytea", _) => Type::Bytea,
            ("date", _) => Type::Date,
            ("time", "with time zone") | ("time with time zone", _) => Type::TimeTz,
            ("time", _) | ("time without time zone", _) => Type::Time(digits()),
            ("timestamp", "with time zone") | ("timestamp with time zone", _) => Type::TimestampTz,
            ("timestamp", _) | ("timestamp without time zone", _) => Type::Timestamp(digits()),
            _ => Type::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_keeps_the_modifier_that_an_envelope_needs() {
        let array = |element| Type::Array(Box::new(element));
        for (name, kind) in [
            ("numeric", Type::Numeric(None)),
            ("numeric(10,2)", Type::Numeric(Some(2))),
            ("numeric(3,-2)", Type::Numeric(Some(-2))),
            ("numeric(5,0)[]", array(Type::Numeric(Some(0)))),
            ("time without time zone", Type::Time(6)),
            ("time(3) without time zone", Type::Time(3)),
            ("timestamp(0) without time zone", Type::Timestamp(0)),
            ("timestamp(3) with time zone", Type::TimestampTz),
            ("time(3) with time zone", Type::TimeTz),
            ("character varying(20)", Type::Text),
            ("public.date", Type::Text),
            ("integer[][]", array(array(Type::Integer))),
        ] {
            assert_eq!(Type::of_name(name), kind, "{name}");
        }
    }

    #[test]
    fn an_array_of_boxes_is_text_because_its_separator_is_a_semicolon() {
        assert_eq!(Type::of_name("box[]"), Type::Text);
    }

    #[test]
    fn a_name_of_many_brackets_does_not_overflow_the_stack() {
        assert!(matches!(Type::of_name(&"[]".repeat(1_000_000)), Type::Array(_)));
    }
}
