//! The keys that tables of a play have. Each is made of a number, so that writers know rows by numbers, whatever the type.

/// A kind of key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// What it is called.
    pub(super) name: &'static str,
    /// Its columns, and their types.
    pub(super) columns: &'static [(&'static str, &'static str)],
    /// Its values, as SQL over `{}`, a `bigint` of 0 or more. They order as the numbers do, more or less.
    values: &'static [&'static str],
}

/// All kinds.
pub(super) const KEYS: [Key; 7] = [
    Key {
        name: "bigint",
        columns: &[("id", "bigint")],
        values: &["{}::bigint"],
    },
    Key {
        name: "composite",
        columns: &[("a", "int"), ("b", "text collate \"C\"")],
        values: &[
            "({}::bigint / 1000)::int",
            "'b' || lpad(({}::bigint % 1000)::text, 3, '0')",
        ],
    },
    Key {
        name: "uuid",
        columns: &[("id", "uuid")],
        values: &["(lpad(to_hex({}::bigint), 8, '0') || '-0000-4000-8000-000000000000')::uuid"],
    },
    // Where small letters come before capital ones, unlike in C.
    Key {
        name: "text",
        columns: &[("id", "text collate \"en-x-icu\"")],
        values: &[
            "(case {}::bigint / 1000 % 2 when 0 then 'a ' else 'B-' end) || lpad({}::bigint::text, 10, '0')",
        ],
    },
    Key {
        name: "numeric",
        columns: &[("id", "numeric")],
        values: &["{}::bigint * 0.5"],
    },
    Key {
        name: "timestamptz",
        columns: &[("id", "timestamptz")],
        values: &["'2000-01-01 00:00:00+00'::timestamptz + {}::bigint * interval '1 second'"],
    },
    Key {
        name: "bytea",
        columns: &[("id", "bytea")],
        values: &["decode(lpad(to_hex({}::bigint), 16, '0'), 'hex')"],
    },
];

impl Key {
    /// The names of its columns, as SQL lists them.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// Its definition, as `create table` takes it.
    pub(super) fn definition(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(name, kind)| format!("{name} {kind}"))
            .collect();
        columns.join(", ")
    }

    /// The key of this number, as SQL lists it.
    pub(super) fn of(&self, number: &str) -> String {
        let values: Vec<String> = self.values.iter().map(|it| it.replace("{}", number)).collect();
        values.join(", ")
    }

    /// The condition that a row has the key of this number.
    pub(super) fn is(&self, number: u64) -> String {
        let number = number.to_string();
        let columns = self.columns.iter().zip(self.values);
        let equal: Vec<String> = columns
            .map(|((name, _), value)| format!("{name} = {}", value.replace("{}", &number)))
            .collect();
        format!("({})", equal.join(" and "))
    }

    /// What `update … set` takes to give a row the key of this number.
    pub(super) fn becomes(&self, number: u64) -> String {
        let number = number.to_string();
        let columns = self.columns.iter().zip(self.values);
        let set: Vec<String> = columns
            .map(|((name, _), value)| format!("{name} = {}", value.replace("{}", &number)))
            .collect();
        set.join(", ")
    }
}
