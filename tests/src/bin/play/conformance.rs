//! Compares Spillway's events with those of Debezium Server and wal2json.
//!
//! It compares event by event. `RECORD=1` stores Debezium's events, with which `make test` compares.
//! `tests/conformance/differences.json` lists the accepted differences. The exit status is 1 if there is
//! another one, or if a listed one is gone.

use std::process::ExitCode;

use scenarios::conformance::comparison::Difference;
use scenarios::conformance::differences::{DifferenceList, problems};
use scenarios::conformance::{
    EventForm, UNWRAPPED_MODES, ValueModes, debezium_server, differences, play, recording,
};
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
    let mut found: Vec<Difference> = Vec::new();
    let mut texts = Vec::new();
    for form in [EventForm::WITH_SCHEMAS, EventForm::UNWRAPPED_WITH_SCHEMAS] {
        let combinations = if form.unwrap {
            UNWRAPPED_MODES
        } else {
            ValueModes::ALL.len()
        };
        let mut recorded = Vec::new();
        for (index, modes) in ValueModes::ALL.into_iter().enumerate().take(combinations) {
            let theirs = debezium_server::events(&fixture, index, form).await;
            let differences = differences(&mut fixture, index, form.unwrap, &theirs, |_| true).await;
            println!(
                "{}{}: {} events, {} fields differ",
                modes.values().join(", "),
                form.description(),
                theirs.len(),
                differences.len()
            );
            found.extend(differences);
            recorded.push(theirs);
        }
        texts.push((form, recording::to_text(&recorded)));
    }
    let mut problems = problems(&DifferenceList::load().debezium, &found, |_| true);
    for (form, text) in texts {
        if std::env::var("RECORD").is_ok_and(|record| record == "1") {
            recording::store(form, &text);
        } else if recording::stored(form) != text {
            problems.push("Debezium's events are not the recorded ones: RECORD=1 stores them".to_owned());
        }
    }
    problems
}
