use super::*;

/// A table of two columns that can be read by its key.
pub(crate) fn plain(name: &str, oid: u32) -> RelationInfo {
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

fn site(relations: Vec<RelationInfo>, published: Option<&[&str]>) -> DatabaseSchema {
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

fn names(site: &DatabaseSchema, tables: &[&str]) -> Vec<String> {
    let tables = site.backfill_tables(&request(tables)).unwrap();
    tables.iter().map(|table| table.name().name.clone()).collect()
}

fn refusals(site: &DatabaseSchema, request: &BackfillRequest) -> String {
    let refusals = site.backfill_tables(request).unwrap_err();
    refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn patterns_mean_published_tables_in_the_order_of_their_names() {
    let view = RelationInfo {
        kind: 'v',
        ..plain("a_view", 1)
    };
    let relations = vec![plain("b", 2), plain("a", 3), plain("unpublished", 4), view];
    let site = site(relations, Some(&["a", "b"]));
    assert_eq!(names(&site, &[]), ["a", "b"]);
    assert_eq!(names(&site, &["public.*"]), ["a", "b"]);
    assert_eq!(names(&site, &["*.b", "public.b"]), ["b"]);
    assert!(refusals(&site, &request(&["other.*"])).contains("no published table is meant by it"));
    assert!(refusals(&site, &request(&["public.c"])).contains("public.c: there is no table of this name"));
    assert!(refusals(&site, &request(&["public.a_view"])).contains("it is a view"));
    assert!(refusals(&site, &request(&["public.unpublished"])).contains("not in PUBLICATIONS"));
}

#[test]
fn each_table_that_cannot_be_read_is_refused_with_its_reason() {
    type Spoil = fn(&mut RelationInfo);
    let refused: [(&str, Spoil); 9] = [
        ("it is a foreign table", |it| it.kind = 'f'),
        ("temporary or unlogged", |it| it.is_permanent = false),
        ("may not use its schema", |it| it.may_use_schema = false),
        ("row security may hide rows", |it| it.hides_rows = true),
        ("it has no primary key", |it| it.key.clear()),
        ("column gone of its key is not published", |it| {
            it.key = vec!["gone".into()];
        }),
        ("may not read column n", |it| it.columns[1].may_read = false),
        ("it is a view", |it| it.kind = 'm'),
        ("it has no replica identity", |it| it.is_identified = false),
    ];
    for (why, spoil) in refused {
        let mut described = plain("t", 1);
        spoil(&mut described);
        let site = site(vec![described, plain("u", 2)], None);
        let said = refusals(&site, &request(&["public.t", "public.u"]));
        assert!(said.starts_with("public.t: ") && said.contains(why), "{said}");
    }
    let site = site(vec![plain("t", 1)], None);
    let columns = BackfillRequest {
        columns: vec!["x".into()],
        ..request(&["public.t"])
    };
    assert!(refusals(&site, &columns).contains("it has no column x"));
}

#[test]
fn a_partitioned_table_is_its_partitions_unless_its_changes_come_under_its_own_name() {
    let root = RelationInfo {
        kind: 'p',
        ..plain("p", 1)
    };
    let leaf = |name, oid| RelationInfo {
        roots: vec![1],
        ..plain(name, oid)
    };
    let relations = || vec![root.clone(), leaf("p1", 2), leaf("p2", 3)];
    let by_leaves = site(relations(), Some(&["p1", "p2"]));
    assert_eq!(names(&by_leaves, &["public.p"]), ["p1", "p2"]);
    assert_eq!(names(&by_leaves, &[]), ["p1", "p2"]);
    let without_publications = site(relations(), None);
    assert_eq!(names(&without_publications, &["public.p"]), ["p1", "p2"]);
    let by_root = site(relations(), Some(&["p"]));
    assert_eq!(names(&by_root, &[]), ["p"]);
    assert_eq!(names(&by_root, &["public.p"]), ["p"]);
    assert!(refusals(&by_root, &request(&["public.p1"])).contains("under the name of the partitioned table"));
}

#[test]
fn columns_and_rows_are_those_that_are_published() {
    let mut described = plain("t", 1);
    described.columns.push(ColumnInfo {
        is_generated: true,
        ..column("g")
    });
    let columns = |site: &DatabaseSchema, request: &BackfillRequest| {
        let table = site.backfill_tables(request).unwrap().remove(0);
        let all = table.relation.columns.iter().enumerate();
        all.map(|(at, column)| (column.name.clone(), table.selects(at)))
            .collect::<Vec<_>>()
    };
    let all = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
        names
            .iter()
            .map(|(name, reads)| ((*name).to_owned(), *reads))
            .collect()
    };
    let plugin_tells_all = site(vec![described.clone()], None);
    assert_eq!(
        columns(&plugin_tells_all, &request(&[])),
        all(&[("id", true), ("n", true), ("g", true)])
    );
    let mut published = site(vec![described], Some(&["t"]));
    assert_eq!(
        columns(&published, &request(&[])),
        all(&[("id", true), ("n", true)])
    );
    let some = BackfillRequest {
        columns: vec!["n".into()],
        ..request(&[])
    };
    assert_eq!(columns(&published, &some), all(&[("id", true), ("n", true)]));
    let key = TableName::new("public", "t");
    let listed = PublicationInfo {
        columns: Some(vec!["id".into(), "x".into()]),
        filters: Some(vec!["id > 1".into(), "id < 0".into()]),
    };
    published.published = Some([(key, listed)].into());
    assert_eq!(columns(&published, &request(&[])), all(&[("id", true)]));
    let table = published.backfill_tables(&request(&[])).unwrap().remove(0);
    assert_eq!(table.conditions, ["(id > 1) or (id < 0)"]);
}
