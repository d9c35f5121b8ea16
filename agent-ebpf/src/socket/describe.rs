//! Description of a connection: its name, its sequence numbers, its addresses.

use agent_ebpf::abi::{Counter, FAMILY_INET, FAMILY_UNIX, Kind, Open, Role};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use super::{
    COUNTED, Connection, DESCRIBED, ESTABLISHED, FROM_BIRTH, Moved, OPAQUE, ROLE_ALONE, TCP_CLOSE, TCP_LISTEN,
    TCP_SYN_SENT, connection, fin_read, remove,
};
use crate::{
    counters::count,
    kernel::{is_missing, offset, read},
    maps::EVENTS,
    scratch::scratch,
    submit,
};

/// Positions of a socket in its two streams.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sequences {
    copied: u32,
    received: u32,
    write: u32,
    unacked: u32,
    bytes_received: u64,
    bytes_acked: u64,
}

impl Sequences {
    #[inline(always)]
    fn read(sock: u64) -> Option<Self> {
        Some(Self {
            copied: read(sock + offset!(tcp_copied_seq) as u64)?,
            received: read(sock + offset!(tcp_rcv_nxt) as u64)?,
            write: read(sock + offset!(tcp_write_seq) as u64)?,
            unacked: read(sock + offset!(tcp_snd_una) as u64)?,
            bytes_received: read(sock + offset!(tcp_bytes_received) as u64)?,
            bytes_acked: read(sock + offset!(tcp_bytes_acked) as u64)?,
        })
    }

    /// Reads the fields until two readings are equal, four times at most: they change meanwhile (measured: 2 torn pairs
    /// in 615,626). A short request and the FIN behind it make two changes.
    #[inline(always)]
    fn stable(sock: u64) -> Option<Self> {
        let mut one = Self::read(sock)?;
        let mut other = Self::read(sock)?;
        if one == other {
            return Some(one);
        }
        count(Counter::TornSequence, 1);
        one = Self::read(sock)?;
        if one == other {
            return Some(one);
        }
        other = Self::read(sock)?;
        (one == other).then_some(one)
    }
}

/// Describes a connection to Core. Returns false if it could not (counted); the next call tries again.
#[inline(always)]
pub fn describe(sock: u64, moved: Moved) -> bool {
    describe_socket(sock, moved.read, moved.written) == 1
}

/// Runs [`describe`]. A global function: the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe_socket(sock: u64, moved_read: u64, moved_written: u64) -> u32 {
    let moved = Moved {
        read: moved_read,
        written: moved_written,
    };
    connection(sock)
        .and_then(|connection| describe_open(sock, connection, moved))
        .is_some() as u32
}

#[inline(always)]
fn describe_open(sock: u64, connection: &Connection, moved: Moved) -> Option<()> {
    // Filled in inside the ring: on the stack it would take half of the 512 bytes.
    let Some(mut entry) = EVENTS.reserve::<Open>(0) else {
        count(Counter::RingFull, 1);
        // The call that needs this description is not reported either. Without one this is an interrupt, of any thread.
        if connection.opener.get() == 0 || moved.read != 0 || moved.written != 0 {
            submit::note_loss(bpf_get_current_pid_tgid() as u32, 0);
        }
        return None;
    };
    // SAFETY: the record is reserved, and all of it is written.
    let open = unsafe {
        let open = entry.as_mut_ptr();
        open.write(Open::default());
        &mut *open
    };
    let Some(early) = fill(open, sock, connection, moved) else {
        entry.discard(0);
        return None;
    };
    if !early {
        connection.add(DESCRIBED);
    }
    submit::submit_entry(entry);
    Some(())
}

/// Fills in the record. Returns true while the connection is not established: then it is described again.
#[inline(always)]
fn fill(open: &mut Open, sock: u64, connection: &Connection, moved: Moved) -> Option<bool> {
    let family: u16 = read(sock + offset!(sock_family) as u64)?;
    open.header = submit::header(Kind::Open, 0, 0);
    let opener = connection.opener.get();
    if opener != 0 {
        open.header.tgid = (opener >> 32) as u32;
        open.header.tid = opener as u32;
    }
    open.conn = connection.id.get();
    open.sock = sock;
    open.inode = connection.inode.get();
    open.family = family as u8;
    open.role = connection.role.get() as u8;
    let mut early = false;
    if connection.has(COUNTED) {
        open.counted = 1;
    } else {
        early = place_in_sequence(open, sock, connection, moved)?;
    }
    let is_birth_known = connection.role.get() != 0 && !connection.has(ROLE_ALONE);
    if open.read == 0 && open.written == 0 && (!connection.has(COUNTED) || is_birth_known) {
        connection.add(FROM_BIRTH);
        connection.begin_at_birth();
    }
    open.from_birth = connection.has(FROM_BIRTH) as u8;
    if family as u8 == FAMILY_UNIX {
        if !is_missing!(unix_peer) {
            open.peer = read(sock + offset!(unix_peer) as u64)?;
        }
        return Some(early);
    }
    addresses(sock, open)?;
    Some(early)
}

/// Fills in the place of the streams by the socket's sequence numbers, and begins the connection's directions there.
/// Returns whether the connection is not established yet; `None`: there is nothing to describe.
#[inline(always)]
fn place_in_sequence(open: &mut Open, sock: u64, connection: &Connection, moved: Moved) -> Option<bool> {
    if upper_layer(sock)? {
        connection.add(OPAQUE);
    }
    let state: u8 = read(sock + offset!(sock_state) as u64)?;
    // Fast Open sends data before the connection is established. Once it is, the description is complete.
    let early = state == TCP_SYN_SENT && !connection.has(ESTABLISHED);
    if early && moved.written == 0 || state == TCP_LISTEN {
        return None;
    }
    if state == TCP_CLOSE {
        // The socket is closed already, and no event will report its end.
        if moved.read == 0 && moved.written == 0 {
            remove(sock);
            return None;
        }
        scratch()?.call.dead.set(1);
    }
    let now = Sequences::stable(sock)?;
    open.sent_base = now.unacked.wrapping_sub(now.bytes_acked as u32);
    open.received_base = now.received.wrapping_sub(now.bytes_received as u32);
    let written = now.bytes_acked + now.write.wrapping_sub(now.unacked) as u64;
    let mut received = now
        .bytes_received
        .wrapping_sub(now.received.wrapping_sub(now.copied) as u64);
    if received > 0 && fin_read(sock, now.copied) {
        received -= 1;
    }
    open.read = if early { 0 } else { received.wrapping_sub(moved.read) };
    // Fast Open has sent data before the connection was established: described with the call that sent it.
    if connection.has(ESTABLISHED) && moved.written == 0 && moved.read == 0 && written > 1 {
        return None;
    }
    // Nothing was read and nothing sent before, but for the SYN of the end that connected (perhaps by sendto(2) with
    // MSG_FASTOPEN). The other end's SYN is not counted.
    let sent = written.wrapping_sub(moved.written);
    if open.read == 0 && sent <= 1 && connection.role.get() == Role::Unknown as u32 && state != TCP_CLOSE {
        if sent == 1 {
            connection.role.set(Role::Client as u32);
            open.role = Role::Client as u8;
        } else if offset!(by_events) == 1 {
            connection.role.set(Role::Server as u32);
            open.role = Role::Server as u8;
        }
    }
    let syn = (connection.role.get() == Role::Client as u32) as u64;
    open.written = written.wrapping_sub(syn).wrapping_sub(moved.written);
    connection.begin(open.read, open.written);
    connection.base[0].set(open.received_base);
    connection.base[1].set(open.sent_base.wrapping_add(syn as u32));
    Some(early)
}

/// Returns whether another protocol sits on top of a TCP socket in the kernel, such as kTLS (counted).
#[inline(always)]
pub fn upper_layer(sock: u64) -> Option<bool> {
    if is_missing!(upper_layer) {
        return Some(false);
    }
    let there = read::<u64>(sock + offset!(upper_layer) as u64)? != 0;
    if there {
        count(Counter::UpperLayer, 1);
    }
    Some(there)
}

#[inline(always)]
fn addresses(sock: u64, open: &mut Open) -> Option<()> {
    if !is_missing!(sock_num) {
        open.local_port = read(sock + offset!(sock_num) as u64)?;
    }
    (open.remote_port, open.remote) = remote(sock, open.family);
    open.local = if open.family == FAMILY_INET {
        if is_missing!(sock_daddr) {
            [0; 16]
        } else {
            padded(read(sock + offset!(sock_saddr) as u64)?)
        }
    } else if is_missing!(sock_v6_daddr) {
        [0; 16]
    } else {
        read(sock + offset!(sock_v6_saddr) as u64)?
    };
    namespace(sock, open)
}

/// Returns port and address of a socket's other end; 0 for what this kernel does not have.
#[inline(always)]
pub fn remote(sock: u64, family: u8) -> (u16, [u8; 16]) {
    let port = if is_missing!(sock_num) {
        0
    } else {
        u16::from_be(read(sock + offset!(sock_dport) as u64).unwrap_or(0))
    };
    let address = if family == FAMILY_INET {
        if is_missing!(sock_daddr) {
            None
        } else {
            read(sock + offset!(sock_daddr) as u64).map(padded)
        }
    } else if is_missing!(sock_v6_daddr) {
        None
    } else {
        read(sock + offset!(sock_v6_daddr) as u64)
    };
    (port, address.unwrap_or([0; 16]))
}

/// Returns an IPv4 address in the first bytes of an address.
#[inline(always)]
fn padded(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[inline(always)]
fn namespace(sock: u64, open: &mut Open) -> Option<()> {
    if is_missing!(net_inum) {
        return Some(());
    }
    let net: u64 = read(sock + offset!(sock_net) as u64)?;
    open.netns = read(net + offset!(net_inum) as u64)?;
    Some(())
}
