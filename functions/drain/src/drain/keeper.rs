//! Keeps the checkpoint up to date: about once a second while events are acknowledged, and always at a window's end.

use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::time::iso_utc;

use super::parts::{CheckpointError, Checkpoints, Kind};

/// SSM takes about three stores a second, for all of an account's functions.
const PACE: Duration = Duration::from_secs(1);

pub(super) struct Keeper<C> {
    checkpoints: C,
    document: Checkpoint,
    /// Up to where the stored checkpoint reaches; `None` before the first.
    stored: Option<Lsn>,
    running: Option<(Lsn, JoinHandle<Result<(), CheckpointError>>)>,
    last: Instant,
}

impl<C: Checkpoints> Keeper<C> {
    /// `document` is what will be stored, with the position filled in; `stored` is the position of the one that is there.
    pub(super) fn new(checkpoints: C, document: Checkpoint, stored: Option<Lsn>) -> Self {
        Keeper {
            checkpoints,
            document,
            stored,
            running: None,
            last: Instant::now(),
        }
    }

    pub(super) fn stored(&self) -> Option<Lsn> {
        self.stored
    }

    /// Whether a store is running.
    pub(super) fn waits(&self) -> bool {
        self.running.is_some()
    }

    /// When the next store is due, for a position that is `acknowledged`; `None` when there is nothing to store. The first
    /// one is not stored along the way: what must come before it is for [`Keeper::store`]'s caller to know.
    pub(super) fn due(&self, acknowledged: Lsn) -> Option<Instant> {
        let news = self.running.is_none() && self.stored.is_some_and(|stored| stored < acknowledged);
        news.then(|| self.last + PACE)
    }

    /// Starts a store, without waiting for it.
    pub(super) fn start(&mut self, acknowledged: Lsn) {
        let (checkpoints, text) = (self.checkpoints.clone(), self.text(acknowledged));
        let store = tokio::spawn(async move { checkpoints.store(text).await });
        self.running = Some((acknowledged, store));
        self.last = Instant::now();
    }

    /// Waits for the running store. One that failed is not an error yet: the last one of the window decides. May be cancelled.
    pub(super) async fn settle(&mut self) {
        let Some((lsn, store)) = &mut self.running else {
            return;
        };
        match store.await {
            Ok(Ok(())) => self.stored = self.stored.max(Some(*lsn)),
            Ok(Err(error)) => tracing::warn!(error = %error, "the checkpoint was not stored, trying again"),
            Err(error) => tracing::warn!(error = %error, "the checkpoint was not stored, trying again"),
        }
        self.running = None;
    }

    /// Stores `acknowledged` and waits for it, trying again until `deadline`. Does nothing when it is stored already.
    ///
    /// # Errors
    /// The store is refused for good, or failed until the deadline.
    pub(super) async fn store(&mut self, acknowledged: Lsn, deadline: Instant) -> Result<(), Error> {
        let stored = tokio::time::timeout_at(deadline.into(), self.try_to_store(acknowledged)).await;
        stored.unwrap_or_else(|_| {
            let parameter = self.checkpoints.name();
            Err(Error::Checkpoint(CheckpointError::Unavailable {
                parameter,
                source: "it did not answer in time".into(),
            }))
        })
    }

    async fn try_to_store(&mut self, acknowledged: Lsn) -> Result<(), Error> {
        self.settle().await;
        let mut pause = Duration::from_millis(100);
        while self.stored < Some(acknowledged) {
            match self.checkpoints.store(self.text(acknowledged)).await {
                Ok(()) => {
                    self.stored = Some(acknowledged);
                    self.last = Instant::now();
                }
                Err(error) if error.kind() == Kind::Transient => {
                    tracing::warn!(error = %error, "the checkpoint was not stored, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => return Err(Error::Checkpoint(error)),
            }
        }
        Ok(())
    }

    fn text(&self, acknowledged: Lsn) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let document = Checkpoint {
            commit_end: acknowledged,
            updated_at: iso_utc(now.as_secs()),
            ..self.document.clone()
        };
        document.to_text()
    }
}
