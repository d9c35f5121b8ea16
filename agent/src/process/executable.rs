//! What an executable is: its language and its runtime.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    Runtime,
    command::{file_name, without_version},
    elf::Binary,
    proc_root::ProcRoot,
    reader::Identity,
};

/// Most executables that are remembered. When full, all are read anew.
const CACHED: usize = 4096;
/// Most bytes of a file beside an executable.
const BESIDE_BYTES: u64 = 16 << 10;

/// What is known of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) runtime: Runtime,
    /// A value of `telemetry.sdk.language`.
    pub(super) language: &'static str,
    /// `process.runtime.name`.
    pub(super) runtime_name: Option<&'static str>,
    /// `process.runtime.version`, where it costs nearly nothing.
    pub(super) runtime_version: Option<String>,
    /// It runs what its arguments name.
    pub(super) is_interpreter: bool,
    /// The system calls of 32-bit programs are not seen.
    pub(super) is_32_bit: bool,
}

/// The file as the kernel knows it, and how it was called: one file may be many programs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    file: Identity,
    path: PathBuf,
}

/// Executables, each read once.
#[derive(Debug, Default)]
pub(super) struct Executables(HashMap<Key, Executable>);

impl Executables {
    /// Describes the executable of a process. `identity`: the file, if its file system answers; `path`: its name in the process's mount
    /// namespace.
    pub(super) fn describe(
        &mut self,
        root: &ProcRoot,
        tgid: u32,
        identity: Option<Identity>,
        path: &Path,
    ) -> Executable {
        let by_name = || classify(path, &Binary::default(), |_| None);
        let (file, device) = match identity {
            Some(file @ Identity::File { device, .. }) => (file, device),
            Some(Identity::Gone) => return by_name(),
            Some(Identity::Denied) | None => return by_name().unread(),
        };
        let key = Key {
            file,
            path: path.to_owned(),
        };
        if let Some(known) = self.0.get(&key) {
            return known.clone();
        }
        let beside = |path: &Path| {
            let bytes = root.file_of(tgid, path, BESIDE_BYTES)?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let executable = match root.headers(tgid, device) {
            Some(binary) => {
                let executable = classify(path, &binary, beside);
                if executable.language == "native" {
                    match root.search(tgid, device) {
                        Some(binary) => classify(path, &binary, beside),
                        None => executable.unread(),
                    }
                } else {
                    executable
                }
            }
            None => by_name().unread(),
        };
        if root.is_suspect(tgid) {
            // It may answer later.
            return executable;
        }
        if self.0.len() >= CACHED {
            self.0.clear();
        }
        self.0.insert(key, executable.clone());
        executable
    }
}

impl Executable {
    /// Its binary may not be read. It may be a program that runs many requests on one thread, so a thread must not stand
    /// for a request.
    fn unread(self) -> Self {
        let runtime = match self.runtime {
            Runtime::Unknown => Runtime::Loop,
            known => known,
        };
        Self { runtime, ..self }
    }
}

/// By what the binary holds, else by its name. `read` gives a file of the process's mount namespace.
fn classify(path: &Path, binary: &Binary, read: impl Fn(&Path) -> Option<String>) -> Executable {
    let path_text = path.to_string_lossy();
    let name = file_name(&path_text);
    let base = without_version(name);
    let with = |runtime, language, runtime_name, runtime_version| Executable {
        runtime,
        language,
        runtime_name,
        runtime_version,
        is_interpreter: false,
        is_32_bit: binary.is_32_bit,
    };
    let interpreter = |runtime, language, runtime_name, runtime_version| Executable {
        is_interpreter: true,
        ..with(runtime, language, runtime_name, runtime_version)
    };
    // `python3.11`: the name says it.
    let version =
        || Some(name[base.len()..].trim_start_matches('-').to_owned()).filter(|version| version.contains('.'));
    if binary.is_go {
        return with(Runtime::Go, "go", Some("go"), binary.go_version.clone());
    }
    match base {
        "python" => interpreter(Runtime::Python, "python", Some("cpython"), version()),
        // PyPy's frames and threads are not CPython's.
        "pypy" => interpreter(Runtime::Unknown, "python", Some("pypy"), None),
        "uwsgi" => with(Runtime::Python, "python", Some("cpython"), None),
        "node" | "nodejs" => interpreter(Runtime::Node, "nodejs", Some("nodejs"), None),
        "deno" => interpreter(Runtime::Node, "nodejs", Some("deno"), None),
        "bun" => interpreter(Runtime::Node, "nodejs", Some("bun"), None),
        "java" => interpreter(Runtime::Jvm, "java", None, java_version(path, read)),
        "jsvc" => with(Runtime::Jvm, "java", None, None),
        "ruby" => interpreter(Runtime::Ruby, "ruby", Some("ruby"), version()),
        "truffleruby" => interpreter(Runtime::Ruby, "ruby", Some("truffleruby"), None),
        "php" => interpreter(Runtime::Php, "php", Some("cli"), version()),
        "php-cgi" => interpreter(Runtime::Php, "php", Some("cgi-fcgi"), version()),
        "php-fpm" => interpreter(Runtime::Php, "php", Some("fpm-fcgi"), version()),
        "perl" => interpreter(Runtime::Unknown, "perl", Some("perl"), None),
        "beam.smp" | "beam" => interpreter(Runtime::Beam, "erlang", Some("BEAM"), None),
        "dotnet" => interpreter(Runtime::Dotnet, "dotnet", Some(".NET"), None),
        "nginx" | "angie" | "openresty" => with(Runtime::Nginx, "cpp", None, None),
        // One loop, or one a thread, that works for many requests at once.
        "haproxy" | "envoy" | "squid" | "traffic_server" | "lighttpd" | "workerd" | "h2o" => {
            with(Runtime::Loop, "cpp", None, None)
        }
        _ if is_dotnet_host(path, read) => with(Runtime::Dotnet, "dotnet", Some(".NET"), None),
        _ if binary.has_tokio => with(Runtime::Loop, "rust", None, None),
        _ if binary.is_rust => with(Runtime::Unknown, "rust", None, None),
        // What it was written in cannot be seen.
        _ => with(Runtime::Unknown, "native", None, None),
    }
}

/// A JDK says its version in `release`, beside `bin`.
fn java_version(path: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<String> {
    let release = read(&path.parent()?.parent()?.join("release"))?;
    let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    Some(version.trim().trim_matches('"').to_owned())
}

/// A .NET program's own executable starts the assembly that lies beside it.
fn is_dotnet_host(path: &Path, read: impl Fn(&Path) -> Option<String>) -> bool {
    let mut settings = path.as_os_str().to_owned();
    settings.push(".runtimeconfig.json");
    path.is_absolute() && read(Path::new(&settings)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_name(path: &str) -> Executable {
        classify(Path::new(path), &Binary::default(), |_| None)
    }

    #[test]
    fn names_say_the_runtime() {
        for (path, runtime, language) in [
            ("/usr/bin/python3.11", Runtime::Python, "python"),
            ("/usr/sbin/nginx", Runtime::Nginx, "cpp"),
            ("/usr/bin/node", Runtime::Node, "nodejs"),
            ("/usr/lib/jvm/java-17/bin/java", Runtime::Jvm, "java"),
            ("/usr/bin/ruby3.1", Runtime::Ruby, "ruby"),
            ("/usr/sbin/php-fpm8.2", Runtime::Php, "php"),
            ("/usr/lib/erlang/erts-13/bin/beam.smp", Runtime::Beam, "erlang"),
            ("/usr/bin/dotnet", Runtime::Dotnet, "dotnet"),
            ("/usr/sbin/haproxy", Runtime::Loop, "cpp"),
            ("/opt/cart", Runtime::Unknown, "native"),
            ("", Runtime::Unknown, "native"),
        ] {
            let found = of_name(path);
            assert_eq!((found.runtime, found.language), (runtime, language), "{path}");
        }
        assert_eq!(of_name("/usr/bin/python3.11").runtime_version.as_deref(), Some("3.11"));
        assert_eq!(of_name("/usr/bin/python3").runtime_version, None);
    }

    #[test]
    fn the_binary_goes_before_the_name() {
        let go = Binary {
            is_go: true,
            go_version: Some("go1.26".to_owned()),
            ..Binary::default()
        };
        let found = classify(Path::new("/opt/node"), &go, |_| None);
        assert_eq!(
            (found.runtime, found.runtime_version.as_deref()),
            (Runtime::Go, Some("go1.26"))
        );
        let tokio = Binary {
            is_rust: true,
            has_tokio: true,
            ..Binary::default()
        };
        let found = classify(Path::new("/opt/web"), &tokio, |_| None);
        assert_eq!((found.runtime, found.language), (Runtime::Loop, "rust"));
    }

    #[test]
    fn files_beside_the_executable() {
        let release =
            |path: &Path| (path == Path::new("/jdk/release")).then(|| "A=1\nJAVA_VERSION=\"21.0.2\"\n".to_owned());
        let java = classify(Path::new("/jdk/bin/java"), &Binary::default(), release);
        assert_eq!(java.runtime_version.as_deref(), Some("21.0.2"));
        let settings = |path: &Path| (path == Path::new("/app/Shop.runtimeconfig.json")).then(String::new);
        let dotnet = classify(Path::new("/app/Shop"), &Binary::default(), settings);
        assert_eq!(dotnet.runtime, Runtime::Dotnet);
    }

    #[test]
    fn a_file_is_read_once() {
        let mut executables = Executables::default();
        let (root, own) = (ProcRoot::default(), std::process::id());
        let exe = root.exe(own).unwrap();
        let identity = root.identity(own);
        let first = executables.describe(&root, own, identity, &exe);
        assert_eq!(first.language, "rust");
        assert_eq!(executables.describe(&root, own, identity, &exe), first);
        assert_eq!(executables.0.len(), 1);
    }
}
