//! A service with a thread for each connection, which serves each request by a call over a connection that the thread
//! keeps; its back; and a client with threads. It is a program of its own, because the agent finds parents by what runs
//! in a process, and only threads may run here.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result, bail, ensure};

/// Answer of the back, which the front passes on.
const BODY: &str = "from the back";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["back"] => back(),
        ["front", back] => front(back),
        ["client", front] => client(front),
        _ => bail!("no such part: {words:?}"),
    }
}

/// Answers every request with the same body.
fn back() -> Result<()> {
    let listener = listen()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            while receive(&mut stream, 0)?.is_some() {
                answer(&mut stream)?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Calls the back for each request.
fn front(back: &str) -> Result<()> {
    let back: SocketAddr = back.parse()?;
    let listener = listen()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            let mut call = TcpStream::connect(back)?;
            while let Some(head) = receive(&mut stream, 0)? {
                let target = head.split(' ').nth(1).context("no target")?;
                request(&mut call, &format!("/back{target}"))?;
                answer(&mut stream)?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Sends the requests that standard input names, `CASE THREADS REQUESTS` a line.
fn client(front: &str) -> Result<()> {
    let front: SocketAddr = front.parse()?;
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [case, threads, each] = words[..] else {
            bail!("no such command: {line}");
        };
        let (threads, each): (usize, usize) = (threads.parse()?, each.parse()?);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || -> Result<()> {
                        let mut stream = TcpStream::connect(front)?;
                        (0..each).try_for_each(|number| request(&mut stream, &format!("/{case}/{thread}/{number}")))
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
        })?;
        println!("done");
    }
    Ok(())
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

fn request(stream: &mut TcpStream, target: &str) -> Result<()> {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: guest\r\n\r\n").as_bytes())?;
    let head = receive(stream, BODY.len())?.context("the connection ended before the response")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "the response is {head:?}");
    Ok(())
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    let length = BODY.len();
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{BODY}");
    stream.write_all(response.as_bytes())?;
    Ok(())
}

/// Reads a head and that many bytes behind it; `None` at the connection's end.
fn receive(stream: &mut TcpStream, body: usize) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            ensure!(bytes.is_empty(), "the connection ended within a message");
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head
            && bytes.len() >= head + 4 + body
        {
            return Ok(Some(String::from_utf8_lossy(&bytes[..head]).into_owned()));
        }
    }
}
