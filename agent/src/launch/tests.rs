use std::{
    fs,
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Uid};

use super::*;

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn shell(script: &str) -> Launch {
    Launch::spawn(&words(&["sh", "-c", script]), true).unwrap()
}

/// Waits until it is so; false if it is not within 5 s.
fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn nothing_runs_before_the_release() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let launch = shell(&format!("echo $$ > {}", mark.display()));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!mark.exists());
    let pid = launch.pid();
    let running = launch.release().unwrap();
    assert_eq!(running.pid(), pid);
    assert_eq!(running.wait().unwrap(), ExitCode(0));
    assert_eq!(fs::read_to_string(mark).unwrap(), format!("{pid}\n"));
}

#[test]
fn a_launch_that_is_dropped_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let launch = shell(&format!("touch {}", mark.display()));
    let pid = launch.pid();
    drop(launch);
    assert!(eventually(|| survivors([pid]).is_empty()));
    assert!(!mark.exists());
}

#[test]
fn exit_codes_are_the_shells() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        assert_eq!(
            shell(script).release().unwrap().wait().unwrap(),
            ExitCode(code),
            "{script}"
        );
    }
}

#[test]
fn a_command_that_cannot_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    let start = |program: &str| {
        Launch::spawn(&words(&[program]), true)
            .and_then(Launch::release)
            .unwrap_err()
    };

    let missing = start("no-such-program");
    assert_eq!(missing.exit_code(), 127);
    assert!(
        missing
            .to_string()
            .contains("cannot start no-such-program: there is no such program"),
        "{missing}"
    );
    let forbidden = start(plain.to_str().unwrap());
    assert_eq!(forbidden.exit_code(), 126);
    assert!(forbidden.to_string().contains("chmod +x"), "{forbidden}");
    assert!(matches!(start("nul\0byte"), LaunchError::Other { .. }));
    assert!(matches!(Launch::spawn(&[], true), Err(LaunchError::Empty)));
}

#[test]
fn signals_reach_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!(
        "trap 'exit 7' TERM; touch {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let running = shell(&script).release().unwrap();
    assert!(eventually(|| ready.exists()));
    running.signal(libc::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap(), ExitCode(7));
}

#[test]
fn what_another_process_sends_to_spoor_is_passed_on() {
    // SIGWINCH, because tests share the process: the commands of those that run now get it too, and ignore it.
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!(
        "trap 'exit 9' WINCH; touch {}; while :; do sleep 0.05; done",
        ready.display()
    );
    let running = shell(&script).release().unwrap();
    assert!(eventually(|| ready.exists()));
    let own = std::process::id().to_string();
    assert!(Command::new("kill").args(["-WINCH", &own]).status().unwrap().success());
    assert_eq!(running.wait().unwrap(), ExitCode(9));
}

#[test]
fn only_what_processes_other_than_the_command_send_is_passed_on() {
    let sent = |code: c_int, pid: i32| {
        // SAFETY: all zeros is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        info.si_code = code;
        let words = (&raw mut info).cast::<i32>();
        // SAFETY: si_pid is at byte 16 on 64-bit Linux, well within the struct.
        unsafe { words.add(4).write(pid) };
        comes_from_a_process(&info, 77)
    };
    assert!(sent(libc::SI_USER, 5));
    assert!(sent(libc::SI_QUEUE, 5));
    assert!(!sent(libc::SI_USER, 77));
    assert!(!sent(libc::SI_KERNEL, 0));
}

#[test]
fn the_command_gets_a_clean_state() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let script = format!(
        "grep -E '^Sig(Blk|Ign)' /proc/self/status > {0}; ls /proc/self/fd >> {0}",
        out.display()
    );
    assert_eq!(shell(&script).release().unwrap().wait().unwrap(), ExitCode(0));
    let text = fs::read_to_string(out).unwrap();
    let mask = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:") & (1 << (libc::SIGPIPE - 1)), 0, "{text}");
}

#[test]
fn as_another_user_all_of_its_identity_is_taken_on() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::write(&out, "").unwrap();
    std::os::unix::fs::chown(&out, Some(3_999_999), None).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(3_999_999), None).unwrap();
    let account = Account {
        uid: Uid::from_raw(3_999_999),
        gid: Gid::from_raw(3_999_998),
        groups: vec![Gid::from_raw(3_999_998), Gid::from_raw(3_999_997)],
        name: "someone".to_owned(),
        home: Some("/home/someone".into()),
    };
    let script = format!(
        "{{ id -u; id -g; id -G; echo $HOME $USER $LOGNAME; grep CapEff /proc/self/status; }} > {}",
        out.display()
    );
    let launch = Launch::spawn_as(&words(&["sh", "-c", &script]), Some(account)).unwrap();
    assert_eq!(launch.release().unwrap().wait().unwrap(), ExitCode(0));
    assert_eq!(
        fs::read_to_string(out).unwrap(),
        "3999999\n3999998\n3999998 3999997\n/home/someone someone someone\nCapEff:\t0000000000000000\n"
    );
}

#[test]
fn a_path_was_not_searched_for() {
    let error = |command: &str| {
        let (command, path) = (command.to_owned(), "/bin".into());
        LaunchError::NotFound { command, path }.to_string()
    };
    assert!(error("nope").ends_with("; it was searched in PATH=/bin, which sudo may have changed: give the full path"));
    assert!(error("/opt/nope").ends_with("(#!) is missing; check the path"));
}
