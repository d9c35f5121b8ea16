//! Unix stream sockets, as `/proc/PID/net/unix` lists those of a process's network namespace.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader},
};

use super::{ProcRoot, listeners::socket_inode};

/// `SOCK_STREAM`, as the table writes it.
const STREAM: &str = "0001";

/// `__SO_ACCEPTCON` (include/uapi/linux/net.h): the socket listens.
const ACCEPTS: u32 = 1 << 16;

/// Socket inode → whether it listens, of one network namespace.
type Sockets = BTreeMap<u64, bool>;

/// Unix stream sockets. Each network namespace is read once, so the value is for one look and must not be kept.
pub struct UnixSockets<'a> {
    root: &'a ProcRoot,
    namespaces: HashMap<OsString, Option<Sockets>>,
}

impl<'a> UnixSockets<'a> {
    /// Reads nothing yet.
    pub fn new(root: &'a ProcRoot) -> Self {
        Self {
            root,
            namespaces: HashMap::new(),
        }
    }

    /// Returns true if the process holds a Unix stream socket that listens, its own or an inherited one.
    pub fn listens(&mut self, tgid: u32) -> bool {
        let root = self.root;
        self.of(tgid).is_some_and(|sockets| {
            sockets.values().any(|&listens| listens)
                && root
                    .descriptors(tgid)
                    .filter_map(|target| socket_inode(&target))
                    .any(|inode| sockets.get(&inode) == Some(&true))
        })
    }

    /// Returns true if a socket that the process used is closed; false if that cannot be told.
    pub fn is_gone(&mut self, tgid: u32, inode: u64) -> bool {
        self.of(tgid).is_some_and(|sockets| !sockets.contains_key(&inode))
    }

    fn of(&mut self, tgid: u32) -> Option<&Sockets> {
        let namespace = self.root.namespace(tgid, "net")?.into_os_string();
        let sockets = self.namespaces.entry(namespace).or_insert_with(|| {
            let file = File::open(self.root.process(tgid).join("net/unix")).ok()?;
            streams(BufReader::new(file))
        });
        sockets.as_ref()
    }
}

/// Parses the table's stream sockets; `None` if the table is cut off: a socket that it does not list may exist.
fn streams(table: impl BufRead) -> Option<Sockets> {
    let mut lines = table.lines();
    lines.next()?.ok()?.starts_with("Num").then_some(())?;
    let mut sockets = Sockets::new();
    for line in lines {
        let line = line.ok()?;
        // Num, RefCount, Protocol, Flags, Type, St, Inode, Path
        let fields: Vec<&str> = line.split_ascii_whitespace().take(7).collect();
        if *fields.get(4)? == STREAM {
            let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
            sockets.insert(fields.get(6)?.parse().ok()?, flags & ACCEPTS != 0);
        }
    }
    Some(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    };

    use super::*;

    const TABLE: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 5 /run/a socket\n\
        0000000000000000: 00000003 00000000 00000000 0001 03 6\n\
        0000000000000000: 00000002 00000000 00000000 0002 01 7 @dgram\n";

    #[test]
    fn only_stream_sockets() {
        assert_eq!(streams(TABLE.as_bytes()), Some(Sockets::from([(5, true), (6, false)])));
        assert_eq!(streams(&b""[..]), None);
        assert_eq!(streams(&b"<html>\n"[..]), None);
        let cut_off = &TABLE[..TABLE.len() - 40];
        assert_eq!(streams(cut_off.as_bytes()), None);
    }

    #[test]
    fn real_sockets() {
        let root = ProcRoot::default();
        let own = std::process::id();
        let inode = |fd: &dyn AsRawFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            socket_inode(&link).unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let (one_inode, other_inode) = (inode(&one), inode(&other));
        drop(other);
        let mut sockets = UnixSockets::new(&root);
        assert!(sockets.listens(own));
        assert!(!sockets.is_gone(own, one_inode));
        assert!(sockets.is_gone(own, other_inode));
        assert!(!sockets.is_gone(u32::MAX, other_inode), "nobody can tell");
        drop(listener);
    }
}
