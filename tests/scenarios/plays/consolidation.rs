//! The whole demo of three databases. It must fail if records are lost.

use std::process::Stdio;

use scenarios::built_program;
use tokio::process::Command;

crate::long_scenarios![
    the_demo_of_three_databases_passes,
    the_demo_of_three_databases_fails_when_records_are_lost,
];

/// A finished run of the demo.
struct DemoRun {
    has_passed: bool,
    output: String,
    /// Its output and its standard error, for the message of an assertion.
    report: String,
}

/// Runs the demo.
///
/// `fault` names the injected fault. It is empty for a run without a fault.
async fn demo(fault: &str) -> DemoRun {
    let run = Command::new(built_program("play"))
        .arg("demo")
        .env("SCENARIO", "consolidate")
        .env("DEMO_FAULT", fault)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = run.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = text(&run.stdout);
    DemoRun {
        has_passed: run.status.success(),
        report: format!("{output}\n{}", text(&run.stderr)),
        output,
    }
}

async fn the_demo_of_three_databases_fails_when_records_are_lost() {
    let run = demo("drop").await;
    assert!(!run.has_passed, "{}", run.report);
    let verdict = "FAILED: DuckDB differs from the sources.";
    assert!(run.output.contains(verdict), "{}", run.report);
}

async fn the_demo_of_three_databases_passes() {
    let run = demo("").await;
    assert!(run.has_passed, "{}", run.report);
    let expected = [
        "PASSED: DuckDB and the three sources agree.",
        "PostgreSQL 15 is killed",
        "the standby is promoted",
        "the function is killed",
    ];
    for text in expected {
        assert!(
            run.output.contains(text),
            "{text:?} is missing in:\n{}",
            run.report
        );
    }
}
