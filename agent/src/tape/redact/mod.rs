//! Tapes that are safe to show: what the services said becomes stand-ins of the same length, so that replaying gives the
//! same spans but for the values.
//!
//! It fails closed: what is not known to be structure is replaced. docs/tapes.md says what stays.

mod connection;
mod facts;
mod head;
mod raw;
mod standin;

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_ebpf::abi::{
    self, Connect, Direction, Exit, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Fork, Listen, Open, Plain, Role, Segment,
    State, Unseen,
};

use super::Frame;
use crate::config::{CoreSettings, HeaderName, KnownMethods};
use connection::Connection;
use head::Named;
use raw::Raw;
use standin::Key;

/// Connections that are followed at one time. Of those beyond, nothing stays.
const MAX_CONNECTIONS: usize = 1 << 18;

/// Replaces what a tape must not show, frame by frame, in order.
#[derive(Debug)]
pub struct Redactor {
    key: Key,
    named: Named,
    connections: HashMap<u64, Connection>,
    /// Name and role of the last connection of a socket, by its address and inode.
    sockets: HashMap<(u64, u64), (u64, Role)>,
    /// Connections that were reset go on under a new name: the old one, and by how much sent offsets are ahead.
    aliases: HashMap<u64, (u64, u64)>,
    /// Addresses in the kernel, numbered.
    pointers: HashMap<u64, u64>,
    /// Addresses of the network, numbered.
    hosts: HashMap<IpAddr, u32>,
    record: Vec<u8>,
}

impl Default for Redactor {
    fn default() -> Self {
        let none = std::iter::empty;
        Self {
            key: Key::default(),
            named: Named::new(none(), none()),
            connections: HashMap::new(),
            sockets: HashMap::new(),
            aliases: HashMap::new(),
            pointers: HashMap::new(),
            hosts: HashMap::new(),
            record: Vec::new(),
        }
    }
}

impl Redactor {
    /// The frame as it may be shown.
    pub fn redact<'a>(&'a mut self, frame: &'a Frame<'_>) -> Frame<'a> {
        match frame {
            Frame::Config(json) => Frame::Config(Cow::Owned(self.config(json))),
            Frame::Process(process) => Frame::Process(Cow::Owned(facts::process(process, &self.key))),
            Frame::Record(record) => {
                self.take_record(record);
                Frame::Record(&self.record)
            }
            &Frame::Seed(seed) => Frame::Seed(seed),
            &Frame::Clock { monotonic_ns, unix_ns } => Frame::Clock { monotonic_ns, unix_ns },
            &Frame::Tick { now_ns } => Frame::Tick { now_ns },
            &Frame::Selected { tgid, selected } => Frame::Selected { tgid, selected },
        }
    }

    /// Settings that are not understood leave nothing: replaying says so.
    fn config(&mut self, json: &str) -> String {
        let Ok(mut settings) = serde_json::from_str::<CoreSettings>(json) else {
            return String::new();
        };
        let headers = settings.request_headers.iter().chain(&settings.response_headers);
        let methods = settings.known_methods.as_ref().and_then(KnownMethods::methods);
        let methods = methods.unwrap_or_default().iter().map(String::as_str);
        self.named = Named::new(headers.map(HeaderName::as_str), methods);
        for route in &mut settings.routes {
            *route = facts::route(route, &self.key);
        }
        serde_json::to_string(&settings).unwrap_or_default()
    }

    /// Leaves the record in `self.record`, as long as it was.
    fn take_record(&mut self, record: &[u8]) {
        let mut out = std::mem::take(&mut self.record);
        out.clear();
        match Raw::decode(record) {
            // Core counts it as malformed, and still does.
            None => {}
            Some(Raw::Segment(segment, bytes)) => {
                begin(&mut out, &segment);
                let head = out.len();
                out.extend_from_slice(bytes);
                if let Some(bytes) = out.get_mut(head..) {
                    self.segment(&segment, bytes);
                }
            }
            Some(Raw::Open(open)) => {
                self.open(&open);
                let open = Open {
                    sock: self.pointer(open.sock),
                    peer: self.pointer(open.peer),
                    local: self.address(open.family, open.local),
                    remote: self.address(open.family, open.remote),
                    ..open
                };
                begin(&mut out, &open);
            }
            Some(Raw::Connect(connect, path)) => {
                let new = || Connection::new(Role::Client);
                self.connections.entry(connect.conn).or_insert_with(new);
                let connect = Connect {
                    remote: self.address(connect.family, connect.remote),
                    ..connect
                };
                begin(&mut out, &connect);
                out.extend_from_slice(&facts::unix_address(path, &self.key));
            }
            Some(Raw::Exec(exec, strings)) => {
                begin(&mut out, &exec);
                out.extend_from_slice(&facts::strings(strings, exec.cmdline_len as usize));
            }
            Some(Raw::State(state)) => begin::<State>(&mut out, &state),
            Some(Raw::Fork(fork)) => begin::<Fork>(&mut out, &fork),
            Some(Raw::Exit(exit)) => begin::<Exit>(&mut out, &exit),
            Some(Raw::Listen(listen)) => begin::<Listen>(&mut out, &listen),
            Some(Raw::Unseen(unseen)) => begin::<Unseen>(&mut out, &unseen),
        }
        // Behind what a record says there may be what lay in the ring before.
        out.resize(record.len(), 0);
        self.record = out;
    }

    fn open(&mut self, open: &Open) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.connections.clear();
            self.sockets.clear();
            self.aliases.clear();
        }
        let socket = (open.sock, open.inode);
        match self.sockets.get(&socket) {
            Some(&(id, role))
                if open.from_birth == 0 && open.role == Role::Unknown as u8 && open.family != FAMILY_UNIX =>
            {
                self.aliases
                    .insert(open.conn, (id, (role == Role::Client && open.counted == 0) as u64));
                return;
            }
            _ => {}
        }
        let connection = self
            .connections
            .entry(open.conn)
            .or_insert_with(|| Connection::new(Role::Unknown));
        connection.describe(open, &self.key);
        self.sockets.insert(socket, (open.conn, connection.role()));
    }

    fn segment(&mut self, segment: &Segment, bytes: &mut [u8]) {
        let mut segment = *segment;
        if let Some(&(id, ahead)) = self.aliases.get(&segment.conn) {
            segment.conn = id;
            if segment.header.direction == Direction::Write as u8 {
                segment.offset = segment.offset.saturating_sub(ahead);
                segment.end = segment.end.saturating_sub(ahead);
            }
        }
        let new = || Connection::new(Role::Unknown);
        self.connections
            .entry(segment.conn)
            .or_insert_with(new)
            .segment(&segment, bytes, &self.key, &self.named);
    }

    /// Addresses in the kernel help those who attack it.
    fn pointer(&mut self, pointer: u64) -> u64 {
        if pointer == 0 {
            return 0;
        }
        let next = self.pointers.len() as u64 + 1;
        *self.pointers.entry(pointer).or_insert(next)
    }

    /// Loopback addresses and those that name nobody stay, others are numbered.
    fn address(&mut self, family: u8, address: [u8; 16]) -> [u8; 16] {
        let ip = match family {
            FAMILY_INET => {
                let [a, b, c, d, ..] = address;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            FAMILY_INET6 => IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
            _ => return [0; 16],
        };
        let standin = if ip.is_loopback() || ip.is_unspecified() {
            ip
        } else {
            let next = self.hosts.len() as u32 + 1;
            let number = *self.hosts.entry(ip).or_insert(next);
            let [_, b, c, d] = number.to_be_bytes();
            match ip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(10, b, c, d)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(
                    0xfd00,
                    0,
                    0,
                    0,
                    0,
                    0,
                    b.into(),
                    u16::from_be_bytes([c, d]),
                )),
            }
        };
        let mut bytes = [0; 16];
        match (standin, family) {
            (IpAddr::V4(address), FAMILY_INET) => bytes[..4].copy_from_slice(&address.octets()),
            (IpAddr::V4(address), _) => bytes = address.to_ipv6_mapped().octets(),
            (IpAddr::V6(address), _) => bytes = address.octets(),
        }
        bytes
    }
}

fn begin<T: Plain>(out: &mut Vec<u8>, head: &T) {
    out.extend_from_slice(abi::bytes_of(head));
}

#[cfg(test)]
mod tests;
