//! Sockets in odd hands: several threads, several processes, several ways to open a connection, and bytes before the
//! first request.

use anyhow::{Result, ensure};

use super::{
    expected::End,
    messages::{get, post, response},
    namespaces::ADDRESSES,
    sockets::reap,
    world::{CLIENT, Connection, OTHER, SERVER, Way, World, hex},
};

pub fn play(world: &mut World) -> Result<()> {
    world.case("threads-in-turn", threads_in_turn)?;
    world.case("threads-at-once", threads_at_once)?;
    world.case("replaced-under-read", replaced_under_read)?;
    world.case("more", more)?;
    world.case("zerocopy", zerocopy)?;
    world.case("fast-open", fast_open)?;
    for (case, server, client) in [
        ("mptcp", "mptcp:127.0.0.1:0", "mptcp:"),
        ("mptcp-client", "127.0.0.1:0", "mptcp:"),
        ("mptcp-server", "mptcp:127.0.0.1:0", ""),
    ] {
        world.case(case, |world, name| multipath(world, name, server, client))?;
    }
    world.case("kernel-tls", kernel_tls)?;
    world.case("empty-lines", empty_lines)?;
    world.case("proxy-protocol", proxy_protocol)?;
    world.case("shared-unix", shared_unix)?;
    world.case("handed-over-unix", handed_over_unix)
}

fn ok(world: &mut World, target: &str, body: usize) {
    world.expect(target, End::ok("GET", 200).bodies(None, Some(body as u64)));
}

/// Runs a script in a thread of a peer, to its end.
fn by_thread(world: &mut World, peer: usize, script: &str) -> Result<String> {
    let thread = world.name();
    world.peers[peer].make(&format!("thread {thread} {script}"))?;
    world.peers[peer].make(&format!("join {thread}"))
}

/// One thread reads, another writes the head, a third one the body.
fn threads_in_turn(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (server, socket) = connection.server.clone();
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        let answer = response(200, "written by two threads");
        let (head, body) = answer.split_at(answer.len() - 22);
        world.send(&connection, Way::Request, "write", &[get(&target).as_bytes()])?;
        let bytes = get(&target).len();
        by_thread(world, server, &format!("receive-all {socket} read 4096 {bytes} 0"))?;
        for part in [head, body] {
            by_thread(world, server, &format!("send {socket} write {}", hex(part.as_bytes())))?;
        }
        world.receive(&connection, Way::Response, "read", answer.len())?;
        ok(world, &target, 22);
    }
    world.close(&connection)
}

/// Two threads write one body at the same time, and two read one: the owner of each byte is unknowable.
fn threads_at_once(world: &mut World, name: &str) -> Result<()> {
    const PARTS: usize = 400;
    const PART: usize = 100;
    let connection = world.connect()?;
    let (server, socket) = connection.server.clone();
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        let bytes = PARTS * PART;
        let head = format!("POST {target} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {bytes}\r\n\r\n");
        world.pass(&connection, Way::Request, &head)?;
        let sending = format!("send-all {} write {PART} {} - 75 -", connection.client.1, bytes / 2);
        let receiving = format!("receive-all {socket} read {PART} {} 0", bytes / 2);
        at_once(world, (CLIENT, &sending), (server, &receiving))?;
        world.pass(
            &connection,
            Way::Response,
            format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"),
        )?;
        let sending = format!("send-all {socket} write {PART} {} - 72 -", bytes / 2);
        let receiving = format!("receive-all {} read {PART} {} 0", connection.client.1, bytes / 2);
        at_once(world, (server, &sending), (CLIENT, &receiving))?;
        let bytes = Some(bytes as u64);
        world.expect(&target, End::ok("POST", 200).bodies(bytes, bytes));
    }
    world.close(&connection)
}

/// Lets two threads of each peer move half of the bytes each.
fn at_once(world: &mut World, sender: (usize, &str), receiver: (usize, &str)) -> Result<()> {
    let mut threads = Vec::new();
    for (peer, command) in [receiver, receiver, sender, sender] {
        let thread = world.name();
        world.peers[peer].make(&format!("thread {thread} {command}"))?;
        threads.push((peer, thread));
    }
    for (peer, thread) in threads {
        world.peers[peer].make(&format!("join {thread}"))?;
    }
    Ok(())
}

/// A thread waits in read(2) while its descriptor is replaced by another connection's, then the first connection's
/// bytes arrive. They must not count for the second connection.
fn replaced_under_read(world: &mut World, name: &str) -> Result<()> {
    let (first, second) = (world.connect()?, world.connect()?);
    let (before, lost) = (format!("/{name}/before"), format!("/{name}/lost"));
    for (connection, target) in [(&first, &before), (&second, &format!("{before}/second"))] {
        world.exchange(connection, &get(target), &response(200, ""))?;
        ok(world, target, 0);
    }
    let (server, socket) = first.server.clone();
    let reader = world.name();
    let bytes = get(&lost).len();
    world.peers[server].make(&format!("thread {reader} receive {socket} read {}", bytes + 100))?;
    world.peers[server].make(&format!("replace {socket} {}", second.server.1))?;
    world.send(&first, Way::Request, "write", &[get(&lost).as_bytes()])?;
    let read = world.peers[server].make(&format!("join {reader}"))?;
    ensure!(read == bytes.to_string(), "{read} bytes were read, not {bytes}");
    // The last descriptor of the connection is gone, so it ends.
    world.receive_once(&first, Way::Response, "read", &[4096])?;
    world.expect_ends(&lost, Some(End::failed("GET", "connection_closed")), None);
    for turn in 0..2 {
        let target = format!("/{name}/after/{turn}");
        world.exchange(&second, &get(&target), &response(200, "after"))?;
        ok(world, &target, 5);
    }
    world.at(&first.client, "close")?;
    world.at(&first.server, "close")?;
    world.close(&second)
}

/// Passes a head that waits for the body (`MSG_MORE`), which sendfile(2) sends.
fn more(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for (turn, length) in [10, 3000, 100_000].into_iter().enumerate() {
        for how in ["sendfile", "splice", "write"] {
            let target = format!("/{name}/{turn}/{how}");
            world.pass(&connection, Way::Request, get(&target))?;
            let body = vec![b'm'; if how == "splice" { length.min(60_000) } else { length }];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            world.send(&connection, Way::Response, "more", &[head.as_bytes()])?;
            world.send(&connection, Way::Response, how, &[&body])?;
            world.receive(&connection, Way::Response, "read", head.len() + body.len())?;
            ok(world, &target, body.len());
        }
    }
    world.close(&connection)
}

/// Sends without a copy; the notification that the memory is free arrives by recvmsg(2), too.
fn zerocopy(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    for (turn, length) in [10, 20_000, 60_000].into_iter().enumerate() {
        let target = format!("/{name}/{turn}");
        for (way, bytes) in [
            (Way::Request, post(&target, "body")),
            (Way::Response, response(200, &"z".repeat(length))),
        ] {
            world.send(&connection, way, "zerocopy", &[bytes.as_bytes()])?;
            world.receive(&connection, way, "read", bytes.len())?;
            let sender = match way {
                Way::Request => &connection.client,
                Way::Response => &connection.server,
            };
            world.at(sender, "memory-is-free")?;
        }
        world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(length as u64)));
    }
    world.close(&connection)
}

/// Passes requests with the SYN: by sendto(2), and by the first write after a connect(2) without effect.
fn fast_open(world: &mut World, name: &str) -> Result<()> {
    let Some(namespaces) = &world.namespaces else {
        world.skip(name, "there is no ip command");
        return Ok(());
    };
    namespaces.set(0, "net/ipv4/tcp_fastopen", "3")?;
    let (client, server) = namespaces.pairs[0];
    let address = format!("{}:8081", ADDRESSES[1]);
    let listener = world.name();
    world.peers[server].make(&format!("listen {listener} {address} 16"))?;
    world.peers[server].make(&format!("fast-open {listener}"))?;
    // The first connect asks for the cookie that allows the others to send at once.
    for turn in 0..3 {
        for how in ["sendto", "connect"] {
            let connection = Connection {
                client: (client, world.name()),
                server: (server, world.name()),
            };
            let (target, later) = (format!("/{name}/{turn}/{how}"), format!("/{name}/{turn}/{how}/later"));
            let (socket, request) = (&connection.client.1, post(&target, "with the SYN"));
            if how == "sendto" {
                let command = format!("connect-by-sending {socket} {address} {}", hex(request.as_bytes()));
                world.peers[client].move_bytes(&command, request.len())?;
            } else {
                world.peers[client].make(&format!("connect-late {socket} {address}"))?;
                world.send(&connection, Way::Request, "write", &[request.as_bytes()])?;
            }
            world.peers[server].make(&format!("accept {} {listener} accept4", connection.server.1))?;
            world.receive(&connection, Way::Request, "read", request.len())?;
            world.pass(&connection, Way::Response, response(200, "early"))?;
            world.expect(&target, End::ok("POST", 200).bodies(Some(12), Some(5)));
            world.exchange(&connection, &get(&later), &response(200, ""))?;
            ok(world, &later, 0);
            world.close(&connection)?;
        }
    }
    world.peers[server].make(&format!("close {listener}"))?;
    Ok(())
}

/// Passes exchanges over Multipath TCP: offsets are counted, and the two ends cannot be matched. A listener's
/// connections from clients without it are plain TCP.
fn multipath(world: &mut World, name: &str, server: &str, client: &str) -> Result<()> {
    const CONNECTIONS: usize = 3;
    if !world.has_multipath(name)? {
        return Ok(());
    }
    let ends = usize::from(!client.is_empty()) + usize::from(!client.is_empty() && server.starts_with("mptcp"));
    world.count("spoor_core_total{cause=\"mptcp\"}", CONNECTIONS * ends);
    let (listener, bound) = world.listen(SERVER, server)?;
    let address = format!("{client}{}", bound.trim_start_matches("mptcp:"));
    for index in 0..CONNECTIONS {
        let connection = world.connect_to(CLIENT, SERVER, &listener, &address)?;
        for turn in 0..3 {
            let target = format!("/{name}/{index}/{turn}");
            world.exchange(&connection, &post(&target, "body"), &response(200, "over paths"))?;
            world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(10)));
            if !client.is_empty() {
                world.apart();
            }
        }
        if index == 2 {
            let target = format!("/{name}/reset");
            world.pass(&connection, Way::Request, get(&target))?;
            world.at(&connection.server, "close")?;
            world.receive_once(&connection, Way::Response, "read", &[4096])?;
            let [client_end, server_end] = ["connection_closed", "cancelled"].map(|error| End::failed("GET", error));
            world.expect_ends(&target, Some(client_end), Some(server_end));
            if !client.is_empty() {
                world.apart();
            }
            world.at(&connection.client, "close")?;
        } else {
            world.close(&connection)?;
        }
    }
    world.peers[SERVER].make(&format!("close {listener}"))?;
    Ok(())
}

/// Passes requests on sockets with TLS in the kernel: they give no span, because calls move other bytes than the wire.
fn kernel_tls(world: &mut World, name: &str) -> Result<()> {
    let connection = world.connect()?;
    let (client, socket) = connection.client.clone();
    match world.peers[client].ask(&format!("upper-layer {socket}"))? {
        Ok(_) => {}
        Err(libc::ENOENT) => {
            world.skip(name, "this kernel has no TLS of its own");
            return world.close(&connection);
        }
        Err(number) => anyhow::bail!("cannot set up TLS: {}", std::io::Error::from_raw_os_error(number)),
    }
    world.at(&connection.server, "upper-layer")?;
    world.count("spoor_kernel_events_total{cause=\"connection_upper_layer\"}", 2);
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        for (way, bytes) in [
            (Way::Request, post(&target, "body")),
            (Way::Response, response(200, "answer")),
        ] {
            world.pass(&connection, way, &bytes)?;
        }
    }
    world.close(&connection)
}

/// Passes the CR LF that old clients send behind a body (RFC 9112 section 2.2).
fn empty_lines(world: &mut World, name: &str) -> Result<()> {
    for (index, lines) in ["\r\n", "\n", "\r\n\r\n\r\n"].into_iter().enumerate() {
        let connection = world.connect()?;
        for turn in 0..3 {
            let target = format!("/{name}/{index}/{turn}/together");
            world.exchange(&connection, &format!("{lines}{}", get(&target)), &response(200, ""))?;
            ok(world, &target, 0);
            let target = format!("/{name}/{index}/{turn}/apart");
            world.pass(&connection, Way::Request, lines)?;
            world.exchange(&connection, &post(&target, "body"), &response(200, "answer"))?;
            world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(6)));
            let target = format!("/{name}/{index}/{turn}/behind");
            world.exchange(
                &connection,
                &format!("{}{lines}", post(&target, "body")),
                &response(200, "answer"),
            )?;
            world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(6)));
        }
        world.close(&connection)?;
    }
    Ok(())
}

/// Passes a proxy's header before the first request, in the same write and in its own.
fn proxy_protocol(world: &mut World, name: &str) -> Result<()> {
    let mut addresses = vec![192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];
    let binary = |command: u8, addresses: &[u8]| {
        let length = (addresses.len() as u16).to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, addresses].concat()
    };
    let mut headers = vec![
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x21, &addresses),
        binary(0x20, &[]),
    ];
    // Further fields that it may carry (a host's name, a checksum).
    addresses.extend(b"\x02\0\x08raw.test".repeat(30));
    headers.push(binary(0x21, &addresses));
    for (index, header) in headers.iter().enumerate() {
        for piece in [usize::MAX, header.len(), 5, 1] {
            let connection = world.connect()?;
            let target = format!("/{name}/{index}/{piece}");
            let bytes = [header, post(&target, "body").as_bytes()].concat();
            for part in bytes.chunks(piece) {
                world.pass(&connection, Way::Request, part)?;
            }
            world.pass(&connection, Way::Response, response(200, "answer"))?;
            world.expect(&target, End::ok("POST", 200).bodies(Some(4), Some(6)));
            let target = format!("{target}/next");
            world.exchange(&connection, &get(&target), &response(200, ""))?;
            ok(world, &target, 0);
            world.close(&connection)?;
        }
    }
    Ok(())
}

/// A child answers and ends without a close; its parent continues with the same Unix socket.
fn shared_unix(world: &mut World, name: &str) -> Result<()> {
    let path = world.unix_path();
    let connection = world.connect_between(CLIENT, OTHER, &path)?;
    let (server, socket) = connection.server.clone();
    for turn in 0..3 {
        let (target, answer) = (format!("/{name}/{turn}/child"), response(200, "from the child"));
        world.pass(&connection, Way::Request, get(&target))?;
        let child = world.peers[server].make(&format!("fork send {socket} write {}", hex(answer.as_bytes())))?;
        world.receive(&connection, Way::Response, "read", answer.len())?;
        reap(world, server, &child)?;
        ok(world, &target, 14);
        let target = format!("/{name}/{turn}/parent");
        world.exchange(&connection, &get(&target), &response(200, "from the parent"))?;
        ok(world, &target, 15);
    }
    world.close(&connection)
}

/// The parent accepts a Unix connection and closes it, a child serves it, and ends during an exchange.
fn handed_over_unix(world: &mut World, name: &str) -> Result<()> {
    let path = world.unix_path();
    for turn in 0..3 {
        let (listener, address) = world.listen(OTHER, &format!("{path}{turn}"))?;
        let connection = world.connect_to(CLIENT, OTHER, &listener, &address)?;
        let (server, socket) = connection.server.clone();
        let (served, waiting) = (format!("/{name}/{turn}/served"), format!("/{name}/{turn}/waiting"));
        let answer = response(200, "from the child");
        let script = format!(
            "receive-all {socket} read 4096 {} 0;send {socket} write {};receive-all {socket} read 4096 {} 0",
            get(&served).len(),
            hex(answer.as_bytes()),
            get(&waiting).len()
        );
        let child = world.peers[server].make(&format!("fork {script}"))?;
        world.at(&connection.server, "close")?;
        world.send(&connection, Way::Request, "write", &[get(&served).as_bytes()])?;
        world.receive(&connection, Way::Response, "read", answer.len())?;
        ok(world, &served, 14);
        world.send(&connection, Way::Request, "write", &[get(&waiting).as_bytes()])?;
        reap(world, server, &child)?;
        world.receive_once(&connection, Way::Response, "read", &[4096])?;
        let [client_end, server_end] = ["connection_closed", "process_exit"].map(|error| End::failed("GET", error));
        world.expect_ends(&waiting, Some(client_end), Some(server_end));
        world.at(&connection.client, "close")?;
        world.peers[server].make(&format!("close {listener}"))?;
    }
    Ok(())
}
