//! The page of hazards in docs/ names only scenarios and mutants that exist, and every mutant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

crate::scenarios![
    the_page_of_hazards_names_scenarios_that_exist,
    every_mutant_is_on_the_page_with_the_scenario_that_catches_it,
];

/// Number of the last hazard.
const HAZARDS: u32 = 14;

/// A path below the crate of the scenarios.
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The texts between backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The text of each hazard, by its number: from its heading `## 1. …`, or its row `| 1 …`, to the next one.
fn hazards(page: &str) -> BTreeMap<u32, String> {
    let mut hazards: BTreeMap<u32, String> = BTreeMap::new();
    for line in page.lines() {
        let title = line.strip_prefix("## ").or_else(|| line.strip_prefix("| "));
        let number = title.and_then(|title| title.split(['.', ' ']).next()?.parse().ok());
        if let Some(number) = number {
            hazards.insert(number, String::new());
        }
        if let Some(mut text) = hazards.last_entry() {
            text.get_mut().push_str(line);
            text.get_mut().push('\n');
        }
    }
    hazards
}

async fn the_page_of_hazards_names_scenarios_that_exist() {
    let hazards = hazards(&read(&path("../docs/hazards.md")));
    let known = crate::names();
    assert!(hazards.keys().copied().eq(1..=HAZARDS), "{:?}", hazards.keys());
    for (number, text) in &hazards {
        let named: Vec<&str> = quoted(text).into_iter().filter(|it| it.contains("::")).collect();
        assert!(!named.is_empty(), "hazard {number} has no scenario");
        for scenario in named {
            assert!(
                known.contains(scenario),
                "hazard {number}: there is no scenario {scenario}"
            );
        }
    }
}

async fn every_mutant_is_on_the_page_with_the_scenario_that_catches_it() {
    let hazards = hazards(&read(&path("../docs/hazards.md")));
    let files = std::fs::read_dir(path("mutants")).expect("there are mutants");
    let mut found = BTreeSet::new();
    for file in files {
        let file = file.expect("a folder can be read").path();
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let patch = read(&file);
        let field = |field: &str| {
            let line = patch.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap_or_else(|| panic!("{name}: no {field}"))
        };
        let number: u32 = field("Hazard: ").parse().expect("a hazard is a number");
        let hazard = hazards.get(&number);
        let hazard = hazard.unwrap_or_else(|| panic!("{name}: there is no hazard {number}"));
        for named in [name, field("Scenario: ")] {
            assert!(
                quoted(hazard).contains(named),
                "hazard {number} does not name {named}"
            );
        }
        found.insert(name.to_owned());
    }
    for (number, text) in &hazards {
        for mutant in quoted(text) {
            // Names of mutants begin with the number of their hazard: `01-commit-start`.
            let is_mutant = mutant.starts_with(|first: char| first.is_ascii_digit());
            assert!(
                !is_mutant || found.contains(mutant),
                "hazard {number}: there is no {mutant}"
            );
        }
    }
}
