//! The tables whose changes are sent, stored as hashes between invocations.
//!
//! PostgreSQL reports no error if a table is dropped from a publication, or if a new table replaces it under
//! the same name. Its changes are then no longer sent. The comparison with the tables of an earlier
//! invocation detects this. The module does no I/O.

use base64_simd::STANDARD;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use crate::base::stored_document::{self, InvalidDocument};
use crate::base::table_name::TableName;

/// Most tables that are stored.
///
/// Their document fits into an SSM parameter of 4 KiB.
pub const MAX_STORED_TABLES: usize = 700;

/// The format version of the document.
const VERSION: u64 = 1;

/// Bytes of a hash.
///
/// With 700 tables, the probability that two have the same hash is about 1 in 17,500.
const HASH_BYTES: usize = 4;

/// A table of the database, and whether its changes are sent.
///
/// If its changes are not sent, [`SendState`] is the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// The table.
    pub table: TableName,
    /// State of its changes.
    pub sending: SendState,
    /// Whether the table is a partition.
    ///
    /// Partitions are often created and dropped, so they are not stored.
    pub is_partition: bool,
}

/// State of a table's changes: sent, or the reason why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendState {
    /// They are sent.
    Sent,
    /// The log lacks them, because the table is unlogged.
    Unlogged,
    /// The slot does not send them, because no publication has the table.
    Unpublished,
    /// The slot sends them, but no pattern of `TABLES` matches the table.
    Excluded,
}

/// The document: hashes of the names of the tables that are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentTables {
    version: u64,
    /// The sorted hashes, in Base64.
    hashes: String,
}

impl SentTables {
    /// The tables that are sent now, without partitions.
    ///
    /// `None` if there are more than [`MAX_STORED_TABLES`].
    pub fn of(states: &[TableState]) -> Option<Self> {
        let is_stored = |state: &&TableState| state.sending == SendState::Sent && !state.is_partition;
        let sent = states.iter().filter(is_stored);
        let mut hashes: Vec<_> = sent.map(|state| hash(&state.table)).collect();
        hashes.sort_unstable();
        (hashes.len() <= MAX_STORED_TABLES).then(|| SentTables {
            version: VERSION,
            hashes: STANDARD.encode_to_string(hashes.concat()),
        })
    }

    /// Reads a stored document.
    ///
    /// # Errors
    /// The text is not such a document, or the document has another version.
    pub fn parse(text: &str) -> Result<Self, InvalidDocument> {
        stored_document::parse("list of sent tables", VERSION, text)
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        stored_document::to_text(self)
    }

    /// The tables of this document that are no longer sent.
    ///
    /// `states` must have all tables of the database, with the partitions: a stored table may be a partition
    /// now, and is still sent.
    pub fn no_longer_sent(&self, states: &[TableState]) -> TablesNoLongerSent {
        let bytes = STANDARD.decode_to_vec(&self.hashes).unwrap_or_default();
        let (sent, _) = bytes.as_chunks::<HASH_BYTES>();
        let mut sentences = Vec::new();
        let mut found = 0;
        for state in states {
            if sent.binary_search(&hash(&state.table)).is_ok() {
                found += 1;
                sentences.extend(sentence(state));
            }
        }
        let gone = sent.len().saturating_sub(found);
        let count = sentences.len() + gone;
        match gone {
            0 => {}
            1 => sentences.push("a table that was sent was dropped or renamed".to_owned()),
            _ => sentences.push(format!("{gone} tables that were sent were dropped or renamed")),
        }
        TablesNoLongerSent { count, sentences }
    }
}

/// Tables that were sent, and are not any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablesNoLongerSent {
    /// The number of these tables.
    pub count: usize,
    /// A sentence for each of them that still exists.
    ///
    /// One more sentence has the number of those that do not. Only hashes are stored, so it has no names.
    pub sentences: Vec<String>,
}

fn sentence(state: &TableState) -> Option<String> {
    let name = state.table.unquoted();
    match state.sending {
        SendState::Sent => None,
        SendState::Unlogged => Some(format!(
            "table {name} is no longer sent: it is unlogged, so the log lacks its changes. If that is not \
             intended, run alter table … set logged, and backfill the table"
        )),
        SendState::Unpublished => Some(format!(
            "table {name} is no longer sent: none of PUBLICATIONS has it. If that is not intended, run alter \
             publication … add table …, and backfill the table"
        )),
        SendState::Excluded => Some(format!(
            "table {name} is no longer sent: TABLES does not match it. If that is not intended, correct \
             TABLES, and backfill the table"
        )),
    }
}

fn hash(table: &TableName) -> [u8; HASH_BYTES] {
    let mut md5 = Md5::new();
    md5.update(&table.schema);
    md5.update([0]);
    md5.update(&table.name);
    let digest: [u8; 16] = md5.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(tables: &[(&str, SendState)]) -> Vec<TableState> {
        let state = |(name, sending): &(&str, SendState)| TableState {
            table: TableName::new("public", *name),
            sending: *sending,
            is_partition: false,
        };
        tables.iter().map(state).collect()
    }

    #[test]
    fn a_table_that_is_no_longer_sent_is_named_with_the_reason() {
        use SendState::{Excluded, Sent, Unpublished};
        let before = states(&[
            ("a", Sent),
            ("b", Sent),
            ("c", Sent),
            ("d", Sent),
            ("e", Unpublished),
        ]);
        let stored = SentTables::of(&before).unwrap();
        let stored = SentTables::parse(&stored.to_text()).unwrap();
        assert_eq!(stored.no_longer_sent(&before), TablesNoLongerSent::default());
        let now = states(&[
            ("a", Sent),
            ("b", Unpublished),
            ("c", Excluded),
            ("e", Unpublished),
            ("f", Sent),
        ]);
        let TablesNoLongerSent {
            count,
            sentences: left,
        } = stored.no_longer_sent(&now);
        assert_eq!((count, left.len()), (3, 3), "{left:?}");
        assert!(
            left[0].starts_with("table public.b is no longer sent: none of PUBLICATIONS"),
            "{left:?}"
        );
        assert!(
            left[1].starts_with("table public.c is no longer sent: TABLES"),
            "{left:?}"
        );
        assert_eq!(left[2], "a table that was sent was dropped or renamed");
        assert_ne!(SentTables::of(&now).unwrap(), stored);
        // `a`, `c` and `d` no longer exist.
        let left = stored.no_longer_sent(&now[1..2]);
        assert_eq!((left.count, left.sentences.len()), (4, 2), "{left:?}");
        assert_eq!(
            left.sentences[1],
            "3 tables that were sent were dropped or renamed"
        );
    }

    #[test]
    fn a_table_that_became_a_partition_is_still_sent() {
        let mut now = states(&[("a", SendState::Sent), ("b", SendState::Sent)]);
        let stored = SentTables::of(&now).unwrap();
        now[1].is_partition = true;
        assert_eq!(stored.no_longer_sent(&now), TablesNoLongerSent::default());
        let next = SentTables::of(&now).unwrap();
        assert_eq!(next, SentTables::of(&now[..1]).unwrap());
        for (sending, reason) in [
            (SendState::Unpublished, "none of PUBLICATIONS"),
            (SendState::Unlogged, "it is unlogged"),
        ] {
            now[1].sending = sending;
            let left = stored.no_longer_sent(&now);
            assert!(left.count == 1 && left.sentences[0].contains(reason), "{left:?}");
        }
    }

    #[test]
    fn the_document_of_the_most_tables_fits_into_a_parameter() {
        let names: Vec<String> = (0..=MAX_STORED_TABLES)
            .map(|number| format!("t{number}"))
            .collect();
        let all: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), SendState::Sent))
            .collect();
        let most = SentTables::of(&states(&all[1..])).unwrap();
        assert!(
            most.to_text().len() <= stored_document::MAX_DOCUMENT_BYTES,
            "{}",
            most.to_text().len()
        );
        assert_eq!(SentTables::of(&states(&all)), None);
    }
}
