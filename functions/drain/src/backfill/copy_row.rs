//! The format of `COPY … TO STDOUT`: parses the rows of a backfill.

use std::borrow::Cow;

use super::table::BackfillTable;
use crate::change::char_byte;
use crate::change::{Datum, Tuple};

/// A row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Its columns differ, or it has an escape that `COPY` never writes.
    #[error("PostgreSQL returned a row that does not have the columns of the table")]
    Malformed,
    /// A text is not UTF-8. Only a database with the encoding SQL_ASCII can store one.
    #[error("a row has a text that is not UTF-8")]
    NotText,
}

/// The values of a row in the format of `COPY`.
///
/// The first field is not a column: see [`OversizeColumns`]. A column that the backfill does not select is
/// absent.
///
/// # Errors
/// The line is not a row of this table.
pub(super) fn parse_row<'l>(table: &BackfillTable, line: &'l [u8]) -> Result<Tuple<'l>, RowError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.split(|byte| *byte == b'\t');
    let omitted = fields
        .next()
        .and_then(OversizeColumns::parse)
        .ok_or(RowError::Malformed)?;
    let columns = table.relation.columns.len();
    let mut tuple = Vec::with_capacity(columns);
    for index in 0..columns {
        tuple.push(match table.selects(index) {
            true => {
                let field = fields.next().ok_or(RowError::Malformed)?;
                let type_oid = table
                    .relation
                    .columns
                    .get(index)
                    .map_or(0, |column| column.type_oid);
                let byte = char_byte::of_oid(type_oid, field);
                let known = omitted
                    .datum(index)
                    .or(byte.map(|byte| Datum::Text(Cow::Owned(byte))));
                known.map_or_else(|| field_value(field), Ok)?
            }
            false => Datum::Absent,
        });
    }
    match fields.next() {
        None => Ok(tuple),
        Some(_) => Err(RowError::Malformed),
    }
}

/// The first field of a row: its size, and the columns that the query omitted.
///
/// No record can hold a row of more than [`super::query::MAX_ROW_BYTES`]. The query returns null for its
/// largest columns.
struct OversizeColumns {
    indexes: Vec<usize>,
    /// Estimated bytes of each omitted column: the row's size divided by their number.
    bytes_each: usize,
}

impl OversizeColumns {
    /// Parses `20000000:1,3`: the size of the row and the indexes of the columns.
    fn parse(field: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(field).ok()?;
        let (bytes, indexes) = text.split_once(':').unwrap_or((text, ""));
        let indexes = indexes.split(',').filter(|index| !index.is_empty());
        let indexes: Vec<usize> = indexes.map(|index| index.parse().ok()).collect::<Option<_>>()?;
        let bytes: usize = bytes.parse().ok()?;
        Some(OversizeColumns {
            bytes_each: (bytes / indexes.len().max(1)).max(1),
            indexes,
        })
    }

    fn datum(&self, column: usize) -> Option<Datum<'static>> {
        let bytes = self.bytes_each;
        self.indexes
            .contains(&column)
            .then_some(Datum::Oversize { bytes })
    }
}

/// The value of a field in `COPY`'s text format.
///
/// PostgreSQL's documentation of `COPY` describes it under "Text Format".
fn field_value(field: &[u8]) -> Result<Datum<'_>, RowError> {
    if field == b"\\N" {
        return Ok(Datum::Null);
    }
    if !field.contains(&b'\\') {
        let text = std::str::from_utf8(field).map_err(|_| RowError::NotText)?;
        return Ok(Datum::Text(Cow::Borrowed(text)));
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next().ok_or(RowError::Malformed)? {
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 11,
                b'f' => 12,
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return Err(RowError::Malformed),
            },
            byte => *byte,
        });
    }
    let text = String::from_utf8(text).map_err(|_| RowError::NotText)?;
    Ok(Datum::Text(Cow::Owned(text)))
}
