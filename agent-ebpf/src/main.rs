//! The eBPF programs.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make public functions that carry no docs")]

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

/// Does nothing, so that the object has a program to load.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec(_: RawTracePointContext) -> i32 {
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier refuses any path on which this could be reached.
    loop {}
}

/// The kernel lets only GPL-compatible programs call tracing helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
