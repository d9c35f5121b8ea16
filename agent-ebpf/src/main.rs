//! The eBPF programs: they report what targets do on their sockets, and decide nothing that can wait.
//!
//! [`hooks`] are what the kernel runs; [`socket`] finds the connection and the place in its stream; [`report`] makes the
//! records of a call as [`agent_ebpf::plan`] says, [`copy`] copies its bytes, [`submit`] submits.
//!
//! All programs of system calls are perf-attached tracepoints. Most kernels run them with preemption off and never one
//! inside another, so they may share one memory a processor; where one can preempt another (7.3), it is taken and
//! given back ([`scratch::enter`]), and no program may have a stack of the processor's ([`scratch::on_own_stack`]). Raw
//! tracepoints fire in interrupts too: they touch none of it.
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

/// What the kernel asks for before it lets a program use tracing helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
