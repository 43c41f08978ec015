//! The variables of the envelope.

use super::ConfigError;
use super::variables::{Variables, invalid};
use crate::encode::{
    Debezium, DebeziumModes, DecimalMode, Dms, Envelope, EnvelopeForm, HstoreMode, IntervalMode, KeylessRows,
    OversizePolicy, PartitionBy, SchemaCache, TimeMode, Wal2json,
};
use crate::rules::pattern::TableColumns;

/// The values of `ENVELOPE`.
#[derive(Clone, Copy, PartialEq)]
enum EnvelopeName {
    Debezium,
    Dms,
    Wal2json,
}

/// The values of the variables that only the Debezium envelope uses.
struct DebeziumOptions {
    modes: DebeziumModes,
    tombstones: bool,
    transaction_metadata: bool,
    unwrap: bool,
    schemas: bool,
}

pub(super) fn read(
    variables: &Variables<'_>,
    source_name: &str,
    database: &str,
) -> Result<Envelope, ConfigError> {
    let name = envelope_name(variables)?;
    let partition_by = partition_by(variables)?;
    let choices = [("spread", KeylessRows::Spread), ("table", KeylessRows::Table)];
    let keyless = variables.choice("KEYLESS", "spread", &choices)?;
    let choices = [("fail", OversizePolicy::Fail), ("omit", OversizePolicy::Omit)];
    let oversize = variables.choice("OVERSIZE", "fail", &choices)?;
    let options = debezium_options(variables)?;
    if name != EnvelopeName::Debezium {
        check_debezium_defaults(variables, &options)?;
    }
    let form = match name {
        EnvelopeName::Debezium => EnvelopeForm::Debezium(Debezium {
            name: source_name.to_owned(),
            database: database.to_owned(),
            modes: options.modes,
            tombstones: options.tombstones,
            transaction_metadata: options.transaction_metadata,
            unwrap: options.unwrap,
            schemas: options.schemas.then(SchemaCache::default),
        }),
        EnvelopeName::Dms => EnvelopeForm::Dms(Dms::default()),
        EnvelopeName::Wal2json => EnvelopeForm::Wal2json(Wal2json),
    };
    Ok(Envelope {
        form,
        partition_by,
        keyless,
        oversize,
    })
}

fn envelope_name(variables: &Variables<'_>) -> Result<EnvelopeName, ConfigError> {
    variables.choice(
        "ENVELOPE",
        "debezium",
        &[
            ("debezium", EnvelopeName::Debezium),
            ("dms", EnvelopeName::Dms),
            ("wal2json", EnvelopeName::Wal2json),
        ],
    )
}

fn partition_by(variables: &Variables<'_>) -> Result<PartitionBy, ConfigError> {
    variables.choice(
        "PARTITION_BY",
        "key",
        &[
            ("key", PartitionBy::Key),
            ("table", PartitionBy::Table),
            ("transaction", PartitionBy::Transaction),
        ],
    )
}

/// The columns of partition keys, which replace the keys of rows.
pub(super) fn partition_keys(
    variables: &Variables<'_>,
    partition_by: PartitionBy,
) -> Result<Vec<TableColumns>, ConfigError> {
    const VARIABLE: &str = "PARTITION_KEYS";
    let text = variables.get(VARIABLE).unwrap_or_default();
    let keys = TableColumns::parse_list(&text).map_err(|error| {
        let expected = "tables with columns like public.orders:customer_id, separated by semicolons";
        invalid(VARIABLE, error.text().to_owned(), expected)
    })?;
    match keys.is_empty() || partition_by == PartitionBy::Key {
        true => Ok(keys),
        false => Err(invalid(VARIABLE, text, "left out unless PARTITION_BY is key")),
    }
}

fn debezium_options(variables: &Variables<'_>) -> Result<DebeziumOptions, ConfigError> {
    let decimal = variables.choice(
        "DECIMAL_HANDLING_MODE",
        "string",
        &[
            ("string", DecimalMode::String),
            ("precise", DecimalMode::Precise),
            ("double", DecimalMode::Double),
        ],
    )?;
    let time = variables.choice(
        "TIME_PRECISION_MODE",
        "isostring",
        &[
            ("isostring", TimeMode::IsoString),
            ("adaptive", TimeMode::Adaptive),
            ("adaptive_time_microseconds", TimeMode::AdaptiveTimeMicroseconds),
            ("connect", TimeMode::Connect),
            ("microseconds", TimeMode::Microseconds),
            ("nanoseconds", TimeMode::Nanoseconds),
        ],
    )?;
    let interval = variables.choice(
        "INTERVAL_HANDLING_MODE",
        "string",
        &[
            ("string", IntervalMode::String),
            ("numeric", IntervalMode::Numeric),
        ],
    )?;
    let choices = [("json", HstoreMode::Json), ("map", HstoreMode::Map)];
    let hstore = variables.choice("HSTORE_HANDLING_MODE", "json", &choices)?;
    let switch = |variable| variables.choice(variable, "false", &[("false", false), ("true", true)]);
    Ok(DebeziumOptions {
        modes: DebeziumModes {
            decimal,
            time,
            interval,
            hstore,
        },
        tombstones: switch("TOMBSTONES_ON_DELETE")?,
        transaction_metadata: switch("PROVIDE_TRANSACTION_METADATA")?,
        unwrap: switch("UNWRAP")?,
        schemas: switch("SCHEMAS_ENABLE")?,
    })
}

/// Checks that each option has its default value: another envelope would ignore the option.
fn check_debezium_defaults(variables: &Variables<'_>, options: &DebeziumOptions) -> Result<(), ConfigError> {
    let changed = [
        (
            "DECIMAL_HANDLING_MODE",
            options.modes.decimal != DecimalMode::default(),
        ),
        ("TIME_PRECISION_MODE", options.modes.time != TimeMode::default()),
        (
            "INTERVAL_HANDLING_MODE",
            options.modes.interval != IntervalMode::default(),
        ),
        (
            "HSTORE_HANDLING_MODE",
            options.modes.hstore != HstoreMode::default(),
        ),
        ("TOMBSTONES_ON_DELETE", options.tombstones),
        ("PROVIDE_TRANSACTION_METADATA", options.transaction_metadata),
        ("UNWRAP", options.unwrap),
        ("SCHEMAS_ENABLE", options.schemas),
    ];
    match changed.into_iter().find(|(_, is_changed)| *is_changed) {
        None => Ok(()),
        Some((variable, _)) => {
            let value = variables.get(variable).unwrap_or_default();
            Err(invalid(variable, value, "left out unless ENVELOPE is debezium"))
        }
    }
}
