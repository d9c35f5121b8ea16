//! Peculiarities that may hide traffic of a process, and the PID namespace that the agent needs.

use std::{fs, os::unix::fs::MetadataExt};

use super::{ProcRoot, reader::Identity};
use crate::probe::Family;

/// Inode of the initial PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Peculiarity that may hide traffic of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peculiarity {
    /// The program is a 32-bit one: its system calls have other numbers, which are not hooked.
    ThirtyTwoBit,
    /// The process has an io_uring, which moves bytes without a system call for each.
    IoUring,
}

impl Peculiarity {
    /// Returns the warning for the user of a workload.
    pub fn message(self) -> &'static str {
        match self {
            Self::ThirtyTwoBit => "this workload is a 32-bit program: its traffic is not visible",
            Self::IoUring => {
                "this workload uses io_uring: its traffic on it is not visible, because bytes are seen at system calls"
            }
        }
    }

    /// Returns whether it hides traffic from an agent with this family of hooks. The events of sockets show what an
    /// io_uring moves.
    pub fn hides_from(self, hooks: Family) -> bool {
        match self {
            Self::ThirtyTwoBit => true,
            Self::IoUring => hooks == Family::Syscall,
        }
    }
}

/// Returns the peculiarities of a process at this time; a ring may also be made later.
pub fn peculiarities(root: &ProcRoot, tgid: u32) -> Vec<Peculiarity> {
    let device = match root.identity(tgid) {
        Some(Identity::File { device, .. }) => Some(device),
        Some(Identity::Denied | Identity::Gone) | None => None,
    };
    let binary = device.and_then(|device| root.headers(tgid, device));
    of_program(root, tgid, binary.is_some_and(|binary| binary.is_32_bit))
}

/// Returns the peculiarities of a process whose word size is known.
pub(super) fn of_program(root: &ProcRoot, tgid: u32, is_32_bit: bool) -> Vec<Peculiarity> {
    let mut found = Vec::new();
    if is_32_bit {
        found.push(Peculiarity::ThirtyTwoBit);
    }
    if root
        .descriptors(tgid)
        .any(|target| target.as_os_str() == "anon_inode:[io_uring]")
    {
        found.push(Peculiarity::IoUring);
    }
    found
}

/// Error of an agent that cannot see the processes of the host.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamespaceError {
    /// The agent runs in a PID namespace of its own.
    #[error(
        "spoor runs in a PID namespace of its own (inode {inode:#x}), where the kernel's process ids mean nothing and other \
         containers' processes cannot be seen; start its container with --pid=host (Kubernetes: hostPID: true)"
    )]
    NotInitial {
        /// The namespace's inode.
        inode: u64,
    },
    /// There is no process file system.
    #[error(
        "cannot read {path}: {cause}; spoor needs the process file system, mount it with `mount -t proc proc /proc`"
    )]
    NoProc {
        /// Path that was to be read.
        path: String,
        /// Error of the kernel.
        cause: String,
    },
}

/// Checks that the agent is in the initial PID namespace, whose ids are those that the kernel reports.
///
/// # Errors
/// If the agent is in another namespace, or there is no process file system.
pub fn own_namespace_is_initial(root: &ProcRoot) -> Result<(), NamespaceError> {
    let path = root.path("self/ns/pid");
    match fs::metadata(&path).map(|metadata| metadata.ino()) {
        Ok(INITIAL_PID_NAMESPACE) => Ok(()),
        Ok(inode) => Err(NamespaceError::NotInitial { inode }),
        Err(error) => Err(NamespaceError::NoProc {
            path: path.display().to_string(),
            cause: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn both_peculiarities() {
        let directory = tempfile::tempdir().unwrap();
        let root = ProcRoot::new(directory.path());
        let process = directory.path().join("10");
        fs::create_dir_all(process.join("fd")).unwrap();
        fs::write(process.join("exe"), b"\x7fELF\x02\x01\x01").unwrap();
        symlink("anon_inode:[eventpoll]", process.join("fd/3")).unwrap();
        assert_eq!(peculiarities(&root, 10), []);
        fs::write(process.join("exe"), b"\x7fELF\x01\x01\x01").unwrap();
        symlink("anon_inode:[io_uring]", process.join("fd/4")).unwrap();
        assert_eq!(
            peculiarities(&root, 10),
            [Peculiarity::ThirtyTwoBit, Peculiarity::IoUring]
        );
        assert_eq!(peculiarities(&root, 11), []);
        assert_eq!(peculiarities(&ProcRoot::default(), std::process::id()), []);
    }

    #[test]
    fn another_namespace_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = ProcRoot::new(directory.path());
        let message = own_namespace_is_initial(&root).unwrap_err().to_string();
        assert!(
            message.contains("self/ns/pid") && message.contains("mount -t proc"),
            "{message}"
        );
        fs::create_dir_all(directory.path().join("self/ns")).unwrap();
        fs::write(directory.path().join("self/ns/pid"), "").unwrap();
        let message = own_namespace_is_initial(&root).unwrap_err().to_string();
        assert!(message.contains("--pid=host"), "{message}");
    }

    #[test]
    fn the_answer_agrees_with_the_link() {
        let link = Command::new("readlink").arg("/proc/self/ns/pid").output().unwrap();
        let is_initial = String::from_utf8_lossy(&link.stdout).trim() == "pid:[4026531836]";
        assert_eq!(own_namespace_is_initial(&ProcRoot::default()).is_ok(), is_initial);
    }
}
