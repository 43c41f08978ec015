//! Partition keys: what places an event on a shard, and what must stay in order.

use sha2::{Digest, Sha256};

use crate::change::{Relation, Tuple};
use crate::position::Position;

/// What an event's partition key is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PartitionBy {
    /// The row's key; the table for a row that has none.
    #[default]
    Key,
    /// The table.
    Table,
    /// The transaction: rows of one key keep their order only within it.
    Transaction,
}

/// Unicode characters that a partition key may have (Kinesis API, PutRecordsRequestEntry).
const MOST_CHARACTERS: usize = 256;

impl PartitionBy {
    /// The key of an event about a row, not longer than Kinesis takes. `own` is how the envelope writes the row's key.
    pub(super) fn of_row(
        self,
        relation: &Relation,
        tuple: &Tuple<'_>,
        xid: u32,
        position: Position,
        own: impl Fn(&Relation, &Tuple<'_>) -> String,
    ) -> String {
        let mut key = match self {
            PartitionBy::Key if relation.has_key() => own(relation, tuple),
            PartitionBy::Key | PartitionBy::Table => relation.table.unquoted(),
            PartitionBy::Transaction => of_transaction(xid, position),
        };
        shorten_key(&mut key);
        key
    }

    /// The key of an event about a table.
    pub(super) fn of_table(self, relation: &Relation, xid: u32, position: Position) -> String {
        let mut key = match self {
            PartitionBy::Key | PartitionBy::Table => relation.table.unquoted(),
            PartitionBy::Transaction => of_transaction(xid, position),
        };
        shorten_key(&mut key);
        key
    }

    /// The key of a logical message, which is about no table: its prefix, unless it is asked for transactions.
    pub(super) fn of_message(self, prefix: &str, xid: u32, position: Position) -> String {
        let mut key = match self {
            PartitionBy::Key | PartitionBy::Table => {
                let mut key = br#"{"prefix":"#.to_vec();
                super::value::string(&mut key, prefix);
                key.push(b'}');
                super::text(key)
            }
            PartitionBy::Transaction => of_transaction(xid, position),
        };
        shorten_key(&mut key);
        key
    }
}

/// The transaction's id and the end of its commit record, since ids come again. A message outside of any transaction has 0 and its
/// own end.
fn of_transaction(xid: u32, position: Position) -> String {
    format!("{xid}.{:016x}", position.commit_end.0)
}

/// Puts a hash in the place of a key that is too long: 64 hexadecimal digits of SHA-256, the same every time.
fn shorten_key(key: &mut String) {
    if key.len() > MOST_CHARACTERS && key.chars().count() > MOST_CHARACTERS {
        *key = hash(key);
    }
}

/// SHA-256 of a key as 64 hexadecimal digits: names a key in an error without its values.
pub fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_at_the_limit_stays_and_one_beyond_it_is_hashed() {
        for (key, stays) in [
            ("é".repeat(255), true),
            ("é".repeat(256), true),
            ("é".repeat(257), false),
        ] {
            let mut shortened = key.clone();
            shorten_key(&mut shortened);
            assert_eq!(shortened == key, stays);
            assert!(shortened.chars().count() <= MOST_CHARACTERS);
        }
    }
}
