//! Changes that the stream has acknowledged after the acknowledged position.
//!
//! The checkpoint stores a later position, the bound. It also stores the positions before the bound that are
//! not acknowledged: the missing positions. The next invocation sends the missing changes, and every change
//! from the bound on. It skips all other changes.

use base64_simd::STANDARD;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::base::varint;
use crate::continuity::marker::Marker;

/// Most bytes of a coded position: numbers of 64, 65 and 32 bits, seven bits a byte.
const MAX_CODED_BYTES: usize = 10 + 10 + 5;

/// The acknowledged changes after the acknowledged position and before a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckAhead {
    /// The positions before the bound that are not acknowledged, ascending.
    missing: Vec<Position>,
    /// The bound: this position and later ones may be acknowledged or not.
    bound: Position,
    /// A marker after the bound.
    ///
    /// If the log contains the marker, the log before the marker is the log that was drained.
    marker: Marker,
}

impl AckAhead {
    /// All changes before `bound` are acknowledged, except those at the `missing` positions.
    ///
    /// `None` if the marker is not after the bound.
    pub fn new(mut missing: Vec<Position>, bound: Position, marker: Marker) -> Option<Self> {
        missing.retain(|position| *position < bound);
        missing.sort_unstable();
        missing.dedup();
        (bound.commit_end <= marker.lsn).then_some(AckAhead {
            missing,
            bound,
            marker,
        })
    }

    /// The bound.
    pub fn bound(&self) -> Position {
        self.bound
    }

    /// The marker after the bound.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// The positions before the bound that are not acknowledged, ascending.
    pub fn missing(&self) -> &[Position] {
        &self.missing
    }

    /// Whether the inserted row at this position is acknowledged.
    ///
    /// It is valid only for an insert. An insert has one event, even if the key of its table has changed
    /// since. So the index of its event identifies it among the rows of one log record, such as those of a
    /// `COPY`.
    pub fn is_insert_acknowledged(&self, position: Position) -> bool {
        position < self.bound && self.missing.binary_search(&position).is_err()
    }

    /// Whether every event of the change at this position is acknowledged.
    ///
    /// The number of a change's events depends on the key of its table, and the key may have changed since.
    /// So no position of its LSN from this one on may be missing. Earlier positions of the LSN belong to
    /// other changes, such as a logical message.
    pub fn is_change_acknowledged(&self, position: Position) -> bool {
        let lsn = (position.commit_end, position.lsn);
        let first = self.missing.partition_point(|missing| *missing < position);
        let next = self.missing.get(first).unwrap_or(&self.bound);
        lsn < (self.bound.commit_end, self.bound.lsn) && (next.commit_end, next.lsn) != lsn
    }

    /// Whether the logical message at this position is acknowledged.
    ///
    /// A message has the LSN of the next log record. The server usually sends it before the change of this
    /// record. If subtransactions are merged, the message may follow the change, which may have another
    /// number of events now. Then no position of the LSN may be missing.
    pub fn is_message_acknowledged(&self, position: Position) -> bool {
        match position.index {
            0 => position < self.bound && self.missing.binary_search(&position).is_err(),
            _ => self.is_change_acknowledged(Position { index: 0, ..position }),
        }
    }
}

/// The stored form of [`AckAhead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAckAhead {
    /// Position of the checkpoint that these changes belong to.
    ///
    /// An older version of Spillway keeps this field when it stores a checkpoint with another position. The
    /// changes are then not valid.
    #[serde(rename = "after")]
    pub checkpoint_end: Lsn,
    /// Hash of the settings that decide which events a change has: see [`settings_hash`].
    #[serde(rename = "settings")]
    settings_hash: String,
    marker: Marker,
    /// The missing positions and the bound: the bytes of [`encode_positions`] in Base64.
    positions: String,
}

impl StoredAckAhead {
    /// The stored form, without positions.
    pub(super) fn without_positions(checkpoint_end: Lsn, settings_hash: &str, ahead: &AckAhead) -> Self {
        StoredAckAhead {
            checkpoint_end,
            settings_hash: settings_hash.to_owned(),
            marker: ahead.marker.clone(),
            positions: String::new(),
        }
    }

    /// Sets the positions, in at most `most_bytes` of text.
    ///
    /// If they need more, the last position that fits becomes the bound. Returns `false` if none fits.
    pub(super) fn set_positions(&mut self, ahead: &AckAhead, most_bytes: usize) -> bool {
        let coded = encode_positions(ahead, most_bytes / 4 * 3);
        self.positions = coded
            .map(|bytes| STANDARD.encode_to_string(bytes))
            .unwrap_or_default();
        !self.positions.is_empty()
    }

    /// The acknowledged changes, if they belong to this checkpoint.
    ///
    /// The stored set must belong to a checkpoint at `acknowledged` and to this `settings_hash`.
    ///
    /// # Errors
    /// The reason why the stored set cannot be used. The changes are then sent again.
    pub fn read(&self, acknowledged: Lsn, settings_hash: &str) -> Result<AckAhead, &'static str> {
        if self.checkpoint_end != acknowledged {
            return Err("it belongs to another position");
        }
        if self.settings_hash != settings_hash {
            return Err("the version, the configuration or the server is another one");
        }
        let bytes = STANDARD.decode_to_vec(&self.positions).ok();
        let mut positions = bytes
            .and_then(|bytes| decode_positions(&bytes))
            .ok_or("it cannot be read")?;
        let is_after = positions
            .first()
            .is_some_and(|first| first.commit_end > acknowledged);
        let bound = positions.pop().filter(|_| is_after && positions.is_sorted());
        let bound = bound.filter(|bound| positions.last() < Some(bound));
        let ahead = bound.and_then(|bound| AckAhead::new(positions, bound, self.marker.clone()));
        ahead.ok_or("it cannot be read")
    }
}

/// Reads the field of a checkpoint. An unknown form counts as a missing field.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<StoredAckAhead>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Hash of the settings that decide which events a change has.
///
/// The settings also decide where the events are sent.
pub fn settings_hash(settings: &[&str]) -> String {
    let mut md5 = Md5::new();
    for setting in settings {
        md5.update((setting.len() as u64).to_be_bytes());
        md5.update(setting);
    }
    hex::encode(md5.finalize())
}

/// The missing positions, then the bound, in at most `most_bytes`.
///
/// If they need more, the last position that fits becomes the bound. `None` if none fits.
///
/// The first byte is the number of low bits that are left out of every LSN, because they are zero: 3 or 0.
/// Then each position follows, as [varints](varint):
///
/// 1. The commit end, as the distance from the former commit end.
/// 2. The LSN, as the distance from the former LSN in the same transaction. The first LSN of a transaction is
///    the distance to the commit end. The lowest bit states whether an index follows.
/// 3. The index, unless it is 0.
fn encode_positions(ahead: &AckAhead, most_bytes: usize) -> Option<Vec<u8>> {
    let all = || ahead.missing.iter().chain([&ahead.bound]);
    let is_aligned = all().all(|position| (position.commit_end.0 | position.lsn.0) % 8 == 0);
    let shift = if is_aligned { 3u8 } else { 0 };
    let (mut bytes, mut former) = (vec![shift], None);
    for position in all() {
        // The bound needs room, too.
        let is_last = *position == ahead.bound || bytes.len() + 2 * MAX_CODED_BYTES > most_bytes;
        push_position(&mut bytes, former, *position, shift);
        former = Some(*position);
        if is_last {
            break;
        }
    }
    (bytes.len() <= most_bytes).then_some(bytes)
}

fn push_position(bytes: &mut Vec<u8>, former: Option<Position>, position: Position, shift: u8) {
    let commit_before = former.map_or(0, |former| former.commit_end.0);
    let commit = position.commit_end.0.wrapping_sub(commit_before);
    let lsn = match former {
        Some(former) if commit == 0 => position.lsn.0.wrapping_sub(former.lsn.0),
        _ => position.commit_end.0.wrapping_sub(position.lsn.0),
    };
    varint::push(bytes, commit >> shift);
    varint::push(
        bytes,
        u128::from(lsn >> shift) << 1 | u128::from(position.index > 0),
    );
    if position.index > 0 {
        varint::push(bytes, position.index);
    }
}

/// The positions that [`encode_positions`] wrote; `None` if the bytes are not valid.
fn decode_positions(bytes: &[u8]) -> Option<Vec<Position>> {
    let (shift, mut rest) = bytes.split_first()?;
    let shifted = |number: u128| u64::try_from(number).ok()?.checked_shl(u32::from(*shift));
    let mut positions: Vec<Position> = Vec::new();
    while !rest.is_empty() {
        let commit = shifted(varint::take(&mut rest)?)?;
        let number = varint::take(&mut rest)?;
        let lsn = shifted(number >> 1)?;
        let index = match number & 1 {
            0 => 0,
            _ => u32::try_from(varint::take(&mut rest)?).ok()?,
        };
        let former = positions.last();
        let commit_end = former
            .map_or(0, |former| former.commit_end.0)
            .wrapping_add(commit);
        let lsn = match former {
            Some(former) if commit == 0 => former.lsn.0.wrapping_add(lsn),
            _ => commit_end.wrapping_sub(lsn),
        };
        positions.push(Position {
            commit_end: Lsn(commit_end),
            lsn: Lsn(lsn),
            index,
        });
    }
    Some(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(commit_end: u64, lsn: u64, index: u32) -> Position {
        Position {
            commit_end: Lsn(commit_end),
            lsn: Lsn(lsn),
            index,
        }
    }

    fn ahead(missing: &[Position], bound: Position) -> AckAhead {
        let marker = Marker {
            number: 7,
            nonce: "0123456789abcdef".into(),
            lsn: Lsn(u64::MAX),
            flushed: Lsn(u64::MAX),
        };
        AckAhead::new(missing.to_vec(), bound, marker).unwrap()
    }

    fn stored(ahead: &AckAhead, most_bytes: usize) -> Option<StoredAckAhead> {
        let mut stored = StoredAckAhead::without_positions(Lsn(1), "settings", ahead);
        stored.set_positions(ahead, most_bytes).then_some(stored)
    }

    #[test]
    fn a_change_is_acknowledged_before_the_bound_unless_it_is_missing() {
        let ahead = ahead(
            &[position(20, 11, 0), position(20, 12, 1), position(30, 25, 0)],
            position(40, 35, 1),
        );
        for (position, insert, change) in [
            (position(10, 5, 0), true, true),
            (position(20, 11, 0), false, false),
            (position(20, 11, 1), true, true),
            (position(20, 12, 0), true, false),
            (position(20, 13, 0), true, true),
            (position(30, 24, 0), true, true),
            (position(30, 25, 0), false, false),
            (position(40, 34, 7), true, true),
            (position(40, 35, 0), true, false),
            (position(40, 35, 1), false, false),
            (position(50, 1, 0), false, false),
        ] {
            assert_eq!(ahead.is_insert_acknowledged(position), insert, "{position}");
            assert_eq!(ahead.is_change_acknowledged(position), change, "{position}");
        }
        // After another event of the same LSN, the index may have changed.
        for (position, message) in [
            (position(20, 11, 0), false),
            (position(20, 11, 1), false),
            (position(20, 12, 0), true),
            (position(20, 13, 1), true),
            (position(50, 1, 0), false),
        ] {
            assert_eq!(ahead.is_message_acknowledged(position), message, "{position}");
        }
    }

    #[test]
    fn it_is_read_only_at_its_position_and_with_its_settings() {
        let ahead = ahead(&[position(16, 8, 0)], position(24, 16, 0));
        let stored = stored(&ahead, 400).unwrap();
        assert_eq!(stored.read(Lsn(1), "settings"), Ok(ahead));
        assert!(stored.read(Lsn(2), "settings").is_err());
        assert!(stored.read(Lsn(1), "others").is_err());
        for positions in ["", "AA==", "!", "/////////////////////w=="] {
            let damaged = StoredAckAhead {
                positions: positions.to_owned(),
                ..stored.clone()
            };
            assert!(damaged.read(Lsn(1), "settings").is_err(), "{positions}");
        }
        let unproven = StoredAckAhead {
            marker: Marker {
                lsn: Lsn(23),
                ..stored.marker.clone()
            },
            ..stored
        };
        assert!(unproven.read(Lsn(1), "settings").is_err());
    }

    #[test]
    fn other_settings_with_the_same_joined_text_have_another_hash() {
        assert_ne!(settings_hash(&["ab", "c"]), settings_hash(&["a", "bc"]));
        assert_eq!(settings_hash(&["ab", "c"]), settings_hash(&["ab", "c"]));
    }

    /// As in a backlog of short transactions.
    #[test]
    fn a_missing_change_of_a_short_transaction_takes_about_two_bytes() {
        let missing: Vec<_> = (1..=2_000).map(|n| position(n * 600, n * 600 - 160, 0)).collect();
        let ahead = ahead(&missing, position(1 << 40, 1 << 39, 0));
        let read = stored(&ahead, 2_400).unwrap().read(Lsn(1), "settings").unwrap();
        assert!(read.missing.len() > 850, "{}", read.missing.len());
    }

    proptest! {
        /// A stored set without room for all positions is still correct.
        ///
        /// The changes for which it has no room are sent again. All other positions are read as they were.
        #[test]
        fn a_stored_set_has_no_wrong_position(
            positions in prop::collection::btree_set((2u64..5_000, any::<u16>(), 0u32..3), 1..400),
            unit in prop_oneof![Just(1u64), Just(8), Just(1 << 40)],
            most_bytes in 60usize..2_000,
        ) {
            let mut all: Vec<_> = positions
                .into_iter()
                .map(|(commit, lsn, index)| position(commit * unit, u64::from(lsn) * unit, index))
                .collect();
            all.sort_unstable();
            let bound = all.pop().unwrap();
            let ahead = ahead(&all, bound);
            let Some(stored) = stored(&ahead, most_bytes) else {
                return Ok(());
            };
            prop_assert!(stored.positions.len() <= most_bytes);
            let read = stored.read(Lsn(1), "settings").unwrap();
            prop_assert!(read.bound <= ahead.bound);
            let known: Vec<_> = all.into_iter().filter(|position| *position < read.bound).collect();
            prop_assert_eq!(read.missing, known);
        }
    }
}
