//! Schemas of events, as Kafka Connect's JSON converter writes them: `{"schema":…,"payload":…}`.
//!
//! Fields and names are those of Debezium's schemas. A column of the key is required, and every other column
//! is optional and has no default. The log states neither `not null` nor defaults, and the catalog has only
//! those of the present.

use super::Debezium;
use super::flat_names::column_name;
use crate::change::Relation;
use crate::encode::value::write_string;

/// Fields of the block `source`: type, whether it is optional, and name.
const SOURCE_FIELDS: [(&str, bool, &str); 15] = [
    (STRING, false, "version"),
    (STRING, false, "connector"),
    (STRING, false, "name"),
    (INT64, false, "ts_ms"),
    (STRING, true, "snapshot"),
    (STRING, false, "db"),
    (STRING, true, "sequence"),
    (INT64, true, "ts_us"),
    (INT64, true, "ts_ns"),
    (STRING, false, "schema"),
    (STRING, false, "table"),
    (INT64, true, "txId"),
    (INT64, true, "lsn"),
    (INT64, true, "xmin"),
    (STRING, false, "position"),
];

/// Fields that only some events have: type, name, and name in the unwrapped form.
const NOTE_FIELDS: [(&str, &str, &str); 3] = [
    (NAMES, "omitted", "__omitted"),
    (NAMES, "unchanged", "__unchanged"),
    (TEXTS, "texts", "__texts"),
];

/// Fields of the block `transaction`.
const TRANSACTION_FIELDS: [(&str, bool, &str); 3] = [
    (STRING, false, "id"),
    (INT64, false, "total_order"),
    (INT64, false, "data_collection_order"),
];

/// Fields that each event in the unwrapped form has. All are optional.
const ADDED_FIELDS: [(&str, &str); 10] = [
    (STRING, "__deleted"),
    (STRING, "__op"),
    (STRING, "__table"),
    (INT64, "__lsn"),
    (STRING, "__schema"),
    (STRING, "__db"),
    (STRING, "__name"),
    (INT64, "__ts_ms"),
    (INT64, "__source_ts_ms"),
    (STRING, "__position"),
];

/// Fields of the order in the transaction, in the unwrapped form.
const ADDED_ORDER_FIELDS: [(&str, &str); 3] = [
    (STRING, "__transaction_id"),
    (INT64, "__transaction_total_order"),
    (INT64, "__transaction_data_collection_order"),
];

const STRING: &str = r#""type":"string""#;
const INT64: &str = r#""type":"int64""#;
const BYTES: &str = r#""type":"bytes""#;
const NAMES: &str = r#""type":"array","items":{"type":"string","optional":false}"#;
const TEXTS: &str = concat!(
    r#""type":"map","keys":{"type":"string","optional":false},"#,
    r#""values":{"type":"string","optional":false}"#
);
/// Schema of `source.snapshot`: the values that Debezium allows, and the default.
const SNAPSHOT_DETAILS: &str = concat!(
    r#","name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,first,"#,
    r#"first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false""#
);

/// Writer of a list of fields.
struct FieldList<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> FieldList<'o> {
    /// Begins a struct: `{"type":"struct","fields":[`.
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.extend_from_slice(br#"{"type":"struct","fields":["#);
        FieldList { out, is_empty: true }
    }

    /// Appends a field. `write` appends its schema without the closing brace.
    fn push(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        write(self.out);
        self.out.extend_from_slice(br#","field":"#);
        write_string(self.out, name);
        self.out.push(b'}');
    }

    /// Appends a field of a simple type.
    fn push_simple(&mut self, kind: &str, is_optional: bool, name: &str) {
        self.push(name, |out| {
            out.push(b'{');
            out.extend_from_slice(kind.as_bytes());
            write_optional(out, is_optional);
            if name == "snapshot" {
                out.extend_from_slice(SNAPSHOT_DETAILS.as_bytes());
            }
        });
    }

    /// Closes the list of fields, and appends the schema's name and version.
    ///
    /// `version` is Debezium's version of the schema `name`; some schemas have none. The caller appends the
    /// schema's closing brace.
    fn end(self, is_optional: bool, name: &str, version: Option<u8>) {
        self.out.push(b']');
        write_optional(self.out, is_optional);
        self.out.extend_from_slice(br#","name":"#);
        write_string(self.out, name);
        if let Some(version) = version {
            self.out
                .extend_from_slice(format!(r#","version":{version}"#).as_bytes());
        }
    }
}

fn write_optional(out: &mut Vec<u8>, is_optional: bool) {
    out.extend_from_slice(if is_optional {
        br#","optional":true"#
    } else {
        br#","optional":false"#
    });
}

impl Debezium {
    /// Appends the schema of a table's rows.
    ///
    /// Also appends the beginning of the payload. With `has_keys`, the columns of the key are required.
    pub(super) fn write_row_schema(&self, out: &mut Vec<u8>, relation: &Relation, has_keys: bool) {
        out.extend_from_slice(br#"{"schema":"#);
        match self.unwrap {
            true => self.write_unwrapped_schema(out, relation, has_keys),
            false => self.write_envelope_schema(out, relation, has_keys),
        }
        out.extend_from_slice(br#"},"payload":"#);
    }

    /// Appends the schema of a truncate in the unwrapped form.
    ///
    /// Also appends the beginning of the payload.
    pub(super) fn write_truncate_schema(&self, out: &mut Vec<u8>, relation: &Relation) {
        out.extend_from_slice(br#"{"schema":"#);
        let mut fields = FieldList::begin(out);
        self.push_added(&mut fields);
        fields.end(false, &self.schema_name(relation, "Truncate"), None);
        out.extend_from_slice(br#"},"payload":"#);
    }

    /// Appends the schema of a message, and the beginning of the payload.
    pub(super) fn write_message_schema(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"schema":"#);
        let mut fields = FieldList::begin(out);
        if self.unwrap {
            self.push_added(&mut fields);
            fields.push_simple(STRING, true, "__message_prefix");
            fields.push_simple(BYTES, true, "__message_content");
            fields.push_simple(NAMES, true, "__omitted");
            fields.end(false, &format!("{}.Message", self.name), None);
        } else {
            fields.push_simple(STRING, false, "op");
            push_times(&mut fields);
            fields.push("source", write_source);
            fields.push("transaction", write_transaction);
            fields.push("message", |out| {
                let mut fields = FieldList::begin(out);
                fields.push_simple(STRING, true, "prefix");
                fields.push_simple(BYTES, true, "content");
                fields.end(false, "io.debezium.connector.postgresql.Message", Some(1));
            });
            fields.end(false, "io.debezium.connector.postgresql.MessageValue", Some(1));
        }
        out.extend_from_slice(br#"},"payload":"#);
    }

    fn write_envelope_schema(&self, out: &mut Vec<u8>, relation: &Relation, has_keys: bool) {
        let mut fields = FieldList::begin(out);
        for image in ["before", "after"] {
            fields.push(image, |out| {
                let mut columns = FieldList::begin(out);
                for column in &relation.columns {
                    let is_optional = !(column.key && has_keys);
                    columns.push(&column.name, |out| {
                        self.modes.write_column_schema(out, column, is_optional)
                    });
                }
                columns.end(true, &self.schema_name(relation, "Value"), None);
            });
        }
        fields.push("source", write_source);
        fields.push("transaction", write_transaction);
        fields.push_simple(STRING, false, "op");
        push_times(&mut fields);
        fields.end(false, &self.schema_name(relation, "Envelope"), Some(2));
    }

    fn write_unwrapped_schema(&self, out: &mut Vec<u8>, relation: &Relation, has_keys: bool) {
        let mut fields = FieldList::begin(out);
        for column in &relation.columns {
            let is_optional = !(column.key && has_keys);
            fields.push(&column_name(&column.name), |out| {
                self.modes.write_column_schema(out, column, is_optional);
            });
        }
        self.push_added(&mut fields);
        for (kind, _, name) in NOTE_FIELDS {
            fields.push_simple(kind, true, name);
        }
        fields.end(false, &self.schema_name(relation, "Value"), None);
    }

    /// Appends the fields that each event in the unwrapped form has.
    fn push_added(&self, fields: &mut FieldList<'_>) {
        for (kind, name) in ADDED_FIELDS {
            fields.push_simple(kind, true, name);
        }
        for (kind, name) in ADDED_ORDER_FIELDS
            .into_iter()
            .filter(|_| self.transaction_metadata)
        {
            fields.push_simple(kind, true, name);
        }
    }

    /// Name of a schema: source, the table's schema and name, and `kind`.
    fn schema_name(&self, relation: &Relation, kind: &str) -> String {
        format!(
            "{}.{}.{}.{kind}",
            self.name, relation.table.schema, relation.table.name
        )
    }
}

/// Appends the schema of the block `source`.
fn write_source(out: &mut Vec<u8>) {
    let mut fields = FieldList::begin(out);
    for (kind, is_optional, name) in SOURCE_FIELDS {
        fields.push_simple(kind, is_optional, name);
    }
    for (kind, name, _) in NOTE_FIELDS {
        fields.push_simple(kind, true, name);
    }
    fields.end(false, "io.debezium.connector.postgresql.Source", Some(1));
}

/// Appends the schema of the block `transaction`.
fn write_transaction(out: &mut Vec<u8>) {
    let mut fields = FieldList::begin(out);
    for (kind, is_optional, name) in TRANSACTION_FIELDS {
        fields.push_simple(kind, is_optional, name);
    }
    fields.end(true, "event.block", Some(1));
}

/// Appends the fields of the time of reading.
fn push_times(fields: &mut FieldList<'_>) {
    for name in ["ts_ms", "ts_us", "ts_ns"] {
        fields.push_simple(INT64, true, name);
    }
}
