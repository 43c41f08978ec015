use super::*;

/// A table with two columns and a usable key.
pub(crate) fn table_info(name: &str, oid: u32) -> RelationInfo {
    RelationInfo {
        table: TableName::new("public", name),
        oid,
        kind: 'r',
        is_permanent: true,
        is_identified: true,
        key: vec!["id".into()],
        key_order: vec![KeyOrder::plain(None)],
        columns: ["id", "n"].map(column).into(),
        may_use_schema: true,
        ..RelationInfo::default()
    }
}

fn column(name: &str) -> ColumnInfo {
    ColumnInfo {
        name: name.into(),
        may_read: true,
        is_generated: false,
        is_virtual: false,
        size_probe: SizeProbe::No,
    }
}

pub(crate) fn request(tables: &[&str]) -> BackfillRequest {
    BackfillRequest {
        tables: tables.iter().map(|text| text.parse().unwrap()).collect(),
        condition: None,
        columns: Vec::new(),
        chunk_rows: None,
        repair: false,
    }
}

fn schema(relations: Vec<RelationInfo>, published: Option<&[&str]>) -> DatabaseSchema {
    let publish = |names: &[&str]| {
        names
            .iter()
            .map(|name| (TableName::new("public", *name), PublicationInfo::default()))
            .collect()
    };
    DatabaseSchema {
        relations,
        published: published.map(publish),
        ..DatabaseSchema::default()
    }
}

fn names(schema: &DatabaseSchema, tables: &[&str]) -> Vec<String> {
    let tables = schema.backfill_tables(&request(tables)).unwrap();
    tables.iter().map(|table| table.name().name.clone()).collect()
}

fn refusals(schema: &DatabaseSchema, request: &BackfillRequest) -> String {
    let refusals = schema.backfill_tables(request).unwrap_err();
    refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn patterns_select_published_tables_in_the_order_of_their_names() {
    let view = RelationInfo {
        kind: 'v',
        ..table_info("a_view", 1)
    };
    let relations = vec![
        table_info("b", 2),
        table_info("a", 3),
        table_info("unpublished", 4),
        view,
    ];
    let schema = schema(relations, Some(&["a", "b"]));
    assert_eq!(names(&schema, &[]), ["a", "b"]);
    assert_eq!(names(&schema, &["public.*"]), ["a", "b"]);
    assert_eq!(names(&schema, &["*.b", "public.b"]), ["b"]);
    assert!(refusals(&schema, &request(&["other.*"])).contains("no published table matches it"));
    assert!(refusals(&schema, &request(&["public.c"])).contains("public.c: there is no table of this name"));
    assert!(refusals(&schema, &request(&["public.a_view"])).contains("it is a view"));
    assert!(refusals(&schema, &request(&["public.unpublished"])).contains("not in PUBLICATIONS"));
}

#[test]
fn each_table_that_cannot_be_read_is_refused_with_its_reason() {
    type Alter = fn(&mut RelationInfo);
    let refused: [(&str, Alter); 9] = [
        ("it is a foreign table", |info| info.kind = 'f'),
        ("temporary or unlogged", |info| info.is_permanent = false),
        ("may not use its schema", |info| info.may_use_schema = false),
        ("row security may hide rows", |info| info.hides_rows = true),
        ("it has no primary key", |info| info.key.clear()),
        ("column gone of its key is not published", |info| {
            info.key = vec!["gone".into()];
        }),
        ("may not read column n", |info| info.columns[1].may_read = false),
        ("it is a view", |info| info.kind = 'm'),
        ("it has no replica identity", |info| info.is_identified = false),
    ];
    for (reason, alter) in refused {
        let mut info = table_info("t", 1);
        alter(&mut info);
        let schema = schema(vec![info, table_info("u", 2)], None);
        let refusals = refusals(&schema, &request(&["public.t", "public.u"]));
        assert!(
            refusals.starts_with("public.t: ") && refusals.contains(reason),
            "{refusals}"
        );
    }
    let schema = schema(vec![table_info("t", 1)], None);
    let columns = BackfillRequest {
        columns: vec!["x".into()],
        ..request(&["public.t"])
    };
    assert!(refusals(&schema, &columns).contains("its changes have no column x"));
}

#[test]
fn a_partitioned_table_selects_its_partitions_unless_changes_have_the_name_of_the_root() {
    let root = RelationInfo {
        kind: 'p',
        ..table_info("p", 1)
    };
    let leaf = |name, oid| RelationInfo {
        roots: vec![1],
        ..table_info(name, oid)
    };
    let relations = || vec![root.clone(), leaf("p1", 2), leaf("p2", 3)];
    let by_leaves = schema(relations(), Some(&["p1", "p2"]));
    assert_eq!(names(&by_leaves, &["public.p"]), ["p1", "p2"]);
    assert_eq!(names(&by_leaves, &[]), ["p1", "p2"]);
    let without_publications = schema(relations(), None);
    assert_eq!(names(&without_publications, &["public.p"]), ["p1", "p2"]);
    let by_root = schema(relations(), Some(&["p"]));
    assert_eq!(names(&by_root, &[]), ["p"]);
    assert_eq!(names(&by_root, &["public.p"]), ["p"]);
    assert!(refusals(&by_root, &request(&["public.p1"])).contains("under the name of the partitioned table"));
}

/// A partitioned table `p`, and its partition `p1`.
fn root_and_leaf() -> [RelationInfo; 2] {
    let root = RelationInfo {
        kind: 'p',
        ..table_info("p", 1)
    };
    let leaf = RelationInfo {
        roots: vec![1],
        ..table_info("p1", 2)
    };
    [root, leaf]
}

#[test]
fn a_partitioned_table_is_refused_if_a_partition_logs_another_key() {
    let [root, leaf] = root_and_leaf();
    for (key, identity, identity_full, is_refused) in [
        ("id", 'd', false, false),
        ("n", 'i', false, true),
        ("n", 'f', true, false),
    ] {
        let mut schema = schema(vec![root.clone(), leaf.clone()], Some(&["p"]));
        let table = |key: &str, identity, identity_full| CatalogTable {
            key: vec![key.to_owned()],
            identity,
            identity_full,
            ..CatalogTable::default()
        };
        let name = |name: &str| TableName::new("public", name);
        schema.catalog.insert(name("p"), table("id", 'd', false));
        schema
            .catalog
            .insert(name("p1"), table(key, identity, identity_full));
        match is_refused {
            true => {
                let refusals = refusals(&schema, &request(&[]));
                let reason = "public.p: the replica identity of partition public.p1 is not a key";
                assert!(refusals.starts_with(reason), "{refusals}");
            }
            false => assert_eq!(names(&schema, &[]), ["p"], "{key} {identity}"),
        }
    }
}

#[test]
fn a_partitioned_table_without_a_key_has_that_of_its_partitions() {
    let [root, leaf] = root_and_leaf();
    let name = |name: &str| TableName::new("public", name);
    for (partition_key, key) in [("id", Ok("id")), ("n", Err("lacks column id"))] {
        let mut schema = schema(vec![root.clone(), leaf.clone()], Some(&["p"]));
        let table = |key: &[&str]| CatalogTable {
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            identity: 'd',
            partition_columns: Some(vec![partition_key.to_owned()]),
            ..CatalogTable::default()
        };
        schema.catalog.insert(name("p"), table(&[]));
        schema.catalog.insert(name("p1"), table(&[partition_key]));
        let tables = schema.backfill_tables(&request(&[]));
        let found = tables.map(|tables| {
            let columns = tables[0].relation.columns.iter();
            let key = columns.filter(|column| column.key);
            key.map(|column| column.name.clone())
                .collect::<Vec<_>>()
                .join(",")
        });
        match (found, key) {
            (Ok(found), Ok(key)) => assert_eq!(found, key),
            (Err(refusals), Err(reason)) => assert!(refusals[0].reason.contains(reason), "{refusals:?}"),
            (found, _) => panic!("{found:?}, not {key:?}"),
        }
    }
}

#[test]
fn a_pattern_skips_a_partitioned_table_that_is_not_included() {
    let [root, leaf] = root_and_leaf();
    let schema = DatabaseSchema {
        tables: vec!["public.t".parse().unwrap()],
        ..schema(vec![root, leaf, table_info("t", 3)], Some(&["p", "t"]))
    };
    assert_eq!(names(&schema, &[]), ["t"]);
    assert_eq!(names(&schema, &["public.*"]), ["t"]);
    assert_eq!(schema.table_names(&request(&[])), [TableName::new("public", "t")]);
    assert!(refusals(&schema, &request(&["public.p"])).contains("TABLES does not include it"));
}

#[test]
fn only_published_columns_and_rows_are_read() {
    let mut info = table_info("t", 1);
    info.columns.push(ColumnInfo {
        is_generated: true,
        ..column("g")
    });
    let columns = |schema: &DatabaseSchema, request: &BackfillRequest| {
        let table = schema.backfill_tables(request).unwrap().remove(0);
        let all = table.relation.columns.iter().enumerate();
        all.map(|(index, column)| (column.name.clone(), table.selects(index)))
            .collect::<Vec<_>>()
    };
    let all = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
        names
            .iter()
            .map(|(name, is_read)| ((*name).to_owned(), *is_read))
            .collect()
    };
    let without_publications = schema(vec![info.clone()], None);
    assert_eq!(
        columns(&without_publications, &request(&[])),
        all(&[("id", true), ("n", true), ("g", true)])
    );
    let mut published = schema(vec![info], Some(&["t"]));
    assert_eq!(
        columns(&published, &request(&[])),
        all(&[("id", true), ("n", true)])
    );
    let some = BackfillRequest {
        columns: vec!["n".into()],
        ..request(&[])
    };
    assert_eq!(columns(&published, &some), all(&[("id", true), ("n", true)]));
    let name = TableName::new("public", "t");
    let listed = PublicationInfo {
        columns: Some(vec!["id".into(), "x".into()]),
        filters: Some(vec!["id > 1".into(), "id < 0".into()]),
    };
    published.published = Some([(name, listed)].into());
    assert_eq!(columns(&published, &request(&[])), all(&[("id", true)]));
    let table = published.backfill_tables(&request(&[])).unwrap().remove(0);
    assert_eq!(table.conditions, ["(id > 1) or (id < 0)"]);
}
