//! Loopback ports and a minimal HTTP client.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// Returns a free loopback address. Its port is below the range of connecting sockets, so that none of a test's many
/// connections takes it before the service does.
pub fn free_address() -> SocketAddr {
    // Below it are ports that fetch() refuses to call, 10080 the last one (https://fetch.spec.whatwg.org/#port-blocking).
    const FIRST: u16 = 10_081;
    const PORTS: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time begin at different ports.
    let start = (std::process::id().wrapping_mul(97) % u32::from(PORTS)) as u16;
    loop {
        let port = FIRST + (u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) as u16 % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits until a server accepts connections at `address`.
pub fn wait_accepting(address: SocketAddr, process: &mut Process) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + LIMIT;
    loop {
        match TcpStream::connect(address) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("nobody accepts connections at {address} after {LIMIT:?}: {error}");
            }
            Err(_) => process.check_running()?,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the status of a GET on a connection of its own. The request has no other headers than these.
pub fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<u16> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    let response =
        exchange(address, request.as_bytes()).with_context(|| format!("GET http://{address}{path} failed"))?;
    let status = response
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok());
    status.with_context(|| {
        format!(
            "http://{address}{path} gave no HTTP response: {:?}",
            String::from_utf8_lossy(&response)
        )
    })
}

fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    const LIMIT: Duration = Duration::from_secs(20);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(request)?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(response)
}
