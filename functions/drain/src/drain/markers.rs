//! The markers of a drain: messages that the slot must return.
//!
//! A new marker is written if the next window would pass the last one, or if there is none. A later window
//! must contain the new marker.

use std::time::{Duration, Instant};

use super::reader::missing_marker;
use super::settings::Settings;
use super::window_sizing::WindowSizing;
use crate::base::budget::{Budget, CANCEL_TIME};
use crate::base::causes::BoxError;
use crate::base::lsn::Lsn;
use crate::base::nonce::random_nonce;
use crate::base::window::Window;
use crate::catalog::Catalog;
use crate::change::{Change, DecodedRow, message_prefix};
use crate::continuity::StartPosition;
use crate::continuity::marker::{MARKER_TIME, Marker, MarkerDraft};
use crate::decode::Decoder;
use crate::error::Error;
use crate::plugin::Plugin;
use crate::ports::{EmittedMessage, Slot, SlotError, WalPositions};

/// State of a drain's markers, and whether it writes further ones.
#[derive(Debug)]
pub(super) struct Markers {
    /// The slot's name.
    slot: String,
    plugin: Plugin,
    /// The number of the last marker.
    number: u64,
    /// Whether this invocation writes markers.
    ///
    /// `false` if the setting turns markers off, or after a write that failed or took too long.
    is_writing: bool,
    /// Whether the commit of a marker took too long in this invocation.
    ///
    /// The likely cause is a standby that does not acknowledge commits.
    commit_timed_out: bool,
    /// Whether log waits for a later tick until a standby has it.
    ///
    /// `false` only with `STANDBY_ACK=off`.
    waits_for_standbys: bool,
    /// The marker that the current window or a later one must contain.
    ///
    /// `None` once the slot has returned it.
    expected: Option<Marker>,
    /// The last marker that was written. The next window ends there or earlier.
    last_written: Option<Marker>,
}

/// Result of the search for the last marker.
#[derive(Debug)]
pub(super) enum HistoryCheck {
    /// The start position stays: the slot returned the marker, or a later window checks it.
    Unchanged,
    /// After a promotion: the new settled position.
    Settled(Lsn),
    /// After a promotion: the log up to the marker is not readable yet.
    ///
    /// No standby has flushed this log, or one of `synchronized_standby_slots` has not received it.
    NotReadable(WalPositions),
}

impl Markers {
    /// The state at the start of a drain.
    ///
    /// `stored` is the marker of the checkpoint. The numbers of new markers continue from its number.
    /// `to_return` is the marker that the slot must return, if any. It counts as the last marker until a new
    /// one is written.
    pub(super) fn new(settings: &Settings, stored: Option<&Marker>, to_return: Option<Marker>) -> Self {
        Markers {
            slot: settings.slot.clone(),
            plugin: settings.plugin,
            number: stored.map_or(0, |marker| marker.number),
            is_writing: settings.markers,
            commit_timed_out: false,
            waits_for_standbys: settings.waits_for_standbys,
            expected: None,
            last_written: to_return,
        }
    }

    /// The slot's name.
    pub(super) fn slot_name(&self) -> &str {
        &self.slot
    }

    /// The marker to store with a checkpoint at `acknowledged`.
    ///
    /// It is the expected marker, or else the last one. `None` if that marker is before this position.
    pub(super) fn for_checkpoint(&self, acknowledged: Lsn) -> Option<Marker> {
        let first = self.first_to_return();
        first.filter(|marker| marker.lsn >= acknowledged).cloned()
    }

    /// Whether a marker that the slot has to return is before `acknowledged`.
    pub(super) fn is_passed_at(&self, acknowledged: Lsn) -> bool {
        self.first_to_return()
            .is_some_and(|marker| marker.lsn < acknowledged)
    }

    /// The first marker that the slot has to return.
    fn first_to_return(&self) -> Option<&Marker> {
        self.expected.as_ref().or(self.last_written.as_ref())
    }

    /// The last marker, if no window has passed it.
    pub(super) fn last(&self) -> Option<&Marker> {
        self.last_written.as_ref()
    }

    /// The marker that the current window or a later one must contain.
    pub(super) fn expected(&self) -> Option<&Marker> {
        self.expected.as_ref()
    }

    /// Records that the slot returned the expected marker.
    pub(super) fn clear_expected(&mut self) {
        self.expected = None;
    }

    /// The expected marker, if its commit ends at or before `upto`.
    ///
    /// A complete window up to `upto` must have contained it.
    pub(super) fn overdue_at(&self, upto: Lsn) -> Option<&Marker> {
        self.expected.as_ref().filter(|expected| expected.flushed <= upto)
    }

    /// Whether a window ends at the last marker.
    ///
    /// When the marker's record was written, the log ended with it. So such a window reaches the end of the
    /// log at that moment. Other sessions may have written more log since.
    pub(super) fn ends_at(&self, window: Window) -> bool {
        self.last_written
            .as_ref()
            .is_some_and(|marker| marker.lsn == window.upto)
    }

    /// Positions of the log, and the next window.
    ///
    /// If the window would pass the last marker, a new marker is written first, and the window ends there or
    /// earlier. No marker is written while the slot still has to return an expected one. While this
    /// invocation writes markers, the log after the confirmed position always contains one. So a loss of that
    /// log is detected.
    ///
    /// # Errors
    /// A query failed.
    pub(super) async fn next_window<S: Slot>(
        &mut self,
        slot: &mut S,
        sizing: WindowSizing,
        confirmed: Lsn,
        budget: Budget,
    ) -> Result<(WalPositions, Window), Error> {
        let mut positions = slot.wal_positions().await?;
        let next_window =
            |positions: &WalPositions| sizing.next_window(confirmed, positions.readable, positions.restart);
        let upto = next_window(&positions).upto;
        let passes_marker = self.last_written.as_ref().is_none_or(|marker| marker.lsn < upto);
        if upto > confirmed && passes_marker && self.expected.is_none() {
            self.expected = self.last_written.take();
            if self.is_writing {
                let written = self.write(slot, budget).await?;
                positions = match &written {
                    Some((_, positions)) => *positions,
                    None => slot.wal_positions().await?,
                };
                self.last_written = written.map(|(marker, _)| marker);
            }
        }
        // A commit that takes too long probably waits for a standby. Then the standbys may lack the end of
        // the log, and a failover would lose it. The positions of the standbys may not show this, because not
        // every role may read them. So this invocation opens no further window.
        if self.commit_timed_out && self.waits_for_standbys {
            positions.readable = confirmed;
        }
        let mut window = next_window(&positions);
        if let Some(marker) = &self.last_written {
            window.upto = window.upto.min(marker.lsn);
        }
        Ok((positions, window))
    }

    /// Writes the next marker. Returns it, and positions at which it is readable.
    ///
    /// Returns `None` if the write fails, or if the marker is not committed and readable in time. The drain
    /// then continues without a new marker.
    async fn write<S: Slot>(
        &mut self,
        slot: &mut S,
        budget: Budget,
    ) -> Result<Option<(Marker, WalPositions)>, Error> {
        self.number += 1;
        let draft = MarkerDraft::new(self.number, random_nonce());
        let content = draft.content(&self.slot);
        let end = Instant::now() + MARKER_TIME.min(budget.reading_time_left(Instant::now()) / 4);
        let emitted = slot.emit(message_prefix::MARKER, &content);
        let problem: BoxError = match tokio::time::timeout_at(end.into(), emitted).await {
            Ok(Ok(EmittedMessage { lsn, flushed })) => {
                let positions = self.wait_until_readable(slot, lsn, end).await?;
                return Ok(positions.map(|positions| (draft.written(lsn, flushed), positions)));
            }
            Ok(Err(error)) => error.into(),
            Err(late) => {
                self.commit_timed_out = true;
                let _ = tokio::time::timeout(CANCEL_TIME, slot.cancel_lock_session()).await;
                late.into()
            }
        };
        self.is_writing = false;
        tracing::warn!(
            slot = self.slot,
            number = self.number,
            error = %problem,
            "{}",
            match self.commit_timed_out && self.waits_for_standbys {
                true =>
                    "the commit of a marker took too long, as if no standby acknowledged it: a later tick \
                     reads the rest of the log",
                false =>
                    "a marker was not confirmed as committed: until the next marker, only the positions \
                     of the slot can show that it lost changes",
            }
        );
        Ok(None)
    }

    /// Waits until `end` for a marker to become readable. Returns the positions then.
    ///
    /// With `STANDBY_ACK`, log is readable only after a standby has acknowledged it. A marker that no standby
    /// has is lost in a failover, so it proves nothing.
    async fn wait_until_readable<S: Slot>(
        &self,
        slot: &mut S,
        lsn: Lsn,
        end: Instant,
    ) -> Result<Option<WalPositions>, Error> {
        loop {
            let positions = slot.wal_positions().await?;
            if positions.readable >= lsn {
                return Ok(Some(positions));
            }
            if Instant::now() >= end {
                tracing::info!(
                    slot = self.slot,
                    number = self.number,
                    "the marker is not readable yet: a standby has not acknowledged it"
                );
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Searches the log for the last marker, before any transaction is skipped.
    ///
    /// If the slot returns the marker, the log before the marker is the log that was drained. After a
    /// promotion, transactions after the marker are sent again.
    ///
    /// # Errors
    /// The slot does not return the marker, or a query failed.
    pub(super) async fn check_history<S: Slot>(
        &self,
        slot: &mut S,
        start: &StartPosition,
        budget: Budget,
    ) -> Result<HistoryCheck, Error> {
        let (from, to) = (start.confirmed, start.acknowledged);
        let Some(last) = &self.last_written else {
            tracing::warn!(slot = self.slot, %from, %to,
                "the timeline changed, and the checkpoint has no marker: changes of this range are sent \
                 again, with the same positions");
            return Ok(HistoryCheck::Settled(start.settled));
        };
        let positions = slot.wal_positions().await?;
        if start.is_promoted && positions.readable < last.flushed.min(positions.flush) {
            return Ok(HistoryCheck::NotReadable(positions));
        }
        let time = budget.reading_time_left(Instant::now()) / 2;
        match self.find(slot, last, time).await {
            Ok(false) => Err(self.missing(last, to)),
            Ok(_) if !start.is_promoted => Ok(HistoryCheck::Unchanged),
            Ok(_) => {
                let settled = to.min(last.lsn).max(from);
                tracing::info!(slot = self.slot, marker = last.number, at = %last.lsn, %settled,
                    "the timeline changed, and the slot returned the marker: changes that were sent before \
                     it are skipped");
                Ok(HistoryCheck::Settled(settled))
            }
            // The drain fails later if a window passes the marker and does not contain it.
            Err(error) if may_succeed_in_smaller_windows(&error) && !start.is_promoted => {
                Ok(HistoryCheck::Unchanged)
            }
            Err(error) if may_succeed_in_smaller_windows(&error) => {
                tracing::warn!(slot = self.slot, %from, %to, error = %error,
                    "the timeline changed, and the search for the marker has failed: changes of this range \
                     are sent again, with the same positions");
                Ok(HistoryCheck::Settled(start.settled))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if the log lacks the first marker to return.
    ///
    /// A search that fails is not an error.
    ///
    /// # Errors
    /// The slot does not return the marker.
    pub(super) async fn check_first_to_return<S: Slot>(
        &self,
        slot: &mut S,
        acknowledged: Lsn,
        budget: Budget,
    ) -> Result<(), Error> {
        match self.first_to_return() {
            Some(marker) if matches!(self.is_in_log(slot, marker, budget).await, Ok(false)) => {
                Err(self.missing(marker, acknowledged))
            }
            _ => Ok(()),
        }
    }

    /// Whether the slot returns a marker.
    ///
    /// # Errors
    /// A query failed, or the server does not answer within a quarter of the reading time that is left.
    pub(super) async fn is_in_log<S: Slot>(
        &self,
        slot: &mut S,
        marker: &Marker,
        budget: Budget,
    ) -> Result<bool, SlotError> {
        let time = budget.reading_time_left(Instant::now()) / 4;
        self.find(slot, marker, time).await
    }

    /// Searches for a marker after the slot's position, for at most `time`.
    async fn find<S: Slot>(&self, slot: &mut S, marker: &Marker, time: Duration) -> Result<bool, SlotError> {
        let window = Window {
            upto: marker.flushed.min(slot.wal_positions().await?.flush),
            rows: i32::MAX,
            acknowledged_prefix: None,
        };
        let rows = slot.find(window, &marker.nonce, time).await?;
        Ok(self.contains(marker, &rows))
    }

    /// Whether one of these rows is the marker.
    ///
    /// Each row contains the marker's nonce, and may still be another message.
    fn contains(&self, marker: &Marker, rows: &[(Lsn, Vec<u8>)]) -> bool {
        // The decoder needs neither a table nor an earlier row for a message.
        let mut decoder = Decoder::new(self.plugin);
        let catalog = Catalog::default();
        rows.iter()
            .any(|(lsn, data)| match decoder.decode(&catalog, *lsn, data) {
                Ok(DecodedRow::Change(Change::Message(message))) => marker.is(&self.slot, &message),
                _ => false,
            })
    }

    /// The error of a marker that the slot does not return.
    pub(super) fn missing(&self, marker: &Marker, acknowledged: Lsn) -> Error {
        missing_marker(&self.slot, marker, acknowledged)
    }
}

/// Whether smaller windows may succeed after the search failed.
///
/// The search reads the log up to the marker at once. A window may end before the change that is the cause.
fn may_succeed_in_smaller_windows(error: &SlotError) -> bool {
    matches!(
        error,
        SlotError::Timeout { .. }
            | SlotError::OutOfSpace { .. }
            | SlotError::PublicationSkipped { .. }
            | SlotError::RowOverServerLimit { .. }
    )
}
