//! System calls that move bytes, and the shapes of their buffers.

use anyhow::{Result, ensure};

use super::{
    expected::End,
    messages::{get, post, response},
    world::{CLIENT, SERVER, Way, World},
};

/// Calls that send from user memory.
const SENDS: [&str; 6] = ["write", "sendto", "writev", "pwritev2", "sendmsg", "sendmmsg"];
/// Calls that receive into user memory.
const RECEIVES: [&str; 8] = [
    "read", "recvfrom", "readv", "preadv2", "recvmsg", "recvmmsg", "waitall", "dontwait",
];

pub fn play(world: &mut World) -> Result<()> {
    world.case("calls", every_pair)?;
    world.case("tagged-addresses", tagged_addresses)?;
    world.case("many-buffers", many_buffers)?;
    world.case("many-messages", many_messages)?;
    world.case("empty-messages", empty_messages)?;
    world.case("unseen-bodies", unseen_bodies)?;
    world.case("peek", peek)?;
    world.case("truncate", truncate)?;
    world.case("urgent", urgent)?;
    world.case("zero-length", |world, name| zero_length(world, name, "127.0.0.1:0"))?;
    let path = world.unix_path();
    world.case("zero-length-unix", |world, name| zero_length(world, name, &path))
}

/// Pairs each variant of sending with each variant of receiving, for requests and responses.
fn every_pair(world: &mut World, name: &str) -> Result<()> {
    for send in SENDS {
        let connection = world.connect()?;
        for receive in RECEIVES {
            let target = format!("/{name}/{send}/{receive}");
            for (way, bytes) in [
                (Way::Request, post(&target, "some body")),
                (Way::Response, response(200, "some answer")),
            ] {
                world.send(&connection, way, send, &[bytes.as_bytes()])?;
                // All bytes have arrived, so a call that waits for a full buffer returns.
                let sizes = [bytes.len()];
                let received = world.receive_once(&connection, way, receive, &sizes)?;
                ensure!(received == bytes.len(), "{received} of {} bytes", bytes.len());
            }
            world.expect(&target, End::ok("POST", 200).bodies(Some(9), Some(11)));
        }
        world.close(&connection)?;
    }
    Ok(())
}

/// Passes messages by addresses with a tag in their highest byte: the memory is readable nevertheless.
fn tagged_addresses(world: &mut World, name: &str) -> Result<()> {
    for peer in [CLIENT, SERVER] {
        match world.peers[peer].ask("tag-addresses")? {
            Ok(_) => {}
            Err(libc::ENOTSUP) => {
                world.skip(name, "this processor has no tagged addresses");
                return Ok(());
            }
            Err(number) => anyhow::bail!("cannot tag addresses: {}", std::io::Error::from_raw_os_error(number)),
        }
    }
    every_pair(world, name)?;
    for peer in [CLIENT, SERVER] {
        world.peers[peer].make("untag-addresses")?;
    }
    Ok(())
}

/// Passes twenty small buffers with empty ones between, at both ends.
fn many_buffers(world: &mut World, name: &str) -> Result<()> {
    for send in ["writev", "pwritev2", "sendmsg"] {
        let connection = world.connect()?;
        for receive in ["readv", "preadv2", "recvmsg"] {
            let target = format!("/{name}/{send}/{receive}");
            for (way, bytes) in [
                (Way::Request, post(&target, "some body")),
                (Way::Response, response(200, &"long answer".repeat(30))),
            ] {
                let (small, rest) = bytes.as_bytes().split_at(48);
                let mut buffers: Vec<&[u8]> = vec![&[]];
                for (index, piece) in small.chunks(3).enumerate() {
                    buffers.push(piece);
                    if index % 5 == 0 {
                        buffers.push(&[]);
                    }
                }
                buffers.push(rest);
                world.send(&connection, way, send, &buffers)?;
                let sizes = [0, 1, 2, 3, 0, 1, 1, 7, 5, 1, 1, 1, 2, 2, 2, 3, 3, 1, 1, 1, 4096];
                let received = world.receive_once(&connection, way, receive, &sizes)?;
                ensure!(received == bytes.len(), "{received} of {} bytes", bytes.len());
            }
            world.expect(&target, End::ok("POST", 200).bodies(Some(9), Some(330)));
        }
        world.close(&connection)?;
    }
    Ok(())
}

/// Passes several messages of one call, by the calls that support it, against calls that do not.
fn many_messages(world: &mut World, name: &str) -> Result<()> {
    for (send, receive) in [("sendmmsg", "read"), ("write", "recvmmsg"), ("sendmmsg", "recvmmsg")] {
        let connection = world.connect()?;
        let target = format!("/{name}/{send}/{receive}");
        for (way, bytes) in [
            (Way::Request, post(&target, "some body")),
            (Way::Response, response(200, "answer")),
        ] {
            let pieces: Vec<&[u8]> = match send {
                "sendmmsg" => bytes.as_bytes().chunks(20).collect(),
                _ => vec![bytes.as_bytes()],
            };
            world.send(&connection, way, send, &pieces)?;
            let received = world.receive_once(&connection, way, receive, &[10, 20, 4096])?;
            // Small messages wait for an acknowledgement (Nagle).
            world.receive(&connection, way, "read", bytes.len() - received)?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(9), Some(6)));
        world.close(&connection)?;
    }
    Ok(())
}

/// Sends messages of one call of which some are empty, or have several buffers.
fn empty_messages(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        for (way, bytes) in [
            (Way::Request, post(&target, "some body")),
            (Way::Response, response(200, "answer")),
        ] {
            let (one, two) = bytes.as_bytes().split_at(30);
            world.send(&connection, way, "sendmmsg", &[b"", one, b"", b"", two])?;
            world.receive(&connection, way, "read", bytes.len())?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(9), Some(6)));
    }
    world.close(&connection)
}

/// Passes bodies by calls without user memory.
fn unseen_bodies(world: &mut World, name: &str) -> Result<()> {
    let body = "0123456789".repeat(300);
    for send in ["sendfile", "splice"] {
        for receive in ["read", "splice"] {
            let connection = world.connect()?;
            for turn in 0..3 {
                let target = format!("/{name}/{send}/{receive}/{turn}");
                let whole = [post(&target, &body), response(200, &body)];
                for (way, whole) in [Way::Request, Way::Response].into_iter().zip(&whole) {
                    let (head, body) = whole.split_at(whole.len() - body.len());
                    world.pass(&connection, way, head)?;
                    world.send(&connection, way, send, &[body.as_bytes()])?;
                    world.receive(&connection, way, receive, body.len())?;
                }
                world.expect(&target, End::ok("POST", 200).bodies(Some(3000), Some(3000)));
            }
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// Peeks at a message first: it counts when it is taken.
fn peek(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        for (way, bytes) in [
            (Way::Request, post(&target, "body")),
            (Way::Response, response(200, "answer")),
        ] {
            world.send(&connection, way, "write", &[bytes.as_bytes()])?;
            for size in [1, 10, 4096] {
                world.receive_once(&connection, way, "peek", &[size])?;
            }
            ensure!(
                world.receive_once(&connection, way, "read", &[20])? == 20,
                "less than 20 bytes"
            );
            world.receive_once(&connection, way, "peek", &[4096])?;
            world.receive(&connection, way, "read", bytes.len() - 20)?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(6)));
    }
    world.close(&connection)
}

/// Sends a byte of urgent data before a request. The receiver's sequence number skips it without telling where, so the
/// bytes of that call are a gap.
fn urgent(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for (turn, urgent) in [false, true, false, true].into_iter().enumerate() {
        let target = format!("/{name}/{turn}");
        if urgent {
            world.send(&connection, Way::Request, "urgent", &[b"!"])?;
        }
        world.exchange(&connection, &get(&target), &response(200, "answer"))?;
        let end = End::ok("GET", 200).bodies(None, Some(6));
        world.expect_ends(&target, Some(end.clone()), (!urgent).then_some(end));
    }
    world.close(&connection)
}

/// Receives bodies that the kernel discards.
fn truncate(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let body = "thrown away".repeat(100);
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        for (way, whole) in [
            (Way::Request, post(&target, &body)),
            (Way::Response, response(200, &body)),
        ] {
            world.send(&connection, way, "write", &[whole.as_bytes()])?;
            world.receive(&connection, way, "read", 0)?;
            let head = whole.len() - body.len();
            ensure!(
                world.receive_once(&connection, way, "read", &[head])? == head,
                "no head"
            );
            world.receive(&connection, way, "truncate", body.len())?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(1100), Some(1100)));
    }
    world.close(&connection)
}

/// Makes calls that move nothing, and have no effect; a read of zero bytes is not the end.
fn zero_length(world: &mut World, name: &str, address: &str) -> Result<()> {
    let connection = world.connect_between(CLIENT, SERVER, address)?;
    for turn in 0..2 {
        let target = format!("/{name}/{turn}");
        for (way, bytes) in [(Way::Request, get(&target)), (Way::Response, response(200, "answer"))] {
            let (first, second) = bytes.as_bytes().split_at(10);
            for part in [first, second] {
                for send in ["write", "sendto", "writev", "sendmsg"] {
                    world.send(&connection, way, send, &[&[]])?;
                }
                world.send(&connection, way, "write", &[part])?;
                for receive in ["read", "recvfrom", "readv", "recvmsg"] {
                    let received = world.receive_once(&connection, way, receive, &[0])?;
                    ensure!(received == 0, "{received} bytes into an empty buffer");
                }
                world.receive(&connection, way, "read", part.len())?;
            }
        }
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(6)));
    }
    world.close(&connection)
}
