//! Checks before programs are loaded, so that an error says what to do, and not just `EPERM`.

pub mod capability;
mod system;

use std::fmt;

use capability::{Capability, Need, lacking};
pub use system::{MemlockError, TracefsError, TracefsState, mount_tracefs, mount_tracefs_for_self, raise_memlock};

/// The oldest kernel that the programs run on, as (major, minor): the first with ring buffer (5.8), CAP_BPF (5.8) and
/// all helpers that long-term distributions kept.
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Inode number of the initial PID namespace: `PROC_PID_INIT_INO`, include/uapi/linux/nsfs.h (the number is older than
/// the header).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Inode number of the initial user namespace: `PROC_USER_INIT_INO`.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Facts about the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `CapEff` of /proc/self/status.
    pub capabilities: u64,
    /// Inode number of /proc/self/ns/pid.
    pub pid_namespace: u64,
    /// Inode number of /proc/self/ns/user; `None` on a kernel without user namespaces.
    pub user_namespace: Option<u64>,
    /// `uname -r`
    pub kernel: String,
    /// /sys/kernel/btf/vmlinux can be read.
    pub has_btf: bool,
    /// /sys/kernel/security/lockdown; `None` if it is not there (no lockdown, or securityfs is not mounted).
    pub lockdown: Option<String>,
    /// State of tracefs, which lists the tracepoints.
    pub tracefs: Tracefs,
    /// The hard limit RLIMIT_MEMLOCK is infinite: the process may lift its own.
    pub memlock_unlimited: bool,
}

/// State of tracefs, which lists the tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracefs {
    /// Tracefs is mounted, and this process may read it.
    Readable,
    /// Tracefs is mounted, and this process may not read it.
    Unreadable,
    /// Tracefs is not mounted.
    NotMounted,
}

/// Reason why Spoor cannot work here, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The process is not root, and lacks capabilities.
    #[error(
        "spoor lacks {}: start it with sudo, or give its binary the capabilities: sudo setcap {}+ep \
         $(command -v spoor); in a container use --privileged, or --cap-add for each of them (docs/capabilities.md)",
        Names(.missing), setcap_list(.missing)
    )]
    Capabilities {
        /// Names of the missing capabilities.
        missing: Vec<&'static str>,
    },
    /// The process is in a PID namespace, whose process ids are not the kernel's.
    #[error(
        "spoor is in a PID namespace of its own, where the process ids that the kernel reports mean nothing: start the \
         container with --pid=host (Docker, Podman) or hostPID: true (Kubernetes)"
    )]
    PidNamespace,
    /// The process is in a user namespace, whose capabilities do not count for bpf(2).
    #[error(
        "spoor is in a user namespace, where even root may not load eBPF programs: start it outside of rootless \
         containers, or with --userns=host"
    )]
    UserNamespace,
    /// The kernel has no type information, or this process may not read it.
    #[error(
        "the kernel {kernel} has no readable /sys/kernel/btf/vmlinux, from which spoor learns the layout of kernel \
         structures: use a kernel that is built with CONFIG_DEBUG_INFO_BTF=y (all major distributions' are); in a \
         container, mount the host's /sys"
    )]
    NoBtf {
        /// `uname -r`
        kernel: String,
    },
    /// The kernel's lockdown lets no eBPF program read memory.
    #[error(
        "the kernel is locked down in mode `confidentiality`, where eBPF programs may not read memory: boot with \
         lockdown=integrity, which Secure Boot allows"
    )]
    Lockdown,
    /// The kernel lacks helpers and maps that all programs need.
    #[error("the kernel is {kernel}, and spoor needs {}.{} or newer: upgrade the kernel", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    OldKernel {
        /// `uname -r`
        kernel: String,
    },
}

/// Returns the capabilities that Spoor should have on every kernel, with those that are missing here beyond that.
fn setcap_list(missing: &[&str]) -> String {
    let mut list = Capability::setcap_list();
    for name in missing.iter().map(|name| name.to_lowercase()) {
        if !list.split(',').any(|listed| listed == name) {
            list = format!("{list},{name}");
        }
    }
    list
}

struct Names<'a>(&'a [&'static str]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Returns all reasons why Spoor cannot work on such a system.
pub fn problems(facts: &Facts) -> Vec<Problem> {
    let Facts {
        capabilities: _,
        pid_namespace,
        user_namespace,
        kernel,
        has_btf,
        lockdown,
        tracefs: _,
        memlock_unlimited: _,
    } = facts;
    let mut problems = Vec::new();

    let missing: Vec<_> = lacking(facts, Need::Always).map(|capability| capability.name).collect();
    if !missing.is_empty() {
        problems.push(Problem::Capabilities { missing });
    }
    if *pid_namespace != INITIAL_PID_NAMESPACE {
        problems.push(Problem::PidNamespace);
    }
    if user_namespace.is_some_and(|inode| inode != INITIAL_USER_NAMESPACE) {
        problems.push(Problem::UserNamespace);
    }
    // A version that cannot be read is no proof of an old kernel: loading the programs will show.
    if kernel_version(kernel).is_some_and(|version| version < OLDEST_KERNEL) {
        problems.push(Problem::OldKernel { kernel: kernel.clone() });
    }
    if !has_btf {
        problems.push(Problem::NoBtf { kernel: kernel.clone() });
    }
    if lockdown
        .as_deref()
        .is_some_and(|modes| modes.contains("[confidentiality]"))
    {
        problems.push(Problem::Lockdown);
    }
    problems
}

/// Returns whether the process has the capabilities that loading and attaching programs needs.
pub fn may_load(facts: &Facts) -> bool {
    let needed = ["CAP_BPF", "CAP_PERFMON"];
    !lacking(facts, Need::Always).any(|capability| needed.contains(&capability.name))
}

/// Returns major and minor version from `uname -r`.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks this system, and logs what works less well without a capability.
///
/// # Errors
/// If Spoor cannot work here: all reasons, each with what to do.
pub fn check() -> anyhow::Result<()> {
    let facts = Facts::read()?;
    let problems = problems(&facts);
    match problems.as_slice() {
        [] => {
            for Capability { name, without, .. } in lacking(&facts, Need::Wanted) {
                tracing::warn!("spoor runs without {name}: {without}");
            }
            Ok(())
        }
        [problem] => Err(anyhow::Error::new(problem.clone())),
        _ => {
            let list: Vec<String> = problems.iter().map(|problem| format!("\n  - {problem}")).collect();
            Err(anyhow::anyhow!("spoor cannot trace here:{}", list.concat()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which all is well.
    fn good() -> Facts {
        Facts {
            capabilities: (1 << 39) | (1 << 38) | (1 << 19) | (1 << 2),
            pid_namespace: 4_026_531_836,
            user_namespace: Some(4_026_531_837),
            kernel: "5.10.0-33-amd64".to_owned(),
            has_btf: true,
            lockdown: Some("none [integrity] confidentiality\n".to_owned()),
            tracefs: Tracefs::Readable,
            memlock_unlimited: true,
        }
    }

    #[test]
    fn nothing_is_wrong_with_a_good_machine() {
        assert_eq!(problems(&good()), []);
        let older_names = Facts {
            capabilities: (1 << 21) | (1 << 19) | (1 << 1),
            user_namespace: None,
            lockdown: None,
            ..good()
        };
        assert_eq!(problems(&older_names), []);
    }

    #[test]
    fn what_a_capability_is_worth_depends_on_the_machine() {
        let lacks =
            |facts: Facts, need| -> Vec<&str> { lacking(&facts, need).map(|capability| capability.name).collect() };
        let bare = |facts: Facts| Facts {
            capabilities: 0,
            ..facts
        };
        assert_eq!(lacks(bare(good()), Need::Always), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(
            lacks(bare(good()), Need::Wanted),
            ["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYS_NICE"]
        );
        let another_user = Facts {
            tracefs: Tracefs::Unreadable,
            ..good()
        };
        assert_eq!(
            lacks(bare(another_user), Need::Always),
            ["CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH"]
        );
        let limited = |kernel: &str| Facts {
            memlock_unlimited: false,
            kernel: kernel.to_owned(),
            ..good()
        };
        assert_eq!(lacks(limited("5.10.0"), Need::Always), ["CAP_SYS_RESOURCE"]);
        assert_eq!(lacks(limited("5.11.0"), Need::Always), [""; 0]);
        let no_tracefs = Facts {
            tracefs: Tracefs::NotMounted,
            ..good()
        };
        assert_eq!(lacks(no_tracefs, Need::Always), ["CAP_SYS_ADMIN"]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let facts = Facts {
            capabilities: 1 << 19,
            pid_namespace: 4_026_532_000,
            user_namespace: Some(4_026_532_001),
            kernel: "4.18.0-553.el8.x86_64".to_owned(),
            has_btf: false,
            lockdown: Some("none integrity [confidentiality]\n".to_owned()),
            tracefs: Tracefs::Unreadable,
            memlock_unlimited: true,
        };
        let kernel = facts.kernel.clone();
        assert_eq!(
            problems(&facts),
            [
                Problem::Capabilities {
                    missing: vec!["CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH"]
                },
                Problem::PidNamespace,
                Problem::UserNamespace,
                Problem::OldKernel { kernel: kernel.clone() },
                Problem::NoBtf { kernel },
                Problem::Lockdown,
            ]
        );
    }

    #[test]
    fn texts_say_what_to_do() {
        let capabilities = Problem::Capabilities {
            missing: vec!["CAP_BPF", "CAP_SYS_RESOURCE"],
        };
        for (problem, says) in [
            (
                capabilities.clone(),
                "spoor lacks CAP_BPF, CAP_SYS_RESOURCE: start it with sudo",
            ),
            (
                capabilities,
                "setcap cap_bpf,cap_perfmon,cap_dac_read_search,cap_sys_ptrace,cap_sys_nice,cap_sys_resource+ep",
            ),
            (Problem::PidNamespace, "--pid=host"),
            (Problem::UserNamespace, "--userns=host"),
            (Problem::NoBtf { kernel: "6.1".into() }, "CONFIG_DEBUG_INFO_BTF"),
            (Problem::Lockdown, "lockdown=integrity"),
            (Problem::OldKernel { kernel: "4.4".into() }, "needs 5.10 or newer"),
        ] {
            assert!(problem.to_string().contains(says), "{problem}");
        }
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(kernel_version("6.18.44-fc-v470"), Some((6, 18)));
        assert_eq!(kernel_version("5.9-rc1"), Some((5, 9)));
        assert_eq!(kernel_version("7.0+"), Some((7, 0)));
        assert_eq!(kernel_version("next"), None);
        assert_eq!(kernel_version("6"), None);
    }
}
