//! The kernel's field offsets, as the programs want them.

use agent_ebpf::abi::Offsets;

use super::btf::Btf;

/// Reads all offsets. Those that this kernel does not have are [`Offsets::MISSING`], and listed as `struct.member`.
pub fn offsets(btf: &Btf) -> (Offsets, Vec<String>) {
    let mut missing = Vec::new();
    let mut of = |structure: &str, member: &str| {
        btf.offset(structure, member).unwrap_or_else(|| {
            missing.push(format!("{structure}.{member}"));
            Offsets::MISSING
        })
    };
    // `struct file` counts its references in `f_ref`, minus one, since 6.13
    // (https://github.com/torvalds/linux/commit/90ee6ed776c06435a3fe79c7f5344761f52e1760).
    let newer_count = btf.offset("file", "f_ref");
    let offsets = Offsets {
        task_stack: of("task_struct", "stack"),
        task_files: of("task_struct", "files"),
        task_tgid: of("task_struct", "tgid"),
        task_signal: of("task_struct", "signal"),
        task_exit_code: of("task_struct", "exit_code"),
        task_mm: of("task_struct", "mm"),
        mm_arg_start: of("mm_struct", "arg_start"),
        signal_live: of("signal_struct", "live"),
        stack_to_regs: Offsets::MISSING,
        files_fdt: of("files_struct", "fdt"),
        fdt_max_fds: of("fdtable", "max_fds"),
        fdt_fd: of("fdtable", "fd"),
        file_op: of("file", "f_op"),
        file_private: of("file", "private_data"),
        file_inode: of("file", "f_inode"),
        file_count: newer_count.unwrap_or_else(|| of("file", "f_count")),
        file_count_bias: newer_count.is_some() as u32,
        inode_ino: of("inode", "i_ino"),
        socket_sk: of("socket", "sk"),
        sock_type: of("sock", "sk_type"),
        sock_family: of("sock_common", "skc_family"),
        sock_state: of("sock_common", "skc_state"),
        sock_dport: of("sock_common", "skc_dport"),
        sock_num: of("sock_common", "skc_num"),
        sock_daddr: of("sock_common", "skc_daddr"),
        sock_saddr: of("sock_common", "skc_rcv_saddr"),
        sock_v6_daddr: of("sock_common", "skc_v6_daddr"),
        sock_v6_saddr: of("sock_common", "skc_v6_rcv_saddr"),
        sock_net: of("sock_common", "skc_net"),
        net_inum: of("net", "ns.inum"),
        sock_protocol: of("sock", "sk_protocol"),
        sock_err: of("sock", "sk_err"),
        sock_shutdown: of("sock", "sk_shutdown"),
        tcp_copied_seq: of("tcp_sock", "copied_seq"),
        tcp_write_seq: of("tcp_sock", "write_seq"),
        tcp_rcv_nxt: of("tcp_sock", "rcv_nxt"),
        tcp_snd_una: of("tcp_sock", "snd_una"),
        tcp_bytes_received: of("tcp_sock", "bytes_received"),
        tcp_bytes_acked: of("tcp_sock", "bytes_acked"),
        unix_peer: of("unix_sock", "peer"),
        upper_layer: of("inet_connection_sock", "icsk_ulp_ops"),
        typed_task: 0,
        socket_file_ops: 0,
    };
    (offsets, missing)
}
