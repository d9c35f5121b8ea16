//! `spoor ps` names a protocol that gives no span.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use spoor_tests::{
    agent::{self, Recorder},
    clients::Client,
    services::Server,
};

use super::{LOAD_LIMIT, Scene, Subject};

#[test]
#[ignore = "needs root, the agent, nginx and PHP-FPM"]
fn fastcgi_behind_nginx() -> Result<()> {
    const REQUESTS: usize = 64;
    let scene = Scene::set("fastcgi_behind_nginx", Subject::Calling(Server::PhpFpm))?;
    let client = scene.client(Client::Curl, REQUESTS)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("control.sock");
    let mut selection = scene.selection(&client)?;
    selection.push(format!("--control={}", socket.display()));
    let agent = Recorder::start(&selection)?;
    client.run(LOAD_LIMIT)?;

    let output = Command::new(agent::binary()?)
        .args(["ps", "--json", "--control"])
        .arg(&socket)
        .output()?;
    ensure!(output.status.success(), "spoor ps failed: {output:?}");
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let workloads = listed["workloads"].as_array().map_or(&[][..], Vec::as_slice);
    let with_fastcgi: Vec<_> = workloads
        .iter()
        .filter(|workload| workload["unseen"].to_string().contains("FastCGI"))
        .filter_map(|workload| workload["runtime"].as_str().map(str::to_lowercase))
        .collect();
    // Both ends report it: a worker of nginx, and workers of PHP-FPM.
    ensure!(
        with_fastcgi.iter().any(|runtime| runtime.contains("php"))
            && with_fastcgi.iter().any(|runtime| !runtime.contains("php")),
        "FastCGI is said of {with_fastcgi:?}: {listed:#}"
    );
    agent.finish()?;
    Ok(())
}
