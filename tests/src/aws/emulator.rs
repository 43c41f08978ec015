//! Process of an emulator that listens on a free port of loopback.

use std::time::Duration;

use crate::wait;
use crate::watchdog::{Watchdog, is_alive};

/// A running emulator. It ends with this value.
#[derive(Debug)]
pub(crate) struct Emulator {
    endpoint: String,
    watchdog: Watchdog,
}

impl Emulator {
    /// Starts it on a free port, and waits until it accepts connections. `command` gets the port; in it
    /// `$folder` is a folder that is removed with the emulator.
    ///
    /// # Panics
    /// It does not start, or others took five free ports before it listened.
    pub(crate) async fn start(command: impl Fn(u16) -> String) -> Self {
        for _ in 0..5 {
            let mut watchdog = Watchdog::start(None, &std::env::temp_dir());
            let port = wait::free_port();
            let pid = watchdog.start_server(&command(port), "log");
            let emulator = Self {
                endpoint: format!("http://127.0.0.1:{port}"),
                watchdog,
            };
            if answers(port, pid).await {
                return emulator;
            }
            let log = emulator.log();
            assert!(log.contains("in use"), "{} does not start:\n{log}", command(port));
        }
        panic!("{} found five ports in use that were free before", command(0));
    }

    /// URL of the emulator.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Output of the emulator so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.watchdog.folder().join("log")).unwrap_or_default()
    }
}

/// Waits until the server accepts connections; false when its process ends first.
async fn answers(port: u16, pid: u32) -> bool {
    wait::until_some("the emulator answers", Duration::from_secs(60), || async {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Some(is_alive(pid));
        }
        (!is_alive(pid)).then_some(false)
    })
    .await
}
