//! Tables of all programs: where each is attached, and the loss without it.

use super::family::Family;

/// Tracepoint that a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint of the category `syscalls`.
    Syscall(&'static str),
    /// A raw tracepoint.
    Raw(&'static str),
}

/// A program of the object, and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// The program's name in the object.
    pub program: &'static str,
    /// The tracepoint.
    pub hook: Hook,
    /// The feature that does not work without it; `None`: nothing works without it.
    pub feature: Option<&'static str>,
    /// Time at which the program is attached. All programs are loaded at the start, so that the ones this kernel
    /// refuses are known then.
    pub when: When,
    /// True if a supported kernel may lack the system call. Nobody makes it there, and nothing is lost.
    pub may_be_unknown: bool,
}

/// Time when a program is attached. A hook slows the calls of all processes, so it is not attached before it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At the start.
    Always,
    /// Once a target speaks HTTP on a Unix socket.
    UnixHttp,
    /// Once a target sends by splice(2).
    Splice,
}

const fn syscall(program: &'static str, name: &'static str, feature: Option<&'static str>) -> Attachment {
    Attachment {
        program,
        hook: Hook::Syscall(name),
        feature,
        when: When::Always,
        may_be_unknown: false,
    }
}

/// Returns the attachment of a call that matters for Unix connections only. Every process makes such calls all the time.
const fn unix(program: &'static str, name: &'static str, feature: &'static str) -> Attachment {
    Attachment {
        when: When::UnixHttp,
        ..syscall(program, name, Some(feature))
    }
}

pub(super) const fn raw(program: &'static str, name: &'static str, feature: Option<&'static str>) -> Attachment {
    Attachment {
        program,
        hook: Hook::Raw(name),
        feature,
        when: When::Always,
        may_be_unknown: false,
    }
}

/// Feature that needs the hooks of epoll_wait(2), or facts that the programs at the socket events take instead.
pub(super) const EVENT_LOOPS: &str = "threads that wait for events are not told from threads that block";
/// Feature that needs the requests of io_urings, in [`Family::Sock`] alone.
pub(super) const REQUESTS: &str = "content that is moved by an io_uring";
/// Feature that needs a hook of each receive, in [`Family::Sock`] alone.
const SPLICES: &str = "ends of bodies that are received by splice(2): they are seen at the next call on the connection";
/// Feature that needs a hook of splice(2), in [`Family::Sock`] alone.
const UNIX_SPLICES: &str = "Unix connections out of which bytes are moved by splice(2): they are ignored from then on";
const OPENERS: &str = "failed connects, and the opener rule for parents";
const UNIX_OPENERS: &str = "failed connects to Unix sockets, and the opener rule for them";
const UNIX_ACCEPTS: &str = "accepts on Unix sockets: such connections are picked up at their first request";
const IO_URING: &str = "the warning about io_uring";

/// Returns all programs of a family, in the order of attaching: processes first, so that none forks unseen; then opens of
/// connections, then bytes, so that no byte is reported before its connection.
pub fn plan(family: Family) -> impl Iterator<Item = &'static Attachment> {
    let (opens, bytes) = match family {
        Family::Sock => (UNIX_OPENS, EVENTS),
        Family::Syscall => (OPENS, CALLS),
    };
    PROCESSES.iter().chain(opens).chain(UNIX_ENDS).chain(bytes)
}

/// Programs that see what processes and TCP connections do.
const PROCESSES: &[Attachment] = &[
    raw("process_fork", "sched_process_fork", None),
    raw(
        "process_exec",
        "sched_process_exec",
        Some("programs that start after the agent are found late"),
    ),
    raw(
        "process_exit",
        "sched_process_exit",
        Some("exchanges of processes that die end late"),
    ),
    raw("tcp_called", "inet_sock_set_state", None),
    raw("tcp_state", "inet_sock_set_state", None),
];

/// Programs that see connections open: all in [`Family::Syscall`].
const OPENS: &[Attachment] = &[
    syscall(
        "accept_exit",
        "sys_exit_accept",
        Some("accept(2): such connections are picked up at their first request"),
    ),
    syscall(
        "accept4_exit",
        "sys_exit_accept4",
        Some("accept4(2): such connections are picked up at their first request"),
    ),
    syscall("connect_enter", "sys_enter_connect", Some(OPENERS)),
    syscall("connect_exit", "sys_exit_connect", Some(OPENERS)),
];

/// The same programs in [`Family::Sock`], where they look at Unix sockets only: TCP connections are seen to open by their
/// changes of state.
const UNIX_OPENS: &[Attachment] = &[
    unix("accept_exit", "sys_exit_accept", UNIX_ACCEPTS),
    unix("accept4_exit", "sys_exit_accept4", UNIX_ACCEPTS),
    unix("connect_enter", "sys_enter_connect", UNIX_OPENERS),
    unix("connect_exit", "sys_exit_connect", UNIX_OPENERS),
];

/// Programs that see Unix connections end.
const UNIX_ENDS: &[Attachment] = &[
    unix("close_enter", "sys_enter_close", "ends of Unix connections"),
    unix(
        "close_range_enter",
        "sys_enter_close_range",
        "ends of Unix connections by close_range(2)",
    ),
    // Newer architectures have no such call: their C libraries make it by dup3(2).
    #[cfg(target_arch = "x86_64")]
    unix("dup2_enter", "sys_enter_dup2", "ends of Unix connections by dup2(2)"),
    unix("dup3_enter", "sys_enter_dup3", "ends of Unix connections by dup3(2)"),
    unix("shutdown_exit", "sys_exit_shutdown", "half-closed Unix connections"),
];

/// Programs of [`Family::Sock`] that see bytes move, and the requests of io_urings.
const EVENTS: &[Attachment] = &[
    raw("sock_send", "sock_send_length", None),
    raw("sock_receive", "sock_recv_length", None),
    Attachment {
        when: When::Splice,
        ..raw("tcp_spliced", "tcp_rcv_space_adjust", Some(SPLICES))
    },
    unix("counted_spliced", "sys_exit_splice", UNIX_SPLICES),
    raw("uring_submit", "io_uring_submit_req", Some(REQUESTS)),
    raw("uring_file", "io_uring_file_get", Some(REQUESTS)),
    raw("uring_poll", "io_uring_poll_arm", Some(REQUESTS)),
    raw("uring_worker", "io_uring_queue_async_work", Some(REQUESTS)),
    raw("uring_complete", "io_uring_complete", Some(REQUESTS)),
];

/// Programs of [`Family::Syscall`] that see bytes move, waits for events, and io_uring.
const CALLS: &[Attachment] = &[
    syscall("read_exit", "sys_exit_read", None),
    syscall("write_exit", "sys_exit_write", None),
    syscall(
        "readv_exit",
        "sys_exit_readv",
        Some("bytes that are received by readv(2)"),
    ),
    syscall(
        "writev_exit",
        "sys_exit_writev",
        Some("bytes that are sent by writev(2)"),
    ),
    syscall(
        "preadv2_exit",
        "sys_exit_preadv2",
        Some("bytes that are received by preadv2(2)"),
    ),
    syscall(
        "pwritev2_exit",
        "sys_exit_pwritev2",
        Some("bytes that are sent by pwritev2(2)"),
    ),
    syscall("recvfrom_exit", "sys_exit_recvfrom", None),
    syscall("sendto_exit", "sys_exit_sendto", None),
    syscall(
        "recvmsg_exit",
        "sys_exit_recvmsg",
        Some("bytes that are received by recvmsg(2)"),
    ),
    syscall(
        "sendmsg_exit",
        "sys_exit_sendmsg",
        Some("bytes that are sent by sendmsg(2)"),
    ),
    syscall(
        "recvmmsg_exit",
        "sys_exit_recvmmsg",
        Some("bytes that are received by recvmmsg(2)"),
    ),
    syscall(
        "sendmmsg_exit",
        "sys_exit_sendmmsg",
        Some("bytes that are sent by sendmmsg(2)"),
    ),
    syscall(
        "sendfile64_exit",
        "sys_exit_sendfile64",
        Some("bodies that are sent by sendfile(2)"),
    ),
    syscall(
        "splice_exit",
        "sys_exit_splice",
        Some("bodies that are moved by splice(2)"),
    ),
    // Newer architectures have no such call: their C libraries make it by epoll_pwait(2).
    #[cfg(target_arch = "x86_64")]
    syscall("epoll_wait_exit", "sys_exit_epoll_wait", Some(EVENT_LOOPS)),
    syscall("epoll_pwait_exit", "sys_exit_epoll_pwait", Some(EVENT_LOOPS)),
    // Since 5.11.
    Attachment {
        may_be_unknown: true,
        ..syscall("epoll_pwait2_exit", "sys_exit_epoll_pwait2", Some(EVENT_LOOPS))
    },
    syscall("io_uring_setup_exit", "sys_exit_io_uring_setup", Some(IO_URING)),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_socket_events_need_no_hook_of_a_system_call_at_the_start() {
        let hooked =
            |family| plan(family).filter(|one| one.when == When::Always && matches!(one.hook, Hook::Syscall(_)));
        assert_eq!(hooked(Family::Sock).count(), 0);
        assert!(hooked(Family::Syscall).count() > 10);
    }

    #[test]
    fn a_program_has_one_place_in_a_family() {
        for family in Family::ALL {
            let names: BTreeSet<&str> = plan(family).map(|one| one.program).collect();
            assert_eq!(names.len(), plan(family).count());
            assert!(!names.contains(family.reporter()));
        }
    }
}
