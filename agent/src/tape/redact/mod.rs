//! Makes tapes that are safe to show: the services' own bytes become stand-ins of the same length. Replaying gives the same
//! spans, with other values.
//!
//! [`proto::structure`](crate::engine::proto::structure) says which bytes of a connection are structure, `connection` feeds it,
//! and `standin` makes the stand-ins. `raw` and this file rewrite records field by field, `facts` rewrites all other texts.
//! Redaction fails closed: bytes that are not known to be structure are replaced. docs/tapes.md lists what stays.

mod connection;
mod facts;
mod raw;
mod standin;

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agent_ebpf::abi::{
    self, Begun, Connect, Context, Direction, Exit, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, Fork, Identity, Layer,
    Listen, Open, Plain, Role, SEGMENT_MORE, Segment, Slice, State, StreamName, Unseen,
};

use super::Frame;
use crate::{
    config::{CoreSettings, HeaderName, KnownMethods},
    engine::{
        context::traceparent,
        proto::structure::{Named, Shape, Words},
    },
    record::{Record, Rest},
};
use connection::{Connection, Place};
use raw::Raw;
use standin::Key;

/// Upper bound on connections that are followed at one time. Beyond it, all are forgotten, and their bytes are filled
/// until a head begins.
const MAX_CONNECTIONS: usize = 1 << 18;

/// Upper bound on the addresses that are remembered at one time: sockets, and names that runtimes give to executions.
/// Beyond it, all are forgotten, and get other numbers.
const MAX_POINTERS: usize = 1 << 20;

/// Replaces the bytes that a tape must not show, frame by frame, in order.
#[derive(Debug, Default)]
pub struct Redactor {
    key: Key,
    named: Named,
    connections: HashMap<StreamName, Connection>,
    /// Id and role of the last connection of a socket, by the socket's address and inode.
    sockets: HashMap<(u64, u64), (u64, Role)>,
    /// Connections that were reset go on under a new id: the old id, and by how much the offsets of sent bytes are ahead.
    aliases: HashMap<u64, (u64, u64)>,
    /// Addresses in the kernel and in processes, numbered.
    pointers: HashMap<u64, u64>,
    /// The last number that an address got.
    numbered: u64,
    /// Addresses of the network, numbered.
    hosts: HashMap<IpAddr, u32>,
    record: Vec<u8>,
}

impl Redactor {
    /// Returns the frame as it may be shown.
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

    /// Returns the settings as they may be shown. Of settings that are not understood nothing is left: replaying says so.
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

    /// Rewrites a record into `self.record`, which has the same length then.
    fn take_record(&mut self, record: &[u8]) {
        let mut out = std::mem::take(&mut self.record);
        out.clear();
        // Core counts zeros as malformed, as it counts the record.
        if Record::decode(record).is_some()
            && let Some((raw, identity)) = Raw::decode(record)
        {
            self.take_raw(&raw, &mut out);
            if let Some(identity) = identity {
                out.resize(record.len().saturating_sub(size_of::<Identity>()), 0);
                let identity = Identity {
                    word: self.pointer(identity.word),
                    parent: self.pointer(identity.parent),
                    ..identity
                };
                begin(&mut out, &identity);
            }
        }
        // Behind its last field, a record may carry bytes that lay in the ring before.
        out.resize(record.len(), 0);
        self.record = out;
    }

    /// Rewrites what is known of a record, without its identity.
    fn take_raw(&mut self, raw: &Raw<'_>, out: &mut Vec<u8>) {
        match *raw {
            Raw::Segment(segment, slices) => {
                begin(out, &Segment { pad: [0; 6], ..segment });
                self.segment(&segment, slices, out);
            }
            Raw::Open(open) => {
                self.open(&open);
                let open = Open {
                    sock: self.pointer(open.sock),
                    peer: self.pointer(open.peer),
                    local: self.address(open.family, open.local),
                    remote: self.address(open.family, open.remote),
                    ..open
                };
                begin(out, &open);
            }
            Raw::Connect(connect, path) => {
                let new = || Connection::new(Role::Client, &self.key);
                self.connections.entry(wire(connect.conn)).or_insert_with(new);
                let connect = Connect {
                    remote: self.address(connect.family, connect.remote),
                    ..connect
                };
                begin(out, &connect);
                out.extend_from_slice(&facts::unix_address(path, &self.key));
            }
            Raw::Exec(exec, strings) => {
                begin(out, &exec);
                out.extend_from_slice(&facts::strings(strings, exec.cmdline_len as usize));
            }
            Raw::State(state) => begin::<State>(out, &state),
            Raw::Fork(fork) => begin::<Fork>(out, &fork),
            Raw::Exit(exit) => begin::<Exit>(out, &exit),
            Raw::Listen(listen) => begin::<Listen>(out, &listen),
            Raw::Unseen(unseen) => begin::<Unseen>(out, &unseen),
            Raw::Begun(begun) => begin::<Begun>(out, &begun),
            Raw::Context(context) => {
                let context = Context {
                    trace_id: self.id(context.trace_id),
                    span_id: self.id(context.span_id),
                    pad: [0; 5],
                    ..context
                };
                begin(out, &context);
            }
        }
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
            .entry(wire(open.conn))
            .or_insert_with(|| Connection::new(Role::Unknown, &self.key));
        connection.describe(role(open.role), open.read, open.written, open.from_birth == 1);
        self.sockets.insert(socket, (open.conn, connection.role()));
    }

    /// Appends the slices of a segment as they may be shown.
    fn segment(&mut self, segment: &Segment, slices: &[u8], out: &mut Vec<u8>) {
        let direction = direction(segment.header.direction);
        let (conn, ahead) = match self.aliases.get(&segment.conn) {
            Some(&(id, ahead)) if direction == Direction::Write => (id, ahead),
            Some(&(id, _)) => (id, 0),
            None => (segment.conn, 0),
        };
        let stream = self.stream(conn, segment.layer);
        let end = segment.end.saturating_sub(ahead);
        let mut slice = Slice {
            offset: segment.offset,
            bytes: segment.captured,
            pad: 0,
        };
        let mut behind = slices;
        for left in (0..=segment.slices).rev() {
            let Some((bytes, rest)) = behind.split_at_checked(slice.bytes as usize) else {
                // Core refuses the record.
                return;
            };
            let offset = slice.offset.saturating_sub(ahead);
            let place = Place {
                direction,
                offset,
                end,
                begins_call: end.saturating_sub(offset) == u64::from(segment.call_bytes),
                rest: if left > 0 || segment.header.flags & SEGMENT_MORE != 0 {
                    Rest::Follows
                } else {
                    Rest::Gap
                },
            };
            let from = out.len();
            out.extend_from_slice(bytes);
            if let Some(bytes) = out.get_mut(from..) {
                let new = || Connection::new(Role::Unknown, &self.key);
                let connection = self.connections.entry(stream).or_insert_with(new);
                connection.segment(&place, bytes, &self.key, &self.named);
            }
            if left == 0 {
                return;
            }
            // The struct of a segment, and that of a slice, are multiples of eight bytes long.
            let pad = bytes.len().next_multiple_of(8) - bytes.len();
            out.resize(out.len() + pad, 0);
            let Some((next, rest)) = rest.get(pad..).and_then(abi::split::<Slice>) else {
                return;
            };
            begin(out, &Slice { pad: 0, ..next });
            (slice, behind) = (next, rest);
        }
    }

    /// Returns the name of a layer of a connection. The plaintext has the ends of the wire.
    fn stream(&mut self, conn: u64, layer: u8) -> StreamName {
        if layer != Layer::Tls as u8 {
            return wire(conn);
        }
        let tls = StreamName::new(conn, Layer::Tls);
        let known = self.connections.get(&wire(conn)).map(Connection::ends);
        let new = || Connection::new(Role::Unknown, &self.key);
        let plaintext = self.connections.entry(tls).or_insert_with(new);
        if let Some(ends) = known {
            plaintext.take_ends(ends);
        }
        tls
    }

    /// Returns the stand-in of an id: that of its text in `traceparent`.
    fn id<const N: usize>(&self, id: [u8; N]) -> [u8; N] {
        let text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = self.key.whole(text.as_bytes(), Shape::Hex, Words::ZEROS);
        traceparent::hex(&text).unwrap_or([0; N])
    }

    /// Returns the number of an address in the kernel or in a process: the address itself helps attackers.
    fn pointer(&mut self, pointer: u64) -> u64 {
        if pointer == 0 {
            return 0;
        }
        if self.pointers.len() >= MAX_POINTERS {
            self.pointers.clear();
        }
        *self.pointers.entry(pointer).or_insert_with(|| {
            self.numbered += 1;
            self.numbered
        })
    }

    /// Returns the stand-in of an IP address: loopback and unspecified addresses stay, others are numbered.
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
            (IpAddr::V4(address), FAMILY_INET) => {
                if let Some(first) = bytes.first_chunk_mut() {
                    *first = address.octets();
                }
            }
            (IpAddr::V4(address), _) => bytes = address.to_ipv6_mapped().octets(),
            (IpAddr::V6(address), _) => bytes = address.octets(),
        }
        bytes
    }
}

fn wire(conn: u64) -> StreamName {
    StreamName::new(conn, Layer::Wire)
}

fn role(number: u8) -> Role {
    match number {
        number if number == Role::Client as u8 => Role::Client,
        number if number == Role::Server as u8 => Role::Server,
        _ => Role::Unknown,
    }
}

fn direction(number: u8) -> Direction {
    if number == Direction::Read as u8 {
        Direction::Read
    } else {
        Direction::Write
    }
}

/// Begins a record with its fields.
fn begin<T: Plain>(out: &mut Vec<u8>, head: &T) {
    out.extend_from_slice(abi::bytes_of(head));
}

#[cfg(test)]
mod tests;
