//! All peers, and the actions of the cases.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{
    expected::{End, Exchange},
    namespaces::Namespaces,
    peer::Peer,
};

/// Indices of the peers in each world.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;
/// Index of a second server.
pub const OTHER: usize = 2;
/// Indices of peers that their cases kill.
pub const VICTIMS: [usize; 4] = [3, 4, 5, 6];
/// Index of a peer that serves by calling the server.
pub const PROXY: usize = 7;

/// The peers, and the spans that they must give.
pub struct World {
    /// Peers by index.
    pub peers: Vec<Peer>,
    /// Network namespaces; `None` if this machine cannot make any.
    pub namespaces: Option<Namespaces>,
    /// Directory of sockets with paths.
    pub directory: TempDir,
    /// Expected exchanges.
    pub expected: Vec<Exchange>,
    /// Names of the cases that ran.
    pub cases: Vec<String>,
    /// Cases that this machine cannot play, with the reason.
    pub skipped: Vec<(String, &'static str)>,
    /// Expected values of the agent's counters at the end.
    pub counters: BTreeMap<&'static str, f64>,
    /// Whether the agent is at the socket events.
    pub events: bool,
    /// Connections older than the agent, if [`open_older`](super::open_older) made them.
    pub older: Vec<Connection>,
    names: usize,
}

/// A socket of a peer: the peer's index, and the socket's name there.
pub type Socket = (usize, String);

/// A connection between two peers.
#[derive(Clone, Debug)]
pub struct Connection {
    /// End that connected.
    pub client: Socket,
    /// End that was accepted.
    pub server: Socket,
}

/// Direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client sends.
    Request,
    /// The server sends.
    Response,
}

impl World {
    /// Starts all peers: processes of the program `rawpeer`.
    pub fn start(rawpeer: &Path) -> Result<Self> {
        let mut peers = Vec::new();
        for name in [
            "client", "server", "other", "victim-1", "victim-2", "victim-3", "victim-4", "proxy",
        ] {
            peers.push(Peer::start(rawpeer, name, None)?);
        }
        let namespaces = Namespaces::make(rawpeer, &mut peers)?;
        Ok(Self {
            peers,
            namespaces,
            directory: tempfile::Builder::new().prefix("spoor-raw-").tempdir()?,
            expected: Vec::new(),
            cases: Vec::new(),
            skipped: Vec::new(),
            counters: BTreeMap::new(),
            events: false,
            older: Vec::new(),
            names: 0,
        })
    }

    /// Returns the agent's selection: all peers.
    pub fn selection(&self) -> Vec<String> {
        self.peers.iter().map(|peer| format!("--pid={}", peer.id())).collect()
    }

    /// Runs a case; a failure names it. With `SPOOR_RAW_CASE` only cases run whose names contain it.
    pub fn case(&mut self, name: &str, run: impl FnOnce(&mut Self, &str) -> Result<()>) -> Result<()> {
        if std::env::var("SPOOR_RAW_CASE").is_ok_and(|only| !name.contains(&only)) {
            return Ok(());
        }
        self.cases.push(name.to_owned());
        run(self, name).with_context(|| format!("the case {name} could not be played"))
    }

    /// Notes that this machine cannot play a case.
    pub fn skip(&mut self, name: &str, reason: &'static str) {
        println!("skipped: {name}: {reason}");
        self.cases.retain(|case| case != name);
        self.skipped.push((name.to_owned(), reason));
    }

    /// Returns a name that no socket has yet.
    pub fn name(&mut self) -> String {
        self.names += 1;
        format!("s{}", self.names)
    }

    /// Returns an address that no Unix socket has yet.
    pub fn unix_path(&mut self) -> String {
        let name = self.name();
        format!("unix:{}", self.directory.path().join(name).display())
    }

    /// Expects the same span at both ends.
    pub fn expect(&mut self, target: &str, end: End) {
        self.expect_ends(target, Some(end.clone()), Some(end));
    }

    /// Expects a span at each end; `None`: no span.
    pub fn expect_ends(&mut self, target: &str, client: Option<End>, server: Option<End>) {
        let case = self.cases.last().cloned().unwrap_or_default();
        let target = target.to_owned();
        self.expected.push(Exchange {
            case,
            target,
            made_for: None,
            apart: false,
            client,
            server,
        });
    }

    /// Marks the last expected exchange as a call that was made for the request of this target.
    pub fn made_for(&mut self, target: &str) {
        if let Some(exchange) = self.expected.last_mut() {
            exchange.made_for = Some(target.to_owned());
        }
    }

    /// Marks the last expected exchange as one whose ends cannot be matched.
    pub fn apart(&mut self) {
        if let Some(exchange) = self.expected.last_mut() {
            exchange.apart = true;
        }
    }

    /// Raises the expected value of a counter of the agent.
    pub fn count(&mut self, series: &'static str, more: usize) {
        *self.counters.entry(series).or_default() += more as f64;
    }

    /// Listens; returns the listener's name and address.
    pub fn listen(&mut self, server: usize, address: &str) -> Result<(String, String)> {
        let name = self.name();
        let bound = self.peers[server].make(&format!("listen {name} {address} 128"))?;
        Ok((name, if bound.is_empty() { address.to_owned() } else { bound }))
    }

    /// Returns whether this kernel has Multipath TCP; skips the case if not.
    pub fn has_multipath(&mut self, case: &str) -> Result<bool> {
        let probe = self.name();
        match self.peers[SERVER].ask(&format!("listen {probe} mptcp:127.0.0.1:0 1"))? {
            Ok(_) => {
                self.peers[SERVER].make(&format!("close {probe}"))?;
                Ok(true)
            }
            Err(libc::EPROTONOSUPPORT) => {
                self.skip(case, "this kernel has no multipath TCP");
                Ok(false)
            }
            Err(number) => bail!(
                "cannot listen by multipath TCP: {}",
                std::io::Error::from_raw_os_error(number)
            ),
        }
    }

    /// Connects any two peers.
    pub fn connect_to(&mut self, client: usize, server: usize, listener: &str, address: &str) -> Result<Connection> {
        let (client, server) = ((client, self.name()), (server, self.name()));
        self.peers[client.0].make(&format!("connect {} {address}", client.1))?;
        self.peers[server.0].make(&format!("accept {} {listener} accept4", server.1))?;
        Ok(Connection { client, server })
    }

    /// Connects to a new listener, which is closed afterwards.
    pub fn connect_between(&mut self, client: usize, server: usize, address: &str) -> Result<Connection> {
        let (listener, address) = self.listen(server, address)?;
        let connection = self.connect_to(client, server, &listener, &address)?;
        self.peers[server].make(&format!("close {listener}"))?;
        Ok(connection)
    }

    /// Connects over IPv4 loopback.
    pub fn connect(&mut self) -> Result<Connection> {
        self.connect_between(CLIENT, SERVER, "127.0.0.1:0")
    }

    /// Sends bytes, and receives all of them at the other end.
    pub fn pass(&mut self, connection: &Connection, way: Way, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        self.send(connection, way, "write", &[bytes])?;
        self.receive(connection, way, "read", bytes.len())
    }

    /// Sends all buffers by one call of this kind (`write`, `writev`, `sendmsg` …).
    pub fn send(&mut self, connection: &Connection, way: Way, how: &str, buffers: &[&[u8]]) -> Result<()> {
        let ((sender, name), _) = ends(connection, way);
        let hex: Vec<String> = buffers.iter().map(|buffer| hex(buffer)).collect();
        let command = format!("send {name} {how} {}", hex.join(","));
        self.peers[*sender].move_bytes(&command, buffers.iter().map(|buffer| buffer.len()).sum())
    }

    /// Receives that many bytes by calls of this kind (`read`, `recvmsg` …).
    pub fn receive(&mut self, connection: &Connection, way: Way, how: &str, bytes: usize) -> Result<()> {
        let (_, (receiver, name)) = ends(connection, way);
        let command = format!("receive-all {name} {how} 1048576 {bytes} 0");
        self.peers[*receiver].move_bytes(&command, bytes)
    }

    /// Receives once, into buffers of these sizes.
    pub fn receive_once(&mut self, connection: &Connection, way: Way, how: &str, sizes: &[usize]) -> Result<usize> {
        let (_, (receiver, name)) = ends(connection, way);
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let command = format!("receive {name} {how} {}", sizes.join(","));
        Ok(self.peers[*receiver].make(&command)?.parse()?)
    }

    /// Sends many bytes (a head, a unit many times, a tail) in writes of `piece` bytes while the other end receives.
    pub fn stream(&mut self, connection: &Connection, way: Way, bulk: &Bulk<'_>) -> Result<()> {
        let ((sender, from), (receiver, to)) = ends(connection, way);
        let bytes = bulk.head.len() + bulk.unit.len() * bulk.repeat + bulk.tail.len();
        let Bulk {
            head,
            unit,
            repeat,
            tail,
            send_piece,
            receive_piece,
            pause_us,
        } = bulk;
        let (head, unit, tail) = (hex(head.as_bytes()), hex(unit), hex(tail));
        let send = format!("send-all {from} write {send_piece} {repeat} {head} {unit} {tail}");
        self.peers[*sender].tell(&send)?;
        let receive = format!("receive-all {to} read {receive_piece} {bytes} {pause_us}");
        self.peers[*receiver].move_bytes(&receive, bytes)?;
        let sent = self.peers[*sender].answer()?;
        ensure!(sent == Ok(bytes.to_string()), "sent {sent:?} of {bytes} bytes");
        Ok(())
    }

    /// Closes at the client, then at the server.
    pub fn close(&mut self, connection: &Connection) -> Result<()> {
        self.at(&connection.client, "close")?;
        self.at(&connection.server, "close")
    }

    /// Runs a command with a socket's name as its only word.
    pub fn at(&mut self, (peer, name): &Socket, command: &str) -> Result<()> {
        self.peers[*peer].make(&format!("{command} {name}"))?;
        Ok(())
    }

    /// Passes a request and its response, each in one write and read whole.
    pub fn exchange(&mut self, connection: &Connection, request: &str, response: &str) -> Result<()> {
        self.pass(connection, Way::Request, request)?;
        self.pass(connection, Way::Response, response)
    }
}

/// Many bytes, with the sizes of the calls that move them.
pub struct Bulk<'a> {
    /// Bytes that are sent first.
    pub head: String,
    /// Bytes that are sent repeatedly.
    pub unit: &'a [u8],
    /// Number of repetitions.
    pub repeat: usize,
    /// Bytes that are sent last.
    pub tail: &'a [u8],
    /// Bytes of a write.
    pub send_piece: usize,
    /// Bytes that a read asks for.
    pub receive_piece: usize,
    /// Microseconds between two reads.
    pub pause_us: usize,
}

/// Returns the sending and the receiving socket.
fn ends(connection: &Connection, way: Way) -> (&Socket, &Socket) {
    match way {
        Way::Request => (&connection.client, &connection.server),
        Way::Response => (&connection.server, &connection.client),
    }
}

/// Returns the hex digits of bytes.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    if bytes.is_empty() {
        return "-".to_owned();
    }
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
