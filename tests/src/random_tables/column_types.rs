//! Types of columns, and values of each in SQL.

/// Type of a column.
#[derive(Debug)]
pub(super) struct ColumnType {
    /// Declaration in SQL. `{s}` is the schema of the round.
    pub(super) declaration: &'static str,
    /// Values in SQL.
    pub(super) values: &'static [&'static str],
    /// Whether a key may contain the type.
    ///
    /// None of its values is NaN, because wal2json 2.5 writes null for NaN.
    pub(super) in_keys: bool,
}

/// Types that each round creates in its schema.
pub(super) const OWN_TYPES: &str = r#"
    create type {s}.mood as enum ('ok', 'so "so"', 'très, bien');
    create type {s}."Mood" as enum ('A', 'a', '{}');
    create type {s}._lead as enum ('x', 'y,z');
    create type {s}.date as enum ('today', 'null');
    create type {s}.pair as (a int, b text);
    create domain {s}.small as int check (value < 100000);
    create domain {s}."Small er" as {s}.small;
    create domain {s}.price as numeric(12, 2);
    create domain {s}.ints as int[];
    create domain {s}.raw as bytea;
    create type {s}.span as range (subtype = float8);"#;

const fn key(declaration: &'static str, values: &'static [&'static str]) -> ColumnType {
    ColumnType {
        declaration,
        values,
        in_keys: true,
    }
}

const fn plain(declaration: &'static str, values: &'static [&'static str]) -> ColumnType {
    ColumnType {
        declaration,
        values,
        in_keys: false,
    }
}

/// Integer type of identifiers and of partition bounds.
pub(super) const ID: ColumnType = key("int", &[]);

/// Types with large values, which PostgreSQL may store outside the row.
pub(super) const LARGE: [ColumnType; 3] = [
    plain(
        "text",
        &[
            "repeat(md5('1'), 80)",
            "repeat(md5('2'), 90)",
            "repeat('ab,\"''{}', 400)",
            "'short'",
        ],
    ),
    plain(
        "bytea",
        &[
            "decode(repeat(md5('3'), 90), 'hex')",
            "decode(repeat('00ff', 1300), 'hex')",
            r"'\x00'",
        ],
    ),
    plain(
        "text[]",
        &[
            "array[repeat(md5('4'), 80), null, 'x']",
            "array[repeat(md5('5'), 80)]",
            "'{}'",
        ],
    ),
];

/// Other types.
#[rustfmt::skip]
pub(super) const TYPES: &[ColumnType] = &[
    key("smallint", &["-32768", "7", "8"]),
    key("int", &["0", "-1", "2147483647"]),
    key("bigint", &["9007199254740993", "-9223372036854775808", "5"]),
    key("numeric", &["0.10", "0.1", "123456789012345678901234567890.123456789", "-1e-20"]),
    key("numeric(8, 2)", &["1.5", "-2", "0"]),
    plain("numeric", &["'NaN'", "1e40", "'-Infinity'", "3.50"]),
    plain("real", &["0.1", "'NaN'", "3.4028235e38", "'-Infinity'"]),
    plain("float8", &["-0.1", "5e-324", "'Infinity'", "1e300"]),
    key("bool", &["true", "false"]),
    key("text", &["''", "'null'", "'a.b'", r#"'it''s "q" \\ {x}, y'"#, "'größe 🐘'",
        "'unchanged-toast-datum'"]),
    key("varchar(20)", &["'v'", "'V'", "'a b'"]),
    key("char(5)", &["'ab'", "'AB'", "''"]),
    plain("\"char\"", &["'x'", "' '"]),
    plain("name", &["'a name'"]),
    key("bytea", &[r"'\x00ff5c27'", r"'\x'"]),
    key("date", &["'2024-02-29'", "'0044-03-15 BC'", "'infinity'"]),
    plain("time", &["'12:34:56.789'", "'24:00'"]),
    plain("timetz", &["'00:30:00.5+05:30'", "'23:30-02'"]),
    key("timestamp", &["'2024-02-29 12:34:56.789'", "'-infinity'", "'1969-12-31 23:59:59'"]),
    key("timestamptz", &["'2024-02-29 12:34:56.789+05:30'", "'0044-03-15 12:00+00 BC'",
        "'2025-01-01 00:00+00'"]),
    plain("interval", &["'1 year 2 mons -3 days 4:05:06.7'", "'0'", "'-1 day 2 hours'"]),
    plain("json", &[r#"'{"b": 1,  "a": [null]}'"#, "'null'"]),
    plain("jsonb", &[r#"'{"b": 1,  "a": 1.10}'"#, "'null'"]),
    key("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000001'"]),
    key("inet", &["'192.168.0.1/24'", "'::1'"]),
    plain("cidr", &["'10.0.0.0/8'"]),
    plain("macaddr", &["'08:00:2b:01:02:03'"]),
    plain("money", &["'-1234.5'", "'0'"]),
    plain("bit(1)", &["b'1'", "b'0'"]),
    plain("bit(10)", &["b'0101110001'"]),
    plain("varbit", &["b'10'", "b'000000001'"]),
    plain("point", &["'(1,-2.5)'"]),
    plain("box", &["'((1,2),(3,4))'"]),
    plain("tsvector", &["'''it''''s'':1 b:2'"]),
    plain("oid", &["4294967295"]),
    plain("int4range", &["'[1,10)'", "'empty'"]),
    plain("tstzrange", &["'[2024-01-01 00:00+00,)'"]),
    plain("int4multirange", &["'{[1,2),[5,9)}'"]),
    plain("int[]", &["'{1,null,-3}'", "'{{1,2},{3,null}}'", "'[0:1]={5,6}'", "'{}'"]),
    plain("numeric(6, 2)[]", &["'{1.5,2}'"]),
    plain("float8[]", &["'{1.5,-0.1}'"]),
    plain("bool[]", &["'{t,f,null}'"]),
    plain("text[]", &[r#"array['a', 'b "c" \', 'd,e', '{f}', '', 'NULL', null]"#]),
    plain("bytea[]", &[r"array['\x00ff'::bytea]"]),
    plain("timestamptz[]", &["'{2024-02-29 12:34:56+01}'"]),
    plain("box[]", &["'{(1,2),(3,4);(0,0),(1,1)}'"]),
    plain("date[]", &["'{2024-02-29}'"]),
    plain("int4range[]", &["array['[1,3)'::int4range]"]),
    key("{s}.mood", &["'ok'", r#"'so "so"'"#, "'très, bien'"]),
    key("{s}.\"Mood\"", &["'A'", "'a'", "'{}'"]),
    plain("{s}.\"Mood\"[]", &["'{A,a,NULL}'", r#"array['{}']::{s}."Mood"[]"#]),
    key("{s}._lead", &["'x'", "'y,z'"]),
    key("{s}.date", &["'today'", "'null'"]),
    plain("{s}.date[]", &["'{today}'"]),
    plain("{s}.pair", &[r#"row(1, 'x "y", z')"#, "row(null, null)", "row(2, '')"]),
    plain("{s}.pair[]", &[r#"array[row(1, 'a"b')::{s}.pair]"#]),
    key("{s}.small", &["1", "2"]),
    key("{s}.\"Small er\"", &["3", "4"]),
    plain("{s}.\"Small er\"[]", &["'{3,4}'"]),
    key("{s}.price", &["3.5", "4"]),
    plain("{s}.price[]", &["'{3.5}'"]),
    plain("{s}.ints", &["'{1,null}'"]),
    plain("{s}.raw", &[r"'\xbeef'"]),
    plain("{s}.span", &["'(0.5,1]'"]),
];
