//! A virtual machine without KVM, by QEMU's translator. The guest prints its results on the serial console.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Arch, fetch::Kernel};

/// Prefix of the guest's result lines.
pub const MARK: &str = "@kernels ";

/// Time limit of a machine: about twenty times what it takes with a processor of its own.
const LIMIT: Duration = Duration::from_secs(900);

/// Two virtual processors, so that races can happen.
const PROCESSORS: &str = "2";
/// Memory of the machine, in MiB, file system included.
const MEMORY_MIB: &str = "1280";

/// How a machine's life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The suite's exit status.
    Suite(i32),
    /// The console ended without the suite's exit status: the kernel or the emulator died.
    Lost,
    /// The machine was killed at its time limit.
    TimedOut,
}

/// Result of a machine.
pub struct Outcome {
    /// Lines with the mark, without it.
    pub lines: Vec<String>,
    /// How the machine ended.
    pub end: End,
    /// Path of the whole console output.
    pub console: PathBuf,
}

/// A machine that is killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The machine may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel and waits for its end. The kernel gets `parameters`, and passes them to init's environment.
pub fn boot(kernel: &Kernel, archive: &Path, parameters: &str, console: &Path) -> Result<Outcome> {
    let child = emulator(kernel, archive, parameters)
        .stderr(File::create(console.with_extension("emulator"))?)
        .spawn()
        .with_context(|| format!("cannot start {}", kernel.arch.emulator()))?;
    let mut running = Running(child);
    let lines = lines(running.0.stdout.take().context("the emulator has no output")?);
    let deadline = Instant::now() + LIMIT;
    // Written line by line: it can be read while the machine runs.
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

/// Returns the command of QEMU's emulator, with the console on its standard output.
fn emulator(kernel: &Kernel, archive: &Path, parameters: &str) -> Command {
    let mut command = Command::new(kernel.arch.emulator());
    let tty = match kernel.arch {
        Arch::Amd64 => {
            command.args(["-machine", "q35,accel=tcg", "-cpu", "qemu64"]);
            // Without these, 5.10 and 6.1 read their clock from a device.
            "ttyS0 tsc=reliable random.trust_cpu=on"
        }
        Arch::Arm64 => {
            command.args(["-machine", "virt,accel=tcg,gic-version=3", "-cpu", "cortex-a72"]);
            "ttyAMA0"
        }
    };
    command
        .args(["-smp", PROCESSORS, "-m", MEMORY_MIB])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args([
            "-display", "none", "-nic", "none", "-serial", "stdio", "-monitor", "none",
        ])
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
        .stdout(Stdio::piped());
    command
}

/// Reads the console's lines in a thread, so that their receiver can stop at a deadline.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            // The receiver is gone when the time is over.
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
