//! The flat row, as Debezium's transform `ExtractNewRecordState` writes it.
//!
//! The columns of the row are first. The added fields follow. Their names begin with two underscores, as with
//! Debezium's option `add.fields`. A delete contains its old row, as with Debezium's
//! `delete.tombstone.handling.mode=rewrite`. Debezium drops truncates, and does not flatten messages.
//! Spillway flattens both, so that one query can read all events.

use std::borrow::Cow;

use super::columns::{UnrepresentableValue, write_texts};
use super::flat_names::column_name;
use super::{Debezium, letter, write_field_name, write_order};
use crate::change::{Datum, Message, Relation};
use crate::encode::value::{write_integer, write_message_prefix, write_names, write_string};
use crate::encode::{EventHead, RowEvent, RowOperation};

impl Debezium {
    /// Appends a row. Returns whether every key value fits its type.
    pub(super) fn write_unwrapped_row<'r>(&self, out: &mut Vec<u8>, row: &RowEvent<'r>) -> bool {
        let is_delete = row.operation == RowOperation::Delete;
        let mut unfit: Vec<UnrepresentableValue<'r>> = Vec::new();
        out.push(b'{');
        for (column, datum) in row.all_columns(row.current_image()) {
            // In a delete, an absent column is null: the row no longer exists, so null misleads nobody.
            if *datum == Datum::Absent && !is_delete {
                continue;
            }
            write_string(out, &column_name(&column.name));
            out.push(b':');
            if !self.write_datum(out, column, datum) {
                unfit.push(UnrepresentableValue::new("", column, datum));
            }
            out.push(b',');
        }
        let deleted = if is_delete { r#""true""# } else { r#""false""# };
        self.write_added(out, &row.head, letter(row.operation), deleted, Some(row.relation));
        if !is_delete {
            write_list(out, "__unchanged", row.unchanged_names().map(column_name));
        }
        write_list(out, "__omitted", row.omitted_names().map(column_name));
        write_texts(out, "__texts", &unfit);
        out.push(b'}');
        !unfit.iter().any(UnrepresentableValue::is_of_key)
    }

    /// Appends a truncate. It has no row, so `__deleted` is null.
    pub(super) fn write_unwrapped_truncate(&self, out: &mut Vec<u8>, head: &EventHead, relation: &Relation) {
        out.push(b'{');
        self.write_added(out, head, b't', "null", Some(relation));
        out.push(b'}');
    }

    /// Appends a logical message. `omitted` names its omitted parts.
    pub(super) fn write_unwrapped_message(
        &self,
        out: &mut Vec<u8>,
        head: &EventHead,
        message: &Message<'_>,
        omitted: &[&str],
    ) {
        out.push(b'{');
        self.write_added(out, head, b'm', "null", None);
        write_field_name(out, "__message_prefix");
        write_message_prefix(out, message);
        write_field_name(out, "__message_content");
        self.write_content(out, message);
        write_list(out, "__omitted", omitted.iter().map(|name| Cow::Borrowed(*name)));
        out.push(b'}');
    }

    /// Appends the fields that each event has.
    ///
    /// `deleted` is the JSON value of `__deleted`.
    fn write_added(
        &self,
        out: &mut Vec<u8>,
        head: &EventHead,
        op: u8,
        deleted: &str,
        relation: Option<&Relation>,
    ) {
        let position = head.numbers.position;
        out.extend_from_slice(br#""__deleted":"#);
        out.extend_from_slice(deleted.as_bytes());
        out.extend_from_slice(br#","__op":""#);
        out.push(op);
        out.extend_from_slice(br#"","__table":"#);
        write_string(out, relation.map_or("", |relation| &relation.table.name));
        out.extend_from_slice(br#","__lsn":"#);
        write_integer(out, position.lsn.0);
        out.extend_from_slice(br#","__schema":"#);
        write_string(out, relation.map_or("", |relation| &relation.table.schema));
        out.extend_from_slice(br#","__db":"#);
        write_string(out, &self.database);
        out.extend_from_slice(br#","__name":"#);
        write_string(out, &self.name);
        out.extend_from_slice(br#","__ts_ms":"#);
        write_integer(out, head.now.div_euclid(1000));
        out.extend_from_slice(br#","__source_ts_ms":"#);
        write_integer(out, head.transaction.commit_time.unwrap_or(0).div_euclid(1000));
        out.extend_from_slice(br#","__position":""#);
        out.extend_from_slice(&position.text());
        out.push(b'"');
        if self.transaction_metadata && head.snapshot.is_none() && op != b'm' {
            out.push(b',');
            write_order(out, head, "__transaction_");
        }
    }
}

/// Appends `,"<name>":[…]`, if there are any names.
fn write_list<'n>(out: &mut Vec<u8>, name: &str, names: impl Iterator<Item = Cow<'n, str>>) {
    let names: Vec<_> = names.collect();
    if !names.is_empty() {
        write_field_name(out, name);
        write_names(out, names.iter().map(|name| &**name));
    }
}
