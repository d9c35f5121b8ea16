//! Bytes that the kernel moves from one socket to another, by splice(2).

use anyhow::Result;

use super::{
    expected::End,
    messages::{get, response},
    world::{CLIENT, PROXY, SERVER, Way, World},
};

pub fn play(world: &mut World) -> Result<()> {
    const TCP: &str = "127.0.0.1:0";
    world.case("spliced-bodies", |world, name| bodies(world, name, [TCP, TCP]))?;
    let paths = [world.unix_path(), world.unix_path()];
    world.case("spliced-bodies-unix", |world, name| {
        bodies(world, name, [&paths[0], &paths[1]])
    })?;

    world.case("spliced-wholly", wholly)
}

/// Plays a proxy that reads heads, and lets the kernel move bodies between sockets.
fn bodies(world: &mut World, name: &str, [at_front, at_back]: [&str; 2]) -> Result<()> {
    let front = world.connect_between(CLIENT, PROXY, at_front)?;
    // No thread rule applies before the agent knows what runs in the process.
    world.peers[PROXY].make("sleep 1500")?;
    let back = world.connect_between(PROXY, SERVER, at_back)?;
    for (turn, length) in [10, 3000, 60_000].into_iter().enumerate() {
        let (target, call) = (format!("/{name}/{turn}/front"), format!("/{name}/{turn}/back"));
        let body = vec![b's'; length];
        for (way, from, to) in [(Way::Request, &front, &back), (Way::Response, &back, &front)] {
            let heads = match way {
                Way::Request => [&target, &call].map(|target| {
                    format!("PUT {target} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {length}\r\n\r\n")
                }),
                Way::Response => [(); 2].map(|()| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")),
            };
            world.pass(from, way, &heads[0])?;
            world.send(from, way, "write", &[&body])?;
            world.send(to, way, "write", &[heads[1].as_bytes()])?;
            let (read, written) = match way {
                Way::Request => (&from.server.1, &to.client.1),
                Way::Response => (&from.client.1, &to.server.1),
            };
            let splice = format!("splice {read} {written} {length}");
            world.peers[PROXY].move_bytes(&splice, length)?;
            world.receive(to, way, "read", heads[1].len() + length)?;
        }
        let bytes = Some(length as u64);
        world.expect(&call, End::ok("PUT", 200).bodies(bytes, bytes));
        world.made_for(&target);
        if at_back.starts_with("mptcp") {
            world.apart();
        }
        world.expect(&target, End::ok("PUT", 200).bodies(bytes, bytes));
    }
    world.close(&front)?;
    world.close(&back)
}

/// Plays a proxy that moves all bytes by splice(2), unseen. Its own ends give no span, and the other two ends are not
/// matched.
fn wholly(world: &mut World, name: &str) -> Result<()> {
    let front = world.connect_between(CLIENT, PROXY, "127.0.0.1:0")?;
    let back = world.connect_between(PROXY, SERVER, "127.0.0.1:0")?;
    for turn in 0..3 {
        let target = format!("/{name}/{turn}");
        let answer = response(200, "through the pipe");
        for (way, bytes) in [(Way::Request, get(&target)), (Way::Response, answer)] {
            let (from, to, read, written) = match way {
                Way::Request => (&front, &back, &front.server.1, &back.client.1),
                Way::Response => (&back, &front, &back.client.1, &front.server.1),
            };
            world.send(from, way, "write", &[bytes.as_bytes()])?;
            let splice = format!("splice {read} {written} {}", bytes.len());
            world.peers[PROXY].move_bytes(&splice, bytes.len())?;
            world.receive(to, way, "read", bytes.len())?;
        }
        world.expect(&target, End::ok("GET", 200).bodies(None, Some(16)));
        world.apart();
    }
    world.close(&front)?;
    world.close(&back)
}
