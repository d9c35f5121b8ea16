//! Paths of the project, and a way to run other programs.

use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Variable with the path of the agent's binary, for the demo, the benchmarks and the end-to-end tests.
pub const SPOOR_BIN: &str = "SPOOR_BIN";

/// Major version of the LLVM that rustc 1.95 and Debian's rustc-web 1.96 have.
pub const LLVM: &str = "22";

/// Variable with the path of the program that measures Core, for the benchmarks and the tests.
pub const CORE_COST: &str = "SPOOR_CORE_COST";

/// Variable with the path of the suite of `cargo xtask kernels`, built as the release binary is, for the tests.
pub const KERNELS: &str = "SPOOR_KERNELS";

/// Variable with the family of hooks that the agents of the end-to-end tests use: `sock` or `syscall`.
pub const TEST_HOOKS: &str = "SPOOR_TEST_HOOKS";

/// Returns whether this process is root's.
pub fn is_root() -> bool {
    // Calling `id` saves a dependency for one number.
    output("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

/// Returns the folder of the workspace.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Returns the folder of tools that are built for this project alone.
pub fn cache() -> PathBuf {
    root().join(".cache/tools")
}

/// Returns the folder of the logs of installations.
pub fn logs() -> PathBuf {
    root().join(".cache/logs")
}

/// Returns cargo's target directory. This program is in `TARGET/debug`.
pub fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find the path of xtask itself")?;
    let target = program
        .ancestors()
        .nth(2)
        .context("xtask is not in a target directory: run it as `cargo xtask`")?;
    Ok(target.to_owned())
}

/// Returns `PATH` with folders of tools that a user's `PATH` often lacks.
pub fn search_path() -> OsString {
    let mut folders = vec![cache().join("bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from));
    env::join_paths(folders).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// Lists all files of this name on [`search_path`], in its order.
pub fn find_all(command: &str) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<_> = env::split_paths(&search_path()).collect();
    let command = command.to_owned();
    folders
        .into_iter()
        .map(move |folder| folder.join(&command))
        .filter(|file| file.is_file())
}

/// Returns whether a command of this name can be found.
pub fn exists(command: &str) -> bool {
    find_all(command).next().is_some()
}

/// Returns the path of a tool of the LLVM that `cargo xtask setup` installs.
pub fn llvm(tool: &str) -> PathBuf {
    Path::new("/usr/lib")
        .join(format!("llvm-{LLVM}"))
        .join("bin")
        .join(tool)
}

/// Returns a command's standard output; `None` if it cannot be run or fails.
pub fn output(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", search_path())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program to run in the workspace, on [`search_path`], whose failure is an error that shows the command.
pub struct Run {
    command: Command,
    shown: Vec<(String, String)>,
}

impl Run {
    /// Runs the cargo that runs xtask.
    pub fn cargo<const N: usize>(args: [&str; N]) -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self::program(cargo).args(args)
    }

    /// Runs any program.
    pub fn program(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root()).env("PATH", search_path());
        Self {
            command,
            shown: Vec::new(),
        }
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Sets a variable, which is shown with the command.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown
            .push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self.command.env(name, value);
        self
    }

    /// Runs it at the lowest priority (`nice -n 19`): what runs beside it is hardly slower.
    pub fn giving_way(mut self) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]);
        command.arg(self.command.get_program()).args(self.command.get_args());
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.command = command;
        self
    }

    /// Removes a variable from the environment.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs the program to its end.
    pub fn status(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .with_context(|| format!("cannot start `{}`", self.line()))?;
        self.judge(status)
    }

    /// Becomes the program: it gets the signals, and a parent that waits for xtask waits for it. Returns only if it
    /// cannot start.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn exec(mut self) -> Result<Infallible> {
        let error = self.command.exec();
        Err(error).with_context(|| format!("cannot start `{}`", self.line()))
    }

    /// Runs the program to its end, and appends its output to `log`. An error has the last lines.
    pub fn logged(mut self, log: &Path) -> Result<()> {
        const LINES: usize = 15;
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(log);
            file.with_context(|| format!("cannot open the log {}", log.display()))
        };
        let mut file = open()?;
        writeln!(file, "\n$ {}", self.line()).context("cannot write to a log")?;
        let start = file.metadata().context("cannot read the size of a log")?.len();
        self.command.stdin(Stdio::null()).stdout(open()?).stderr(file);
        let status = self
            .command
            .status()
            .with_context(|| format!("cannot start `{}`", self.line()))?;
        self.judge(status).with_context(|| {
            let said = fs::read(log).unwrap_or_default();
            let said = usize::try_from(start).ok().and_then(|start| said.get(start..));
            let said = String::from_utf8_lossy(said.unwrap_or_default()).into_owned();
            let lines: Vec<_> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES)..];
            format!(
                "it said last (all of it: {}):\n    {}\n",
                log.display(),
                last.join("\n    ")
            )
        })
    }

    /// Runs the program to its end. Prints each line of its standard output and hands it over.
    pub fn lines(self, mut each: impl FnMut(&str)) -> Result<()> {
        self.quiet_lines(|line| {
            println!("{line}");
            each(line);
        })
    }

    /// Runs the program to its end. Hands over each line of its standard output.
    pub fn quiet_lines(mut self, mut each: impl FnMut(&str)) -> Result<()> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.line()))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.context("cannot read the output of a child")?;
                each(&String::from_utf8_lossy(&line));
            }
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{}`", self.line()))?;
        self.judge(status)
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("this command failed ({status}):\n  {}", self.line());
        }
        Ok(())
    }

    /// Returns the command as one would type it.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.shown {
            let _ = write!(line, "{name}={} ", quoted(value));
        }
        let program = Path::new(self.command.get_program());
        let _ = write!(
            line,
            "{}",
            program.file_name().unwrap_or(program.as_os_str()).to_string_lossy()
        );
        for arg in self.command.get_args() {
            let _ = write!(line, " {}", quoted(&arg.to_string_lossy()));
        }
        line
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
