use super::*;
use crate::rules::column_rules::ColumnRule;

const SALT: &str = "0123456789abcdef";

fn rules(list: &str) -> ProjectionRules {
    let salt = Salt::new(SALT.to_owned()).unwrap();
    ProjectionRules {
        column_rules: ColumnRules::new(ColumnRule::parse_list(list).unwrap(), salt),
        partition_keys: Vec::new(),
    }
}

/// The partition key's columns of `users`, and whether its rows may move.
fn partition(columns: &str, partition_keys: &str, relation: &Arc<Relation>) -> (String, bool) {
    let rules = ProjectionRules {
        partition_keys: TableColumns::parse_list(partition_keys).unwrap(),
        ..rules(columns)
    };
    let values = row(&["a", "1", "x"]);
    let mut projections = Projections::new(&rules);
    let relation = match projections.row(relation, &values) {
        Some((relation, _)) => relation,
        None => Arc::clone(relation),
    };
    let columns = relation.columns.iter().filter(|column| column.in_partition_key);
    let names: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
    (names.join(","), relation.partition_key_may_change)
}

fn relation(columns: &[(&str, &str, bool)]) -> Arc<Relation> {
    Arc::new(Relation::of_columns(TableName::new("public", "users"), columns))
}

fn users() -> Arc<Relation> {
    relation(&[
        ("email", "text", true),
        ("n", "integer", true),
        ("ssn", "text", false),
    ])
}

fn row(values: &[&'static str]) -> Tuple<'static> {
    values.iter().map(|value| Datum::Text((*value).into())).collect()
}

fn hash(value: &str) -> Datum<'static> {
    Datum::Text(Salt::new(SALT.to_owned()).unwrap().hash(value).into())
}

#[test]
fn nulls_and_values_that_the_log_lacks_are_not_hashed() {
    let rules = rules("*.*.ssn:hash,*.*.n:omit");
    let relation = relation(&[
        ("email", "text", true),
        ("n", "integer", false),
        ("ssn", "text", false),
    ]);
    for datum in [
        Datum::Null,
        Datum::Unchanged,
        Datum::Absent,
        Datum::Oversize { bytes: 7 },
    ] {
        let values = vec![Datum::Text("a".into()), datum.clone(), datum.clone()];
        let mut projections = Projections::new(&rules);
        let (sent, values) = projections.row(&relation, &values).unwrap();
        assert_eq!(values, [Datum::Text("a".into()), datum]);
        assert_eq!(sent.columns.len(), 2);
        assert!(sent.columns[0].key, "the key has no omitted column");
    }
}

#[test]
fn a_hashed_key_stays_the_key_and_has_the_same_hash_in_each_image() {
    let rules = rules("public.users.email:hash,public.users.n:hash");
    let change = Change::Update {
        relation: users(),
        old: Some(row(&["a", "1", "x"])),
        new: row(&["b", "1", "x"]),
    };
    let sent = Projections::new(&rules).change(&change).unwrap();
    let Change::Update { relation, old, new } = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(old.unwrap(), [hash("a"), hash("1"), Datum::Text("x".into())]);
    assert_eq!(new, [hash("b"), hash("1"), Datum::Text("x".into())]);
    assert!(relation.columns[0].key && relation.columns[1].key);
    let number = &relation.columns[1];
    assert_eq!((&*number.type_name, number.type_oid), ("text", TEXT_OID));
    assert_eq!(number.kind, ValueType::Text);
    let text = |name: &str| (name.to_owned(), "text".to_owned());
    assert_eq!(relation.primary_key, [text("email"), text("n")]);
}

#[test]
fn a_row_whose_key_loses_a_column_has_no_key() {
    let rules = rules("public.users.n:omit");
    let relation = users();
    let values = row(&["a", "1", "x"]);
    let mut projections = Projections::new(&rules);
    let (sent, values) = projections.row(&relation, &values).unwrap();
    assert_eq!(values, row(&["a", "x"]));
    assert!(!sent.has_key() && !sent.is_insert_only && sent.primary_key.is_empty());
}

#[test]
fn a_boolean_has_one_hash_whichever_plugin_wrote_it() {
    let rules = rules("public.users.b:hash");
    let relation = relation(&[("b", "boolean", false), ("t", "text", false)]);
    let sent = |text| {
        let values = row(&[text, text]);
        let mut projections = Projections::new(&rules);
        projections
            .row(&relation, &values)
            .unwrap()
            .1
            .into_iter()
            .map(|datum| match datum {
                Datum::Text(text) => text.into_owned(),
                datum => panic!("{datum:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(sent("true")[0], sent("t")[0]);
    assert_eq!(sent("false")[0], sent("f")[0]);
    assert_ne!(sent("t")[0], sent("f")[0]);
}

#[test]
fn a_relation_without_a_matching_rule_is_sent_as_it_is() {
    let rules = rules("public.users.phone:omit,public.orders.*:hash");
    let mut projections = Projections::new(&rules);
    let values = row(&["a", "1", "x"]);
    for _ in 0..2 {
        assert_eq!(projections.row(&users(), &values), None);
    }
    let none = ProjectionRules::default();
    let truncate = Change::Truncate {
        relations: vec![users()],
    };
    assert_eq!(Projections::new(&none).change(&truncate), None);
}

#[test]
fn a_table_whose_definition_changes_gets_another_projection() {
    let rules = rules("*.*.ssn:omit");
    let mut projections = Projections::new(&rules);
    let values = row(&["a", "1", "x"]);
    let (first, _) = projections.row(&users(), &values).unwrap();
    // An equal relation has the same projection.
    let (second, _) = projections.row(&users(), &values).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let renamed = relation(&[
        ("email", "text", true),
        ("n", "integer", true),
        ("tax", "text", false),
    ]);
    assert_eq!(projections.row(&renamed, &values), None);
    assert!(projections.row(&users(), &values).is_some());
}

#[test]
fn rows_can_move_unless_the_partition_key_is_a_part_of_the_key() {
    let of = |columns: &str, keys: &str| partition(columns, keys, &users());
    let text = |names: &str| names.to_owned();
    assert_eq!(of("", "public.users:email"), (text("email"), false));
    assert_eq!(of("", "public.users:n,email"), (text("email,n"), false));
    assert_eq!(of("", "public.users:ssn"), (text("ssn"), true));
    assert_eq!(of("", "public.users:email,ssn"), (text("email,ssn"), true));
    assert_eq!(of("", "public.orders:ssn"), (text(""), false));
    // The first entry that matches applies.
    assert_eq!(of("", "*.users:n;public.users:ssn"), (text("n"), false));
    // A partition key cannot have a column that is not sent. It has the hash of a hashed column.
    assert_eq!(of("*.*.ssn:omit", "public.users:ssn"), (text(""), true));
    assert_eq!(of("*.*.ssn:hash", "public.users:ssn"), (text("ssn"), true));
}

#[test]
fn rows_may_move_if_a_delete_lacks_the_columns_of_the_partition_key() {
    let old = relation(&[("email", "text", true)]);
    assert_eq!(partition("", "public.users:ssn", &old), (String::new(), true));
}
