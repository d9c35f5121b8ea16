//! Runs of programs that the kernel skipped, by its own count.
//!
//! The kernel skips a program while bpf(2) is called on the same processor (counted since 6.7), while the same program was
//! preempted there (7.x), and a raw tracepoint's program that an interrupt would run within itself.

use std::{
    cell::Cell,
    fs,
    os::fd::{AsFd, AsRawFd},
};

use aya::Ebpf;

/// Kernel's counts of skipped runs, of all programs that are loaded.
pub struct Skipped {
    /// The programs' files in /proc/self/fdinfo: reading one is no bpf(2).
    files: Vec<String>,
    count: Cell<u64>,
}

impl Skipped {
    /// Prepares to read the counts of these programs, which must stay loaded.
    pub fn of(programs: &Ebpf) -> Self {
        let loaded = programs.programs().filter_map(|(_, program)| program.fd().ok());
        Self {
            files: loaded
                .map(|fd| format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))
                .collect(),
            count: Cell::new(0),
        }
    }

    /// Reads the counts. That takes some dozens of files, so it is not done on each wake-up.
    pub fn look(&self) {
        let texts = self.files.iter().filter_map(|file| fs::read_to_string(file).ok());
        self.count.set(texts.filter_map(|text| skipped(&text)).sum());
    }

    /// Returns the runs that were skipped, for all processes, as of the last [`Skipped::look`]. 0 on kernels before 5.12,
    /// which do not count.
    pub fn count(&self) -> u64 {
        self.count.get()
    }
}

/// Returns the number behind `recursion_misses:`, see `bpf_prog_show_fdinfo`
/// (<https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>).
fn skipped(text: &str) -> Option<u64> {
    let count = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::skipped;

    #[test]
    fn the_kernel_tells_what_it_skipped() {
        let text = "prog_id:\t41\nrun_time_ns:\t1200\nrun_cnt:\t8\nrecursion_misses:\t2\nverified_insns:\t64\n";
        assert_eq!(skipped(text), Some(2));
        assert_eq!(skipped("prog_id:\t41\nrun_cnt:\t8\n"), None);
        assert_eq!(skipped("recursion_misses:\tmany\n"), None);
    }
}
