//! The eBPF programs: they report what targets do on their sockets, and decide nothing that can wait.
//!
//! [`hooks`] holds the entry points; [`socket`] finds the connection and the place in its stream; [`report`] makes the
//! records of a call as [`agent_ebpf::plan`] decides, [`copy`] copies its bytes, [`submit`] submits them.
//!
//! All programs of system calls are perf-attached tracepoints. Most kernels run them with preemption off and never nest
//! them, so they share one scratch memory for each processor. Where one can preempt another (Linux 7.3), a program
//! takes the memory and gives it back ([`scratch::enter`]), and must not run on a stack of the processor
//! ([`scratch::on_own_stack`]). Raw tracepoints fire in interrupts too: they do not touch that memory, except the events
//! of sockets and [`hooks::splice::tcp_spliced`], which act in the calls of a process alone.
#![no_std]
#![no_main]

mod calibrate;
mod copy;
mod counters;
mod hooks;
mod kernel;
mod maps;
mod reference;
mod report;
mod scratch;
mod socket;
mod submit;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Licence of the programs. The kernel allows tracing helpers only to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
