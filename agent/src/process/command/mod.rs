//! Names of programs from command lines: script, module, jar, package or binary.

use std::path::{Path, PathBuf};

use super::ProcRoot;
use crate::runtimes::without_version;

/// Command line, or the title that the process put in its place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    pub(super) arguments: Vec<String>,
    /// One text with blanks where arguments should be: `nginx: worker process`.
    pub(super) is_title: bool,
}

/// Program that a command line runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// The best name, if the command line has a better one than the executable's.
    pub(super) name: Option<String>,
    /// The script or jar, as it was given.
    pub(super) script: Option<String>,
}

/// Further sources of a name, beside the command line.
pub(super) struct Surroundings<'a> {
    /// The executable's path in the process's mount namespace.
    pub(super) exe: Option<&'a Path>,
    /// The working directory.
    pub(super) directory: Option<&'a Path>,
    /// The `name` of the nearest `package.json` in this directory or above it (relative ones are below the working
    /// directory).
    pub(super) package_name: &'a dyn Fn(&Path) -> Option<String>,
    /// A variable of the environment.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Programs that run the module, script or application that their arguments name.
const PYTHON_SERVERS: [&str; 9] = [
    "gunicorn",
    "uvicorn",
    "hypercorn",
    "daphne",
    "granian",
    "waitress-serve",
    "uwsgi",
    "pserve",
    "chaussette",
];
/// Programs that run the application in the working directory.
const DIRECTORY_SERVERS: [&str; 13] = [
    "puma",
    "rails",
    "rackup",
    "unicorn",
    "thin",
    "falcon",
    "sidekiq",
    "passenger",
    "artisan",
    "console",
    "manage",
    "rake",
    "hanami",
];
/// Python modules that say how a package is served, not which.
const ENTRY_MODULES: [&str; 2] = ["wsgi", "asgi"];
/// Beginnings of paths that name an open file by its descriptor (proc_pid_fd(5)).
const DESCRIPTORS: [&str; 3] = ["/dev/fd/", "/dev/stdin", "/proc/self/fd/"];
/// Names of scripts that say nothing about the application they start.
const ENTRY_SCRIPTS: [&str; 3] = ["index", "server", "main"];

impl CommandLine {
    /// Parses `/proc/PID/cmdline`. With the executable's path, a title can be told from a path with blanks.
    pub(super) fn parse(bytes: &[u8], exe: Option<&Path>) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\0');
        let arguments: Vec<String> = match text {
            "" => Vec::new(),
            text => text.split('\0').map(str::to_owned).collect(),
        };
        let is_title = match arguments.as_slice() {
            [only] => {
                only.trim_end().contains(' ') && exe.is_none_or(|exe| !exe.ends_with(only.trim_start_matches('/')))
            }
            // A title that is shorter than what it overwrote, followed by the rest of that.
            [first, ..] => first.contains(": ") && exe.is_none_or(|exe| !exe.ends_with(first.trim_start_matches('/'))),
            [] => false,
        };
        Self { arguments, is_title }
    }
}

/// Returns the path of the script, jar or assembly that an interpreter runs. `exe` is the interpreter.
pub(crate) fn script_of(root: &ProcRoot, tgid: u32, exe: &Path) -> Option<PathBuf> {
    let line = CommandLine::parse(&root.cmdline(tgid)?, Some(exe));
    let around = Surroundings {
        exe: Some(exe),
        directory: None,
        package_name: &|_| None,
        variable: &|_| None,
    };
    let script = program(&line, &around).script?;
    let directory = root.cwd(tgid).unwrap_or_default();
    // Without the `.` components that `./app.py` would leave.
    Some(directory.join(script).components().collect())
}

/// Returns the program behind a command line.
pub(super) fn program(line: &CommandLine, around: &Surroundings) -> Program {
    let exe = around.exe.map(|exe| exe.to_string_lossy().into_owned());
    if line.is_title {
        return title(
            line.arguments.first().map_or("", String::as_str),
            exe.as_deref(),
            around,
        );
    }
    let arguments: Vec<&str> = line.arguments.iter().map(String::as_str).collect();
    let Some((&first, rest)) = arguments.split_first() else {
        return Program::default();
    };
    let exe = exe.as_deref().unwrap_or(first);
    if file_name(exe).starts_with("ld-") && exe.contains(".so") {
        // The dynamic linker, called with the program.
        return match positional(rest, &["--library-path", "--argv0", "--preload", "--audit"]) {
            Some((program, rest)) => interpreted(file_name(program), rest, around).unwrap_or_else(|| Program {
                name: Some(file_name(program).to_owned()),
                script: None,
            }),
            None => Program::default(),
        };
    }
    interpreted(file_name(exe), rest, around).unwrap_or_default()
}

fn interpreted(name: &str, rest: &[&str], around: &Surroundings) -> Option<Program> {
    Some(match without_version(name) {
        "python" | "pypy" => python(rest, around),
        "node" | "nodejs" => node(rest, around),
        "deno" | "bun" => match rest.split_first() {
            Some((&("run" | "serve" | "task"), rest)) => node(rest, around),
            _ => node(rest, around),
        },
        "java" => java(rest),
        "ruby" | "jruby" | "truffleruby" => ruby(rest, around),
        "php" | "php-cgi" => php(rest, around),
        "perl" => scripted(rest, &["-I", "-e", "-E"], &["-e", "-E"], around),
        "dotnet" => dotnet(rest),
        "beam.smp" | "beam" => beam(rest, around),
        "sh" | "bash" | "dash" | "zsh" | "ash" => scripted(rest, &["-o", "-O", "-c"], &["-c"], around),
        "uwsgi" => python_server("uwsgi", rest, around),
        _ => return None,
    })
}

fn python(mut rest: &[&str], around: &Surroundings) -> Program {
    while let Some((&argument, tail)) = rest.split_first() {
        if argument == "--check-hash-based-pycs" {
            rest = tail.get(1..).unwrap_or_default();
            continue;
        }
        let Some(flags) = argument
            .strip_prefix('-')
            .filter(|flags| !flags.is_empty() && !flags.starts_with('-'))
        else {
            if argument.starts_with("--") {
                rest = tail;
                continue;
            }
            break;
        };
        // Flags may be joined (`-um module`). The last may take the rest of the word, or the next word.
        rest = tail;
        if let Some(at) = flags.find(['m', 'c', 'W', 'X']) {
            let (flag, attached) = (&flags[at..=at], &flags[at + 1..]);
            let mut value = Some(attached).filter(|value| !value.is_empty());
            if value.is_none() {
                value = tail.first().copied();
                rest = tail.get(1..).unwrap_or_default();
            }
            match flag {
                "m" => return value.map_or_else(Program::default, |module| python_module(module, rest, around)),
                "c" => return Program::default(),
                _ => {}
            }
        }
    }
    let Some((&script, rest)) = rest.split_first().filter(|(script, _)| **script != "-") else {
        return Program::default();
    };
    let stem = stem(script);
    let mut program = if is_python_launcher(stem) {
        python_server(stem, rest, around)
    } else {
        Program::default()
    };
    program.name = program.name.or_else(|| name_of_script(script, around));
    program.script = Some(script.to_owned());
    program
}

fn python_module(module: &str, rest: &[&str], around: &Surroundings) -> Program {
    let first = module.split('.').next().unwrap_or(module);
    if is_python_launcher(first) {
        return python_server(first, rest, around);
    }
    named(module.strip_suffix(".__main__").unwrap_or(module))
}

fn is_python_launcher(name: &str) -> bool {
    PYTHON_SERVERS.contains(&name) || matches!(name, "flask" | "fastapi" | "celery" | "streamlit")
}

/// Returns the application that a Python server is started with.
fn python_server(server: &str, rest: &[&str], around: &Surroundings) -> Program {
    let option = |names: &[&str]| {
        rest.iter()
            .enumerate()
            .find_map(|(index, argument)| match argument.split_once('=') {
                Some((name, value)) => names.contains(&name).then_some(value),
                None => names.contains(argument).then(|| rest.get(index + 1).copied()).flatten(),
            })
    };
    let application = match server {
        "flask" => option(&["--app", "-A"])
            .map(str::to_owned)
            .or_else(|| (around.variable)("FLASK_APP")),
        "celery" => option(&["--app", "-A"]).map(str::to_owned),
        "fastapi" | "streamlit" => positional(rest.get(1..).unwrap_or_default(), &["--host", "--port", "--app"])
            .map(|(script, _)| script.to_owned()),
        "uwsgi" => option(&["--module", "-w", "--wsgi-file", "--wsgi"]).map(str::to_owned),
        _ => rest
            .iter()
            .find(|argument| is_application(argument))
            .map(|found| (*found).to_owned())
            .or_else(|| {
                // `gunicorn wsgi`, `uvicorn --reload shop`: the last word, unless it is an option's value.
                let (last, before) = rest.split_last()?;
                let is_value = before
                    .last()
                    .is_some_and(|before| before.starts_with('-') && !before.contains('='));
                (!last.starts_with('-') && !is_value).then(|| (*last).to_owned())
            }),
    };
    match application {
        Some(application) => named(module_name(&application)),
        None => named(server),
    }
}

/// Returns true for `package.module:attribute`; an address (`localhost:8000`, `unix:/run/x`) is no application.
fn is_application(argument: &str) -> bool {
    let is_identifier = |text: &str| {
        text.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && text
                .chars()
                .all(|character| character.is_alphanumeric() || character == '_')
    };
    argument.split_once(':').is_some_and(|(module, attribute)| {
        let attribute = attribute.split('(').next().unwrap_or_default();
        module.split('.').all(is_identifier) && attribute.split('.').all(is_identifier)
    })
}

/// Returns the module's name: `shop` for `shop.wsgi:application` and for `web/shop.py`.
fn module_name(application: &str) -> &str {
    let module = application.split(':').next().unwrap_or(application);
    let module = if module.contains('/') || module.ends_with(".py") {
        stem(module)
    } else {
        module
    };
    match module.rsplit_once('.') {
        Some((package, last)) if ENTRY_MODULES.contains(&last) => package,
        _ => module,
    }
}

fn node(rest: &[&str], around: &Surroundings) -> Program {
    const WITH_VALUE: [&str; 14] = [
        "-r",
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "-C",
        "--conditions",
        "--env-file",
        "--config",
        "--port",
        "--host",
        "--title",
        "--inspect-port",
        "-c",
    ];
    if rest
        .iter()
        .any(|argument| matches!(*argument, "-e" | "--eval" | "-p" | "--print"))
    {
        return Program::default();
    }
    let Some((script, _)) = positional(rest, &WITH_VALUE) else {
        return Program::default();
    };
    let stem = stem(script);
    let package = if script.contains("node_modules/") {
        // A tool of the package that is in the working directory.
        (around.package_name)(Path::new(""))
    } else if ENTRY_SCRIPTS.contains(&stem) {
        (around.package_name)(Path::new(script).parent().unwrap_or(Path::new("")))
    } else if !file_name(script).contains('.') || stem.is_empty() {
        // A directory: `node .`, `node dist`.
        (around.package_name)(Path::new(script))
    } else {
        None
    };
    Program {
        name: package.or_else(|| name_of_script(script, around)),
        script: Some(script.to_owned()),
    }
}

fn java(rest: &[&str]) -> Program {
    const WITH_VALUE: [&str; 11] = [
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--add-opens",
        "--add-modules",
        "--add-exports",
        "--add-reads",
        "--upgrade-module-path",
        "--source",
    ];
    let mut arguments = rest.iter();
    while let Some(&argument) = arguments.next() {
        match argument {
            "-jar" => {
                return arguments.next().map_or_else(Program::default, |jar| Program {
                    name: Some(without_release(stem(jar)).to_owned()),
                    script: Some((*jar).to_owned()),
                });
            }
            "-m" | "--module" => {
                return arguments
                    .next()
                    .map_or_else(Program::default, |module| named(class(module)));
            }
            _ if WITH_VALUE.contains(&argument) => {
                arguments.next();
            }
            _ if argument.starts_with('-') || argument.starts_with('@') => {}
            _ if argument.ends_with(".java") => {
                return Program {
                    name: Some(stem(argument).to_owned()),
                    script: Some(argument.to_owned()),
                };
            }
            _ => return named(class(argument)),
        }
    }
    Program::default()
}

/// Returns the last part of `module/package.Class`.
fn class(name: &str) -> &str {
    name.rsplit(['.', '/']).next().unwrap_or(name)
}

/// Returns a jar's name without its release: `shop` for `shop-1.2.3-SNAPSHOT`. A service keeps its name from release to
/// release.
fn without_release(stem: &str) -> &str {
    let release = stem.match_indices('-').find(|(at, _)| {
        let version = &stem[at + 1..];
        version.starts_with(|first: char| first.is_ascii_digit()) && version.contains('.')
    });
    match release {
        Some((at @ 1.., _)) => &stem[..at],
        _ => stem,
    }
}

fn ruby(rest: &[&str], around: &Surroundings) -> Program {
    scripted(rest, &["-I", "-r", "-C", "-e", "-E", "-x"], &["-e"], around)
}

fn php(rest: &[&str], around: &Surroundings) -> Program {
    const WITH_VALUE: [&str; 6] = ["-d", "-c", "-z", "-S", "-t", "-r"];
    let value = |flag: &str| {
        let at = rest.iter().position(|argument| *argument == flag)?;
        rest.get(at + 1).copied()
    };
    let is_server = rest.contains(&"-S");
    let script = value("-f").or_else(|| positional(rest, &WITH_VALUE).map(|(script, _)| script));
    let script = script.filter(|_| !rest.contains(&"-r"));
    let name = match script {
        Some(script) => name_of_script(script, around),
        None if is_server => name_of_directory(Path::new(value("-t").unwrap_or("")), around),
        None => None,
    };
    Program {
        name,
        script: script.map(str::to_owned),
    }
}

fn dotnet(rest: &[&str]) -> Program {
    let assembly = rest.iter().find(|argument| argument.ends_with(".dll"));
    assembly.map_or_else(Program::default, |assembly| Program {
        name: Some(file_name(assembly).trim_end_matches(".dll").to_owned()),
        script: Some((*assembly).to_owned()),
    })
}

fn beam(rest: &[&str], around: &Surroundings) -> Program {
    let node = rest
        .iter()
        .position(|argument| matches!(*argument, "-sname" | "-name"))
        .and_then(|at| rest.get(at + 1));
    let node = node.and_then(|node| node.split('@').next()).map(str::to_owned);
    Program {
        name: (around.variable)("RELEASE_NAME").or(node),
        script: None,
    }
}

fn scripted(rest: &[&str], with_value: &[&str], inline: &[&str], around: &Surroundings) -> Program {
    if rest
        .iter()
        .take_while(|argument| argument.starts_with('-'))
        .any(|argument| inline.contains(argument))
    {
        return Program::default();
    }
    match positional(rest, with_value) {
        Some((script, rest)) if file_name(script) == "plackup" || file_name(script) == "starman" => {
            let application = rest.iter().find(|argument| argument.ends_with(".psgi"));
            Program {
                name: name_of_script(application.unwrap_or(&script), around),
                script: Some(script.to_owned()),
            }
        }
        Some((script, _)) => Program {
            name: name_of_script(script, around),
            script: Some(script.to_owned()),
        },
        None => Program::default(),
    }
}

/// Returns a script's name without its ending, or the name of its directory if the script only says how it is started.
/// A script that is read from a descriptor has none.
fn name_of_script(script: &str, around: &Surroundings) -> Option<String> {
    if DESCRIPTORS.iter().any(|place| script.starts_with(place)) {
        return None;
    }
    let stem = stem(script);
    let name = if DIRECTORY_SERVERS.contains(&stem) {
        name_of_directory(Path::new(""), around)
    } else if matches!(stem, "__main__" | "index" | "" | "." | "..") {
        name_of_directory(Path::new(script).parent().unwrap_or(Path::new("")), around)
    } else {
        None
    };
    name.or_else(|| Some(stem.to_owned()).filter(|stem| stem.chars().any(char::is_alphanumeric)))
}

fn name_of_directory(directory: &Path, around: &Surroundings) -> Option<String> {
    let directory = around.directory.unwrap_or(Path::new("")).join(directory);
    // `.` components are left out, `..` is not a name.
    let last = directory.components().next_back()?;
    matches!(last, std::path::Component::Normal(_)).then(|| last.as_os_str().to_string_lossy().into_owned())
}

/// Returns the name in a process title.
fn title(title: &str, exe: Option<&str>, around: &Surroundings) -> Program {
    let words: Vec<&str> = title.split_whitespace().collect();
    let Some((&first, rest)) = words.split_first() else {
        return Program::default();
    };
    // PM2 and others write the command line anew, as one text.
    let runs_script = rest
        .first()
        .is_some_and(|word| word.contains('/') || word.contains('.'));
    let is_own = exe.is_some_and(|exe| without_version(file_name(exe)) == without_version(file_name(first)));
    let program = (runs_script && is_own)
        .then(|| interpreted(file_name(first), rest, around))
        .flatten();
    if let Some(program) = program.filter(|program| program.name.is_some()) {
        return program;
    }
    let server = file_name(first).trim_end_matches(':');
    let in_brackets = || {
        let (_, tail) = title.trim_end().strip_suffix(']')?.rsplit_once('[')?;
        let is_name = tail.starts_with(|first: char| first.is_alphabetic() || first == '_') && !tail.contains(' ');
        is_name.then_some(tail)
    };
    let name = match server {
        "gunicorn" => in_brackets().map(module_name),
        "puma" => in_brackets(),
        // `sidekiq 6.5.0 shop [0 of 5 busy]`
        "sidekiq" => rest.get(1).copied().filter(|tag| !tag.starts_with('[')),
        _ => None,
    };
    named(name.unwrap_or(server))
}

/// Returns the first argument that is neither an option nor an option's value, and the arguments behind it.
fn positional<'a, 'b>(rest: &'b [&'a str], with_value: &[&str]) -> Option<(&'a str, &'b [&'a str])> {
    let mut index = 0;
    while let Some(&argument) = rest.get(index) {
        index += 1;
        if argument == "--" {
            continue;
        }
        if with_value.contains(&argument) {
            index += 1;
        } else if !argument.starts_with('-') {
            return Some((argument, rest.get(index..).unwrap_or_default()));
        }
    }
    None
}

fn named(name: &str) -> Program {
    Program {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        script: None,
    }
}

/// Returns the last part of a path.
pub(super) fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// Returns a file's name without its ending.
fn stem(path: &str) -> &str {
    let name = file_name(path);
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests;
