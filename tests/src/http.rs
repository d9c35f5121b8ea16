//! A minimal HTTP client: one GET, and a steady rate of them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};

/// Returns the body of a GET on a connection of its own. HTTP/1.0, so that the body is not chunked.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let what = || format!("GET http://{address}{path} failed");
    let mut stream = TcpStream::connect(address).with_context(what)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .with_context(what)?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .with_context(what)?;
    let mut response = String::new();
    stream.read_to_string(&mut response).with_context(what)?;
    let (head, body) = response.split_once("\r\n\r\n").with_context(what)?;
    ensure!(
        head.split(' ').nth(1) == Some("200"),
        "GET http://{address}{path} gave {:?}",
        head.lines().next()
    );
    Ok(body.to_owned())
}

/// A keep-alive connection with one request after the other.
pub struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    response_bytes: usize,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, and makes a first request, which tells the length of all responses.
    pub fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut client = Self {
            stream,
            request: format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes(),
            response_bytes: 0,
            buffer: vec![0; 64 * 1024],
        };
        client.stream.write_all(&client.request)?;
        let mut read = 0;
        while client.response_bytes == 0 {
            read += client.read(read)?;
            client.response_bytes = response_bytes(&client.buffer[..read]).unwrap_or(0);
        }
        client.read_rest(read)?;
        Ok(client)
    }

    /// Makes one request; returns the time at which its response had been read.
    pub fn request(&mut self) -> Result<SystemTime> {
        self.stream.write_all(&self.request)?;
        self.read_rest(0)?;
        Ok(SystemTime::now())
    }

    fn read_rest(&mut self, mut read: usize) -> Result<()> {
        while read < self.response_bytes {
            read += self.read(read)?;
        }
        Ok(())
    }

    fn read(&mut self, at: usize) -> Result<usize> {
        let read = self.stream.read(&mut self.buffer[at..]).context("no response")?;
        ensure!(read > 0, "the server closed the connection");
        Ok(read)
    }
}

/// Returns the length of the response, head and body, once its head is complete.
fn response_bytes(text: &[u8]) -> Option<usize> {
    let head = text.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let lines = std::str::from_utf8(&text[..head]).ok()?.lines();
    let mut fields = lines.filter_map(|line| line.split_once(": "));
    let body = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1;
    Some(head + body.parse::<usize>().ok()?)
}

/// Makes `rate` requests a second over `connections` for a time, evenly; returns their number. A connection that falls
/// behind catches up.
pub fn steady(address: SocketAddr, path: &str, connections: u32, rate: f64, time: Duration) -> Result<u64> {
    let period = Duration::from_secs_f64(f64::from(connections) / rate);
    let one = |offset: Duration| -> Result<u64> {
        let mut client = Client::connect(address, path)?;
        let start = Instant::now();
        let mut next = start + offset;
        // Counts the request that opened the connection.
        let mut made = 1;
        while start.elapsed() < time {
            if let Some(early) = next.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            client.request()?;
            made += 1;
            next += period;
        }
        Ok(made)
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|number| scope.spawn(move || one(period * number / connections)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"))
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_lengths() {
        let head = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 1024\r\n\r\nab";
        assert_eq!(response_bytes(head), Some(head.len() - 2 + 1024));
        assert_eq!(response_bytes(&head[..head.len() - 4]), None);
        assert_eq!(response_bytes(b"HTTP/1.1 204 No Content\r\n\r\n"), None);
    }
}
