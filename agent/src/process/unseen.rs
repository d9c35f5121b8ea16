//! Processes of the host whose traffic is not visible, and other Spoors.

use std::{fs::read_link, io::ErrorKind};

use super::{Peculiarity, ProcRoot, peculiarities};

/// Processes of the host that matter to what can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Processes that were looked into.
    pub looked_into: usize,
    /// Processes that the agent may not look into: id and name.
    pub closed: Vec<(u32, String)>,
    /// 32-bit programs: id and name.
    pub thirty_two_bit: Vec<(u32, String)>,
    /// Programs that have an io_uring: id and name.
    pub io_uring: Vec<(u32, String)>,
    /// Other processes that run a program called `spoor`, and whose parent does not.
    pub spoors: Vec<u32>,
}

/// Looks at every process but the agent and the kernel's threads.
pub fn unseen(root: &ProcRoot) -> Unseen {
    let mut found = Unseen::default();
    let own = std::process::id();
    for tgid in root.processes() {
        if tgid == own
            || root
                .stat(tgid)
                .is_none_or(|stat| stat.is_kernel_thread || stat.is_zombie)
        {
            continue;
        }
        let name = || root.small(tgid, "comm").unwrap_or_default().trim_end().to_owned();
        if name() == "spoor" {
            found.spoors.push(tgid);
        }
        match read_link(root.process(tgid).join("exe")) {
            Ok(_) => found.looked_into += 1,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                found.closed.push((tgid, name()));
                continue;
            }
            // The process is ending.
            Err(_) => continue,
        }
        for peculiarity in peculiarities(root, tgid) {
            let list = match peculiarity {
                Peculiarity::ThirtyTwoBit => &mut found.thirty_two_bit,
                Peculiarity::IoUring => &mut found.io_uring,
            };
            list.push((tgid, name()));
        }
    }
    let parent = |tgid: &u32| root.stat(*tgid).map(|stat| stat.parent);
    let all = found.spoors.clone();
    found
        .spoors
        .retain(|tgid| parent(tgid).is_none_or(|parent| !all.contains(&parent)));
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_process_is_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let process = |tgid: u32, comm: &str, parent: u32, flags: u64| {
            let path = directory.path().join(tgid.to_string());
            fs::create_dir_all(path.join("fd")).unwrap();
            fs::write(path.join("comm"), format!("{comm}\n")).unwrap();
            let rest = "0 ".repeat(12);
            fs::write(
                path.join("stat"),
                format!("{tgid} ({comm}) S {parent} 0 0 0 0 {flags} {rest}5 0 0\n"),
            )
            .unwrap();
            path
        };
        let binary = |name: &str, class: u8| {
            let path = directory.path().join(name);
            fs::write(&path, [0x7f, b'E', b'L', b'F', class, 1, 1]).unwrap();
            path
        };
        let (old, new) = (binary("old", 1), binary("new", 2));
        process(2, "kthreadd", 0, 0x0020_0000);
        symlink(&old, process(10, "legacy", 1, 0).join("exe")).unwrap();
        let ring = process(11, "ring", 1, 0);
        symlink(&new, ring.join("exe")).unwrap();
        symlink("anon_inode:[io_uring]", ring.join("fd/4")).unwrap();
        symlink(&new, process(12, "spoor", 1, 0).join("exe")).unwrap();
        symlink(&new, process(13, "spoor", 12, 0).join("exe")).unwrap();
        process(14, "ending", 1, 0);
        assert_eq!(
            unseen(&ProcRoot::new(directory.path())),
            Unseen {
                looked_into: 4,
                closed: vec![],
                thirty_two_bit: vec![(10, "legacy".to_owned())],
                io_uring: vec![(11, "ring".to_owned())],
                spoors: vec![12],
            }
        );
    }
}
