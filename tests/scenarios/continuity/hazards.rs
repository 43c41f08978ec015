//! docs/hazards.md names scenarios and mutants that exist.

use std::collections::BTreeSet;

use scenarios::project_path;

use crate::support::project_files::read_project_file;

crate::scenarios![
    the_page_of_hazards_names_scenarios_that_exist,
    the_page_of_hazards_names_every_mutant_with_its_scenario,
];

/// The texts between backticks in a section.
fn quoted(section: &str) -> BTreeSet<&str> {
    section.split('`').skip(1).step_by(2).collect()
}

/// The sections whose headings have a number, `## 7. …`, each with that number.
fn sections(page: &str) -> Vec<(u32, &str)> {
    let sections = page.split("\n## ").filter_map(|section| {
        let (number, _) = section.split_once('.')?;
        Some((number.parse().ok()?, section))
    });
    sections.collect()
}

async fn the_page_of_hazards_names_scenarios_that_exist() {
    let page = read_project_file("docs/hazards.md");
    let known = crate::names();
    let sections = sections(&page);
    let numbers: Vec<u32> = sections.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
    for (number, section) in sections {
        let named: Vec<&str> = quoted(section)
            .into_iter()
            .filter(|it| it.contains("::"))
            .collect();
        assert!(!named.is_empty(), "hazard {number} has no scenario");
        for scenario in named {
            assert!(
                known.contains(scenario),
                "hazard {number}: there is no scenario {scenario}"
            );
        }
    }
}

async fn the_page_of_hazards_names_every_mutant_with_its_scenario() {
    let page = read_project_file("docs/hazards.md");
    let sections = sections(&page);
    let files = std::fs::read_dir(project_path("tests/mutants")).expect("there are mutants");
    let mut found = BTreeSet::new();
    for file in files {
        let file = file.expect("a folder can be read").path();
        let name = file
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let patch = read_project_file(&format!("tests/mutants/{name}.patch"));
        let field = |name: &str| {
            let line = patch.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{}: no {name}", file.display()))
        };
        let hazard: u32 = field("Hazard: ").parse().expect("a hazard is a number");
        let section = sections.iter().find(|(number, _)| *number == hazard);
        let (_, section) = section.unwrap_or_else(|| panic!("{name}: there is no hazard {hazard}"));
        let named = quoted(section);
        assert!(
            named.contains(name.as_str()),
            "hazard {hazard} does not name {name}"
        );
        let scenario = field("Scenario: ");
        assert!(
            named.contains(scenario),
            "hazard {hazard} does not name {scenario}"
        );
        found.insert(name);
    }
    for (number, section) in sections {
        for mutant in quoted(section) {
            let is_mutant = mutant.starts_with(|first: char| first.is_ascii_digit());
            assert!(
                !is_mutant || found.contains(mutant),
                "hazard {number}: there is no {mutant}"
            );
        }
    }
}
