//! A TCP proxy on a port that does not change, before a server that may move: connections pass, and scenarios say when
//! they are cut, stall, end in one direction or are refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to the server.
    ToServer,
    /// Back.
    ToClient,
}

/// What happens to all connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFault {
    /// They are reset at both ends.
    Cut,
    /// They are reset once so many more bytes, of all of them together, have gone this direction.
    CutAfter(Direction, u64),
    /// They end this direction, as if the sender had closed it, and go on the other direction.
    HalfClose(Direction),
    /// For so long nothing goes this direction, and nobody hears of it.
    Stall(Direction, Duration),
    /// They are reset, and for so long new ones are too.
    Refuse(Duration),
}

impl ConnectionFault {
    /// Any of them, for at most `longest` where it lasts.
    pub fn draw(random: &mut fastrand::Rng, longest: Duration) -> Self {
        let direction = if random.bool() {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        let lasts = longest.mul_f64(random.f64());
        match random.u8(..5) {
            0 => Self::Cut,
            // Of any length up to that of a large window.
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

/// What connections look at, all the time.
#[derive(Debug, Clone, Copy)]
struct State {
    port: u16,
    refuses: bool,
    stalled: [bool; 2],
    /// How often they were cut, and closed in each direction: who was there before has to go.
    cuts: u64,
    closed: [u64; 2],
    /// Bytes that still pass until all are cut.
    left: [Option<u64>; 2],
}

/// An open proxy. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl TcpProxy {
    /// Opens one before the server at this port of 127.0.0.1.
    pub async fn open(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("loopback has a free port");
        let own = listener.local_addr().expect("a bound socket has an address");
        let state = State {
            port,
            refuses: false,
            stalled: [false; 2],
            cuts: 0,
            closed: [0; 2],
            left: [None; 2],
        };
        let state = Arc::new(watch::Sender::new(state));
        Self {
            port: own.port(),
            task: tokio::spawn(serve(listener, Arc::clone(&state))),
            state,
        }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects from now on to the server at this port. Who is connected stays where he is.
    pub fn set_target(&self, port: u16) {
        self.state.send_modify(|state| state.port = port);
    }

    /// Resets all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Lets `bytes` more pass this direction, of all connections together, and then resets all of them.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.state
            .send_modify(|state| state.left[direction as usize] = Some(bytes));
    }

    /// Ends all connections this direction; the other direction goes on.
    pub fn half_close(&self, direction: Direction) {
        self.state
            .send_modify(|state| state.closed[direction as usize] += 1);
    }

    /// Forwards nothing this direction until [`TcpProxy::clear`], neither bytes nor the end of a connection.
    pub fn stall(&self, direction: Direction) {
        self.state
            .send_modify(|state| state.stalled[direction as usize] = true);
    }

    /// Resets all connections, and new ones as soon as they are made, until [`TcpProxy::clear`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refuses = true;
            state.cuts += 1;
        });
    }

    /// Everything passes again.
    pub fn clear(&self) {
        self.state.send_modify(|state| {
            state.refuses = false;
            state.stalled = [false; 2];
            state.left = [None; 2];
        });
    }

    /// Lets a fault happen, and its time pass. One that lasts ends all others too.
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

async fn serve(listener: TcpListener, state: Arc<watch::Sender<State>>) {
    // Dropped with this task, so that no connection outlives its proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        let born = *state.borrow();
        if born.refuses {
            reset(&client);
            continue;
        }
        connections.spawn(connect(client, born, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, to its end.
async fn connect(mut client: TcpStream, born: State, state: Arc<watch::Sender<State>>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", born.port)).await else {
        return reset(&client);
    };
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut watched = state.subscribe();
    let whole = tokio::select! {
        biased;
        _ = watched.wait_for(|now| now.cuts != born.cuts) => Err(()),
        both = async {
            tokio::try_join!(
                forward(Direction::ToServer, &mut from_client, &mut to_server, born, &state),
                forward(Direction::ToClient, &mut from_server, &mut to_client, born, &state),
            )
        } => both.map(|_| ()),
    };
    if whole.is_err() {
        reset(&client);
        reset(&server);
    }
}

/// Forwards one direction until its end, and the end as well; fails when an end of the connection is broken.
async fn forward(
    direction: Direction,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    born: State,
    state: &watch::Sender<State>,
) -> Result<(), ()> {
    let mut watched = state.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *watched.borrow_and_update();
        if now.closed[direction as usize] != born.closed[direction as usize] {
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

/// How many of `bytes` may pass, and whether it ends with them.
fn allowance(direction: Direction, bytes: usize, state: &watch::Sender<State>) -> (usize, bool) {
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

/// Closes at once and tells the other side that it was no orderly end, when the socket is dropped.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}
