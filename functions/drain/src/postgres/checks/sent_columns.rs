//! What is sent, for the checks' queries: the tables, and the rules for their columns.

use crate::rules::column_rules::{ColumnAction, ColumnRule};
use crate::rules::pattern::TablePattern;

/// The settings that decide which tables and columns events have.
#[derive(Debug)]
pub(crate) struct SentColumns<'a> {
    pub(crate) publications: &'a [String],
    pub(crate) tables: &'a [TablePattern],
    pub(crate) rules: &'a [ColumnRule],
}

/// The tables whose changes the slot sends: see the file for $1 and $2.
pub(super) const SENT: &str = concat!(
    "with recursive ",
    include_str!("../publication_members.sql"),
    ",\n",
    include_str!("../published_tables.sql"),
    ",\nsent as materialized (\n",
    include_str!("../sent_tables.sql"),
    ")"
);

/// Rules as parameters of a query: patterns of `like`, and whether each rule omits.
pub(super) struct RuleArrays {
    pub(super) schemas: Vec<String>,
    pub(super) tables: Vec<String>,
    pub(super) columns: Vec<String>,
    pub(super) omits: Vec<bool>,
}

impl RuleArrays {
    pub(super) fn new(rules: &[ColumnRule]) -> Self {
        let (mut schemas, mut tables, mut columns) = (vec![], vec![], vec![]);
        for rule in rules {
            let [schema, table, column] = rule.pattern.to_like();
            schemas.push(schema);
            tables.push(table);
            columns.push(column);
        }
        let omits = rules.iter().map(|rule| rule.action == ColumnAction::Omit);
        RuleArrays {
            schemas,
            tables,
            columns,
            omits: omits.collect(),
        }
    }
}
