//! SQLSTATEs and their meaning.

use tokio_postgres::error::SqlState;

use crate::base::causes::BoxError;

/// Whether the same statement may succeed later.
///
/// An error without a SQLSTATE means that the connection broke, which is transient. Otherwise the class of
/// the SQLSTATE decides (PostgreSQL documentation, "PostgreSQL Error Codes"):
/// - 08: the connection broke. 40: the server rolled the transaction back.
/// - 53 and 58: the server lacked a resource, or the system below it failed.
/// - 55: the statement gave up waiting for a lock, or an object was not in the required state.
/// - 57: the server is starting or stopping, or cancelled the statement.
pub(crate) fn is_transient(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_none_or(|state| is_outage(state) || state.code().starts_with("55"))
}

/// Whether the server or the connection failed, and not the statement.
pub(crate) fn is_outage(state: &SqlState) -> bool {
    let class = state.code().get(..2);
    matches!(class, Some("08" | "40" | "53" | "57" | "58"))
}

/// Whether the statement waited longer for a lock than `lock_timeout`.
pub(crate) fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// Whether the statement was cancelled, by its timeout or by request.
pub(crate) fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

/// PostgreSQL's message about a failed statement, without values of a row.
///
/// A message that may contain a value is left out. Messages of the classes 22 (data exception) and 23
/// (constraint violation) quote values. Class P0 is an error that a function raises, with a text of its own.
/// The server's own log has the message.
pub(crate) fn message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        None => error.to_string(),
        Some(refusal) if may_quote_values(refusal.code()) => left_out(refusal.code()),
        Some(refusal) => refusal.message().to_owned(),
    }
}

/// The error as a cause, without values of a row.
///
/// A message that may contain a value is left out: see [`message`].
pub(crate) fn cause(error: tokio_postgres::Error) -> BoxError {
    match error.code() {
        Some(state) if may_quote_values(state) => left_out(state).into(),
        _ => Box::new(error),
    }
}

fn may_quote_values(state: &SqlState) -> bool {
    matches!(state.code().get(..2), Some("22" | "23" | "P0"))
}

fn left_out(state: &SqlState) -> String {
    let code = state.code();
    format!("SQLSTATE {code}; its message may hold values, and is in the server's log only")
}
