//! Rules about where a process runs: `--container` and `--cgroup`.

use std::time::Instant;

use super::Rule;
use crate::{
    config::{CONTAINER_ID_DIGITS, CgroupGlob},
    process::{
        ProcRoot,
        container::{self, Containers},
    },
};

/// Containers and control groups that the user selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    containers: Vec<String>,
    cgroups: Vec<CgroupGlob>,
}

/// Cache for one look at many processes. Holds the state of containers, so it must not outlive the look.
pub(super) struct PlacesLook<'a> {
    root: &'a ProcRoot,
    wanted: &'a Places,
    known: Containers,
    /// A process was in a container whose name is not known yet.
    unnamed: bool,
}

impl Places {
    pub(super) fn new(containers: &[String], cgroups: &[CgroupGlob]) -> Self {
        Self {
            containers: containers.to_vec(),
            cgroups: cgroups.to_vec(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.cgroups.is_empty()
    }

    pub(super) fn look<'a>(&'a self, root: &'a ProcRoot) -> PlacesLook<'a> {
        PlacesLook {
            root,
            wanted: self,
            known: Containers::default(),
            unnamed: false,
        }
    }
}

impl PlacesLook<'_> {
    /// Returns the rule that names the process, if any does.
    pub(super) fn rule(&mut self, tgid: u32) -> Option<Rule> {
        if self.wanted.is_empty() {
            return None;
        }
        let cgroup = self.root.small(tgid, "cgroup")?;
        self.container(tgid, &cgroup).or_else(|| self.cgroup(&cgroup))
    }

    /// Returns true if a process that no rule names was in a container whose name is not known.
    pub(super) fn met_unnamed(&self) -> bool {
        self.unnamed
    }

    fn container(&mut self, tgid: u32, cgroup: &str) -> Option<Rule> {
        if self.wanted.containers.is_empty() {
            return None;
        }
        let id = container::id_of(self.root, tgid, cgroup)?;
        let name = self.known.describe(self.root, &id, Instant::now()).name;
        self.unnamed |= name.is_none();
        let is_meant = |wanted: &&String| {
            Some(wanted.as_str()) == name.as_deref()
                || wanted.len() >= CONTAINER_ID_DIGITS && id.starts_with(wanted.to_ascii_lowercase().as_str())
        };
        let wanted = self.wanted.containers.iter().find(is_meant)?;
        Some(Rule::Container(wanted.clone()))
    }

    fn cgroup(&self, cgroup: &str) -> Option<Rule> {
        let mut paths = container::paths(cgroup);
        let path = paths.find(|path| self.wanted.cgroups.iter().any(|glob| glob.matches(path)))?;
        Some(Rule::Cgroup(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Processes 10 (a container), 11 (a service), 12 (the root), of which a runtime's file says this.
    fn reasons(containers: &[&str], cgroups: &[&str], file: &str, content: &str) -> Vec<Option<Rule>> {
        let directory = tempfile::tempdir().unwrap();
        for (tgid, cgroup) in [
            (10, format!("0::/system.slice/docker-{ID}.scope")),
            (
                11,
                "1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service/worker".to_owned(),
            ),
            (12, "0::/".to_owned()),
        ] {
            fs::create_dir_all(directory.path().join(tgid.to_string())).unwrap();
            fs::write(directory.path().join(format!("{tgid}/cgroup")), cgroup + "\n").unwrap();
        }
        let state = directory.path().join("1/root").join(file.replace("ID", ID));
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        fs::write(state, content.replace("ID", ID)).unwrap();
        let root = ProcRoot::new(directory.path());
        let containers: Vec<String> = containers.iter().map(|&text| text.to_owned()).collect();
        let cgroups: Vec<CgroupGlob> = cgroups.iter().map(|text| text.parse().unwrap()).collect();
        let places = Places::new(&containers, &cgroups);
        let mut look = places.look(&root);
        (10..13).map(|tgid| look.rule(tgid)).collect()
    }

    const DOCKER: (&str, &str) = (
        "var/lib/docker/containers/ID/config.v2.json",
        r#"{"Name":"/shop-web-1","Config":{}}"#,
    );

    #[test]
    fn containers_by_id_and_by_name() {
        let found = |wanted: &str| reasons(&["other", wanted], &[], DOCKER.0, DOCKER.1);
        for wanted in ["0123", "0123456789AB", ID, "shop-web-1"] {
            assert_eq!(found(wanted), [Some(Rule::Container(wanted.to_owned())), None, None]);
        }
        for wanted in ["012", "123456", "shop", "/shop-web-1"] {
            assert_eq!(found(wanted), [None, None, None], "{wanted}");
        }
    }

    #[test]
    fn names_of_all_runtimes() {
        for (file, content) in [
            DOCKER,
            (
                "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
                r#"{"annotations":{"io.kubernetes.cri.container-name":"shop-web-1"}}"#,
            ),
            (
                "run/containerd/io.containerd.runtime.v2.task/default/ID/config.json",
                r#"{"annotations":{"nerdctl/name":"shop-web-1"}}"#,
            ),
            (
                "run/containers/storage/overlay-containers/ID/userdata/config.json",
                r#"{"annotations":{"io.kubernetes.container.name":"shop-web-1"}}"#,
            ),
            (
                "var/lib/containers/storage/overlay-containers/containers.json",
                r#"[{"id":"ID","names":["shop-web-1"]}]"#,
            ),
        ] {
            let expected = [Some(Rule::Container("shop-web-1".to_owned())), None, None];
            assert_eq!(reasons(&["shop-web-1"], &[], file, content), expected, "{file}");
        }
    }

    #[test]
    fn control_groups_with_what_is_below_them() {
        let found = |wanted: &str| {
            let reasons = reasons(&[], &[wanted], DOCKER.0, DOCKER.1);
            reasons.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(found("/system.slice/nginx.service"), [false, true, false]);
        assert_eq!(
            found("/sys/fs/cgroup/system.slice/nginx.service/"),
            [false, true, false]
        );
        assert_eq!(found("/system.slice/*.service"), [false, true, false]);
        assert_eq!(found("/system.slice"), [true, true, false]);
        assert_eq!(found("**/docker-*"), [true, false, false]);
        assert_eq!(found("/*"), [true, true, false]);
        assert_eq!(found("/nginx.service"), [false, false, false]);
        let reason = reasons(&[], &["/system.slice/nginx.service/**"], DOCKER.0, DOCKER.1).remove(1);
        assert_eq!(
            reason,
            Some(Rule::Cgroup("/system.slice/nginx.service/worker".to_owned()))
        );
    }
}
