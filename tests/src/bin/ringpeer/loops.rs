//! The service as a loop around a [`Ring`].

use std::{
    collections::HashMap,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
};

use anyhow::{Result, bail, ensure};

use crate::{
    http,
    ring::{Completion, Ring, Way},
};

/// Purpose of a request of the ring, in the lowest bits of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Accept = 0,
    Connect = 1,
    Receive = 2,
    Send = 3,
}

/// A socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client = 0,
    Upstream = 1,
}

/// One socket with its buffers.
struct End {
    socket: TcpStream,
    buffer: Box<[u8]>,
    is_receiving: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl End {
    fn new(socket: TcpStream) -> Self {
        const BYTES: usize = 4096;
        Self {
            socket,
            buffer: vec![0; BYTES].into(),
            is_receiving: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        }
    }
}

/// A client's connection, and in a proxy the one for its calls.
struct Connection {
    number: u64,
    client: End,
    upstream: Option<End>,
    /// Whether a call has no response yet.
    is_calling: bool,
    /// Requests of the ring that are not complete: until then their memory stays.
    pending: usize,
    is_over: bool,
}

/// The service.
pub struct Loop {
    ring: Ring,
    listener: TcpListener,
    upstream: Option<libc::sockaddr_in>,
    connections: HashMap<u64, Connection>,
    accepted: u64,
}

impl Loop {
    pub fn new(way: Way, listener: TcpListener, upstream: Option<SocketAddr>) -> Result<Self> {
        Ok(Self {
            ring: Ring::new(way)?,
            listener,
            upstream: upstream.map(address).transpose()?,
            connections: HashMap::new(),
            accepted: 0,
        })
    }

    pub fn run(mut self) -> Result<()> {
        self.ring.accept(Action::Accept as u64, self.listener.as_raw_fd())?;
        loop {
            for completion in self.ring.wait()? {
                self.complete(&completion)?;
            }
        }
    }

    fn complete(&mut self, completion: &Completion) -> Result<()> {
        let (number, side, action) = parts(completion.token);
        let Self {
            ring,
            listener,
            upstream,
            connections,
            accepted,
        } = self;
        if action == Action::Accept {
            ensure!(completion.result >= 0, "accept: {}", completion.result);
            *accepted += 1;
            // SAFETY: the descriptor is new, and nobody else's.
            let socket = unsafe { TcpStream::from_raw_fd(completion.result) };
            let connection = connections.entry(*accepted).insert_entry(Connection {
                number: *accepted,
                client: End::new(socket),
                upstream: None,
                is_calling: false,
                pending: 0,
                is_over: false,
            });
            connection.into_mut().receive(ring, Side::Client)?;
            return ring.accept(completion.token, listener.as_raw_fd());
        }
        let Some(connection) = connections.get_mut(&number) else {
            bail!("a completion of no connection");
        };
        connection.pending -= usize::from(!completion.goes_on);
        connection.complete(ring, side, action, completion, upstream.as_ref())?;
        if connection.is_over && connection.pending == 0 {
            connections.remove(&number);
        }
        Ok(())
    }
}

impl Connection {
    fn end(&mut self, side: Side) -> Result<&mut End> {
        match (side, &mut self.upstream) {
            (Side::Client, _) => Ok(&mut self.client),
            (Side::Upstream, Some(end)) => Ok(end),
            (Side::Upstream, None) => bail!("there is no upstream"),
        }
    }

    fn complete(
        &mut self,
        ring: &mut Ring,
        side: Side,
        action: Action,
        completion: &Completion,
        upstream: Option<&libc::sockaddr_in>,
    ) -> Result<()> {
        let result = completion.result;
        let end = self.end(side)?;
        match action {
            Action::Accept => bail!("an accept of a connection"),
            Action::Connect if result == 0 => self.send(ring, side),
            Action::Send if result > 0 => {
                end.sent += usize::try_from(result)?;
                if end.sent < end.output.len() {
                    return self.send(ring, side);
                }
                end.output.clear();
                self.progress(ring, side, upstream)
            }
            Action::Receive if result > 0 => {
                ring.received(completion, &end.buffer, &mut end.input);
                end.is_receiving = completion.goes_on;
                self.progress(ring, side, upstream)
            }
            // All buffers are taken: they are back once their completions are.
            Action::Receive if result == -libc::ENOBUFS => {
                end.is_receiving = false;
                self.receive(ring, side)
            }
            Action::Connect | Action::Send | Action::Receive => self.end_all(),
        }
    }

    /// Goes on with what has been received, once all before it is sent.
    fn progress(&mut self, ring: &mut Ring, side: Side, upstream: Option<&libc::sockaddr_in>) -> Result<()> {
        let is_busy = match side {
            Side::Client => !self.client.output.is_empty() || self.is_calling,
            Side::Upstream => false,
        };
        if self.is_over || is_busy {
            return Ok(());
        }
        let Some(message) = http::take(&mut self.end(side)?.input)? else {
            return self.receive(ring, side);
        };
        match (side, upstream) {
            (Side::Client, None) => self.client.output = http::answer(&message)?,
            (Side::Client, Some(address)) => return self.call(ring, message, address),
            (Side::Upstream, _) => self.client.output = message,
        }
        self.is_calling = false;
        self.client.sent = 0;
        self.send(ring, Side::Client)
    }

    fn call(&mut self, ring: &mut Ring, request: Vec<u8>, address: &libc::sockaddr_in) -> Result<()> {
        self.is_calling = true;
        let is_new = self.upstream.is_none();
        if is_new {
            self.upstream = Some(End::new(socket()?));
        }
        let end = self.end(Side::Upstream)?;
        (end.output, end.sent) = (request, 0);
        if !is_new {
            return self.send(ring, Side::Upstream);
        }
        let socket = end.socket.as_raw_fd();
        self.pending += 1;
        ring.connect(self.token(Side::Upstream, Action::Connect), socket, address)
    }

    fn receive(&mut self, ring: &mut Ring, side: Side) -> Result<()> {
        let token = self.token(side, Action::Receive);
        let end = self.end(side)?;
        if std::mem::replace(&mut end.is_receiving, true) {
            return Ok(());
        }
        ring.receive(token, end.socket.as_raw_fd(), &mut end.buffer)?;
        self.pending += 1;
        Ok(())
    }

    fn send(&mut self, ring: &mut Ring, side: Side) -> Result<()> {
        let token = self.token(side, Action::Send);
        let end = self.end(side)?;
        ring.send(token, end.socket.as_raw_fd(), &end.output[end.sent..])?;
        self.pending += 1;
        Ok(())
    }

    /// Ends both sides, and with them all requests that wait.
    fn end_all(&mut self) -> Result<()> {
        self.is_over = true;
        for end in [Some(&self.client), self.upstream.as_ref()].into_iter().flatten() {
            // The other end may have done so before.
            let _ = end.socket.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    fn token(&self, side: Side, action: Action) -> u64 {
        self.number << 3 | (side as u64) << 2 | action as u64
    }
}

/// Returns the connection, the side and the action of a token.
fn parts(token: u64) -> (u64, Side, Action) {
    let side = if token & 4 == 0 { Side::Client } else { Side::Upstream };
    let action = match token & 3 {
        0 => Action::Accept,
        1 => Action::Connect,
        2 => Action::Receive,
        _ => Action::Send,
    };
    (token >> 3, side, action)
}

fn address(address: SocketAddr) -> Result<libc::sockaddr_in> {
    let SocketAddr::V4(address) = address else {
        bail!("no IPv4 address: {address}");
    };
    Ok(libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        sin_zero: [0; 8],
    })
}

/// Makes a socket that is not connected.
fn socket() -> Result<TcpStream> {
    // SAFETY: socket(2) takes no memory.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(socket >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { TcpStream::from_raw_fd(socket) })
}
