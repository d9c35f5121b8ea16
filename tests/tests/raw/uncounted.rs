//! Bytes that leave a Unix socket by splice(2) before the agent has attached the hook that counts them.

use anyhow::{Result, ensure};
use spoor_tests::{
    agent::Recorder,
    raw::{CLIENT, End, Way, World, compare, get, response, selection},
};

use crate::RAWPEER;

/// Index of the peer that splices.
const PROXY: usize = 7;
const SERVER: usize = 1;
const BODY_BYTES: usize = 3000;

/// Splices a request's body out of a Unix socket while the agent cannot attach any hook. The proxy's end of the
/// connection gives no span from then on, and no wrong one; the client's end gives all.
#[test]
#[ignore = "end to end: needs root; cargo xtask test runs it"]
fn a_connection_is_given_up_once_bytes_have_passed_uncounted() -> Result<()> {
    let mut world = World::start(RAWPEER.as_ref())?;
    let recorder = Recorder::start(&selection(&world))?;
    let agent = &recorder.agent;
    if !agent.said().contains("hooks=\"sock\"") {
        println!("skipped: each splice(2) is seen");
        return Ok(());
    }
    world.case("uncounted", |world, name| {
        let path = world.unix_path();
        agent.while_stopped(|| {
            let front = world.connect_between(CLIENT, PROXY, &path)?;
            let back = world.connect_between(PROXY, SERVER, "127.0.0.1:0")?;
            let (spliced, next) = (format!("/{name}/spliced"), format!("/{name}/next"));
            let head = format!("PUT {spliced} HTTP/1.1\r\nHost: raw.test\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
            world.pass(&front, Way::Request, head)?;
            world.send(&front, Way::Request, "write", &[&[b's'; BODY_BYTES]])?;
            let splice = format!("splice {} {} {BODY_BYTES}", front.server.1, back.client.1);
            world.peers[PROXY].move_bytes(&splice, BODY_BYTES)?;
            world.receive(&back, Way::Request, "read", BODY_BYTES)?;
            world.pass(&front, Way::Response, response(200, "stored"))?;
            let end = End::ok("PUT", 200).bodies(Some(BODY_BYTES as u64), Some(6));
            world.expect_ends(&spliced, Some(end), None);
            world.exchange(&front, &get(&next), &response(200, "next"))?;
            world.expect_ends(&next, Some(End::ok("GET", 200).bodies(None, Some(4))), None);
            world.close(&back)?;
            world.close(&front)
        })
    })?;
    world.count("spoor_kernel_lost_total{cause=\"connection_uncounted\"}", 1);
    crate::check_counters(&mut world, agent)?;
    let (spans, said) = recorder.finish()?;
    let differences = compare(&world.expected, &spans);
    ensure!(differences.0.is_empty(), "{differences}\nthe agent said:\n{said}");
    Ok(())
}
