//! State files of container runtimes: names, images, pods.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::process::ProcRoot;

/// Most bytes of a container runtime's state file.
const STATE_BYTES: u64 = 4 << 20;
/// Most containers whose names are remembered. When full, all are read anew.
const CACHED: usize = 4096;
/// First rest, and longest rest, before a container without a state file is looked for again.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(300);
/// Directory of containerd's descriptions of CRI and nerdctl containers, one below it for each of its namespaces.
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";

/// Description of a container by its runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    /// The name that the runtime shows.
    pub(crate) name: Option<String>,
    /// Name of the container as a service: with Compose the service's name, in Kubernetes the container's in
    /// its pod; the replicas of a service have names of their own.
    pub(crate) service: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) pod: Option<Pod>,
}

/// A Kubernetes pod, as the runtime was told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

/// Names of containers: what was found once is kept, what was not is looked for again.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    found: HashMap<String, Container>,
    unknown: HashMap<String, Unknown>,
}

/// A container of which no state file is there. A runtime may write it after it has started the container's process.
#[derive(Debug)]
struct Unknown {
    next_look: Instant,
    rest: Duration,
}

impl Containers {
    /// Describes a container; the description is empty if the runtime has written none yet.
    pub(crate) fn describe(&mut self, root: &ProcRoot, id: &str, now: Instant) -> Container {
        if let Some(known) = self.found.get(id) {
            return known.clone();
        }
        if self.unknown.get(id).is_some_and(|unknown| now < unknown.next_look) {
            return Container::default();
        }
        let found = docker(root, id)
            .or_else(|| containerd(root, id))
            .or_else(|| libpod(root, id));
        let Some(container) = found else {
            let rest = self.unknown.get(id).map_or(FIRST_REST, |unknown| unknown.rest);
            make_room(&mut self.unknown);
            let unknown = Unknown {
                next_look: now + rest,
                rest: (rest * 2).min(LONGEST_REST),
            };
            self.unknown.insert(id.to_owned(), unknown);
            return Container::default();
        };
        self.unknown.remove(id);
        make_room(&mut self.found);
        self.found.insert(id.to_owned(), container.clone());
        container
    }
}

fn make_room<T>(known: &mut HashMap<String, T>) {
    if known.len() >= CACHED {
        known.clear();
    }
}

/// Returns the first process of a container of Docker, while it runs.
pub(super) fn docker_process(root: &ProcRoot, id: &str) -> Option<u32> {
    let state = json(root, &format!("/var/lib/docker/containers/{id}/config.v2.json"))?;
    let tgid = state.pointer("/State/Pid")?.as_u64()?;
    u32::try_from(tgid).ok().filter(|&tgid| tgid != 0)
}

fn docker(root: &ProcRoot, id: &str) -> Option<Container> {
    let state = json(root, &format!("/var/lib/docker/containers/{id}/config.v2.json"))?;
    let name = text(&state, "/Name").map(|name| name.trim_start_matches('/').to_owned());
    let labels = state.pointer("/Config/Labels");
    let label = |key: &str| Some(labels?.get(key)?.as_str()?.to_owned());
    Some(Container {
        service: label("com.docker.compose.service").or_else(|| label("io.kubernetes.container.name")),
        pod: label("io.kubernetes.pod.name").and_then(|name| {
            Some(Pod {
                name,
                namespace: label("io.kubernetes.pod.namespace")?,
                uid: label("io.kubernetes.pod.uid"),
            })
        }),
        image: text(&state, "/Config/Image").filter(|image| !image.starts_with("sha256:")),
        name,
    })
}

/// Reads the bundle of a container under containerd: CRI (Kubernetes) and nerdctl leave the names as annotations.
fn containerd(root: &ProcRoot, id: &str) -> Option<Container> {
    let namespaces = root.host_directory(CONTAINERD)?;
    let bundle = namespaces
        .iter()
        .find_map(|namespace| json(root, &format!("{CONTAINERD}/{namespace}/{id}/config.json")))?;
    annotated(&bundle)
}

/// Reads CRI-O's bundle, or the list of names of the storage that Podman and CRI-O share.
fn libpod(root: &ProcRoot, id: &str) -> Option<Container> {
    let bundle = format!("/run/containers/storage/overlay-containers/{id}/userdata/config.json");
    if let Some(container) = json(root, &bundle).and_then(|bundle| annotated(&bundle)) {
        return Some(container);
    }
    let list = json(root, "/var/lib/containers/storage/overlay-containers/containers.json")?;
    let found = list.as_array()?.iter().find(|entry| entry["id"].as_str() == Some(id))?;
    Some(Container {
        name: text(found, "/names/0"),
        ..Container::default()
    })
}

fn annotated(bundle: &Value) -> Option<Container> {
    let annotations = bundle.get("annotations")?;
    let either = |keys: [&str; 2]| {
        keys.iter()
            .find_map(|key| Some(annotations.get(key)?.as_str()?.to_owned()))
    };
    let in_pod = either(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]);
    let container = Container {
        name: in_pod
            .clone()
            .or_else(|| either(["nerdctl/name", "io.podman.annotations.name"])),
        service: in_pod,
        image: either(["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]),
        pod: either(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]).and_then(|name| {
            Some(Pod {
                name,
                namespace: either(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"])?,
                uid: either(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]),
            })
        }),
    };
    (container != Container::default()).then_some(container)
}

fn json(root: &ProcRoot, path: &str) -> Option<Value> {
    serde_json::from_slice(&root.host_file(path, STATE_BYTES)?).ok()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    let text = value.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn described(file: &str, content: &str) -> Container {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1/root").join(file.replace("ID", ID));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.replace("ID", ID)).unwrap();
        Containers::default().describe(&ProcRoot::new(directory.path()), ID, Instant::now())
    }

    #[test]
    fn a_state_file_that_comes_late_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory
            .path()
            .join("1/root/var/lib/docker/containers")
            .join(ID)
            .join("config.v2.json");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let root = ProcRoot::new(directory.path());
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut containers = Containers::default();
        assert_eq!(containers.describe(&root, ID, at(0)), Container::default());
        fs::write(&file, r#"{"Name":"/web"}"#).unwrap();
        // Its other processes do not read it again and again.
        assert_eq!(containers.describe(&root, ID, at(499)), Container::default());
        assert_eq!(containers.describe(&root, ID, at(500)).name, some("web"));
        // The runtime may remove the file before the last process has ended.
        fs::remove_file(&file).unwrap();
        assert_eq!(containers.describe(&root, ID, at(900_000)).name, some("web"));
        assert!(containers.unknown.is_empty());
    }

    #[test]
    fn a_container_without_a_name_is_looked_for_less_and_less() {
        let directory = tempfile::tempdir().unwrap();
        let root = ProcRoot::new(directory.path());
        let mut now = Instant::now();
        let mut containers = Containers::default();
        let mut rests = Vec::new();
        for _ in 0..12 {
            containers.describe(&root, ID, now);
            let next = containers.unknown[ID].next_look;
            rests.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(rests[..3], [500, 1000, 2000]);
        assert_eq!(rests[10..], [LONGEST_REST.as_millis(); 2]);
        for number in 0..CACHED + 5 {
            containers.describe(&root, &format!("{number:064x}"), now);
        }
        assert!(containers.unknown.len() <= CACHED);
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn names_from_state_files() {
        let compose =
            r#"{"Name":"/shop-web-1","Config":{"Image":"shop/web:1","Labels":{"com.docker.compose.service":"web"}}}"#;
        assert_eq!(
            described("var/lib/docker/containers/ID/config.v2.json", compose),
            Container {
                name: some("shop-web-1"),
                service: some("web"),
                image: some("shop/web:1"),
                pod: None
            }
        );
        let cri = r#"{"annotations":{"io.kubernetes.cri.container-name":"cart","io.kubernetes.cri.sandbox-name":"cart-7d",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"u-1"}}"#;
        let pod = Pod {
            namespace: "shop".to_owned(),
            name: "cart-7d".to_owned(),
            uid: some("u-1"),
        };
        assert_eq!(
            described(
                "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
                cri
            ),
            Container {
                name: some("cart"),
                service: some("cart"),
                image: None,
                pod: Some(pod)
            }
        );
        let podman = r#"[{"id":"x","names":["no"]},{"id":"ID","names":["web"]}]"#;
        let name = described("var/lib/containers/storage/overlay-containers/containers.json", podman).name;
        assert_eq!(name, some("web"));
        assert_eq!(
            described("var/lib/docker/containers/ID/config.v2.json", "{cut"),
            Container::default()
        );
    }
}
