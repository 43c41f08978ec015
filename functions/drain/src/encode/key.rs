//! Partition keys: they decide an event's shard, and which events keep their order.

use sha2::{Digest, Sha256};

use super::{EventHead, RowEvent};
use crate::change::{Relation, Tuple};

/// Source of an event's partition key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PartitionBy {
    /// The row's key; the table for a row without a key.
    #[default]
    Key,
    /// The table.
    Table,
    /// The transaction. Rows of one key keep their order only within a transaction.
    Transaction,
}

/// Unicode characters that a partition key may have (Kinesis API, PutRecordsRequestEntry).
const MAX_KEY_CHARACTERS: usize = 256;

impl PartitionBy {
    /// Partition key of a row's event: the table's, if the row has no whole key.
    ///
    /// `format_key` writes the row's key as the envelope does.
    pub(super) fn row_key(
        self,
        row: &RowEvent<'_>,
        format_key: impl Fn(&Relation, &Tuple<'_>) -> String,
    ) -> String {
        match self {
            PartitionBy::Key if row.has_key() => shorten_key(format_key(row.relation, row.current_row())),
            _ => self.table_key(&row.head, row.relation),
        }
    }

    /// Partition key of an event about a table.
    pub(super) fn table_key(self, head: &EventHead, relation: &Relation) -> String {
        shorten_key(match self {
            PartitionBy::Key | PartitionBy::Table => relation.table.unquoted(),
            PartitionBy::Transaction => transaction_key(head),
        })
    }

    /// Partition key of a logical message: the transaction, or else the message's prefix.
    pub(super) fn message_key(self, head: &EventHead, prefix: &str) -> String {
        shorten_key(match self {
            PartitionBy::Key | PartitionBy::Table => {
                let mut key = br#"{"prefix":"#.to_vec();
                super::value::write_string(&mut key, prefix);
                key.push(b'}');
                super::into_string(key)
            }
            PartitionBy::Transaction => transaction_key(head),
        })
    }
}

/// The transaction's id and the end of its commit record.
///
/// PostgreSQL reuses ids, so the id alone is not unique. A message outside any transaction has id 0 and the
/// end of its own record.
fn transaction_key(head: &EventHead) -> String {
    format!(
        "{}.{:016x}",
        head.transaction.xid, head.place.position.commit_end.0
    )
}

/// Replaces a key that is too long by 64 hexadecimal digits of its SHA-256, the same every time.
fn shorten_key(key: String) -> String {
    // Characters are counted only where the bytes leave it open.
    if key.len() > MAX_KEY_CHARACTERS && key.chars().count() > MAX_KEY_CHARACTERS {
        return sha256_hex(&key);
    }
    key
}

/// SHA-256 of a key as 64 hexadecimal digits.
pub(super) fn sha256_hex(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_over_the_limit_is_replaced_by_its_hash() {
        for (length, is_kept) in [(255, true), (256, true), (257, false)] {
            let key = "é".repeat(length);
            let shortened = shorten_key(key.clone());
            assert_eq!(shortened == key, is_kept, "{length}");
            assert!(shortened.chars().count() <= MAX_KEY_CHARACTERS);
        }
    }
}
