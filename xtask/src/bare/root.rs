//! The bare system: a folder, and commands that run in it.

use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{host, sources};
use crate::tools::{self, Run};

/// Packages that the README presupposes: a C compiler, which Rust links with, git, and certificates.
const PRESUPPOSED: &str = "ca-certificates,gcc,git,libc6-dev";

/// Caches of package managers that outlive a system: the folder in `.cache/bare`, and the place in the system.
const CACHES: [(&str, &str); 4] = [
    ("debs", "var/cache/apt/archives"),
    ("crates", "root/.cargo/registry"),
    ("pip", "root/.cache/pip"),
    ("go", "root/go/pkg/mod"),
];

/// Enters the system `$1` in a mount namespace, and runs `$6…` in the folder `$5`. All mounts end with the namespace,
/// when its last process does. `$2`: folder of the caches; `$3`, `$4`: rustup's and cargo's folders.
const ENTER: &str = r#"
set -e
root=$1 caches=$2 rustup=$3 cargo=$4 folder=$5
shift 5
readlink /proc/self/ns/mnt > "$root.namespace"
for name in proc sys dev; do
    mount --rbind "/$name" "$root/$name"
done
while read -r from to; do
    mount --bind "$caches/$from" "$root/$to"
done < "$root.caches"
mount --bind "$rustup" "$root/root/.rustup"
mount -o remount,bind,ro "$root/root/.rustup"
mount --bind "$cargo/bin" "$root/root/.cargo/bin"
mount -o remount,bind,ro "$root/root/.cargo/bin"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /bin/sh -c '. /root/environment; cd "$0"; exec "$@"' "$folder" "$@"
"#;

/// A bare system in a folder, with this repository at the same path as here. [`Root::remove`] deletes it. One that a
/// failure left stays until the next run, so that you can look at it.
pub struct Root {
    path: PathBuf,
    /// One run at a time: apt locks its cache.
    _lock: File,
}

impl Root {
    /// Makes the system: from nothing, or from the base system that an earlier run built.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn make() -> Result<Self> {
        let home = tools::root().join(".cache/bare");
        fs::create_dir_all(&home).with_context(|| format!("cannot make the folder {}", home.display()))?;
        // Mounts need a path without links.
        let home = home.canonicalize().context("cannot resolve .cache/bare")?;
        let lock = File::create(home.join("lock")).context("cannot make a lock in .cache/bare")?;
        lock.lock().context("cannot lock .cache/bare")?;
        let root = Self {
            path: home.join("root"),
            _lock: lock,
        };
        if root.path.exists() {
            root.remove_folder()?;
        }
        let base = base(&home)?;
        fs::create_dir(&root.path).context("cannot make the folder of the bare system")?;
        Run::program("tar")
            .arg("-C")
            .arg(&root.path)
            .arg("-xf")
            .arg(base)
            .status()?;
        root.furnish()?;
        Ok(root)
    }

    /// Adds this machine's configuration, mount points and the repository.
    fn furnish(&self) -> Result<()> {
        host::copy_files(&self.path)?;
        let mut list = String::new();
        for (name, place) in CACHES {
            for folder in [self.home().join("cache").join(name), self.path.join(place)] {
                fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            list += &format!("{name} {place}\n");
        }
        for place in ["root/.rustup", "root/.cargo/bin"] {
            fs::create_dir_all(self.path.join(place)).with_context(|| format!("cannot make {place}"))?;
        }
        let write =
            |file: &Path, text: &str| fs::write(file, text).with_context(|| format!("cannot write {}", file.display()));
        write(&self.path.with_extension("caches"), &list)?;
        let environment = format!(
            "export HOME=/root TERM=dumb\n\
             export PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n{}",
            host::environment()
        );
        write(&self.path.join("root/environment"), &environment)?;
        let here = self.inside(&tools::root());
        fs::create_dir_all(&here).context("cannot make the folder of the repository")?;
        // Files that git knows, and new ones that it does not ignore: no build results.
        Run::program("sh")
            .args([
                "-c",
                "git ls-files -z --cached --others --exclude-standard --deduplicate |
                    tar --null --ignore-failed-read --files-from=- -cf - | tar -C \"$0\" -xf -",
            ])
            .arg(here)
            .status()
            .context("cannot copy the repository")
    }

    /// Copies a program to the same path inside.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn bring(&self, program: &Path) -> Result<()> {
        let inside = self.inside(program);
        let context = || format!("cannot copy {} into the bare system", program.display());
        fs::create_dir_all(inside.parent().with_context(context)?).with_context(context)?;
        fs::copy(program, inside).map(drop).with_context(context)
    }

    /// Runs a command inside, in the repository.
    ///
    /// # Errors
    /// It fails, or leaves processes.
    pub fn run(&self, command: &[&str]) -> Result<()> {
        self.lines(command, |_| {})
    }

    /// Runs a command like [`Root::run`], and hands over each line that it prints.
    ///
    /// # Errors
    /// It fails, or leaves processes or the guard against services.
    pub fn lines(&self, command: &[&str], each: impl FnMut(&str)) -> Result<()> {
        let home = host::home()?;
        let folder = |variable: &str, name: &str| std::env::var_os(variable).map_or(home.join(name), PathBuf::from);
        let (rustup, cargo) = (folder("RUSTUP_HOME", ".rustup"), folder("CARGO_HOME", ".cargo"));
        ensure!(
            rustup.is_dir() && cargo.join("bin/cargo").exists(),
            "the bare system gets this machine's Rust, which must have been installed by rustup (no {} or {})",
            rustup.display(),
            cargo.join("bin/cargo").display()
        );
        let outcome = Run::program("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
            .arg(&self.path)
            .arg(self.home().join("cache"))
            .args([rustup, cargo, tools::root()])
            .args(command)
            .lines(each)
            .with_context(|| format!("`{}` failed", command.join(" ")));
        let left = self.end_processes()?;
        outcome?;
        ensure!(left.is_empty(), "these processes were left: {}", left.join(", "));
        let guard = self.path.join("usr/sbin/policy-rc.d");
        ensure!(!guard.exists(), "{} was left", guard.display());
        Ok(())
    }

    /// Ends the processes that still run inside; returns a line for each.
    fn end_processes(&self) -> Result<Vec<String>> {
        let namespace = fs::read_to_string(self.path.with_extension("namespace")).unwrap_or_default();
        let namespace = namespace.trim();
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").context("cannot list the processes")? {
            let process = entry.context("cannot list the processes")?.path();
            // A process may end meanwhile, and most entries of /proc are no processes.
            let is_inside = fs::read_link(process.join("ns/mnt")).is_ok_and(|its| its.as_os_str() == namespace);
            if is_inside && let Some(id) = process.file_name().and_then(|name| name.to_str()) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                left.push(format!("{} ({id})", name.trim()));
                Run::program("kill").args(["-KILL", id]).status()?;
            }
        }
        Ok(left)
    }

    /// Deletes the system.
    ///
    /// # Errors
    /// Something is mounted there, or it cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.remove_folder()
    }

    fn remove_folder(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
        let path = self.path.to_string_lossy();
        // A mount that somebody made by hand must not lead the removal to files of this machine.
        ensure!(
            !mounts.lines().any(|line| line.contains(&*path)),
            "something is mounted below {path}: take it away with umount"
        );
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {path}"))
    }

    fn home(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Returns the archive of the base system. Builds it if it is missing, or made for another release or from other
/// sources.
fn base(home: &Path) -> Result<PathBuf> {
    let codename = sources::codename()?;
    let list = sources::of_release(&codename);
    let options = host::apt_options();
    let mut hasher = DefaultHasher::new();
    (PRESUPPOSED, &list, &options).hash(&mut hasher);
    let archive = home.join(format!("base-{codename}-{:016x}.tar", hasher.finish()));
    if archive.exists() {
        return Ok(archive);
    }
    println!(
        "Building the base system (about a minute; kept in {})",
        archive.display()
    );
    let [sources, apt, part] = ["sources.list", "apt.conf", "part.tar"].map(|name| home.join(name));
    fs::write(&sources, list).with_context(|| format!("cannot write {}", sources.display()))?;
    fs::write(&apt, options).with_context(|| format!("cannot write {}", apt.display()))?;
    Run::program("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include", PRESUPPOSED])
        .arg(format!("--aptopt={}", apt.display()))
        .arg(codename)
        .args([&part, &sources])
        .status()
        .context("cannot build a base system")?;
    fs::rename(&part, &archive).with_context(|| format!("cannot move {}", part.display()))?;
    Ok(archive)
}
