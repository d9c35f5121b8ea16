//! Rules of the command line: which processes the user selects.

mod places;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use self::places::{Places, PlacesLook};
use crate::{
    config::{self, ExeGlob},
    process::{ExecHint, Listeners, ProcRoot, script_of},
    record::Tgid,
};

/// The user's rules, checked against the processes that run. A process is selected if any rule names it, and every
/// process is if there is no rule. Spoor itself, its readers and kernel threads are never selected.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    root: ProcRoot,
    pids: Vec<Tgid>,
    exe_globs: Vec<ExeGlob>,
    ports: Vec<u16>,
    places: Places,
}

/// Rule that names a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// There is no rule: every process is selected.
    Every,
    /// `--pid` names the process.
    Pid,
    /// `--exe` matches this path of the executable or the script.
    Exe(PathBuf),
    /// The process listens on this port of `--port`.
    Port(u16),
    /// The process is in this container of `--container`.
    Container(String),
    /// The process is in this control group, which `--cgroup` matches.
    Cgroup(String),
}

/// Process that could be a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Process id.
    pub tgid: Tgid,
    /// The rule that names the process, if any does.
    pub rule: Option<Rule>,
    /// TCP ports that the process listens on.
    pub listens: Vec<u16>,
}

/// Answer of the rules about one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// This rule names the process.
    Yes(Rule),
    /// No rule names the process. With `--port`, one may name it later, when it listens.
    No,
    /// No rule names the process yet. Its container's name is not known, and `--container` may give that name.
    NotNamed,
}

/// Caches for one look at many processes.
struct Look<'a> {
    listeners: Listeners<'a>,
    places: PlacesLook<'a>,
}

/// Error of a rule that can never name a target.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// No process has this id.
    #[error("--pid {0}: there is no such process; `ps -e` lists those that run")]
    NoSuchProcess(Tgid),
    /// The id is a thread's.
    #[error("--pid {thread}: this is a thread of process {process}; use --pid {process}")]
    Thread {
        /// The id that was given.
        thread: Tgid,
        /// The process that the thread belongs to.
        process: Tgid,
    },
    /// The id is a kernel thread's.
    #[error("--pid {0}: this is a thread of the kernel, which makes no system calls to trace; name another process")]
    KernelThread(Tgid),
    /// The id is the agent's own.
    #[error("--pid {0}: this is spoor itself, which is never traced; name another process")]
    Agent(Tgid),
}

impl Rules {
    /// Checks the user's rules. A glob matches the full path of an executable, or its file name if the glob has no
    /// slash; for an interpreter it also matches the script, jar or assembly that runs: `--exe nginx`, `--exe
    /// '/opt/**'`, `--exe app.py`.
    ///
    /// # Errors
    /// If a process does not exist or can never be a target.
    pub fn new(root: ProcRoot, rules: &config::Selection) -> Result<Self, RuleError> {
        let config::Selection {
            pids,
            exes,
            ports,
            containers,
            cgroups,
        } = rules;
        let pids: Vec<Tgid> = pids.iter().copied().map(Tgid).collect();
        for &pid in &pids {
            check_process(&root, pid)?;
        }
        Ok(Self {
            root,
            pids,
            exe_globs: exes.clone(),
            ports: ports.clone(),
            places: Places::new(containers, cgroups),
        })
    }

    /// Returns true if there is no rule: every process is a target.
    pub fn is_every(&self) -> bool {
        self.pids.is_empty() && self.exe_globs.is_empty() && self.ports.is_empty() && self.places.is_empty()
    }

    /// Returns the ports whose listeners are selected.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().copied()
    }

    /// Returns true if a program that starts may be selected: not if only processes are named.
    pub fn may_match_others(&self) -> bool {
        self.is_every() || !self.exe_globs.is_empty() || !self.ports.is_empty() || !self.places.is_empty()
    }

    /// Matches one process as it is now.
    pub fn matches(&self, tgid: Tgid) -> Match {
        let mut look = self.look();
        match self.rule(tgid, &mut look) {
            Some(rule) => Match::Yes(rule),
            None if look.places.met_unnamed() => Match::NotNamed,
            None => Match::No,
        }
    }

    /// Lists the running children of these processes, with their parents. Children of a target are targets, also those
    /// that were forked before it was one.
    pub fn children(&self, of: &BTreeSet<Tgid>) -> Vec<(Tgid, Tgid)> {
        let processes = self.root.processes().into_iter();
        processes
            .filter_map(|tgid| {
                let stat = self.root.stat(tgid)?;
                let parent = Tgid(stat.parent);
                let counts = !stat.is_zombie
                    && !stat.is_kernel_thread
                    && of.contains(&parent)
                    && !self.root.is_own(tgid, stat.parent);
                counts.then_some((Tgid(tgid), parent))
            })
            .collect()
    }

    /// Matches a program that had ended before it could be looked at, by what the kernel reported of its exec: the
    /// first argument, and the command's name where that is not cut off.
    pub fn matched(&self, hint: &ExecHint) -> Option<Rule> {
        // The kernel keeps 15 bytes of a command's name (TASK_COMM_LEN, include/linux/sched.h).
        const WHOLE_BYTES: usize = 14;
        let argument = hint.cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
        let argument = String::from_utf8_lossy(argument);
        if self.is_every() {
            return Some(Rule::Every);
        }
        let name = Some(hint.comm.as_str()).filter(|comm| comm.len() <= WHOLE_BYTES);
        let names = [Some(argument.as_ref()), name].into_iter().flatten();
        names
            .map(PathBuf::from)
            .find(|path| self.is_glob_of(path))
            .map(Rule::Exe)
    }

    /// Lists the processes that could be targets, each with the rule that names it and the TCP ports that it listens
    /// on.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut look = self.look();
        let processes = self.root.processes().into_iter();
        let runs = |tgid: &u32| {
            let stat = self.root.stat(*tgid);
            stat.is_some_and(|stat| !stat.is_kernel_thread && !stat.is_zombie)
        };
        processes
            .filter(runs)
            .map(|tgid| Candidate {
                tgid: Tgid(tgid),
                rule: self.rule(Tgid(tgid), &mut look),
                listens: look.listeners.ports_of(tgid),
            })
            .collect()
    }

    /// Lists the running processes that a rule names. Others may start meanwhile, so the caller repeats this until
    /// nothing new appears.
    pub fn scan(&self) -> Vec<(Tgid, Rule)> {
        let mut look = self.look();
        let processes = self.root.processes().into_iter().map(Tgid);
        processes
            .filter_map(|tgid| Some((tgid, self.rule(tgid, &mut look)?)))
            .collect()
    }

    fn look(&self) -> Look<'_> {
        Look {
            listeners: Listeners::new(&self.root),
            places: self.places.look(&self.root),
        }
    }

    fn rule(&self, tgid: Tgid, look: &mut Look<'_>) -> Option<Rule> {
        let stat = self.root.stat(tgid.0)?;
        if stat.is_kernel_thread || stat.is_zombie || self.root.is_own(tgid.0, stat.parent) {
            return None;
        }
        if self.is_every() {
            return Some(Rule::Every);
        }
        if self.pids.contains(&tgid) {
            return Some(Rule::Pid);
        }
        self.matching_path(tgid)
            .map(Rule::Exe)
            .or_else(|| look.listeners.port_of(tgid.0, &self.ports).map(Rule::Port))
            .or_else(|| look.places.rule(tgid.0))
    }

    fn matching_path(&self, tgid: Tgid) -> Option<PathBuf> {
        if self.exe_globs.is_empty() {
            return None;
        }
        let exe = self.root.exe(tgid.0)?;
        if self.is_glob_of(&exe) {
            return Some(exe);
        }
        let script = script_of(&self.root, tgid.0, &exe)?;
        self.is_glob_of(&script).then_some(script)
    }

    fn is_glob_of(&self, path: &Path) -> bool {
        self.exe_globs.iter().any(|glob| glob.matches(path))
    }
}

impl fmt::Display for Rule {
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

fn check_process(root: &ProcRoot, pid: Tgid) -> Result<(), RuleError> {
    let stat = root
        .stat(pid.0)
        .filter(|stat| !stat.is_zombie)
        .ok_or(RuleError::NoSuchProcess(pid))?;
    // The directory of a thread can be opened too, though it is not listed.
    let status = root.small(pid.0, "status").unwrap_or_default();
    let process = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
        .map(Tgid);
    match process {
        Some(process) if process != pid => Err(RuleError::Thread { thread: pid, process }),
        _ if stat.is_kernel_thread => Err(RuleError::KernelThread(pid)),
        _ if pid.0 == std::process::id() => Err(RuleError::Agent(pid)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
