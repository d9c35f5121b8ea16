//! What the eBPF programs and the agent share: the [`abi`] (records, keys, counters) and the pure logic that runs on
//! both sides ([`classify`]). Nothing here needs the kernel, so all of it is tested on the host.
#![no_std]

pub mod abi;
pub mod classify;
pub mod framing;
