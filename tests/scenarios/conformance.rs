//! Spillway's events are those of Debezium Server and of wal2json, but for intended differences.
//!
//! `make conformance` runs Debezium Server itself. Here a recording of its events is the judge.

use scenarios::conformance::comparison::{Difference, compare};
use scenarios::conformance::differences::{DifferenceList, problems};
use scenarios::conformance::recording::is_recorded;
use scenarios::conformance::{Modes, drain_modes, play, recording, wal2json};
use scenarios::fixture::Plugin;

crate::scenarios![
    events_of_each_type_are_those_of_debezium,
    events_of_each_type_are_those_of_wal2json,
    each_intended_difference_is_documented,
];

async fn events_of_each_type_are_those_of_debezium() {
    let mut fixture = play(Plugin::Pgoutput).await;
    let recorded = recording::load();
    assert_eq!(recorded.len(), Modes::ALL.len());
    let mut found: Vec<Difference> = Vec::new();
    for (index, theirs) in recorded.iter().enumerate() {
        let ours = drain_modes(&mut fixture, index).await;
        found.extend(compare(theirs, &ours, Some(Modes::ALL[index]), is_recorded));
    }
    let problems = problems(&DifferenceList::load().debezium, &found, is_recorded);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

async fn events_of_each_type_are_those_of_wal2json() {
    let mut fixture = play(Plugin::Pgoutput).await;
    let theirs = wal2json::events(&fixture).await;
    fixture.function.set("ENVELOPE", "wal2json").await;
    fixture.drain().await;
    let delivery = fixture.consume().await;
    let ours: Vec<String> = delivery
        .changes()
        .into_iter()
        .map(|change| {
            let text = String::from_utf8(change.data.clone()).unwrap();
            text.split(r#","position":""#).next().unwrap().to_owned() + "}"
        })
        .collect();
    assert_eq!(theirs.len(), ours.len());
    let mut found: Vec<Difference> = Vec::new();
    for (theirs, ours) in theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs != ours) {
        let theirs_parsed = wal2json::keyed_event(theirs);
        let ours_parsed = wal2json::keyed_event(ours).expect("Spillway writes JSON");
        let Some(theirs_parsed) = theirs_parsed else {
            panic!("wal2json writes no JSON: {theirs}");
        };
        let differences = compare(&[theirs_parsed], &[ours_parsed], None, |_| true);
        assert!(!differences.is_empty(), "the texts differ:\n{theirs}\n{ours}");
        found.extend(differences);
    }
    let problems = problems(&DifferenceList::load().wal2json, &found, |_| true);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

async fn each_intended_difference_is_documented() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(include_str!("../../docs/events.md"));
    let list = DifferenceList::load();
    for entry in list.debezium.iter().chain(&list.wal2json) {
        let reason = words(&entry.reason);
        assert!(page.contains(&reason), "docs/events.md does not quote: {reason}");
    }
}
