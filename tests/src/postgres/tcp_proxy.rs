//! TCP proxy on a fixed port, for a server that may move.
//!
//! It forwards connections. Scenarios reset, stall, half-close or refuse them.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::loopback_server;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// A fault of all connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFault {
    /// All connections are reset at both ends.
    Cut,
    /// Reset of all connections after this number of bytes.
    ///
    /// The bytes in this direction are counted over all connections.
    CutAfter(Direction, u64),
    /// End of all connections in this direction.
    ///
    /// They end as if the sender had closed them. The other direction continues.
    HalfClose(Direction),
    /// Nothing is forwarded in this direction for this time. Neither end notices.
    Stall(Direction, Duration),
    /// All connections are reset, and new ones too for this time.
    Refuse(Duration),
}

impl ConnectionFault {
    /// A random fault. One with a duration lasts at most `longest`.
    pub fn draw(random: &mut fastrand::Rng, longest: Duration) -> Self {
        let direction = if random.bool() {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        let lasts = longest.mul_f64(random.f64());
        match random.u8(..5) {
            0 => Self::Cut,
            // Up to the size of a large window.
            1 => {
                let magnitude = random.u8(4..24);
                Self::CutAfter(direction, random.u64(..1 << magnitude))
            }
            2 => Self::HalfClose(direction),
            3 => Self::Stall(direction, lasts),
            _ => Self::Refuse(lasts),
        }
    }
}

/// State that all connections watch.
#[derive(Debug, Clone, Copy)]
struct TcpProxyState {
    port: u16,
    refuses: bool,
    stalled: [bool; 2],
    /// Number of resets, and of half-closes in each direction. They concern the connections that are older.
    cuts: u64,
    closed: [u64; 2],
    /// Bytes left in each direction until all connections are reset.
    left: [Option<u64>; 2],
}

/// An open proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    state: Arc<watch::Sender<TcpProxyState>>,
    task: tokio::task::JoinHandle<()>,
}

impl TcpProxy {
    /// Opens a proxy for the server at this port of 127.0.0.1.
    pub async fn open(port: u16) -> Self {
        let state = TcpProxyState {
            port,
            refuses: false,
            stalled: [false; 2],
            cuts: 0,
            closed: [0; 2],
            left: [None; 2],
        };
        let state = Arc::new(watch::Sender::new(state));
        let (own, task) = loopback_server::start(|listener| serve(listener, Arc::clone(&state))).await;
        Self {
            port: own.port(),
            task,
            state,
        }
    }

    /// Port of the proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects new connections to the server at this port. Existing connections stay.
    pub fn set_target(&self, port: u16) {
        self.state.send_modify(|state| state.port = port);
    }

    /// Resets all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets all connections after `bytes` more in this direction.
    ///
    /// The bytes are counted over all connections.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.state
            .send_modify(|state| state.left[direction as usize] = Some(bytes));
    }

    /// Ends all connections in this direction. The other direction continues.
    pub fn half_close(&self, direction: Direction) {
        self.state
            .send_modify(|state| state.closed[direction as usize] += 1);
    }

    /// Forwards nothing in this direction until [`TcpProxy::clear`].
    ///
    /// Neither bytes nor the end of a connection are forwarded.
    pub fn stall(&self, direction: Direction) {
        self.state
            .send_modify(|state| state.stalled[direction as usize] = true);
    }

    /// Resets all connections, and each new one, until [`TcpProxy::clear`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refuses = true;
            state.cuts += 1;
        });
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.state.send_modify(|state| {
            state.refuses = false;
            state.stalled = [false; 2];
            state.left = [None; 2];
        });
    }

    /// Injects a fault, and waits for its duration. The end of a fault with a duration removes all faults.
    pub async fn inject(&self, fault: ConnectionFault) {
        let lasts = match fault {
            ConnectionFault::Cut => return self.cut(),
            ConnectionFault::CutAfter(direction, bytes) => return self.cut_after(direction, bytes),
            ConnectionFault::HalfClose(direction) => return self.half_close(direction),
            ConnectionFault::Stall(direction, lasts) => {
                self.stall(direction);
                lasts
            }
            ConnectionFault::Refuse(lasts) => {
                self.refuse();
                lasts
            }
        };
        tokio::time::sleep(lasts).await;
        self.clear();
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<watch::Sender<TcpProxyState>>) {
    // Dropped with this task, so no connection outlives its proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        let initial = *state.borrow();
        if initial.refuses {
            reset(&client);
            continue;
        }
        connections.spawn(connect(client, initial, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

/// Forwards one connection to its end.
async fn connect(mut client: TcpStream, initial: TcpProxyState, state: Arc<watch::Sender<TcpProxyState>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", initial.port)).await else {
        return reset(&client);
    };
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut watched = state.subscribe();
    let whole = tokio::select! {
        biased;
        _ = watched.wait_for(|now| now.cuts != initial.cuts) => Err(()),
        both = async {
            tokio::try_join!(
                forward(Direction::ToServer, &mut from_client, &mut to_server, initial, &state),
                forward(Direction::ToClient, &mut from_server, &mut to_client, initial, &state),
            )
        } => both.map(|_| ()),
    };
    if whole.is_err() {
        reset(&client);
        reset(&server);
    }
}

/// Forwards one direction, and the end of this direction.
///
/// It fails when one side of the connection is broken.
async fn forward(
    direction: Direction,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    initial: TcpProxyState,
    state: &watch::Sender<TcpProxyState>,
) -> Result<(), ()> {
    let mut watched = state.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *watched.borrow_and_update();
        if now.closed[direction as usize] != initial.closed[direction as usize] {
            break;
        }
        let read = tokio::select! {
            biased;
            _ = watched.changed() => continue,
            read = from.read(&mut buffer), if !now.stalled[direction as usize] => read.map_err(|_| ())?,
        };
        if read == 0 {
            break;
        }
        let (pass, cut) = allowance(direction, read, state);
        to.write_all(&buffer[..pass]).await.map_err(|_| ())?;
        if cut {
            state.send_modify(|state| state.cuts += 1);
            return Err(());
        }
    }
    to.shutdown().await.map_err(|_| ())
}

/// Number of bytes to forward, and whether a reset follows.
///
/// The reset is that of the connection. `bytes` is the number of bytes that were read.
fn allowance(direction: Direction, bytes: usize, state: &watch::Sender<TcpProxyState>) -> (usize, bool) {
    let mut allowed = (bytes, false);
    state.send_if_modified(|state| {
        let left = &mut state.left[direction as usize];
        if let Some(before) = *left {
            let pass = before.min(bytes as u64);
            allowed = (pass as usize, pass == before);
            *left = (!allowed.1).then_some(before - pass);
        }
        false
    });
    allowed
}

/// Makes the drop of a socket send a reset.
///
/// Without it, the drop is an orderly end.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}
