//! A virtual machine without KVM: QEMU's own translator. The guest tells its results on the serial console.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Arch, fetch::Kernel};

/// Before all lines of the guest's that are results.
pub const MARK: &str = "@kernels ";

/// How long a machine may live: some twenty times what it takes when it has a processor of its own.
const LIMIT: Duration = Duration::from_secs(900);

/// Two processors: what runs at once must be able to.
const PROCESSORS: &str = "2";
/// The file system is in it too.
const MEMORY_MIB: &str = "1280";

/// How a machine's life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The suite's exit status.
    Suite(i32),
    /// Without a word of the suite's end: the kernel or the emulator died.
    Lost,
    /// It was killed at its time limit.
    TimedOut,
}

/// What came of a machine.
pub struct Outcome {
    /// Marked lines, without the mark.
    pub lines: Vec<String>,
    /// How it ended.
    pub end: End,
    /// Everything that was written to the console.
    pub console: PathBuf,
}

/// A machine that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel and waits for its end. `parameters` go to the kernel, and from there to init's environment.
pub fn boot(kernel: &Kernel, archive: &Path, parameters: &str, console: &Path) -> Result<Outcome> {
    let mut command = Command::new(kernel.arch.emulator());
    let tty = match kernel.arch {
        Arch::Amd64 => {
            command.args(["-machine", "q35,accel=tcg", "-cpu", "qemu64"]);
            // Else 5.10 and 6.1 read their clock by a device.
            "ttyS0 tsc=reliable random.trust_cpu=on"
        }
        Arch::Arm64 => {
            command.args(["-machine", "virt,accel=tcg,gic-version=3", "-cpu", "cortex-a72"]);
            "ttyAMA0"
        }
    };
    command
        .args(["-smp", PROCESSORS, "-m", MEMORY_MIB])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-nic",
            "none",
            "-no-reboot",
        ])
        .args(["-serial", "stdio", "-monitor", "none"])
        .arg("-kernel")
        .arg(kernel.folder.join("vmlinuz"))
        .arg("-initrd")
        .arg(archive)
        .arg("-append")
        .arg(format!(
            "console={tty} panic=-1 oops=panic quiet loglevel=4 {parameters}"
        ))
        .env("PATH", crate::tools::search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(console.with_extension("emulator"))?);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {}", kernel.arch.emulator()))?;
    let mut running = Running(child);
    let stdout = running.0.stdout.take().context("the emulator has no output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            // Nobody asks any more when the time is over.
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    // As it comes: it can be read while the machine runs.
    let mut told = File::create(console)?;
    let mut results = Vec::new();
    let mut end = End::Lost;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(told, "{line}")?;
                let Some(result) = line.strip_prefix(MARK) else {
                    continue;
                };
                if let Some(code) = result.strip_prefix("end ") {
                    end = code.trim().parse().map_or(End::Lost, End::Suite);
                }
                results.push(result.to_owned());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end = End::TimedOut;
                break;
            }
        }
    }
    Ok(Outcome {
        lines: results,
        end,
        console: console.to_owned(),
    })
}
