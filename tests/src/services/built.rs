//! What is compiled of the services and clients: once, until their sources change.

use std::{
    ffi::OsStr,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::sources;
use crate::process;

/// Jars of the distribution that Tomcat and Jetty need.
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

/// The Go service, which is also a client.
pub fn go() -> Result<PathBuf> {
    let source = sources().join("main.go");
    let folder = built("go", std::slice::from_ref(&source), |folder| {
        let program = folder.join("service-go");
        let go = ["/usr/local/go/bin/go"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("go");
        let args = ["build".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()];
        process::run("go build", go, &args, folder)
    })?;
    Ok(folder.join("service-go"))
}

/// The class path of the Java services and the Java client.
pub(crate) fn java() -> Result<String> {
    let jars: Vec<String> = JARS.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
    let jars = jars.join(":");
    let names = ["Service.java", "TomcatService.java", "JettyService.java", "Client.java"];
    let files = names.map(|name| sources().join(name));
    let classes = built("java", &files, |folder| {
        let mut args: Vec<&OsStr> = vec!["-cp".as_ref(), jars.as_ref(), "-d".as_ref(), folder.as_os_str()];
        args.extend(files.iter().map(|file| file.as_os_str()));
        process::run("javac", "javac", &args, folder)
    })?;
    Ok(format!("{}:{jars}", classes.display()))
}

/// The folder of the Erlang service's module.
pub(crate) fn erlang() -> Result<PathBuf> {
    let source = sources().join("service.erl");
    built("erlang", std::slice::from_ref(&source), |folder| {
        process::run("erlc", "erlc", &[source.as_os_str()], folder)
    })
}

/// The program of this crate that is a service and a client on hyper.
pub(crate) fn hyper() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let mut beside = here.ancestors().skip(1).take(2).map(|folder| folder.join("hyperpeer"));
    beside
        .find(|path| path.is_file())
        .context("there is no `hyperpeer` beside this program: build all of spoor-tests")
}

/// A folder beside the tests with what `build` made of these sources.
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
    // Others may build the same at the same time: what is there under its name is whole.
    let fresh = tempfile::Builder::new().prefix(name).tempdir_in(&parent)?;
    build(fresh.path())?;
    if std::fs::rename(fresh.path(), &folder).is_ok() {
        let _moved = fresh.keep();
    }
    ensure!(folder.exists(), "cannot move what was built to {}", folder.display());
    Ok(folder)
}
