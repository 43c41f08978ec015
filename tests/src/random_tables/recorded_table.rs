//! The recording of a round: definitions of tables, and their changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use tokio_postgres::Client;

use crate::postgres::query::rows;

/// SQL that creates the tables and functions of the recording.
pub(super) const RECORDING: &str = include_str!("recording.sql");

/// Texts of the values of a row by column; `None` is null.
pub(super) type RowTexts = BTreeMap<String, Option<String>>;

/// Definition of a table in one version of the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedTable {
    /// Number of the description of the schema that contains this definition.
    pub(super) catalog_version: i32,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) relation: i64,
    /// `r` for a table with rows, `p` for a partitioned one.
    pub(super) kind: String,
    /// `relreplident`.
    pub(super) identity: String,
    /// Columns of the replica identity.
    ///
    /// Empty if the identity is the whole row or nothing.
    pub(super) identity_key: Vec<String>,
    /// Columns of the key of its events, as docs/events.md defines it.
    pub(super) key: Vec<String>,
    /// Columns of each unique index that a backfill can read by.
    pub(super) unique_keys: Vec<Vec<String>>,
    pub(super) publication: Option<TablePublication>,
    /// Hash of the table's catalog rows; each write to them changes it.
    pub(super) catalog: String,
    pub(super) columns: Vec<RecordedColumn>,
}

/// Name, identifier and operations under which pgoutput sends a table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct TablePublication {
    /// Name in the events: the table's, or that of its root.
    pub(super) name: String,
    pub(super) relation: i64,
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
    pub(super) truncate: bool,
    /// Whether generated columns are sent.
    pub(super) generated: bool,
}

/// Column of a definition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct RecordedColumn {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    /// Base type of PostgreSQL; empty for a type of an application.
    pub(super) base: String,
    /// Base type of an array's elements; `None` for other types.
    ///
    /// It is empty in the same case as `base`.
    pub(super) element: Option<String>,
    pub(super) delimiter: String,
    /// Whether older rows have its default, which they do not store (`atthasmissing`).
    pub(super) late: bool,
    /// `s` for a stored generated column, `v` for a virtual one.
    pub(super) generated: String,
}

impl RecordedTable {
    /// Whether its deletes and updates identify the old row.
    pub(super) fn is_identified(&self) -> bool {
        self.identity == "f" || !self.identity_key.is_empty()
    }

    /// Whether updates and deletes log these columns of the old row.
    pub(super) fn logs_old_key(&self, key: &[String]) -> bool {
        self.identity == "f" || key.iter().all(|name| self.identity_key.contains(name))
    }

    /// The definition in one line.
    pub(super) fn describe(&self) -> String {
        let columns = self.columns.iter().map(|column| {
            let generated = if column.generated.is_empty() {
                ""
            } else {
                " generated "
            };
            format!(
                "{:?} {:?}{generated}{}",
                column.name, column.type_name, column.generated
            )
        });
        format!(
            "{:?} ({}), key {:?}, identity {} {:?}, published as {:?}",
            self.name,
            columns.collect::<Vec<_>>().join(", "),
            self.key,
            self.identity,
            self.identity_key,
            self.publication.as_ref().map(|publication| &publication.name),
        )
    }

    /// Column of this name.
    pub(super) fn column(&self, name: &str) -> Option<&RecordedColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A recorded change of the server.
#[derive(Debug, Clone)]
pub(super) struct RecordedChange {
    pub(super) seq: i64,
    /// Operation `i`, `u`, `d`, `t` (truncate) or `r`.
    ///
    /// `r` is a row at the time of the backfill.
    pub(super) op: char,
    pub(super) table: Arc<RecordedTable>,
    pub(super) old: Option<RowTexts>,
    pub(super) new: Option<RowTexts>,
}

/// The recording of one schema.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) changes: Vec<RecordedChange>,
    tables: Vec<Arc<RecordedTable>>,
    /// Numbers of the descriptions of the schema, also of one without tables.
    catalog_versions: Vec<i32>,
}

/// Loads the recordings of all schemas of a database.
pub(super) async fn load(client: &Client) -> HashMap<String, Recording> {
    let mut recordings: HashMap<String, Recording> = HashMap::new();
    let mut by_id = HashMap::new();
    let sql = "select id, document::text as document from recording.recorded_table order by id";
    for row in rows(client, sql, &[]).await {
        let document: String = row.get("document");
        let table: RecordedTable =
            serde_json::from_str(&document).unwrap_or_else(|e| panic!("{document}: {e}"));
        let table = Arc::new(table);
        by_id.insert(row.get::<_, i32>("id"), Arc::clone(&table));
        recordings
            .entry(table.schema.clone())
            .or_default()
            .tables
            .push(table);
    }
    let sql = "select schema_name, number from recording.catalog_version order by number";
    for row in rows(client, sql, &[]).await {
        let recording = recordings.entry(row.get("schema_name")).or_default();
        recording.catalog_versions.push(row.get("number"));
    }
    let sql = "select seq, op, recorded_table, old_row::text as old_row, new_row::text as new_row
               from recording.change order by seq";
    let parse = |text: Option<String>| -> Option<RowTexts> {
        text.map(|text| serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}")))
    };
    for row in rows(client, sql, &[]).await {
        let table = Arc::clone(&by_id[&row.get::<_, i32>("recorded_table")]);
        let change = RecordedChange {
            seq: row.get("seq"),
            op: row.get::<_, String>("op").chars().next().unwrap_or('?'),
            old: parse(row.get("old_row")),
            new: parse(row.get("new_row")),
            table,
        };
        let recording = recordings.entry(change.table.schema.clone()).or_default();
        recording.changes.push(change);
    }
    recordings
}

impl Recording {
    /// Definitions in the last description up to this version of the catalog.
    pub(super) fn at(&self, catalog_version: i32) -> impl Iterator<Item = &Arc<RecordedTable>> {
        let known = self.catalog_versions.iter().copied();
        let newest = known.filter(|known| *known <= catalog_version).max();
        self.tables
            .iter()
            .filter(move |table| Some(table.catalog_version) == newest)
    }

    /// Definitions in the last description.
    pub(super) fn now(&self) -> impl Iterator<Item = &Arc<RecordedTable>> {
        self.at(i32::MAX)
    }

    /// Definition of the relation that pgoutput's events of a table name.
    pub(super) fn published_table(&self, table: &RecordedTable) -> Option<&Arc<RecordedTable>> {
        let publication = table.publication.as_ref()?;
        let mut same = self
            .tables
            .iter()
            .filter(|it| it.catalog_version == table.catalog_version);
        same.find(|it| it.relation == publication.relation)
    }

    /// All names that a relation had.
    pub(super) fn names_of(&self, relation: i64) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for table in self.tables.iter().filter(|table| table.relation == relation) {
            if !names.contains(&&*table.name) {
                names.push(&table.name);
            }
        }
        names
    }

    /// Whether all deletes of the event table log its key.
    ///
    /// They are the deletes of `table`, and of every partition that the event table ever had. If those of one
    /// partition lack the key, the events of all partitions may be sent without a key.
    pub(super) fn all_log_old_key(&self, table: &RecordedTable, event_table: &RecordedTable) -> bool {
        let mut same = self.tables.iter().filter(|it| {
            let publication = it.publication.as_ref().map(|publication| publication.relation);
            it.kind == "r" && event_table.kind == "p" && publication == Some(event_table.relation)
        });
        table.logs_old_key(&event_table.key) && same.all(|it| it.logs_old_key(&event_table.key))
    }

    /// Whether the table had no replica identity, so PostgreSQL published only inserts.
    ///
    /// For a published root, no partition of the same version of the catalog may have one. A partition that
    /// was detached or dropped later does not count: the drain cannot find it.
    pub(super) fn is_insert_only(&self, table: &RecordedTable, event_table: &RecordedTable) -> bool {
        let is_partition = |it: &RecordedTable| {
            let publication = it.publication.as_ref().map(|publication| publication.relation);
            it.kind == "r" && publication == Some(event_table.relation)
        };
        let remains = |it: &RecordedTable| {
            self.now()
                .any(|other| other.relation == it.relation && is_partition(other))
        };
        let mut same = self
            .tables
            .iter()
            .filter(|it| it.catalog_version == table.catalog_version && is_partition(it) && remains(it));
        let is_root = event_table.relation != table.relation;
        !table.is_identified() && (!is_root || same.all(|it| !it.is_identified()))
    }

    /// Whether neither the table nor its published root differs.
    ///
    /// Their definitions are compared with those of `catalog_version`.
    pub(super) fn is_undisturbed(&self, table: &RecordedTable, catalog_version: i32) -> bool {
        let same = |relation: i64, was: &RecordedTable| {
            let is = self.at(catalog_version).find(|it| it.relation == relation);
            is.is_some_and(|is| {
                let is = RecordedTable {
                    catalog_version: was.catalog_version,
                    ..(**is).clone()
                };
                is == *was
            })
        };
        let root = self.published_table(table);
        same(table.relation, table) && root.is_none_or(|root| same(root.relation, root))
    }
}
