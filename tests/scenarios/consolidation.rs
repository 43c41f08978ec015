//! `make demo SCENARIO=consolidate` with all its parts, faults and comparisons.

use std::process::Stdio;

use scenarios::built_program;
use tokio::process::Command;

crate::scenarios![the_demo_of_three_databases_passes];

async fn the_demo_of_three_databases_passes() {
    let run = Command::new(built_program("play"))
        .arg("demo")
        .env("SCENARIO", "consolidate")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = run.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (output, errors) = (text(&run.stdout), text(&run.stderr));
    let report = format!("{output}\n{errors}");
    assert!(run.status.success(), "{report}");
    let told = [
        "PASSED: DuckDB gives the answer of the three sources.",
        "PostgreSQL 15 is killed",
        "the standby is promoted",
        "the function is killed",
    ];
    for text in told {
        assert!(output.contains(text), "{text:?} is missing in:\n{report}");
    }
}
