use std::sync::Arc;

use super::*;
use crate::backfill::table::{KeyOrder, SizeProbe};
use crate::base::table_name::TableName;
use crate::change::{Column, ColumnCoverage};

fn relation(columns: &[(&str, bool)]) -> Arc<Relation> {
    let columns: Vec<_> = columns.iter().map(|(name, key)| (*name, "text", *key)).collect();
    Arc::new(Relation::of_columns(TableName::new("public", "t"), &columns))
}

fn table() -> BackfillTable {
    BackfillTable {
        oid: 1,
        relation: relation(&[("id", true), ("body", false), ("n", false)]),
        key: vec!["id".into()],
        key_indexes: vec![0],
        key_order: vec![KeyOrder::plain(None)],
        selected: vec![true; 3],
        size_probes: vec![SizeProbe::No; 3],
        is_root: false,
        conditions: Vec::new(),
        has_request_condition: false,
        estimate: None,
    }
}

/// Rows of a snapshot that shows the transactions before 100.
fn chunk_rows(lines: &[&str]) -> ChunkRows {
    let mut rows = ChunkRows::new(table(), "100:100:".parse().unwrap());
    for line in lines {
        rows.push(line.as_bytes()).unwrap();
    }
    rows
}

fn text(text: &str) -> Datum<'_> {
    Datum::Text(text.into())
}

/// The ids of the rows that would be sent.
fn remaining_ids(rows: &ChunkRows) -> Vec<String> {
    let mut ids = Vec::new();
    let mut from = 0;
    while let Some(index) = rows.next_row(from) {
        match &rows.row(index).unwrap()[..] {
            [Datum::Text(id), ..] => ids.push(id.to_string()),
            other => panic!("{other:?}"),
        }
        from = index + 1;
    }
    ids
}

fn update<'a>(old: Option<&'a str>, id: &'a str, body: Datum<'a>) -> Change<'a> {
    Change::Update {
        relation: table().relation,
        old: old.map(|old| vec![text(old), Datum::Absent, Datum::Absent]),
        new: vec![text(id), body, text("new")],
    }
}

fn body(change: &Change<'_>) -> String {
    match change {
        Change::Update { new, .. } => format!("{:?}", new[1]),
        other => panic!("{other:?}"),
    }
}

const ROWS: [&str; 3] = ["9\ta\tbody a\t1\n", "9\tb\tbody b\t2\n", "9\tc\t\\N\t3\n"];

#[test]
fn a_change_that_the_snapshot_does_not_show_drops_its_row() {
    let mut rows = chunk_rows(&ROWS);
    rows.apply_change(99, &mut update(None, "a", text("x")));
    assert_eq!(remaining_ids(&rows), ["a", "b", "c"]);
    rows.apply_change(100, &mut update(None, "a", text("x")));
    assert_eq!(remaining_ids(&rows), ["b", "c"]);
    let old = vec![text("c"), Datum::Absent, Datum::Absent];
    let relation = table().relation;
    rows.apply_change(100, &mut Change::Delete { relation, old });
    assert_eq!(remaining_ids(&rows), ["b"]);
    assert_eq!((rows.overtaken(), rows.last_key()), (2, Some(vec!["c".into()])));
}

#[test]
fn an_update_of_the_key_drops_the_rows_of_both_keys_and_an_insert_drops_its_own() {
    let mut rows = chunk_rows(&ROWS);
    rows.apply_change(100, &mut update(Some("a"), "b", text("x")));
    assert_eq!(remaining_ids(&rows), ["c"]);
    let new = vec![text("c"), Datum::Null, Datum::Null];
    let relation = table().relation;
    rows.apply_change(100, &mut Change::Insert { relation, new });
    assert!(remaining_ids(&rows).is_empty());
}

#[test]
fn an_unchanged_large_value_is_filled_in_from_the_row() {
    let mut rows = chunk_rows(&ROWS);
    let mut change = update(None, "a", Datum::Unchanged);
    rows.apply_change(100, &mut change);
    assert_eq!(body(&change), r#"Text("body a")"#);
    // The first change was sent with the value, so the second one needs none.
    let mut change = update(None, "a", Datum::Unchanged);
    rows.apply_change(101, &mut change);
    assert_eq!(body(&change), "Unchanged");
    let mut change = update(Some("b"), "z", Datum::Unchanged);
    rows.apply_change(100, &mut change);
    assert_eq!(body(&change), r#"Text("body b")"#);
    let mut change = update(None, "c", Datum::Unchanged);
    rows.apply_change(100, &mut change);
    assert_eq!(body(&change), "Null");
}

#[test]
fn a_truncate_drops_all_rows_and_an_update_of_an_unknown_row_invalidates_the_chunk() {
    let mut rows = chunk_rows(&ROWS);
    let relations = vec![table().relation];
    rows.apply_change(99, &mut Change::Truncate { relations });
    assert_eq!(remaining_ids(&rows).len(), 3);
    let relations = vec![table().relation];
    rows.apply_change(100, &mut Change::Truncate { relations });
    assert!(remaining_ids(&rows).is_empty());
    for key in ["", "n"] {
        let columns = ["id", "body", "n"].map(|name| (name, name == key));
        let mut rows = chunk_rows(&ROWS);
        let new = vec![text("a"), Datum::Unchanged, Datum::Null];
        rows.apply_change(
            100,
            &mut Change::Update {
                relation: relation(&columns),
                old: None,
                new,
            },
        );
        let is_invalid = rows.invalid_reason().is_some() && remaining_ids(&rows).is_empty();
        assert!(is_invalid, "with the key {key:?}");
    }
}

#[test]
fn an_update_that_lacks_a_column_of_the_table_invalidates_the_chunk() {
    for (coverage, is_invalid) in [
        (ColumnCoverage::Row, true),
        (ColumnCoverage::Completed, true),
        (ColumnCoverage::Whole, false),
    ] {
        let mut rows = chunk_rows(&ROWS);
        let altered = Relation {
            coverage,
            ..(*relation(&[("id", true), ("n", false)])).clone()
        };
        let mut change = Change::Update {
            relation: Arc::new(altered),
            old: None,
            new: vec![text("a"), text("new")],
        };
        rows.apply_change(99, &mut change);
        assert_eq!(rows.invalid_reason(), None, "the snapshot shows the change");
        rows.apply_change(100, &mut change);
        assert_eq!(rows.invalid_reason().is_some(), is_invalid, "{coverage:?}");
    }
}

#[test]
fn both_spellings_of_a_boolean_are_the_same_key() {
    let column = |name: &str, kind: &str, key| Column::new(name.into(), kind.into(), key);
    let columns = vec![
        column("id", "text", true),
        column("on", "boolean", true),
        column("n", "text", false),
    ];
    let relation = Arc::new(Relation {
        columns,
        ..(*relation(&[])).clone()
    });
    let table = BackfillTable {
        relation: Arc::clone(&relation),
        key: vec!["id".into(), "on".into()],
        key_indexes: vec![0, 1],
        key_order: vec![KeyOrder::plain(None); 2],
        ..table()
    };
    let mut rows = ChunkRows::new(table, "100:100:".parse().unwrap());
    for line in ["0\ta\tt\t1", "0\ta\tf\t2", "0\ttrue\tt\t3"] {
        rows.push(line.as_bytes()).unwrap();
    }
    for (id, on, remaining) in [
        ("a", "true", 2),
        ("true", "f", 2),
        ("a", "false", 1),
        ("true", "t", 0),
    ] {
        let new = vec![text(id), text(on), text("new")];
        rows.apply_change(
            100,
            &mut Change::Insert {
                relation: Arc::clone(&relation),
                new,
            },
        );
        assert_eq!(rows.len() as u64 - rows.overtaken(), remaining, "{id} {on}");
    }
}

#[test]
fn a_change_of_another_table_with_the_same_columns_drops_no_row() {
    let mut rows = chunk_rows(&ROWS);
    let other = Relation {
        table: TableName::new("public", "u"),
        ..(*table().relation).clone()
    };
    let new = vec![text("a"), Datum::Null, Datum::Null];
    rows.apply_change(
        100,
        &mut Change::Insert {
            relation: Arc::new(other),
            new,
        },
    );
    assert_eq!(remaining_ids(&rows).len(), 3);
}

#[test]
fn only_a_key_change_whose_old_row_is_not_kept_requests_its_row() {
    let rows = chunk_rows(&ROWS);
    let request = |xid, change: &Change<'_>| ChunkRows::row_request(&table(), Some(&rows), xid, change);
    let moved = update(Some("y"), "z", Datum::Unchanged);
    let found = request(100, &moved).unwrap();
    assert_eq!((&found.key[..], found.xid), (&["z".to_owned()][..], 100));
    for change in [
        update(Some("a"), "z", Datum::Unchanged),
        update(Some("y"), "z", text("known")),
        update(None, "z", Datum::Unchanged),
        update(Some("y"), "y", Datum::Unchanged),
    ] {
        assert_eq!(request(100, &change), None, "{change:?}");
    }
    // The snapshot shows the update. So the chunk's row with the old key is another row.
    assert!(request(99, &update(Some("a"), "z", Datum::Unchanged)).is_some());
}

#[test]
fn escapes_of_copy_are_decoded() {
    let rows = chunk_rows(&["0\ta\\tb\\\\\t\\n\\r\\b\\f\\v\t\\\\N\n"]);
    assert_eq!(
        rows.row(0).unwrap(),
        [text("a\tb\\"), text("\n\r\u{8}\u{c}\u{b}"), text("\\N")]
    );
}

#[test]
fn a_line_that_is_not_a_row_of_the_table_is_refused() {
    let mut rows = chunk_rows(&[]);
    for (line, error) in [
        (&b"9\ta\tb\n"[..], RowError::Malformed),
        (b"9\ta\tb\tc\td\n", RowError::Malformed),
        (b"9\t\\N\tb\tc\n", RowError::Malformed),
        (b"9\ta\tb\\\tc\n", RowError::Malformed),
        (b"9\ta\tb\\q\tc\n", RowError::Malformed),
        (b"9\ta\t\xff\tc\n", RowError::NotText),
    ] {
        assert_eq!(rows.push(line), Err(error), "{line:?}");
    }
    assert!(rows.is_empty());
}
