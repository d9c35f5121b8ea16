//! The clocks, in nanoseconds.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Reads `CLOCK_MONOTONIC`, the clock of the kernel's records.
pub(super) fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Reads the time since the Unix epoch.
pub(super) fn unix_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// Converts a time after the clock's epoch.
fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
