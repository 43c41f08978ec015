//! The rows of a window that are not processed yet.

use std::collections::VecDeque;

use crate::base::lsn::Lsn;
use crate::ports::{CommitRows, PEEK_ROW_BYTES, PeekRow};

/// Most bytes of held rows of a transaction.
pub(crate) const HOLD_BYTES: usize = 8 << 20;

/// Rows that are not processed yet, in the order of the peek.
///
/// It also has the commits that are known before their row is read.
#[derive(Debug)]
pub(super) struct WaitingRows<R> {
    rows: VecDeque<R>,
    /// Bytes of the rows that wait for their commit.
    held_bytes: usize,
    /// Commits that are known before their row is read.
    commits: CommitRows,
    /// Whether they include those of all large transactions.
    has_large_commits: bool,
}

impl<R: PeekRow> WaitingRows<R> {
    pub(super) fn new() -> Self {
        WaitingRows {
            rows: VecDeque::new(),
            held_bytes: 0,
            commits: CommitRows::new(),
            has_large_commits: false,
        }
    }

    /// Adds the next row of the peek. It does not count as held.
    pub(super) fn push(&mut self, row: R) {
        self.rows.push_back(row);
    }

    /// Adds the next row of the peek. It waits for the commit of its transaction.
    pub(super) fn hold(&mut self, row: R) {
        self.held_bytes += row.data().len() + PEEK_ROW_BYTES;
        self.rows.push_back(row);
    }

    /// Whether the held rows take more than [`HOLD_BYTES`].
    pub(super) fn exceed_hold_bytes(&self) -> bool {
        self.held_bytes > HOLD_BYTES
    }

    /// Sets the held bytes to zero: the commit of their transaction is known.
    pub(super) fn reset_held_bytes(&mut self) {
        self.held_bytes = 0;
    }

    /// Adds commits that the server sent before their rows.
    pub(super) fn add_commits(&mut self, commits: CommitRows) {
        self.commits.extend(commits);
    }

    /// Adds the commits of all large transactions of the window.
    pub(super) fn add_large_commits(&mut self, commits: CommitRows) {
        self.commits.extend(commits);
        self.has_large_commits = true;
    }

    /// Whether the commit is unknown, and no large commits were requested.
    pub(super) fn must_request_commits(&self, xid: u32) -> bool {
        !self.has_large_commits && !self.commits.contains_key(&xid)
    }

    /// Removes the commit of this transaction: the `lsn` of its row, and its data.
    pub(super) fn take_commit(&mut self, xid: u32) -> Option<(Lsn, Vec<u8>)> {
        self.commits.remove(&xid)
    }

    /// Whether no row waits.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Removes the first row.
    pub(super) fn pop(&mut self) -> Option<R> {
        self.rows.pop_front()
    }

    /// All rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = &R> {
        self.rows.iter()
    }
}
