//! Facts from /proc about processes, and about the eBPF objects that a process holds.

use std::{
    collections::BTreeMap,
    fs,
    iter::Sum,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Processor time of processes and how they got it, by the scheduler's accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, in ns.
    pub cpu_ns: u64,
    /// Time for which a thread could have run and had no processor, in ns: the run delay.
    pub delay_ns: u64,
    /// Involuntary context switches: a thread lost its processor to another one.
    pub preemptions: u64,
}

impl Usage {
    /// Returns what was used since an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - before.cpu_ns,
            delay_ns: self.delay_ns - before.delay_ns,
            preemptions: self.preemptions - before.preemptions,
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, usage| Self {
            cpu_ns: sum.cpu_ns + usage.cpu_ns,
            delay_ns: sum.delay_ns + usage.delay_ns,
            preemptions: sum.preemptions + usage.preemptions,
        })
    }
}

/// Returns what all live threads of a process have used. A thread that ends takes its part with it; the measured
/// processes keep their threads.
pub fn usage(process: u32) -> Result<Usage> {
    let of = |thread: PathBuf| {
        // A thread may end meanwhile.
        let texts = ["schedstat", "status"].map(|file| fs::read_to_string(thread.join(file)).ok());
        let [Some(schedstat), Some(status)] = texts else {
            return Ok(Usage::default());
        };
        // Format: `time on the CPU, time waiting, slices`.
        let mut times = schedstat.split_ascii_whitespace();
        let mut time = || number(times.next()).context("schedstat has no two numbers");
        Ok(Usage {
            cpu_ns: time()?,
            delay_ns: time()?,
            preemptions: field(&status, "nonvoluntary_ctxt_switches").context("status counts no switches")?,
        })
    };
    threads(process)?.into_iter().map(of).sum()
}

/// Returns how often threads of the process have gone to sleep voluntarily: each such switch ends with a wake-up.
pub fn sleeps(process: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(process)? {
        if let Ok(text) = fs::read_to_string(thread.join("status")) {
            sum += field(&text, "voluntary_ctxt_switches").context("status has no voluntary_ctxt_switches")?;
        }
    }
    Ok(sum)
}

/// Returns the resident memory of the process, in bytes.
pub fn resident_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(field(&text, "VmRSS").with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// Returns the number of calls of read(2), write(2) and their variants by the process. recvfrom(2) and sendto(2) are
/// not among them.
pub fn read_write_calls(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let calls = field(&text, "syscr").zip(field(&text, "syscw"));
    let (reads, writes) = calls.with_context(|| format!("{path} has no syscr and syscw"))?;
    Ok(reads + writes)
}

/// Costs of the eBPF objects of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Number of programs.
    pub programs: usize,
    /// Sum of their runs, counted only while the kernel's statistics are on.
    pub runs: u64,
    /// Sum of their run times, in ns.
    pub run_ns: u64,
    /// Number of runs that were skipped because another program ran.
    pub skipped: u64,
    /// Number of maps, the ring among them.
    pub maps: usize,
    /// Kernel memory of the maps, in bytes.
    pub map_bytes: u64,
}

/// Reads the programs and maps whose descriptors a process holds.
pub fn objects(process: u32) -> Result<Objects> {
    let folder = format!("/proc/{process}/fdinfo");
    let mut texts = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
        // A descriptor may be closed meanwhile.
        texts.extend(fs::read_to_string(entry?.path()).ok());
    }
    Ok(count_objects(texts.iter().map(String::as_str)))
}

fn count_objects<'a>(texts: impl Iterator<Item = &'a str>) -> Objects {
    // Several descriptors may hold one object.
    let mut programs = BTreeMap::new();
    let mut maps = BTreeMap::new();
    for text in texts {
        // A link's text has a prog_id too, but no run time.
        if let (Some(id), Some(run_ns), Some(runs)) = (
            field(text, "prog_id"),
            field(text, "run_time_ns"),
            field(text, "run_cnt"),
        ) {
            programs.insert(id, (run_ns, runs, field(text, "recursion_misses").unwrap_or(0)));
        } else if let (Some(id), Some(bytes)) = (field(text, "map_id"), field(text, "memlock")) {
            maps.insert(id, bytes);
        }
    }
    Objects {
        programs: programs.len(),
        runs: programs.values().map(|program| program.1).sum(),
        run_ns: programs.values().map(|program| program.0).sum(),
        skipped: programs.values().map(|program| program.2).sum(),
        maps: maps.len(),
        map_bytes: maps.values().sum(),
    }
}

/// Returns the number in the line `name: number …`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    number(value.split_ascii_whitespace().next())
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

/// Returns the folders of a process's threads, named by thread id.
pub fn threads(process: u32) -> Result<Vec<PathBuf>> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(Path::new(&folder)).with_context(|| format!("cannot list {folder}: has it ended?"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_once_and_links_are_none() {
        let program = "pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t1044\nprog_type:\t5\nprog_jited:\t1\nprog_tag:\tc0ffee\n\
                       memlock:\t4096\nprog_id:\t41\nrun_time_ns:\t1200\nrun_cnt:\t8\nrecursion_misses:\t2\n\
                       verified_insns:\t64\n";
        let other = program.replace("41", "42");
        let link = "pos:\t0\nlink_type:\tperf\nlink_id:\t7\nprog_tag:\tc0ffee\nprog_id:\t41\n";
        let map = "pos:\t0\nmap_type:\t27\nkey_size:\t0\nvalue_size:\t0\nmax_entries:\t8388608\nmemlock:\t8434496\nmap_id:\t9\n";
        let file = "pos:\t0\nflags:\t0100002\nmnt_id:\t29\nino:\t5\n";
        assert_eq!(
            count_objects([program, link, map, &other, program, map, file].into_iter()),
            Objects {
                programs: 2,
                runs: 16,
                run_ns: 2400,
                skipped: 4,
                maps: 1,
                map_bytes: 8_434_496,
            }
        );
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "VmHWM:\t  20 kB\nVmRSS:\t   12 kB\nnonvoluntary_ctxt_switches:\t3\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(field(text, "VmRSS"), Some(12));
        assert_eq!(field(text, "voluntary_ctxt_switches"), Some(5));
        assert_eq!(field(text, "VmR"), None);
    }

    #[test]
    fn this_process() {
        let me = std::process::id();
        let before = usage(me).unwrap();
        assert!(before.cpu_ns > 0);
        let after = usage(me).unwrap();
        assert!(after.since(before).cpu_ns < after.cpu_ns);
        assert!(resident_bytes(me).unwrap() > 100_000);
        let before = read_write_calls(me).unwrap();
        fs::read("/proc/self/stat").unwrap();
        assert!(read_write_calls(me).unwrap() > before);
        assert_eq!(objects(me).unwrap(), Objects::default());
    }
}
