//! Panics: faults of Spillway, each logged and returned as its invocation's error.

use std::panic::{AssertUnwindSafe, Location};

use futures_util::FutureExt as _;

use crate::error::Error;

/// Logs each panic from now on as one line.
///
/// The line replaces Rust's own text. The message of a panic can quote a part of a row, so it is logged at
/// the level `debug` only.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(
            error_type = Error::Panicked.name(),
            "{}",
            source_line(panic.location())
        );
        let message = panic.payload_as_str().unwrap_or("no text");
        tracing::debug!("the panic's message: {message}");
    }));
}

fn source_line(location: Option<&Location<'_>>) -> String {
    match location {
        Some(location) => format!("panic at {}:{}", location.file(), location.line()),
        None => "panic at an unknown place".to_owned(),
    }
}

/// The result of `invocation`.
///
/// # Errors
/// The error of the invocation, or [`Error::Panicked`] if it panicked.
pub async fn catch_panic<T>(invocation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Invocations share only values inside locks. These values are usable after a panic.
    let caught = AssertUnwindSafe(invocation).catch_unwind().await;
    caught.unwrap_or(Err(Error::Panicked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_a_stable_name() {
        let lines: [u8; 0] = [];
        let panicked = catch_panic(async { Ok(lines[std::hint::black_box(3)]) }).await;
        assert_eq!(panicked.unwrap_err().name(), "Panicked");
        assert_eq!(catch_panic(async { Ok(3) }).await.unwrap(), 3);
    }

    #[test]
    fn a_place_is_a_file_and_a_line() {
        let here = Location::caller();
        assert_eq!(
            source_line(Some(here)),
            format!("panic at {}:{}", file!(), here.line())
        );
    }
}
