//! Questions to a reader and its answers, as bytes.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::process::{elf, proc_root::ProcRoot};

/// Upper bound on bytes of a path: PATH_MAX (include/uapi/linux/limits.h). So a question always fits into the empty
/// pipe.
const MOST_PATH_BYTES: usize = 4096;

/// Something to read that may never answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The command line, from the process's memory.
    CommandLine(u32),
    /// The environment, from the process's memory.
    Environment(u32),
    /// Which file the process executes: [`Identity`] as JSON.
    Identity(u32),
    /// The executable's headers: [`elf::Binary`] as JSON. No answer if the file may not be read.
    Headers(u32),
    /// The executable's headers, with the marks that a search of its data finds.
    Search(u32),
    /// At most this many bytes of a file, as the process names it.
    FileOf(u32, PathBuf, u64),
    /// At most this many bytes of a file of the host.
    HostFile(PathBuf, u64),
    /// The names in a directory of the host: a list as JSON.
    HostDirectory(PathBuf),
}

/// The file that a process executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Identity {
    /// The file, as the kernel knows it. A file system that would have to ask a server gives what it remembers.
    File {
        device: u64,
        inode: u64,
        modified: (i64, u32),
    },
    /// This process may not look at the file.
    Denied,
    /// There is no file, or the process has ended.
    Gone,
}

impl Question {
    /// Returns the process whose memory or files are read. Files of the host are those of process 1.
    pub(super) fn tgid(&self) -> u32 {
        match self {
            Self::CommandLine(tgid)
            | Self::Environment(tgid)
            | Self::Identity(tgid)
            | Self::Headers(tgid)
            | Self::Search(tgid)
            | Self::FileOf(tgid, ..) => *tgid,
            Self::HostFile(..) | Self::HostDirectory(..) => 1,
        }
    }

    /// Returns true if the question is about files of the host.
    pub(super) fn is_of_host(&self) -> bool {
        matches!(self, Self::HostFile(..) | Self::HostDirectory(..))
    }

    /// Returns the object of the read, for people.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::CommandLine(tgid) => format!("the command line of process {tgid}"),
            Self::Environment(tgid) => format!("the environment of process {tgid}"),
            Self::Identity(tgid) | Self::Headers(tgid) | Self::Search(tgid) => {
                format!("the executable of process {tgid}")
            }
            Self::FileOf(tgid, path, _) => format!("{} of process {tgid}", path.display()),
            Self::HostFile(path, _) | Self::HostDirectory(path) => format!("{} of the host", path.display()),
        }
    }

    /// Encodes the question: one byte of kind, 4 of process, 8 of length, the path. `None`: no kernel would take the
    /// path.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let (kind, tgid, max, path): (u8, u32, u64, &Path) = match self {
            Self::CommandLine(tgid) => (0, *tgid, 0, Path::new("")),
            Self::Environment(tgid) => (1, *tgid, 0, Path::new("")),
            Self::Identity(tgid) => (2, *tgid, 0, Path::new("")),
            Self::Headers(tgid) => (3, *tgid, 0, Path::new("")),
            Self::Search(tgid) => (4, *tgid, 0, Path::new("")),
            Self::FileOf(tgid, path, max) => (5, *tgid, *max, path),
            Self::HostFile(path, max) => (6, 0, *max, path),
            Self::HostDirectory(path) => (7, 0, 0, path),
        };
        let path = path.as_os_str().as_bytes();
        if path.len() > MOST_PATH_BYTES {
            return None;
        }
        Some([&[kind], &tgid.to_le_bytes()[..], &max.to_le_bytes(), path].concat())
    }

    /// Reads what [`Question::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let (tgid, rest) = rest.split_first_chunk()?;
        let (max, path) = rest.split_first_chunk()?;
        let (tgid, max) = (u32::from_le_bytes(*tgid), u64::from_le_bytes(*max));
        let path = PathBuf::from(OsStr::from_bytes(path));
        Some(match kind {
            0 => Self::CommandLine(tgid),
            1 => Self::Environment(tgid),
            2 => Self::Identity(tgid),
            3 => Self::Headers(tgid),
            4 => Self::Search(tgid),
            5 => Self::FileOf(tgid, path, max),
            6 => Self::HostFile(path, max),
            7 => Self::HostDirectory(path),
            _ => return None,
        })
    }

    /// Reads the answer here and now, however long that takes. Calls `alive` while a long search goes on.
    pub(crate) fn answer(&self, root: &ProcRoot, alive: &mut dyn FnMut()) -> Option<Vec<u8>> {
        match self {
            Self::CommandLine(tgid) => root.cmdline_here(*tgid),
            Self::Environment(tgid) => root.environ_here(*tgid),
            Self::Identity(tgid) => serde_json::to_vec(&identity(root, *tgid)).ok(),
            Self::Headers(tgid) => {
                let file = root.executable_here(*tgid)?;
                serde_json::to_vec(&elf::headers(&file)).ok()
            }
            Self::Search(tgid) => {
                let file = root.executable_here(*tgid)?;
                let mut binary = elf::headers(&file);
                elf::search(&file, &mut binary, alive);
                serde_json::to_vec(&binary).ok()
            }
            Self::FileOf(tgid, path, max) => root.file_of_here(*tgid, path, *max),
            Self::HostFile(path, max) => root.host_file_here(path, *max),
            Self::HostDirectory(path) => {
                let entries = fs::read_dir(root.host_path(path)).ok()?;
                let names: Vec<String> = entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect();
                serde_json::to_vec(&names).ok()
            }
        }
    }
}

/// Asks the kernel which file a process executes. It asks no server, for it remembers a file that a process runs.
fn identity(root: &ProcRoot, tgid: u32) -> Identity {
    let link = root.process(tgid).join("exe");
    let flags = AtFlags::STATX_DONT_SYNC;
    match statx(CWD, &link, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => Identity::File {
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        },
        Err(Errno::ACCESS | Errno::PERM) => Identity::Denied,
        Err(_) => Identity::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_pipe() {
        let path = PathBuf::from(OsStr::from_bytes(b"/srv/\xff\n"));
        for question in [
            Question::CommandLine(7),
            Question::Environment(u32::MAX),
            Question::Identity(1),
            Question::Headers(2),
            Question::Search(3),
            Question::FileOf(4, path.clone(), u64::MAX),
            Question::HostFile(path.clone(), 5),
            Question::HostDirectory(path),
        ] {
            assert_eq!(Question::decode(&question.encode().unwrap()), Some(question));
        }
        assert_eq!(Question::decode(b"\x09\0\0\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(Question::decode(b"\x01\0\0"), None);
        let long = PathBuf::from("/x".repeat(MOST_PATH_BYTES));
        assert_eq!(Question::FileOf(1, long, 1).encode(), None);
    }
}
