//! Two pairs of network namespaces with the same addresses: only the identity of the socket tells their connections
//! apart.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use super::peer::Peer;

/// Addresses of the client and the server of each pair.
pub const ADDRESSES: [&str; 2] = ["10.231.0.1", "10.231.0.2"];

/// Network namespaces, which are deleted on drop.
pub struct Namespaces {
    names: Vec<String>,
    /// Client and server of each pair, by their index in the world.
    pub pairs: [(usize, usize); 2],
}

impl Namespaces {
    /// Creates the namespaces and starts a peer in each. `None` if `ip` is missing.
    pub fn make(program: &Path, peers: &mut Vec<Peer>) -> Result<Option<Self>> {
        if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let first = peers.len();
        let mut made = Self {
            names: Vec::new(),
            pairs: [(first, first + 1), (first + 2, first + 3)],
        };
        for pair in 0..2 {
            let names = ["client", "server"].map(|end| format!("spoor-raw-{}-{end}-{pair}", std::process::id()));
            for name in &names {
                ip(&["netns", "add", name])?;
                made.names.push(name.clone());
            }
            let [client, server] = &names;
            let veth = [
                "link", "add", "raw0", "type", "veth", "peer", "name", "raw0", "netns", server,
            ];
            ip(&[&["-n", client], &veth[..]].concat())?;
            for (name, address) in names.iter().zip(ADDRESSES) {
                ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "raw0"])?;
                ip(&["-n", name, "link", "set", "raw0", "up"])?;
            }
            for name in &names {
                let service = name.rsplit_once(['-']).map_or(name.as_str(), |(service, _)| service);
                peers.push(Peer::start(program, service, Some(name))?);
            }
        }
        Ok(Some(made))
    }
}

impl Namespaces {
    /// Sets a kernel parameter (`net/ipv4/…`) in both namespaces of a pair.
    pub fn set(&self, pair: usize, parameter: &str, value: &str) -> Result<()> {
        for name in self.names.iter().skip(2 * pair).take(2) {
            let script = format!("echo {value} >/proc/sys/{parameter}");
            let status = Command::new("ip")
                .args(["netns", "exec", name, "sh", "-c", &script])
                .status()?;
            ensure!(status.success(), "cannot set {parameter} in {name}");
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = ip(&["netns", "delete", name]) {
                eprintln!("{error}");
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {} failed: {said}", arguments.join(" "));
    Ok(())
}
