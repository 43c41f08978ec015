//! Schemas of columns: their types in Kafka Connect, with Debezium's names.

use super::structures::MONEY_SCALE;
use super::time::MILLISECOND_DIGITS;
use super::value::{DebeziumModes, DecimalMode};
use super::{HstoreMode, IntervalMode, TimeMode};
use crate::change::{Column, ValueType, element_oid};

/// OIDs of built-in types, which never change (`pg_type.dat`).
const INT2: u32 = 21;
const INT4: u32 = 23;
const JSON: u32 = 114;
const XML: u32 = 142;
const FLOAT4: u32 = 700;
const UUID: u32 = 2950;
const TSVECTOR: u32 = 3614;
const JSONB: u32 = 3802;

/// Length of a `bit varying` without a length, in Debezium's schema.
const MAX_BITS: u32 = 2_147_483_647;

/// Schema of a type: its text before and after the field `optional`.
struct TypeSchema {
    /// Type in Kafka Connect, with its fields or items: `"type":"int32"`.
    kind: String,
    /// Name, version, documentation and parameters.
    rest: String,
}

impl TypeSchema {
    fn plain(kind: &str) -> Self {
        TypeSchema {
            kind: format!(r#""type":"{kind}""#),
            rest: String::new(),
        }
    }

    /// A type with a name, in its first version.
    fn named(kind: &str, name: &str) -> Self {
        TypeSchema {
            rest: format!(r#","name":"{name}","version":1"#),
            ..TypeSchema::plain(kind)
        }
    }

    /// A type with a name and further fields after it.
    fn detailed(kind: &str, name: &str, details: &str) -> Self {
        let mut schema = TypeSchema::named(kind, name);
        schema.rest.push_str(details);
        schema
    }

    /// A struct of these fields, with a name and a description.
    fn structure(fields: &[(&str, bool, &str)], name: &str, doc: &str) -> Self {
        let fields: Vec<String> = fields
            .iter()
            .map(|(kind, is_optional, field)| {
                format!(r#"{{"type":"{kind}","optional":{is_optional},"field":"{field}"}}"#)
            })
            .collect();
        TypeSchema {
            kind: format!(r#""type":"struct","fields":[{}]"#, fields.join(",")),
            rest: format!(r#","name":"{name}","version":1,"doc":"{doc}""#),
        }
    }

    /// Its text without the closing brace.
    fn text(&self, is_optional: bool) -> String {
        format!(r#"{{{},"optional":{is_optional}{}"#, self.kind, self.rest)
    }
}

/// A type as its column declares it.
#[derive(Clone, Copy)]
struct DeclaredType<'c> {
    kind: &'c ValueType,
    /// Its OID; 0 if it is not known.
    oid: u32,
    /// Its name with its modifier. For an array, the name of the array.
    name: &'c str,
}

impl DebeziumModes {
    /// Appends the schema of a column, without the closing brace.
    pub(super) fn write_column_schema(self, out: &mut Vec<u8>, column: &Column, is_optional: bool) {
        let declared = DeclaredType {
            kind: &column.kind,
            oid: column.type_oid,
            name: &column.type_name,
        };
        out.extend_from_slice(self.type_schema(declared).text(is_optional).as_bytes());
    }

    fn type_schema(self, declared: DeclaredType<'_>) -> TypeSchema {
        match declared.kind {
            ValueType::Bool | ValueType::Bits(Some(1)) => TypeSchema::plain("boolean"),
            // The largest type holds every integer, also that of `bigint`, `oid` or an unknown OID.
            ValueType::Integer => TypeSchema::plain(match declared.oid {
                INT2 => "int16",
                INT4 => "int32",
                _ => "int64",
            }),
            ValueType::Float => TypeSchema::plain(if declared.oid == FLOAT4 { "float" } else { "double" }),
            ValueType::Numeric(scale) => self.decimal_schema(*scale, precision(declared.name)),
            ValueType::Money => self.decimal_schema(Some(MONEY_SCALE), None),
            ValueType::Bytea => TypeSchema::plain("bytes"),
            ValueType::Date | ValueType::Time(_) | ValueType::Timestamp(_) => {
                time_schema(self.time, declared.kind)
            }
            ValueType::TimeTz => TypeSchema::named("string", "io.debezium.time.ZonedTime"),
            ValueType::TimestampTz(_) => TypeSchema::named("string", "io.debezium.time.ZonedTimestamp"),
            ValueType::Interval => match self.interval {
                IntervalMode::String => TypeSchema::named("string", "io.debezium.time.Interval"),
                IntervalMode::Numeric => TypeSchema::named("int64", "io.debezium.time.MicroDuration"),
            },
            ValueType::Bits(length) => {
                let length = length.unwrap_or(MAX_BITS);
                let details = format!(r#","parameters":{{"length":"{length}"}}"#);
                TypeSchema::detailed("bytes", "io.debezium.data.Bits", &details)
            }
            ValueType::Point => {
                let fields = [
                    ("double", false, "x"),
                    ("double", false, "y"),
                    ("bytes", true, "wkb"),
                    ("int32", true, "srid"),
                ];
                TypeSchema::structure(&fields, "io.debezium.data.geometry.Point", "Geometry (POINT)")
            }
            ValueType::Hstore => self.hstore_schema(),
            ValueType::Array(element, _) => self.array_schema(element, declared),
            ValueType::Text => text_schema(declared),
        }
    }

    fn decimal_schema(self, scale: Option<i32>, precision: Option<&str>) -> TypeSchema {
        match (self.decimal, scale) {
            (DecimalMode::String, _) => TypeSchema::plain("string"),
            (DecimalMode::Double, _) => TypeSchema::plain("double"),
            (DecimalMode::Precise, Some(scale)) => {
                let precision = precision.map(|digits| format!(r#","connect.decimal.precision":"{digits}""#));
                let precision = precision.unwrap_or_default();
                let details = format!(r#","parameters":{{"scale":"{scale}"{precision}}}"#);
                TypeSchema::detailed("bytes", "org.apache.kafka.connect.data.Decimal", &details)
            }
            (DecimalMode::Precise, None) => TypeSchema::structure(
                &[("int32", false, "scale"), ("bytes", false, "value")],
                "io.debezium.data.VariableScaleDecimal",
                "Variable scaled decimal",
            ),
        }
    }

    fn hstore_schema(self) -> TypeSchema {
        match self.hstore {
            HstoreMode::Json => TypeSchema::named("string", "io.debezium.data.Json"),
            HstoreMode::Map => {
                let (keys, values) = (TypeSchema::plain("string"), TypeSchema::plain("string"));
                let (keys, values) = (keys.text(false), values.text(true));
                TypeSchema {
                    kind: format!(r#""type":"map","keys":{keys}}},"values":{values}}}"#),
                    rest: String::new(),
                }
            }
        }
    }

    fn array_schema(self, element: &ValueType, declared: DeclaredType<'_>) -> TypeSchema {
        let items = self.type_schema(DeclaredType {
            kind: element,
            oid: element_oid(declared.oid),
            name: declared.name.strip_suffix("[]").unwrap_or(declared.name),
        });
        TypeSchema {
            kind: format!(r#""type":"array","items":{}}}"#, items.text(true)),
            rest: String::new(),
        }
    }
}

/// Schema of a date, time or timestamp without a zone.
fn time_schema(mode: TimeMode, kind: &ValueType) -> TypeSchema {
    let is_milliseconds = |digits: u8| digits <= MILLISECOND_DIGITS;
    let (kind, name) = match (mode, kind) {
        (TimeMode::IsoString, ValueType::Date) => ("string", "io.debezium.time.IsoDate"),
        (TimeMode::IsoString, ValueType::Time(_)) => ("string", "io.debezium.time.IsoTime"),
        (TimeMode::IsoString, _) => ("string", "io.debezium.time.IsoTimestamp"),
        (TimeMode::Connect, ValueType::Date) => ("int32", "org.apache.kafka.connect.data.Date"),
        (TimeMode::Connect, ValueType::Time(_)) => ("int32", "org.apache.kafka.connect.data.Time"),
        (TimeMode::Connect, _) => ("int64", "org.apache.kafka.connect.data.Timestamp"),
        (_, ValueType::Date) => ("int32", "io.debezium.time.Date"),
        (TimeMode::Adaptive, ValueType::Time(digits)) if is_milliseconds(*digits) => {
            ("int32", "io.debezium.time.Time")
        }
        (TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds, ValueType::Timestamp(digits))
            if is_milliseconds(*digits) =>
        {
            ("int64", "io.debezium.time.Timestamp")
        }
        (TimeMode::Nanoseconds, ValueType::Time(_)) => ("int64", "io.debezium.time.NanoTime"),
        (TimeMode::Nanoseconds, _) => ("int64", "io.debezium.time.NanoTimestamp"),
        (_, ValueType::Time(_)) => ("int64", "io.debezium.time.MicroTime"),
        _ => ("int64", "io.debezium.time.MicroTimestamp"),
    };
    TypeSchema::named(kind, name)
}

/// Schema of a type whose values are text.
fn text_schema(declared: DeclaredType<'_>) -> TypeSchema {
    let name = match declared.oid {
        JSON | JSONB => "io.debezium.data.Json",
        XML => "io.debezium.data.Xml",
        UUID => "io.debezium.data.Uuid",
        TSVECTOR => "io.debezium.data.Tsvector",
        // The type of an extension has another OID in each database.
        _ if declared.name.rsplit('.').next() == Some("ltree") => "io.debezium.data.Ltree",
        _ => return TypeSchema::plain("string"),
    };
    TypeSchema::named("string", name)
}

/// Precision in the name of a numeric: `10` in `numeric(10,2)`.
fn precision(name: &str) -> Option<&str> {
    let (_, modifier) = name.split_once('(')?;
    let digits = modifier.split([',', ')']).next()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)
}
