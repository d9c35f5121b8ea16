//! The guest's first file system: Debian's programs, the binaries under test, and the kernel modules that they need.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::fetch::{Kernel, run};

/// Modules to load before the suite starts, and whether each kernel has it: the link between network namespaces, and
/// TLS in the kernel with the parts of its cipher. The guest has no modprobe that would load them on demand.
const MODULES: [(&str, bool); 5] = [
    ("veth", true),
    ("tls", false),
    ("ctr", false),
    ("ghash-generic", false),
    ("gcm", false),
];

/// Folder of the binaries under test in the guest.
const BINARIES: &str = "spoor";

/// Mounts the file systems of a host, loads the modules, runs the suite, and ends the machine. `$SUITE` comes from the
/// kernel's command line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /applets /proc /sys /dev /run /tmp
/bin/busybox --install -s /applets
export PATH=/spoor:/usr/sbin:/usr/bin:/sbin:/bin:/applets HOME=/tmp SPOOR_BIN=/spoor/spoor SPOOR_TEST_SLOWNESS=12
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
hostname guest
ip link set lo up
ulimit -n 20000
ulimit -l unlimited
for module in /modules/*.ko; do
    insmod "$module" || echo "cannot load $module"
done
echo "@kernels started"
suite $SUITE < /dev/null 2>&1
echo "@kernels end $?"
dmesg -n 1
poweroff -f
"#;

/// Content of the guest.
pub struct Contents<'a> {
    /// A root file system of Debian packages.
    pub root: &'a Path,
    /// Static programs: path on this machine, name in the guest.
    pub binaries: &'a [(PathBuf, &'static str)],
}

/// Builds the archive that the kernel unpacks.
pub fn build(kernel: &Kernel, contents: &Contents<'_>, folder: &Path) -> Result<PathBuf> {
    let root = folder.join(format!("{}-{}", kernel.arch.debian(), kernel.series));
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    run(Command::new("cp").arg("-a").arg(contents.root).arg(&root))?;
    fs::create_dir_all(root.join(BINARIES))?;
    for (path, name) in contents.binaries {
        let there = root.join(BINARIES).join(name);
        fs::copy(path, &there).with_context(|| format!("cannot copy {}", path.display()))?;
        fs::set_permissions(&there, fs::Permissions::from_mode(0o755))?;
    }
    if !root.join("bin/sh").exists() {
        symlink("busybox", root.join("bin/sh"))?;
    }
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/tmp:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::create_dir_all(root.join("modules"))?;
    for (index, module) in modules(kernel)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.split(".ko").next().unwrap_or(&name);
        let to = root.join("modules").join(format!("{index:02}-{plain}.ko"));
        decompress(module, &to)?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = folder.join(format!("{}-{}.cpio", kernel.arch.debian(), kernel.series));
    let pack = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 > \"$0\"";
    run(Command::new("sh").args(["-c", pack]).arg(&archive).current_dir(&root))?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// Returns the files of the needed modules, each behind its dependencies.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let folder = kernel.modules();
    let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("no {name} of the kernel"));
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let mut order = Vec::new();
    for (module, everywhere) in MODULES {
        if builtin.lines().any(|line| is_module(line, module)) {
            continue;
        }
        let Some(line) = dependencies
            .lines()
            .find(|line| is_module(line.split(':').next().unwrap_or(""), module))
        else {
            if !everywhere {
                continue;
            }
            bail!("the kernel {} has no module {module}", kernel.release);
        };
        let (path, needed) = line.split_once(':').context("a line of modules.dep")?;
        // modules.dep names the nearest dependency first.
        order.extend(needed.split_whitespace().rev().map(str::to_owned));
        order.push(path.to_owned());
    }
    let mut seen = BTreeSet::new();
    order.retain(|path| seen.insert(path.clone()));
    Ok(order.into_iter().map(|path| folder.join(path)).collect())
}

fn is_module(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko")
        .next()
        .is_some_and(|plain| plain.replace('-', "_") == name.replace('-', "_"))
}

fn decompress(from: &Path, to: &Path) -> Result<()> {
    let tool = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => {
            fs::copy(from, to)?;
            return Ok(());
        }
    };
    let output = File::create(to)?;
    let status = Command::new(tool).arg("-dc").arg(from).stdout(output).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{tool} -dc {} ended with {status}", from.display()),
        Err(error) => bail!("cannot start {tool}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::is_module;

    #[test]
    fn modules_are_known_by_their_files() {
        assert!(is_module("kernel/drivers/net/veth.ko.xz", "veth"));
        assert!(is_module("kernel/net/nf-nat.ko", "nf_nat"));
        assert!(!is_module("kernel/drivers/net/veth2.ko", "veth"));
    }
}
