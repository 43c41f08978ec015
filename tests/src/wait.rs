//! Waits for conditions instead of fixed times.
//!
//! A condition is polled until it holds. A wait that exceeds its limit fails with the name of the condition.

use std::time::{Duration, Instant};

/// Time between two polls: short against the waits, long against the cost of a poll.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until the answer is `Some`.
///
/// # Panics
/// `limit` passes first. The message names `what`.
pub async fn until_some<T, F: Future<Output = Option<T>>>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            start.elapsed() < limit,
            "not within {} s: {what}",
            limit.as_secs()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Polls until the answer is true; panics as [`until_some`] does.
pub async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) {
    until_some(what, limit, || {
        let asked = ask();
        async { asked.await.then_some(()) }
    })
    .await;
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
///
/// It is below the ports that the kernel assigns to clients, so no client takes it while a server is down.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let port = fastrand::u16(15_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("a hundred ports between 15000 and 32000 are all in use");
}
