//! Types of the key of a backfilled table.
//!
//! Each key is made of a number, so that writers address rows by numbers. This holds for each type.

use crate::random_play::row_key::RowKey;

/// Column of a key: its name, its type, and its value as SQL over `{}`, a `bigint` of 0 or more.
///
/// Values order about as the numbers do.
type KeyColumn = (&'static str, &'static str, &'static str);

/// Type of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyType {
    pub(super) name: &'static str,
    columns: &'static [KeyColumn],
}

const fn key_type(name: &'static str, columns: &'static [KeyColumn]) -> KeyType {
    KeyType { name, columns }
}

const BYTES: &str = "decode(lpad(to_hex({}::bigint), 16, '0'), 'hex')";
const MINOR: &str = "'b' || lpad(({}::bigint % 1000)::text, 3, '0')";
const TIME: &str = "'2000-01-01 00:00:00+00'::timestamptz + {}::bigint * interval '1 second'";
const UUID: &str = "(lpad(to_hex({}::bigint), 8, '0') || '-0000-4000-8000-000000000000')::uuid";
const MIXED_CASE: &str =
    "(case {}::bigint / 1000 % 2 when 0 then 'a ' else 'B-' end) || lpad({}::bigint::text, 10, '0')";

/// All types.
pub(super) const KEY_TYPES: [KeyType; 7] = [
    key_type("bigint", &[("id", "bigint", "{}::bigint")]),
    key_type(
        "composite",
        &[
            ("a", "int", "({}::bigint / 1000)::int"),
            ("b", "text collate \"C\"", MINOR),
        ],
    ),
    key_type("uuid", &[("id", "uuid", UUID)]),
    // This collation sorts small letters before capital ones; "C" does the opposite.
    key_type("text", &[("id", "text collate \"en-x-icu\"", MIXED_CASE)]),
    key_type("numeric", &[("id", "numeric", "{}::bigint * 0.5")]),
    key_type("timestamptz", &[("id", "timestamptz", TIME)]),
    key_type("bytea", &[("id", "bytea", BYTES)]),
];

impl KeyType {
    /// Names of the columns.
    pub(super) fn columns(&self) -> Vec<&'static str> {
        self.columns.iter().map(|(name, ..)| *name).collect()
    }

    /// Definitions of the columns, as `create table` takes them.
    pub(super) fn definition(&self) -> String {
        let columns = self.columns.iter();
        let columns = columns.map(|(name, sql_type, _)| format!("{name} {sql_type}"));
        columns.collect::<Vec<String>>().join(", ")
    }

    /// Key of a number, which may be any SQL of type `bigint`.
    pub(super) fn key(&self, number: impl ToString) -> RowKey {
        let number = number.to_string();
        let columns = self.columns.iter();
        let columns = columns.map(|(name, _, value)| (*name, value.replace("{}", &number)));
        RowKey(columns.collect())
    }
}
