//! Decodes the binary interface into [`Record`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU64,
};

use agent_ebpf::abi::{
    self, Carrier, Direction, FAMILY_INET, FAMILY_UNIX, Header, IDENTITY, Kind, LOST, Layer, POLLED, Role, SEGMENT_EOF,
    SEGMENT_MORE, SEGMENT_NOT_HTTP, STATE_LOST_READ, STATE_LOST_WRITTEN, STATE_OPEN, STATE_RELEASED, StateChange,
    TURNED, UnseenCause, WAITED, WATCHED,
};

use super::{
    Address, Base, Change, Connect, ConnectionId, Context, EndOfStream, Exec, Execution, Exit, Fork, Held, Identity,
    Listen, Open, Record, Rest, Segment, Since, Slices, Socket, Stamp, State, TcpState, Tgid, Tid, Unseen,
};

/// `TCP_SYN_SENT` and `TCP_CLOSE_WAIT` of the kernel's state numbers.
const SYN_SENT: u8 = 2;
const CLOSE_WAIT: u8 = 8;

/// `SHUTDOWN_MASK`: both directions, of `sk_shutdown`.
const SHUT_BOTH: u8 = 3;

impl<'a> Record<'a> {
    /// Decodes a record; `None`: this version does not understand it.
    pub fn decode(record: &'a [u8]) -> Option<Self> {
        let (header, _) = abi::split::<Header>(record)?;
        let (record, identity) = identity(&header, record)?;
        let stamp = stamp(&header, identity);
        let is = |kind: Kind| header.kind == kind as u8;
        match () {
            // The usual one first.
            () if is(Kind::Segment) => segment(stamp, record),
            () if is(Kind::Open) => open(stamp, record).map(Self::Open),
            () if is(Kind::Connect) => connect(stamp, record).map(Self::Connect),
            () if is(Kind::State) => state(stamp, record).map(Self::State),
            () if is(Kind::Fork) => {
                let (fork, _) = abi::split::<abi::Fork>(record)?;
                let child = Tgid(fork.child);
                Some(Self::Fork(Fork { stamp, child }))
            }
            () if is(Kind::Exec) => exec(stamp, record).map(Self::Exec),
            () if is(Kind::Exit) => {
                let (exit, _) = abi::split::<abi::Exit>(record)?;
                Some(Self::Exit(Exit {
                    stamp,
                    code: exit.exit_code,
                    lost_unix: header.flags & LOST != 0,
                }))
            }
            () if is(Kind::Listen) => {
                let (listen, _) = abi::split::<abi::Listen>(record)?;
                let port = listen.port.try_into().ok()?;
                Some(Self::Listen(Listen { stamp, port }))
            }
            () if is(Kind::Unseen) => {
                let (unseen, _) = abi::split::<abi::Unseen>(record)?;
                let is = |cause: UnseenCause| unseen.cause == cause as u32;
                match () {
                    () if is(UnseenCause::IoUring) => Some(Self::Unseen(stamp, Unseen::IoUring)),
                    () if is(UnseenCause::Requests) => Some(Self::Unseen(stamp, Unseen::Requests)),
                    () => None,
                }
            }
            () if is(Kind::Begun) => {
                abi::split::<abi::Begun>(record)?;
                stamp.execution.identity.is_some().then_some(Self::Begun(stamp))
            }
            () if is(Kind::Context) => context(stamp, record).map(Self::Context),
            () => None,
        }
    }
}

/// Encodes the record by which the agent says that a Unix connection is over ([`Change::Gone`]): as bytes, for a tape
/// to keep.
pub fn gone(conn: ConnectionId, now_ns: u64) -> Vec<u8> {
    end_without_record(conn, now_ns, 0)
}

/// Encodes the record by which the agent says that a connection is over whose end found no room in the ring
/// ([`Change::Gone`], with records lost in both directions).
pub fn lost_end(conn: ConnectionId, now_ns: u64) -> Vec<u8> {
    end_without_record(conn, now_ns, STATE_LOST_READ | STATE_LOST_WRITTEN)
}

fn end_without_record(conn: ConnectionId, now_ns: u64, flags: u8) -> Vec<u8> {
    let state = abi::State {
        header: Header {
            kind: Kind::State as u8,
            time_ns: now_ns,
            ..Header::default()
        },
        conn: conn.0,
        state: StateChange::Gone as u8,
        flags,
        ..abi::State::default()
    };
    abi::bytes_of(&state).to_vec()
}

/// Cuts the identity off that a record may end with.
fn identity<'a>(header: &Header, record: &'a [u8]) -> Option<(&'a [u8], Option<Identity>)> {
    if header.flags & IDENTITY == 0 {
        return Some((record, None));
    }
    let (record, last) = record.split_at_checked(record.len().checked_sub(size_of::<abi::Identity>())?)?;
    let (identity, _) = abi::split::<abi::Identity>(last)?;
    let identity = Identity {
        word: NonZeroU64::new(identity.word)?,
        generation: identity.generation,
        parent: NonZeroU64::new(identity.parent),
        source: identity.source,
    };
    Some((record, Some(identity)))
}

fn segment(stamp: Stamp, record: &[u8]) -> Option<Record<'_>> {
    let (segment, rest) = abi::split::<abi::Segment>(record)?;
    let header = &segment.header;
    let conn = ConnectionId(segment.conn);
    let layer = layer(segment.layer)?;
    if header.flags & SEGMENT_EOF != 0 {
        return Some(Record::EndOfStream(EndOfStream {
            stamp,
            conn,
            layer,
            end: segment.end,
        }));
    }
    let captured = segment.captured as usize;
    let behind = segment.offset.saturating_add(captured as u64);
    Some(Record::Segment(Segment {
        stamp,
        since: since(header),
        conn,
        layer,
        direction: if header.direction == Direction::Read as u8 {
            Direction::Read
        } else {
            Direction::Write
        },
        offset: segment.offset,
        end: segment.end,
        call_bytes: segment.call_bytes,
        until: NonZeroU64::new(segment.until),
        bytes: rest.get(..captured)?,
        further: Slices::decode(segment.slices, rest, captured, behind, segment.end)?,
        rest: if header.flags & SEGMENT_MORE == 0 {
            Rest::Gap
        } else {
            Rest::Follows
        },
        watched: header.flags & WATCHED != 0,
        polled: header.flags & POLLED != 0,
        unknown_opening: header.flags & SEGMENT_NOT_HTTP != 0,
    }))
}

fn open(stamp: Stamp, record: &[u8]) -> Option<Open> {
    let (open, _) = abi::split::<abi::Open>(record)?;
    let base = match open.family {
        FAMILY_UNIX => Base::Unix(NonZeroU64::new(open.peer)),
        _ if open.counted == 1 => Base::Counted,
        _ => Base::Sequences {
            sent: open.sent_base,
            received: open.received_base,
        },
    };
    Some(Open {
        stamp,
        conn: ConnectionId(open.conn),
        socket: Socket {
            address: open.sock,
            inode: open.inode,
        },
        base,
        written: open.written,
        read: open.read,
        role: role(open.role),
        local: address(open.family, open.local, open.local_port),
        remote: address(open.family, open.remote, open.remote_port),
        from_birth: open.from_birth == 1,
    })
}

fn connect(stamp: Stamp, record: &[u8]) -> Option<Connect<'_>> {
    let (connect, rest) = abi::split::<abi::Connect>(record)?;
    Some(Connect {
        stamp,
        since: since(&connect.header),
        conn: ConnectionId(connect.conn),
        start_ns: connect.start_ns,
        errno: connect.result.saturating_neg(),
        remote: address(connect.family, connect.remote, connect.remote_port),
        path: rest.get(..connect.path_bytes as usize)?,
    })
}

fn state(stamp: Stamp, record: &[u8]) -> Option<State> {
    let (state, _) = abi::split::<abi::State>(record)?;
    let is = |change: StateChange| state.state == change as u8;
    let change = match () {
        () if is(StateChange::LocalFin) => Change::LocalFin,
        () if is(StateChange::RemoteFin) => Change::RemoteFin,
        () if is(StateChange::Closed) => Change::Closed,
        () if is(StateChange::Released) => Change::Released,
        () if is(StateChange::Gone) => Change::Gone,
        () => return None,
    };
    let has = |flag: u8| state.flags & flag != 0;
    Some(State {
        stamp,
        conn: ConnectionId(state.conn),
        change,
        errno: state.error,
        before: match state.old {
            SYN_SENT => TcpState::SynSent,
            CLOSE_WAIT => TcpState::CloseWait,
            _ => TcpState::Other,
        },
        shut_both: state.shutdown == SHUT_BOTH,
        held: match (has(STATE_OPEN), has(STATE_RELEASED)) {
            (_, true) => Held::Released,
            (true, false) => Held::Open,
            (false, false) => Held::Unknown,
        },
        lost_read: has(STATE_LOST_READ),
        lost_written: has(STATE_LOST_WRITTEN),
    })
}

fn exec(stamp: Stamp, record: &[u8]) -> Option<Exec<'_>> {
    let (exec, rest) = abi::split::<abi::Exec>(record)?;
    let strings = rest.get(..exec.strings_len as usize)?;
    let (command_line, environment) = strings
        .split_at_checked(exec.cmdline_len as usize)
        .unwrap_or((strings, &[]));
    Some(Exec {
        stamp,
        command_line,
        environment,
        provisional: exec.provisional == 1,
        comm: exec.comm,
    })
}

fn context(stamp: Stamp, record: &[u8]) -> Option<Context> {
    let (context, _) = abi::split::<abi::Context>(record)?;
    let carrier = match context.carrier {
        carrier if carrier == Carrier::Header as u8 => Carrier::Header,
        carrier if carrier == Carrier::TcpOption as u8 => Carrier::TcpOption,
        _ => return None,
    };
    Some(Context {
        stamp,
        conn: ConnectionId(context.conn),
        layer: layer(context.layer)?,
        offset: context.offset,
        carrier,
        trace_id: context.trace_id,
        span_id: context.span_id,
        trace_flags: context.trace_flags,
    })
}

fn stamp(header: &Header, identity: Option<Identity>) -> Stamp {
    Stamp {
        time_ns: header.time_ns,
        execution: Execution {
            tgid: Tgid(header.tgid),
            tid: Tid(header.tid),
            identity,
        },
    }
}

fn layer(number: u8) -> Option<Layer> {
    match number {
        number if number == Layer::Wire as u8 => Some(Layer::Wire),
        number if number == Layer::Tls as u8 => Some(Layer::Tls),
        _ => None,
    }
}

fn since(header: &Header) -> Since {
    Since {
        waited: header.flags & WAITED != 0,
        turned: header.flags & TURNED != 0,
        lost: header.flags & LOST != 0,
    }
}

fn role(number: u8) -> Role {
    match number {
        number if number == Role::Client as u8 => Role::Client,
        number if number == Role::Server as u8 => Role::Server,
        _ => Role::Unknown,
    }
}

fn address(family: u8, address: [u8; 16], port: u16) -> Address {
    match family {
        FAMILY_UNIX => Address::Unix,
        FAMILY_INET => {
            let [a, b, c, d, ..] = address;
            Address::Ip(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
        }
        _ => Address::Ip(IpAddr::V6(Ipv6Addr::from(address)).to_canonical(), port),
    }
}
