//! Keeps the checkpoint up to date: about once a second while events are acknowledged, and always at a window's end.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::checkpoint::{AckPosition, Checkpoint};
use crate::clock::now_text;
use crate::error::Error;
use crate::marker::Marker;

use crate::ports::{CheckpointError, ErrorKind, SlotError, StateStore};

/// SSM takes about three stores a second, for all of an account's functions.
const PACE: Duration = Duration::from_secs(1);

/// How long a store that was started may still take at the end.
const LAST: Duration = Duration::from_millis(500);

pub(super) struct Checkpointer<C> {
    checkpoints: C,
    document: Checkpoint,
    /// Up to where the stored checkpoint reaches; `None` before the first.
    stored: Option<AckPosition>,
    /// Whether the stored one names the last marker.
    marked: bool,
    running: Option<(AckPosition, JoinHandle<Result<(), CheckpointError>>)>,
    last: Instant,
    closed: bool,
}

impl<C> Drop for Checkpointer<C> {
    fn drop(&mut self) {
        if let Some((_, store)) = &self.running {
            store.abort();
        }
    }
}

impl<C: StateStore> Checkpointer<C> {
    /// `document` is what will be stored, with the position filled in; `stored` is the position of the one that is there.
    pub(super) fn new(checkpoints: C, document: Checkpoint, stored: Option<AckPosition>) -> Self {
        Checkpointer {
            checkpoints,
            document,
            stored,
            marked: true,
            running: None,
            last: Instant::now(),
            closed: false,
        }
    }

    /// Nothing more is stored along the way. A store that is running ends here, one way or the other: it must not arrive after those of
    /// the next invocation.
    pub(super) async fn close(&mut self) {
        self.closed = true;
        if tokio::time::timeout(LAST, self.settle()).await.is_err()
            && let Some((_, store)) = self.running.take()
        {
            store.abort();
        }
    }

    /// What is stored reaches further than what can be known to be acknowledged.
    pub(super) fn set_back(&mut self, position: AckPosition) {
        self.stored = Some(position);
        self.marked = false;
    }

    pub(super) fn stored(&self) -> Option<&AckPosition> {
        self.stored.as_ref()
    }

    /// What is stored from now on names this marker.
    pub(super) fn set_marker(&mut self, marker: Option<Marker>) {
        self.marked &= self.document.marker == marker;
        self.document.marker = marker;
    }

    /// Whether a store is running.
    pub(super) fn is_storing(&self) -> bool {
        self.running.is_some()
    }

    /// When the next store is due, for a position that is `acknowledged`; `None` when there is nothing to store. The first
    /// one is not stored along the way: what must come before it is for [`Checkpointer::store`]'s caller to know.
    pub(super) fn due(&self, acknowledged: &AckPosition) -> Option<Instant> {
        let news = !self.closed
            && self.running.is_none()
            && self.stored.as_ref().is_some_and(|stored| stored < acknowledged);
        news.then(|| self.last + PACE)
    }

    /// Starts a store, without waiting for it.
    pub(super) fn start(&mut self, acknowledged: &AckPosition) {
        let (checkpoints, text) = (self.checkpoints.clone(), self.text(acknowledged));
        let store = tokio::spawn(async move { checkpoints.store(text).await });
        self.running = Some((acknowledged.clone(), store));
        self.last = Instant::now();
    }

    /// Waits for the running store. One that failed is not an error yet: the last one of the window decides. May be cancelled.
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

    /// Stores `acknowledged` and waits for it, trying again until `deadline`. Does nothing when it is stored already. Each attempt is
    /// preceded by `fence`, which tells whether nobody else can have stored meanwhile.
    ///
    /// # Errors
    /// The store is refused for good, or failed until the deadline, or somebody else may have stored.
    pub(super) async fn store(
        &mut self,
        acknowledged: &AckPosition,
        deadline: Instant,
        fence: impl AsyncFnMut() -> Result<(), SlotError>,
    ) -> Result<(), Error> {
        let stored = tokio::time::timeout_at(deadline.into(), self.store_last(acknowledged, fence)).await;
        stored.unwrap_or_else(|_| Err(late(&self.checkpoints)))
    }

    async fn store_last(
        &mut self,
        acknowledged: &AckPosition,
        fence: impl AsyncFnMut() -> Result<(), SlotError>,
    ) -> Result<(), Error> {
        self.settle().await;
        if !self.marked || self.stored.as_ref().is_none_or(|stored| stored < acknowledged) {
            try_to_store(&self.checkpoints, self.text(acknowledged), fence).await?;
            self.stored = Some(acknowledged.clone());
            self.marked = true;
            self.last = Instant::now();
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

/// Stores a text and waits for it, trying again until `deadline`. Each attempt is preceded by `fence`.
///
/// # Errors
/// As [`Checkpointer::store`].
pub(super) async fn store_until<C: StateStore>(
    checkpoints: &C,
    text: String,
    deadline: Instant,
    fence: impl AsyncFnMut() -> Result<(), SlotError>,
) -> Result<(), Error> {
    let stored = tokio::time::timeout_at(deadline.into(), try_to_store(checkpoints, text, fence)).await;
    stored.unwrap_or_else(|_| Err(late(checkpoints)))
}

async fn try_to_store<C: StateStore>(
    checkpoints: &C,
    text: String,
    mut fence: impl AsyncFnMut() -> Result<(), SlotError>,
) -> Result<(), Error> {
    let mut pause = Duration::from_millis(100);
    loop {
        fence().await?;
        match checkpoints.store(text.clone()).await {
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

fn late<C: StateStore>(checkpoints: &C) -> Error {
    Error::Checkpoint(CheckpointError::Unavailable {
        parameter: checkpoints.name(),
        source: "it did not answer in time".into(),
    })
}
