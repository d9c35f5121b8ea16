//! Large bodies: bytes that are not captured must not matter.

use anyhow::Result;

use super::{
    expected::End,
    messages::{get, response},
    world::{Bulk, Connection, Way, World},
};

const MIB: usize = 1 << 20;

pub fn play(world: &mut World) -> Result<()> {
    world.case("upload", upload)?;
    world.case("download", download)?;
    for bytes in [32 << 10, 100 << 10, MIB] {
        world.case(&format!("chunked-{bytes}"), |world, name| {
            chunked(world, name, bytes, true)
        })?;
        world.case(&format!("chunked-unaligned-{bytes}"), |world, name| {
            chunked(world, name, bytes, false)
        })?;
    }
    world.case("slow-reader", slow_reader)
}

/// Checks that the connection's framing is known behind the body.
fn next(world: &mut World, connection: &Connection, prefix: &str) -> Result<()> {
    let target = format!("{prefix}/next");
    world.exchange(connection, &get(&target), &response(200, "next"))?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some(4)));
    Ok(())
}

fn head(target: &str, length: usize) -> String {
    format!("PUT {target} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {length}\r\n\r\n")
}

/// Passes 8 MiB with `Content-Length` to the server, in writes of several sizes.
fn upload(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for send_piece in [1448, 64 << 10, MIB, 16 * MIB] {
        let target = format!("/{name}/{send_piece}");
        let bulk = Bulk {
            head: head(&target, 8 * MIB),
            unit: b"GET /upload/never HTTP/1.1\r\n\r\n\r\n",
            repeat: 8 * MIB / 32,
            tail: b"",
            send_piece,
            receive_piece: 64 << 10,
            pause_us: 0,
        };
        world.stream(&connection, Way::Request, &bulk)?;
        world.pass(&connection, Way::Response, response(201, ""))?;
        world.expect(&target, End::ok("PUT", 201).bodies(Some(8 << 20), Some(0)));
        next(world, &connection, &target)?;
    }
    world.close(&connection)
}

/// Passes 8 MiB with `Content-Length` from the server.
fn download(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for send_piece in [1448, 64 << 10, MIB, 16 * MIB] {
        let target = format!("/{name}/{send_piece}");
        world.pass(&connection, Way::Request, get(&target))?;
        let bulk = Bulk {
            head: format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 * MIB),
            unit: b"HTTP/1.1 200 OK\r\nContent-Length: ",
            repeat: 8 * MIB / 33,
            tail: &[b'-'; 8 * MIB % 33],
            send_piece,
            receive_piece: 64 << 10,
            pause_us: 0,
        };
        world.stream(&connection, Way::Response, &bulk)?;
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(8 << 20)));
        next(world, &connection, &target)?;
    }
    world.close(&connection)
}

/// Passes 8 MiB in chunks of `bytes`. `aligned`: each write is a chunk; else the head shifts all of them.
fn chunked(world: &mut World, name: &str, bytes: usize, aligned: bool) -> Result<()> {
    let connection = world.connect()?;
    let target = format!("/{name}");
    world.pass(&connection, Way::Request, get(&target))?;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    if aligned {
        world.pass(&connection, Way::Response, head)?;
    }
    // A text that looks like the end, wherever a write or a read ends.
    let data = b"0\r\n\r\n".repeat(bytes / 5 + 1);
    let unit = [format!("{bytes:x}\r\n").as_bytes(), &data[..bytes], b"\r\n"].concat();
    let repeat = 8 * MIB / bytes;
    let bulk = Bulk {
        head: if aligned { String::new() } else { head.to_owned() },
        unit: &unit,
        repeat,
        tail: b"0\r\n\r\n",
        send_piece: unit.len(),
        receive_piece: 32 << 10,
        // At full speed the agent may lose such a body: it is copied whole, which fills the ring. In a write of more
        // than 64 KiB the next chunk's line is not copied unless Core has sent a hint for it.
        pause_us: 0,
    };
    world.stream(&connection, Way::Response, &bulk)?;
    world.expect(&target, End::ok("GET", 200).bodies(None, Some((repeat * bytes) as u64)));
    next(world, &connection, &target)?;
    world.close(&connection)
}

/// Passes one write of 100 MB to a slow reader: the client's span still begins before the server's.
fn slow_reader(world: &mut World, name: &str) -> Result<()> {
    const BYTES: usize = 100_000_000;
    let connection = world.connect()?;
    let target = format!("/{name}");
    let bulk = Bulk {
        head: head(&target, BYTES),
        unit: &[b'u'; 1000],
        repeat: BYTES / 1000,
        tail: b"",
        send_piece: 2 * BYTES,
        receive_piece: MIB,
        pause_us: 3000,
    };
    world.stream(&connection, Way::Request, &bulk)?;
    world.pass(&connection, Way::Response, response(201, ""))?;
    world.expect(&target, End::ok("PUT", 201).bodies(Some(BYTES as u64), Some(0)));
    next(world, &connection, &target)?;
    world.close(&connection)
}
