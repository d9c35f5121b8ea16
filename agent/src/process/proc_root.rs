//! Reading `/proc`, with bounds and without a hard failure: what cannot be read is not known.
//!
//! Everything is read below one root, so that tests can use a directory of their own. Files of the host are reached
//! through `1/root`, those of a container through `PID/root`: the agent may itself live in another mount namespace.
//!
//! A read that may wait for a file system of the process, or for its memory, is a [`Question`] to a reader where there
//! is one ([`ProcRoot::of_host`]). Functions that end in `_here` make such a read in place.

use std::{
    fs::{File, OpenOptions, read_dir, read_link},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    buffer::spare_capacity,
    fs::{self, Mode, OFlags, ResolveFlags},
};

use super::{
    elf::Binary,
    reader::{self, Identity, Question, Readers},
};

/// Upper bound on bytes of a process's environment that are looked at. The kernel's own bound is a quarter of the stack
/// limit (2 MiB by default); what people set by hand is a few KiB.
const ENVIRON_BYTES: usize = 1 << 20;
/// Upper bound on bytes of a command line: Java class paths are long, and the main class comes after them.
const CMDLINE_BYTES: usize = 256 << 10;
/// Upper bound on bytes of the small files (`stat`, `comm`, `cgroup`, `status`).
const SMALL_BYTES: u64 = 64 << 10;

/// Flag of a kernel thread in `/proc/PID/stat` (`PF_KTHREAD`, include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// Process file system, and the readers of what may never answer.
#[derive(Clone, Debug)]
pub struct ProcRoot {
    path: PathBuf,
    /// The host's root directory.
    host: PathBuf,
    /// Readers of what may never answer; without them it is read in place.
    readers: Option<Arc<Readers>>,
}

impl Default for ProcRoot {
    fn default() -> Self {
        Self::new("/proc")
    }
}

/// Fields of `/proc/PID/stat` that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    pub(crate) is_kernel_thread: bool,
    pub(crate) is_zombie: bool,
    /// Start of the process in clock ticks since boot: with the pid, it names a process for good.
    pub(crate) start_ticks: u64,
}

impl ProcRoot {
    /// Uses the process file system that is mounted at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let of_init = path.join("1/root");
        // Even root may not look into process 1 (a security module, a sandbox): then the agent's own files must do.
        let host = if of_init.is_dir() { of_init } else { PathBuf::from("/") };
        Self {
            path,
            host,
            readers: None,
        }
    }

    /// Uses the host's process file system. Readers in processes of their own read what may never answer, so that the
    /// caller goes on; where none can be started, it is read in place.
    pub fn of_host() -> Self {
        let root = Self::default();
        match Readers::start(root.clone()) {
            Ok(readers) => Self {
                readers: Some(Arc::new(readers)),
                ..root
            },
            Err(error) => {
                tracing::warn!(
                    "no process can be started to read files of other processes ({error}): a file system that does not \
                     answer will stop what spoor learns of new processes"
                );
                root
            }
        }
    }

    /// Returns the readers of what may never answer, if there are any.
    pub fn readers(&self) -> Option<&Arc<Readers>> {
        self.readers.as_ref()
    }

    /// Returns true if a process is the agent, or one of its readers.
    pub(crate) fn is_own(&self, tgid: u32, parent: u32) -> bool {
        let own = std::process::id();
        tgid == own
            || parent == own
                && self
                    .small(tgid, "comm")
                    .is_some_and(|comm| comm.trim_end() == reader::NAME)
    }

    /// Returns true if a read from a process did not answer, so that not everything is known of it.
    pub(crate) fn is_suspect(&self, tgid: u32) -> bool {
        self.readers.as_ref().is_some_and(|readers| readers.is_suspect(tgid))
    }

    /// Returns true if it is time to read again from a process that did not answer.
    pub(crate) fn try_again(&self, tgid: u32) -> bool {
        self.readers.as_ref().is_none_or(|readers| readers.try_again(tgid))
    }

    fn ask(&self, question: &Question, device: Option<u64>) -> Option<Vec<u8>> {
        match &self.readers {
            Some(readers) => readers.ask(question, device),
            None => question.answer(self, &mut || {}),
        }
    }

    pub(super) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    pub(super) fn process(&self, tgid: u32) -> PathBuf {
        self.path.join(tgid.to_string())
    }

    /// Lists every process (not its threads), in the order of the directory.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(entries) = read_dir(&self.path) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Returns the path to a file of the host, whatever mount namespace the agent is in.
    pub(crate) fn host_path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.host.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Reads at most `max` bytes of a file of the host.
    pub(super) fn host_file(&self, absolute: &str, max: u64) -> Option<Vec<u8>> {
        self.ask(&Question::HostFile(absolute.into(), max), None)
    }

    /// Reads a small text of the host.
    pub(super) fn host_text(&self, absolute: &str) -> Option<String> {
        let bytes = self.host_file(absolute, SMALL_BYTES)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn host_file_here(&self, absolute: &Path, max: u64) -> Option<Vec<u8>> {
        read_bounded(&self.host_path(absolute), max)
    }

    /// Lists the names in a directory of the host.
    pub(super) fn host_directory(&self, absolute: &str) -> Option<Vec<String>> {
        let names = self.ask(&Question::HostDirectory(absolute.into()), None)?;
        serde_json::from_slice(&names).ok()
    }

    /// Reads at most `max` bytes of a file as the process names it: absolute in its mount namespace, or relative to its
    /// working directory. Links lead to where they lead for the process, and never out of its root.
    pub(super) fn file_of(&self, tgid: u32, path: &Path, max: u64) -> Option<Vec<u8>> {
        self.ask(&Question::FileOf(tgid, path.to_owned(), max), None)
    }

    pub(super) fn file_of_here(&self, tgid: u32, path: &Path, max: u64) -> Option<Vec<u8>> {
        let (below, relative) = match path.strip_prefix("/") {
            Ok(relative) => ("root", relative),
            Err(_) => ("cwd", path),
        };
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(self.process(tgid).join(below))
            .ok()?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = fs::openat2(&directory, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        read_file(regular(File::from(file))?, max)
    }

    pub(crate) fn cmdline(&self, tgid: u32) -> Option<Vec<u8>> {
        self.ask(&Question::CommandLine(tgid), None)
    }

    pub(super) fn cmdline_here(&self, tgid: u32) -> Option<Vec<u8>> {
        read_at_once(&self.process(tgid).join("cmdline"), CMDLINE_BYTES)
    }

    pub(super) fn environ_here(&self, tgid: u32) -> Option<Vec<u8>> {
        read_at_once(&self.process(tgid).join("environ"), ENVIRON_BYTES)
    }

    /// Reads the command line, the environment, and which file the process executes, and wakes a reader once for all
    /// three.
    pub(super) fn memory_and_identity(&self, tgid: u32) -> (Option<Vec<u8>>, Option<Vec<u8>>, Option<Identity>) {
        let questions = [
            Question::CommandLine(tgid),
            Question::Environment(tgid),
            Question::Identity(tgid),
        ];
        let [command_line, environment, identity] = match &self.readers {
            Some(readers) => readers.ask_all(questions.each_ref(), None),
            None => questions.map(|question| question.answer(self, &mut || {})),
        };
        let identity = identity.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        (command_line, environment, identity)
    }

    /// Returns which file the process executes; `None`: its file system does not answer.
    pub(super) fn identity(&self, tgid: u32) -> Option<Identity> {
        serde_json::from_slice(&self.ask(&Question::Identity(tgid), None)?).ok()
    }

    /// Reads the executable's headers; `None`: the file may not be read, or its file system does not answer.
    pub(super) fn headers(&self, tgid: u32, device: u64) -> Option<Binary> {
        serde_json::from_slice(&self.ask(&Question::Headers(tgid), Some(device))?).ok()
    }

    /// Reads the executable's headers, and searches its data.
    pub(super) fn search(&self, tgid: u32, device: u64) -> Option<Binary> {
        serde_json::from_slice(&self.ask(&Question::Search(tgid), Some(device))?).ok()
    }

    pub(super) fn executable_here(&self, tgid: u32) -> Option<File> {
        open_regular(&self.process(tgid).join("exe"))
    }

    pub(crate) fn small(&self, tgid: u32, name: &str) -> Option<String> {
        read_small(&self.process(tgid).join(name))
    }

    /// Returns the executable's path in the process's mount namespace, also if the file was replaced meanwhile.
    pub fn exe(&self, tgid: u32) -> Option<PathBuf> {
        let link = read_link(self.process(tgid).join("exe")).ok()?;
        match link.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
            Some(path) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(path))),
            None => Some(link),
        }
    }

    pub(crate) fn cwd(&self, tgid: u32) -> Option<PathBuf> {
        read_link(self.process(tgid).join("cwd")).ok()
    }

    pub(crate) fn stat(&self, tgid: u32) -> Option<Stat> {
        parse_stat(&self.small(tgid, "stat")?)
    }

    /// Returns true if a process has not ended.
    pub(crate) fn runs(&self, tgid: u32) -> bool {
        self.stat(tgid).is_some_and(|stat| !stat.is_zombie)
    }

    /// Reads a namespace link, such as `net:[4026531840]`.
    pub(super) fn namespace(&self, tgid: u32, kind: &str) -> Option<PathBuf> {
        read_link(self.process(tgid).join("ns").join(kind)).ok()
    }

    /// Returns the host's namespace of this kind; the agent's own where process 1 may not be looked into.
    pub(super) fn host_namespace(&self, kind: &str) -> Option<PathBuf> {
        let own = || read_link(self.path.join("self/ns").join(kind)).ok();
        self.namespace(1, kind).or_else(own)
    }

    /// Lists the targets of all file descriptors, such as `socket:[1234]`.
    pub(super) fn descriptors(&self, tgid: u32) -> impl Iterator<Item = PathBuf> {
        read_dir(self.process(tgid).join("fd"))
            .into_iter()
            .flatten()
            .filter_map(|entry| read_link(entry.ok()?.path()).ok())
    }
}

/// Reads at most `max` bytes of a regular file. Never waits: a container may have put a pipe in the place of the file.
pub(super) fn read_bounded(path: &Path, max: u64) -> Option<Vec<u8>> {
    read_file(open_regular(path)?, max)
}

/// Reads at most `max` bytes of a file of /proc that shows a process's memory. One read(2) holds that memory; between
/// two, the process may end, which looks like the end of the file: a name would be cut.
fn read_at_once(path: &Path, max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(max);
    rustix::io::read(open_regular(path)?, spare_capacity(&mut bytes)).ok()?;
    bytes.shrink_to_fit();
    Some(bytes)
}

fn read_file(file: File, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    // An error in the middle (the process ended) leaves what was read so far.
    let read = file.take(max).read_to_end(&mut bytes);
    (read.is_ok() || !bytes.is_empty()).then_some(bytes)
}

pub(super) fn read_small(path: &Path) -> Option<String> {
    read_bounded(path, SMALL_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn open_regular(path: &Path) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    regular(file)
}

fn regular(file: File) -> Option<File> {
    file.metadata().ok()?.is_file().then_some(file)
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses may hold anything, parentheses and blanks too:
/// the last parenthesis ends it.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first one here is field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        is_kernel_thread: number(9)? & PF_KTHREAD != 0,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_any_name() {
        let text = "42 (a) b ( c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                parent: 7,
                is_kernel_thread: false,
                is_zombie: false,
                start_ticks: 98765
            })
        );
        assert_eq!(parse_stat("42 (cut off"), None);
        assert_eq!(parse_stat("42 (cut) S 1"), None);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(read_bounded(&path, 10), None);
    }

    #[test]
    fn links_of_a_container_stay_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "of the host").unwrap();
        let root_of_process = directory.path().join("10/root");
        std::fs::create_dir_all(root_of_process.join("srv")).unwrap();
        std::fs::write(root_of_process.join("srv/file"), "of the container").unwrap();
        std::os::unix::fs::symlink("/srv/file", root_of_process.join("link")).unwrap();
        std::os::unix::fs::symlink(&secret, root_of_process.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../secret", root_of_process.join("relative")).unwrap();
        let root = ProcRoot::new(directory.path());
        let read = |path: &str| root.file_of(10, Path::new(path), 100);
        assert_eq!(read("/link").as_deref(), Some(&b"of the container"[..]));
        assert_eq!(read("/srv/../srv/file").as_deref(), Some(&b"of the container"[..]));
        assert_eq!(read("/absolute"), None);
        assert_eq!(read("/relative"), None);
        assert_eq!(read("/../../secret"), None);
        assert_eq!(read("/srv"), None);
    }

    #[test]
    fn what_ends_is_not_cut() {
        const NAME: &str = "SPOOR_TEST=a value that is longer than what is read at first";
        let root = ProcRoot::default();
        let mut whole = 0;
        for _ in 0..500 {
            let mut command = std::process::Command::new("/bin/true");
            let (key, value) = NAME.split_once('=').unwrap();
            let mut child = command.env_clear().env(key, value).spawn().unwrap();
            for _ in 0..200 {
                let environ = root.environ_here(child.id()).unwrap_or_default();
                let environ = String::from_utf8_lossy(&environ);
                assert!(environ.is_empty() || environ == format!("{NAME}\0"), "{environ}");
                whole += usize::from(!environ.is_empty());
                if child.try_wait().unwrap().is_some() {
                    break;
                }
            }
            child.wait().unwrap();
        }
        assert!(whole > 0);
    }

    #[test]
    fn kernel_threads_are_told_from_processes() {
        let root = ProcRoot::default();
        assert!(!root.stat(std::process::id()).unwrap().is_kernel_thread);
        if let Some(kthreadd) = root.stat(2) {
            assert_eq!(kthreadd.is_kernel_thread, root.cmdline(2).unwrap().is_empty());
        }
    }
}
