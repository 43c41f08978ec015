use super::*;
use crate::catalog::CatalogColumn;

/// A catalog with the table `public.t`.
///
/// Transaction 10 created the table. Transaction 20 wrote its key and its column `b`.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let column = |name: &str| CatalogColumn {
        name: name.into(),
        type_oid: 23,
        modifier: -1,
        type_name: "integer".into(),
        toastable: false,
    };
    let recent = RecentWriters {
        created: Some(10),
        name: vec![10],
        key: vec![20],
        primary_key: vec![10],
        columns: [("a".to_owned(), 10), ("b".to_owned(), 20)].into(),
        ..RecentWriters::default()
    };
    let table = CatalogTable {
        oid: 7,
        key: vec!["b".into()],
        primary_key: vec!["a".into()],
        columns: vec![column("a"), column("b"), column("c")],
        recent,
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "t"), table);
    catalog
}

fn name() -> TableName {
    TableName::new("public", "t")
}

/// A catalog with the table, whose identity is the default.
fn catalog_with_identity(recent: RecentWriters) -> Catalog {
    let mut catalog = Catalog::default();
    let table = CatalogTable {
        oid: 7,
        identity: 'd',
        recent,
        ..CatalogTable::default()
    };
    catalog.insert(name(), table);
    catalog
}

#[test]
fn a_fact_is_valid_for_rows_of_later_transactions() {
    let mut catalog = catalog();
    for (xid, has_key) in [(15, false), (20, false), (21, true), (u32::MAX - 5, false)] {
        catalog.begin_transaction(xid);
        assert_eq!(catalog.past_table(7).unwrap().key().is_empty(), !has_key, "{xid}");
    }
}

/// Transaction 20 created the index, and 30 changed the identity.
#[test]
fn an_index_may_be_a_former_identity_between_its_creation_and_the_change_of_the_identity() {
    let may_have_had = |created: Option<u32>, identity: Vec<u32>, xid: u32| {
        let index = FormerIdentity { written: 30, created };
        let recent = RecentWriters {
            former_identities: vec![index],
            identity,
            ..RecentWriters::default()
        };
        let mut catalog = catalog_with_identity(recent);
        catalog.begin_transaction(xid);
        let past = catalog.past_table(7).unwrap();
        past.may_have_had_another_identity_index()
    };
    for (xid, expected) in [(19, false), (20, true), (29, true), (30, true), (31, false)] {
        assert_eq!(may_have_had(Some(20), vec![30], xid), expected, "{xid}");
        // The table's row was not written since, so its identity is the same.
        assert!(!may_have_had(Some(20), vec![], xid), "{xid}");
    }
    assert!(may_have_had(None, vec![30], 19));
}

#[test]
fn transactions_have_the_same_generation_if_the_same_facts_are_valid() {
    let mut catalog = catalog();
    let generations = [9, 10, 11, 15, 20, 21].map(|xid| {
        catalog.begin_transaction(xid);
        catalog.generation()
    });
    assert_eq!(
        generations.map(|number| number - generations[0]),
        [0, 1, 2, 2, 3, 4]
    );
}

#[test]
fn a_table_that_is_read_later_begins_a_generation() {
    let mut catalog = catalog();
    let generation = |catalog: &mut Catalog, xid| {
        catalog.begin_transaction(xid);
        catalog.generation()
    };
    let before = generation(&mut catalog, 15);
    let recent = RecentWriters {
        key: vec![5],
        ..RecentWriters::default()
    };
    catalog.insert(
        TableName::new("public", "later"),
        CatalogTable {
            oid: 8,
            recent,
            ..CatalogTable::default()
        },
    );
    assert_ne!(catalog.generation(), before);
    // The number of valid facts is the same, but the facts differ.
    assert_ne!(generation(&mut catalog, 9), before);
}

#[test]
fn a_fact_of_the_tables_creation_is_valid_for_every_row_of_its_oid() {
    let catalog = catalog();
    let past = catalog.past_table(7).unwrap();
    assert_eq!(past.primary_key(), ["a"]);
    assert!(past.has_column("a") && past.has_column("c") && !past.has_column("b"));
    assert!(catalog.past_table(8).is_none());
}

#[test]
fn another_table_may_have_had_the_name_before_the_creation() {
    let mut catalog = catalog();
    for (xid, is_valid) in [(9, false), (10, true), (11, true)] {
        catalog.begin_transaction(xid);
        assert_eq!(catalog.past_table_named(&name()).is_some(), is_valid, "{xid}");
    }
}

#[test]
fn a_table_was_insert_only_if_nothing_can_have_identified_its_rows() {
    // Identity, whether a column is not null, whether the row shows that there is no primary key.
    for (identity, has_not_null, lacks_primary_key, is_insert_only) in [
        ('n', true, false, true),
        ('d', false, false, true),
        // The primary key may have been dropped since.
        ('d', true, false, false),
        ('d', true, true, true),
        // The index of the identity was dropped, perhaps since.
        ('i', false, true, false),
        ('f', false, true, false),
    ] {
        let mut catalog = Catalog::default();
        let recent = RecentWriters {
            identity: vec![20],
            columns: [("a".to_owned(), 10)].into(),
            ..RecentWriters::default()
        };
        let table = CatalogTable {
            oid: 7,
            identity,
            has_not_null,
            recent,
            ..CatalogTable::default()
        };
        catalog.insert(name(), table);
        for (xid, is_known) in [(15, false), (21, true)] {
            catalog.begin_transaction(xid);
            let past = catalog.past_table(7).unwrap();
            assert_eq!(
                past.lacked_replica_identity(lacks_primary_key),
                is_insert_only && is_known,
                "{identity} {has_not_null} {lacks_primary_key} {xid}"
            );
        }
    }
}

#[test]
fn an_altered_column_may_have_belonged_to_a_primary_key() {
    for recent in [
        RecentWriters {
            columns: [("a".to_owned(), 20)].into(),
            ..RecentWriters::default()
        },
        RecentWriters {
            dropped: vec![20],
            ..RecentWriters::default()
        },
    ] {
        let mut catalog = catalog_with_identity(recent);
        for (xid, is_known) in [(15, false), (21, true)] {
            catalog.begin_transaction(xid);
            assert_eq!(
                catalog.past_table(7).unwrap().lacked_replica_identity(false),
                is_known
            );
        }
    }
}

#[test]
fn an_identity_is_whole_if_the_server_marked_every_column_of_it() {
    let catalog = catalog();
    let past = catalog.past_table(7).unwrap();
    assert!(past.is_whole_identity(b'd', &["a"], &["a"]));
    assert!(!past.is_whole_identity(b'd', &["b"], &["b", "c"]));
    // The identity's index at the time of the row is unknown.
    assert!(past.is_whole_identity(b'i', &["b"], &["a", "b", "c"]));
    assert!(!past.is_whole_identity(b'i', &["b"], &["a", "b"]));
}
