//! Offsets of kernel fields that the programs need, and the loss where a kernel lacks one.

use agent_ebpf::abi::Offsets;

use super::{
    ProbeError,
    btf::Btf,
    family::{Events, Family},
    lost::Lost,
    plan,
};

/// Result of the look for all fields.
pub struct Found {
    /// The offsets; a field that this kernel does not have is [`Offsets::MISSING`].
    pub offsets: Offsets,
    /// Fields that are missing, and what does not work without them.
    pub lost: Vec<Lost>,
    /// Fields that are missing, as `struct.member`, and without which nothing works.
    pub essential: Vec<String>,
    /// Whether the kernel has the socket events, and which fields their programs lack.
    pub events: Events,
}

/// Feature that is lost without a field; `None`: nothing works without it.
pub type Feature = Option<&'static str>;

/// Consequence of a missing field.
#[derive(Clone, Copy)]
enum Need {
    /// Nothing works without the field.
    All,
    /// The programs at the socket events do not work without the field.
    Events,
    /// The programs at the socket events lack the feature without the field. Those of system calls have it.
    Instead(&'static str),
    /// The programs at the socket events lack the feature without the field. Those of system calls never have it.
    Besides(&'static str),
    /// The feature does not work without the field.
    Feature(&'static str),
}

use Need::All as ALL;
/// The inode number distinguishes a socket from an earlier one at the same address.
const GENERATIONS: Need = Need::Feature("sockets that have the address of an earlier one are not told from it");
const PROGRAMS: Need = Need::Feature("programs that end before they are looked at have no name");
const ENDS: Need = Need::Feature("exchanges of processes that die end late");
const EXIT_CODES: Need = Need::Feature("how a process ended is not recorded");
const FORKS: Need = Need::Feature("processes that a target forks are found late");
const UNIX: Need = Need::Feature("HTTP over Unix sockets");
const UNIX_ENDS: Need = Need::Feature("ends of Unix connections");
const UNIX_LINKS: Need = Need::Feature("which call a request over a Unix socket came from");
const ADDRESSES: Need = Need::Feature("addresses of connections");
const ADDRESSES_6: Need = Need::Feature("IPv6 addresses of connections");
const PORTS: Need = Need::Feature("ports of connections, and processes that begin to listen on a selected port");
const NAMESPACES: Need = Need::Feature("which network namespace a connection is in is not recorded");
const ERRORS: Need = Need::Feature("why a connection ended (a reset, a time limit)");
const SHUTDOWNS: Need = Need::Feature("which direction of a connection was shut down is not recorded");
const UPPER_LAYERS: Need =
    Need::Feature("encryption by the kernel (kTLS) is not told from other bytes that make no sense");
/// Without sequence numbers, the bytes of TCP streams are counted, as those of Unix sockets are.
const SEQUENCES: Need = Need::Feature("which call a request over TCP came from, and bytes that no program saw");

/// Types of the functions that the kernel calls at the socket events, since Linux 6.3
/// (<https://github.com/torvalds/linux/blob/v6.3/include/trace/events/sock.h>).
const SOCKET_EVENTS: [&str; 2] = ["btf_trace_sock_send_length", "btf_trace_sock_recv_length"];

/// Looks for all fields, but for those that are `withheld` (as `struct.member`).
pub fn offsets(btf: &Btf, withheld: &[String]) -> Found {
    let mut lost = Vec::new();
    let mut essential = Vec::new();
    let mut events = Events {
        exist: SOCKET_EVENTS.iter().all(|name| btf.has_typedef(name)),
        ..Events::default()
    };
    let mut offsets = look(btf, &mut |name, offset, need| {
        let offset = offset.filter(|_| !withheld.contains(&name));
        events.rings |= offset.is_some() && matches!(need, Need::Besides(_));
        if offset.is_none() {
            match need {
                Need::All => essential.push(name),
                Need::Events => events.missing.push(name),
                Need::Instead(feature) => events.instead.push(Lost::field(name, feature)),
                Need::Besides(feature) => add(&mut events.besides, name, feature),
                Need::Feature(feature) => lost.push(Lost::field(name, feature)),
            }
        }
        offset
    });
    degrade(&mut offsets);
    // Without any such field, the kernel has no io_uring (CONFIG_IO_URING), and nothing is lost.
    if !events.rings {
        events.besides.clear();
    }
    Found {
        offsets,
        lost,
        essential,
        events,
    }
}

/// Adds a field to those that are missing for a feature: one loss for all of them.
fn add(losses: &mut Vec<Lost>, name: String, feature: &'static str) {
    match losses.iter_mut().find(|lost| lost.feature == feature) {
        Some(lost) => lost.what = format!("{}, {name}", lost.what),
        None => losses.push(Lost::field(name, feature)),
    }
}

/// Returns all fields of the running kernel that the programs of a family need, as `struct.member`, with the feature that
/// needs each.
///
/// # Errors
/// If the kernel's BTF cannot be read.
pub fn fields(family: Family) -> Result<Vec<(String, Feature)>, ProbeError> {
    let btf = Btf::of_kernel()?;
    let mut fields = Vec::new();
    look(&btf, &mut |name, offset, need| {
        match (need, family) {
            (Need::All, _) | (Need::Events, Family::Sock) => fields.push((name, None)),
            (Need::Feature(feature), _) | (Need::Instead(feature) | Need::Besides(feature), Family::Sock) => {
                fields.push((name, Some(feature)));
            }
            (Need::Events | Need::Instead(_) | Need::Besides(_), Family::Syscall) => {}
        }
        offset
    });
    Ok(fields)
}

/// Word of `thread_info` that shows a system call of a 32-bit program: `TS_COMPAT`, or `TIF_32BIT` on 64-bit ARM.
const THREAD_STATUS: &str = if cfg!(target_arch = "aarch64") {
    "thread_info.flags"
} else {
    "thread_info.status"
};

/// Calls `take` for each field, with its name, its offset and what needs it.
fn look(btf: &Btf, take: &mut dyn FnMut(String, Option<u32>, Need) -> Option<u32>) -> Offsets {
    let mut of = |structure: &str, member: &str, need: Need| {
        let offset = btf.offset(structure, member);
        take(format!("{structure}.{member}"), offset, need).unwrap_or(Offsets::MISSING)
    };
    // `struct file` counts its references in `f_ref`, minus one, since 6.13
    // (https://github.com/torvalds/linux/commit/90ee6ed776c06435a3fe79c7f5344761f52e1760).
    let newer_count = btf.offset("file", "f_ref").is_some();
    Offsets {
        task_stack: of("task_struct", "stack", ALL),
        task_files: of("task_struct", "files", ALL),
        task_tgid: of("task_struct", "tgid", FORKS),
        task_signal: of("task_struct", "signal", ENDS),
        task_exit_code: of("task_struct", "exit_code", EXIT_CODES),
        task_mm: of("task_struct", "mm", PROGRAMS),
        mm_arg_start: of("mm_struct", "arg_start", PROGRAMS),
        signal_live: of("signal_struct", "live", ENDS),
        stack_to_regs: Offsets::MISSING,
        files_fdt: of("files_struct", "fdt", ALL),
        fdt_max_fds: of("fdtable", "max_fds", ALL),
        fdt_fd: of("fdtable", "fd", ALL),
        file_op: of("file", "f_op", ALL),
        file_private: of("file", "private_data", ALL),
        file_inode: of("file", "f_inode", GENERATIONS),
        file_count: of("file", if newer_count { "f_ref" } else { "f_count" }, UNIX_ENDS),
        file_count_bias: newer_count as u32,
        inode_ino: of("inode", "i_ino", GENERATIONS),
        socket_sk: of("socket", "sk", ALL),
        sock_type: of("sock", "sk_type", UNIX),
        sock_family: of("sock_common", "skc_family", ALL),
        sock_state: of("sock_common", "skc_state", SEQUENCES),
        sock_dport: of("sock_common", "skc_dport", PORTS),
        sock_num: of("sock_common", "skc_num", PORTS),
        sock_daddr: of("sock_common", "skc_daddr", ADDRESSES),
        sock_saddr: of("sock_common", "skc_rcv_saddr", ADDRESSES),
        sock_v6_daddr: of("sock_common", "skc_v6_daddr", ADDRESSES_6),
        sock_v6_saddr: of("sock_common", "skc_v6_rcv_saddr", ADDRESSES_6),
        sock_net: of("sock_common", "skc_net", NAMESPACES),
        net_inum: of("net", "ns.inum", NAMESPACES),
        sock_protocol: of("sock", "sk_protocol", ALL),
        sock_err: of("sock", "sk_err", ERRORS),
        sock_shutdown: of("sock", "sk_shutdown", SHUTDOWNS),
        tcp_copied_seq: of("tcp_sock", "copied_seq", SEQUENCES),
        tcp_write_seq: of("tcp_sock", "write_seq", SEQUENCES),
        tcp_rcv_nxt: of("tcp_sock", "rcv_nxt", SEQUENCES),
        tcp_snd_una: of("tcp_sock", "snd_una", SEQUENCES),
        tcp_bytes_received: of("tcp_sock", "bytes_received", SEQUENCES),
        tcp_bytes_acked: of("tcp_sock", "bytes_acked", SEQUENCES),
        unix_peer: of("unix_sock", "peer", UNIX_LINKS),
        upper_layer: of("inet_connection_sock", "icsk_ulp_ops", UPPER_LAYERS),
        // Without it, the programs ask a helper.
        task_pid: btf.offset("task_struct", "pid").unwrap_or(Offsets::MISSING),
        typed_task: 0,
        word_type: btf.structure("timespec64").unwrap_or(0),
        read_only_cast: btf.function("bpf_rdonly_cast").unwrap_or(0),
        by_events: 0,
        // Since 7.0 (net/mptcp/protocol.c). Before, `copy_splice_read` receives (fs/splice.c).
        multipath_splices: btf.function("mptcp_splice_read").is_some() as u32,
        socket_file_ops: 0,
        // Kernels with this function run the programs of system calls with preemption on (seen in 7.3).
        preemptible: btf.function("trace_call_bpf_faultable").is_some() as u64,
        ..of_events(&mut of)
    }
}

/// Looks for the fields that only programs at the socket events read.
fn of_events(of: &mut dyn FnMut(&str, &str, Need) -> u32) -> Offsets {
    const EVENT_LOOPS: Need = Need::Instead(plan::EVENT_LOOPS);
    const POLLERS: Need = Need::Instead("parents in services where one thread waits for the connections of workers");
    const CONTENT: Need = Need::Besides(plan::REQUESTS);
    Offsets {
        sock_socket: of("sock", "sk_socket", Need::Events),
        socket_file: of("socket", "file", Need::Events),
        thread_status: of("task_struct", THREAD_STATUS, Need::Events),
        file_epoll: of("file", "f_ep", EVENT_LOOPS),
        epitem_link: of("epitem", "fllink", POLLERS),
        epitem_set: of("epitem", "ep", POLLERS),
        set_waiters: of("eventpoll", "wq.head", POLLERS),
        waiter_link: of("wait_queue_entry", "entry", POLLERS),
        waiter_task: of("wait_queue_entry", "private", POLLERS),
        task_sleeps: of("task_struct", "nvcsw", EVENT_LOOPS),
        request_operation: of("io_kiocb", "opcode", CONTENT),
        request_file: of("io_kiocb", "file", CONTENT),
        request_flags: of("io_kiocb", "flags", CONTENT),
        request_message_flags: of("io_sr_msg", "flags", CONTENT),
        request_buffer: of("io_sr_msg", "buf", CONTENT),
        request_address: of("io_rw", "addr", CONTENT),
        request_length: of("io_rw", "len", CONTENT),
        request_data: of("io_kiocb", "async_data", CONTENT),
        message_kind: of("io_async_msghdr", "msg.msg_iter.iter_type", CONTENT),
        message_buffer: of("io_async_msghdr", "msg.msg_iter.ubuf", CONTENT),
        message_moved: of("io_async_msghdr", "msg.msg_iter.iov_offset", CONTENT),
        ..Offsets::UNKNOWN
    }
}

/// Marks the field that the programs check as missing, if another field of its group is: they are of use together only.
fn degrade(offsets: &mut Offsets) {
    let missing = |fields: &[u32]| fields.contains(&Offsets::MISSING);
    let Offsets {
        task_mm,
        mm_arg_start,
        task_signal,
        signal_live,
        file_inode,
        inode_ino,
        sock_daddr,
        sock_saddr,
        sock_v6_daddr,
        sock_v6_saddr,
        sock_dport,
        sock_num,
        sock_net,
        net_inum,
        sock_state,
        tcp_copied_seq,
        tcp_write_seq,
        tcp_rcv_nxt,
        tcp_snd_una,
        tcp_bytes_received,
        tcp_bytes_acked,
        task_pid,
        task_tgid,
        epitem_link,
        epitem_set,
        set_waiters,
        waiter_link,
        waiter_task,
        ..
    } = *offsets;
    for (together, first) in [
        (&[task_mm, mm_arg_start][..], &mut offsets.mm_arg_start),
        (&[task_signal, signal_live], &mut offsets.signal_live),
        (&[file_inode, inode_ino], &mut offsets.inode_ino),
        (
            &[
                epitem_link,
                epitem_set,
                set_waiters,
                waiter_link,
                waiter_task,
                task_pid,
                task_tgid,
            ],
            &mut offsets.epitem_link,
        ),
        (&[sock_daddr, sock_saddr], &mut offsets.sock_daddr),
        (&[sock_v6_daddr, sock_v6_saddr], &mut offsets.sock_v6_daddr),
        (&[sock_dport, sock_num], &mut offsets.sock_num),
        (&[sock_net, net_inum], &mut offsets.net_inum),
        (
            &[
                sock_state,
                tcp_copied_seq,
                tcp_write_seq,
                tcp_rcv_nxt,
                tcp_snd_una,
                tcp_bytes_received,
                tcp_bytes_acked,
            ],
            &mut offsets.tcp_copied_seq,
        ),
    ] {
        if missing(together) {
            *first = Offsets::MISSING;
        }
    }
    degrade_requests(offsets);
}

/// Marks the field that the programs check first, if another field of an io_uring's requests is missing.
fn degrade_requests(offsets: &mut Offsets) {
    let Offsets {
        request_operation,
        request_file,
        request_flags,
        request_message_flags,
        request_buffer,
        request_address,
        request_length,
        request_data,
        message_kind,
        message_buffer,
        message_moved,
        ..
    } = offsets;
    let others = [
        *request_file,
        *request_flags,
        *request_message_flags,
        *request_buffer,
        *request_address,
        *request_length,
        *request_data,
        *message_kind,
        *message_buffer,
        *message_moved,
    ];
    if others.contains(&Offsets::MISSING) {
        *request_operation = Offsets::MISSING;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_requests_are_lost_together_or_not_at_all() {
        let btf = Btf::of_kernel().unwrap();
        let all = offsets(&btf, &[]);
        let fields: Vec<String> = {
            let mut fields = Vec::new();
            look(&btf, &mut |name, offset, need| {
                if matches!(need, Need::Besides(_)) {
                    fields.push(name);
                }
                offset
            });
            fields
        };
        assert!(all.events.rings && all.events.besides.is_empty() && fields.len() > 2);
        let some = offsets(&btf, &fields[1..3]);
        let told: Vec<&str> = some.events.besides.iter().map(|lost| lost.what.as_str()).collect();
        assert_eq!(told, [fields[1..3].join(", ")]);
        assert_eq!(some.offsets.request_operation, Offsets::MISSING);
        let none = offsets(&btf, &fields);
        assert!(!none.events.rings && none.events.besides.is_empty());
        assert_eq!(none.lost, all.lost);
    }
}
