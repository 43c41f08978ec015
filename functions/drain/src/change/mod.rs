//! Decoded transactions and changes, the same for every output plugin.
//!
//! A value is the text that PostgreSQL's output function wrote. It borrows from the server's row where
//! possible.

pub mod char_byte;
pub mod format_type;
mod kind;
pub mod message_prefix;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;

pub use kind::{COMMA, ValueType, element_oid};

/// Decoded row of a peek.
#[derive(Debug, PartialEq)]
pub enum DecodedRow<'a> {
    /// Beginning of a transaction.
    ///
    /// A field is `None` if the plugin sends it only with the commit.
    Begin {
        /// The transaction's id: 32 bits, as in the log.
        xid: u32,
        /// End of the commit record.
        commit_end: Option<Lsn>,
        /// Commit time, µs since 1970-01-01 UTC.
        commit_time: Option<i64>,
    },
    /// Commit of a transaction.
    ///
    /// Its commit record ends at `commit_end` (exclusive: the next record may start there).
    Commit {
        /// End of the commit record.
        commit_end: Lsn,
        /// Commit time, µs since 1970-01-01 UTC.
        commit_time: Option<i64>,
    },
    /// A change of the open transaction.
    Change(Change<'a>),
    /// A logical message outside any transaction.
    ///
    /// The row's LSN is the end of the message's log record.
    Message(Message<'a>),
    /// Information for the decoder only, such as a table's definition.
    Nothing,
}

impl DecodedRow<'_> {
    /// The same row with owned values.
    pub fn into_owned(self) -> DecodedRow<'static> {
        match self {
            DecodedRow::Begin {
                xid,
                commit_end,
                commit_time,
            } => DecodedRow::Begin {
                xid,
                commit_end,
                commit_time,
            },
            DecodedRow::Commit {
                commit_end,
                commit_time,
            } => DecodedRow::Commit {
                commit_end,
                commit_time,
            },
            DecodedRow::Change(change) => DecodedRow::Change(change.into_owned()),
            DecodedRow::Message(message) => DecodedRow::Message(message.into_owned()),
            DecodedRow::Nothing => DecodedRow::Nothing,
        }
    }
}

/// A committed change.
#[derive(Debug, PartialEq)]
pub enum Change<'a> {
    /// A row was inserted.
    Insert {
        /// The table.
        relation: Arc<Relation>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// The table.
        relation: Arc<Relation>,
        /// The values of the old row that the log contains.
        ///
        /// With `replica identity full` they are all values, otherwise those of the key columns. `None` if
        /// they are only the key, and the key did not change.
        old: Option<Tuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The table.
        relation: Arc<Relation>,
        /// The old row: all columns with `replica identity full`, otherwise the key columns.
        old: Tuple<'a>,
    },
    /// Tables were truncated.
    Truncate {
        /// The tables, in the server's order.
        relations: Vec<Arc<Relation>>,
    },
    /// A logical message inside the transaction.
    Message(Message<'a>),
}

impl Change<'_> {
    /// The change, limited to the included tables.
    ///
    /// Returns `None` if none of its tables is included. A truncate keeps its included tables. A message is
    /// always included.
    pub fn filtered(self, is_included: impl Fn(&TableName) -> bool) -> Option<Self> {
        match self {
            Change::Insert { ref relation, .. }
            | Change::Update { ref relation, .. }
            | Change::Delete { ref relation, .. } => is_included(&relation.table).then_some(self),
            Change::Truncate { mut relations } => {
                relations.retain(|relation| is_included(&relation.table));
                (!relations.is_empty()).then_some(Change::Truncate { relations })
            }
            Change::Message(_) => Some(self),
        }
    }

    /// The same change with owned values.
    pub fn into_owned(self) -> Change<'static> {
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

/// The same row with owned values.
fn owned(tuple: Tuple<'_>) -> Tuple<'static> {
    let owned_datum = |datum| match datum {
        Datum::Null => Datum::Null,
        Datum::Unchanged => Datum::Unchanged,
        Datum::Absent => Datum::Absent,
        Datum::Oversize { bytes } => Datum::Oversize { bytes },
        Datum::Text(text) => Datum::Text(Cow::Owned(text.into_owned())),
    };
    tuple.into_iter().map(owned_datum).collect()
}

/// Logical message that `pg_logical_emit_message` wrote.
#[derive(Debug, PartialEq)]
pub struct Message<'a> {
    /// The prefix that the writer passed.
    pub prefix: Cow<'a, str>,
    /// The content; it may be bytes that are not text.
    pub content: Cow<'a, [u8]>,
    /// The parts that an event omits, because they exceed every record.
    pub omitted: MessageParts,
}

impl<'a> Message<'a> {
    /// A message that Spillway creates.
    pub(crate) fn control(prefix: &'a str, content: &'a str) -> Self {
        Message {
            prefix: prefix.into(),
            content: content.as_bytes().into(),
            omitted: MessageParts::default(),
        }
    }
}

/// Parts of a logical message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageParts {
    /// The prefix.
    pub prefix: bool,
    /// The content.
    pub content: bool,
}

impl MessageParts {
    /// Every part.
    pub const ALL: MessageParts = MessageParts {
        prefix: true,
        content: true,
    };

    /// Names of these parts in events.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let parts = [(self.prefix, "prefix"), (self.content, "content")];
        parts.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

impl Message<'_> {
    /// The same message with owned values.
    fn into_owned(self) -> Message<'static> {
        Message {
            prefix: Cow::Owned(self.prefix.into_owned()),
            content: Cow::Owned(self.content.into_owned()),
            omitted: self.omitted,
        }
    }
}

/// Values of a row, in the order of its [`Relation`]'s columns.
///
/// There is one value for each column.
pub type Tuple<'a> = Vec<Datum<'a>>;

/// Value of one column in a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Datum<'a> {
    /// SQL null.
    Null,
    /// A large value (TOAST) that the update did not change. The log does not contain it.
    Unchanged,
    /// The plugin did not send this column. An old row, for example, may have only the key columns.
    Absent,
    /// A value that was not read into memory, because of its size.
    Oversize {
        /// Length of the value as its plugin wrote it.
        bytes: usize,
    },
    /// The value in PostgreSQL's text form.
    Text(Cow<'a, str>),
}

/// Table at the time of the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's name.
    pub table: TableName,
    /// The columns that the plugin sends, in table order.
    pub columns: Vec<Column>,
    /// Names and types of the primary key's columns, in table order.
    ///
    /// `columns` may lack some of them. The list is empty if the table has no primary key, or if the primary
    /// key is not known.
    pub primary_key: Vec<(String, String)>,
    /// Coverage of the table's columns by `columns`.
    pub coverage: ColumnCoverage,
    /// Whether the table had no replica identity, not even `full`.
    ///
    /// The log then identifies no row of the table, so PostgreSQL refuses to publish updates and deletes.
    /// False if the replica identity at that time is not known.
    pub is_insert_only: bool,
    /// Whether an update may change the partition key: see [`Column::in_partition_key`].
    ///
    /// True if `PARTITION_KEYS` lists a column that is not in the table's key, or that this relation lacks.
    pub partition_key_may_change: bool,
}

/// Coverage of a table's columns by a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnCoverage {
    /// All columns: the server described the table, or the row has every column.
    Whole,
    /// The columns of the row, and columns that the catalog added.
    ///
    /// The row omitted these columns. The catalog shows the present table, so a column may differ from the
    /// column at the time of the change.
    Completed,
    /// The columns of the row only; the table may have more.
    Row,
}

impl Relation {
    /// A whole relation of columns with these names, types and key flags.
    ///
    /// The key is the primary key.
    #[cfg(test)]
    pub(crate) fn of_columns(table: TableName, columns: &[(&str, &str, bool)]) -> Self {
        let column = |(name, type_name, key): &(&str, &str, bool)| {
            Column::new((*name).to_owned(), (*type_name).into(), *key)
        };
        let primary = columns.iter().filter(|(_, _, key)| *key);
        Relation {
            table,
            columns: columns.iter().map(column).collect(),
            primary_key: primary
                .map(|(name, type_name, _)| ((*name).to_owned(), (*type_name).to_owned()))
                .collect(),
            coverage: ColumnCoverage::Whole,
            is_insert_only: false,
            partition_key_may_change: false,
        }
    }

    /// Whether both relations have the same columns.
    pub fn has_same_columns(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other) || self.columns == other.columns
    }

    /// Whether the table has a key that identifies its rows.
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }

    /// Whether all these columns belong to the key.
    pub fn has_key_columns(&self, names: &[String]) -> bool {
        let is_key = |name: &String| self.columns.iter().any(|it| it.key && it.name == *name);
        names.iter().all(is_key)
    }

    /// Indexes in `columns` of the columns with these names.
    ///
    /// The index of an unknown name is `None`.
    pub fn column_indexes(&self, names: &[String]) -> Vec<Option<usize>> {
        let index = |name: &String| self.columns.iter().position(|column| column.name == *name);
        names.iter().map(index).collect()
    }
}

/// The table's name, quoted as in SQL.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// Column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The type's name as `format_type` prints it with its modifier: `numeric(10,2)`, `integer[]`.
    ///
    /// A domain is replaced by its base type.
    pub type_name: String,
    /// The type's OID; 0 if it is not known.
    pub type_oid: u32,
    /// The type by which an envelope writes the value.
    pub kind: ValueType,
    /// Whether the column belongs to the key.
    ///
    /// The key is the replica identity. If the replica identity is `full` or `nothing`, the key is the
    /// primary key.
    pub key: bool,
    /// Whether the column belongs to the partition key of `PARTITION_KEYS`.
    pub in_partition_key: bool,
}

impl Column {
    /// A column of this type.
    pub fn new(name: String, column_type: ColumnType, key: bool) -> Self {
        Column {
            name,
            type_name: column_type.name,
            type_oid: column_type.oid,
            kind: column_type.kind,
            key,
            in_partition_key: false,
        }
    }
}

/// Type of a column, with domains replaced by their base types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    /// Its OID; 0 if it is not known.
    pub oid: u32,
    /// Its name as `format_type` prints it with its modifier.
    pub name: String,
    /// The type by which an envelope writes its values.
    pub kind: ValueType,
}

impl ColumnType {
    /// The built-in type with this OID and modifier.
    ///
    /// `None` if no built-in type has this OID.
    pub fn built_in(oid: u32, modifier: i32) -> Option<Self> {
        Some(ColumnType {
            oid,
            name: format_type::of_oid(oid, modifier)?,
            kind: ValueType::of_built_in(oid, modifier),
        })
    }

    /// A type that is known by name only; its values are text.
    pub fn unknown(name: impl Into<String>) -> Self {
        ColumnType {
            oid: 0,
            name: name.into(),
            kind: ValueType::Text,
        }
    }
}

/// The type that `format_type` prints with this name.
///
/// The result is an unknown type if no built-in type has this name.
#[cfg(test)]
impl From<&str> for ColumnType {
    fn from(name: &str) -> Self {
        let built_in = format_type::built_in_of_name(name);
        built_in
            .and_then(|(oid, modifier)| ColumnType::built_in(oid, modifier))
            .unwrap_or_else(|| ColumnType::unknown(name))
    }
}
