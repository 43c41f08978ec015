//! Outstanding events, and changes that are acknowledged ahead.

use crate::base::lsn::Lsn;
use crate::base::position::Position;
use crate::continuity::checkpoint::AckAhead;
use crate::continuity::marker::Marker;

/// Most outstanding positions that are sorted.
///
/// A checkpoint has room for fewer positions.
const MAX_MISSING: usize = 2_048;

/// An event that was queued and is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutstandingEvent {
    /// Its position.
    pub position: Position,
    /// Number of positions of its change's events.
    pub change_positions: u32,
}

/// The events that were queued and are not acknowledged.
#[derive(Debug)]
pub struct OutstandingEvents {
    /// The events, in any order.
    pub events: Vec<OutstandingEvent>,
    /// Position of the last event that was queued; `None` before the first.
    ///
    /// Each change before it was queued, or was acknowledged earlier.
    pub queued_to: Option<Position>,
}

impl OutstandingEvents {
    /// The acknowledged changes after `acknowledged`.
    ///
    /// Returns `None` if there are no such changes, if no marker is after `acknowledged`, or if an event up
    /// to `acknowledged` is outstanding.
    ///
    /// `earlier` has the changes that the previous invocation stored. `marker` is the last marker that was
    /// written. The bound of the result is not after the newest marker.
    ///
    /// A change may have events of several keys, and only some of these events may be acknowledged. The
    /// result ends before the first such change. Otherwise the next invocation would send all events of this
    /// change again, but not the later changes of these keys.
    pub fn ack_ahead(
        self,
        acknowledged: Lsn,
        earlier: Option<&AckAhead>,
        marker: Option<&Marker>,
    ) -> Option<AckAhead> {
        let earlier = earlier.filter(|earlier| earlier.bound().commit_end > acknowledged);
        let Some(queued_to) = self.queued_to else {
            let earlier = earlier?;
            let after = |position: &&Position| position.commit_end > acknowledged;
            let missing = earlier.missing().iter().filter(after).copied().collect();
            return AckAhead::new(missing, earlier.bound(), earlier.marker().clone());
        };
        let (mut missing, mut bound) = missing_before(self.events, queued_to);
        let is_behind = |position: &Position| position.commit_end <= acknowledged;
        if missing.first().is_some_and(is_behind) {
            return None;
        }
        if let Some(earlier) = earlier.filter(|earlier| bound == queued_to && earlier.bound() > queued_to) {
            // The change at `queued_to` may have further events that are not queued yet.
            missing.push(queued_to);
            let after = |position: &&Position| **position > queued_to;
            missing.extend(earlier.missing().iter().filter(after));
            bound = earlier.bound();
            missing.retain(|position| !is_behind(position));
        }
        let markers = marker.into_iter().chain(earlier.map(AckAhead::marker));
        let newest = markers.max_by_key(|marker| marker.lsn)?;
        if bound.commit_end > newest.lsn {
            bound = Position {
                commit_end: newest.lsn,
                lsn: Lsn::ZERO,
                index: 0,
            };
        }
        match bound.commit_end > acknowledged {
            true => AckAhead::new(missing, bound, newest.clone()),
            false => None,
        }
    }
}

/// The outstanding positions before a bound, ascending, and the bound.
///
/// Each other position before the bound is acknowledged.
fn missing_before(mut events: Vec<OutstandingEvent>, queued_to: Position) -> (Vec<Position>, Position) {
    let mut bound = queued_to;
    if events.len() > MAX_MISSING {
        let (_, next, _) = events.select_nth_unstable_by_key(MAX_MISSING, |event| event.position);
        bound = bound.min(next.position);
        events.truncate(MAX_MISSING);
    }
    events.sort_unstable_by_key(|event| event.position);
    // A definition or a tombstone has the position of its row's event.
    events.dedup_by_key(|event| event.position);
    let record = |event: &OutstandingEvent| (event.position.commit_end, event.position.lsn);
    let mut changes = events.chunk_by(|one, other| record(one) == record(other));
    // A logical message has the LSN of the next log record. So different numbers of positions show that the
    // events belong to several changes. The number of outstanding events of each change is then unknown.
    let is_partial = |change: &&[OutstandingEvent]| {
        let positions = || change.iter().map(|event| event.change_positions);
        let (fewest, most) = (positions().min(), positions().max());
        fewest != most || most.is_some_and(|most| most as usize > change.len())
    };
    if let Some([first, ..]) = changes.find(is_partial) {
        let start = Position {
            index: 0,
            ..first.position
        };
        bound = bound.min(start);
    }
    let positions = events.iter().map(|event| event.position);
    (
        positions.take_while(|position| *position < bound).collect(),
        bound,
    )
}

#[cfg(test)]
mod tests;
