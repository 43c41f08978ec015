//! Paced writer of the checkpoint: about once a second while events are acknowledged, and at the end of a
//! window.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::checkpoint::{AckPosition, Checkpoint};
use crate::clock::now_text;
use crate::error::Error;
use crate::marker::Marker;
use crate::ports::{CheckpointError, ErrorKind, SlotError, StateStore};

/// Time between two stores while events are acknowledged.
///
/// SSM takes about three stores a second, for all functions of an account.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a running store may still take when the drain ends.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Stores the checkpoint of one drain.
pub(super) struct Checkpointer<C> {
    checkpoints: C,
    document: Checkpoint,
    /// The stored position; `None` before the first store.
    stored: Option<AckPosition>,
    /// Whether the stored checkpoint names the last marker.
    is_marker_stored: bool,
    running: Option<(AckPosition, JoinHandle<Result<(), CheckpointError>>)>,
    last_start: Instant,
    is_closed: bool,
}

impl<C> Drop for Checkpointer<C> {
    fn drop(&mut self) {
        if let Some((_, store)) = &self.running {
            store.abort();
        }
    }
}

impl<C: StateStore> Checkpointer<C> {
    /// `document` is the checkpoint to store, without its position. `stored` is the position of the stored
    /// one.
    pub(super) fn new(checkpoints: C, document: Checkpoint, stored: Option<AckPosition>) -> Self {
        Checkpointer {
            checkpoints,
            document,
            stored,
            is_marker_stored: true,
            running: None,
            last_start: Instant::now(),
            is_closed: false,
        }
    }

    /// Stops the paced stores, and ends the running one.
    ///
    /// It must not arrive after a store of the next invocation: it is aborted if it does not end in time.
    pub(super) async fn close(&mut self) {
        self.is_closed = true;
        if tokio::time::timeout(CLOSE_TIME, self.settle()).await.is_err()
            && let Some((_, store)) = self.running.take()
        {
            store.abort();
        }
    }

    /// Sets the stored position back to one that is proved. The next store replaces the checkpoint.
    pub(super) fn set_back(&mut self, position: AckPosition) {
        self.stored = Some(position);
        self.is_marker_stored = false;
    }

    /// The stored position.
    pub(super) fn stored(&self) -> Option<&AckPosition> {
        self.stored.as_ref()
    }

    /// Sets the marker that later stores name.
    pub(super) fn set_marker(&mut self, marker: Option<Marker>) {
        self.is_marker_stored &= self.document.marker == marker;
        self.document.marker = marker;
    }

    /// Whether a store is running.
    pub(super) fn is_storing(&self) -> bool {
        self.running.is_some()
    }

    /// When the next paced store is due, if `acknowledged` is further than the stored position.
    ///
    /// The first checkpoint is never stored here: the caller of [`Checkpointer::store`] knows what must
    /// precede it.
    pub(super) fn due(&self, acknowledged: &AckPosition) -> Option<Instant> {
        let stored = self.stored.as_ref();
        let is_behind = stored.is_some_and(|stored| stored < acknowledged);
        let is_due = is_behind && !self.is_closed && self.running.is_none();
        is_due.then(|| self.last_start + STORE_INTERVAL)
    }

    /// Starts a store, without waiting for it.
    pub(super) fn start(&mut self, acknowledged: &AckPosition) {
        let (checkpoints, text) = (self.checkpoints.clone(), self.text(acknowledged));
        let store = tokio::spawn(async move { checkpoints.store(text).await });
        self.running = Some((acknowledged.clone(), store));
        self.last_start = Instant::now();
    }

    /// Waits for the running store. May be cancelled.
    ///
    /// A failed store is no error yet: the store at the end of the window decides.
    pub(super) async fn settle(&mut self) {
        let Some((position, store)) = &mut self.running else {
            return;
        };
        match store.await {
            Ok(Ok(())) => self.stored = Some(position.clone()),
            Ok(Err(error)) => tracing::warn!(error = %error, "the checkpoint was not stored, trying again"),
            Err(error) => tracing::warn!(error = %error, "the checkpoint was not stored, trying again"),
        }
        self.running = None;
    }

    /// Stores `acknowledged` and waits for it, with retries until `deadline`. Does nothing if it is stored
    /// already.
    ///
    /// `fence` runs before each attempt. It checks that no other drainer can have stored meanwhile.
    ///
    /// # Errors
    /// The store is refused for good, or failed until the deadline, or the fence failed.
    pub(super) async fn store(
        &mut self,
        acknowledged: &AckPosition,
        deadline: Instant,
        fence: impl AsyncFnMut() -> Result<(), SlotError>,
    ) -> Result<(), Error> {
        let storing = self.store_if_needed(acknowledged, fence);
        let stored = tokio::time::timeout_at(deadline.into(), storing).await;
        stored.unwrap_or_else(|_| Err(late(&self.checkpoints)))
    }

    async fn store_if_needed(
        &mut self,
        acknowledged: &AckPosition,
        fence: impl AsyncFnMut() -> Result<(), SlotError>,
    ) -> Result<(), Error> {
        self.settle().await;
        let stored = self.stored.as_ref();
        if !self.is_marker_stored || stored.is_none_or(|stored| stored < acknowledged) {
            store_with_retries(&self.checkpoints, self.text(acknowledged), fence).await?;
            self.stored = Some(acknowledged.clone());
            self.is_marker_stored = true;
            self.last_start = Instant::now();
        }
        Ok(())
    }

    fn text(&self, acknowledged: &AckPosition) -> String {
        let document = Checkpoint {
            commit_end: acknowledged.commit_end,
            progress: acknowledged.resume.clone(),
            updated_at: now_text(),
            ..self.document.clone()
        };
        document.to_text()
    }
}

/// Stores a text and waits for it, with retries until `deadline`. `fence` runs before each attempt.
///
/// # Errors
/// As [`Checkpointer::store`].
pub(super) async fn store_until<C: StateStore>(
    store: &C,
    text: String,
    deadline: Instant,
    fence: impl AsyncFnMut() -> Result<(), SlotError>,
) -> Result<(), Error> {
    let storing = store_with_retries(store, text, fence);
    let stored = tokio::time::timeout_at(deadline.into(), storing).await;
    stored.unwrap_or_else(|_| Err(late(store)))
}

async fn store_with_retries<C: StateStore>(
    store: &C,
    text: String,
    mut fence: impl AsyncFnMut() -> Result<(), SlotError>,
) -> Result<(), Error> {
    let mut pause = Duration::from_millis(100);
    loop {
        fence().await?;
        match store.store(text.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Transient => {
                tracing::warn!(error = %error, "not stored, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(error) => return Err(Error::Checkpoint(error)),
        }
    }
}

fn late<C: StateStore>(store: &C) -> Error {
    Error::Checkpoint(CheckpointError::Unavailable {
        parameter: store.name(),
        source: "it did not answer in time".into(),
    })
}
