//! Code that the eBPF programs and the agent share: the [`abi`] (records, hints, counters) and the pure logic that runs on both
//! sides: [`plan`], [`frame`], [`classify`]. Nothing here needs the kernel, so all of it is tested on the host.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod classify;
pub mod frame;
pub mod plan;
pub mod slot;
