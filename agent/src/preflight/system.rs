//! Reading of the system, and two repairs: mounting tracefs, and lifting the limit on locked memory.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
};

use super::{Facts, Tracefs, capability::WITHOUT_MEMLOCK, kernel_version};

const TRACEFS: &str = "/sys/kernel/tracing";

impl Facts {
    /// Reads the system.
    pub fn read() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")
            .context("/proc/self/status cannot be read, is /proc mounted? (mount -t proc proc /proc)")?;
        let capabilities = effective_capabilities(&status).context("/proc/self/status has no line CapEff")?;
        let pid_namespace = fs::metadata("/proc/self/ns/pid")
            .context("/proc/self/ns/pid cannot be read: the kernel needs CONFIG_PID_NS")?
            .ino();
        Ok(Self {
            capabilities,
            pid_namespace,
            user_namespace: fs::metadata("/proc/self/ns/user").ok().map(|file| file.ino()),
            kernel: kernel_release()?,
            has_btf: File::open("/sys/kernel/btf/vmlinux").is_ok(),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok(),
            tracefs: tracefs(),
            memlock_unlimited: getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(_, hard)| hard == RLIM_INFINITY),
        })
    }
}

fn tracefs() -> Tracefs {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match tracefs_in(&mounts) {
        None => Tracefs::NotMounted,
        Some(path) if fs::read_dir(path.join("events/syscalls")).is_ok() => Tracefs::Readable,
        Some(_) => Tracefs::Unreadable,
    }
}

fn kernel_release() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    let text = fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
    Ok(text.trim_end().to_owned())
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Place of tracefs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TracefsState {
    /// Tracefs was mounted here already.
    Present(PathBuf),
    /// Tracefs has been mounted here just now, and stays so: the caller logs that.
    Mounted(PathBuf),
}

/// Tracefs is not mounted, and could not be.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot mount tracefs, where the kernel lists its tracepoints, at {TRACEFS}: {0}; mount it by hand (sudo mount -t \
     tracefs tracefs {TRACEFS}), or give the container the host's /sys/kernel/tracing"
)]
pub struct TracefsError(#[source] io::Error);

/// Finds tracefs, or mounts it where it belongs.
pub fn mount_tracefs() -> Result<TracefsState, TracefsError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(path) = tracefs_in(&mounts) {
        return Ok(TracefsState::Present(path));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tracefs"), TRACEFS, Some("tracefs"), flags, None::<&str>)
        .map_err(|errno| TracefsError(errno.into()))?;
    Ok(TracefsState::Mounted(PathBuf::from(TRACEFS)))
}

/// Finds tracefs, or mounts it for this process alone: it is gone when the process ends.
pub fn mount_tracefs_for_self() -> Result<TracefsState, TracefsError> {
    if tracefs() == Tracefs::NotMounted {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .map_err(|errno| TracefsError(errno.into()))?;
    }
    mount_tracefs()
}

/// Tracefs among the mounts (proc_pid_mountinfo(5)), if it is where it is looked for.
fn tracefs_in(mountinfo: &str) -> Option<PathBuf> {
    let mounted = |place: &str| {
        mountinfo.lines().any(|line| {
            let Some((mount, file_system)) = line.split_once(" - ") else {
                return false;
            };
            // Field 4 is the root within the file system: a part of tracefs (an instance) is not all of it.
            let mut fields = mount.split(' ').skip(3);
            fields.next() == Some("/")
                && fields.next() == Some(place)
                && file_system.split(' ').next() == Some("tracefs")
        })
    };
    // debugfs mounts it at the second place by itself.
    [TRACEFS, "/sys/kernel/debug/tracing"]
        .into_iter()
        .find(|place| mounted(place))
        .map(|place| Path::new(place).to_owned())
}

/// The limit on locked memory cannot be lifted, and leaves no room for maps.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot raise the limit on locked memory, which is {limit} bytes: {source}; kernels before 5.11 count eBPF maps \
     against it; give spoor CAP_SYS_RESOURCE, or start it with `ulimit -l unlimited` (LimitMEMLOCK=infinity in systemd, \
     --ulimit memlock=-1 in Docker)"
)]
pub struct MemlockError {
    limit: u64,
    source: io::Error,
}

/// Lifts the limit on locked memory on kernels that hold maps to it. Does nothing on newer ones.
pub fn raise_memlock() -> Result<(), MemlockError> {
    let version = kernel_release().ok().and_then(|release| kernel_version(&release));
    if version.is_some_and(|version| version >= WITHOUT_MEMLOCK) {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|errno| MemlockError {
        limit: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        let status = "Name:\tspoor\nCapPrm:\t0000000000000001\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tCapEff:\n"), None);
    }

    #[test]
    fn this_system_can_be_read() {
        let facts = Facts::read().unwrap();
        assert_ne!(facts.pid_namespace, 0);
        assert!(kernel_version(&facts.kernel).is_some(), "{facts:?}");
    }

    #[test]
    fn tracefs_is_found_where_it_is_looked_for() {
        let sysfs = "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n";
        let tracefs =
            |root: &str, place: &str| format!("{sysfs}34 22 0:12 {root} {place} rw shared:18 - tracefs tracefs rw\n");
        assert_eq!(tracefs_in(sysfs), None);
        for place in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
            assert_eq!(tracefs_in(&tracefs("/", place)), Some(PathBuf::from(place)));
        }
        assert_eq!(tracefs_in(&tracefs("/instances/x", "/sys/kernel/tracing")), None);
        assert_eq!(tracefs_in(&tracefs("/", "/mnt")), None);
        assert_eq!(tracefs_in("nonsense"), None);
    }

    #[test]
    fn failures_say_what_to_do_by_hand() {
        let error = TracefsError(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(
            error.contains("sudo mount -t tracefs tracefs /sys/kernel/tracing"),
            "{error}"
        );
        let error = MemlockError {
            limit: 65536,
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        assert!(error.to_string().contains("which is 65536 bytes"), "{error}");
    }
}
