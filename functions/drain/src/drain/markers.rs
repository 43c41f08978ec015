//! The markers of a drain: one is written behind each window, and must come back in a later one.

use std::time::{Duration, Instant};

use super::reader::missing_marker;
use super::settings::Settings;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::change::{Change, Item};
use crate::continuity::StartPosition;
use crate::decode::Decoder;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::marker::{self, Marker};
use crate::nonce::random_nonce;
use crate::plugin::Plugin;
use crate::ports::{BoxError, EmittedMessage, Slot, SlotError, WalPositions};
use crate::window_sizing::{Window, WindowSizing};

/// How long a marker may take to be committed, where the server waits for standbys.
pub(crate) const MARKER_TIME: Duration = Duration::from_secs(2);

/// How long the cancel of a marker may take.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// The markers that have not come back yet.
#[derive(Debug)]
pub(super) struct Markers {
    slot: String,
    /// The number of the last marker.
    number: u64,
    /// Whether this invocation writes markers. It stops after the server did not take one in time.
    is_writing: bool,
    /// A marker that must come back in the window that is read now.
    pub(super) expected: Option<Marker>,
    /// A marker behind the window that is read now.
    ahead: Option<Marker>,
}

/// The outcome of the search for the last marker.
#[derive(Debug)]
pub(super) enum HistoryProof {
    /// The history is the one of the checkpoint, or the windows will show it: nothing changes.
    Unchanged,
    /// After a promotion: up to where transactions are surely those that were sent.
    Settled(Lsn),
}

impl Markers {
    /// `last` is the marker of the checkpoint, `ahead` the one that the slot has to send.
    pub(super) fn new(settings: &Settings, last: Option<&Marker>, ahead: Option<Marker>) -> Self {
        Markers {
            slot: settings.slot.clone(),
            number: last.map_or(0, |marker| marker.number),
            is_writing: settings.markers,
            expected: None,
            ahead,
        }
    }

    /// The marker that the checkpoint must name, if the slot is confirmed to `acknowledged`.
    pub(super) fn for_checkpoint(&self, acknowledged: Lsn) -> Option<Marker> {
        let next = self.expected.as_ref().or(self.ahead.as_ref());
        next.filter(|marker| marker.lsn >= acknowledged).cloned()
    }

    /// Whether a window ends at the last marker, which was the end of the log when it was written.
    pub(super) fn ends_at(&self, window: Window) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.lsn == window.upto)
    }

    /// The positions of the log, and the next window.
    ///
    /// A marker is written before a window that would read the last one, and the window ends at the new
    /// marker. So there is no log between the confirmed position and its marker that could be lost unnoticed.
    ///
    /// # Errors
    /// The server cannot be asked.
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
        let reads_ahead = self.ahead.as_ref().is_none_or(|ahead| ahead.lsn < upto);
        if upto > confirmed && reads_ahead && self.expected.is_none() {
            self.expected = self.ahead.take();
            if self.is_writing {
                self.ahead = self.write(slot, budget).await?;
                positions = slot.wal_positions().await?;
            }
        }
        let mut window = next_window(&positions);
        if let Some(ahead) = &self.ahead {
            window.upto = window.upto.min(ahead.lsn);
        }
        Ok((positions, window))
    }

    /// Writes the next marker. If the server or a standby does not take it in time, the drain goes on without
    /// it.
    async fn write<S: Slot>(&mut self, slot: &mut S, budget: Budget) -> Result<Option<Marker>, Error> {
        self.number += 1;
        let (number, nonce) = (self.number, random_nonce());
        let content = Marker::content(&self.slot, number, &nonce);
        let end = Instant::now() + MARKER_TIME.min(budget.reading_time_left(Instant::now()) / 4);
        let emitted = slot.emit(marker::PREFIX, &content);
        let problem: BoxError = match tokio::time::timeout_at(end.into(), emitted).await {
            Ok(Ok(EmittedMessage { lsn, flushed })) => {
                let marker = Marker {
                    number,
                    nonce,
                    lsn,
                    flushed,
                };
                return Ok(self.is_readable(slot, lsn, end).await?.then_some(marker));
            }
            Ok(Err(error)) => error.into(),
            Err(late) => {
                let _ = tokio::time::timeout(CANCEL_TIME, slot.cancel_control()).await;
                late.into()
            }
        };
        self.is_writing = false;
        tracing::warn!(
            slot = self.slot,
            number,
            error = %problem,
            "the marker was not committed; until the next one only positions can show that the slot lost its \
             place"
        );
        Ok(None)
    }

    /// Waits until `end` for a standby to acknowledge a marker.
    ///
    /// Where only acknowledged changes are sent, a marker that no standby has proves nothing.
    async fn is_readable<S: Slot>(&self, slot: &mut S, lsn: Lsn, end: Instant) -> Result<bool, Error> {
        while slot.wal_positions().await?.readable < lsn {
            if Instant::now() >= end {
                tracing::info!(
                    slot = self.slot,
                    number = self.number,
                    "no standby has the marker yet"
                );
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Searches the log for the expected marker, before anything is skipped.
    ///
    /// A marker that comes back proves that the log before it is the one that was drained. After a promotion,
    /// transactions behind it are sent again.
    ///
    /// # Errors
    /// The marker does not come back, or the server cannot be asked.
    pub(super) async fn prove_history<S: Slot>(
        &self,
        slot: &mut S,
        settings: &Settings,
        start: &StartPosition,
        budget: Budget,
    ) -> Result<HistoryProof, Error> {
        let (from, to) = (start.confirmed, start.acknowledged);
        let Some(expected) = &self.ahead else {
            tracing::warn!(slot = self.slot, %from, %to,
                "the timeline changed, and there is no marker to compare: changes of this range are sent \
                 again, with the same positions");
            return Ok(HistoryProof::Settled(start.settled));
        };
        let window = Window {
            upto: expected.flushed.min(slot.wal_positions().await?.flush),
            rows: i32::MAX,
            sent_prefix: None,
        };
        let time = budget.reading_time_left(Instant::now()) / 2;
        match slot.find(window, &expected.nonce, time).await {
            Ok(rows) if !self.contains(settings.plugin, expected, &rows) => Err(self.missing(expected, to)),
            Ok(_) if !start.promoted => Ok(HistoryProof::Unchanged),
            Ok(_) => {
                let settled = to.min(expected.lsn).max(from);
                tracing::info!(slot = self.slot, marker = expected.number, at = %expected.lsn, %settled,
                    "the timeline changed, and the marker came back: changes that were sent before it are \
                     skipped");
                Ok(HistoryProof::Settled(settled))
            }
            // A window will show whether the marker comes back.
            Err(SlotError::Timeout { .. }) if !start.promoted => Ok(HistoryProof::Unchanged),
            Err(SlotError::Timeout { .. }) => {
                tracing::warn!(slot = self.slot, %from, %to,
                    "the timeline changed, and the search for the marker took too long: changes of this \
                     range are sent again, with the same positions");
                Ok(HistoryProof::Settled(start.settled))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a marker is among rows that contain its nonce.
    fn contains(&self, plugin: Plugin, marker: &Marker, rows: &[(Lsn, Vec<u8>)]) -> bool {
        // A message needs neither a table nor an earlier row to be decoded.
        let mut decoder = Decoder::new(plugin);
        let catalog = Catalog::default();
        rows.iter().any(|(lsn, data)| {
            let item = decoder.decode(&catalog, *lsn, data);
            matches!(item, Ok(Item::Change(Change::Message(message))) if marker.is(&self.slot, &message))
        })
    }

    /// The marker did not come back.
    pub(super) fn missing(&self, marker: &Marker, acknowledged: Lsn) -> Error {
        missing_marker(&self.slot, marker, acknowledged)
    }
}
