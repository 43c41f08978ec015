//! Types of the key of a backfilled table.
//!
//! Each key is made of a number, so that writers address rows by numbers, whatever the type.

use crate::random_play::row_key::RowKey;

/// Type of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyType {
    pub(super) name: &'static str,
    columns: &'static [KeyColumn],
}

/// Column of a key.
#[derive(Debug, Clone, Copy)]
struct KeyColumn {
    name: &'static str,
    sql_type: &'static str,
    /// Value as SQL over `{}`, a `bigint` of 0 or more. Values order about as the numbers do.
    value: &'static str,
}

const fn column(name: &'static str, sql_type: &'static str, value: &'static str) -> KeyColumn {
    KeyColumn {
        name,
        sql_type,
        value,
    }
}

/// All types.
pub(super) const KEY_TYPES: [KeyType; 7] = [
    KeyType {
        name: "bigint",
        columns: &[column("id", "bigint", "{}::bigint")],
    },
    KeyType {
        name: "composite",
        columns: &[
            column("a", "int", "({}::bigint / 1000)::int"),
            column(
                "b",
                "text collate \"C\"",
                "'b' || lpad(({}::bigint % 1000)::text, 3, '0')",
            ),
        ],
    },
    KeyType {
        name: "uuid",
        columns: &[column(
            "id",
            "uuid",
            "(lpad(to_hex({}::bigint), 8, '0') || '-0000-4000-8000-000000000000')::uuid",
        )],
    },
    // This collation sorts small letters before capital ones; "C" does the opposite.
    KeyType {
        name: "text",
        columns: &[column(
            "id",
            "text collate \"en-x-icu\"",
            "(case {}::bigint / 1000 % 2 when 0 then 'a ' else 'B-' end) || lpad({}::bigint::text, 10, '0')",
        )],
    },
    KeyType {
        name: "numeric",
        columns: &[column("id", "numeric", "{}::bigint * 0.5")],
    },
    KeyType {
        name: "timestamptz",
        columns: &[column(
            "id",
            "timestamptz",
            "'2000-01-01 00:00:00+00'::timestamptz + {}::bigint * interval '1 second'",
        )],
    },
    KeyType {
        name: "bytea",
        columns: &[column(
            "id",
            "bytea",
            "decode(lpad(to_hex({}::bigint), 16, '0'), 'hex')",
        )],
    },
];

impl KeyType {
    /// Names of the columns.
    pub(super) fn columns(&self) -> Vec<&'static str> {
        self.columns.iter().map(|column| column.name).collect()
    }

    /// Definitions of the columns, as `create table` takes them.
    pub(super) fn definition(&self) -> String {
        let columns = self.columns.iter();
        let columns = columns.map(|column| format!("{} {}", column.name, column.sql_type));
        columns.collect::<Vec<String>>().join(", ")
    }

    /// Key of a number, which may be any SQL of type `bigint`.
    pub(super) fn key(&self, number: impl ToString) -> RowKey {
        let number = number.to_string();
        let columns = self.columns.iter();
        RowKey(
            columns
                .map(|column| (column.name, column.value.replace("{}", &number)))
                .collect(),
        )
    }
}
