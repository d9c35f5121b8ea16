//! One row for each kind of executable: the sign that recognises it, and what spans say of a process that runs it.

use std::path::Path;

use super::{Marks, Runtime};

/// Everything that recognition may look at.
pub(crate) struct Evidence<'a> {
    /// The executable's path in the process's mount namespace; empty if it is not known.
    pub(crate) path: &'a Path,
    /// Marks that were found in the binary.
    pub(crate) marks: &'a Marks,
    /// Reads a small file of the process's mount namespace.
    pub(crate) read: &'a dyn Fn(&Path) -> Option<String>,
}

/// Kind of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recognised {
    /// Chooses the causality rules.
    pub(crate) runtime: Runtime,
    /// `telemetry.sdk.language`.
    pub(crate) language: &'static str,
    /// `process.runtime.name`.
    pub(crate) name: Option<&'static str>,
    /// `process.runtime.version`, where reading it costs nearly nothing.
    pub(crate) version: Option<String>,
    /// Whether the arguments name the program that counts.
    pub(crate) is_interpreter: bool,
}

/// Language of a program without any sign: nothing tells what it was written in.
const NATIVE: &str = "native";

/// Sign that an executable is of one kind.
enum Sign {
    /// The binary holds Go's build information.
    Go,
    /// The file has one of these names, a version at its end left out.
    Named(&'static [&'static str]),
    /// A `.runtimeconfig.json` lies beside the executable: a .NET program's own host.
    DotnetHost,
    /// The binary holds tokio's runtime.
    Tokio,
    /// The binary holds Rust's standard library.
    Rust,
}

/// Source of `process.runtime.version`.
#[derive(Clone, Copy)]
enum Version {
    /// None is cheap enough.
    Unread,
    /// The binary's mark.
    InMark,
    /// The file's name: `python3.11`.
    InName,
    /// `release` in the directory above `bin`, as JDKs have it.
    JavaRelease,
}

/// A row of the table.
struct Kind {
    sign: Sign,
    runtime: Runtime,
    language: &'static str,
    name: Option<&'static str>,
    version: Version,
    is_interpreter: bool,
}

/// All kinds; the first row whose sign is there counts. A mark goes before a name: `/opt/node` may be a Go program.
const KINDS: [Kind; 22] = [
    Kind::binary(Sign::Go, Runtime::Go, "go", Some("go")).versioned(Version::InMark),
    interpreter(&["python"], Runtime::Python, "python", "cpython").versioned(Version::InName),
    // PyPy's frames and threads are not CPython's.
    interpreter(&["pypy"], Runtime::Unknown, "python", "pypy"),
    Kind::binary(Sign::Named(&["uwsgi"]), Runtime::Python, "python", Some("cpython")),
    interpreter(&["node", "nodejs"], Runtime::Node, "nodejs", "nodejs"),
    interpreter(&["deno"], Runtime::Node, "nodejs", "deno"),
    interpreter(&["bun"], Runtime::Node, "nodejs", "bun"),
    Kind::binary(Sign::Named(&["java"]), Runtime::Jvm, "java", None)
        .versioned(Version::JavaRelease)
        .interpreting(),
    Kind::binary(Sign::Named(&["jsvc"]), Runtime::Jvm, "java", None),
    interpreter(&["ruby"], Runtime::Ruby, "ruby", "ruby").versioned(Version::InName),
    interpreter(&["truffleruby"], Runtime::Ruby, "ruby", "truffleruby"),
    interpreter(&["php"], Runtime::Php, "php", "cli").versioned(Version::InName),
    interpreter(&["php-cgi"], Runtime::Php, "php", "cgi-fcgi").versioned(Version::InName),
    interpreter(&["php-fpm"], Runtime::Php, "php", "fpm-fcgi").versioned(Version::InName),
    interpreter(&["perl"], Runtime::Unknown, "perl", "perl"),
    interpreter(&["beam.smp", "beam"], Runtime::Beam, "erlang", "BEAM"),
    interpreter(&["dotnet"], Runtime::Dotnet, "dotnet", ".NET"),
    Kind::binary(
        Sign::Named(&["nginx", "angie", "openresty"]),
        Runtime::Nginx,
        "cpp",
        None,
    ),
    // One loop, or one a thread, that works for many requests at once.
    Kind::binary(
        Sign::Named(&[
            "haproxy",
            "envoy",
            "squid",
            "traffic_server",
            "lighttpd",
            "workerd",
            "h2o",
        ]),
        Runtime::Loop,
        "cpp",
        None,
    ),
    Kind::binary(Sign::DotnetHost, Runtime::Dotnet, "dotnet", Some(".NET")),
    Kind::binary(Sign::Tokio, Runtime::Loop, "rust", None),
    Kind::binary(Sign::Rust, Runtime::Unknown, "rust", None),
];

const fn interpreter(
    names: &'static [&'static str],
    runtime: Runtime,
    language: &'static str,
    name: &'static str,
) -> Kind {
    Kind::binary(Sign::Named(names), runtime, language, Some(name)).interpreting()
}

impl Kind {
    const fn binary(sign: Sign, runtime: Runtime, language: &'static str, name: Option<&'static str>) -> Self {
        Self {
            sign,
            runtime,
            language,
            name,
            version: Version::Unread,
            is_interpreter: false,
        }
    }

    const fn versioned(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    const fn interpreting(mut self) -> Self {
        self.is_interpreter = true;
        self
    }
}

/// Recognises an executable by the first row of the table whose sign it shows.
pub(crate) fn recognise(evidence: &Evidence<'_>) -> Recognised {
    let path = evidence.path.to_string_lossy();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let Some(kind) = KINDS.iter().find(|kind| kind.sign.is_shown(evidence, name)) else {
        return Recognised {
            runtime: Runtime::Unknown,
            language: NATIVE,
            name: None,
            version: None,
            is_interpreter: false,
        };
    };
    Recognised {
        runtime: kind.runtime,
        language: kind.language,
        name: kind.name,
        version: kind.version.read(evidence, name),
        is_interpreter: kind.is_interpreter,
    }
}

impl Recognised {
    /// Returns true if nothing told the language, so that a search of the binary may find more marks.
    pub(crate) fn is_bare(&self) -> bool {
        self.language == NATIVE
    }
}

impl Sign {
    fn is_shown(&self, evidence: &Evidence<'_>, name: &str) -> bool {
        match self {
            Self::Go => matches!(evidence.marks, Marks::Go { .. }),
            Self::Named(names) => names.contains(&without_version(name)),
            Self::DotnetHost => is_dotnet_host(evidence),
            Self::Tokio => *evidence.marks == Marks::Tokio,
            Self::Rust => *evidence.marks == Marks::Rust,
        }
    }
}

impl Version {
    fn read(self, evidence: &Evidence<'_>, name: &str) -> Option<String> {
        match self {
            Self::Unread => None,
            Self::InMark => match evidence.marks {
                Marks::Go { version } => version.clone(),
                Marks::None | Marks::Rust | Marks::Tokio => None,
            },
            Self::InName => {
                let version = name.strip_prefix(without_version(name))?.trim_start_matches('-');
                version.contains('.').then(|| version.to_owned())
            }
            Self::JavaRelease => java_version(evidence),
        }
    }
}

/// Returns an interpreter's name without its version: `python3.11` is `python`.
pub(crate) fn without_version(name: &str) -> &str {
    name.trim_end_matches(|byte: char| byte.is_ascii_digit() || byte == '.' || byte == '-')
}

/// Reads the version that a JDK gives in `release`, beside `bin`.
fn java_version(evidence: &Evidence<'_>) -> Option<String> {
    let home = evidence.path.parent()?.parent()?;
    let release = (evidence.read)(&home.join("release"))?;
    let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    Some(version.trim().trim_matches('"').to_owned())
}

/// Returns true if the executable starts a .NET assembly that lies beside it.
fn is_dotnet_host(evidence: &Evidence<'_>) -> bool {
    let mut settings = evidence.path.as_os_str().to_owned();
    settings.push(".runtimeconfig.json");
    evidence.path.is_absolute() && (evidence.read)(Path::new(&settings)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, marks: &Marks, read: &dyn Fn(&Path) -> Option<String>) -> Recognised {
        recognise(&Evidence {
            path: Path::new(path),
            marks,
            read,
        })
    }

    fn of_name(path: &str) -> Recognised {
        of(path, &Marks::None, &|_| None)
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
        assert_eq!(of_name("/usr/bin/python3.11").version.as_deref(), Some("3.11"));
        assert_eq!(of_name("/usr/bin/python3").version, None);
    }

    #[test]
    fn the_binary_goes_before_the_name() {
        let go = Marks::Go {
            version: Some("go1.26".to_owned()),
        };
        let found = of("/opt/node", &go, &|_| None);
        assert_eq!((found.runtime, found.version.as_deref()), (Runtime::Go, Some("go1.26")));
        let found = of("/opt/web", &Marks::Tokio, &|_| None);
        assert_eq!((found.runtime, found.language), (Runtime::Loop, "rust"));
        let found = of("/opt/web", &Marks::Rust, &|_| None);
        assert_eq!((found.runtime, found.language), (Runtime::Unknown, "rust"));
    }

    #[test]
    fn files_beside_the_executable() {
        let release =
            |path: &Path| (path == Path::new("/jdk/release")).then(|| "A=1\nJAVA_VERSION=\"21.0.2\"\n".to_owned());
        let java = of("/jdk/bin/java", &Marks::None, &release);
        assert_eq!(java.version.as_deref(), Some("21.0.2"));
        let settings = |path: &Path| (path == Path::new("/app/Shop.runtimeconfig.json")).then(String::new);
        let dotnet = of("/app/Shop", &Marks::None, &settings);
        assert_eq!(dotnet.runtime, Runtime::Dotnet);
    }
}
