//! Comparison of flat rows.
//!
//! Debezium writes flat rows only: it drops truncates and leaves messages in their envelope. So the events of
//! each kind are counted, and the rows are compared where both programs have as many.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::comparison::{Difference, compare};
use super::{EventForm, KeyedEvent, ValueModes};

/// Kind of events with a row.
const ROWS: &str = "rows";

/// The differences between both lists: between their numbers of events by table, and between their rows.
///
/// # Panics
/// Tables with as many rows in both lists have other operations.
pub fn compare_unwrapped(
    theirs: &[KeyedEvent],
    ours: &[KeyedEvent],
    modes: ValueModes,
    form: EventForm,
    is_compared: impl Fn(&str) -> bool,
) -> Vec<Difference> {
    let (their_counts, our_counts) = (counts(theirs), counts(ours));
    let groups: BTreeSet<_> = their_counts.keys().chain(our_counts.keys()).collect();
    let (mut differences, mut uneven) = (Vec::new(), BTreeSet::new());
    for group in groups {
        let (theirs, ours) = (their_counts.get(group), our_counts.get(group));
        if theirs == ours {
            continue;
        }
        let (table, kind) = group;
        if *kind == ROWS {
            uneven.insert(table);
        }
        differences.push(Difference {
            modes: Some(modes),
            form,
            table: table.clone(),
            row: None,
            field: (*kind).to_owned(),
            theirs: theirs.map(|count| Value::from(*count)),
            ours: ours.map(|count| Value::from(*count)),
        });
    }
    let rows = |events: &[KeyedEvent]| -> Vec<KeyedEvent> {
        let is_row = |event: &&KeyedEvent| kind(event) == ROWS && !uneven.contains(&event.table());
        events.iter().filter(is_row).cloned().collect()
    };
    differences.extend(compare(
        &rows(theirs),
        &rows(ours),
        Some(modes),
        form,
        is_compared,
    ));
    differences
}

/// Kind of an event. A message in its envelope is another one than a flat message.
fn kind(event: &KeyedEvent) -> &'static str {
    match (event.event["__op"].as_str(), event.event["op"].as_str()) {
        (Some("t"), _) => "truncates",
        (Some("m"), _) => "messages",
        (None, Some("m")) => "enveloped messages",
        _ => ROWS,
    }
}

/// Numbers of events by table and kind.
fn counts(events: &[KeyedEvent]) -> BTreeMap<(String, &'static str), u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry((event.table(), kind(event))).or_default() += 1;
    }
    counts
}
