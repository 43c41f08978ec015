//! Waiting for an event rather than for a time: a condition is asked again until it holds, and a deadline that passes
//! fails with the name of what was waited for.

use std::time::{Duration, Instant};

/// Between two askings: short against what is waited for, long against what asking costs.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`.
///
/// # Panics
/// When `limit` passes first: `what` did not happen.
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
            "waited {} s in vain: {what}",
            limit.as_secs()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks until the answer is true; panics as [`until_some`] does.
pub async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) {
    until_some(what, limit, || {
        let asked = ask();
        async { asked.await.then_some(()) }
    })
    .await;
}

/// A TCP port of 127.0.0.1 that was free a moment ago, below those that the kernel gives to clients: one of them
/// could take it while a server is down.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let port = fastrand::u16(15_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("a hundred ports between 15000 and 32000 are all in use");
}
