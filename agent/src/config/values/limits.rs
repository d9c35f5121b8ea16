//! Sizes, numbers and times that bound what Spoor holds.

use std::time::Duration;

use bytesize::ByteSize;

/// Parses a number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "give a number of bytes, with or without a unit, as 8388608, 8MiB or 64KiB".to_owned())?;
    Ok(size.as_u64())
}

/// Lower bound on the ring buffer: seven of the largest records, and a multiple of every architecture's page size.
const RING_LEAST: u64 = 64 * 1024;
/// Upper bound on the ring buffer.
const RING_MOST: u64 = 1024 * 1024 * 1024;

/// Parses the ring buffer's size in bytes.
pub fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !bytes.is_power_of_two() || !(RING_LEAST..=RING_MOST).contains(&bytes) {
        return Err("the kernel wants a power of two, here from 64KiB to 1GiB, as 8MiB or 16MiB".to_owned());
    }
    Ok(bytes as u32)
}

/// Upper bound on the size of the kernel's table of connections.
const MOST_CONNECTIONS: u32 = 4_194_304;
/// Upper bound on the time that a span may wait, in seconds.
const HOLD_SECONDS_MOST: u64 = 3600;

/// Parses the time in seconds that a span may wait for its parent.
pub fn hold_seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if seconds <= HOLD_SECONDS_MOST => Ok(seconds),
        _ => Err(format!(
            "give whole seconds from 0 to {HOLD_SECONDS_MOST}, without a unit, as 10"
        )),
    }
}

/// Parses the number of connections that may be followed.
pub fn max_connections(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(most) if (1..=MOST_CONNECTIONS).contains(&most) => Ok(most),
        _ => Err(format!("give a number from 1 to {MOST_CONNECTIONS}, as 65536")),
    }
}

/// Lower bound on the queue for export: some hundred spans.
const QUEUE_LEAST: usize = 64 * 1024;

/// Parses the size in bytes of the queue for export.
pub fn queue_bytes(text: &str) -> Result<usize, String> {
    match usize::try_from(bytes(text)?) {
        Ok(bytes) if bytes >= QUEUE_LEAST => Ok(bytes),
        _ => Err("give at least 64KiB, as 64MiB".to_owned()),
    }
}

/// Parses the time that a connection may be idle.
pub fn idle_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("give a time of at least 1s with its unit, as 90s, 15m or 2h".to_owned()),
    }
}
