//! The table of hazards in docs/ names scenarios that there are, and mutants that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

crate::scenarios![
    the_table_of_hazards_names_scenarios_that_exist,
    every_mutant_is_in_the_table_with_the_scenario_that_catches_it,
];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What stands between backticks in a row of the table.
fn quoted(row: &str) -> BTreeSet<&str> {
    row.split('`').skip(1).step_by(2).collect()
}

/// The rows of the table, each with the hazard's number.
fn rows(table: &str) -> Vec<(u32, &str)> {
    let rows = table.lines().filter_map(|line| {
        let number = line.strip_prefix("| ")?.split(' ').next()?;
        Some((number.parse().ok()?, line))
    });
    rows.collect()
}

async fn the_table_of_hazards_names_scenarios_that_exist() {
    let table = read(&docs().join("hazards.md"));
    let known = crate::names();
    let rows = rows(&table);
    let numbers: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=14).collect::<Vec<_>>());
    for (number, row) in rows {
        let named: Vec<&str> = quoted(row).into_iter().filter(|it| it.contains("::")).collect();
        assert!(!named.is_empty(), "hazard {number} has no scenario");
        for scenario in named {
            assert!(
                known.contains(scenario),
                "hazard {number}: there is no scenario {scenario}"
            );
        }
    }
}

async fn every_mutant_is_in_the_table_with_the_scenario_that_catches_it() {
    let table = read(&docs().join("hazards.md"));
    let rows = rows(&table);
    let files =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants")).expect("there are mutants");
    let mut found = BTreeSet::new();
    for file in files {
        let file = file.expect("a folder can be read").path();
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let patch = read(&file);
        let field = |name: &str| {
            let line = patch.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{}: no {name}", file.display()))
        };
        let hazard: u32 = field("Hazard: ").parse().expect("a hazard is a number");
        let row = rows.iter().find(|(number, _)| *number == hazard);
        let row = quoted(
            row.unwrap_or_else(|| panic!("{name}: there is no hazard {hazard}"))
                .1,
        );
        assert!(
            row.contains(name.as_str()),
            "hazard {hazard} does not name {name}"
        );
        let scenario = field("Scenario: ");
        assert!(row.contains(scenario), "hazard {hazard} does not name {scenario}");
        found.insert(name);
    }
    for (number, row) in rows {
        for mutant in quoted(row) {
            let is_mutant = mutant.starts_with(|first: char| first.is_ascii_digit());
            assert!(
                !is_mutant || found.contains(mutant),
                "hazard {number}: there is no {mutant}"
            );
        }
    }
}
