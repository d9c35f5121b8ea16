//! TCP ports that processes listen on.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    rc::Rc,
};

use super::ProcRoot;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`, include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Socket inode → port, of the listening sockets of one network namespace.
type Ports = HashMap<u64, u16>;

/// Listening sockets. Each network namespace is read once, so the value is for one look at all processes and must not
/// be kept.
pub(crate) struct Listeners<'a> {
    root: &'a ProcRoot,
    namespaces: HashMap<OsString, Rc<Ports>>,
}

impl<'a> Listeners<'a> {
    pub(crate) fn new(root: &'a ProcRoot) -> Self {
        Self {
            root,
            namespaces: HashMap::new(),
        }
    }

    /// Returns the first of the `wanted` ports that the process holds a listening socket of, its own or an inherited
    /// one.
    pub(crate) fn port_of(&mut self, tgid: u32, wanted: &[u16]) -> Option<u16> {
        let ports = self.ports(tgid)?;
        if !ports.values().any(|port| wanted.contains(port)) {
            return None;
        }
        self.held(tgid, &ports).find(|port| wanted.contains(port))
    }

    /// Returns all ports that the process holds listening sockets of.
    pub(crate) fn ports_of(&mut self, tgid: u32) -> Vec<u16> {
        let Some(ports) = self.ports(tgid).filter(|ports| !ports.is_empty()) else {
            return Vec::new();
        };
        let mut held: Vec<u16> = self.held(tgid, &ports).collect();
        held.sort_unstable();
        held.dedup();
        held
    }

    fn held(&self, tgid: u32, ports: &Ports) -> impl Iterator<Item = u16> {
        let targets = self.root.descriptors(tgid);
        targets.filter_map(|target| ports.get(&socket_inode(&target)?).copied())
    }

    fn ports(&mut self, tgid: u32) -> Option<Rc<Ports>> {
        let namespace = self.root.namespace(tgid, "net")?.into_os_string();
        if let Some(known) = self.namespaces.get(&namespace) {
            return Some(known.clone());
        }
        let mut ports = Ports::new();
        let mut is_read = false;
        for table in ["net/tcp", "net/tcp6"] {
            if let Ok(file) = File::open(self.root.process(tgid).join(table)) {
                is_read = true;
                ports.extend(listening(BufReader::new(file)));
            }
        }
        // A process that ended meanwhile says nothing about its namespace.
        is_read.then(|| {
            let ports = Rc::new(ports);
            self.namespaces.insert(namespace, ports.clone());
            ports
        })
    }
}

/// Parses the listening sockets. The kernel lists them first (`tcp_seq_start`, net/ipv4/tcp_ipv4.c), so the connections
/// behind them, perhaps 100,000, are not read.
fn listening(table: impl BufRead) -> Ports {
    let lines = table.lines().map_while(Result::ok).skip(1);
    let rows = lines.map(|line| {
        // sl, local_address, rem_address, st, queues, timer, retrnsmt, uid, timeout, inode
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_listening = *fields.get(3)? == LISTEN;
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        is_listening.then_some((fields.get(9)?.parse().ok()?, port))
    });
    rows.map_while(|row| row).collect()
}

pub(super) fn socket_inode(target: &Path) -> Option<u64> {
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::TcpListener,
        os::unix::fs::symlink,
        process::{Command, Stdio},
    };

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(port: u16, state: &str, inode: u64) -> String {
        format!(
            "   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
        )
    }

    #[test]
    fn only_listening_sockets() {
        let table = [
            HEAD.to_owned(),
            row(80, "0A", 5),
            row(8080, "0A", 6),
            row(80, "01", 7),
            row(1, "0A", 8),
        ]
        .concat();
        assert_eq!(listening(table.as_bytes()), Ports::from([(5, 80), (6, 8080)]));
        assert_eq!(listening(HEAD.as_bytes()), Ports::new());
        assert_eq!(listening(&b"\n\xff\xff\n"[..]), Ports::new());
    }

    #[test]
    fn each_namespace_has_its_own_sockets() {
        let directory = tempfile::tempdir().unwrap();
        for (tgid, namespace, inode, held) in [(10, 1, 5, 5), (11, 2, 5, 5), (12, 1, 5, 99)] {
            let process = directory.path().join(tgid.to_string());
            for part in ["ns", "fd", "net"] {
                fs::create_dir_all(process.join(part)).unwrap();
            }
            symlink(format!("net:[{namespace}]"), process.join("ns/net")).unwrap();
            symlink(format!("socket:[{held}]"), process.join("fd/3")).unwrap();
            symlink("/dev/null", process.join("fd/0")).unwrap();
            fs::write(
                process.join("net/tcp"),
                [HEAD, &row(79 + namespace, "0A", inode)].concat(),
            )
            .unwrap();
        }
        let root = ProcRoot::new(directory.path());
        let mut listeners = Listeners::new(&root);
        assert_eq!(listeners.port_of(10, &[443, 80]), Some(80));
        assert_eq!(listeners.port_of(11, &[80]), None);
        assert_eq!(listeners.port_of(11, &[81]), Some(81));
        assert_eq!(listeners.port_of(12, &[80]), None);
        assert_eq!(listeners.port_of(13, &[80]), None);
        assert_eq!(listeners.namespaces.len(), 2);
    }

    #[test]
    fn a_real_listener() {
        let root = ProcRoot::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                // A host without IPv6.
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let own = std::process::id();
            assert_eq!(Listeners::new(&root).port_of(own, &[port]), Some(port));
            drop(listener);
            assert_eq!(Listeners::new(&root).port_of(own, &[port]), None);
        }
    }

    #[test]
    fn a_real_listener_in_another_namespace() {
        let script =
            "import socket, sys; s = socket.create_server(('', 4711)); print('up', flush=True); sys.stdin.read()";
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "python3", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let root = ProcRoot::default();
        let mut listeners = Listeners::new(&root);
        let found = (
            listeners.port_of(child.id(), &[4711]),
            listeners.port_of(std::process::id(), &[4711]),
        );
        drop(child.stdin.take());
        let status = child.wait().unwrap();
        if line.is_empty() && !status.success() {
            // Without privileges there is no other namespace to look into.
            return;
        }
        assert_eq!(found, (Some(4711), None));
    }
}
