//! Names of types as PostgreSQL's function `format_type` prints them, for plugins that tell a type in another way.

use postgres_types::{Kind, Type as BuiltIn};

/// The first OID that a user's object can get (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

/// What a variable-length modifier is larger by than the length it stands for (`VARHDRSZ`).
const HEADER: i32 = 4;

/// The name of a built-in type by its OID (`pg_type.dat`; these never change) and its modifier, -1 for none. `None` for a type
/// that the server must describe.
pub fn of_oid(oid: u32, modifier: i32) -> Option<String> {
    if oid >= FIRST_USER_OID {
        return None;
    }
    let built_in = BuiltIn::from_oid(oid)?;
    Some(match built_in.kind() {
        // The two vectors are arrays to the type system, but not in their text nor by their names.
        Kind::Array(element) if built_in.name().starts_with('_') => {
            format!("{}[]", of_built_in(element.name(), modifier))
        }
        _ => of_built_in(built_in.name(), modifier),
    })
}

/// The name of a type by its schema and its name in `pg_type`, as pgoutput describes the types that are not built in: users' own, and
/// what a domain is made of, then without a modifier. The schema pg_catalog is sent as an empty name.
///
/// `format_type` leaves out the schema where the search path finds the type without it, which is here taken to be `public`.
pub fn of_catalog_name(schema: &str, name: &str) -> String {
    // An array's type is named after its element's, with an underscore before it; a second one only avoids a name that is taken.
    let element = name.trim_start_matches('_');
    let brackets = if element.len() == name.len() { "" } else { "[]" };
    match schema {
        "" => of_built_in(element, -1) + brackets,
        // One that bears the name of a built-in type is found only by its full name.
        "public" if super::Type::of_name(element) == super::Type::Text => quoted(element) + brackets,
        _ => format!("{}.{}{brackets}", quoted(schema), quoted(element)),
    }
}

/// A name without its modifier and its quotes: in what the plugins agree, whether or not they tell modifiers and quote names.
pub fn bare_name(name: &str) -> String {
    let element = name.trim_end_matches("[]");
    let mut base = match (element.find('('), element.find(')')) {
        (Some(open), Some(close)) if open < close => [&element[..open], &element[close + 1..]].concat(),
        _ => element.to_owned(),
    };
    base.retain(|c| c != '"');
    if base.starts_with("interval ") {
        base.truncate("interval".len());
    }
    // A character type without a length is printed so.
    if base == "bpchar" {
        base.replace_range(.., "character");
    }
    if element.len() < name.len() {
        base.push_str("[]");
    }
    base
}

fn of_built_in(name: &str, modifier: i32) -> String {
    let with = |name: &str, number: Option<i32>| match number {
        Some(number) => format!("{name}({number})"),
        None => name.to_owned(),
    };
    let given = (modifier >= 0).then_some(modifier);
    let length = given.map(|given| given - HEADER);
    let zoned = |name: &str, zone: &str| format!("{} {zone} time zone", with(name, given));
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
        // Without a length it is not what `bit` means in SQL.
        "bit" if given.is_none() => "\"bit\"".to_owned(),
        "bit" => with("bit", given),
        "varbit" => with("bit varying", given),
        "numeric" => match length {
            // 11 bits of scale, signed (from PostgreSQL 15 on; before, it was never so large as to differ).
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
        "interval" => match given {
            Some(packed) => interval(packed),
            None => "interval".to_owned(),
        },
        other => other.to_owned(),
    }
}

/// An interval with its fields and its digits of a second (`intervaltypmodout`).
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

fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::Type;
    use super::*;

    /// As PostgreSQL 15 printed them for the columns of a table, with their `atttypid` and `atttypmod`.
    #[test]
    fn an_oid_and_a_modifier_are_named_as_the_server_names_them() {
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
    fn a_described_type_is_named_by_its_schema_unless_the_search_path_finds_it() {
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
    fn names_agree_in_what_is_neither_modifier_nor_quotes() {
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
