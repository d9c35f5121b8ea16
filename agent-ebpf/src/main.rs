//! The eBPF programs: they report what targets do on their sockets, and decide nothing that can wait.
//!
//! [`socket`] holds the hooks of system calls that move bytes, [`life`] those of a connection's birth and death, [`task`]
//! those of processes. [`segment`] turns a call into records, [`body`] passes over
//! what need not be copied, [`kernel`] walks kernel structs, [`emit`] submits.
//!
//! All programs of system calls are perf-attached tracepoints. Most kernels run them with preemption off and never one
//! inside another, so they may share one scratch area a processor; where one can preempt another (7.3), it is taken and
//! given back ([`maps::enter`]), and no program may have a stack of the processor's ([`maps::on_own_stack`]). Raw
//! tracepoints fire in interrupts too: they touch none of it.
#![no_std]
#![no_main]

mod body;
mod calibrate;
mod connection;
mod emit;
mod kernel;
mod life;
mod maps;
mod reference;
mod segment;
mod socket;
mod task;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the kernel asks for before it lets a program use tracing helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
