//! Names of types as PostgreSQL's function `format_type` prints them.
//!
//! pgoutput sends types by their OIDs and catalog names instead.

use postgres_types::{Kind, Type as BuiltIn};

use super::Type;
use crate::table_name::quoted_if_needed;

/// The lowest OID of an object that a user creates (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// Difference between a variable-length type's modifier and its length (`VARHDRSZ`).
const MODIFIER_HEADER: i32 = 4;

/// Name of the built-in type with this OID and this modifier; -1 is no modifier.
///
/// Returns `None` for a type that is not built in: the server must describe it. The OIDs of built-in types
/// never change (`pg_type.dat`).
pub fn of_oid(oid: u32, modifier: i32) -> Option<String> {
    if oid >= FIRST_USER_OID {
        return None;
    }
    let built_in = BuiltIn::from_oid(oid)?;
    Some(match built_in.kind() {
        // `int2vector` and `oidvector` are arrays in the type system, but neither their names nor their text
        // are those of arrays.
        Kind::Array(element) if built_in.name().starts_with('_') => {
            format!("{}[]", of_built_in(element.name(), modifier))
        }
        _ => of_built_in(built_in.name(), modifier),
    })
}

/// Name of the type with this schema and this name in `pg_type`.
///
/// pgoutput sends these two names for a type that is not built in. For a domain it sends its base type,
/// without its modifier. An empty schema is `pg_catalog`.
///
/// `format_type` omits the schema if the search path finds the type without it. This function assumes the
/// search path `public`.
pub fn of_catalog_name(schema: &str, name: &str) -> String {
    // The name of an array's type is an underscore and the name of its element's type. PostgreSQL adds
    // another underscore if that name is already used.
    let element = name.trim_start_matches('_');
    let brackets = if element.len() == name.len() { "" } else { "[]" };
    match schema {
        "" => of_built_in(element, -1) + brackets,
        // A type in `public` with the name of a built-in type needs its schema: the search path finds the
        // built-in type first.
        "public" if Type::of_name(element) == Type::Text => quoted_if_needed(element) + brackets,
        _ => format!(
            "{}.{}{brackets}",
            quoted_if_needed(schema),
            quoted_if_needed(element)
        ),
    }
}

/// Name of a type without its modifier and its quotes.
///
/// The plugins' names of one type differ only in modifiers and quotes.
pub fn bare_name(name: &str) -> String {
    let element = name.trim_end_matches("[]");
    let mut bare = match (element.find('('), element.find(')')) {
        (Some(open), Some(close)) if open < close => [&element[..open], &element[close + 1..]].concat(),
        _ => element.to_owned(),
    };
    bare.retain(|c| c != '"');
    if bare.starts_with("interval ") {
        bare.truncate("interval".len());
    }
    // `format_type` prints `character` without a length as `bpchar`.
    if bare == "bpchar" {
        bare.replace_range(.., "character");
    }
    if element.len() < name.len() {
        bare.push_str("[]");
    }
    bare
}

/// `format_type`'s name of the built-in type with this name in `pg_type`.
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
        "numeric" => match length {
            // The scale has 11 bits and a sign since PostgreSQL 15. The scales of earlier versions are the
            // same in this form: they were never that large.
            Some(packed) => {
                let (precision, scale) = (packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024);
                format!("numeric({precision},{scale})")
            }
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

/// Name of an interval with its fields and its fractional digits of a second (`intervaltypmodout`).
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

    /// The names are PostgreSQL 15's for columns with this `atttypid` and this `atttypmod`.
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
        assert_eq!(of_oid(FIRST_USER_OID, -1), None);
    }

    #[test]
    fn a_type_has_its_schema_in_its_name_unless_the_search_path_finds_it() {
        for (schema, name, expected) in [
            ("", "int4", "integer"),
            ("", "_text", "text[]"),
            ("public", "mood", "mood"),
            ("public", "_mood", "mood[]"),
            ("public", "Pair.of [x]", "\"Pair.of [x]\""),
            ("public", "date", "public.date"),
            ("My app", "status", "\"My app\".status"),
            ("other", "_Mo\"od", "other.\"Mo\"\"od\"[]"),
        ] {
            assert_eq!(of_catalog_name(schema, name), expected);
        }
        assert_eq!(Type::of_name(&of_catalog_name("public", "date")), Type::Text);
    }

    #[test]
    fn names_of_one_type_are_equal_without_modifiers_and_quotes() {
        for (one, other) in [
            ("numeric(10,2)[]", "numeric[]"),
            ("timestamp(3) without time zone", "timestamp without time zone"),
            ("interval day to second(3)", "interval"),
            ("bpchar", "character"),
            ("bit(3)", "\"bit\""),
            ("\"My app\".\"Mo[od\"", "My app.Mo[od"),
        ] {
            assert_eq!(bare_name(one), bare_name(other));
        }
        assert_ne!(bare_name("integer"), bare_name("integer[]"));
    }
}
