//! The little HTTP/1.1 that the service needs.

use anyhow::{Context, Result};

/// Takes the first message from what was received, if all of it is there.
pub fn take(input: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    const BLANK: &[u8] = b"\r\n\r\n";
    let Some(head) = input.windows(BLANK.len()).position(|window| window == BLANK) else {
        return Ok(None);
    };
    let mut fields = std::str::from_utf8(&input[..head])?
        .lines()
        .filter_map(|line| line.split_once(": "));
    let body: usize = match fields.find(|(name, _)| *name == "Content-Length") {
        Some((_, bytes)) => bytes.parse()?,
        None => 0,
    };
    let end = head + BLANK.len() + body;
    if input.len() < end {
        return Ok(None);
    }
    let rest = input.split_off(end);
    Ok(Some(std::mem::replace(input, rest)))
}

/// Returns the response to a request for `/STATUS/BYTES/…`: this status, and a body of that many bytes.
pub fn answer(request: &[u8]) -> Result<Vec<u8>> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = std::str::from_utf8(line)?.split(['/', ' ']).skip(2);
    let mut part = || parts.next().context("the target is too short");
    let status = part()?;
    let bytes: usize = part()?.parse()?;
    let mut response = format!("HTTP/1.1 {status} Said\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
    response.resize(response.len() + bytes, b'b');
    Ok(response)
}
