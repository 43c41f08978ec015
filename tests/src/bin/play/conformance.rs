//! Compares Spillway's events with those of Debezium Server and of wal2json, event by event.
//!
//! `RECORD=1` stores Debezium's events, with which `make test` compares. `tests/conformance/differences.json`
//! lists the accepted differences. The exit status is 1 if there is another one, or if a listed one is gone.

use std::process::ExitCode;

use scenarios::conformance::comparison::{Difference, compare};
use scenarios::conformance::differences::{DifferenceList, problems};
use scenarios::conformance::{Modes, debezium_server, drain_modes, play, recording};
use scenarios::fixture::Plugin;

pub(crate) fn main() -> ExitCode {
    let problems = scenarios::block_on(run());
    for problem in &problems {
        println!("{problem}");
    }
    println!("{} problems", problems.len());
    match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn run() -> Vec<String> {
    let mut fixture = play(Plugin::Pgoutput).await;
    let mut recorded = Vec::new();
    let mut found: Vec<Difference> = Vec::new();
    for (index, modes) in Modes::ALL.into_iter().enumerate() {
        let theirs = debezium_server::events(&fixture, index).await;
        let ours = drain_modes(&mut fixture, index).await;
        let differences = compare(&theirs, &ours, Some(modes), |_| true);
        println!(
            "{}: {} events, {} fields differ",
            modes.values().join(", "),
            theirs.len(),
            differences.len()
        );
        found.extend(differences);
        recorded.push(theirs);
    }
    let mut problems = problems(&DifferenceList::load().debezium, &found, |_| true);
    let text = recording::to_text(&recorded);
    if std::env::var("RECORD").is_ok_and(|record| record == "1") {
        recording::store(&text);
    } else if recording::stored() != text {
        problems.push("Debezium's events are not the recorded ones: RECORD=1 stores them".to_owned());
    }
    problems
}
