//! Partition keys, which determine the shard and the order of events.

use sha2::{Digest, Sha256};

use super::{EventHead, RowEvent, debezium};
use crate::base::position::Position;
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

/// Partition key of a row of an insert-only table.
///
/// See [`Relation::is_insert_only`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeylessRows {
    /// The table and a suffix from the event's position.
    ///
    /// The suffix spreads the rows over all shards. No later change refers to such a row, so these rows need
    /// no order.
    #[default]
    Spread,
    /// The table.
    Table,
}

/// Unicode characters that a partition key may have (Kinesis API, PutRecordsRequestEntry).
///
/// The API does not state how characters are counted. The KPL counts units of UTF-16, and an emoji has two of
/// them.
const MAX_KEY_CHARACTERS: usize = 256;

impl PartitionBy {
    /// Partition key of a row's event.
    ///
    /// With [`PartitionBy::Key`] it is the row's key, or the table's name if the row has no complete key. If
    /// `PARTITION_KEYS` names columns of the table, it is a JSON object of these columns, in every envelope.
    /// The object has no table name, so rows of several tables may have the same partition key.
    ///
    /// The key is written into `buffer`, which must be empty. `write_key` writes the row's key in the form of
    /// the envelope.
    pub(super) fn row_key(
        self,
        row: &RowEvent<'_>,
        buffer: String,
        write_key: impl Fn(&mut Vec<u8>, &Relation, &Tuple<'_>),
    ) -> String {
        let PartitionBy::Key = self else {
            return self.table_key(&row.head, row.relation);
        };
        let mut key = buffer.into_bytes();
        match row.has_key() {
            _ if row.has_partition_key_columns() => {
                debezium::write_columns(&mut key, row.relation, row.current_row(), |column| {
                    column.in_partition_key
                });
            }
            true => write_key(&mut key, row.relation, row.current_row()),
            false => row.relation.table.write_unquoted(&mut key),
        }
        shorten_key(super::into_string(key))
    }

    /// Partition key of an event about a table.
    pub(super) fn table_key(self, head: &EventHead, relation: &Relation) -> String {
        shorten_key(match self {
            PartitionBy::Key | PartitionBy::Table => relation.table.unquoted(),
            PartitionBy::Transaction => transaction_key(head),
        })
    }

    /// Partition key of a logical message: its prefix, or the transaction.
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

/// One of 65,536 partition keys of a table.
///
/// The same position always has the same key. The key is written into `buffer`, which must be empty.
///
/// With this number of keys, the shards of a stream get similar loads. With 16 shards, the busiest shard gets
/// about 3 % more than the others.
pub(super) fn spread_key(position: Position, relation: &Relation, buffer: String) -> String {
    let mut key = buffer.into_bytes();
    relation.table.write_unquoted(&mut key);
    key.push(b'#');
    let suffix = (position_hash(position) >> 48) as u16;
    let mut digits = [0; 4];
    // The call fails only if the length of `digits` does not fit.
    let _ = hex::encode_to_slice(suffix.to_be_bytes(), &mut digits);
    key.extend_from_slice(&digits);
    shorten_key(super::into_string(key))
}

/// Hash of a position. The hashes of consecutive positions have no pattern.
///
/// The constants are those of SplitMix64.
fn position_hash(position: Position) -> u64 {
    let Position {
        commit_end,
        lsn,
        index,
    } = position;
    let seed = lsn
        .0
        .wrapping_add(u64::from(index) << 40)
        .wrapping_add(commit_end.0 << 1);
    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The transaction's id and the end of its commit record.
///
/// PostgreSQL reuses ids, so the id alone is not unique. A message outside any transaction has id 0 and the
/// end of its own record.
fn transaction_key(head: &EventHead) -> String {
    format!(
        "{}.{:016x}",
        head.transaction.xid, head.numbers.position.commit_end.0
    )
}

/// Replaces a key that is too long by its SHA-256.
///
/// The hash has 64 hexadecimal digits. The same key always has the same hash.
fn shorten_key(key: String) -> String {
    // A text has at least as many bytes as characters, so a short one needs no count.
    if key.len() > MAX_KEY_CHARACTERS && key.encode_utf16().count() > MAX_KEY_CHARACTERS {
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
    use crate::base::lsn::Lsn;

    #[test]
    fn keys_of_consecutive_rows_are_spread_evenly_and_are_the_same_each_time() {
        let relation = Relation {
            table: crate::base::table_name::TableName::new("public", "log"),
            columns: Vec::new(),
            primary_key: Vec::new(),
            coverage: crate::change::ColumnCoverage::Whole,
            is_insert_only: true,
            partition_key_may_change: false,
        };
        let at = |lsn, index| Position {
            commit_end: Lsn(1 << 40),
            lsn: Lsn(lsn),
            index,
        };
        // A transaction with rows of 120 bytes each, and one log record with as many rows.
        for positions in [
            (0..64_000)
                .map(|n| at((1 << 32) + n * 120, 0))
                .collect::<Vec<_>>(),
            (0..64_000).map(|n| at(1 << 32, n)).collect(),
        ] {
            let mut counts = [0; 16];
            for position in positions {
                let key = spread_key(position, &relation, String::new());
                assert_eq!(key, spread_key(position, &relation, String::new()));
                let suffix = key.strip_prefix("public.log#").unwrap();
                counts[usize::from_str_radix(&suffix[..1], 16).unwrap()] += 1;
            }
            assert!(
                counts.iter().all(|count| (3_700..4_300).contains(count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn a_key_over_the_limit_is_replaced_by_its_hash() {
        for (length, is_kept) in [(255, true), (256, true), (257, false)] {
            let key = "é".repeat(length);
            let shortened = shorten_key(key.clone());
            assert_eq!(shortened == key, is_kept, "{length}");
            assert!(shortened.chars().count() <= MAX_KEY_CHARACTERS);
        }
        for (length, is_kept) in [(128, true), (129, false)] {
            let key = "😀".repeat(length);
            assert_eq!(shorten_key(key.clone()) == key, is_kept, "{length}");
        }
    }
}
