//! Facts about the running kernel that the agent puts into the programs, and the calibration that measures some of
//! them.

/// Facts about the running kernel, in the programs before they are loaded: offsets in kernel structs (bytes, from BTF),
/// and abilities found by trying. A field that this kernel does not have is [`Offsets::MISSING`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// `task_struct.stack`
    pub task_stack: u32,
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.pid`: the thread's id
    pub task_pid: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// The word of `task_struct.thread_info` that shows a 32-bit system call: `status` (x86-64), `flags` (64-bit ARM)
    pub thread_status: u32,
    /// `mm_struct.arg_start`; `arg_end`, `env_start` and `env_end` follow it
    pub mm_arg_start: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// Distance from `task->stack` to the saved registers of a system call, measured at start.
    pub stack_to_regs: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdt_max_fds: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `file.f_op`
    pub file_op: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// The reference count of `struct file`: `f_count` (6.12 and older) or `f_ref`
    pub file_count: u32,
    /// 1: the count is stored minus one (`f_ref`, 6.13 and newer)
    pub file_count_bias: u32,
    /// `file.f_ep`: not 0 while an epoll set watches the file
    pub file_epoll: u32,
    /// `epitem.fllink`: the element of the list at `file.f_ep`
    pub epitem_link: u32,
    /// `epitem.ep`
    pub epitem_set: u32,
    /// `eventpoll.wq.head`: the threads that wait for the set
    pub set_waiters: u32,
    /// `wait_queue_entry.entry`
    pub waiter_link: u32,
    /// `wait_queue_entry.private`: the thread
    pub waiter_task: u32,
    /// `task_struct.nvcsw`: how often the thread went to sleep
    pub task_sleeps: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `socket.file`
    pub socket_file: u32,
    /// `sock.sk_socket`
    pub sock_socket: u32,
    /// `sock.sk_type` (u16 since 5.6)
    pub sock_type: u32,
    /// `sock_common.skc_family`
    pub sock_family: u32,
    /// `sock_common.skc_state`
    pub sock_state: u32,
    /// `sock_common.skc_dport`
    pub sock_dport: u32,
    /// `sock_common.skc_num`
    pub sock_num: u32,
    /// `sock_common.skc_daddr`
    pub sock_daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub sock_saddr: u32,
    /// `sock_common.skc_v6_daddr`
    pub sock_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub sock_v6_saddr: u32,
    /// `sock_common.skc_net`
    pub sock_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `sock.sk_protocol` (u16 since 5.6)
    pub sock_protocol: u32,
    /// `sock.sk_err`
    pub sock_err: u32,
    /// `sock.sk_shutdown`
    pub sock_shutdown: u32,
    /// `tcp_sock.copied_seq`
    pub tcp_copied_seq: u32,
    /// `tcp_sock.write_seq`
    pub tcp_write_seq: u32,
    /// `tcp_sock.rcv_nxt`
    pub tcp_rcv_nxt: u32,
    /// `tcp_sock.snd_una`
    pub tcp_snd_una: u32,
    /// `tcp_sock.bytes_received`
    pub tcp_bytes_received: u32,
    /// `tcp_sock.bytes_acked`
    pub tcp_bytes_acked: u32,
    /// `unix_sock.peer`
    pub unix_peer: u32,
    /// `inet_connection_sock.icsk_ulp_ops`
    pub upper_layer: u32,
    /// 1: the verifier accepts loads from the current task's fields without a helper (since 5.11), found by trying.
    pub typed_task: u32,
    /// `io_kiocb.opcode`; `MISSING` also if another field of requests is
    pub request_operation: u32,
    /// `io_kiocb.file`
    pub request_file: u32,
    /// `io_kiocb.flags`
    pub request_flags: u32,
    /// `io_sr_msg.flags`, of a request that sends or receives
    pub request_message_flags: u32,
    /// `io_sr_msg.buf`
    pub request_buffer: u32,
    /// `io_rw.addr`, of a request that reads or writes
    pub request_address: u32,
    /// `io_rw.len`
    pub request_length: u32,
    /// `io_kiocb.async_data`: an `io_async_msghdr`, if the request sends or receives
    pub request_data: u32,
    /// `io_async_msghdr.msg.msg_iter.iter_type`
    pub message_kind: u32,
    /// `io_async_msghdr.msg.msg_iter.ubuf`
    pub message_buffer: u32,
    /// `io_async_msghdr.msg.msg_iter.iov_offset`
    pub message_moved: u32,
    /// 1: a splice(2) out of a Multipath TCP socket has no event
    pub multipath_splices: u32,
    /// BTF id of a struct that begins with a word: kernel memory can be loaded as that struct without a helper (since
    /// 6.2), found by trying. 0: it cannot.
    pub word_type: u32,
    /// BTF id of the kernel's function `bpf_rdonly_cast`; 0: none.
    pub read_only_cast: u32,
    /// 1: the programs of the family `sock` run, which report at the events of sockets. 0: those of the family
    /// `syscall`.
    pub by_events: u32,
    /// Address of the `file_operations` of sockets, learned from a socket of the agent.
    pub socket_file_ops: u64,
    /// 1: one of the programs that see bytes can preempt another one. At system calls the functions in BTF show that, at
    /// raw tracepoints the kernel's version does.
    pub preemptible: u64,
}

/// Number of a helper that no kernel has. The agent replaces it by the id of the kernel's function `bpf_rdonly_cast`.
pub const READ_ONLY_CAST: i32 = 0x7053_6f72;

impl Offsets {
    /// Value in place of an offset: this kernel has no such field.
    pub const MISSING: u32 = u32::MAX;

    /// Offsets before user space has filled them in.
    pub const UNKNOWN: Self = Self {
        task_stack: Self::MISSING,
        task_files: Self::MISSING,
        task_tgid: Self::MISSING,
        task_pid: Self::MISSING,
        task_signal: Self::MISSING,
        task_exit_code: Self::MISSING,
        task_mm: Self::MISSING,
        thread_status: Self::MISSING,
        mm_arg_start: Self::MISSING,
        signal_live: Self::MISSING,
        stack_to_regs: Self::MISSING,
        files_fdt: Self::MISSING,
        fdt_max_fds: Self::MISSING,
        fdt_fd: Self::MISSING,
        file_op: Self::MISSING,
        file_private: Self::MISSING,
        file_inode: Self::MISSING,
        file_count: Self::MISSING,
        file_count_bias: Self::MISSING,
        file_epoll: Self::MISSING,
        epitem_link: Self::MISSING,
        epitem_set: Self::MISSING,
        set_waiters: Self::MISSING,
        waiter_link: Self::MISSING,
        waiter_task: Self::MISSING,
        task_sleeps: Self::MISSING,
        inode_ino: Self::MISSING,
        socket_sk: Self::MISSING,
        socket_file: Self::MISSING,
        sock_socket: Self::MISSING,
        sock_type: Self::MISSING,
        sock_family: Self::MISSING,
        sock_state: Self::MISSING,
        sock_dport: Self::MISSING,
        sock_num: Self::MISSING,
        sock_daddr: Self::MISSING,
        sock_saddr: Self::MISSING,
        sock_v6_daddr: Self::MISSING,
        sock_v6_saddr: Self::MISSING,
        sock_net: Self::MISSING,
        net_inum: Self::MISSING,
        sock_protocol: Self::MISSING,
        sock_err: Self::MISSING,
        sock_shutdown: Self::MISSING,
        tcp_copied_seq: Self::MISSING,
        tcp_write_seq: Self::MISSING,
        tcp_rcv_nxt: Self::MISSING,
        tcp_snd_una: Self::MISSING,
        tcp_bytes_received: Self::MISSING,
        tcp_bytes_acked: Self::MISSING,
        unix_peer: Self::MISSING,
        upper_layer: Self::MISSING,
        request_operation: Self::MISSING,
        request_file: Self::MISSING,
        request_flags: Self::MISSING,
        request_message_flags: Self::MISSING,
        request_buffer: Self::MISSING,
        request_address: Self::MISSING,
        request_length: Self::MISSING,
        request_data: Self::MISSING,
        message_kind: Self::MISSING,
        message_buffer: Self::MISSING,
        message_moved: Self::MISSING,
        multipath_splices: 0,
        typed_task: 0,
        word_type: 0,
        read_only_cast: 0,
        by_events: 0,
        socket_file_ops: 0,
        preemptible: 0,
    };
}

/// Measurement of facts that BTF does not hold: one memory-mapped entry. The agent fills in the first half, makes the
/// system call, and reads the second half.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Calibration {
    /// Thread that makes the call.
    pub tid: u32,
    /// Number of the call.
    pub syscall: u32,
    /// Descriptor of a socket of that thread.
    pub fd: u32,
    /// Always 0.
    pub pad: u32,
    /// Distance from `task->stack` to the saved registers. It depends on the kernel's configuration
    /// (`CONFIG_X86_FRED`).
    pub stack_to_regs: u64,
    /// Address of `socket_file_ops`, which shows that a file is a socket.
    pub socket_file_ops: u64,
}
