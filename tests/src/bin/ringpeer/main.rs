//! A service on io_uring, and with the address of another one a proxy of it, which calls it on the ring, too. It moves
//! bytes by no system call of its own.

mod http;
mod loops;
mod ring;
mod runtime;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{loops::Loop, ring::Way};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (how, upstream) = match words[..] {
        [how] => (how, None),
        [how, upstream] => (how, Some(upstream.parse::<SocketAddr>()?)),
        _ => bail!("not `HOW [UPSTREAM]`: {words:?}"),
    };
    let port: u16 = std::env::var("PORT").context("no PORT")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let way = match how {
        "tokio" => return runtime::serve(listener, upstream),
        "receive" => Way::Receive,
        "read" => Way::Read,
        "multishot" => Way::Multishot,
        "multishot-read" => Way::MultishotRead,
        "linked" => Way::Linked,
        "worker" => Way::Worker,
        "peeking" => Way::Peeking,
        "computing" => Way::Computing,
        "cancelling" => Way::Cancelling,
        "silent" => Way::Silent,
        "zero-copy" => Way::ZeroCopy,
        "poll-first" => Way::PollFirst,
        "polled" => Way::Polled(Duration::from_millis(50)),
        _ => bail!("no such way: {how}"),
    };
    Loop::new(way, listener, upstream)?.run()
}
