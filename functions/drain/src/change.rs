//! What a plugin tells, whichever plugin it was: transactions, and the changes in them. Values stay text, as
//! PostgreSQL's output functions wrote them, and are borrowed from the server's row wherever they can be.

pub mod format_type;
mod kind;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::lsn::Lsn;
use crate::pattern::{self, TablePattern};
use crate::table_name::TableName;

pub use kind::Type;

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
    /// The change, as far as it is about tables that match a pattern; `None` where no table of it does.
    ///
    /// A truncate keeps the tables that match. A message always matches.
    pub fn filtered(self, patterns: &[TablePattern]) -> Option<Self> {
        let is_wanted = |relation: &Relation| pattern::matches_any(patterns, &relation.table);
        match self {
            Change::Insert { ref relation, .. }
            | Change::Update { ref relation, .. }
            | Change::Delete { ref relation, .. } => is_wanted(relation).then_some(self),
            Change::Truncate { mut relations } => {
                relations.retain(|relation| is_wanted(relation));
                (!relations.is_empty()).then_some(Change::Truncate { relations })
            }
            Change::Message(_) => Some(self),
        }
    }

    /// The same change, borrowing nothing.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's name.
    pub table: TableName,
    /// The columns that the plugin sends, in table order.
    pub columns: Vec<Column>,
    /// Names and types of the primary key's columns, in table order. Not always among `columns`; empty where it is not known.
    pub primary_key: Vec<(String, String)>,
    /// Whether `columns` are all that the table has.
    pub coverage: ColumnCoverage,
}

/// How far the columns of a [`Relation`] are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnCoverage {
    /// All: the server described the table, or the row holds every column.
    Whole,
    /// All as far as is known: the row left some out, and the catalog, which shows the present, named them.
    Completed,
    /// Those of this row, which need not be all.
    Row,
}

impl Relation {
    /// Whether rows of this table can be told apart.
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }

    /// Where the columns of these names stand.
    pub fn column_indexes(&self, names: &[String]) -> Vec<Option<usize>> {
        let place = |name: &String| self.columns.iter().position(|column| column.name == *name);
        names.iter().map(place).collect()
    }
}

/// The table's name, as errors show it.
impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as `format_type` prints it with its modifier: `numeric(10,2)`, `integer[]`. A domain is what it is made of.
    pub type_name: String,
    /// How its text is to be read.
    pub kind: Type,
    /// Whether it belongs to the key: the replica identity, or the primary key where the whole row is the identity.
    pub key: bool,
}

impl Column {
    /// A column of a type by its name, which may not be a domain's.
    pub fn new(name: String, type_name: String, key: bool) -> Self {
        let kind = Type::of_name(&type_name);
        Column {
            name,
            type_name,
            kind,
            key,
        }
    }
}
