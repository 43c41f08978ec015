//! The server's warnings.
//!
//! All warnings of an invocation are counted. A warning about a skipped publication also stops the peek of
//! its session.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::error::{DbError, SqlState};

/// Maximum number of distinct warnings that are logged.
///
/// A server that warns about every row must not fill the function's log.
const MAX_LOGGED: usize = 20;

/// The server's warnings in all sessions of an invocation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Notices(Arc<Mutex<NoticeLog>>);

#[derive(Debug, Default)]
struct NoticeLog {
    count: u64,
    /// The distinct warnings that were logged.
    logged: Vec<String>,
}

impl Notices {
    pub(super) fn add(&self, text: &str) {
        let Ok(mut log) = self.0.lock() else { return };
        log.count += 1;
        if log.logged.len() < MAX_LOGGED && !log.logged.iter().any(|logged| logged == text) {
            log.logged.push(text.to_owned());
            tracing::warn!(notice = text, "PostgreSQL sent a warning");
        }
    }

    /// The number of warnings.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().map_or(0, |log| log.count)
    }
}

/// The last warning of a session that pgoutput skipped a publication.
///
/// A change may be older than its publication. Up to PostgreSQL 17, the peek then fails. From 18 on, pgoutput
/// only warns, and omits the change. The warning has the SQLSTATE 55000 (run on 18.4). No other warning of a
/// peek has this SQLSTATE.
#[derive(Debug, Default, Clone)]
pub(in crate::postgres) struct SkippedPublication(Arc<Mutex<Option<DbError>>>);

impl SkippedPublication {
    /// Keeps the notice, if it is this warning.
    pub(super) fn observe(&self, notice: &DbError) {
        if *notice.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice.clone());
        }
    }

    /// Removes and returns the warning.
    ///
    /// `None` if the session received none since the last call.
    pub(in crate::postgres) fn take(&self) -> Option<DbError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
