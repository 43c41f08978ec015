//! Progress of a demo's backfill, as its ticks see it.

use std::sync::atomic::{AtomicBool, Ordering};

use scenarios::lambda::function::Outcome;
use serde_json::{Value, json};

/// Number of the tick that starts the backfill instead of a drain.
const FIRST_TICK: u64 = 3;

/// Whether the backfill was started, and whether it is finished.
///
/// A server or an invocation may fail at any time, so an answer may be lost.
#[derive(Debug, Default)]
pub(super) struct BackfillProgress {
    started: AtomicBool,
    finished: AtomicBool,
}

impl BackfillProgress {
    /// Event with which this tick starts the backfill; `None` for a drain.
    pub(super) fn start_event(&self, tick: u64, tables: &[&str], chunk_rows: u32) -> Option<Value> {
        let is_due = tick >= FIRST_TICK && !self.started.load(Ordering::Relaxed);
        is_due
            .then(|| json!({"action": "backfill", "wait": true, "tables": tables, "chunk_rows": chunk_rows}))
    }

    /// Records a tick's outcome; returns whether the backfill has just finished.
    ///
    /// `is_start` says whether the tick had the start event.
    pub(super) fn observe(&self, outcome: &Outcome, is_start: bool) -> bool {
        match outcome {
            Outcome::Answer(report) => {
                self.started.fetch_or(is_start, Ordering::Relaxed);
                // The answer that reported the end may be lost.
                let none_left = report["backfill"].is_null() && report["stopped"] != "busy";
                let is_over = none_left && self.started.load(Ordering::Relaxed);
                let is_finished = is_over || report["backfill"]["state"] == "finished";
                is_finished && !self.finished.swap(true, Ordering::Relaxed)
            }
            // The backfill had started although its invocation failed.
            Outcome::Error { kind, .. } if kind == "BackfillPending" => {
                self.started.store(true, Ordering::Relaxed);
                false
            }
            _ => false,
        }
    }

    /// Whether the backfill is finished and this report found the slot empty.
    pub(super) fn is_all_sent(&self, report: &Value) -> bool {
        report["stopped"] == "empty" && self.finished.load(Ordering::Relaxed)
    }
}
