//! How the text of a type is to be read: what an envelope needs to know of a type to write its values as JSON.

/// The types that JSON, or some envelope, does not treat as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `boolean`
    Bool,
    /// `smallint`, `integer`, `bigint`, `oid`: digits that JSON takes as they are
    Integer,
    /// `real`, `double precision`
    Float,
    /// `numeric`, with the digits behind the point that its modifier fixes; may be negative
    Numeric(Option<i32>),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`, with its digits of a second, 0 to 6
    Time(u8),
    /// `time with time zone`
    TimeTz,
    /// `timestamp without time zone`, with its digits of a second, 0 to 6
    Timestamp(u8),
    /// `timestamp with time zone`
    TimestampTz,
    /// An array of any dimension.
    Array(Box<Type>),
    /// Everything else, which is a string in JSON.
    Text,
}

/// Digits of a second that a type without a modifier keeps.
const MICROSECONDS: u8 = 6;

impl Type {
    /// By the name that `format_type` prints, with or without a modifier: `numeric(10,2)`, `timestamp(3) with time zone`, `integer[]`.
    pub fn of_name(name: &str) -> Type {
        // An array of any dimension has one pair of brackets; an array of a domain that is an array itself has two. To count
        // them, and no further, keeps this from descending.
        let element = name.trim_end_matches("[]");
        let depth = (name.len() - element.len()) / 2;
        // Alone of all, an array of boxes is separated by semicolons (`typdelim`).
        if depth > 0 && element == "box" {
            return Type::Text;
        }
        (0..depth.min(2)).fold(Type::of_element(element), |of, _| Type::Array(Box::new(of)))
    }

    fn of_element(name: &str) -> Type {
        let (base, modifier, rest) = match (name.find('('), name.find(')')) {
            (Some(open), Some(close)) if open < close => {
                (&name[..open], &name[open + 1..close], name[close + 1..].trim())
            }
            _ => (name, "", ""),
        };
        let digits = || modifier.parse().unwrap_or(MICROSECONDS);
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
    fn a_modifier_is_read_where_it_changes_how_a_value_is_written() {
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
    fn an_array_of_boxes_stays_text_because_it_is_separated_by_semicolons() {
        assert_eq!(Type::of_name("box[]"), Type::Text);
    }

    #[test]
    fn a_name_of_nothing_but_brackets_does_not_exhaust_the_stack() {
        assert!(matches!(Type::of_name(&"[]".repeat(1_000_000)), Type::Array(_)));
    }
}
