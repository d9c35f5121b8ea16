//! Client of the control socket: asks a running agent.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::MAX_ANSWER_BYTES;

/// Longest wait at each step: a working agent answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reason why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AskError {
    /// No agent listens.
    #[error("no agent answers at {0}")]
    NoAgent(PathBuf),
    /// The path names something else than a socket.
    #[error("{0} is no socket, no agent can be asked there; name the agent's own --control, or off to ask none")]
    NoSocket(PathBuf),
    /// The socket is another user's.
    #[error("cannot connect to {path}: {source}; run it as root, or as the user of the agent")]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot ask the agent at {path}: {source}; does it still run?")]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// Another program, or another version, answered.
    #[error("what answers at {path} does not speak as this spoor does ({source}); use the agent's own binary")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Error of the parser.
        source: serde_json::Error,
    },
}

/// Asks one question. Waits for at most five seconds at each step.
///
/// # Errors
/// If no agent listens there, or the answer cannot be understood.
pub fn ask<T: DeserializeOwned>(path: &Path, question: &str) -> Result<T, AskError> {
    let failed = |source: io::Error| {
        let path = path.to_owned();
        match source.kind() {
            // The kernel returns the same error for a socket without a listener (`unix_find_bsd`, net/unix/af_unix.c).
            ErrorKind::ConnectionRefused
                if fs::metadata(&path).is_ok_and(|metadata| !metadata.file_type().is_socket()) =>
            {
                AskError::NoSocket(path)
            }
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::NoAgent(path),
            ErrorKind::PermissionDenied => AskError::Denied { path, source },
            _ => AskError::Failed { path, source },
        }
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|source| AskError::Foreign {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::control::Status;

    #[test]
    fn what_is_no_socket_is_an_error_and_not_an_agent_that_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let asked = || ask::<Status>(&path, "status").unwrap_err();
        assert!(matches!(asked(), AskError::NoAgent(_)), "not there");
        fs::write(&path, "").unwrap();
        let expected = format!(
            "{} is no socket, no agent can be asked there; name the agent's own --control, or off to ask none",
            path.display()
        );
        assert_eq!(asked().to_string(), expected);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(asked(), AskError::NoSocket(_)), "a directory");
        fs::remove_dir(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(asked(), AskError::NoAgent(_)), "of an agent that was killed");
        let device = ask::<Status>(Path::new("/dev/null"), "status").unwrap_err();
        assert!(matches!(device, AskError::NoSocket(_)), "{device}");
    }
}
