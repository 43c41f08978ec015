//! Preparation of the first window: first position, history, and earlier acknowledgements.

use super::WindowRunner;
use crate::continuity::checkpoint::{AckAhead, AckPosition};
use crate::drain::markers::HistoryCheck;
use crate::encode::Event;
use crate::error::Error;
use crate::pack::{MAIN_STREAM, QueuedEvent};
use crate::ports::{Slot, StateStore, Stream, StreamError, TableSource};

impl<S: Slot + TableSource, K: Stream, C: StateStore> WindowRunner<'_, S, K, C> {
    /// Prepares the first window.
    ///
    /// `first_event` is the control event of an accepted gap. `ahead` has the stored changes that were
    /// acknowledged ahead. Returns `false` if the history cannot be checked yet: a later tick drains.
    ///
    /// # Errors
    /// The history differs, the stream or the store refuses, or a query failed.
    pub(in crate::drain) async fn start(
        &mut self,
        first_event: Option<Event>,
        ahead: Option<AckAhead>,
    ) -> Result<bool, Error> {
        if self.confirmer.stored().is_none() {
            self.store_first_position(first_event).await?;
        }
        if !self.check_history().await? {
            return Ok(false);
        }
        self.confirmer
            .use_ahead_if_marker_found(ahead, self.slot, self.start)
            .await?;
        if let Some(backfill) = &mut self.backfill {
            backfill.watch_resumed_table(self.slot, self.budget).await?;
        }
        Ok(true)
    }

    /// Stores the first position of the drain.
    ///
    /// It is stored if there is no checkpoint, or if the operator accepted a gap. `first_event` is the
    /// control event of an accepted gap. The stream must acknowledge it before the position is stored.
    async fn store_first_position(&mut self, first_event: Option<Event>) -> Result<(), Error> {
        if let Some(event) = first_event {
            let acknowledgements = &mut self.sender.acknowledgements;
            let span = acknowledgements.begin();
            acknowledgements.add_event(span);
            acknowledgements.commit(span, self.start.acknowledged);
            self.report.events += 1;
            self.sender.push(QueuedEvent {
                event,
                span,
                change_positions: 1,
                stream: MAIN_STREAM,
            });
            let (result, is_all_sent) = self.send_rest().await;
            result?;
            if !is_all_sent {
                let late = StreamError::Unavailable {
                    stream: self.sender.stream_name(),
                    source: "it did not acknowledge the first event in time".into(),
                };
                return Err(Error::Stream(self.sender.take_last_error().unwrap_or(late)));
            }
        }
        self.store(&self.start.acknowledged.into()).await
    }

    /// Searches for the last marker if the history may differ.
    ///
    /// The history may differ after a promotion. It may also differ on the same timeline: a server that was
    /// restored from an older copy of its disk can write past the checkpoint's position again. So the drain
    /// also searches for the marker before it skips a transaction. Returns `false` if the log up to the
    /// marker is not readable yet.
    async fn check_history(&mut self) -> Result<bool, Error> {
        let skips = self.start.confirmed < self.start.acknowledged && self.start.expected.is_some();
        if !self.start.is_promoted && !skips {
            return Ok(true);
        }
        let markers = &self.confirmer.markers;
        let check = markers.check_history(self.slot, self.start, self.budget);
        let settled = match check.await? {
            HistoryCheck::Unchanged => return Ok(true),
            HistoryCheck::NotReadable(positions) => {
                self.report_lag(positions);
                return Ok(false);
            }
            HistoryCheck::Settled(settled) => settled,
        };
        self.settled = settled;
        let position = AckPosition::from(settled);
        self.sender.acknowledgements.complete_window(settled);
        self.confirmer.set_back(position.clone());
        self.store(&position).await?;
        Ok(true)
    }
}
