//! `spoor run -- CMD`: starts a command that is traced from its first system call on, and ends with it.
//!
//! The child is forked, and waits before its exec until [`Launch::release`]. In between, the session makes its pid a target.
//!
//! Signals: the terminal sends its signals (Ctrl-C, Ctrl-\, Ctrl-Z, a new window size) to the whole foreground process group,
//! the command included, so they are not passed on. Signals that a process sends to Spoor alone (`kill`, systemd, a
//! container's runtime) are passed on: [`FORWARDED`].

mod stop;
mod survivors;
mod user;

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    io::{PipeReader, PipeWriter, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus},
    sync::Arc,
    thread::JoinHandle,
};

use libc::c_int;

pub use stop::{BROKEN_PIPE, Stop};
pub use survivors::{Survivor, survivors};
use user::Account;

/// Signals that are passed on to the command when a process sends them to Spoor.
pub const FORWARDED: &[c_int] = &[
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// Reason why the command does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The command line has no command.
    #[error("no command was given: spoor run -- CMD…")]
    Empty,
    /// sudo's variables do not say which user called it.
    #[error("cannot tell which user called sudo ({0}); give --as-root to start the command as root")]
    User(String),
    /// There is no such program.
    #[error(
        "cannot start {command}: there is no such program, or the interpreter in its first line (#!) is missing; {}",
        advice(.command, .path)
    )]
    NotFound {
        /// The program.
        command: String,
        /// The directories that were searched.
        path: OsString,
    },
    /// The user may not execute the program.
    #[error(
        "cannot start {command} as {user}: {source}; check the permissions of the file (chmod +x) and of its directories"
    )]
    NotExecutable {
        /// The program.
        command: String,
        /// The user who would have executed it.
        user: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel gives another reason.
    #[error("cannot start {command}: {source}")]
    Other {
        /// The program.
        command: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl LaunchError {
    /// Returns the exit code that shells give in this case.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Empty | Self::User(_) | Self::Other { .. } => 125,
        }
    }
}

/// A command that was forked, and waits before its exec. Dropped, it ends without having run.
#[derive(Debug)]
pub struct Launch {
    pid: u32,
    gate: PipeWriter,
    /// `Command::spawn` returns after the exec only, so it has a thread of its own.
    spawn: JoinHandle<io::Result<Child>>,
    names: Names,
}

/// Names that errors mention.
#[derive(Clone, Debug)]
struct Names {
    command: String,
    user: String,
    path: OsString,
}

/// Returns what to do about a command that was not found. A path is not searched for.
fn advice(command: &str, path: &OsStr) -> String {
    if command.contains('/') {
        "check the path".to_owned()
    } else {
        format!(
            "it was searched in PATH={}, which sudo may have changed: give the full path",
            path.display()
        )
    }
}

impl Launch {
    /// Forks a child that will run the command: as the user who called sudo, unless `as_root`.
    ///
    /// # Errors
    /// If that user is not known, or the child cannot be forked.
    pub fn spawn(words: &[OsString], as_root: bool) -> Result<Self, LaunchError> {
        let account = if as_root { None } else { Account::of_sudo_caller()? };
        Self::spawn_as(words, account)
    }

    fn spawn_as(words: &[OsString], account: Option<Account>) -> Result<Self, LaunchError> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(LaunchError::Empty);
        };
        let names = Names {
            command: program.to_string_lossy().into_owned(),
            user: account
                .as_ref()
                .map_or_else(|| "the current user".to_owned(), |account| account.name.clone()),
            path: std::env::var_os("PATH").unwrap_or_default(),
        };
        let failed = |source| names.error(source);
        let (gate_reader, gate) = io::pipe().map_err(failed)?;
        let (mut pid_reader, pid_writer) = io::pipe().map_err(failed)?;

        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(account) = &account {
            account.set_environment(&mut command);
        }
        let gate_writer_fd = gate.as_raw_fd();
        let before_exec = move || {
            wait_at_gate(&pid_writer, &gate_reader, gate_writer_fd).and_then(|()| become_user(account.as_ref()))
        };
        // SAFETY: the closure runs in the child, between fork and exec, where another thread's lock may be held for ever.
        // It makes only system calls, on data that was prepared before the fork; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(before_exec) };

        let spawn = std::thread::Builder::new()
            .name("launch".to_owned())
            // Takes the command with it: once it is dropped, no writer is left and the read below ends.
            .spawn(move || command.spawn())
            .map_err(failed)?;
        let mut pid = [0; 4];
        match pid_reader.read_exact(&mut pid) {
            Ok(()) => Ok(Self {
                pid: u32::from_ne_bytes(pid),
                gate,
                spawn,
                names,
            }),
            // No child came to the gate.
            Err(error) => Err(match joined(spawn) {
                Err(source) => names.error(source),
                Ok(_) => names.error(error),
            }),
        }
    }

    /// Returns the child's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets the command run. From here on, signals are passed on to it, and no longer end Spoor by themselves, not even when
    /// the command has ended: the caller must handle SIGINT and SIGTERM too. Its handlers and these run side by side.
    ///
    /// # Errors
    /// If the command cannot be executed, or the child has ended.
    pub fn release(self) -> Result<Running, LaunchError> {
        let Self {
            pid,
            gate,
            spawn,
            names,
        } = self;
        let failed = |source| names.error(source);
        // Opened before the release: later, the pid might be another process's.
        let pidfd = Arc::new(pidfd_open(pid).map_err(failed)?);
        let forwarding = Forwarding::begin(pid, &pidfd).map_err(failed)?;
        io::Write::write_all(&mut &gate, &[1]).map_err(failed)?;
        drop(gate);
        let child = joined(spawn).map_err(failed)?;
        Ok(Running {
            child,
            pidfd,
            _forwarding: forwarding,
        })
    }
}

fn joined(spawn: JoinHandle<io::Result<Child>>) -> io::Result<Child> {
    spawn
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that started it panicked")))
}

impl Names {
    fn error(&self, source: io::Error) -> LaunchError {
        let Self { command, user, path } = self.clone();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => LaunchError::NotFound { command, path },
            Some(libc::EACCES | libc::EPERM | libc::ENOEXEC) => LaunchError::NotExecutable { command, user, source },
            _ => LaunchError::Other { command, source },
        }
    }
}

/// Writes the child's pid, then waits for the release. Runs in the child; async-signal-safe.
fn wait_at_gate(mut pid_writer: &PipeWriter, mut gate: &PipeReader, gate_writer_fd: RawFd) -> io::Result<()> {
    // While the child's copy of the gate's writing end is open, the agent's death would not end the wait below.
    // SAFETY: the descriptor is open, for the parent holds its `PipeWriter` until the release. The child has a copy of that
    // object too, and never drops it: it ends by exec or `_exit`.
    unsafe { libc::close(gate_writer_fd) };
    io::Write::write_all(&mut pid_writer, &std::process::id().to_ne_bytes())?;
    let mut word = [0];
    loop {
        return match gate.read(&mut word) {
            Ok(1) => Ok(()),
            // The agent gave up, or died: the command must not run untraced.
            Ok(_) => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Takes on the user's identity. Runs in the child; async-signal-safe.
///
/// Signals need nothing: std empties the mask and restores SIGPIPE, exec resets signals that have a handler, and ignored ones
/// (nohup) stay ignored.
fn become_user(account: Option<&Account>) -> io::Result<()> {
    let Some(Account { uid, gid, groups, .. }) = account else {
        return Ok(());
    };
    nix::unistd::setgroups(groups)?;
    nix::unistd::setgid(*gid)?;
    nix::unistd::setuid(*uid)?;
    Ok(())
}

/// A running command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: Arc<OwnedFd>,
    _forwarding: Forwarding,
}

impl Running {
    /// Returns the command's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the command a signal. A command that has ended already is no error.
    pub fn signal(&self, signal: c_int) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the command has ended. Blocks: call it on a thread that may. Signals are no longer passed on then.
    pub fn wait(mut self) -> io::Result<ExitCode> {
        self.child.wait().map(ExitCode::from)
    }
}

/// Exit code of the command as a shell reports it: its own, or 128 + the number of the signal that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub i32);

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        // Waited for without WUNTRACED, a status is one or the other.
        let signal = || 128 + status.signal().unwrap_or_default();
        Self(status.code().unwrap_or_else(signal))
    }
}

/// Passes signals on until it is dropped. Afterwards these signals do nothing, for their handlers stay installed: a program
/// that is to end by them needs handlers of its own.
struct Forwarding(Vec<signal_hook_registry::SigId>);

impl Forwarding {
    fn begin(child: u32, pidfd: &Arc<OwnedFd>) -> io::Result<Self> {
        let mut this = Self(Vec::new());
        for &signal in FORWARDED {
            let pidfd = Arc::clone(pidfd);
            let forward = move |info: &libc::siginfo_t| {
                if comes_from_a_process(info, child) {
                    // The only failure is that the command has ended.
                    let _ = pidfd_send_signal(&pidfd, signal);
                }
            };
            // SAFETY: the action is async-signal-safe: it reads a struct and makes one system call, and does not allocate,
            // lock or panic. signal-hook-registry restores errno after it.
            this.0
                .push(unsafe { signal_hook_registry::register_sigaction(signal, forward)? });
        }
        Ok(this)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            signal_hook_registry::unregister(id);
        }
    }
}

impl fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarding").field(&self.0.len()).finish()
    }
}

/// Returns whether a process other than the command sent the signal. The kernel sends the terminal's signals to the whole
/// group, and a command that signals its own group gets the signal by that.
fn comes_from_a_process(info: &libc::siginfo_t, child: u32) -> bool {
    // sigaction(2): the codes of processes (SI_USER, SI_QUEUE, SI_TKILL) are 0 and below, those of the kernel above.
    if info.si_code > 0 {
        return false;
    }
    // SAFETY: the union is of integers and pointers, and the kernel fills all of it. It holds the sender's pid where a process
    // sent the signal.
    let sender = unsafe { info.si_pid() };
    sender != child as libc::pid_t
}

/// Opens a pidfd: pidfd_open(2), Linux 5.3.
fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and touches no memory. It returns a new descriptor (with close-on-exec) or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal: pidfd_send_signal(2), Linux 5.1. Async-signal-safe.
fn pidfd_send_signal(pidfd: &OwnedFd, signal: c_int) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for as long as it is borrowed; without siginfo the kernel reads no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
