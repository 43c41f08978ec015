//! Nulls of virtual generated columns, which wal2json sends instead of values.

use super::{JsonColumn, JsonRow};
use crate::base::table_name::TableName;
use crate::catalog::{Catalog, PastTable};

/// The smallest OID of a type that is not pinned (`FirstUnpinnedObjectId`).
///
/// PostgreSQL 18 refuses types with this OID or a larger one for virtual columns.
const FIRST_UNPINNED_OID: u32 = 12_000;

/// Nulls that were dropped from a row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedNulls {
    /// Whether one of them may be a value: the null of an ordinary column.
    pub(super) may_be_values: bool,
    /// Whether the old row lacked one of the new row's dropped nulls.
    ///
    /// Then the old row is not the whole row, and its columns are the key.
    pub(super) identity_lacks_one: bool,
}

/// Drops the nulls of virtual columns.
///
/// Such a null replaces a value that the log does not contain. The catalog does not show whether a column
/// was virtual if it was dropped or renamed since. Its null is dropped, too, unless another fact proves
/// that the column was ordinary.
pub(super) fn drop_virtual_columns(catalog: &Catalog, row: &mut JsonRow<'_>) -> DroppedNulls {
    let mut dropped = DroppedNulls::default();
    let (Some(schema), Some(table)) = (&row.schema, &row.table) else {
        return dropped;
    };
    if !catalog.has_virtual_columns || !row.columns.iter().chain(&row.identity).any(is_null) {
        return dropped;
    }
    let past = catalog.past_table_named(&TableName::new(&**schema, &**table));
    if past.is_some_and(|past| !past.may_have_virtual_columns()) {
        return dropped;
    }
    let may_be_value = |column: &JsonColumn<'_>| past.is_none_or(|past| !past.was_virtual(&column.name));
    let identity = &row.identity;
    row.columns.retain(|column| {
        let is_kept = !is_null(column) || !may_be_virtual(past, column) || has_value(identity, column);
        if !is_kept {
            dropped.may_be_values |= may_be_value(column);
            dropped.identity_lacks_one |= !identity.iter().any(|it| it.name == column.name);
        }
        is_kept
    });
    let columns = &row.columns;
    row.identity.retain(|column| {
        let is_kept = !is_null(column) || !may_be_virtual(past, column) || has_value(columns, column);
        dropped.may_be_values |= !is_kept && may_be_value(column);
        is_kept
    });
    dropped
}

fn is_null(column: &JsonColumn<'_>) -> bool {
    column.value.is_none() && column.oversize.is_none()
}

/// Whether the column may have been virtual. `past` is its table.
fn may_be_virtual(past: Option<PastTable<'_>>, column: &JsonColumn<'_>) -> bool {
    column.type_oid.is_none_or(|oid| oid < FIRST_UNPINNED_OID)
        && past.is_none_or(|past| past.may_be_virtual(&column.name))
}

/// Whether the other row of an update has a value for `column`.
///
/// Then the column is not virtual.
fn has_value(other: &[JsonColumn<'_>], column: &JsonColumn<'_>) -> bool {
    other.iter().any(|it| it.name == column.name && !is_null(it))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::int_column;
    use super::super::Wal2jsonDecoder;
    use super::super::tests::{change, row};
    use super::*;
    use crate::catalog::{CatalogTable, RecentWriters};
    use crate::change::{Change, ColumnCoverage, DecodedRow};

    /// A null and a value of a row.
    const NULL: &str = "null";
    const ONE: &str = r#""1""#;

    /// Catalog of PostgreSQL 18 without tables.
    fn empty_catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.has_virtual_columns = true;
        catalog
    }

    /// Catalog with the table `s.t`, for rows of transaction 19.
    ///
    /// Transaction 20 altered the columns in `altered`. If `dropped` is set, that transaction dropped
    /// another column.
    fn catalog(
        columns: &[&str],
        virtual_columns: &[&str],
        altered: &[&str],
        dropped: Option<u32>,
    ) -> Catalog {
        let mut catalog = empty_catalog();
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let recent = RecentWriters {
            columns: altered.iter().map(|name| ((*name).to_owned(), 20)).collect(),
            dropped: dropped.into_iter().collect(),
            ..RecentWriters::default()
        };
        let table = CatalogTable {
            columns: columns.iter().map(|name| int_column(name)).collect(),
            virtual_columns: names(virtual_columns),
            recent,
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("s", "t"), table);
        catalog.begin_transaction(19);
        catalog
    }

    /// Columns of a decoded insert that had `id` and nulls.
    fn columns_of_insert(catalog: &Catalog, nulls: &[&str]) -> (Vec<String>, ColumnCoverage) {
        let nulls = nulls.iter().map(|name| (*name, NULL));
        let new: Vec<_> = [("id", ONE)].into_iter().chain(nulls).collect();
        let (relation, ..) = change(catalog, &row("I", &new, &[], "id"));
        let names = relation.columns.iter().map(|column| column.name.clone());
        (names.collect(), relation.coverage)
    }

    #[test]
    fn a_null_of_a_virtual_column_is_absent() {
        let catalog = catalog(&["id", "g", "n"], &["g"], &[], None);
        let (names, coverage) = columns_of_insert(&catalog, &["g", "n"]);
        assert_eq!(names, ["id", "n"]);
        assert_eq!(coverage, ColumnCoverage::Whole);
    }

    #[test]
    fn a_null_of_a_column_that_may_have_been_virtual_is_absent() {
        for (what, catalog) in [
            ("dropped", catalog(&["id", "n"], &[], &[], Some(20))),
            ("replaced", catalog(&["id", "n", "g"], &[], &["g"], Some(20))),
            ("renamed", catalog(&["id", "h", "n"], &["h"], &["h"], None)),
            (
                "swapped",
                catalog(&["id", "h", "g", "n"], &["h"], &["h", "g"], None),
            ),
            // The dropping transaction has a smaller id and ended later: see `crate::catalog::past`.
            ("unexplained", catalog(&["id", "n"], &[], &[], Some(18))),
        ] {
            let (names, coverage) = columns_of_insert(&catalog, &["g", "n"]);
            assert_eq!(names, ["id", "n"], "{what}");
            assert_eq!(coverage, ColumnCoverage::Row, "{what}");
        }
        // The table was dropped.
        assert_eq!(columns_of_insert(&empty_catalog(), &["g"]).0, ["id"]);
    }

    #[test]
    fn a_null_of_a_column_that_was_not_virtual_is_a_value() {
        for (what, catalog) in [
            ("altered", catalog(&["id", "n"], &[], &["n"], None)),
            ("renamed", catalog(&["id", "m"], &[], &["m"], None)),
            // The virtual column of that time is known.
            ("beside", catalog(&["id", "m", "g"], &["g"], &["m"], None)),
        ] {
            let (names, coverage) = columns_of_insert(&catalog, &["n"]);
            assert_eq!(names, ["id", "n"], "{what}");
            assert_eq!(coverage, ColumnCoverage::Whole, "{what}");
        }
    }

    #[test]
    fn a_null_is_a_value_if_the_other_row_of_the_update_has_a_value() {
        let catalog = catalog(&["id"], &[], &[], Some(20));
        let (with_value, with_null) = ([("id", ONE), ("n", ONE)], [("id", ONE), ("n", NULL)]);
        for (old, new, expected) in [
            (with_value, with_null, [r#"Text("1")"#, "Null"]),
            (with_null, with_value, ["Null", r#"Text("1")"#]),
        ] {
            let (_, old, new) = change(&catalog, &row("U", &new, &old, "id"));
            assert_eq!([&old.unwrap()[1], &new.unwrap()[1]], expected);
        }
        let (relation, ..) = change(&catalog, &row("U", &with_null, &with_null, "id"));
        assert_eq!(relation.columns.len(), 1);
    }

    /// The replica identity was an index, which was dropped later.
    #[test]
    fn an_old_row_without_the_null_is_the_key() {
        let catalog = catalog(&["id"], &[], &[], Some(20));
        let data = row("U", &[("id", ONE), ("g", NULL)], &[("id", ONE)], "other");
        let (relation, ..) = change(&catalog, &data);
        let columns: Vec<_> = relation.columns.iter().map(|it| (&*it.name, it.key)).collect();
        assert_eq!(columns, [("id", true)]);
    }

    #[test]
    fn a_null_of_a_users_type_is_a_value() {
        let catalog = catalog(&["id"], &[], &[], Some(20));
        for (oid, count) in [("23", 0), ("20000", 1), ("-294967296", 1)] {
            let row = format!(
                r#"{{"action":"I","schema":"s","table":"t","columns":[
                    {{"name":"n","type":"t","typeoid":{oid},"value":null}}]}}"#
            );
            assert_eq!(change(&catalog, row.as_bytes()).0.columns.len(), count, "{oid}");
        }
    }

    /// Two rows keep the same columns: one is complete, and the other lost a column.
    #[test]
    fn a_row_that_lost_a_column_does_not_describe_its_table() {
        let catalog = catalog(&["id"], &[], &[], Some(20));
        let mut decoder = Wal2jsonDecoder::default();
        let whole = row("I", &[("id", ONE)], &[], "id");
        let partial = row("I", &[("id", ONE), ("n", NULL)], &[], "id");
        for (data, expected) in [
            (&whole, ColumnCoverage::Whole),
            (&partial, ColumnCoverage::Row),
            (&whole, ColumnCoverage::Whole),
        ] {
            let item = decoder.decode(&catalog, data).unwrap();
            let DecodedRow::Change(Change::Insert { relation, .. }) = item else {
                panic!("{item:?}");
            };
            assert_eq!(relation.coverage, expected);
        }
    }
}
