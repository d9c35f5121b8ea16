//! A minimal HTTP client: one GET, and a connection that stays open for more of them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime},
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
    /// The connection.
    pub stream: TcpStream,
    /// The request.
    pub request: Vec<u8>,
    /// Length of each response, head and body.
    pub response_bytes: usize,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, and makes a first request, which tells the length of all responses: of a server that says the same each
    /// time.
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

/// Returns the length of the response, head and body: once its head is complete, or its last chunk.
fn response_bytes(text: &[u8]) -> Option<usize> {
    let head = text.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let lines = std::str::from_utf8(&text[..head]).ok()?.lines();
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let field = |wanted: &str| {
        let mut named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.next().map(|(_, value)| *value)
    };
    if field("transfer-encoding") == Some("chunked") {
        return text[head..].ends_with(b"\r\n0\r\n\r\n").then_some(text.len());
    }
    Some(head + field("content-length")?.parse::<usize>().ok()?)
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
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(response_bytes(chunked), Some(chunked.len()));
        assert_eq!(response_bytes(&chunked[..chunked.len() - 1]), None);
    }
}
