//! Names of types as PostgreSQL's function `format_type` prints them.
//!
//! test_decoding sends only this name of a type. wal2json sends the name and the OID. pgoutput sends the OID,
//! but not this name.

use std::collections::HashMap;
use std::sync::LazyLock;

use postgres_types::{Kind, Type as BuiltIn};

use crate::base::table_name::quoted_if_needed;

/// Difference between a variable-length type's modifier and its length (`VARHDRSZ`).
const MODIFIER_HEADER: i32 = 4;

/// Whether a built-in type has this OID.
///
/// A built-in type need not be read from the catalog.
pub fn is_built_in(oid: u32) -> bool {
    BuiltIn::from_oid(oid).is_some()
}

/// Name of the built-in type with this OID and modifier.
///
/// -1 means no modifier. Returns `None` for a type that is not built in: only the catalog has its name. The
/// OIDs of built-in types never change (`pg_type.dat`).
pub fn of_oid(oid: u32, modifier: i32) -> Option<String> {
    let built_in = BuiltIn::from_oid(oid)?;
    Some(match built_in.kind() {
        // `int2vector` and `oidvector` are arrays in the type system, but their names and their values are
        // not written like those of arrays.
        Kind::Array(element) if built_in.name().starts_with('_') => {
            format!("{}[]", of_built_in(element.name(), modifier))
        }
        _ => of_built_in(built_in.name(), modifier),
    })
}

/// Name of a built-in type as `format_type(oid, null)` prints it.
///
/// test_decoding prints types in this form. The name differs from that of [`of_oid`] with the modifier -1
/// only for `bpchar`, `bit` and their arrays.
pub fn name_without_modifier(oid: u32) -> Option<String> {
    let name = of_oid(oid, -1)?;
    let (element, brackets) = split_brackets(&name);
    Some(match element {
        "bpchar" => format!("character{brackets}"),
        "\"bit\"" => format!("bit{brackets}"),
        _ => name,
    })
}

/// OID and modifier of the built-in type with this printed name.
///
/// `format_type` prints this name, which may have a modifier. A user's type may have the same name in
/// `pg_type`. But `format_type` prints the name of that type with its schema or in quotes, so it differs.
pub fn built_in_of_name(name: &str) -> Option<(u32, i32)> {
    let (element, brackets) = split_brackets(name);
    let (mut base, digits) = match (element.find('('), element.find(')')) {
        (Some(open), Some(close)) if open < close => (
            [&element[..open], &element[close + 1..]].concat(),
            &element[open + 1..close],
        ),
        _ => (element.to_owned(), ""),
    };
    if base.starts_with("interval ") {
        base.truncate("interval".len());
    }
    let modifier = BUILT_INS.printed.get(&base).map(|oid| modifier(*oid, digits));
    let oid = BUILT_INS.printed.get(&(base + brackets))?;
    Some((*oid, modifier.unwrap_or(-1)))
}

/// OID of the built-in type with this name in `pg_type`.
///
/// The schema of the type is `pg_catalog`.
pub fn built_in_of_catalog_name(name: &str) -> Option<u32> {
    BUILT_INS.catalog.get(name).copied()
}

/// Printed name of a type, if the search path is `public`.
///
/// `schema` and `name` are those of the type in `pg_type`. The result has no schema if the search path finds
/// the type without it. PostgreSQL searches the built-in types before the schema `public`.
pub fn printed_name(schema: &str, name: &str) -> String {
    match schema {
        "public" if built_in_of_catalog_name(name).is_none() => quoted_if_needed(name),
        _ => format!("{}.{}", quoted_if_needed(schema), quoted_if_needed(name)),
    }
}

/// Precision and scale of a numeric with this modifier; `None` without one.
///
/// Since PostgreSQL 15, the scale is a signed number of 11 bits. Before, it was a number from 0 to 1000. Such
/// a number has the same bits in both forms.
pub fn numeric_digits(modifier: i32) -> Option<(i32, i32)> {
    let packed = modifier
        .checked_sub(MODIFIER_HEADER)
        .filter(|packed| *packed >= 0)?;
    Some((packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024))
}

/// Splits the name of an array into its element's name and `[]`.
///
/// Any other name is returned unchanged, with an empty text.
///
/// The name of an array has one pair of brackets, whatever its number of dimensions. Brackets in the name
/// of a user's type are within quotes.
pub fn split_brackets(name: &str) -> (&str, &'static str) {
    match name.strip_suffix("[]") {
        Some(element) => (element, "[]"),
        None => (name, ""),
    }
}

/// OIDs of the built-in types, by two kinds of names.
struct BuiltInNames {
    /// By the names that `format_type` prints.
    printed: HashMap<String, u32>,
    /// By the names in `pg_type`.
    catalog: HashMap<String, u32>,
}

static BUILT_INS: LazyLock<BuiltInNames> = LazyLock::new(|| {
    /// Every built-in type has a smaller OID (`FirstGenbkiObjectId`).
    const FIRST_OTHER_OID: u32 = 10_000;
    let (mut printed, mut catalog) = (HashMap::new(), HashMap::new());
    for oid in 1..FIRST_OTHER_OID {
        let Some(built_in) = BuiltIn::from_oid(oid) else {
            continue;
        };
        catalog.insert(built_in.name().to_owned(), oid);
        printed.extend(
            [of_oid(oid, -1), name_without_modifier(oid)]
                .into_iter()
                .flatten()
                .map(|name| (name, oid)),
        );
    }
    BuiltInNames { printed, catalog }
});

/// Modifier of a built-in type whose name has these digits in parentheses.
///
/// It is -1 if the name has no modifier. It is also -1 for each interval: the fields and digits of an
/// interval do not change how its values are written.
fn modifier(oid: u32, digits: &str) -> i32 {
    let number = |text: &str| text.parse::<i32>().ok();
    let modifier = match BuiltIn::from_oid(oid) {
        Some(BuiltIn::NUMERIC) => digits.split_once(',').and_then(|(precision, scale)| {
            let precision = number(precision).filter(|precision| (0..0x8000).contains(precision))?;
            Some((precision << 16 | number(scale)? & 0x7FF) + MODIFIER_HEADER)
        }),
        Some(BuiltIn::VARCHAR | BuiltIn::BPCHAR) => {
            number(digits).and_then(|length| length.checked_add(MODIFIER_HEADER))
        }
        Some(BuiltIn::INTERVAL) => None,
        _ => number(digits),
    };
    modifier.unwrap_or(-1)
}

/// Printed name of the built-in type with this name in `pg_type`.
fn of_built_in(name: &str, modifier: i32) -> String {
    let with = |name: &str, number: Option<i32>| match number {
        Some(number) => format!("{name}({number})"),
        None => name.to_owned(),
    };
    let modifier = (modifier >= 0).then_some(modifier);
    let length = modifier.map(|modifier| modifier - MODIFIER_HEADER);
    let zoned = |name: &str, zone: &str| format!("{} {zone} time zone", with(name, modifier));
    match name {
        "bool" => "boolean".to_owned(),
        "int2" => "smallint".to_owned(),
        "int4" => "integer".to_owned(),
        "int8" => "bigint".to_owned(),
        "float4" => "real".to_owned(),
        "float8" => "double precision".to_owned(),
        "char" => "\"char\"".to_owned(),
        "bpchar" if length.is_some() => with("character", length),
        "varchar" => with("character varying", length),
        // In SQL, `bit` without quotes means `bit(1)`.
        "bit" if modifier.is_none() => "\"bit\"".to_owned(),
        "bit" => with("bit", modifier),
        "varbit" => with("bit varying", modifier),
        "numeric" => match modifier.and_then(numeric_digits) {
            Some((precision, scale)) => format!("numeric({precision},{scale})"),
            None => "numeric".to_owned(),
        },
        "time" => zoned("time", "without"),
        "timetz" => zoned("time", "with"),
        "timestamp" => zoned("timestamp", "without"),
        "timestamptz" => zoned("timestamp", "with"),
        "interval" => match modifier {
            Some(packed) => interval(packed),
            None => "interval".to_owned(),
        },
        other => other.to_owned(),
    }
}

/// Name of an interval type, as `intervaltypmodout` writes it.
///
/// The name contains the interval's fields and its fractional digits of a second.
fn interval(packed: i32) -> String {
    const FIELDS: [(i32, &str); 6] = [
        (2, "year"),
        (1, "month"),
        (3, "day"),
        (10, "hour"),
        (11, "minute"),
        (12, "second"),
    ];
    const ALL_FIELDS: i32 = 0x7FFF;
    const ALL_DIGITS: i32 = 0xFFFF;
    let (range, digits) = (packed >> 16 & ALL_FIELDS, packed & ALL_DIGITS);
    let mut name = "interval".to_owned();
    if range != ALL_FIELDS {
        let mut fields = FIELDS.iter().filter(|(bit, _)| range >> bit & 1 == 1);
        if let Some((_, first)) = fields.next() {
            name.extend([" ", first]);
        }
        if let Some((_, last)) = fields.next_back() {
            name.extend([" to ", last]);
        }
    }
    if digits != ALL_DIGITS {
        name.push_str(&format!("({digits})"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that PostgreSQL 15 prints for `atttypid` and `atttypmod`.
    #[test]
    fn an_oid_and_a_modifier_have_the_name_that_the_server_prints() {
        for (oid, modifier, name) in [
            (16, -1, "boolean"),
            (20, -1, "bigint"),
            (701, -1, "double precision"),
            (1700, -1, "numeric"),
            (1700, 655_366, "numeric(10,2)"),
            (1700, 198_658, "numeric(3,-2)"),
            (17, -1, "bytea"),
            (18, -1, "\"char\""),
            (1042, 8, "character(4)"),
            (1042, -1, "bpchar"),
            (1043, 24, "character varying(20)"),
            (1043, -1, "character varying"),
            (1560, 3, "bit(3)"),
            (1560, -1, "\"bit\""),
            (1562, 4, "bit varying(4)"),
            (1083, 3, "time(3) without time zone"),
            (1266, -1, "time with time zone"),
            (1114, -1, "timestamp without time zone"),
            (1184, 3, "timestamp(3) with time zone"),
            (1186, -1, "interval"),
            (1186, 2_147_418_115, "interval(3)"),
            (1186, 470_286_339, "interval day to second(3)"),
            (1186, 458_751, "interval year to month"),
            (1231, 655_366, "numeric(10,2)[]"),
            (1014, 8, "character(4)[]"),
            (22, -1, "int2vector"),
            (30, -1, "oidvector"),
            (790, -1, "money"),
            (3905, -1, "int4range[]"),
        ] {
            assert_eq!(of_oid(oid, modifier).as_deref(), Some(name), "{oid} {modifier}");
        }
        assert_eq!(of_oid(20_000, -1), None);
    }

    #[test]
    fn a_type_has_its_schema_in_its_name_unless_the_search_path_finds_it() {
        for (schema, name, expected) in [
            ("public", "mood", "mood"),
            ("public", "_lead", "_lead"),
            ("public", "Pair.of [x]", "\"Pair.of [x]\""),
            ("public", "order", "\"order\""),
            ("public", "date", "public.date"),
            ("My app", "status", "\"My app\".status"),
            ("other", "Mo\"od", "other.\"Mo\"\"od\""),
        ] {
            assert_eq!(printed_name(schema, name), expected);
        }
    }

    #[test]
    fn a_printed_name_identifies_one_built_in_type_or_none() {
        for (name, oid, modifier) in [
            ("integer", 23, -1),
            ("integer[]", 1007, -1),
            ("numeric(10,2)", 1700, 655_366),
            ("numeric(3,-2)[]", 1231, 198_658),
            ("timestamp(3) without time zone", 1114, 3),
            ("interval day to second(3)", 1186, -1),
            ("character varying(20)", 1043, 24),
            ("character", 1042, -1),
            ("bpchar[]", 1014, -1),
            ("character(3)[]", 1014, 7),
            ("\"char\"", 18, -1),
            ("bit(3)", 1560, 3),
            ("\"bit\"", 1560, -1),
        ] {
            assert_eq!(built_in_of_name(name), Some((oid, modifier)), "{name}");
        }
        for name in [
            "app.date",
            "\"integer\"",
            "date[][]",
            "int4",
            "",
            "[]",
            "numeric(",
            "mood",
        ] {
            assert_eq!(built_in_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn each_built_in_type_is_found_by_its_names() {
        for oid in (1..10_000).filter(|oid| BuiltIn::from_oid(*oid).is_some()) {
            for name in [of_oid(oid, -1), name_without_modifier(oid)]
                .into_iter()
                .flatten()
            {
                assert_eq!(built_in_of_name(&name), Some((oid, -1)), "{name}");
            }
        }
    }
}
