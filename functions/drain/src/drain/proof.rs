//! The drain's markers: one lies behind each window, touching it where the log ends, and comes back in a later one.

use std::time::{Duration, Instant};

use super::parts::{Checkpoints, Emitted, Reach, Row, Rows, Slot, SlotError, Stream, Tables};
use super::{Drain, MARKER_TIME};
use crate::catalog::Catalog;
use crate::change::{Change, Item};
use crate::checkpoint::Reached;
use crate::continuity::Discontinuity;
use crate::decode::Decoder;
use crate::error::Error;
use crate::marker::{self, Marker};
use crate::window::Window;

/// The markers that are on their way.
#[derive(Debug, Default)]
pub(super) struct Markers {
    /// The number of the last one.
    pub(super) number: u64,
    /// One that must come in what is read now.
    pub(super) expected: Option<Marker>,
    /// One that lies behind what is read now.
    pub(super) ahead: Option<Marker>,
    /// The server took one not at all or not in time, so that this invocation lays no more.
    pub(super) refused: bool,
}

impl Markers {
    /// The one that the slot has to give first, from where it is confirmed now.
    pub(super) fn next(&self) -> Option<&Marker> {
        self.expected.as_ref().or(self.ahead.as_ref())
    }
}

impl<S: Slot + Tables, K: Stream, C: Checkpoints> Drain<'_, S, K, C>
where
    <S::Rows as Rows>::Row: Row,
{
    /// How far the server is, and the next window. A marker is laid before a window that would read the last one, and the window ends
    /// where the new one lies: between what is then confirmed and its marker there is nothing that could be lost unseen.
    pub(super) async fn next_window(&mut self) -> Result<(Reach, Window), Error> {
        let mut reach = self.slot.reach().await?;
        let sized = |drain: &Self, reach: &Reach| {
            let mut window = drain
                .pace()
                .window(drain.confirmed, reach.readable, reach.restart);
            if let Some(ahead) = &drain.markers.ahead {
                window.upto = window.upto.min(ahead.lsn);
            }
            window
        };
        let free = self
            .pace()
            .window(self.confirmed, reach.readable, reach.restart)
            .upto;
        let ahead = self.markers.ahead.as_ref();
        let passes = free > self.confirmed && ahead.is_none_or(|ahead| ahead.lsn < free);
        if passes && self.markers.expected.is_none() {
            self.markers.expected = self.markers.ahead.take();
            if self.settings.markers && !self.markers.refused {
                self.markers.ahead = self.lay_marker().await?;
                reach = self.slot.reach().await?;
            }
        }
        let window = sized(self, &reach);
        Ok((reach, window))
    }

    /// Lays the next marker. A server that does not take it, or a standby that does not acknowledge it in time, costs the proof and not
    /// the drain.
    async fn lay_marker(&mut self) -> Result<Option<Marker>, Error> {
        self.markers.number += 1;
        let number = self.markers.number;
        let nonce = format!("{:016x}", fastrand::u64(..));
        let content = Marker::content(&self.settings.slot, number, &nonce);
        let end = Instant::now() + MARKER_TIME.min(self.budget.for_reading(Instant::now()) / 4);
        let emitted = self.slot.emit(marker::PREFIX, &content);
        let problem: Box<dyn std::error::Error + Send + Sync> =
            match tokio::time::timeout_at(end.into(), emitted).await {
                Ok(Ok(Emitted { lsn, flushed })) => {
                    // Where only what a standby has is delivered, a marker that none has proves nothing.
                    while self.slot.reach().await?.readable < lsn {
                        if Instant::now() >= end {
                            tracing::info!(
                                slot = self.settings.slot,
                                number,
                                "no standby has the marker yet"
                            );
                            return Ok(None);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    return Ok(Some(Marker {
                        number,
                        nonce,
                        lsn,
                        flushed,
                    }));
                }
                Ok(Err(error)) => error.into(),
                Err(late) => {
                    let _ = tokio::time::timeout(Duration::from_secs(1), self.slot.give_up()).await;
                    late.into()
                }
            };
        self.markers.refused = true;
        tracing::warn!(
            slot = self.settings.slot,
            number,
            error = %problem,
            "the marker was not committed; until the next one nothing but its position tells whether the slot lost its place"
        );
        Ok(None)
    }

    /// Looks for the last marker before anything is skipped. The one that comes back proves that the history before it is the one that was
    /// drained; after a promotion, what lies behind it is sent again. What is proved is stored at once, with the new timeline.
    ///
    /// # Errors
    /// It does not come back, or the checkpoint was not stored.
    pub(super) async fn prove(&mut self) -> Result<(), Error> {
        let (slot, from, to) = (&self.settings.slot, self.start.confirmed, self.start.acknowledged);
        match &self.markers.ahead {
            None => {
                tracing::warn!(slot, %from, %to, "the timeline changed, and no marker tells whether history did: what the slot gives again is sent again, with the same positions");
            }
            Some(expected) => {
                let upto = expected.flushed.min(self.slot.reach().await?.flush);
                let window = Window {
                    upto,
                    rows: i32::MAX,
                    known: None,
                };
                let time = self.budget.for_reading(Instant::now()) / 2;
                match self.slot.find(window, &expected.nonce, time).await {
                    Ok(rows) if self.is_among(expected, &rows) && !self.start.promoted => return Ok(()),
                    Ok(rows) if self.is_among(expected, &rows) => {
                        self.settled = to.min(expected.lsn).max(from);
                        tracing::info!(slot, marker = expected.number, at = %expected.lsn, settled = %self.settled,
                            "the timeline changed, and the marker came back: what was sent before it is skipped");
                    }
                    Ok(_) => return Err(self.missing(expected)),
                    // It is still expected on the way.
                    Err(SlotError::Timeout { .. }) if !self.start.promoted => return Ok(()),
                    Err(SlotError::Timeout { .. }) => {
                        tracing::warn!(slot, %from, %to, "the timeline changed, and looking for the marker took too long: what the slot gives again is sent again, with the same positions");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let proved = Reached::from(self.settled);
        self.sender.ledger.examined(self.settled);
        self.keeper.set_back(proved.clone());
        let end = self.budget.stop_confirming();
        self.keeper
            .store(&proved, end, async || self.slot.holds().await)
            .await
    }

    /// Whether a marker is among rows that hold its nonce.
    fn is_among(&self, marker: &Marker, rows: &[(crate::lsn::Lsn, Vec<u8>)]) -> bool {
        // The message stands alone: neither a table nor a row before it is needed to read it.
        let mut decoder = Decoder::new(self.settings.plugin);
        let catalog = Catalog::default();
        rows.iter().any(|(lsn, data)| {
            let item = decoder.decode(&catalog, *lsn, data);
            matches!(item, Ok(Item::Change(Change::Message(message))) if marker.is(&self.settings.slot, &message))
        })
    }

    pub(super) fn missing(&self, marker: &Marker) -> Error {
        Error::from(Discontinuity::MarkerMissing {
            slot: self.settings.slot.clone(),
            number: marker.number,
            marker: marker.lsn,
            acknowledged: self.start.acknowledged,
        })
    }
}
