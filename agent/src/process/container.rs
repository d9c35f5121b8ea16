//! Containers and systemd units: from a cgroup's path to names.

use std::{collections::HashMap, path::Path};

use serde_json::Value;

use super::proc_root::{ProcRoot, read_bounded};

/// Most bytes of a container runtime's state file.
const STATE_BYTES: u64 = 4 << 20;
/// Most containers whose names are remembered. When full, all are read anew.
const CACHED: usize = 4096;
/// Where CRI and nerdctl containers of containerd are described, one directory for each of its namespaces.
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";

/// What the state files of a container runtime say of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Container {
    /// The name that the runtime shows.
    pub(super) name: Option<String>,
    /// What the container is called as a service: of Compose the service's name, in Kubernetes the container's in
    /// its pod; the replicas of a service have names of their own.
    pub(super) service: Option<String>,
    pub(super) image: Option<String>,
    pub(super) pod: Option<Pod>,
}

/// A Kubernetes pod, as the runtime was told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

/// Names of containers, read once for each.
#[derive(Debug, Default)]
pub(super) struct Containers(HashMap<String, Container>);

impl Containers {
    pub(super) fn describe(&mut self, root: &ProcRoot, id: &str) -> Container {
        if let Some(known) = self.0.get(id) {
            return known.clone();
        }
        let container = docker(root, id)
            .or_else(|| containerd(root, id))
            .or_else(|| libpod(root, id))
            .unwrap_or_default();
        if self.0.len() >= CACHED {
            self.0.clear();
        }
        self.0.insert(id.to_owned(), container.clone());
        container
    }
}

/// The container's id, from the text of `/proc/PID/cgroup`: docker, containerd, CRI-O and Podman, with cgroup v1 and
/// v2, with and without systemd. The innermost counts.
pub(super) fn container_id(cgroup: &str) -> Option<&str> {
    paths(cgroup).find_map(|path| path.rsplit('/').find_map(id_in_component))
}

/// The container's id, from the text of `/proc/PID/mountinfo`, where the cgroup namespace hides the path: the runtime
/// binds the container's own `/etc/hostname` and the like from a directory that is named after it.
pub(super) fn container_id_of_mounts(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (source, target) = (fields.next()?, fields.next()?);
        let is_own = matches!(
            target,
            "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf" | "/run/.containerenv"
        );
        // CRI's containerd binds them from the pod's sandbox, whose id is not the container's.
        (is_own && !source.contains("/sandboxes/")).then_some(())?;
        source.rsplit('/').find(|component| is_id(component))
    })
}

/// The systemd service of a cgroup, without `.service` and the instance; not a user's session or scope.
pub(super) fn unit(cgroup: &str) -> Option<String> {
    paths(cgroup).find_map(|path| {
        let last = path
            .rsplit('/')
            .find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
        let name = last.strip_suffix(".service")?;
        let name = name.split_once('@').map_or(name, |(template, _)| template);
        (name != "user" && !name.is_empty()).then(|| unescape(name))
    })
}

/// The pod's uid from a cgroup's path: `kubepods-burstable-pod<uid, with _ for ->.slice` or `/pod<uid>/`.
pub(super) fn pod_uid(cgroup: &str) -> Option<String> {
    paths(cgroup).filter(|path| path.contains("kubepods")).find_map(|path| {
        path.split('/').find_map(|part| {
            let (_, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
            let is_uid = uid.len() >= 32
                && uid
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || b"-_".contains(&byte));
            is_uid.then(|| uid.replace('_', "-"))
        })
    })
}

/// The id of the container that a process is in. `cgroup`: the text of its `/proc/PID/cgroup`.
pub(super) fn id_of(root: &ProcRoot, tgid: u32, cgroup: &str) -> Option<String> {
    container_id(cgroup).map(str::to_owned).or_else(|| {
        // A cgroup namespace hides the path of the agent's own container, or it is no container at all.
        let is_elsewhere = root.namespace(tgid, "mnt") != root.host_namespace("mnt");
        let mounts = is_elsewhere.then(|| root.small(tgid, "mountinfo"))??;
        container_id_of_mounts(&mounts).map(str::to_owned)
    })
}

/// Lines are `hierarchy:controllers:path`; the path may hold colons.
pub(super) fn paths(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2))
}

/// `<id>`, `docker-<id>.scope`, `crio-<id>.scope`, `kubepods-….slice:cri-containerd:<id>`. The monitor of a container
/// (`libpod-conmon-<id>.scope`) is not in it.
fn id_in_component(component: &str) -> Option<&str> {
    let component = component.strip_suffix(".scope").unwrap_or(component);
    let id = component.rsplit([':', '-']).next()?;
    (is_id(id) && !component.contains("conmon-")).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn docker(root: &ProcRoot, id: &str) -> Option<Container> {
    let state = json(&root.host_file(&format!("/var/lib/docker/containers/{id}/config.v2.json")))?;
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

/// The bundle of a container under containerd: CRI (Kubernetes) and nerdctl leave the names as annotations.
fn containerd(root: &ProcRoot, id: &str) -> Option<Container> {
    let namespaces = std::fs::read_dir(root.host_file(CONTAINERD)).ok()?;
    let bundle = namespaces
        .filter_map(|entry| json(&entry.ok()?.path().join(id).join("config.json")))
        .next()?;
    annotated(&bundle)
}

/// CRI-O's bundle, or the list of names of the storage that Podman and CRI-O share.
fn libpod(root: &ProcRoot, id: &str) -> Option<Container> {
    let bundle = format!("/run/containers/storage/overlay-containers/{id}/userdata/config.json");
    if let Some(container) = json(&root.host_file(&bundle)).and_then(|bundle| annotated(&bundle)) {
        return Some(container);
    }
    let list = json(&root.host_file("/var/lib/containers/storage/overlay-containers/containers.json"))?;
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

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&read_bounded(path, STATE_BYTES)?).ok()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    let text = value.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// systemd.unit(5): `\x2d` stands for the byte 0x2d.
fn unescape(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // `from_str_radix` would take a sign.
        let digits = part.get(..2).filter(|digits| !digits.starts_with('+'));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte.is_ascii() => plain.extend([char::from(byte)].into_iter().chain(part[2..].chars())),
            _ => plain.extend(["\\x", part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn ids_of_all_runtimes() {
        for path in [
            "0::/system.slice/docker-ID.scope",
            "0::/docker/ID",
            "12:cpu:/\n0::/../../docker/ID",
            "5:memory:/docker/ID/init.scope\n0::/",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01_2.slice/cri-containerd-ID.scope",
            "0::/kubepods.slice/kubepods-pod01_2.slice/crio-ID.scope",
            "0::/kubepods/besteffort/pod01-2/ID",
            "0::/system.slice/containerd.service/kubepods-besteffort-pod01.slice:cri-containerd:ID",
            "0::/machine.slice/libpod-ID.scope/container",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "0::/default/ID",
        ] {
            assert_eq!(container_id(&path.replace("ID", ID)), Some(ID), "{path}");
        }
        for path in [
            "0::/",
            "",
            "0::/system.slice/nginx.service",
            "0::/machine.slice/libpod-conmon-ID.scope",
            "0::/process_api/f00fc349083951e9b3defed54fdab5b0",
        ] {
            assert_eq!(container_id(&path.replace("ID", ID)), None, "{path}");
        }
    }

    #[test]
    fn ids_of_mounts() {
        let mounts = "701 690 254:1 /var/lib/docker/containers/ID/hostname /etc/hostname rw - ext4 /dev/vda1 rw\n";
        assert_eq!(container_id_of_mounts(&mounts.replace("ID", ID)), Some(ID));
        let podman =
            "9 8 0:25 /containers/storage/overlay-containers/ID/userdata/hosts /etc/hosts rw - tmpfs tmpfs rw\n";
        assert_eq!(container_id_of_mounts(&podman.replace("ID", ID)), Some(ID));
        let host = "9 8 0:25 / /var/lib/docker/containers/ID/mounts/shm rw - tmpfs shm rw\n";
        assert_eq!(container_id_of_mounts(&host.replace("ID", ID)), None);
    }

    #[test]
    fn units_but_not_sessions() {
        let unit_of = |path: &str| unit(&format!("12:cpu:/\n1:name=systemd:{path}\n0::{path}"));
        assert_eq!(unit_of("/system.slice/nginx.service").as_deref(), Some("nginx"));
        assert_eq!(unit_of("/system.slice/nginx.service/worker").as_deref(), Some("nginx"));
        assert_eq!(
            unit_of("/system.slice/system-postgresql.slice/postgresql@14-main.service").as_deref(),
            Some("postgresql")
        );
        assert_eq!(unit_of("/system.slice/my\\x2dshop.service").as_deref(), Some("my-shop"));
        let user = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(
            unit_of(&format!("{user}/app.slice/shop.service")).as_deref(),
            Some("shop")
        );
        for path in [
            user,
            &format!("{user}/app.slice/vte-spawn-1.scope"),
            &format!("{user}/app.slice/terminal.service/vte-spawn-1.scope"),
            "/user.slice/user-1000.slice/session-3.scope",
            "/init.scope",
            "/",
        ] {
            assert_eq!(unit_of(path), None, "{path}");
        }
    }

    #[test]
    fn pods_of_both_drivers() {
        let uid = "0f1e2d3c-aaaa-bbbb-cccc-000011112222";
        let escaped = uid.replace('-', "_");
        let systemd = format!("0::/kubepods.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope");
        assert_eq!(pod_uid(&systemd).as_deref(), Some(uid));
        assert_eq!(
            pod_uid(&format!("0::/kubepods/besteffort/pod{uid}/{ID}")).as_deref(),
            Some(uid)
        );
        assert_eq!(pod_uid("0::/system.slice/podman.service"), None);
    }

    fn described(file: &str, content: &str) -> Container {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1/root").join(file.replace("ID", ID));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.replace("ID", ID)).unwrap();
        Containers::default().describe(&ProcRoot::new(directory.path()), ID)
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
