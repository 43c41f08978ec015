//! `make demo SCENARIO=consolidate` with all its parts, faults and comparisons.

use std::process::Stdio;

use scenarios::built_program;
use tokio::process::Command;

crate::scenarios![
    the_demo_of_three_databases_passes,
    the_demo_of_three_databases_fails_when_records_are_lost,
];

/// Runs the demo; returns whether it succeeded, its output and its errors.
///
/// `fault` names the injected fault. It is empty for a run without a fault.
async fn demo(fault: &str) -> (bool, String, String) {
    let run = Command::new(built_program("play"))
        .arg("demo")
        .env("SCENARIO", "consolidate")
        .env("DEMO_FAULT", fault)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = run.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (run.status.success(), text(&run.stdout), text(&run.stderr))
}

async fn the_demo_of_three_databases_fails_when_records_are_lost() {
    let (is_equal, output, errors) = demo("drop").await;
    assert!(!is_equal, "{output}\n{errors}");
    let verdict = "FAILED: DuckDB has not the rows of the sources.";
    assert!(output.contains(verdict), "{output}\n{errors}");
}

async fn the_demo_of_three_databases_passes() {
    let (is_equal, output, errors) = demo("").await;
    let report = format!("{output}\n{errors}");
    assert!(is_equal, "{report}");
    let expected = [
        "PASSED: DuckDB gives the answer of the three sources.",
        "PostgreSQL 15 is killed",
        "the standby is promoted",
        "the function is killed",
    ];
    for text in expected {
        assert!(output.contains(text), "{text:?} is missing in:\n{report}");
    }
}
