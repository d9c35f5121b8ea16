//! Facts of one process, gathered from `/proc`.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use opentelemetry_semantic_conventions::attribute;
use uuid::Uuid;

use super::{
    Host, ProcRoot, ProcessFacts,
    command::{self, CommandLine, Program, Surroundings, file_name},
    container::{self, Container, Containers},
    environ::Environ,
    executable::{Executable, Executables},
    host,
    peculiar::{self, Peculiarity},
    reader::Identity,
};
use crate::{
    engine::trace::{Attribute, Resource, Value},
    runtimes::{Recognised, without_version},
};

/// The namespace of `service.instance.id` by UUID version 5 (semantic conventions, resource/service).
const INSTANCE_NAMESPACE: Uuid = Uuid::from_u128(0x4d63009a_8d0f_11ee_aad7_4c796ed8e320);
/// Directories above a script that may hold its `package.json`.
const PACKAGE_LEVELS: usize = 6;
/// Upper bound on bytes of a `package.json`.
const PACKAGE_BYTES: u64 = 256 << 10;
/// Upper bound on bytes of a container's list of users.
const PASSWD_BYTES: u64 = 64 << 10;
/// Longest value of an attribute, in bytes; a longer one ends in `…`.
const VALUE_BYTES: usize = 4096;
/// Longer keys from a process's environment are no attributes.
const KEY_BYTES: usize = 256;
/// Upper bound on attributes that are taken from a process's environment.
const DECLARED_ATTRIBUTES: usize = 128;
/// Attributes that belong to one process, and are not passed on to a fork.
const OWN_KEYS: [&str; 5] = [
    attribute::PROCESS_PID,
    attribute::PROCESS_PARENT_PID,
    attribute::PROCESS_COMMAND,
    attribute::PROCESS_OWNER,
    attribute::SERVICE_INSTANCE_ID,
];

/// Report of the kernel at an exec. It names a process that ended before it could be looked at, or that has written a
/// title over its command line since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecHint {
    /// The command's name, at most 15 bytes.
    pub comm: String,
    /// The arguments, each ended by a NUL byte; may be cut off.
    pub cmdline: Vec<u8>,
    /// The environment, likewise.
    pub environ: Vec<u8>,
}

/// Gatherer of facts. Keeps facts about executables and containers between processes.
#[derive(Debug)]
pub struct Gatherer {
    root: ProcRoot,
    host: Host,
    executables: Executables,
    containers: Containers,
    /// The process that was gathered last is a 32-bit program.
    is_32_bit: bool,
}

/// Command line, environment and executable of a process, as far as they could be read.
struct Memory {
    exe: Option<PathBuf>,
    line: CommandLine,
    environ: Environ,
    identity: Option<Identity>,
    /// The process's memory is gone, in part or whole.
    is_ending: bool,
}

/// Container or unit of a process.
#[derive(Default)]
struct Place {
    container_id: Option<String>,
    container: Container,
    pod_uid: Option<String>,
    /// The name that the place gives to the service.
    service: Option<String>,
}

impl Gatherer {
    /// Reads the facts of the host at once.
    pub fn new(root: ProcRoot) -> Self {
        Self {
            host: Host::read(&root),
            root,
            executables: Executables::default(),
            containers: Containers::default(),
            is_32_bit: false,
        }
    }

    /// Returns what hides traffic of the process that was gathered last.
    pub fn peculiarities(&self, tgid: u32) -> Vec<Peculiarity> {
        peculiar::of_program(&self.root, tgid, self.is_32_bit)
    }

    /// Returns the facts of the host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Gathers the facts of a process: to be called when it is first seen, and again after an exec.
    ///
    /// Never fails: for a process that is gone, the hint and the parent are all that is known.
    ///
    /// `parent` are the facts of the process that it was forked from. They count if the process still runs the same
    /// executable, and either wrote a title over its own environment (workers of nginx, gunicorn, PostgreSQL) or is
    /// ending, so that its command line or its environment is gone (a child for each connection).
    pub fn gather(&mut self, tgid: u32, hint: Option<&ExecHint>, parent: Option<&ProcessFacts>) -> ProcessFacts {
        let memory = Memory::read(&self.root, tgid, hint);
        self.is_32_bit = false;
        let parent = parent.filter(|parent| memory.is_fork_of(parent, hint));
        if let Some(parent) = parent.filter(|_| memory.environ.service_name().is_none()) {
            return self.fork_of(parent, tgid, &memory.line);
        }
        self.describe(tgid, &memory, hint)
    }

    /// Describes a process by its own executable, container, command line and environment.
    fn describe(&mut self, tgid: u32, memory: &Memory, hint: Option<&ExecHint>) -> ProcessFacts {
        let path = memory.path();
        let path_or_none = path.unwrap_or(Path::new(""));
        let executable = self
            .executables
            .describe(&self.root, tgid, memory.identity, path_or_none);
        self.is_32_bit = executable.is_32_bit;
        let place = self.place(tgid);
        let service_name = bounded(
            self.service_name(tgid, memory, &executable, place.service.as_deref(), hint)
                // The conventions' name of a service without one.
                .unwrap_or_else(|| "unknown_service".to_owned()),
        );

        let Memory { exe, line, environ, .. } = memory;
        let mut attributes = vec![Attribute::str(attribute::SERVICE_NAME, service_name.clone())];
        attributes.extend(self.of_process(tgid, line, place.container_id.is_some()));
        attributes.extend(path.into_iter().flat_map(|path| of_path(path, exe.is_some())));
        attributes.extend(of_runtime(&executable.kind));
        attributes.extend(place.attributes());
        attributes.extend_from_slice(self.host.attributes());
        declare(&mut attributes, environ);
        attributes.extend([
            Attribute::str(attribute::TELEMETRY_SDK_NAME, "spoor"),
            Attribute::str(attribute::TELEMETRY_SDK_VERSION, env!("CARGO_PKG_VERSION")),
            Attribute::str(attribute::TELEMETRY_SDK_LANGUAGE, executable.kind.language),
        ]);
        ProcessFacts {
            tgid,
            runtime: executable.kind.runtime.with_arguments(&line.arguments),
            resource: Arc::new(Resource {
                service_name,
                attributes,
            }),
        }
    }

    /// Returns the service's name by the first that has one: the user's declaration, the place, the program that the
    /// command line names, the executable, the kernel.
    fn service_name(
        &self,
        tgid: u32,
        memory: &Memory,
        executable: &Executable,
        of_place: Option<&str>,
        hint: Option<&ExecHint>,
    ) -> Option<String> {
        let Memory { line, environ, .. } = memory;
        let path = memory.path();
        // An argument of no bytes, or a file called `.dll`, only looks like a name.
        let is_name = |name: &String| !name.is_empty();
        let declared = environ.service_name().or_else(|| of_place.map(str::to_owned));
        declared
            .filter(is_name)
            .or_else(|| self.program(tgid, line, path, environ).name.filter(is_name))
            .or_else(|| name_of_executable(path?, executable, line))
            .or_else(|| self.comm(tgid, hint))
    }

    fn comm(&self, tgid: u32, hint: Option<&ExecHint>) -> Option<String> {
        let at_exec = hint.map(|hint| hint.comm.clone()).filter(|comm| !comm.is_empty());
        let comm = at_exec.or_else(|| self.root.small(tgid, "comm"))?;
        let comm = comm.trim_matches(['\0', '\n', ' ']);
        (!comm.is_empty()).then(|| comm.to_owned())
    }

    /// Returns the parent's facts, with the process's own in place of those that differ.
    fn fork_of(&self, parent: &ProcessFacts, tgid: u32, line: &CommandLine) -> ProcessFacts {
        // An instance id that is not ours was given by the user, for all processes.
        let given = text_of(parent, attribute::SERVICE_INSTANCE_ID)
            .filter(|id| Uuid::parse_str(id).map_or(true, |id| id.get_version_num() != 5))
            .map(|id| Attribute::str(attribute::SERVICE_INSTANCE_ID, id.to_owned()));
        let is_contained = text_of(parent, attribute::CONTAINER_ID).is_some();
        let mut own = self.of_process(tgid, line, is_contained);
        if let Some(given) = given {
            own.retain(|attribute| attribute.key != attribute::SERVICE_INSTANCE_ID);
            own.push(given);
        }
        let passed_on = parent
            .resource
            .attributes
            .iter()
            .filter(|attribute| !OWN_KEYS.contains(&&*attribute.key));
        ProcessFacts {
            tgid,
            runtime: parent.runtime,
            resource: Arc::new(Resource {
                service_name: parent.resource.service_name.clone(),
                attributes: passed_on.cloned().chain(own).collect(),
            }),
        }
    }

    /// Returns the attributes of `OWN_KEYS`.
    fn of_process(&self, tgid: u32, line: &CommandLine, is_contained: bool) -> Vec<Attribute> {
        let mut attributes = vec![Attribute::int(attribute::PROCESS_PID, tgid.into())];
        if let Some(stat) = self.root.stat(tgid) {
            let name = format!("{}:{tgid}:{}", self.host.boot_id, stat.start_ticks);
            let id = Uuid::new_v5(&INSTANCE_NAMESPACE, name.as_bytes());
            attributes.push(Attribute::str(attribute::SERVICE_INSTANCE_ID, id.to_string()));
            attributes.push(Attribute::int(attribute::PROCESS_PARENT_PID, stat.parent.into()));
        }
        // Only the first argument, the program's name, is exported: the others may hold secrets.
        if let Some(command) = line.arguments.first().filter(|_| !line.is_title) {
            attributes.push(Attribute::str(attribute::PROCESS_COMMAND, bounded(command.clone())));
        }
        attributes.extend(
            self.owner(tgid, is_contained)
                .map(|owner| Attribute::str(attribute::PROCESS_OWNER, owner)),
        );
        attributes
    }

    /// Returns the user's name, or its id where there is no name.
    fn owner(&self, tgid: u32, is_contained: bool) -> Option<String> {
        let status = self.root.small(tgid, "status")?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // Real, effective, saved, file system.
        let id: u32 = ids.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let name = if !is_contained {
            self.host.user(id).map(str::to_owned)
        } else if self.root.namespace(tgid, "user") == self.root.host_namespace("user") {
            let passwd = self.root.file_of(tgid, Path::new("/etc/passwd"), PASSWD_BYTES);
            passwd.and_then(|bytes| host::users(&String::from_utf8_lossy(&bytes)).remove(&id))
        } else {
            // The container's names belong to ids of its own user namespace.
            None
        };
        Some(name.unwrap_or_else(|| id.to_string()))
    }

    fn place(&mut self, tgid: u32) -> Place {
        let Some(cgroup) = self.root.small(tgid, "cgroup") else {
            return Place::default();
        };
        let Some(id) = container::id_of(&self.root, tgid, &cgroup) else {
            let unit = container::unit(&cgroup).filter(|unit| self.host.own_unit.as_ref() != Some(unit));
            return Place {
                service: unit,
                ..Place::default()
            };
        };
        let container = self.containers.describe(&self.root, &id, Instant::now());
        let is_own = self.host.own_container.as_ref() == Some(&id);
        let service = container
            .service
            .clone()
            .or_else(|| container.name.clone())
            .filter(|_| !is_own);
        Place {
            pod_uid: container::pod_uid(&cgroup),
            container_id: Some(id),
            container,
            service,
        }
    }

    fn program(&self, tgid: u32, line: &CommandLine, exe: Option<&Path>, environ: &Environ) -> Program {
        let directory = self.root.cwd(tgid);
        let around = Surroundings {
            exe,
            directory: directory.as_deref(),
            package_name: &|path| {
                let start = directory.as_deref().unwrap_or(Path::new("")).join(path);
                start
                    .ancestors()
                    .take(PACKAGE_LEVELS)
                    .find_map(|directory| self.package_name(tgid, directory))
            },
            variable: &|key| environ.value(key).map(str::to_owned),
        };
        command::program(line, &around)
    }

    fn package_name(&self, tgid: u32, directory: &Path) -> Option<String> {
        let file = self
            .root
            .file_of(tgid, &directory.join("package.json"), PACKAGE_BYTES)?;
        let package: serde_json::Value = serde_json::from_slice(&file).ok()?;
        package
            .get("name")?
            .as_str()
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
    }
}

impl Place {
    fn attributes(&self) -> Vec<Attribute> {
        let pod = self.container.pod.as_ref();
        let in_pod = pod.and(self.container.service.as_ref());
        let texts = [
            (attribute::CONTAINER_ID, self.container_id.as_ref()),
            (attribute::CONTAINER_NAME, self.container.name.as_ref()),
            (attribute::CONTAINER_IMAGE_NAME, self.container.image.as_ref()),
            (attribute::K8S_NAMESPACE_NAME, pod.map(|pod| &pod.namespace)),
            (attribute::K8S_POD_NAME, pod.map(|pod| &pod.name)),
            (
                attribute::K8S_POD_UID,
                pod.and_then(|pod| pod.uid.as_ref()).or(self.pod_uid.as_ref()),
            ),
            (attribute::K8S_CONTAINER_NAME, in_pod),
        ];
        texts
            .into_iter()
            .filter_map(|(key, text)| Some(Attribute::str(key, text?.clone())))
            .collect()
    }
}

impl Memory {
    fn read(root: &ProcRoot, tgid: u32, hint: Option<&ExecHint>) -> Self {
        let exe = root.exe(tgid);
        let (command_line, environment, identity) = root.memory_and_identity(tgid);
        let line = known_line(command_line.as_deref().unwrap_or_default(), exe.as_deref(), hint);
        let mut environ = Environ::parse(environment.as_deref().unwrap_or_default());
        if let Some(hint) = hint
            // It may be gone, have written over its environment, or just be in its exec.
            && (environ.is_overwritten || environ.service_name().is_none())
        {
            environ = Environ::parse(&hint.environ);
        }
        // exit_mm() may come between two reads. Those behind it find nothing, and one alone would name another service.
        let is_gone = |memory: Option<&[u8]>| memory.is_none_or(<[u8]>::is_empty);
        let is_ending = hint.is_none() && (is_gone(command_line.as_deref()) || is_gone(environment.as_deref()));
        Self {
            exe,
            line,
            environ,
            identity,
            is_ending,
        }
    }

    /// Returns the executable's path, or else the program's name in the command line.
    fn path(&self) -> Option<&Path> {
        let named = || self.line.arguments.first().filter(|_| !self.line.is_title);
        self.exe.as_deref().or_else(|| named().map(Path::new))
    }

    /// Returns true if a process is a fork of its parent that says nothing of its own.
    fn is_fork_of(&self, parent: &ProcessFacts, hint: Option<&ExecHint>) -> bool {
        let has_title = self.environ.is_overwritten || self.line.is_title;
        match &self.exe {
            Some(exe) => {
                let of_parent = text_of(parent, attribute::PROCESS_EXECUTABLE_PATH);
                (has_title || self.is_ending) && of_parent == exe.to_str()
            }
            None => hint.is_none(),
        }
    }
}

/// Returns the attributes of an executable's path. A path that only the command line gives may be relative.
fn of_path(path: &Path, is_known: bool) -> Vec<Attribute> {
    let path = path.to_string_lossy().into_owned();
    let name = Attribute::str(attribute::PROCESS_EXECUTABLE_NAME, file_name(&path).to_owned());
    let path = is_known.then(|| Attribute::str(attribute::PROCESS_EXECUTABLE_PATH, path));
    [name].into_iter().chain(path).collect()
}

fn of_runtime(kind: &Recognised) -> impl Iterator<Item = Attribute> {
    let name = kind
        .name
        .map(|name| Attribute::str(attribute::PROCESS_RUNTIME_NAME, name));
    let version = kind.version.clone();
    let version = version.map(|version| Attribute::str(attribute::PROCESS_RUNTIME_VERSION, version));
    name.into_iter().chain(version)
}

/// Adds the attributes that the user declared in the process's environment. They override observed ones.
fn declare(attributes: &mut Vec<Attribute>, environ: &Environ) {
    for (key, value) in environ.resource_attributes().into_iter().take(DECLARED_ATTRIBUTES) {
        if key.len() > KEY_BYTES || key == attribute::SERVICE_NAME || key.starts_with("telemetry.sdk.") {
            continue;
        }
        attributes.retain(|attribute| attribute.key != key);
        attributes.push(Attribute {
            key: Cow::Owned(key),
            value: Value::Str(bounded(value).into()),
        });
    }
}

/// Returns the command line that /proc shows, or the one seen at exec where /proc shows a title or nothing.
fn known_line(now: &[u8], exe: Option<&Path>, hint: Option<&ExecHint>) -> CommandLine {
    let now = CommandLine::parse(now, exe);
    let at_exec = hint.map(|hint| CommandLine::parse(&hint.cmdline, exe));
    match at_exec {
        Some(at_exec) if (now.is_title || now.arguments.is_empty()) && !at_exec.arguments.is_empty() => at_exec,
        _ => now,
    }
}

/// Returns the executable's file name: without the version for an interpreter, the name that it was called by for a
/// binary that is many programs.
fn name_of_executable(path: &Path, executable: &Executable, line: &CommandLine) -> Option<String> {
    let path = path.to_string_lossy();
    let file = file_name(&path);
    // The kernel's name for memory that a program made by memfd_create(2) and runs from.
    let file = file.strip_prefix("memfd:").map_or(file, without_number);
    let name = match (file, line.arguments.first()) {
        (name, _) if executable.kind.is_interpreter => without_version(name),
        ("busybox" | "coreutils" | "toybox", Some(called)) => file_name(called),
        (name, _) => name,
    };
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// Returns the name without a number behind it that another start would change; a short one may be a version.
fn without_number(name: &str) -> &str {
    const LEAST_DIGITS: usize = 4;
    match name.rsplit_once('-') {
        Some((stem, number)) if number.len() >= LEAST_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            stem
        }
        _ => name,
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > VALUE_BYTES {
        text.truncate(text.floor_char_boundary(VALUE_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn text_of<'a>(facts: &'a ProcessFacts, key: &str) -> Option<&'a str> {
    let attribute = facts
        .resource
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    match &attribute.value {
        Value::Str(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
