//! Sizes, numbers and times that bound what Spoor holds.

use std::time::Duration;

use bytesize::ByteSize;

/// A number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "give a number of bytes, with or without a unit, as 8388608, 8MiB or 64KiB".to_owned())?;
    Ok(size.as_u64())
}

/// Smallest ring buffer: seven of the largest records, and a multiple of every architecture's page size.
const RING_LEAST: u64 = 64 * 1024;
/// Largest ring buffer.
const RING_MOST: u64 = 1024 * 1024 * 1024;

/// The ring buffer's size.
pub fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !bytes.is_power_of_two() || !(RING_LEAST..=RING_MOST).contains(&bytes) {
        return Err("the kernel wants a power of two, here from 64KiB to 1GiB, as 8MiB or 16MiB".to_owned());
    }
    Ok(bytes as u32)
}

/// Most connections that the kernel's table can be made for.
const MOST_CONNECTIONS: u32 = 4_194_304;
/// Longest time that a span may wait, in seconds.
const HOLD_SECONDS_MOST: u64 = 3600;

/// How long a span may wait for its parent.
pub fn hold_seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if seconds <= HOLD_SECONDS_MOST => Ok(seconds),
        _ => Err(format!(
            "give whole seconds from 0 to {HOLD_SECONDS_MOST}, without a unit, as 10"
        )),
    }
}

/// How many connections may be followed.
pub fn max_connections(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(most) if (1..=MOST_CONNECTIONS).contains(&most) => Ok(most),
        _ => Err(format!("give a number from 1 to {MOST_CONNECTIONS}, as 65536")),
    }
}

/// Smallest queue for export: some hundred spans.
const QUEUE_LEAST: u64 = 64 * 1024;

/// The size of the queue for export.
pub fn queue_bytes(text: &str) -> Result<usize, String> {
    let bytes = bytes(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes >= QUEUE_LEAST)
        .ok_or_else(|| "give at least 64KiB, as 64MiB".to_owned())
}

/// How long a connection may be idle.
pub fn idle_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("give a time of at least 1s with its unit, as 90s, 15m or 2h".to_owned()),
    }
}
