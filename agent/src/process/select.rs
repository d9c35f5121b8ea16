//! Which processes are targets.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use crate::config::{self, ExeGlob};

use super::{
    ExecHint, ProcRoot,
    command::{CommandLine, Surroundings, program},
    listeners::Listeners,
    places::{Places, PlacesOf},
};

/// What the user selects: any of it, and all processes if nothing is given. The agent itself and kernel threads are
/// never selected.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    root: ProcRoot,
    pids: Vec<u32>,
    exe_globs: Vec<ExeGlob>,
    ports: Vec<u16>,
    places: Places,
}

/// Why a process is a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was selected: every process is a target.
    Every,
    /// `--pid` names it.
    Pid,
    /// `--exe` matches this path of its executable or script.
    Exe(PathBuf),
    /// It listens on this port of `--port`.
    Port(u16),
    /// It is in this container of `--container`.
    Container(String),
    /// It is in this control group, which `--cgroup` matches.
    Cgroup(String),
}

/// A process that could be a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub tgid: u32,
    /// Why it is one; `None`: it is none.
    pub reason: Option<Reason>,
    /// TCP ports that it listens on.
    pub listens: Vec<u16>,
}

/// What is looked up once for many processes.
struct Look<'a> {
    listeners: Listeners<'a>,
    places: PlacesOf<'a>,
}

/// Is a process a target?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is.
    Yes(Reason),
    /// It is not, or not yet: with `--port`, a process becomes one when it listens.
    No,
    /// Not selected as long as its container's name is not known: `--container` may give that name.
    NotNamed,
}

/// A selection that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No process has this id.
    #[error("--pid {0}: there is no such process; `ps -e` lists those that run")]
    NoSuchProcess(u32),
    /// The id is a thread's.
    #[error("--pid {thread}: this is a thread of process {process}; use --pid {process}")]
    Thread {
        /// The id that was given.
        thread: u32,
        /// The process it belongs to.
        process: u32,
    },
    /// The id is a kernel thread's.
    #[error("--pid {0}: this is a thread of the kernel, which makes no system calls to trace; name another process")]
    KernelThread(u32),
    /// The id is the agent's own.
    #[error("--pid {0}: this is spoor itself, which is never traced; name another process")]
    Agent(u32),
}

impl Selection {
    /// Checks what the user gave. A glob matches the full path of an executable, or its file name if it has no slash,
    /// and of an interpreter also those of the script, jar or assembly that it runs: `--exe nginx`,
    /// `--exe '/opt/**'`, `--exe app.py`.
    ///
    /// # Errors
    /// If a process does not exist or can never be a target, or a glob is malformed.
    pub fn new(root: ProcRoot, pids: &[u32], exe_globs: &[ExeGlob], ports: &[u16]) -> Result<Self, SelectError> {
        for &pid in pids {
            check_process(&root, pid)?;
        }
        Ok(Self {
            pids: pids.to_vec(),
            exe_globs: exe_globs.to_vec(),
            ports: ports.to_vec(),
            places: Places::default(),
            root,
        })
    }

    /// All rules that the user gave.
    ///
    /// # Errors
    /// As [`Selection::new`].
    pub fn of_rules(root: ProcRoot, rules: &config::Selection) -> Result<Self, SelectError> {
        let config::Selection {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        } = rules;
        Ok(Self {
            places: Places::new(containers, cgroups),
            ..Self::new(root, pids, exes, ports)?
        })
    }

    /// True if nothing was selected: every process is a target.
    pub fn is_every(&self) -> bool {
        self.pids.is_empty() && self.exe_globs.is_empty() && self.ports.is_empty() && self.places.is_empty()
    }

    /// The ports whose listeners are selected.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().copied()
    }

    /// True if a program that starts may be selected: not if only processes are named.
    pub fn may_match_others(&self) -> bool {
        self.is_every() || !self.exe_globs.is_empty() || !self.ports.is_empty() || !self.places.is_empty()
    }

    /// True if a process that does not match now may match later without an exec: when it listens.
    pub fn may_match_later(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Is this process a target now?
    pub fn matches(&self, tgid: u32) -> Match {
        let mut look = self.look();
        match self.reason(tgid, &mut look) {
            Some(reason) => Match::Yes(reason),
            None if look.places.met_unnamed() => Match::NotNamed,
            None => Match::No,
        }
    }

    /// The running children of these processes, with their parents: children of a target are targets, those too that
    /// were forked before it was one.
    pub fn children(&self, of: &BTreeSet<u32>) -> Vec<(u32, u32)> {
        let processes = self.root.processes().into_iter();
        processes
            .filter_map(|tgid| {
                let stat = self.root.stat(tgid)?;
                let counts = !stat.is_zombie
                    && !stat.is_kernel_thread
                    && of.contains(&stat.parent)
                    && !self.root.is_own(tgid, stat.parent);
                counts.then_some((tgid, stat.parent))
            })
            .collect()
    }

    /// Was a program selected that is gone before it could be looked at? By what the kernel said at its exec: its first
    /// argument, and the command's name where that is not cut off.
    pub fn matched(&self, hint: &ExecHint) -> Option<Reason> {
        // The kernel keeps 15 bytes of a command's name.
        const WHOLE_BYTES: usize = 14;
        let argument = hint.cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
        let argument = String::from_utf8_lossy(argument);
        if self.is_every() {
            return Some(Reason::Every);
        }
        let name = Some(hint.comm.as_str()).filter(|comm| comm.len() <= WHOLE_BYTES);
        let names = [Some(argument.as_ref()), name].into_iter().flatten();
        names
            .map(PathBuf::from)
            .find(|path| self.is_glob_of(path))
            .map(Reason::Exe)
    }

    /// The processes that could be targets, each with the TCP ports that it listens on, and why it is one.
    pub fn look_at_all(&self) -> Vec<Candidate> {
        let mut look = self.look();
        let processes = self.root.processes().into_iter();
        let runs = |tgid: &u32| {
            let stat = self.root.stat(*tgid);
            stat.is_some_and(|stat| !stat.is_kernel_thread && !stat.is_zombie)
        };
        processes
            .filter(runs)
            .map(|tgid| Candidate {
                tgid,
                reason: self.reason(tgid, &mut look),
                listens: look.listeners.ports_of(tgid),
            })
            .collect()
    }

    /// All processes that run and are targets. To be repeated until nothing new appears, since others may start
    /// meanwhile.
    pub fn scan(&self) -> Vec<(u32, Reason)> {
        let mut look = self.look();
        let processes = self.root.processes().into_iter();
        processes
            .filter_map(|tgid| Some((tgid, self.reason(tgid, &mut look)?)))
            .collect()
    }

    fn look(&self) -> Look<'_> {
        Look {
            listeners: Listeners::new(&self.root),
            places: self.places.look(&self.root),
        }
    }

    fn reason(&self, tgid: u32, look: &mut Look<'_>) -> Option<Reason> {
        let stat = self.root.stat(tgid)?;
        if stat.is_kernel_thread || stat.is_zombie || self.root.is_own(tgid, stat.parent) {
            return None;
        }
        if self.is_every() {
            return Some(Reason::Every);
        }
        if self.pids.contains(&tgid) {
            return Some(Reason::Pid);
        }
        self.matching_path(tgid)
            .map(Reason::Exe)
            .or_else(|| look.listeners.port_of(tgid, &self.ports).map(Reason::Port))
            .or_else(|| look.places.reason(tgid))
    }

    fn matching_path(&self, tgid: u32) -> Option<PathBuf> {
        if self.exe_globs.is_empty() {
            return None;
        }
        let exe = self.root.exe(tgid)?;
        if self.is_glob_of(&exe) {
            return Some(exe);
        }
        let line = CommandLine::parse(&self.root.cmdline(tgid)?, Some(&exe));
        let around = Surroundings {
            exe: Some(&exe),
            directory: None,
            package_name: &|_| None,
            variable: &|_| None,
        };
        let script = program(&line, &around).script?;
        let directory = self.root.cwd(tgid).unwrap_or_default();
        // Without the `.` components that `./app.py` would leave.
        let script: PathBuf = directory.join(script).components().collect();
        self.is_glob_of(&script).then_some(script)
    }

    fn is_glob_of(&self, path: &std::path::Path) -> bool {
        self.exe_globs.iter().any(|glob| glob.matches(path))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => write!(f, "every process is selected"),
            Self::Pid => write!(f, "--pid"),
            Self::Exe(path) => write!(f, "--exe matches {}", path.display()),
            Self::Port(port) => write!(f, "--port {port}"),
            Self::Container(name) => write!(f, "--container {name}"),
            Self::Cgroup(path) => write!(f, "--cgroup matches {path}"),
        }
    }
}

fn check_process(root: &ProcRoot, pid: u32) -> Result<(), SelectError> {
    let stat = root
        .stat(pid)
        .filter(|stat| !stat.is_zombie)
        .ok_or(SelectError::NoSuchProcess(pid))?;
    // The directory of a thread can be opened too, though it is not listed.
    let status = root.small(pid, "status").unwrap_or_default();
    let process = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    match process {
        Some(process) if process != pid => Err(SelectError::Thread { thread: pid, process }),
        _ if stat.is_kernel_thread => Err(SelectError::KernelThread(pid)),
        _ if pid == std::process::id() => Err(SelectError::Agent(pid)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::TcpListener,
        os::unix::fs::symlink,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// Processes 10 (python3 app.py in /srv), 11 (nginx), 12 (a kernel thread), 13 (a zombie).
    fn fixture() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (tgid, state, flags, exe, cmdline) in [
            (10, "S", 0, "/usr/bin/python3.11", "python3\0-u\0./app.py\0"),
            (11, "S", 0, "/usr/sbin/nginx (deleted)", "nginx: worker process\0"),
            (12, "S", 0x20_0000, "", ""),
            (13, "Z", 0, "", ""),
        ] {
            let process = directory.path().join(tgid.to_string());
            fs::create_dir_all(&process).unwrap();
            let stat = format!("{tgid} (x) {state} 1 1 1 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2");
            fs::write(process.join("stat"), stat).unwrap();
            fs::write(process.join("cmdline"), cmdline).unwrap();
            fs::write(
                process.join("status"),
                format!("Tgid:\t{}\n", if tgid == 11 { 10 } else { tgid }),
            )
            .unwrap();
            symlink("/srv", process.join("cwd")).unwrap();
            if !exe.is_empty() {
                symlink(exe, process.join("exe")).unwrap();
            }
        }
        directory
    }

    fn scanned(globs: &[&str], pids: &[u32]) -> Vec<(u32, Reason)> {
        let directory = fixture();
        let globs: Vec<ExeGlob> = globs.iter().map(|glob| glob.parse().unwrap()).collect();
        let selection = Selection::new(ProcRoot::new(directory.path()), pids, &globs, &[]).unwrap();
        let mut found = selection.scan();
        found.sort_by_key(|(tgid, _)| *tgid);
        for tgid in 9..15 {
            let reason = found
                .iter()
                .find(|(found, _)| *found == tgid)
                .map(|(_, reason)| reason.clone());
            assert_eq!(selection.matches(tgid), reason.map_or(Match::No, Match::Yes));
        }
        found
    }

    #[test]
    fn globs_match_paths_names_and_scripts() {
        let python = |path: &str| vec![(10, Reason::Exe(PathBuf::from(path)))];
        let nginx = vec![(11, Reason::Exe(PathBuf::from("/usr/sbin/nginx")))];
        assert_eq!(scanned(&["python3*"], &[]), python("/usr/bin/python3.11"));
        assert_eq!(scanned(&["/usr/bin/*"], &[]), python("/usr/bin/python3.11"));
        assert_eq!(scanned(&["app.py"], &[]), python("/srv/app.py"));
        assert_eq!(scanned(&["/srv/*.py"], &[]), python("/srv/app.py"));
        assert_eq!(scanned(&["/usr/sbin/nginx"], &[]), nginx);
        assert_eq!(scanned(&["ngin"], &[]), []);
        assert_eq!(
            scanned(&["**/nginx", "app.*"], &[]),
            [python("/srv/app.py"), nginx].concat()
        );
    }

    #[test]
    fn any_of_several_and_everything_of_none() {
        assert_eq!(scanned(&[], &[10]), [(10, Reason::Pid)]);
        assert_eq!(scanned(&["nginx"], &[10]).len(), 2);
        assert_eq!(scanned(&[], &[]), [(10, Reason::Every), (11, Reason::Every)]);
    }

    fn error(pid: u32) -> String {
        let directory = fixture();
        let root = ProcRoot::new(directory.path());
        Selection::new(root, &[pid], &[], &[]).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_what_to_do() {
        assert_eq!(
            error(99),
            "--pid 99: there is no such process; `ps -e` lists those that run"
        );
        assert!(error(13).starts_with("--pid 13: there is no such process"), "a zombie");
        assert_eq!(error(11), "--pid 11: this is a thread of process 10; use --pid 10");
        assert!(error(12).contains("thread of the kernel"));
    }

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn real_processes_but_never_the_agent() {
        let root = ProcRoot::default();
        let every = Selection::new(root.clone(), &[], &[], &[]).unwrap();
        let sleeping = Running(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap());
        let tgid = sleeping.0.id();
        let found = every.scan();
        assert!(found.contains(&(tgid, Reason::Every)));
        assert!(!found.iter().any(|(tgid, _)| *tgid == std::process::id()));
        assert!(
            !found
                .iter()
                .any(|(tgid, _)| *tgid == 2 && root.stat(2).is_some_and(|stat| stat.is_kernel_thread))
        );

        let sleepers = Selection::new(
            root.clone(),
            &[],
            &["sleep".parse().unwrap(), "coreutils".parse().unwrap()],
            &[],
        )
        .unwrap();
        assert!(matches!(sleepers.matches(tgid), Match::Yes(Reason::Exe(_))));
        drop(sleeping);
        assert_eq!(sleepers.matches(tgid), Match::No);
        assert!(matches!(
            Selection::new(root, &[std::process::id()], &[], &[]),
            Err(SelectError::Agent(_))
        ));
    }

    #[test]
    fn an_inherited_listener_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let selection = Selection::new(ProcRoot::default(), &[], &[], &[port]).unwrap();
        assert!(selection.may_match_later());
        let input = Stdio::from(std::os::fd::OwnedFd::from(listener));
        let child = Running(Command::new("sleep").arg("60").stdin(input).spawn().unwrap());
        assert_eq!(selection.matches(child.0.id()), Match::Yes(Reason::Port(port)));
        assert!(selection.scan().contains(&(child.0.id(), Reason::Port(port))));
        let other = Running(Command::new("sleep").arg("60").spawn().unwrap());
        assert_eq!(selection.matches(other.0.id()), Match::No);
    }
}
