//! The template: its policy allows the calls that the code makes, and no others; its filter keeps the log.

use std::collections::BTreeSet;

use scenarios::aws::template::properties;

use crate::support::project_files::read_project_file;

crate::scenarios![
    each_call_of_the_sdk_is_allowed_and_no_other,
    only_active_tracing_may_write_traces,
    the_policy_follows_the_pattern_of_streams,
    lambdas_filter_keeps_debug_lines_and_the_summary,
    the_rule_on_authorities_lists_the_regions_that_are_included,
];

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
    let template = read_project_file("template.yaml");
    let source = |file: &str| read_project_file(&format!("functions/drain/src/aws/{file}"));
    let kinesis = operations(&source("kinesis.rs"));
    let mut ssm = operations(&source("parameter_store.rs"));
    let (secrets, more): (BTreeSet<_>, BTreeSet<_>) = operations(&source("secret.rs"))
        .into_iter()
        .partition(|operation| operation.contains("Secret"));
    ssm.extend(more);
    assert_eq!(secrets, BTreeSet::from(["GetSecretValue".to_owned()]));
    assert!(
        kinesis.contains("PutRecords") && ssm.contains("PutParameter"),
        "{kinesis:?} {ssm:?}"
    );
    assert_eq!(allowed(&template, "kinesis"), kinesis);
    assert_eq!(allowed(&template, "ssm"), ssm);
    assert_eq!(allowed(&template, "secretsmanager"), secrets);
    // Any other file that makes a call would have to be compared, too.
    for file in ["client.rs", "rds_token.rs"] {
        assert_eq!(operations(&source(file)), BTreeSet::new(), "{file}");
    }
}

/// The function calls no SDK for a trace. Lambda records it, with the function's role.
async fn only_active_tracing_may_write_traces() {
    for (tracing, expected) in [
        ("PassThrough", None),
        (
            "Active",
            Some(["xray:PutTraceSegments", "xray:PutTelemetryRecords"]),
        ),
    ] {
        let parameters = [&*format!("Tracing={tracing}")];
        assert_eq!(properties("DrainFunction", &parameters)["Tracing"], tracing);
        let role = properties("DrainRole", &parameters);
        let statements = role["Policies"][0]["PolicyDocument"]["Statement"].as_array();
        let statements = statements.expect("the policy has statements");
        assert!(statements.iter().all(|it| it["Effect"] == "Allow"), "{role}");
        let tracing = statements
            .iter()
            .filter(|it| it["Action"].to_string().contains("xray"));
        let actions: Vec<_> = tracing.map(|it| it["Action"].clone()).collect();
        assert_eq!(
            actions,
            Vec::from_iter(expected.map(|actions| serde_json::json!(actions)))
        );
    }
}

/// Each placeholder becomes an asterisk of the policy. Without a pattern there is no such permission.
async fn the_policy_follows_the_pattern_of_streams() {
    for (pattern, names) in [
        ("", None),
        ("cdc-{schema}", Some("cdc-*")),
        ("{table}", Some("*")),
        ("a.{schema}-{table}_{schema}", Some("a.*-*_*")),
    ] {
        let parameters = [&*format!("TableStreams={pattern}"), "StreamName=changes"];
        let variables = &properties("DrainFunction", &parameters)["Environment"]["Variables"];
        let is_pattern = names.is_some();
        // The stream of the stack is a reference to its resource.
        assert_eq!(variables["STREAM_NAME"] == pattern, is_pattern, "{variables}");
        assert_eq!(
            variables["MESSAGE_STREAM_NAME"].is_null(),
            !is_pattern,
            "{variables}"
        );
        let role = properties("DrainRole", &parameters);
        let statements = role["Policies"][0]["PolicyDocument"]["Statement"].as_array();
        let mut statements = statements.expect("the policy has statements").iter();
        let allowed = statements.find(|it| it["Sid"] == "TableStreams");
        let resource = allowed.map(|it| it["Resource"].as_str().unwrap_or_default().to_owned());
        let name = resource.map(|resource| resource.split_once(":stream/").unwrap().1.to_owned());
        assert_eq!(name.as_deref(), names, "{role}");
    }
}

/// Lambda drops a line whose level is below `ApplicationLogLevel`. The summary line counts as INFO.
async fn lambdas_filter_keeps_debug_lines_and_the_summary() {
    let levels = ["DEBUG", "INFO", "WARN", "ERROR"];
    let rank = |level: &str| {
        let level = level.to_uppercase();
        levels
            .iter()
            .position(|it| **it == level)
            .unwrap_or_else(|| panic!("the level {level}"))
    };
    for level in ["error", "warn", "info", "debug"] {
        let function = properties("DrainFunction", &[&*format!("LogLevel={level}")]);
        assert_eq!(function["Environment"]["Variables"]["LOG_LEVEL"], level);
        let logging = &function["LoggingConfig"];
        assert_eq!(logging["LogFormat"], "JSON", "the filter needs JSON");
        let filter = logging["ApplicationLogLevel"]
            .as_str()
            .expect("the template sets the filter");
        assert!(rank(filter) <= rank("INFO"), "{filter} drops the summary line");
        assert!(rank(filter) <= rank(level), "{filter} drops lines of {level}");
        // DEBUG costs nothing here, but the console would show the wrong level.
        assert_eq!(filter == "DEBUG", level == "debug", "{level}: {filter}");
    }
}

async fn the_rule_on_authorities_lists_the_regions_that_are_included() {
    let is_region = |word: &&str| {
        let parts: Vec<&str> = word.split('-').collect();
        parts.len() > 2 && parts[0].len() == 2 && parts[parts.len() - 1].parse::<u8>().is_ok()
    };
    let regions = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words.filter(is_region).map(str::to_owned).collect()
    };
    // `make certs` writes the name of each authority above it.
    let bundle = read_project_file("functions/drain/certs/rds-global-bundle.pem");
    let titles: Vec<&str> = bundle.lines().filter(|line| line.starts_with('#')).collect();
    let included = regions(&titles.join("\n"));
    assert!(included.len() > 20, "{included:?}");
    let between = |text: &str, start: &str, end: &str| {
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start}"));
        rest.split_once(end)
            .unwrap_or_else(|| panic!("no {end}"))
            .0
            .to_owned()
    };
    let readme = read_project_file("functions/drain/certs/README.md");
    assert_eq!(
        regions(&between(&readme, "**Regions present:**", "- **")),
        included
    );
    let template = read_project_file("template.yaml");
    let rule = between(
        &template,
        "  OtherRegionsNeedTheirAuthorities:\n",
        "    Assertions:",
    );
    assert_eq!(regions(&rule), included);
}
