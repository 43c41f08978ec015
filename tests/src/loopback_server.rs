//! Servers inside of this process, each on a free port of 127.0.0.1.

use std::net::SocketAddr;
use std::sync::OnceLock;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Starts a server on a free port. Aborting the task ends it.
///
/// Servers have threads of their own. A scenario may compute for seconds, and a function that waits for an
/// answer meanwhile would fail with a timeout.
pub(crate) async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = runtime()
        .spawn(TcpListener::bind(("127.0.0.1", 0)))
        .await
        .expect("binding does not panic")
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (address, runtime().spawn(serve(listener)))
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .thread_name("server")
            .build()
            .expect("a tokio runtime starts")
    })
}
