use super::*;
use crate::base::table_name::TableName;
use crate::catalog::{Catalog, CatalogTable};
use crate::change::ColumnCoverage;
use crate::decode::tests::int_column;

const ROOT: u32 = 1;

/// A catalog with the partitioned table, whose rows are distributed by `id`.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let root = CatalogTable {
        oid: ROOT,
        columns: ["id", "code", "v"].map(int_column).into(),
        is_partitioned: true,
        partition_columns: Some(vec!["id".into()]),
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "p"), root);
    catalog
}

/// Table with the columns `id`, `code` and `v`.
///
/// The server marks the columns `marked`.
fn table(catalog: &Catalog, oid: u32, identity: u8, marked: &[&str]) -> RelationTable {
    let column = |name: &str| Column::new(name.into(), "integer".into(), marked.contains(&name));
    let relation = Relation {
        table: TableName::new("s", format!("p{oid}")),
        columns: ["id", "code", "v"].map(column).into(),
        primary_key: Vec::new(),
        coverage: ColumnCoverage::Whole,
        is_insert_only: false,
        partition_key_may_change: false,
    };
    RelationTable::new(relation, identity, catalog.past_table(oid))
}

/// Tables after the description of each partition and a row of it.
fn described(root: (u8, &[&str]), partitions: &[(u8, &[&str])]) -> RelationTables {
    let (catalog, mut tables) = (catalog(), RelationTables::default());
    for (oid, (identity, marked)) in (10..).zip(partitions) {
        tables.insert(ROOT, table(&catalog, ROOT, root.0, root.1));
        tables.insert(oid, table(&catalog, oid, *identity, marked));
        tables.begin_row(ROOT);
    }
    tables
}

/// The key of a row. `held` are the columns that its old row has.
fn key(tables: &mut RelationTables, held: Option<&[&str]>) -> String {
    let datum = |name: &str, held: &[&str]| match held.contains(&name) {
        true => Datum::Text("1".into()),
        false => Datum::Absent,
    };
    let old = held.map(|held| ["id", "code", "v"].map(|name| datum(name, held)).to_vec());
    let relation = tables.relation_of_row(ROOT, old.as_ref()).unwrap();
    let columns = relation.columns.iter().filter(|column| column.key);
    let names: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
    names.join(",")
}

const ALL: &[&str] = &["id", "code", "v"];
const ID: &[&str] = &["id"];
const CODE: &[&str] = &["code"];

#[test]
fn a_root_without_a_key_has_the_key_of_its_partitions() {
    let mut tables = described((b'd', &[]), &[(b'd', ID), (b'i', ID)]);
    assert_eq!(key(&mut tables, None), "id");
    assert_eq!(key(&mut tables, Some(ID)), "id");
}

#[test]
fn a_key_of_partitions_that_does_not_determine_the_partition_is_not_used() {
    let mut tables = described((b'd', &[]), &[(b'd', CODE), (b'd', CODE)]);
    assert_eq!(key(&mut tables, None), "");
    assert_eq!(key(&mut tables, Some(CODE)), "");
}

#[test]
fn a_root_key_that_a_partition_does_not_log_is_not_used() {
    let mut tables = described((b'd', ID), &[(b'd', ID)]);
    assert_eq!(key(&mut tables, Some(ID)), "id");
    let mut tables = described((b'd', ID), &[(b'd', ID), (b'i', CODE)]);
    assert_eq!(key(&mut tables, None), "");
    assert_eq!(key(&mut tables, Some(CODE)), "");
    let mut tables = described((b'd', ID), &[(b'd', ID), (b'f', ALL)]);
    assert_eq!(key(&mut tables, Some(ALL)), "id");
}

#[test]
fn partitions_of_different_keys_have_the_key_of_their_old_rows() {
    let both = &["id", "code"][..];
    let mut tables = described((b'd', &[]), &[(b'd', ID), (b'd', both), (b'd', &[])]);
    assert_eq!(key(&mut tables, None), "");
    assert_eq!(key(&mut tables, Some(ID)), "id");
    assert_eq!(key(&mut tables, Some(both)), "id,code");
    assert_eq!(key(&mut tables, Some(CODE)), "");
}

#[test]
fn a_whole_old_row_with_nulls_does_not_have_the_key_of_another_partition() {
    const BOTH: &[&str] = &["id", "code"];
    for root in [(b'f', ALL), (b'd', &[] as &[&str])] {
        let mut tables = described(root, &[(b'i', BOTH), (b'f', ALL)]);
        assert_eq!(key(&mut tables, Some(BOTH)), "");
        assert_eq!(key(&mut tables, Some(ALL)), "");
    }
}

/// The server does not mark identity columns that it does not send.
#[test]
fn a_table_that_was_dropped_is_insert_only_if_its_identity_is_nothing() {
    let mut catalog = catalog();
    let known = CatalogTable {
        oid: 10,
        columns: ["id", "code", "v"].map(int_column).into(),
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("s", "p10"), known);
    for (oid, identity, is_insert_only) in [
        (10, b'd', true),
        (10, b'i', true),
        (10, b'f', false),
        (11, b'n', true),
        (11, b'd', false),
        (11, b'i', false),
    ] {
        let table = table(&catalog, oid, identity, &[]);
        assert_eq!(table.relation.is_insert_only, is_insert_only, "{oid} {identity}");
    }
}

#[test]
fn a_null_of_an_old_row_is_a_value_if_every_partition_logs_whole_rows() {
    for (partitions, is_certain) in [
        (&[(b'f', ALL)][..], true),
        (&[(b'f', ALL), (b'n', &[])], true),
        (&[(b'f', ALL), (b'd', ID)], false),
        (&[(b'd', ID)], false),
    ] {
        for root in [(b'f', ALL), (b'd', ID)] {
            let tables = described(root, partitions);
            assert_eq!(
                tables.logs_whole_rows(ROOT, root.0 == b'f'),
                is_certain,
                "{partitions:?}"
            );
        }
    }
}

/// Key columns stay `not null` after the key is dropped.
///
/// So a partition without a key may have had one when the row was written.
#[test]
fn a_partition_that_may_have_lost_its_key_was_not_insert_only() {
    for (identity, has_not_null, is_insert_only) in [
        ('d', true, false),
        ('d', false, true),
        ('n', true, true),
        ('f', false, false),
    ] {
        let mut catalog = catalog();
        let partition = CatalogTable {
            oid: 12,
            columns: ["id", "code", "v"].map(int_column).into(),
            identity,
            identity_full: identity == 'f',
            has_not_null,
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("s", "p12"), partition);
        let root = CatalogTable {
            oid: ROOT,
            columns: ["id", "code", "v"].map(int_column).into(),
            is_partitioned: true,
            partitions: vec![12],
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("s", "p"), root);
        let mut tables = RelationTables::default();
        tables.insert(ROOT, table(&catalog, ROOT, b'n', &[]));
        tables.begin_row(ROOT);
        let relation = tables.relation_of_row(ROOT, None).unwrap();
        assert_eq!(
            relation.is_insert_only, is_insert_only,
            "{identity} {has_not_null}"
        );
        assert_eq!(
            tables.logs_whole_rows(ROOT, true),
            is_insert_only || identity == 'f'
        );
    }
}

#[test]
fn a_table_that_is_truncated_with_others_has_no_partitions() {
    let (catalog, mut tables) = (catalog(), RelationTables::default());
    for oid in [20, 21] {
        tables.insert(oid, table(&catalog, oid, b'f', ALL));
    }
    tables.forget_described();
    tables.begin_row(20);
    assert!(tables.logs_whole_rows(20, true));
    assert!(tables.tables[&20].partitions.is_empty());
}

#[test]
fn a_partition_is_known_although_the_rows_after_its_description_were_omitted() {
    let (catalog, mut tables) = (catalog(), RelationTables::default());
    for (oid, marked) in [(ROOT, ALL), (10, ID), (30, ID)] {
        let identity = if oid == ROOT { b'f' } else { b'd' };
        tables.insert(oid, table(&catalog, oid, identity, marked));
    }
    tables.begin_row(30);
    tables.begin_row(ROOT);
    assert!(!tables.logs_whole_rows(ROOT, true));
    assert!(tables.tables[&30].partitions.is_empty());
}

#[test]
fn an_ordinary_table_has_no_partitions_although_rows_of_another_were_omitted() {
    let (mut catalog, mut tables) = (catalog(), RelationTables::default());
    for oid in [20, 21] {
        let ordinary = CatalogTable {
            oid,
            columns: ["id", "code", "v"].map(int_column).into(),
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("s", format!("p{oid}")), ordinary);
    }
    tables.insert(20, table(&catalog, 20, b'd', ID));
    tables.insert(21, table(&catalog, 21, b'd', &[]));
    tables.begin_row(20);
    assert!(tables.tables[&20].partitions.is_empty());
    assert!(!tables.logs_whole_rows(20, false));
}

/// The other table may only seem to be its partition.
#[test]
fn a_dropped_table_does_not_log_whole_rows_because_another_one_does() {
    let (catalog, mut tables) = (catalog(), RelationTables::default());
    tables.insert(20, table(&catalog, 20, b'd', ID));
    tables.insert(21, table(&catalog, 21, b'f', ALL));
    tables.begin_row(20);
    assert!(!tables.logs_whole_rows(20, false));
    assert!(tables.logs_whole_rows(20, true));
}

#[test]
fn a_table_that_is_described_after_a_partition_is_not_a_partition_of_the_root() {
    let (catalog, mut tables) = (catalog(), RelationTables::default());
    for (oid, marked) in [(ROOT, ID), (10, ID), (30, &[][..])] {
        tables.insert(oid, table(&catalog, oid, b'd', marked));
    }
    tables.begin_row(ROOT);
    let partitions: Vec<_> = tables.tables[&ROOT].partitions.keys().collect();
    assert_eq!(partitions, [&10]);
}

#[test]
fn a_partition_of_the_catalog_counts_before_it_has_written_a_row() {
    for (other, is_common) in [(&["id"][..], true), (&["code"], false), (&[], false)] {
        let mut catalog = catalog();
        let root = catalog.table(&TableName::new("s", "p")).unwrap().clone();
        let leaf = CatalogTable {
            oid: 11,
            key: other.iter().map(|name| (*name).to_owned()).collect(),
            ..CatalogTable::default()
        };
        catalog.insert(TableName::new("s", "p11"), leaf);
        let partitions = vec![11];
        catalog.insert(TableName::new("s", "p"), CatalogTable { partitions, ..root });
        let mut tables = RelationTables::default();
        tables.insert(ROOT, table(&catalog, ROOT, b'd', &[]));
        tables.insert(10, table(&catalog, 10, b'd', ID));
        tables.begin_row(ROOT);
        assert_eq!(key(&mut tables, None), if is_common { "id" } else { "" });
        assert_eq!(key(&mut tables, Some(ID)), "id");
    }
}
