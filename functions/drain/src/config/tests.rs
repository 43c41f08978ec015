use super::*;
use crate::base::table_name::TableName;
use crate::encode::EnvelopeForm;
use crate::rules::pattern;

const VALID: &[(&str, &str)] = &[
    ("PGHOST", "h"),
    ("PGUSER", "u"),
    ("PGDATABASE", "d"),
    ("PGPASSWORD", "p"),
    ("SLOT_NAME", "s"),
    ("STREAM_NAME", "k"),
];

fn config(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let find =
        |list: &[(&str, &str)], name: &str| list.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
    Config::from_env(|name| find(changes, name).or_else(|| find(VALID, name)))
}

#[test]
fn a_variable_that_is_not_set_has_a_safe_default() {
    let config = config(&[]).unwrap();
    assert_eq!(config.database.port, 5432);
    assert_eq!(config.database.tls, SslMode::VerifyFull);
    assert_eq!(config.checkpoint_parameter, "/spillway/s");
    assert_eq!(config.publications, ["spillway"]);
    assert!(matches!(config.envelope.form, EnvelopeForm::Debezium(form) if form.name == "s"));
    assert!(config.linger.is_zero() && config.tables.is_empty());
}

#[test]
fn an_error_names_the_variable() {
    let invalid = [
        ("PGHOST", ""),
        ("PGPORT", "0"),
        ("PGPORT", "x"),
        ("PGUSER", ""),
        ("PGDATABASE", ""),
        ("PGSSLMODE", "prefer"),
        ("DB_AUTH", "kerberos"),
        ("SLOT_NAME", "Slot"),
        ("SLOT_NAME", ""),
        ("STREAM_NAME", "arn:aws:kinesis:x"),
        ("STREAM_NAME", "arn:aws:kinesis:eu-central-1:12345678901:stream/k"),
        ("STREAM_NAME", "arn:aws:sqs:eu-central-1:123456789012:stream/k"),
        ("STREAM_NAME", "arn:aws:kinesis:eu-central-1:123456789012:k"),
        (
            "STREAM_NAME",
            "arn:aws:kinesis:eu-central-1:123456789012:stream/k/consumer/c:1",
        ),
        ("STREAM_NAME", "cdc-{column}"),
        ("MESSAGE_STREAM_NAME", "messages"),
        ("CHECKPOINT_PARAMETER", "a b"),
        ("PUBLICATIONS", ","),
        ("TABLES", "orders"),
        ("TABLES", "a.b.c"),
        ("ENVELOPE", "avro"),
        ("AGGREGATION", "zip"),
        ("AUTO_DISTRIBUTION", "yes"),
        ("PARTITION_BY", "moon"),
        ("OVERSIZE", "maybe"),
        ("DECIMAL_HANDLING_MODE", "exact"),
        ("TIME_PRECISION_MODE", "seconds"),
        ("INTERVAL_HANDLING_MODE", "iso"),
        ("HSTORE_HANDLING_MODE", "text"),
        ("TOMBSTONES_ON_DELETE", "1"),
        ("PROVIDE_TRANSACTION_METADATA", "yes"),
        ("UNWRAP", "yes"),
        ("SCHEMAS_ENABLE", "1"),
        ("LINGER_SECONDS", "901"),
        ("POLL_CPU_PERCENT", "0"),
        ("POLL_CPU_PERCENT", "51"),
        ("MARKERS", "yes"),
        ("STANDBY_ACK", "always"),
        ("LOG_LEVEL", "loud"),
    ];
    for (name, value) in invalid {
        let error = config(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(name), "{name}={value}: {error}");
    }
    assert!(
        config(&[("DB_AUTH", "password"), ("PGPASSWORD", "")])
            .unwrap_err()
            .to_string()
            .starts_with("PGPASSWORD")
    );
    assert!(
        config(&[("DB_AUTH", "secret")])
            .unwrap_err()
            .to_string()
            .starts_with("DB_SECRET")
    );
    assert!(
        config(&[("DB_AUTH", "iam"), ("PGSSLMODE", "disable")])
            .unwrap_err()
            .to_string()
            .starts_with("PGSSLMODE")
    );
}

#[test]
fn a_stream_is_named_by_its_name_or_by_an_arn_of_the_region() {
    for stream in [
        "k",
        "arn:aws:kinesis:eu-central-1:123456789012:stream/k.k-k_1",
        "arn:aws-us-gov:kinesis:eu-central-1:123456789012:stream/k",
    ] {
        let changes = [("STREAM_NAME", stream), ("AWS_REGION", "eu-central-1")];
        assert_eq!(config(&changes).unwrap().stream, stream);
        let elsewhere = config(&[("STREAM_NAME", stream), ("AWS_REGION", "eu-west-1")]);
        assert_eq!(elsewhere.is_ok(), stream == "k", "{stream}");
    }
}

#[test]
fn a_stream_with_a_placeholder_needs_a_stream_for_messages() {
    let arn = "arn:aws:kinesis:eu-central-1:123456789012:stream/cdc-{schema}.{table}";
    for pattern in ["cdc-{schema}", "{table}", arn] {
        let error = config(&[("STREAM_NAME", pattern)]).unwrap_err().to_string();
        assert!(error.starts_with("MESSAGE_STREAM_NAME"), "{error}");
        let names = [("STREAM_NAME", pattern), ("MESSAGE_STREAM_NAME", "messages")];
        let config = config(&names).unwrap();
        assert_eq!(config.stream, "messages");
        assert_eq!(config.stream_pattern.unwrap().to_string(), pattern);
    }
    let names = [("STREAM_NAME", "cdc-{schema}"), ("MESSAGE_STREAM_NAME", "a b")];
    let error = config(&names).unwrap_err().to_string();
    assert!(error.starts_with("MESSAGE_STREAM_NAME"), "{error}");
}

#[test]
fn an_option_of_debezium_is_refused_with_another_envelope_unless_it_is_the_default() {
    for (name, default, other) in [
        ("DECIMAL_HANDLING_MODE", "string", "precise"),
        ("TIME_PRECISION_MODE", "isostring", "adaptive"),
        ("INTERVAL_HANDLING_MODE", "string", "numeric"),
        ("HSTORE_HANDLING_MODE", "json", "map"),
        ("TOMBSTONES_ON_DELETE", "false", "true"),
        ("PROVIDE_TRANSACTION_METADATA", "false", "true"),
        ("UNWRAP", "false", "true"),
        ("SCHEMAS_ENABLE", "false", "true"),
    ] {
        for envelope in ["dms", "wal2json"] {
            config(&[("ENVELOPE", envelope), (name, default)]).unwrap();
            let error = config(&[("ENVELOPE", envelope), (name, other)]).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        config(&[(name, other)]).unwrap();
    }
}

#[test]
fn the_authentication_follows_from_the_variables_that_are_set() {
    let auth = |changes: &[(&str, &str)]| config(changes).unwrap().database.auth;
    assert!(matches!(auth(&[]), Auth::Password(_)));
    assert!(matches!(auth(&[("PGPASSWORD", "")]), Auth::Iam));
    assert!(matches!(auth(&[("DB_SECRET", "x"), ("PGUSER", "")]), Auth::Secret(name) if name == "x"));
    assert_eq!(format!("{:?}", auth(&[])), "Password(…)");
}

#[test]
fn the_documentation_and_the_template_list_the_variables_of_the_code() {
    let documentation = include_str!("../../../../docs/configuration.md");
    let (_, table) = documentation
        .split_once("| variable | default | meaning |")
        .unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with('|'));
    let mut documented: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let template = include_str!("../../../../template.yaml");
    let (_, block) = template.split_once("        Variables:\n").unwrap();
    let lines = block.lines().take_while(|line| line.starts_with("          "));
    let names = lines
        .filter_map(|line| line.trim().split_once(':'))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    let mut set: Vec<&str> = names.map(|(name, _)| name).collect();
    // The template has no variable for a password or a salt.
    set.extend(["PGPASSWORD", "COLUMN_SALT"]);
    let mut known = VARIABLES.to_vec();
    for names in [&mut documented, &mut set, &mut known] {
        names.sort_unstable();
    }
    assert_eq!(documented, known, "docs/configuration.md");
    assert_eq!(set, known, "template.yaml");
}

#[test]
fn table_patterns_match_and_are_escaped_for_wal2json() {
    let config = config(&[("TABLES", r"public.*, *.log, we\.ird.a\,b")]).unwrap();
    let matches =
        |schema: &str, name: &str| pattern::matches_any(&config.tables, &TableName::new(schema, name));
    assert!(matches("public", "x") && matches("other", "log") && matches("we.ird", "a,b"));
    assert!(!matches("Public", "x"));
    let escaped: Vec<_> = config.tables.iter().map(TablePattern::to_wal2json).collect();
    assert_eq!(escaped, ["public.*", "*.log", r"we\.ird.a\,b"]);
}

#[test]
fn the_error_of_an_invalid_table_pattern_shows_valid_ones() {
    for text in [
        "",
        "orders",
        ".",
        "public.",
        ".orders",
        "a.b.c",
        r"a\.b",
        "public.orders.",
        "a.\\",
    ] {
        let error = text.parse::<TablePattern>().unwrap_err().to_string();
        assert!(error.contains("public.orders, public.* or *.orders"), "{error}");
    }
    let error = "x".repeat(1000).parse::<TablePattern>().unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
    let error = config(&[("TABLES", "a.b,orders")]).unwrap_err().to_string();
    let expected = "it must be patterns like public.orders, public.* or *.orders, separated by commas";
    assert_eq!(error, format!("TABLES=orders is not valid: {expected}"));
}

#[test]
fn table_patterns_are_printed_as_tables_accepts_them() {
    let written = r"public.*,*.log,we\.ird.a\,b,back\\slash.it's a *";
    let texts = config(&[("TABLES", written)]).unwrap().tables;
    let texts: Vec<String> = texts.iter().map(TablePattern::to_string).collect();
    assert_eq!(texts.join(","), written);
}

#[test]
fn a_rule_that_hashes_needs_a_salt_and_no_error_quotes_the_salt() {
    const RULES: (&str, &str) = ("COLUMN_RULES", "public.users.email:hash,*.*.ssn:omit");
    const SALT: &str = "a secret salt of 30 characters";
    let error = config(&[RULES]).unwrap_err().to_string();
    assert!(error.starts_with("COLUMN_SALT_SECRET is not set"), "{error}");
    config(&[("COLUMN_RULES", "*.*.ssn:omit")]).unwrap();
    let read = config(&[RULES, ("COLUMN_SALT", SALT)]).unwrap();
    assert!(!format!("{read:?}").contains(SALT));
    assert_eq!(read.column_rules.len(), 2);
    let read = config(&[RULES, ("COLUMN_SALT_SECRET", "app/salt")]).unwrap();
    assert!(matches!(read.salt, Some(SaltSource::Secret(name)) if name == "app/salt"));
    for changes in [
        &[RULES, ("COLUMN_SALT", "too short")][..],
        &[RULES, ("COLUMN_SALT", SALT), ("COLUMN_SALT_SECRET", "x")],
    ] {
        let error = config(changes).unwrap_err().to_string();
        assert!(error.starts_with("COLUMN_SALT=… is not valid"), "{error}");
    }
    let error = config(&[("COLUMN_RULES", "*.*.ssn:omit,email:hash")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("COLUMN_RULES=email:hash is not valid"),
        "{error}"
    );
}

#[test]
fn skipped_operations_are_letters_of_debezium() {
    let skipped = |text| config(&[("SKIPPED_OPERATIONS", text)]).map(|config| config.skipped);
    assert_eq!(skipped(""), Ok(SkippedOperations::default()));
    assert_eq!(skipped("none"), Ok(SkippedOperations::default()));
    let deletes_and_truncates = SkippedOperations {
        deletes: true,
        truncates: true,
        ..SkippedOperations::default()
    };
    assert_eq!(skipped("t, d"), Ok(deletes_and_truncates));
    for text in ["r", "c,none", "delete", "D", "cu"] {
        let error = skipped(text).unwrap_err().to_string();
        assert!(error.contains("some of c, u, d and t"), "{error}");
    }
}

#[test]
fn partition_keys_are_tables_with_columns_and_need_keys() {
    const KEYS: (&str, &str) = (
        "PARTITION_KEYS",
        "public.orders:tenant,customer_id;*.items:order_id",
    );
    let keys = config(&[KEYS]).unwrap().partition_keys;
    assert_eq!(keys.len(), 2);
    for by in ["table", "transaction"] {
        let error = config(&[KEYS, ("PARTITION_BY", by)]).unwrap_err().to_string();
        assert!(error.ends_with("left out unless PARTITION_BY is key"), "{error}");
        config(&[("PARTITION_BY", by)]).unwrap();
    }
    let error = config(&[("PARTITION_KEYS", "a.b:c;orders:id")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("PARTITION_KEYS=orders:id is not valid"),
        "{error}"
    );
}
