//! Values of columns, including those that their schemas cannot hold.
//!
//! A converter that reads with a schema does not refuse such values. It reads `NaN` as 0 in an integer, and
//! as another number in a decimal. So with schemas the value is null, and the field `texts` has its text.

use super::flat_names::column_name;
use super::{Debezium, write_field_name};
use crate::change::{Column, Datum};
use crate::encode::value::{UNAVAILABLE_VALUE, write_string};

/// A value that the type of its schema cannot hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnrepresentableValue<'r> {
    /// `before` or `after`; empty in the unwrapped form.
    image: &'static str,
    column: &'r Column,
    text: &'r str,
}

impl<'r> UnrepresentableValue<'r> {
    /// The value of a column of an image.
    pub(super) fn new(image: &'static str, column: &'r Column, datum: &'r Datum<'r>) -> Self {
        let text = match datum {
            Datum::Text(text) => text,
            _ => "",
        };
        UnrepresentableValue { image, column, text }
    }

    /// Whether the column belongs to the key.
    pub(super) fn is_of_key(&self) -> bool {
        self.column.key
    }
}

impl Debezium {
    /// Appends the value of a column. Returns whether the type of its schema can hold it.
    ///
    /// Without schemas every value is written. With schemas, a value that its type cannot hold is null.
    pub(super) fn write_datum(&self, out: &mut Vec<u8>, column: &Column, datum: &Datum<'_>) -> bool {
        match datum {
            Datum::Text(text) => {
                let start = out.len();
                let fits_schema = self.modes.write_value(out, &column.kind, text);
                if fits_schema || self.schemas.is_none() {
                    return true;
                }
                out.truncate(start);
                out.extend_from_slice(b"null");
                return false;
            }
            Datum::Unchanged | Datum::Oversize { .. } => match self.schemas {
                None => write_string(out, UNAVAILABLE_VALUE),
                Some(_) => self.modes.write_unavailable(out, &column.kind),
            },
            Datum::Null | Datum::Absent => out.extend_from_slice(b"null"),
        }
        true
    }
}

/// Appends `,"<name>":{…}` with the texts of these values, if there are any.
pub(super) fn write_texts(out: &mut Vec<u8>, name: &str, values: &[UnrepresentableValue<'_>]) {
    if values.is_empty() {
        return;
    }
    write_field_name(out, name);
    for (index, value) in values.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        match value.image {
            "" => write_string(out, &column_name(&value.column.name)),
            image => write_string(out, &format!("{image}.{}", value.column.name)),
        }
        out.push(b':');
        write_string(out, value.text);
    }
    out.push(b'}');
}
