//! Table of the capabilities that Spoor uses. docs/capabilities.md is this table for users.

use super::{Facts, OLDEST_KERNEL, Tracefs, kernel_version};

/// Number of CAP_SYS_ADMIN: `bpf_capable()` and `perfmon_capable()` accept it too.
const SYS_ADMIN: u32 = 21;
/// The first kernel that accounts maps to cgroups, and not to RLIMIT_MEMLOCK.
pub(super) const WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

/// A capability, with its purpose.
#[derive(Debug, PartialEq, Eq)]
pub struct Capability {
    /// The name, as in capabilities(7).
    pub name: &'static str,
    /// Numbers of capabilities of which one is enough: this one first, then others (include/uapi/linux/capability.h).
    pub enough: &'static [u32],
    /// The purpose.
    pub purpose: &'static str,
    /// The consequence of lacking it.
    pub without: &'static str,
    /// The supported kernels on which it matters.
    pub kernels: &'static str,
}

/// All capabilities that Spoor has a use for, the most important first.
pub const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "CAP_BPF",
        enough: &[39, SYS_ADMIN],
        purpose: "loads eBPF programs and their maps",
        without: "nothing can be traced",
        kernels: "all",
    },
    Capability {
        name: "CAP_PERFMON",
        enough: &[38, SYS_ADMIN],
        purpose: "attaches programs to tracepoints and reads kernel memory",
        without: "nothing can be traced",
        kernels: "all",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        enough: &[2, 1],
        purpose: "reads tracefs as another user than root, and files of other users' processes",
        without: "as another user than root nothing can be traced; as root, environment, sockets and files of other \
                  users' processes cannot be read: those that run already have no OTEL_SERVICE_NAME, and processes \
                  are not found by --port",
        kernels: "all",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        enough: &[19],
        purpose: "reads executable, environment and descriptors of other users' processes",
        without: "processes of other users, or with more rights than spoor's own, are not found by --exe and --port; \
                  their runtimes are not known, so fewer parents are found; and on some kernels processes that run \
                  already have no OTEL_SERVICE_NAME",
        kernels: "all",
    },
    Capability {
        name: "CAP_SYS_RESOURCE",
        enough: &[24],
        purpose: "lifts the limit on locked memory",
        without: "nothing can be traced unless the limit is lifted from outside (ulimit -l unlimited, \
                  LimitMEMLOCK=infinity)",
        kernels: "before 5.11",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        enough: &[SYS_ADMIN],
        purpose: "mounts tracefs where it is not mounted",
        without: "nothing can be traced unless tracefs is mounted from outside",
        kernels: "all",
    },
    Capability {
        name: "CAP_SYS_NICE",
        enough: &[23],
        purpose: "raises the priority of the ring buffer's reader",
        without: "on a machine without idle time more records may be lost",
        kernels: "all",
    },
];

impl Capability {
    /// Returns the capabilities that Spoor should have on every kernel, as `setcap` takes them.
    pub fn setcap_list() -> String {
        let common = [
            "CAP_BPF",
            "CAP_PERFMON",
            "CAP_DAC_READ_SEARCH",
            "CAP_SYS_PTRACE",
            "CAP_SYS_NICE",
        ];
        common.join(",").to_lowercase()
    }

    /// Returns whether the process has it, or one that is as good.
    pub fn is_held(&self, effective: u64) -> bool {
        self.enough.iter().any(|number| effective & (1 << number) != 0)
    }

    /// Returns how much it matters on such a system.
    pub fn need(&self, facts: &Facts) -> Need {
        match self.name {
            "CAP_BPF" | "CAP_PERFMON" => Need::Always,
            "CAP_DAC_READ_SEARCH" if facts.tracefs == Tracefs::Unreadable => Need::Always,
            "CAP_SYS_ADMIN" if facts.tracefs == Tracefs::NotMounted => Need::Always,
            "CAP_SYS_ADMIN" => Need::Never,
            "CAP_SYS_RESOURCE" if needs_memlock(facts) => Need::Always,
            "CAP_SYS_RESOURCE" => Need::Never,
            _ => Need::Wanted,
        }
    }
}

/// Importance of a capability on a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing can be traced without it.
    Always,
    /// A feature does not work without it.
    Wanted,
    /// The capability would change nothing here.
    Never,
}

/// Returns whether maps count against a limit on locked memory that the process cannot lift by itself. A version that
/// cannot be read is no proof of a new kernel.
fn needs_memlock(facts: &Facts) -> bool {
    let version = kernel_version(&facts.kernel).unwrap_or(OLDEST_KERNEL);
    version < WITHOUT_MEMLOCK && !facts.memlock_unlimited
}

/// Returns the capabilities that the process lacks, and that matter so much here.
pub fn lacking(facts: &Facts, need: Need) -> impl Iterator<Item = &'static Capability> {
    CAPABILITIES
        .iter()
        .filter(move |capability| !capability.is_held(facts.capabilities) && capability.need(facts) == need)
}
