//! Facts of the host, which all resources share, read once.

use std::{collections::HashMap, path::Path};

use opentelemetry_semantic_conventions::attribute;

use super::{
    container,
    proc_root::{ProcRoot, read_small},
};
use crate::engine::trace::Attribute;

/// Host that the agent runs on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `host.*` and `os.*`.
    attributes: Vec<Attribute>,
    /// Names a boot: a process id and a start time are unique within it.
    pub(super) boot_id: String,
    /// The host's users.
    users: HashMap<u32, String>,
    /// The systemd unit and the container that the agent itself runs in. What it shares with a process says who
    /// started both (a CI runner, a development container), not what the process is.
    pub(super) own_unit: Option<String>,
    pub(super) own_container: Option<String>,
}

impl Host {
    /// Reads the host's name, id and users; the host's own files count, not those of the agent's container.
    pub fn read(root: &ProcRoot) -> Self {
        let line_of = |text: String| {
            let line = text
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with('#'))?;
            Some(line.to_owned())
        };
        let first_line = |path: &Path| line_of(read_small(path)?);
        let host_line = |path: &str| line_of(root.host_text(path)?);
        let kernel_name = || first_line(&root.path("sys/kernel/hostname"));
        let own_uts = std::fs::read_link(root.path("self/ns/uts")).ok();
        let is_host_uts = own_uts.is_some() && own_uts == root.host_namespace("uts");
        let name = if is_host_uts {
            kernel_name()
        } else {
            host_line("/etc/hostname").or_else(kernel_name)
        };
        // The conventions' names of architectures are not Rust's.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut attributes = Vec::new();
        attributes.extend(name.map(|name| Attribute::str(attribute::HOST_NAME, name)));
        attributes.extend(host_line("/etc/machine-id").map(|id| Attribute::str(attribute::HOST_ID, id)));
        attributes.push(Attribute::str(attribute::HOST_ARCH, arch));
        attributes.push(Attribute::str(attribute::OS_TYPE, "linux"));

        let own_cgroup = read_small(&root.path("self/cgroup")).unwrap_or_default();
        Self {
            attributes,
            boot_id: first_line(&root.path("sys/kernel/random/boot_id")).unwrap_or_default(),
            users: root
                .host_text("/etc/passwd")
                .map(|text| users(&text))
                .unwrap_or_default(),
            own_unit: container::unit(&own_cgroup),
            own_container: container::container_id(&own_cgroup).map(str::to_owned),
        }
    }

    /// Returns `host.*` and `os.*`, for resources that are not a process's.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    pub(super) fn user(&self, id: u32) -> Option<&str> {
        self.users.get(&id).map(String::as_str)
    }
}

/// Parses passwd(5); the first entry of an id counts.
pub(super) fn users(passwd: &str) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            users.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_host_goes_before_the_agents_container() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("1/root/etc/hostname", "# comment\nnode-7\n");
        write("1/root/etc/machine-id", "abc\n");
        write(
            "1/root/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nbad\nshop:x:1000:1000::/:/bin/sh\ntoor:x:0:0:::\n",
        );
        write("sys/kernel/hostname", "container\n");
        write("self/cgroup", "0::/system.slice/runner.service\n");
        let host = Host::read(&ProcRoot::new(directory.path()));
        assert_eq!(
            host.attributes[..2],
            [Attribute::str("host.name", "node-7"), Attribute::str("host.id", "abc")]
        );
        assert_eq!(host.own_unit.as_deref(), Some("runner"));
        assert_eq!(
            (host.user(0), host.user(1000), host.user(7)),
            (Some("root"), Some("shop"), None)
        );
    }

    #[test]
    fn this_host_has_a_name() {
        let host = Host::read(&ProcRoot::default());
        assert_eq!(host.attributes[0].key, "host.name");
        assert_eq!(host.boot_id.len(), 36);
    }
}
