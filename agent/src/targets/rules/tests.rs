//! Rules against a process file system of fixtures, and against real processes.

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

fn rules(root: ProcRoot, pids: &[u32], exes: &[ExeGlob], ports: &[u16]) -> Result<Rules, RuleError> {
    let rules = config::Selection {
        pids: pids.to_vec(),
        exes: exes.to_vec(),
        ports: ports.to_vec(),
        ..config::Selection::default()
    };
    Rules::new(root, &rules)
}

fn scanned(globs: &[&str], pids: &[u32]) -> Vec<(Tgid, Rule)> {
    let directory = fixture();
    let globs: Vec<ExeGlob> = globs.iter().map(|glob| glob.parse().unwrap()).collect();
    let selection = rules(ProcRoot::new(directory.path()), pids, &globs, &[]).unwrap();
    let mut found = selection.scan();
    found.sort_by_key(|(tgid, _)| *tgid);
    for tgid in (9..15).map(Tgid) {
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
    let python = |path: &str| vec![(Tgid(10), Rule::Exe(PathBuf::from(path)))];
    let nginx = vec![(Tgid(11), Rule::Exe(PathBuf::from("/usr/sbin/nginx")))];
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
    assert_eq!(scanned(&[], &[10]), [(Tgid(10), Rule::Pid)]);
    assert_eq!(scanned(&["nginx"], &[10]).len(), 2);
    assert_eq!(scanned(&[], &[]), [(Tgid(10), Rule::Every), (Tgid(11), Rule::Every)]);
}

fn error(pid: u32) -> String {
    let directory = fixture();
    let root = ProcRoot::new(directory.path());
    rules(root, &[pid], &[], &[]).unwrap_err().to_string()
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

impl Running {
    fn tgid(&self) -> Tgid {
        Tgid(self.0.id())
    }
}

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
    let every = rules(root.clone(), &[], &[], &[]).unwrap();
    let sleeping = Running(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap());
    let tgid = sleeping.tgid();
    let found = every.scan();
    assert!(found.contains(&(tgid, Rule::Every)));
    assert!(!found.iter().any(|(tgid, _)| tgid.0 == std::process::id()));
    assert!(
        !found
            .iter()
            .any(|(tgid, _)| tgid.0 == 2 && root.stat(2).is_some_and(|stat| stat.is_kernel_thread))
    );

    let sleepers = rules(
        root.clone(),
        &[],
        &["sleep".parse().unwrap(), "coreutils".parse().unwrap()],
        &[],
    )
    .unwrap();
    assert!(matches!(sleepers.matches(tgid), Match::Yes(Rule::Exe(_))));
    drop(sleeping);
    assert_eq!(sleepers.matches(tgid), Match::No);
    assert!(matches!(
        rules(root, &[std::process::id()], &[], &[]),
        Err(RuleError::Agent(_))
    ));
}

#[test]
fn an_inherited_listener_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let selection = rules(ProcRoot::default(), &[], &[], &[port]).unwrap();
    let input = Stdio::from(std::os::fd::OwnedFd::from(listener));
    let child = Running(Command::new("sleep").arg("60").stdin(input).spawn().unwrap());
    assert_eq!(selection.matches(child.tgid()), Match::Yes(Rule::Port(port)));
    assert!(selection.scan().contains(&(child.tgid(), Rule::Port(port))));
    let other = Running(Command::new("sleep").arg("60").spawn().unwrap());
    assert_eq!(selection.matches(other.tgid()), Match::No);
}
