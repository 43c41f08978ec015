use super::*;
use crate::change::{COMMA, ValueType};

const PRICE: u32 = 20_000;

/// A type in `public`.
fn catalog_type(oid: u32, name: &str, printed: &str, form: TypeForm) -> CatalogType {
    CatalogType {
        oid,
        schema: "public".into(),
        name: name.into(),
        printed: printed.into(),
        extension: None,
        form,
    }
}

fn domain(base: u32, modifier: i32, base_name: &str) -> TypeForm {
    TypeForm::Domain {
        base,
        modifier,
        base_name: base_name.into(),
    }
}

fn array(element: u32, delimiter: u8) -> TypeForm {
    TypeForm::Array { element, delimiter }
}

/// A catalog with types that are not built in.
///
/// It has the domain `price` of `numeric(12,2)`, its array, the domain `Price list` of that array, and the
/// array of `Price list`. It also has types of `TypeForm::Other`, such as `Mood` and `geometry`.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (oid, name, printed, form) in [
        (PRICE, "price", "price", domain(1700, 786_438, "numeric(12,2)")),
        (20_001, "_price", "price[]", array(PRICE, b',')),
        (
            20_002,
            "Price list",
            "\"Price list\"",
            domain(20_001, -1, "price[]"),
        ),
        (20_003, "_Price list", "\"Price list\"[]", array(20_002, b',')),
        (20_004, "_lead", "_lead", TypeForm::Other),
        (20_005, "__lead", "_lead[]", array(20_004, b',')),
        (20_006, "geometry", "geometry", TypeForm::Other),
        (20_007, "_geometry", "geometry[]", array(20_006, b':')),
        (20_008, "integer", "\"integer\"", TypeForm::Other),
        (20_009, "places", "places", domain(20_007, 8, "geometry(Point)[]")),
        (20_010, "Mood", "\"Mood\"", TypeForm::Other),
        (20_011, "a []", "\"a []\"", TypeForm::Other),
    ] {
        catalog.insert_type(catalog_type(oid, name, printed, form));
    }
    let column = |name: &str, type_oid, modifier, type_name: &str| CatalogColumn {
        name: name.into(),
        type_oid,
        modifier,
        type_name: type_name.into(),
        toastable: false,
    };
    let columns = vec![
        column("a", 1700, 655_368, "numeric(10,4)"),
        column("b", PRICE, -1, "price"),
        column("c", 20_010, -1, "\"Mood\""),
        column("g", 20_006, 4, "geometry(Point)"),
        column("s", 1042, 8, "character(4)"),
    ];
    catalog.insert(
        TableName::new("public", "t"),
        CatalogTable {
            columns,
            ..CatalogTable::default()
        },
    );
    catalog
}

fn array_of(kind: ValueType, delimiter: u8) -> ValueType {
    ValueType::Array(Box::new(kind), delimiter)
}

#[test]
fn an_oid_decides_the_type_whatever_its_name_is() {
    let price = ValueType::Numeric(Some(2));
    let prices = array_of(price.clone(), COMMA);
    for (oid, modifier, name, kind) in [
        (23, -1, "integer", ValueType::Integer),
        (PRICE, -1, "numeric(12,2)", price),
        (20_001, -1, "numeric(12,2)[]", prices.clone()),
        (20_002, -1, "numeric(12,2)[]", prices.clone()),
        (20_003, -1, "numeric(12,2)[][]", array_of(prices, COMMA)),
        (20_004, -1, "_lead", ValueType::Text),
        (20_005, -1, "_lead[]", array_of(ValueType::Text, COMMA)),
        (20_006, 4, "geometry(Point)", ValueType::Text),
        (20_006, -1, "geometry", ValueType::Text),
        (20_007, -1, "geometry[]", array_of(ValueType::Text, b':')),
        (20_008, -1, "\"integer\"", ValueType::Text),
        (20_009, -1, "geometry(Point)[]", array_of(ValueType::Text, b':')),
    ] {
        let found = catalog().type_of_oid(oid, modifier).unwrap();
        assert_eq!((found.name.as_str(), found.kind), (name, kind), "{oid}");
    }
    assert_eq!(catalog().type_of_oid(30_000, -1), None);
}

#[test]
fn the_search_ends_for_a_domain_that_contains_itself() {
    let mut catalog = Catalog::default();
    catalog.insert_type(catalog_type(1, "d", "d", domain(2, -1, "d[]")));
    catalog.insert_type(catalog_type(2, "_d", "d[]", array(1, b',')));
    assert!(catalog.type_of_oid(1, -1).is_some());
}

#[test]
fn a_name_is_that_of_the_declared_type_or_else_a_printed_name() {
    let catalog = catalog();
    let past = catalog.past_table_named(&TableName::new("public", "t"));
    for (column, sent, expected) in [
        ("a", "numeric", "numeric(10,4)"),
        ("a", "integer", "integer"),
        ("a", "\"integer\"", "\"integer\""),
        ("b", "numeric", "numeric"),
        ("b", "price", "numeric(12,2)"),
        ("c", "Mood", "\"Mood\""),
        ("g", "geometry", "geometry(Point)"),
        ("s", "character", "character(4)"),
        ("gone", "price[]", "numeric(12,2)[]"),
        ("gone", "text", "text"),
        ("gone", "dropped", "dropped"),
    ] {
        assert_eq!(catalog.type_of_name(past, column, sent).name, expected, "{sent}");
    }
    assert_eq!(catalog.type_of_name(None, "a", "numeric").name, "numeric");
}

#[test]
fn a_declared_modifier_is_not_used_for_rows_before_its_column_was_altered() {
    let mut catalog = catalog();
    let name = TableName::new("public", "t");
    let mut table = catalog.table(&name).unwrap().clone();
    table.recent.columns = ["a", "b", "s"].map(|column| (column.to_owned(), 20)).into();
    catalog.insert(name.clone(), table);
    for (xid, expected) in [
        (19, ["numeric", "numeric(12,2)", "bpchar", "geometry(Point)"]),
        (
            21,
            [
                "numeric(10,4)",
                "numeric(12,2)",
                "character(4)",
                "geometry(Point)",
            ],
        ),
    ] {
        catalog.begin_transaction(xid);
        let past = catalog.past_table_named(&name);
        let sent = [
            ("a", "numeric"),
            ("b", "price"),
            ("s", "character"),
            ("g", "geometry"),
        ];
        let found = sent.map(|(column, sent)| catalog.type_of_name(past, column, sent).name);
        assert_eq!(found, expected, "{xid}");
    }
}

#[test]
fn the_name_of_a_dropped_type_shows_whether_it_is_an_array() {
    let catalog = catalog();
    for (sent, kind) in [
        ("app.dropped[]", array_of(ValueType::Text, COMMA)),
        ("\"dropped []\"", ValueType::Text),
        ("a []", ValueType::Text),
        ("app.date", ValueType::Text),
    ] {
        assert_eq!(catalog.type_of_name(None, "c", sent).kind, kind, "{sent}");
    }
    for (schema, name, kind) in [
        ("", "int4", ValueType::Integer),
        ("", "_numeric", array_of(ValueType::Numeric(None), COMMA)),
        ("", "_box", array_of(ValueType::Text, b';')),
        ("public", "_lead", ValueType::Text),
        ("public", "_price", array_of(ValueType::Numeric(Some(2)), COMMA)),
        ("public", "date", ValueType::Text),
        ("public", "_date", array_of(ValueType::Text, COMMA)),
    ] {
        let found = catalog.type_of_catalog_name(schema, name);
        assert_eq!(found.kind, kind, "{schema}.{name}");
    }
    assert_eq!(catalog.type_of_catalog_name("public", "date").name, "public.date");
}

#[test]
fn a_name_adds_the_modifier_to_the_type_that_the_oid_identifies() {
    let catalog = catalog();
    for (oid, sent, name, kind) in [
        (
            1700,
            "numeric(10,4)",
            "numeric(10,4)",
            ValueType::Numeric(Some(4)),
        ),
        (
            1114,
            "timestamp(3) without time zone",
            "timestamp(3) without time zone",
            ValueType::Timestamp(3),
        ),
        (
            PRICE,
            "numeric(12,2)",
            "numeric(12,2)",
            ValueType::Numeric(Some(2)),
        ),
        (
            20_001,
            "price[]",
            "numeric(12,2)[]",
            array_of(ValueType::Numeric(Some(2)), COMMA),
        ),
        (20_006, "geometry(Point)", "geometry(Point)", ValueType::Text),
        (20_008, "integer", "\"integer\"", ValueType::Text),
        (20_004, "former", "former", ValueType::Text),
        (18, "char", "\"char\"", ValueType::Text),
        (
            30_000,
            "numeric(3,1)",
            "numeric(3,1)",
            ValueType::Numeric(Some(1)),
        ),
    ] {
        let found = catalog.type_of_oid_and_name(oid, sent);
        assert_eq!((found.name.as_str(), found.kind), (name, kind), "{oid} {sent}");
    }
}

#[test]
fn a_partial_catalog_lacks_the_tables_that_were_not_read() {
    let (read, gone, unread) = (
        TableName::new("public", "read"),
        TableName::new("public", "gone"),
        TableName::new("public", "unread"),
    );
    let mut catalog = Catalog::partial();
    catalog.insert(read.clone(), CatalogTable::default());
    catalog.insert_missing(gone.clone());
    let lacks = |catalog: &Catalog| [&read, &gone, &unread].map(|name| catalog.lacks(name));
    assert_eq!(lacks(&catalog), [false, false, true]);
    assert!(catalog.table(&read).is_some() && catalog.table(&gone).is_none());
    assert_eq!(lacks(&Catalog::default()), [false; 3]);
}

#[test]
fn a_partial_catalog_lacks_the_oids_that_were_not_read() {
    let mut catalog = Catalog::partial();
    let table = CatalogTable {
        oid: 1,
        ..CatalogTable::default()
    };
    catalog.insert(TableName::new("public", "read"), table);
    catalog.insert_read_oid(2);
    assert_eq!([1, 2, 3].map(|oid| catalog.lacks_oid(oid)), [false, false, true]);
    assert!(!Catalog::default().lacks_oid(3));
}

#[test]
fn a_name_belongs_to_a_table_until_a_view_has_it() {
    let view = TableName::new("public", "v");
    let mut catalog = Catalog::partial();
    catalog.insert_other_relation(view.clone(), Lsn(100));
    let is_table = |lsn| catalog.is_table(&view, Lsn(lsn));
    assert_eq!([99, 100, 101].map(is_table), [true, false, false]);
    assert!(catalog.is_table(&TableName::new("public", "dropped"), Lsn(101)));
    assert!(catalog.table(&view).is_none() && !catalog.lacks(&view));
}

#[test]
fn a_catalog_has_types_after_the_first_was_added() {
    assert!(catalog().has_types() && !Catalog::default().has_types());
}

#[test]
fn a_partitioned_table_is_insert_only_if_all_its_partitions_are() {
    let keyed = |oid: u32, key: &[&str]| CatalogTable {
        oid,
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        ..CatalogTable::default()
    };
    for (partitions, expected) in [(vec![2], true), (vec![2, 3], false), (vec![2, 4], false)] {
        let root = CatalogTable {
            partitions,
            ..keyed(1, &[])
        };
        let mut catalog = Catalog::default();
        catalog.insert(TableName::new("s", "bare"), keyed(2, &[]));
        catalog.insert(TableName::new("s", "keyed"), keyed(3, &["id"]));
        // The partition 4 was not read.
        assert_eq!(catalog.is_insert_only(&root), expected, "{:?}", root.partitions);
    }
}
