//! Paced writer of the checkpoint.
//!
//! It stores about once a second while the acknowledged position moves, and at the end of each window. While
//! a slow lane delays the position, it stores the acknowledged changes after the position every five seconds.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::base::causes::BoxError;
use crate::base::clock::now_text;
use crate::base::error_kind::ErrorKind;
use crate::continuity::checkpoint::{AckAhead, AckPosition, Checkpoint};
use crate::continuity::marker::Marker;
use crate::error::Error;
use crate::pack::AcknowledgedCounts;
use crate::ports::{SlotError, StateStore, StateStoreError};

/// Shortest time between two stores while events are acknowledged.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two stores of the same position.
///
/// Such stores occur while events after the position are acknowledged.
const AHEAD_INTERVAL: Duration = Duration::from_secs(5);

/// Longest time between two stores after failures.
///
/// All functions of an account together may store about three SSM parameters a second. So each failed store
/// doubles the time to the next. This leaves more of that rate to the store at the end of a window, which
/// must succeed.
const MAX_INTERVAL: Duration = Duration::from_secs(16);

/// Longest wait for a running store at the end of the drain.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Stores the checkpoint of one drain.
pub(super) struct Checkpointer<C> {
    store: C,
    document: Checkpoint,
    /// The stored position; `None` before the first store.
    stored: Option<AckPosition>,
    /// This drain's counts of acknowledged changes up to the stored position.
    stored_counts: AcknowledgedCounts,
    /// Whether the stored checkpoint names the last marker.
    is_marker_stored: bool,
    /// See [`DrainTask::settings_hash`](super::DrainTask::settings_hash).
    settings_hash: String,
    /// The last stored changes that are acknowledged after the position.
    stored_ahead: Option<AckAhead>,
    /// Number of acknowledged events after the position.
    ///
    /// This is the number at the start of the last paced store.
    events_ahead: u64,
    running: Option<RunningStore>,
    last_try: Instant,
    interval: Duration,
    is_closed: bool,
}

/// A paced store that has not ended.
struct RunningStore {
    position: AckPosition,
    /// Counts up to this position.
    counts: AcknowledgedCounts,
    task: JoinHandle<Result<(), StateStoreError>>,
}

impl<C> Drop for Checkpointer<C> {
    fn drop(&mut self) {
        if let Some(store) = &self.running {
            store.task.abort();
        }
    }
}

impl<C: StateStore> Checkpointer<C> {
    /// A checkpointer of one drain.
    ///
    /// `document` is the checkpoint to store, without its position. `stored` is the position of the stored
    /// checkpoint.
    pub(super) fn new(
        store: C,
        document: Checkpoint,
        stored: Option<AckPosition>,
        settings_hash: String,
    ) -> Self {
        Checkpointer {
            store,
            document,
            stored,
            stored_counts: AcknowledgedCounts::default(),
            is_marker_stored: true,
            settings_hash,
            stored_ahead: None,
            events_ahead: 0,
            running: None,
            last_try: Instant::now(),
            interval: STORE_INTERVAL,
            is_closed: false,
        }
    }

    /// Stops the paced stores, and waits for the running one.
    ///
    /// A store that does not end within [`CLOSE_TIME`] is aborted. Otherwise it could later overwrite the
    /// checkpoint of the next invocation.
    pub(super) async fn close(&mut self) {
        self.is_closed = true;
        if tokio::time::timeout(CLOSE_TIME, self.wait_for_store())
            .await
            .is_err()
            && let Some(store) = self.running.take()
        {
            store.task.abort();
        }
    }

    /// Sets the stored position back to `position`. The next store replaces the checkpoint.
    pub(super) fn set_back(&mut self, position: AckPosition) {
        self.stored = Some(position);
        self.is_marker_stored = false;
    }

    /// The stored position.
    pub(super) fn stored(&self) -> Option<&AckPosition> {
        self.stored.as_ref()
    }

    /// This drain's counts of acknowledged changes up to the stored position.
    pub(super) fn stored_counts(&self) -> AcknowledgedCounts {
        self.stored_counts
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

    /// Time of the next paced store.
    ///
    /// `events_ahead` is the number of acknowledged events after `acknowledged`. Returns `None` unless
    /// `acknowledged` is after the stored position, or `events_ahead` is positive and differs from its value
    /// at the last paced store.
    ///
    /// Also `None` while a store runs, after the close, and before the first checkpoint. Only
    /// [`Checkpointer::store`] writes the first checkpoint: a control event may have to be acknowledged
    /// before.
    pub(super) fn due(&self, acknowledged: &AckPosition, events_ahead: u64) -> Option<Instant> {
        let stored = self.stored.as_ref().filter(|_| !self.is_closed)?;
        if self.running.is_some() {
            return None;
        }
        if stored.is_before(acknowledged) {
            return Some(self.last_try + self.interval);
        }
        let has_others = events_ahead > 0 && events_ahead != self.events_ahead;
        has_others.then(|| self.last_try + self.interval.max(AHEAD_INTERVAL))
    }

    /// Starts a store of the acknowledged position, and does not wait.
    ///
    /// `counts` are the counts up to this position. `ahead` has the acknowledged changes after it, and
    /// `events_ahead` is the number of their events. Does nothing if the position and `ahead` are stored.
    pub(super) fn start(
        &mut self,
        acknowledged: &AckPosition,
        counts: AcknowledgedCounts,
        ahead: Option<AckAhead>,
        events_ahead: u64,
    ) {
        let is_behind = self
            .stored
            .as_ref()
            .is_none_or(|stored| stored.is_before(acknowledged));
        // A drain that must read the last marker again begins before the stored position.
        let is_ahead = self
            .stored
            .as_ref()
            .is_some_and(|stored| acknowledged.is_before(stored));
        if is_ahead || !is_behind && (ahead.is_none() || ahead == self.stored_ahead) {
            self.events_ahead = events_ahead;
            self.last_try = Instant::now();
            return;
        }
        let (parameter, text) = (self.store.clone(), self.text(acknowledged, ahead.as_ref()));
        (self.stored_ahead, self.events_ahead) = (ahead, events_ahead);
        self.running = Some(RunningStore {
            position: acknowledged.clone(),
            counts,
            task: tokio::spawn(async move { parameter.store(text).await }),
        });
        self.last_try = Instant::now();
    }

    /// Waits for the running store. This call is cancel safe.
    ///
    /// A failed store is only logged: the store at the end of the window tries again.
    pub(super) async fn wait_for_store(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let stored = match (&mut running.task).await {
            Ok(stored) => stored.map_err(BoxError::from),
            Err(error) => Err(error.into()),
        };
        match stored {
            Ok(()) => {
                self.stored = Some(running.position.clone());
                self.stored_counts = running.counts;
                self.interval = (self.interval / 2).max(STORE_INTERVAL);
            }
            Err(error) => {
                self.stored_ahead = None;
                // A store of the same position is due again.
                self.events_ahead = 0;
                self.interval = (self.interval * 2).min(MAX_INTERVAL);
                tracing::warn!(error = %error, "the checkpoint was not stored, trying again");
            }
        }
        self.running = None;
    }

    /// Stores `acknowledged` and waits for it, with retries until `deadline`.
    ///
    /// `ahead` has the acknowledged changes after this position. `counts` are the counts up to it. Does
    /// nothing if the position, `ahead` and the last marker are stored.
    ///
    /// `check_lock` runs before each attempt. It fails if another drainer may have the lock.
    ///
    /// # Errors
    /// The state store refuses permanently, no attempt succeeds before the deadline, or `check_lock` fails.
    pub(super) async fn store(
        &mut self,
        acknowledged: &AckPosition,
        counts: AcknowledgedCounts,
        ahead: Option<AckAhead>,
        deadline: Instant,
        check_lock: impl AsyncFnMut() -> Result<(), SlotError>,
    ) -> Result<(), Error> {
        let mut failure = None;
        let storing = self.store_if_needed(acknowledged, ahead, check_lock, &mut failure);
        let stored = tokio::time::timeout_at(deadline.into(), storing).await;
        stored.unwrap_or_else(|_| Err(late_error(&self.store, failure)))?;
        self.stored_counts = counts;
        Ok(())
    }

    async fn store_if_needed(
        &mut self,
        acknowledged: &AckPosition,
        ahead: Option<AckAhead>,
        check_lock: impl AsyncFnMut() -> Result<(), SlotError>,
        failure: &mut Option<StateStoreError>,
    ) -> Result<(), Error> {
        self.wait_for_store().await;
        let stored = self.stored.as_ref();
        let is_behind = stored.is_none_or(|stored| stored.is_before(acknowledged));
        let has_others = ahead.is_some() && ahead != self.stored_ahead;
        if !self.is_marker_stored || is_behind || has_others {
            // A drain that must read the last marker again starts before the stored position. The checkpoint
            // keeps the stored position.
            let (position, ahead) = match &self.stored {
                Some(stored) if acknowledged.is_before(stored) => (stored.clone(), None),
                _ => (acknowledged.clone(), ahead),
            };
            let text = self.text(&position, ahead.as_ref());
            store_with_retries(&self.store, text, check_lock, failure).await?;
            self.stored = Some(position);
            self.stored_ahead = ahead;
            self.is_marker_stored = true;
            self.last_try = Instant::now();
        }
        Ok(())
    }

    fn text(&self, acknowledged: &AckPosition, ahead: Option<&AckAhead>) -> String {
        let document = Checkpoint {
            commit_end: acknowledged.commit_end,
            resume: acknowledged.resume.clone(),
            updated_at: now_text(),
            ..self.document.clone()
        };
        match ahead {
            Some(ahead) => document.with_ack_ahead(ahead, &self.settings_hash).to_text(),
            None => document.to_text(),
        }
    }
}

/// Stores a text and waits for it, with retries until `deadline`. `check_lock` runs before each attempt.
///
/// # Errors
/// As [`Checkpointer::store`].
pub(super) async fn store_until<C: StateStore>(
    store: &C,
    text: String,
    deadline: Instant,
    check_lock: impl AsyncFnMut() -> Result<(), SlotError>,
) -> Result<(), Error> {
    let mut failure = None;
    let storing = store_with_retries(store, text, check_lock, &mut failure);
    let stored = tokio::time::timeout_at(deadline.into(), storing).await;
    stored.unwrap_or_else(|_| Err(late_error(store, failure)))
}

/// Tries until the text is stored. `failure` is set to the last transient error.
async fn store_with_retries<C: StateStore>(
    store: &C,
    text: String,
    mut check_lock: impl AsyncFnMut() -> Result<(), SlotError>,
    failure: &mut Option<StateStoreError>,
) -> Result<(), Error> {
    let mut pause = Duration::from_millis(100);
    loop {
        check_lock().await?;
        match store.store(text.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Transient => {
                tracing::warn!(error = %error, "a document was not stored, trying again");
                *failure = Some(error);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(error) => return Err(Error::StateStore(error)),
        }
    }
}

/// The error of a store that did not succeed in time. `failure` is the last error, if there was one.
fn late_error<C: StateStore>(store: &C, failure: Option<StateStoreError>) -> Error {
    Error::StateStore(failure.unwrap_or_else(|| StateStoreError::Unavailable {
        parameter: store.name(),
        source: "it did not answer in time".into(),
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::base::lsn::Lsn;
    use crate::base::position::Position;

    /// A store that refuses while the flag is set. Otherwise it keeps the last text.
    #[derive(Clone)]
    struct ThrottledStore(Arc<AtomicBool>, Arc<Mutex<String>>);

    impl StateStore for ThrottledStore {
        fn name(&self) -> String {
            "/p".into()
        }

        async fn store(&self, text: String) -> Result<(), StateStoreError> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(StateStoreError::Unavailable {
                    parameter: self.name(),
                    source: "ThrottlingException".into(),
                }),
                false => {
                    *self.1.lock().unwrap() = text;
                    Ok(())
                }
            }
        }
    }

    fn position(lsn: u64) -> AckPosition {
        AckPosition {
            commit_end: Lsn(lsn),
            resume: None,
        }
    }

    fn change_at(lsn: u64) -> Position {
        Position {
            commit_end: Lsn(lsn),
            lsn: Lsn(lsn),
            index: 0,
        }
    }

    fn marker_at(lsn: u64) -> Marker {
        Marker {
            number: 1,
            nonce: "n".to_owned(),
            lsn: Lsn(lsn),
            flushed: Lsn(lsn),
        }
    }

    fn checkpointer(is_throttled: &Arc<AtomicBool>) -> Checkpointer<ThrottledStore> {
        let document = Checkpoint::parse(
            r#"{"version": 1, "system_identifier": "1", "timeline": 1, "database": "d", "slot": "s",
                "plugin": "pgoutput", "commit_end": "0/1", "updated_at": ""}"#,
        );
        let store = ThrottledStore(Arc::clone(is_throttled), Arc::default());
        Checkpointer::new(store, document.unwrap(), Some(position(1)), String::new())
    }

    #[tokio::test]
    async fn the_same_position_is_stored_again_every_five_seconds_while_events_are_acknowledged_ahead() {
        let mut checkpointer = checkpointer(&Arc::default());
        let started = checkpointer.last_try;
        assert_eq!(checkpointer.due(&position(1), 0), None);
        assert_eq!(checkpointer.due(&position(1), 7), Some(started + AHEAD_INTERVAL));
        assert_eq!(checkpointer.due(&position(2), 7), Some(started + STORE_INTERVAL));
        // The changes that are acknowledged ahead may be unknown.
        checkpointer.start(&position(1), AcknowledgedCounts::default(), None, 7);
        assert!(!checkpointer.is_storing());
        assert_eq!(checkpointer.due(&position(1), 7), None);
        let tried = checkpointer.last_try;
        assert!(tried > started, "the next try is not due at once");
        assert_eq!(checkpointer.due(&position(1), 8), Some(tried + AHEAD_INTERVAL));
    }

    #[tokio::test]
    async fn a_failed_store_of_the_same_position_is_due_again() {
        let is_throttled = Arc::new(AtomicBool::new(true));
        let mut checkpointer = checkpointer(&is_throttled);
        let ahead = || AckAhead::new(Vec::new(), change_at(2), marker_at(9));
        checkpointer.start(&position(1), AcknowledgedCounts::default(), ahead(), 7);
        checkpointer.wait_for_store().await;
        assert!(checkpointer.due(&position(1), 7).is_some());
        is_throttled.store(false, Ordering::Relaxed);
        checkpointer.start(&position(1), AcknowledgedCounts::default(), ahead(), 7);
        checkpointer.wait_for_store().await;
        assert_eq!(checkpointer.due(&position(1), 7), None);
    }

    #[tokio::test]
    async fn a_later_stored_position_stays() {
        let mut checkpointer = checkpointer(&Arc::default());
        checkpointer.set_back(position(300));
        let text = Arc::clone(&checkpointer.store.1);
        let deadline = Instant::now() + Duration::from_secs(10);
        let counts = AcknowledgedCounts::default();
        let earlier = position(250);
        let store = checkpointer.store(&earlier, counts, None, deadline, async || Ok(()));
        store.await.unwrap();
        let stored = Checkpoint::parse(&text.lock().unwrap()).unwrap();
        assert_eq!(stored.commit_end, Lsn(300));
        assert_eq!(checkpointer.stored(), Some(&position(300)));
    }

    #[tokio::test]
    async fn a_failed_store_doubles_the_time_to_the_next_store_and_a_successful_one_halves_it() {
        let is_throttled = Arc::new(AtomicBool::new(true));
        let mut checkpointer = checkpointer(&is_throttled);
        let mut intervals = Vec::new();
        for round in 0..8 {
            is_throttled.store(round < 6, Ordering::Relaxed);
            checkpointer.start(&position(round + 2), AcknowledgedCounts::default(), None, 0);
            checkpointer.wait_for_store().await;
            let due = checkpointer.due(&position(100), 0).unwrap();
            intervals.push((due - checkpointer.last_try).as_secs());
        }
        assert_eq!(intervals, [2, 4, 8, 16, 16, 16, 8, 4]);
    }
}
