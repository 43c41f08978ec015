//! The flow of one shard: which of its lanes may send, and how much of it at once. A shard takes 1,000 records and 1 MB a
//! second; what exceeds that is refused record by record. Then the whole shard pauses, for if one lane waited longer than
//! another, younger events would take the place of older ones, and only what is acknowledged without a gap counts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::shards::HashKey;
use crate::position::Position;

/// Records of one shard that may be under way while it throttles, at least.
const LEAST: usize = 25;

/// Records of one shard under way, at most: eight full requests.
const MOST: usize = 4_000;

#[derive(Debug)]
pub(super) struct ShardPacing {
    /// Lanes that may send, the one with the oldest event first: what is acknowledged counts only when all before it is.
    ready: BinaryHeap<Reverse<(Position, HashKey)>>,
    under_way: usize,
    /// Records that may be under way: half of what was too much when the shard throttled, doubled by each answer that it took
    /// whole.
    share: usize,
    /// Throttled answers in a row.
    throttles: u32,
    /// Until when it pauses.
    until: Option<Instant>,
    /// What it could send when it was last counted, and whether the first of that is as large as it gets.
    sendable: usize,
    full: bool,
}

impl Default for ShardPacing {
    fn default() -> Self {
        ShardPacing {
            ready: BinaryHeap::new(),
            under_way: 0,
            share: MOST,
            throttles: 0,
            until: None,
            sendable: 0,
            full: false,
        }
    }
}

impl ShardPacing {
    /// A lane may send; its oldest event stands at `position`.
    pub(super) fn line_up(&mut self, position: Position, lane: HashKey) {
        self.ready.push(Reverse((position, lane)));
    }

    /// The lane that goes first.
    pub(super) fn first(&self) -> Option<HashKey> {
        self.ready.peek().map(|Reverse((_, lane))| *lane)
    }

    /// Where the oldest event stands that could go now.
    pub(super) fn next(&self) -> Option<Position> {
        let may = self.may_send() > 0;
        let first = self.ready.peek().map(|Reverse((position, _))| *position);
        first.filter(|_| may)
    }

    /// A record of the first lane goes.
    pub(super) fn depart(&mut self) {
        self.ready.pop();
        self.under_way += 1;
    }

    /// A record is no longer under way.
    pub(super) fn arrive(&mut self) {
        self.under_way -= 1;
    }

    /// It took an answer's records whole.
    pub(super) fn quicken(&mut self) {
        self.throttles = 0;
        self.share = (self.share * 2).min(MOST);
    }

    /// It throttled when it was sent so many records. Returns how many answers in a row have said so.
    pub(super) fn slow_down(&mut self, records: usize) -> u32 {
        self.share = (self.share.min(records) / 2).max(LEAST);
        self.throttles += 1;
        self.throttles
    }

    /// Nothing goes until then.
    pub(super) fn pause(&mut self, until: Instant) {
        self.until = self.until.max(Some(until));
    }

    /// Ends a pause that is over.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.until = self.until.filter(|until| *until > now);
    }

    /// Takes stock of what it could send; `full` tells whether its first lane has as much as a record holds.
    pub(super) fn count(&mut self, full: bool) {
        self.sendable = self.may_send();
        self.full = full && self.sendable > 0;
    }

    /// Records that it could send when it was last counted.
    pub(super) fn sendable(&self) -> usize {
        self.sendable
    }

    /// One when the first of these was as large as a record gets.
    pub(super) fn full(&self) -> usize {
        usize::from(self.full)
    }

    fn may_send(&self) -> usize {
        match self.until {
            Some(_) => 0,
            None => self.ready.len().min(self.share.saturating_sub(self.under_way)),
        }
    }
}
