//! What a plugin tells, whichever plugin it was: transactions, and the changes in them. Values stay text, as
//! PostgreSQL's output functions wrote them, and are borrowed from the server's row wherever they can be.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::lsn::Lsn;

/// One row that the server's peek returned, decoded.
#[derive(Debug, PartialEq)]
pub enum Item<'a> {
    /// A transaction begins. What the plugin only tells at the commit is `None`.
    Begin {
        /// The transaction's id, 32 bits as in the log.
        xid: u32,
        /// End of the commit record.
        commit_end: Option<Lsn>,
        /// When it was committed, µs since 1970-01-01 UTC.
        commit_time: Option<i64>,
    },
    /// The transaction ends; its commit record ends at `commit_end` (exclusive: the next record may start there).
    Commit {
        /// End of the commit record.
        commit_end: Lsn,
        /// When it was committed, µs since 1970-01-01 UTC.
        commit_time: Option<i64>,
    },
    /// A change of the transaction that is open.
    Change(Change<'a>),
    /// A logical message that belongs to no transaction; the row's LSN is the end of its record.
    Message(Message<'a>),
    /// Something that only the decoder needed, such as a table's definition.
    Nothing,
}

impl Item<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Item<'static> {
        match self {
            Item::Begin {
                xid,
                commit_end,
                commit_time,
            } => Item::Begin {
                xid,
                commit_end,
                commit_time,
            },
            Item::Commit {
                commit_end,
                commit_time,
            } => Item::Commit {
                commit_end,
                commit_time,
            },
            Item::Change(change) => Item::Change(change.into_owned()),
            Item::Message(message) => Item::Message(message.into_owned()),
            Item::Nothing => Item::Nothing,
        }
    }
}

/// A committed change.
#[derive(Debug, PartialEq)]
pub enum Change<'a> {
    /// A row came.
    Insert {
        /// The table.
        relation: Arc<Relation>,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// The table.
        relation: Arc<Relation>,
        /// What is known of the row before: the key columns when the key changed, all columns with
        /// `replica identity full`, otherwise nothing.
        old: Option<Tuple<'a>>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// A row went.
    Delete {
        /// The table.
        relation: Arc<Relation>,
        /// The key columns, or all columns with `replica identity full`.
        old: Tuple<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// The tables, in the server's order.
        relations: Vec<Arc<Relation>>,
    },
    /// A logical message inside the transaction.
    Message(Message<'a>),
}

impl Change<'_> {
    fn into_owned(self) -> Change<'static> {
        match self {
            Change::Insert { relation, new } => Change::Insert {
                relation,
                new: owned(new),
            },
            Change::Update { relation, old, new } => Change::Update {
                relation,
                old: old.map(owned),
                new: owned(new),
            },
            Change::Delete { relation, old } => Change::Delete {
                relation,
                old: owned(old),
            },
            Change::Truncate { relations } => Change::Truncate { relations },
            Change::Message(message) => Change::Message(message.into_owned()),
        }
    }
}

fn owned(tuple: Tuple<'_>) -> Tuple<'static> {
    let datum = |datum| match datum {
        Datum::Null => Datum::Null,
        Datum::Unchanged => Datum::Unchanged,
        Datum::Absent => Datum::Absent,
        Datum::Text(text) => Datum::Text(Cow::Owned(text.into_owned())),
    };
    tuple.into_iter().map(datum).collect()
}

/// A message written by `pg_logical_emit_message`.
#[derive(Debug, PartialEq)]
pub struct Message<'a> {
    /// The prefix that the writer gave.
    pub prefix: Cow<'a, str>,
    /// The content, which need not be text.
    pub content: Cow<'a, [u8]>,
}

impl Message<'_> {
    fn into_owned(self) -> Message<'static> {
        Message {
            prefix: Cow::Owned(self.prefix.into_owned()),
            content: Cow::Owned(self.content.into_owned()),
        }
    }
}

/// The values of a row, one for each column of its [`Relation`], in the same order.
pub type Tuple<'a> = Vec<Datum<'a>>;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum<'a> {
    /// SQL null.
    Null,
    /// A large value that the update did not touch and the log therefore does not hold (TOAST).
    Unchanged,
    /// The plugin did not send this column, as the columns outside the key of an old row.
    Absent,
    /// The value in PostgreSQL's text form.
    Text(Cow<'a, str>),
}

/// A table as it was when the change was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Relation {
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// The columns that the plugin sends, in table order.
    pub columns: Vec<Column>,
}

impl Relation {
    /// Whether rows of this table can be told apart.
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }
}

/// `schema.table`
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its text is to be read.
    pub kind: Type,
    /// Whether it belongs to the key: the replica identity, or the primary key where the whole row is the identity.
    pub key: bool,
}

/// What an envelope needs to know of a PostgreSQL type to write its text as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `boolean`
    Bool,
    /// `smallint`, `integer`, `bigint`, `oid`: digits that JSON takes as they are
    Integer,
    /// `real`, `double precision`
    Float,
    /// `numeric`
    Numeric,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`
    Time,
    /// `time with time zone`
    TimeTz,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    TimestampTz,
    /// An array of any dimension.
    Array(Box<Type>),
    /// Everything else, which is a string in JSON.
    Text,
}

impl Type {
    /// By OID, for the built-in types (`pg_type.dat`; these never change). `None` for a type that the server must describe.
    pub fn of_oid(oid: u32) -> Option<Type> {
        // 16384 is the first OID a user's object can get (FirstNormalObjectId).
        if oid >= 16_384 {
            return None;
        }
        let kind = postgres_types::Type::from_oid(oid).map(|built_in| built_in.kind().clone());
        if let Some(postgres_types::Kind::Array(element)) = kind {
            // Alone of all, an array of boxes is separated by semicolons.
            let boxes = element == postgres_types::Type::BOX;
            return Type::of_oid(element.oid())
                .filter(|_| !boxes)
                .map(|of| Type::Array(Box::new(of)))
                .or(Some(Type::Text));
        }
        Some(match oid {
            16 => Type::Bool,
            20 | 21 | 23 | 26 => Type::Integer,
            700 | 701 => Type::Float,
            1700 => Type::Numeric,
            17 => Type::Bytea,
            1082 => Type::Date,
            1083 => Type::Time,
            1266 => Type::TimeTz,
            1114 => Type::Timestamp,
            1184 => Type::TimestampTz,
            _ => Type::Text,
        })
    }

    /// By the name in `pg_type`, as pgoutput tells it for domains (the name of the base type) and for users' own types.
    pub fn of_catalog_name(name: &str) -> Type {
        match name {
            "bool" => Type::Bool,
            "int2" | "int4" | "int8" | "oid" => Type::Integer,
            "float4" | "float8" => Type::Float,
            "numeric" => Type::Numeric,
            "bytea" => Type::Bytea,
            "date" => Type::Date,
            "time" => Type::Time,
            "timetz" => Type::TimeTz,
            "timestamp" => Type::Timestamp,
            "timestamptz" => Type::TimestampTz,
            // An array's type is named after its element's, with an underscore before it.
            _ => match name.strip_prefix('_') {
                Some(element) => Type::Array(Box::new(Type::of_catalog_name(element))),
                None => Type::Text,
            },
        }
    }

    /// By the name that `format_type` prints, with or without a modifier: `numeric(10,2)`, `timestamp(3) with time zone`, `integer[]`.
    pub fn of_name(name: &str) -> Type {
        if let Some(element) = name.strip_suffix("[]") {
            return Type::Array(Box::new(Type::of_name(element)));
        }
        let (base, rest) = match (name.find('('), name.find(')')) {
            (Some(open), Some(close)) if open < close => (&name[..open], name[close + 1..].trim()),
            _ => (name, ""),
        };
        match (base, rest) {
            ("boolean", _) => Type::Bool,
            ("smallint" | "integer" | "bigint" | "oid", _) => Type::Integer,
            ("real" | "double precision", _) => Type::Float,
            ("numeric", _) => Type::Numeric,
            ("bytea", _) => Type::Bytea,
            ("date", _) => Type::Date,
            ("time", "with time zone") | ("time with time zone", _) => Type::TimeTz,
            ("time", _) | ("time without time zone", _) => Type::Time,
            ("timestamp", "with time zone") | ("timestamp with time zone", _) => Type::TimestampTz,
            ("timestamp", _) | ("timestamp without time zone", _) => Type::Timestamp,
            _ => Type::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_an_oid_of_one_type_agree() {
        let same = [
            (16, "boolean"),
            (20, "bigint"),
            (701, "double precision"),
            (1700, "numeric(10,2)"),
            (17, "bytea"),
            (1082, "date"),
            (1083, "time(3) without time zone"),
            (1266, "time with time zone"),
            (1114, "timestamp without time zone"),
            (1184, "timestamp(3) with time zone"),
            (1231, "numeric(10,2)[]"),
            (1009, "text[]"),
            (25, "text"),
            (1043, "character varying(20)"),
            (2950, "uuid"),
            (2951, "uuid[]"),
            (1017, "point[]"),
            (3905, "int4range[]"),
        ];
        for (oid, name) in same {
            assert_eq!(Type::of_oid(oid), Some(Type::of_name(name)), "{name}");
        }
    }

    #[test]
    fn a_type_that_is_not_built_in_is_left_to_the_catalog() {
        assert_eq!(Type::of_oid(16384), None);
    }
}
