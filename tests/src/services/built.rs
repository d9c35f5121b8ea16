//! Services and clients that are compiled, again only when their sources change.

use std::{
    ffi::OsStr,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::sources;
use crate::process;

/// Jars of the distribution for Tomcat and Jetty.
const JARS: [&str; 9] = [
    "tomcat10-embed-core",
    "tomcat10-annotations-api",
    "jetty9-server",
    "jetty9-servlet",
    "jetty9-security",
    "jetty9-http",
    "jetty9-io",
    "jetty9-util",
    "servlet-api",
];

/// Jars of the distribution for Netty.
const NETTY_JARS: [&str; 8] = [
    "netty-common",
    "netty-buffer",
    "netty-resolver",
    "netty-transport",
    "netty-codec",
    "netty-codec-http",
    "netty-handler",
    "jctools-core",
];

/// Builds the Go service, which is also a client.
pub fn go() -> Result<PathBuf> {
    let source = sources().join("main.go");
    let folder = built("go", std::slice::from_ref(&source), |folder| {
        let program = folder.join("service-go");
        let go = ["../.cache/tools/bin/go", "/usr/local/go/bin/go"]
            .into_iter()
            .map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
            .find(|path| path.exists())
            .unwrap_or_else(|| "go".into());
        let args = ["build".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()];
        process::run("go build", go, &args, folder)
    })?;
    Ok(folder.join("service-go"))
}

/// Java sources to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Java {
    /// Sources without jars: the service on the JDK's server, and the client.
    Plain,
    /// Sources with jars as well: the services on Tomcat and Jetty.
    Servlets,
}

/// Builds Java sources; returns the class path.
pub(crate) fn java(what: Java) -> Result<String> {
    let mut names = vec!["Service.java", "Client.java"];
    let mut jars = Vec::new();
    if what == Java::Servlets {
        names.extend(["TomcatService.java", "JettyService.java"]);
        jars.extend(JARS.map(|jar| format!("/usr/share/java/{jar}.jar")));
        for jar in &jars {
            // Without this check javac's error is about a class, and Java's comes when the server starts.
            ensure!(
                Path::new(jar).exists(),
                "{jar} is missing: `cargo xtask setup test` installs its package"
            );
        }
    }
    let jars = jars.join(":");
    let files: Vec<PathBuf> = names.iter().map(|name| sources().join(name)).collect();
    let classes = built("java", &files, |folder| {
        // An empty class path means the current folder.
        let mut args: Vec<&OsStr> = vec!["-cp".as_ref(), jars.as_ref(), "-d".as_ref(), folder.as_os_str()];
        args.extend(files.iter().map(|file| file.as_os_str()));
        process::run("javac", "javac", &args, folder)
    })?;
    Ok(format!("{}:{jars}", classes.display()))
}

/// Builds the Netty service; returns the class path.
pub fn netty() -> Result<String> {
    let jars: Vec<String> = NETTY_JARS
        .iter()
        .map(|jar| format!("/usr/share/java/{jar}.jar"))
        .collect();
    let jars = jars.join(":");
    let source = sources().join("NettyService.java");
    let classes = built("netty", std::slice::from_ref(&source), |folder| {
        let args: [&OsStr; 5] = [
            "-cp".as_ref(),
            jars.as_ref(),
            "-d".as_ref(),
            folder.as_os_str(),
            source.as_os_str(),
        ];
        process::run("javac", "javac", &args, folder)
    })?;
    Ok(format!("{}:{jars}", classes.display()))
}

/// Builds the Erlang service; returns the folder of its module.
pub(crate) fn erlang() -> Result<PathBuf> {
    let source = sources().join("service.erl");
    built("erlang", std::slice::from_ref(&source), |folder| {
        process::run("erlc", "erlc", &[source.as_os_str()], folder)
    })
}

/// Returns the program of this crate that is a service and a client on hyper.
pub(crate) fn hyper() -> Result<PathBuf> {
    own("hyperpeer")
}

/// Returns the program of this crate that is a service on io_uring.
pub fn ring() -> Result<PathBuf> {
    own("ringpeer")
}

/// Returns a program of this crate.
fn own(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let mut beside = here.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .find(|path| path.is_file())
        .with_context(|| format!("there is no `{name}` beside this program: build all of spoor-tests"))
}

/// Returns a folder beside the tests with the result of `build` for these sources.
fn built(name: &str, files: &[PathBuf], build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        text.hash(&mut hasher);
    }
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let parent = here
        .parent()
        .context("this program is in no folder")?
        .join("built-services");
    let folder = parent.join(format!("{name}-{:016x}", hasher.finish()));
    if folder.exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Other tests may build the same meanwhile, so the folder gets its name once it is whole.
    let fresh = tempfile::Builder::new().prefix(name).tempdir_in(&parent)?;
    build(fresh.path())?;
    if std::fs::rename(fresh.path(), &folder).is_ok() {
        let _moved = fresh.keep();
    }
    ensure!(folder.exists(), "cannot move what was built to {}", folder.display());
    Ok(folder)
}
