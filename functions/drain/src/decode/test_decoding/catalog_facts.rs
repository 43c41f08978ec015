//! Facts that the catalog adds to a row of test_decoding.
//!
//! These are the key, the nulls that the row omits, and the modifiers of types. A fact is used only if it was
//! valid when the row was written.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::table_name::TableName;
use crate::catalog::{Catalog, PastTable};
use crate::change::{Column, ColumnCoverage, Datum, Relation, Tuple, format_type};

/// Column of a row with its value.
pub(super) struct ColumnValue<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) type_name: Cow<'a, str>,
    pub(super) datum: Datum<'a>,
}

/// The table with the columns of a row.
///
/// The columns of `key` are its key, if the row has all of them.
pub(super) fn relation(
    catalog: &Catalog,
    name: &TableName,
    values: &[ColumnValue<'_>],
    key: &[String],
    coverage: ColumnCoverage,
) -> Relation {
    let past = catalog.past_table_named(name);
    let is_sent = |column: &String| values.iter().any(|value| *column == value.name);
    let is_whole = key.iter().all(is_sent);
    let column = |value: &ColumnValue<'_>| {
        Column::new(
            value.name.to_string(),
            catalog.type_of_name(past, &value.name, &value.type_name),
            is_whole && key.iter().any(|key| *key == value.name),
        )
    };
    let primary_key = past.filter(|past| !past.primary_key().is_empty());
    Relation {
        table: name.clone(),
        columns: values.iter().map(column).collect(),
        primary_key: primary_key
            .map(|past| catalog.primary_key_columns(past.now()))
            .unwrap_or_default(),
        coverage,
        is_insert_only: past.is_some_and(|past| past.lacked_replica_identity(false)),
        partition_key_may_change: false,
    }
}

/// Table and values of a row. The table has the columns of the row.
pub(super) fn row<'a>(
    catalog: &Catalog,
    table: &TableName,
    values: Vec<ColumnValue<'a>>,
    key: &[String],
    coverage: ColumnCoverage,
) -> (Arc<Relation>, Tuple<'a>) {
    let relation = Arc::new(relation(catalog, table, &values, key, coverage));
    (relation, values.into_iter().map(|value| value.datum).collect())
}

/// Columns that identify a row.
///
/// Empty if other columns may have identified it when the row was written.
pub(super) fn key<'c>(catalog: &'c Catalog, name: &TableName) -> &'c [String] {
    catalog
        .past_table_named(name)
        .filter(|past| !past.may_have_had_another_identity_index())
        .map(|past| past.key())
        .unwrap_or_default()
}

/// The columns that identify an updated row. `old` is its old row, if the server sent one.
///
/// An old row without the key belongs to another replica identity, so the catalog's key is not used. Without
/// an old row, the key is used only if PostgreSQL would have logged a change of it.
pub(super) fn key_of_update<'c>(
    catalog: &'c Catalog,
    name: &TableName,
    old: Option<&[ColumnValue<'_>]>,
) -> &'c [String] {
    let key = key(catalog, name);
    let is_known = match old {
        Some(old) => key
            .iter()
            .all(|column| old.iter().any(|value| *column == value.name)),
        None => catalog
            .past_table_named(name)
            .is_some_and(|past| past.logs_key_changes()),
    };
    if is_known { key } else { &[] }
}

/// New row without the nulls of virtual columns, and its coverage.
///
/// Such a null replaces a value that the log does not contain. A column of the old row is not virtual, so its
/// null is a value.
pub(super) fn without_virtual<'a>(
    catalog: &Catalog,
    name: &TableName,
    old: Option<&[ColumnValue<'_>]>,
    mut values: Vec<ColumnValue<'a>>,
) -> (Vec<ColumnValue<'a>>, ColumnCoverage) {
    let mut coverage = ColumnCoverage::Whole;
    if catalog.has_virtual_columns {
        let past = catalog.past_table_named(name);
        let may_be_virtual = |column: &str| {
            let is_stored = old.unwrap_or_default().iter().any(|value| value.name == column);
            !is_stored && past.is_none_or(|past| past.may_be_virtual(column))
        };
        values.retain(|value| {
            let is_kept = value.datum != Datum::Null || !may_be_virtual(&value.name);
            if !is_kept && past.is_none_or(|past| !past.was_virtual(&value.name)) {
                // The dropped null may be the value of an ordinary column. The row then lacks that column.
                coverage = ColumnCoverage::Row;
            }
            is_kept
        });
    }
    (values, coverage)
}

/// Values of a row, with the lengths of their `bit` types.
///
/// test_decoding prints `bit` for each `bit(n)`. The length is added to the name of the type. The catalog has
/// the length of the present column only. But a value of `bit(n)` has n digits, so it shows the length at the
/// time of the change. `old` is the old row: a column may be null in one row and have a value in the other.
pub(super) fn with_bit_lengths<'a>(
    catalog: &Catalog,
    name: &TableName,
    old: Option<&[ColumnValue<'_>]>,
    mut values: Vec<ColumnValue<'a>>,
) -> Vec<ColumnValue<'a>> {
    for value in &mut values {
        let (element, brackets) = format_type::split_brackets(&value.type_name);
        let past = || catalog.past_table_named(name);
        // The catalog has the type of such a column. The type may be `"bit"`, whose values have any length.
        if element != "bit" || past().is_some_and(|past| past.has_column(&value.name)) {
            continue;
        }
        let same = |old: &&ColumnValue<'_>| old.name == value.name && old.type_name == value.type_name;
        let old = old.unwrap_or_default().iter().find(same);
        let length = bit_length(&value.datum).or_else(|| bit_length(&old?.datum));
        if let Some(length) = length {
            value.type_name = Cow::Owned(format!("bit({length}){brackets}"));
        }
    }
    values
}

/// Number of digits of the first `bit` in a value.
///
/// The value is a `bit` or an array of `bit`. `None` if it shows no `bit`. An array may have bounds in front:
/// `[0:1]={1,0}`.
fn bit_length(datum: &Datum<'_>) -> Option<usize> {
    let Datum::Text(text) = datum else { return None };
    let items = text.split_once('=').map_or(&**text, |(_, items)| items);
    let mut runs = items.split(|letter| !matches!(letter, '0' | '1'));
    runs.find(|run| !run.is_empty()).map(str::len)
}

/// Whether a column that an old row omits is null. `past` is the table.
///
/// test_decoding omits the nulls of an old row, and all columns outside the replica identity. So an omitted
/// column is certainly null only if the identity was `full`.
fn is_null(past: Option<PastTable<'_>>, column: &str) -> bool {
    past.is_some_and(|past| past.was_full() && past.has_column(column) && !past.may_be_virtual(column))
}

/// Old row of a delete, with its nulls if it is whole.
///
/// Only the catalog has the columns that the row omits. So the nulls are added only if the catalog still has
/// every column of the row, in the same order.
pub(super) fn with_nulls<'a>(
    catalog: &Catalog,
    name: &TableName,
    values: Vec<ColumnValue<'a>>,
) -> Vec<ColumnValue<'a>> {
    let past = catalog.past_table_named(name).filter(PastTable::was_full);
    let columns = past.map(|past| past.now().columns.as_slice()).unwrap_or_default();
    // A column that was renamed later may have the former name of another column. The order then differs.
    let mut places = columns.iter();
    let is_in_order = |value: &ColumnValue<'_>| places.any(|column| column.name == value.name);
    if values.is_empty() || !values.iter().all(is_in_order) {
        return values;
    }
    let mut values = values.into_iter().peekable();
    let mut row = Vec::with_capacity(columns.len());
    for column in columns {
        let null = || ColumnValue {
            name: column.name.clone().into(),
            type_name: column.type_name.clone().into(),
            datum: Datum::Null,
        };
        let value = values.next_if(|value| value.name == column.name);
        row.extend(value.or_else(|| is_null(past, &column.name).then(null)));
    }
    row
}

/// The values of an update's old row in the relation's order. `past` is the table.
///
/// Both are in table order. Returns `None` if the old row has a column that the relation lacks.
pub(super) fn old_tuple<'a>(
    relation: &Relation,
    values: Vec<ColumnValue<'a>>,
    past: Option<PastTable<'_>>,
) -> Option<Tuple<'a>> {
    let mut values = values.into_iter().peekable();
    let past = past.filter(PastTable::was_full);
    let columns = relation.columns.iter();
    let tuple = columns
        .map(|column| match values.next_if(|value| value.name == column.name) {
            Some(value) => value.datum,
            None if is_null(past, &column.name) => Datum::Null,
            None => Datum::Absent,
        })
        .collect();
    values.next().is_none().then_some(tuple)
}
