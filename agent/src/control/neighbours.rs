//! Other agents on this host. Each holds a lock on a file of its own below one directory of the host, whatever its
//! mount namespace, its control socket and its binary's name are. The kernel releases the lock however an agent ends.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::Status;
use crate::process::ProcRoot;

/// The directory, on the host.
const DIRECTORY: &str = "/run/spoor/agents";
/// Largest part of a file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Registered agents.
#[derive(Debug)]
pub struct Neighbours(PathBuf);

/// Entry of this agent, until it is dropped.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Neighbours {
    /// Uses the host of this process file system.
    pub fn of_host(root: &ProcRoot) -> Self {
        Self(root.host_path(DIRECTORY))
    }

    #[cfg(test)]
    fn below(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Lists the other agents that run. Removes the entries of agents that were killed.
    pub fn others(&self) -> Vec<Status> {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let own = std::process::id().to_string();
        let mut others: Vec<Status> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str() != Some(own.as_str()))
            .filter_map(|entry| running(&entry.path()))
            .collect();
        others.sort_by_key(|other| other.pid);
        others
    }

    /// Registers this agent.
    ///
    /// # Errors
    /// If the entry cannot be written: other agents will not see this one.
    pub fn register(&self, status: &Status) -> io::Result<Registration> {
        fs::create_dir_all(&self.0)?;
        let path = self.0.join(status.pid.to_string());
        let mut file = locked(&path)?;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(status)?)?;
        Ok(Registration { path, _file: file })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // An entry without a lock is removed by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens and locks the file. An agent that starts at the same time may remove it before it is locked.
fn locked(path: &Path) -> io::Result<File> {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.lock()?;
        if fs::symlink_metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino())) {
            return Ok(file);
        }
    }
    Err(io::Error::other("others remove it again and again"))
}

fn running(path: &Path) -> Option<Status> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    // Shared, so that two agents that look at the same time do not take each other's lock for the owner's.
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = fs::remove_file(path);
            None
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        }
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Family;

    fn status(pid: u32) -> Status {
        Status {
            version: "0".to_owned(),
            pid,
            doing: "traces every process".to_owned(),
            rules: vec![],
            since_unix_s: 1,
            control: None,
            hooks: Some(Family::Sock),
        }
    }

    #[test]
    fn those_that_run_are_named_and_those_that_ended_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let neighbours = Neighbours::below(&directory.path().join("agents"));
        assert_eq!(neighbours.others(), []);
        // 1 and 2: no test is that process. The lock is the open file's, not the process's.
        let first = neighbours.register(&status(1)).unwrap();
        let second = neighbours.register(&status(2)).unwrap();
        assert_eq!(neighbours.others(), [status(1), status(2)]);
        drop(first);
        assert_eq!(neighbours.others(), [status(2)]);
        drop(second);
        // As kill -9 leaves it.
        let left = directory.path().join("agents/3");
        fs::write(&left, serde_json::to_vec(&status(3)).unwrap()).unwrap();
        assert_eq!(neighbours.others(), []);
        assert!(!left.exists());
    }

    #[test]
    fn an_agent_is_not_its_own_neighbour() {
        let directory = tempfile::tempdir().unwrap();
        let neighbours = Neighbours::below(directory.path());
        let _own = neighbours.register(&status(std::process::id())).unwrap();
        assert_eq!(neighbours.others(), []);
    }
}
