//! Server of the control socket.

use std::{
    fs, io,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use thiserror::Error;

use super::{MAX_QUESTION_BYTES, MAX_WORKLOADS, Status, Workload, Workloads};
use crate::probe::Waker;

/// Longest time for a client to send its question, and to take the answer: the next client waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for Core's thread, which may work through a full ring first.
const CORE_PATIENCE: Duration = Duration::from_secs(4);
/// Pause after a connection could not be accepted (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Desk where clients wait for Core's thread.
#[derive(Debug, Default)]
pub struct Desk {
    asked: AtomicBool,
    waiting: Mutex<Vec<SyncSender<Vec<Workload>>>>,
}

impl Desk {
    /// Gives `workloads` to the clients that wait; called by Core's thread. Nearly free while none waits.
    pub fn serve(&self, workloads: impl FnOnce() -> Vec<Workload>) {
        if !self.asked.load(Ordering::Relaxed) {
            return;
        }
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.asked.store(false, Ordering::Relaxed);
            std::mem::take(&mut *waiting)
        };
        let workloads = workloads();
        for asker in waiting {
            // The client may have given up.
            let _ = asker.try_send(workloads.clone());
        }
    }

    /// Asks Core's thread; `None`: it does not answer.
    fn ask(&self, waker: &Waker) -> Option<Vec<Workload>> {
        let (asker, answer) = mpsc::sync_channel(1);
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(asker);
            self.asked.store(true, Ordering::Relaxed);
        }
        waker.wake();
        answer.recv_timeout(CORE_PATIENCE).ok()
    }
}

/// Reason why there is no control socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Another agent listens there.
    #[error(
        "another spoor has the control socket {0}; `spoor ps` speaks to that one, unless --control names another path for this one"
    )]
    Taken(PathBuf),
    /// The path names something else.
    #[error("cannot make the control socket {0}: there is a file of another kind; choose another path with --control")]
    Foreign(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {source}; choose another path with --control, or --control off")]
    Failed {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
}

/// Control socket, served on a thread of its own until it is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    /// Device and inode of the socket's file: another agent may replace it.
    file: (u64, u64),
    /// Directory that was made for the socket.
    _directory: Option<Made>,
    ended: Arc<AtomicBool>,
}

/// Directory that was made for the socket. It is removed with the socket if it is empty then.
#[derive(Debug)]
struct Made(PathBuf);

impl Made {
    /// Makes the directory if it is missing, but not those above it: their names may be mistyped.
    fn directory(path: &Path) -> io::Result<Option<Self>> {
        match fs::DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => Ok(Some(Self(path.to_owned()))),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // It stays if it holds other files.
        let _ = fs::remove_dir(&self.0);
    }
}

impl Control {
    /// Listens at `path`, for this process's user alone. What a killed agent left there is replaced.
    ///
    /// # Errors
    /// If another agent listens there, or the socket cannot be made.
    pub fn start(path: &Path, status: Status, desk: Arc<Desk>, waker: Waker) -> Result<Self, ControlError> {
        let ask = move || desk.ask(&waker);
        Self::with(path, status, ask)
    }

    fn with(
        path: &Path,
        status: Status,
        ask: impl Fn() -> Option<Vec<Workload>> + Send + 'static,
    ) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Failed {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(ControlError::Foreign(path.to_owned())),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(ControlError::Taken(path.to_owned())),
            _ => {}
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.map(Made::directory).transpose().map_err(failed)?.flatten();
        let (listener, file) = bind(path, parent.unwrap_or(Path::new("."))).map_err(failed)?;
        let ended = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&ended);
        thread::Builder::new()
            .name("spoor-control".to_owned())
            .spawn(move || serve(&listener, &status, &ask, &of_thread))
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            _directory: directory,
            ended,
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if file_identity(&self.path).ok() == Some(self.file) {
            // Ends the thread's wait. No client waits at a socket that is gone already.
            let _ = UnixStream::connect(&self.path);
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket in a directory that only its owner may enter, and moves it to its place once only its owner may use
/// it.
fn bind(path: &Path, parent: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let private = parent.join(format!(".spoor-{}", std::process::id()));
    // A killed agent of the same id may have left it.
    let _ = fs::remove_dir_all(&private);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = (|| {
        let at = private.join("s");
        let listener = UnixListener::bind(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o600))?;
        let file = file_identity(&at)?;
        fs::rename(&at, path)?;
        Ok((listener, file))
    })();
    let _ = fs::remove_dir_all(&private);
    made
}

/// Returns device and inode of a file, which tell whether two paths lead to one.
pub fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn serve(listener: &UnixListener, status: &Status, ask: &impl Fn() -> Option<Vec<Workload>>, ended: &AtomicBool) {
    loop {
        let accepted = listener.accept();
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let result = accepted.and_then(|(stream, _)| answer(stream, status, ask));
        if let Err(error) = result {
            tracing::debug!("a question on the control socket was not answered: {error}");
            if !matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::InvalidInput
            ) {
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn answer(stream: UnixStream, status: &Status, ask: &impl Fn() -> Option<Vec<Workload>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new((&stream).take(MAX_QUESTION_BYTES)).read_line(&mut question)?;
    let answer = match question.trim_end() {
        "status" => serde_json::to_vec(status),
        "workloads" => {
            let mut workloads = ask().ok_or_else(|| io::Error::other("the reader does not answer"))?;
            let left_off = workloads.len().saturating_sub(MAX_WORKLOADS);
            workloads.truncate(MAX_WORKLOADS);
            serde_json::to_vec(&Workloads {
                agent: status.clone(),
                workloads,
                left_off,
            })
        }
        _ => {
            return Err(io::Error::new(ErrorKind::InvalidInput, "nobody knows this question"));
        }
    }?;
    (&stream).write_all(&answer)?;
    (&stream).write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{AskError, ask},
        probe::Family,
    };

    fn status() -> Status {
        Status {
            version: "0".to_owned(),
            pid: 7,
            doing: "traces --port 80".to_owned(),
            rules: vec!["--port 80".to_owned()],
            since_unix_s: 1,
            control: None,
            hooks: Some(Family::Sock),
        }
    }

    fn workload(pid: u32) -> Workload {
        Workload {
            pid,
            selected: Some(true),
            ..Workload::default()
        }
    }

    #[test]
    fn questions_are_answered_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/control.sock");
        let control = Control::with(&path, status(), || Some(vec![workload(1)])).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask::<Status>(&path, "status").unwrap(), status());
        let expected = Workloads {
            agent: status(),
            workloads: vec![workload(1)],
            left_off: 0,
        };
        assert_eq!(ask::<Workloads>(&path, "workloads").unwrap(), expected);
        assert!(matches!(
            ask::<Workloads>(&path, "nonsense"),
            Err(AskError::Foreign { .. })
        ));
        // One client asks too much, another leaves without a question.
        assert!(ask::<Status>(&path, &"x".repeat(100_000)).is_err());
        drop(UnixStream::connect(&path).unwrap());
        assert_eq!(ask::<Status>(&path, "status").unwrap(), status());
        assert!(matches!(
            Control::with(&path, status(), || None),
            Err(ControlError::Taken(taken)) if taken == path
        ));
        drop(control);
        assert!(!path.exists());
        assert!(matches!(ask::<Status>(&path, "status"), Err(AskError::NoAgent(_))));
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn one_directory_is_made_and_removed_if_nothing_else_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let mistyped = directory.path().join("a/b/s");
        assert!(matches!(
            Control::with(&mistyped, status(), || None),
            Err(ControlError::Failed { .. })
        ));
        assert!(!directory.path().join("a").exists());
        let path = directory.path().join("a/s");
        let control = Control::with(&path, status(), || None).unwrap();
        fs::write(directory.path().join("a/of-another"), "").unwrap();
        drop(control);
        assert!(directory.path().join("a/of-another").exists());
        // What was there before stays.
        fs::remove_file(directory.path().join("a/of-another")).unwrap();
        drop(Control::with(&path, status(), || None).unwrap());
        assert!(directory.path().join("a").exists() && !path.exists());
        // Of one that cannot be made, nothing stays.
        let too_long = directory.path().join("b").join("s".repeat(300));
        assert!(Control::with(&too_long, status(), || None).is_err());
        assert!(!directory.path().join("b").exists());
    }

    #[test]
    fn a_long_answer_is_cut_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let many: Vec<Workload> = (0..MAX_WORKLOADS as u32 + 5).map(workload).collect();
        let _control = Control::with(&path, status(), move || Some(many.clone())).unwrap();
        let answer = ask::<Workloads>(&path, "workloads").unwrap();
        assert_eq!((answer.workloads.len(), answer.left_off), (MAX_WORKLOADS, 5));
    }

    #[test]
    fn what_a_killed_agent_left_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let control = Control::with(&path, status(), || None).unwrap();
        assert_eq!(ask::<Status>(&path, "status").unwrap(), status());
        // Another agent's socket is not removed with this one's.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(control);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(matches!(
            Control::with(&path, status(), || None),
            Err(ControlError::Foreign(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn the_list_is_made_only_when_somebody_asks() {
        let desk = Desk::default();
        desk.serve(|| panic!("nobody asked"));
        let (asker, answer) = mpsc::sync_channel(1);
        desk.waiting.lock().unwrap().push(asker);
        desk.asked.store(true, Ordering::Relaxed);
        desk.serve(|| vec![workload(3)]);
        assert_eq!(answer.recv().unwrap(), [workload(3)]);
        desk.serve(|| panic!("nobody asks any more"));
    }
}
