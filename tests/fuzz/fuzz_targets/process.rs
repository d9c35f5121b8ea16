//! Facts about processes and the kernel, from any bytes: a process file system (command lines, environments, cgroups,
//! mounts, executables, state files of container runtimes), and the kernel's BTF.
#![no_main]

use std::{
    cell::OnceCell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    str::FromStr,
};

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use spoor::{
    config,
    probe::Btf,
    process::{ExecHint, Gatherer, ProcRoot, peculiarities, unseen},
    record::Tgid,
    targets::rules::Rules,
};
use spoor_fuzz::{byte, text};
use tempfile::TempDir;

/// Id of the described process.
const PID: u32 = 4_000_000;

/// Files below the process's directory, and below the host's root.
const FILES: [&str; 16] = [
    "4000000/cmdline",
    "4000000/environ",
    "4000000/cgroup",
    "4000000/mountinfo",
    "4000000/stat",
    "4000000/status",
    "4000000/comm",
    "4000000/net/tcp",
    "4000000/net/tcp6",
    "4000000/root/app/package.json",
    "4000000/root/jdk/release",
    "4000000/root/etc/passwd",
    "1/root/etc/passwd",
    "1/root/var/lib/docker/containers/ID/config.v2.json",
    "1/root/run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
    "1/root/run/containers/storage/overlay-containers/ID/userdata/config.json",
];

/// Further files, of the host and of the agent.
const MORE_FILES: [&str; 7] = [
    "1/root/etc/hostname",
    "1/root/etc/machine-id",
    "1/root/var/lib/containers/storage/overlay-containers/containers.json",
    "sys/kernel/hostname",
    "sys/kernel/random/boot_id",
    "self/cgroup",
    "4000000/root/app/app.py",
];

/// Container id in the place of `ID` in the names of the state files.
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Names of the executable.
const NAMES: [&str; 20] = [
    "python3.11",
    "node",
    "java",
    "ruby3.1",
    "php8.2",
    "perl",
    "dotnet",
    "beam.smp",
    "nginx",
    "haproxy",
    "bash",
    "deno",
    "uwsgi",
    "ld-linux-x86-64.so.2",
    "shop",
    "php-fpm8.2",
    "bun",
    "pypy3",
    "puma",
    "jsvc",
];

thread_local! {
    static PROC: OnceCell<TempDir> = const { OnceCell::new() };
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    match byte(&mut input) {
        kind @ 0..=127 => PROC.with(|proc| {
            let proc = proc.get_or_init(make);
            look(proc.path(), usize::from(kind) % NAMES.len(), &mut input);
        }),
        _ => btf(&mut input),
    }
});

/// Creates a process file system of empty files. The fuzzer's exit does not delete it: its caller clears `TMPDIR`.
fn make() -> TempDir {
    let directory = tempfile::Builder::new().prefix("spoor-fuzz-").tempdir();
    let directory = directory.expect("a directory can be made");
    let process = directory.path().join(PID.to_string());
    for folder in ["fd", "ns", "net", "root/app", "root/jdk/bin", "root/etc"] {
        fs::create_dir_all(process.join(folder)).expect("a folder can be made");
    }
    for (kind, number) in [("net", 1), ("mnt", 2), ("user", 3)] {
        symlink(format!("{kind}:[{number}]"), process.join("ns").join(kind)).expect("a link can be made");
    }
    fs::create_dir_all(directory.path().join("1/ns")).expect("a folder can be made");
    symlink("uts:[4]", directory.path().join("1/ns/uts")).expect("a link can be made");
    fs::create_dir_all(directory.path().join("self/ns")).expect("a folder can be made");
    symlink("socket:[77]", process.join("fd/3")).expect("a link can be made");
    for name in FILES.iter().chain(&MORE_FILES) {
        let path = file(directory.path(), name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        fs::write(path, []).expect("a file can be made");
    }
    directory
}

fn file(proc: &Path, name: &str) -> PathBuf {
    proc.join(name.replace("ID", CONTAINER))
}

/// Fills in the files, and gathers the facts.
fn look(proc: &Path, name: usize, input: &mut Unstructured<'_>) {
    let process = proc.join(PID.to_string());
    let executable = process.join("root/jdk/bin").join(NAMES[name]);
    let mut hint = ExecHint::default();
    let mut written = vec![];
    let flags = byte(input);
    let mut target = executable.clone().into_os_string();
    if flags & 4 != 0 {
        target.push(" (deleted)");
    }
    link(&target, &process.join("exe"));
    let _ = fs::remove_file(process.join("cwd"));
    if flags & 64 == 0 {
        let directory = if flags & 128 == 0 {
            process.join("root/app")
        } else {
            "/app".into()
        };
        link(directory, &process.join("cwd"));
    }
    // Decides whether the agent's host name is the host's.
    link(
        if flags & 8 == 0 { "uts:[4]" } else { "uts:[5]" },
        &proc.join("self/ns/uts"),
    );
    while !input.is_empty() && written.len() < 12 {
        let (which, content) = (usize::from(byte(input)), text(input));
        let path = match which % (FILES.len() + 4 + MORE_FILES.len()) {
            which if which < FILES.len() => file(proc, FILES[which]),
            16 => {
                hint.comm = String::from_utf8_lossy(content).into_owned();
                continue;
            }
            17 => {
                hint.cmdline = content.to_vec();
                continue;
            }
            18 => {
                hint.environ = content.to_vec();
                continue;
            }
            19 => executable.clone(),
            which => file(proc, MORE_FILES[which - 20]),
        };
        fs::write(&path, content).expect("a file can be written");
        written.push(path);
    }
    let root = ProcRoot::new(proc);
    let hint = (flags & 1 == 0).then_some(&hint);
    let mut gatherer = Gatherer::new(root.clone());
    let facts = gatherer.gather(PID, hint, None);
    assert!(!facts.resource.service_name.is_empty());
    for attribute in &facts.resource.attributes {
        let same = |other: &&spoor::engine::trace::Attribute| other.key == attribute.key;
        assert_eq!(
            facts.resource.attributes.iter().filter(same).count(),
            1,
            "{} twice",
            attribute.key
        );
    }
    let again = gatherer.gather(PID, hint, None);
    assert_eq!(facts, again);
    let _ = gatherer.gather(PID, hint, Some(&facts));
    let _ = peculiarities(&root, PID);
    let rules = config::Selection {
        exes: ["app.py", "**/jdk/**"].map(glob).into(),
        ports: vec![8080],
        containers: vec!["0123".to_owned(), "shop-web-1".to_owned()],
        cgroups: ["/system.slice/*.service", "**/*.scope"].map(glob).into(),
        pids: vec![],
    };
    let rules = match flags >> 4 & 3 {
        0 => rules,
        1 => config::Selection { exes: vec![], ..rules },
        2 => config::Selection {
            containers: vec![],
            ports: vec![],
            ..rules
        },
        _ => config::Selection::default(),
    };
    if let Ok(rules) = Rules::new(root.clone(), &rules) {
        let _ = rules.matches(Tgid(PID));
        let targets = rules.scan();
        let listed = rules.candidates();
        let reasons = listed
            .into_iter()
            .filter_map(|listed| Some((listed.tgid, listed.rule?)));
        assert_eq!(reasons.collect::<Vec<_>>(), targets, "what is listed is what is traced");
        let _ = rules.children(&[Tgid(1), Tgid(7)].into());
        if let Some(hint) = hint {
            let _ = rules.matched(hint);
        }
    }
    let _ = unseen(&root);
    for path in written {
        if path == executable {
            let _ = fs::remove_file(path);
        } else {
            fs::write(path, []).expect("a file can be written");
        }
    }
}

fn link(target: impl AsRef<Path>, link: &Path) {
    let _ = fs::remove_file(link);
    symlink(target, link).expect("a link can be made");
}

fn glob<T: FromStr<Err = String>>(text: &str) -> T {
    text.parse().expect("a glob")
}

fn btf(input: &mut Unstructured<'_>) {
    let rest = input.len();
    let bytes = input.bytes(rest).unwrap_or_default().to_vec();
    if let Ok(btf) = Btf::parse(bytes) {
        for (structure, member) in [("outer", "a"), ("outer", "b"), ("outer", "ns.inum"), ("ns", "inum")] {
            let _ = btf.offset(structure, member);
        }
        let _ = btf.function("outer").is_some();
    }
}
