//! Decoder of test_decoding, whose rows are text for human readers; for troubleshooting.
//!
//! test_decoding sends no keys, and only the names of tables. A key is that of the catalog, if it was
//! certainly valid when the row was written. Other rows have no key.

mod catalog_facts;
pub(super) mod scanner;

use std::borrow::Cow;
use std::sync::Arc;

use super::{DecodeError, Plugin, is_partitioned, merge_old_row};
use crate::base::lsn::Lsn;
use crate::base::table_name::TableName;
use crate::base::time::micros_of_timestamp;
use crate::catalog::Catalog;
use crate::change::char_byte;
use crate::change::{Change, ColumnCoverage, Datum, DecodedRow, Message, MessageParts};
use catalog_facts::{
    ColumnValue, key, key_of_update, old_tuple, relation, row, with_bit_lengths, with_nulls, without_virtual,
};
use scanner::{MESSAGE, OVERSIZE, SIZE, WITHOUT_CONTENT, WITHOUT_PREFIX};

/// Decodes one row; `lsn` is its `lsn` column.
///
/// # Errors
/// The bytes are not a row of test_decoding.
pub(super) fn decode<'a>(catalog: &Catalog, lsn: Lsn, data: &'a [u8]) -> Result<DecodedRow<'a>, DecodeError> {
    let mut reader = TextReader { data, at: 0 };
    if reader.skip("BEGIN ") {
        reader.begin()
    } else if reader.skip_bytes(Plugin::TestDecoding.commit_prefix()) {
        reader.commit(lsn)
    } else if reader.skip(MESSAGE) {
        reader.message()
    } else if reader.skip("table ") {
        reader.change(catalog).map(DecodedRow::Change)
    } else {
        Err(reader.expected("BEGIN, COMMIT, message or table"))
    }
}

/// The tables that a row names; may be empty.
pub(super) fn tables(data: &[u8]) -> Vec<TableName> {
    let mut reader = TextReader { data, at: 0 };
    match reader.skip("table ") {
        true => reader.tables().unwrap_or_default(),
        false => Vec::new(),
    }
}

/// Reader of the text of one row.
struct TextReader<'a> {
    data: &'a [u8],
    /// Offset of the next byte.
    at: usize,
}

impl<'a> TextReader<'a> {
    fn expected(&self, expected: &'static str) -> DecodeError {
        DecodeError {
            plugin: Plugin::TestDecoding,
            length: self.data.len(),
            at: self.at,
            expected,
        }
    }

    fn begin(&mut self) -> Result<DecodedRow<'a>, DecodeError> {
        let text = self.rest_text()?;
        let xid = text.parse().map_err(|_| self.expected("a transaction's id"))?;
        Ok(DecodedRow::Begin {
            xid,
            commit_end: None,
            commit_time: None,
        })
    }

    fn commit(&mut self, lsn: Lsn) -> Result<DecodedRow<'a>, DecodeError> {
        let text = self.rest_text()?;
        let time = text
            .split_once("(at ")
            .and_then(|(_, rest)| micros_of_timestamp(rest.strip_suffix(')')?));
        // The `lsn` column of this row is the end of the commit record.
        Ok(DecodedRow::Commit {
            commit_end: lsn,
            commit_time: time,
        })
    }

    fn message(&mut self) -> Result<DecodedRow<'a>, DecodeError> {
        let is_transactional = self.skip("1");
        let is_valid = is_transactional || self.skip("0");
        let omitted = MessageParts {
            prefix: self.skip(WITHOUT_PREFIX),
            content: self.skip(WITHOUT_CONTENT),
        };
        if !is_valid || !self.skip(" prefix: ") {
            return Err(self.expected("transactional: 0 or 1, and a prefix"));
        }
        let (prefix, content) = match omitted.content {
            true => (self.rest_text()?, &[][..]),
            false => self.prefix_and_content()?,
        };
        let message = Message {
            prefix: Cow::Borrowed(prefix),
            content: Cow::Borrowed(content),
            omitted,
        };
        Ok(if is_transactional {
            DecodedRow::Change(Change::Message(message))
        } else {
            DecodedRow::Message(message)
        })
    }

    fn change(&mut self, catalog: &Catalog) -> Result<Change<'a>, DecodeError> {
        let tables = self.tables()?;
        if !self.skip(": ") {
            return Err(self.expected("a colon after the table"));
        }
        if self.skip("TRUNCATE:") {
            let relation = |table| Arc::new(relation(catalog, table, &[], &[], ColumnCoverage::Row));
            let tables = tables.iter().filter(|table| !is_partitioned(catalog, table));
            let relations = tables.map(relation).collect();
            return Ok(Change::Truncate { relations });
        }
        let [table] = &tables[..] else {
            return Err(self.expected("TRUNCATE after several tables"));
        };
        if self.skip("INSERT:") {
            let (new, coverage) = without_virtual(catalog, table, None, self.new_row()?);
            let new = with_bit_lengths(catalog, table, None, new);
            let (relation, new) = row(catalog, table, new, key(catalog, table), coverage);
            Ok(Change::Insert { relation, new })
        } else if self.skip("UPDATE:") {
            self.update(catalog, table)
        } else if self.skip("DELETE:") {
            // Without a replica identity, the row has no values.
            let old = with_bit_lengths(catalog, table, None, self.values("")?);
            let old = with_nulls(catalog, table, old);
            let (relation, old) = row(catalog, table, old, key(catalog, table), ColumnCoverage::Row);
            Ok(Change::Delete { relation, old })
        } else {
            Err(self.expected("INSERT, UPDATE, DELETE or TRUNCATE"))
        }
    }

    fn update(&mut self, catalog: &Catalog, table: &TableName) -> Result<Change<'a>, DecodeError> {
        let old = match self.skip(" old-key:") {
            true => Some(self.values(" new-tuple:")?),
            false => None,
        };
        let key = key_of_update(catalog, table, old.as_deref());
        let (new, coverage) = without_virtual(catalog, table, old.as_deref(), self.new_row()?);
        let new = with_bit_lengths(catalog, table, old.as_deref(), new);
        let (relation, mut new) = row(catalog, table, new, key, coverage);
        let old = match old {
            Some(old) => {
                let past = catalog.past_table_named(table);
                let old = old_tuple(&relation, old, past)
                    .ok_or_else(|| self.expected("an old row of columns that the new row has"))?;
                merge_old_row(&relation, old, &mut new)
            }
            None => None,
        };
        Ok(Change::Update { relation, old, new })
    }

    fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    /// Skips `text` if it is next; returns whether it was.
    fn skip(&mut self, text: &str) -> bool {
        self.skip_bytes(text.as_bytes())
    }

    fn skip_bytes(&mut self, bytes: &[u8]) -> bool {
        let found = self.rest().starts_with(bytes);
        self.at += if found { bytes.len() } else { 0 };
        found
    }

    fn rest_text(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.rest();
        self.text(rest.len())
    }

    /// The next `length` bytes as text.
    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let bytes = self
            .rest()
            .get(..length)
            .ok_or_else(|| self.expected("more bytes"))?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.expected("UTF-8 text"))?;
        self.at += length;
        Ok(text)
    }

    /// The prefix and the content of a message: `prefix, sz: 4 content:abcd`.
    ///
    /// Neither has quotes, and both may contain the separator `, sz: 4 content:`. The true separator has the
    /// size of the remaining bytes. If several separators fit, the first one is used: a content is more
    /// likely to contain the text of another message than a prefix is.
    fn prefix_and_content(&mut self) -> Result<(&'a str, &'a [u8]), DecodeError> {
        let rest = self.rest();
        let windows = rest.windows(SIZE.len()).enumerate();
        for (at, _) in windows.filter(|(_, window)| *window == SIZE) {
            let size = rest.get(at + SIZE.len()..).unwrap_or_default();
            let digits = size.iter().take_while(|b| b.is_ascii_digit()).count();
            let (size, content) = size.split_at(digits);
            let size = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok());
            if let Some(content) = content.strip_prefix(b" content:")
                && size == Some(content.len())
            {
                let prefix = self.text(at)?;
                self.at = self.data.len();
                return Ok((prefix, content));
            }
        }
        Err(self.expected("a prefix, and content of the given size"))
    }

    /// Reads text up to the closing quote.
    ///
    /// The reader is after the opening quote. A doubled quote means one quote in the text.
    fn quoted(&mut self, quote: u8) -> Result<Cow<'a, str>, DecodeError> {
        let mut text = Cow::Borrowed("");
        loop {
            let end = self
                .rest()
                .iter()
                .position(|b| *b == quote)
                .ok_or_else(|| self.expected("a closing quote"))?;
            let is_doubled = self.rest().get(end + 1) == Some(&quote);
            let piece = self.text(end + usize::from(is_doubled))?;
            self.at += 1;
            if text.is_empty() {
                text = Cow::Borrowed(piece);
            } else {
                text.to_mut().push_str(piece);
            }
            if !is_doubled {
                return Ok(text);
            }
        }
    }

    /// An identifier as PostgreSQL's `quote_identifier` writes it.
    ///
    /// Without quotes it ends before one of `ends`.
    fn identifier(&mut self, ends: &[u8]) -> Result<Cow<'a, str>, DecodeError> {
        if self.skip("\"") {
            return self.quoted(b'"');
        }
        let length = self.rest().iter().position(|b| ends.contains(b));
        let length = length.ok_or_else(|| self.expected("the end of a name"))?;
        Ok(Cow::Borrowed(self.text(length)?))
    }

    /// The tables of a row: one, or those of a truncate.
    fn tables(&mut self) -> Result<Vec<TableName>, DecodeError> {
        let mut tables = vec![self.table()?];
        while self.skip(", ") {
            tables.push(self.table()?);
        }
        Ok(tables)
    }

    fn table(&mut self) -> Result<TableName, DecodeError> {
        let schema = self.identifier(b".")?;
        if !self.skip(".") {
            return Err(self.expected("schema.table"));
        }
        Ok(TableName::new(schema, self.identifier(b":,")?))
    }

    /// Name of a type in brackets.
    ///
    /// The name may contain brackets, as in `integer[]`, and quoted identifiers.
    fn type_name(&mut self) -> Result<&'a str, DecodeError> {
        let rest = self.rest();
        if !rest.starts_with(b"[") {
            return Err(self.expected("a type in brackets"));
        }
        let (mut depth, mut in_quotes) = (0, false);
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                b'"' => in_quotes = !in_quotes,
                b'[' if !in_quotes => depth += 1,
                b']' if !in_quotes && depth == 1 => {
                    self.at += 1;
                    let type_name = self.text(at - 1)?;
                    self.at += 1;
                    return Ok(type_name);
                }
                b']' if !in_quotes => depth -= 1,
                _ => {}
            }
        }
        Err(self.expected("a type in brackets"))
    }

    /// The values of a new row.
    ///
    /// # Errors
    /// The row has no values. Its event would look like that of an empty row.
    fn new_row(&mut self) -> Result<Vec<ColumnValue<'a>>, DecodeError> {
        if self.rest() == b" (no-tuple-data)" {
            return Err(self.expected("the new row"));
        }
        self.values("")
    }

    /// The values before `end`, each as ` name[type]:value`.
    ///
    /// `end` is skipped; an empty `end` is the end of the row.
    fn values(&mut self, end: &str) -> Result<Vec<ColumnValue<'a>>, DecodeError> {
        let mut values = Vec::new();
        // No column can begin with this text: such a column name would have quotes.
        self.skip(" (no-tuple-data)");
        while !(if end.is_empty() {
            self.rest().is_empty()
        } else {
            self.skip(end)
        }) {
            if !self.skip(" ") {
                return Err(self.expected("a space before a column"));
            }
            let name = self.identifier(b"[")?;
            let type_name = self.type_name()?;
            if !self.skip(":") {
                return Err(self.expected("a colon after the type"));
            }
            values.push(ColumnValue {
                name,
                type_name: Cow::Borrowed(type_name),
                datum: self.datum(type_name)?,
            });
        }
        Ok(values)
    }

    /// The value that the placeholder `text` of the shortener replaced.
    fn oversize(&self, text: &str) -> Result<Datum<'a>, DecodeError> {
        let bytes = text.strip_prefix(OVERSIZE).and_then(|bytes| bytes.parse().ok());
        let bytes = bytes.ok_or_else(|| self.expected("the length of a value"))?;
        Ok(Datum::Oversize { bytes })
    }

    /// A value of the type with this name.
    fn datum(&mut self, type_name: &str) -> Result<Datum<'a>, DecodeError> {
        if let [b'\'', value, b'\'', ..] = self.rest()
            && let Some(byte) = char_byte::of_name(type_name, &[*value])
        {
            self.at += 3;
            return Ok(Datum::Text(Cow::Owned(byte)));
        }
        if self.skip("'") || self.skip("B'") {
            return Ok(Datum::Text(self.quoted(b'\'')?));
        }
        let length = self
            .rest()
            .iter()
            .position(|b| *b == b' ')
            .unwrap_or(self.rest().len());
        Ok(match self.text(length)? {
            "null" => Datum::Null,
            "unchanged-toast-datum" => Datum::Unchanged,
            text if text.starts_with(OVERSIZE) => self.oversize(text)?,
            text => Datum::Text(Cow::Borrowed(text)),
        })
    }
}

#[cfg(test)]
mod tests;
