//! The template's policy allows the calls that the code makes, and no others.

use std::collections::BTreeSet;
use std::path::Path;

crate::scenarios![each_call_of_the_sdk_is_allowed_and_no_other];

fn read_file(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `put_records` as an action of IAM: `PutRecords`.
fn action(operation: &str) -> String {
    let words = operation.split('_');
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// Operations that a source calls: `client.put_records()`, also with a line break before the operation.
fn operations(source: &str) -> BTreeSet<String> {
    let calls = source.split("client").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix('.')?;
        let end = rest.find("()")?;
        let name = &rest[..end];
        name.chars()
            .all(|c| c.is_ascii_lowercase() || c == '_')
            .then(|| action(name))
    });
    calls.collect()
}

/// Actions of a service that the template allows.
fn allowed(template: &str, service: &str) -> BTreeSet<String> {
    let lines = template
        .lines()
        .filter(|line| line.trim_start().starts_with("Action:"));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != ':'));
    let prefix = format!("{service}:");
    words
        .filter_map(|word| word.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

async fn each_call_of_the_sdk_is_allowed_and_no_other() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let template = read_file(&project.join("template.yaml"));
    let source = |file: &str| read_file(&project.join("functions/drain/src/aws").join(file));
    let kinesis = operations(&source("kinesis.rs"));
    let mut ssm = operations(&source("parameter_store.rs"));
    ssm.extend(operations(&source("secret.rs")));
    assert!(
        kinesis.contains("PutRecords") && ssm.contains("PutParameter"),
        "{kinesis:?} {ssm:?}"
    );
    assert_eq!(allowed(&template, "kinesis"), kinesis);
    assert_eq!(allowed(&template, "ssm"), ssm);
    // Any other file that makes a call would have to be compared, too.
    for file in ["client.rs", "rds_token.rs"] {
        assert_eq!(operations(&source(file)), BTreeSet::new(), "{file}");
    }
}
