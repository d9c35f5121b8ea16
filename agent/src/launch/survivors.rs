//! Children that outlive the command.

use std::{fmt, fs, path::Path};

/// A process that still runs when the command that started it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The process id.
    pub pid: u32,
    /// The process's name (`comm`), control characters escaped.
    pub name: String,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.name)
    }
}

/// Returns which of these processes still run. `descendants` must not hold processes whose exit was seen: their pids may be
/// other processes' now.
pub fn survivors(descendants: impl IntoIterator<Item = u32>) -> Vec<Survivor> {
    survivors_below(Path::new("/proc"), descendants)
}

fn survivors_below(proc: &Path, descendants: impl IntoIterator<Item = u32>) -> Vec<Survivor> {
    let alive = |pid: u32| {
        let stat = fs::read(proc.join(pid.to_string()).join("stat")).ok()?;
        let name = name_if_alive(&String::from_utf8_lossy(&stat))?;
        Some(Survivor { pid, name })
    };
    descendants.into_iter().filter_map(alive).collect()
}

/// Reads proc_pid_stat(5): `pid (comm) state …`, where comm may hold anything, parentheses too.
fn name_if_alive(stat: &str) -> Option<String> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once(" (")?;
    // Zombie or dead: it only waits to be collected.
    let ended = rest.starts_with(['Z', 'X', 'x']);
    (!ended).then(|| name.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_run_are_named() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, stat) in [
            (10, "10 (nginx) S 1 10 10 0"),
            (11, "11 (gone) Z 1 11 11 0"),
            (12, "12 (a) (b) Z) R 1 12 12 0"),
            (13, "13 (new\nline) D 1 13"),
            (14, "garbage"),
        ] {
            fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            fs::write(proc.path().join(pid.to_string()).join("stat"), stat).unwrap();
        }
        let found: Vec<String> = survivors_below(proc.path(), 9..20)
            .iter()
            .map(Survivor::to_string)
            .collect();
        assert_eq!(
            found,
            ["10 (nginx)", "12 (a) (b) Z)", "13 (new\\nline)"].map(String::from)
        );
    }

    #[test]
    fn this_process_survives() {
        let own = std::process::id();
        let found = survivors([own]);
        assert_eq!(found.iter().map(|survivor| survivor.pid).collect::<Vec<_>>(), [own]);
    }
}
