//! `--hooks`.

/// Family of hooks that is asked for: which kernel hooks capture traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Hooks {
    /// The socket events where this kernel has and accepts them, else the system calls.
    #[default]
    Auto,
    /// The socket events (Linux 6.3 and newer), or an error.
    Sock,
    /// The system calls.
    Syscall,
}
