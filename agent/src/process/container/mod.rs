//! Containers and systemd units, from a cgroup's path or from mounts.

mod state;

use super::ProcRoot;
use state::docker_process;
pub(crate) use state::{Container, Containers};

/// Finds the container's id in the text of `/proc/PID/cgroup`: docker, containerd, CRI-O and Podman, with cgroup v1 and
/// v2, with and without systemd. The innermost counts.
pub(super) fn container_id(cgroup: &str) -> Option<&str> {
    paths(cgroup).find_map(|path| path.rsplit('/').find_map(id_in_component))
}

/// Finds the container's id in the text of `/proc/PID/mountinfo`, where the cgroup namespace hides the path. Returns
/// `None` where only another container's id can be found there.
///
/// Runtimes bind files of their own into a container, from directories that are named after it, or after its pod's
/// sandbox:
///
/// | runtime | `/etc/hostname`, `/etc/resolv.conf` | `/etc/hosts` | `/run/.containerenv` | `/run/secrets` |
/// |---|---|---|---|---|
/// | Docker, nerdctl | own | own | | |
/// | Podman | own; in a pod, `resolv.conf` is the infra container's | as `resolv.conf` | own | own, if there are any |
/// | CRI-O | the sandbox's | kubelet's, or the host's | the sandbox's | own, if there are any |
/// | cri-dockerd | the sandbox's | kubelet's | | |
/// | containerd's CRI | the sandbox's, below `sandboxes/` | kubelet's | | |
///
/// (cri-o `server/container_create_linux.go`, podman `libpod/container_internal_common.go`, moby
/// `daemon/container_operations.go`.) With `--network=container:`, Docker binds all three from the other container:
/// whoever calls must hold the id against the runtime's state.
pub(super) fn container_id_of_mounts(mountinfo: &str) -> Option<&str> {
    let (mut hostname, mut hosts, mut resolver, mut environment) = (None, None, None, None);
    for line in mountinfo.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some(source), Some(target)) = (fields.next(), fields.next()) else {
            continue;
        };
        let id = || source.rsplit('/').find(|component| is_id(component));
        match target {
            // c/common `pkg/subscriptions`: below the container's own run directory, of Podman and CRI-O alike.
            "/run/secrets" if source.ends_with("/userdata/run/secrets") => return id(),
            "/etc/hostname" => hostname = id(),
            "/etc/hosts" => hosts = id(),
            "/etc/resolv.conf" => resolver = id(),
            "/run/.containerenv" => environment = id(),
            _ => {}
        }
    }
    // Where `hosts` is not the runtime's, a pod's sandbox is the source of all others.
    let hosts = hosts?;
    match environment {
        Some(own) => Some(own),
        None => [hostname, resolver]
            .into_iter()
            .flatten()
            .all(|id| id == hosts)
            .then_some(hosts),
    }
}

/// Returns the systemd service of a cgroup, without `.service` and the instance; not a user's session or scope.
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

/// Finds the pod's uid in a cgroup's path: `kubepods-burstable-pod<uid, with _ for ->.slice` or `/pod<uid>/`.
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

/// Returns the id of the container that a process is in. `cgroup`: the text of its `/proc/PID/cgroup`.
pub(crate) fn id_of(root: &ProcRoot, tgid: u32, cgroup: &str) -> Option<String> {
    container_id(cgroup).map(str::to_owned).or_else(|| {
        // A cgroup namespace hides the path of the agent's own container, or it is no container at all.
        let mounts_of = root.namespace(tgid, "mnt")?;
        let is_elsewhere = Some(&mounts_of) != root.host_namespace("mnt").as_ref();
        let mounts = is_elsewhere.then(|| root.small(tgid, "mountinfo"))??;
        let id = container_id_of_mounts(&mounts)?;
        // Docker binds the files of the container whose network is shared.
        let is_of_other = docker_process(root, id).is_some_and(|first| root.namespace(first, "mnt") != Some(mounts_of));
        (!is_of_other).then(|| id.to_owned())
    })
}

/// Lines are `hierarchy:controllers:path`; the path may hold colons.
pub(crate) fn paths(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2))
}

/// Finds the id in `<id>`, `docker-<id>.scope`, `crio-<id>.scope`, `kubepods-….slice:cri-containerd:<id>`. The monitor
/// of a container (`libpod-conmon-<id>.scope`) is not in it.
fn id_in_component(component: &str) -> Option<&str> {
    let component = component.strip_suffix(".scope").unwrap_or(component);
    let id = component.rsplit([':', '-']).next()?;
    (is_id(id) && !component.contains("conmon-")).then_some(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Decodes systemd's escapes (systemd.unit(5)): `\x2d` stands for the byte 0x2d.
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
    use std::{fs, os::unix::fs::symlink};

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
            "0::/../cri-containerd-ID.scope",
            "0::/../../crio-ID.scope/container",
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

    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    /// Lines of mountinfo: where a file is bound from, and to. `OWN` and `OTHER` stand for ids.
    fn mountinfo(binds: &[(&str, &str)]) -> String {
        let root = "700 600 0:99 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/X,\
                    upperdir=/var/lib/docker/overlay2/OTHER/diff,workdir=/var/lib/docker/overlay2/OTHER/work\n";
        let lines = binds
            .iter()
            .map(|(source, target)| format!("701 700 254:1 {source} {target} rw,relatime - ext4 /dev/vda1 rw\n"));
        let text: String = std::iter::once(root.to_owned()).chain(lines).collect();
        text.replace("OWN", ID).replace("OTHER", OTHER)
    }

    #[test]
    fn ids_of_mounts_are_the_containers_or_none() {
        let docker = "/var/lib/docker/containers/OWN";
        let of_other = "/var/lib/docker/containers/OTHER";
        let podman = "/containers/storage/overlay-containers/OWN/userdata";
        let infra = "/containers/storage/overlay-containers/OTHER/userdata";
        let nerdctl = "/var/lib/nerdctl/1935db59";
        let sandbox = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/OTHER";
        let pod = "/var/lib/kubelet/pods/01234567-89ab-cdef-0123-456789abcdef";
        for (runtime, binds, is_own) in [
            (
                "Docker",
                vec![
                    (format!("{docker}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{docker}/hostname"), "/etc/hostname"),
                    (format!("{docker}/hosts"), "/etc/hosts"),
                ],
                true,
            ),
            (
                "nerdctl",
                vec![
                    (
                        format!("{nerdctl}/containers/default/OWN/resolv.conf"),
                        "/etc/resolv.conf",
                    ),
                    (format!("{nerdctl}/containers/default/OWN/hostname"), "/etc/hostname"),
                    (format!("{nerdctl}/etchosts/default/OWN/hosts"), "/etc/hosts"),
                ],
                true,
            ),
            (
                "Podman",
                vec![
                    (format!("{podman}/.containerenv"), "/run/.containerenv"),
                    (format!("{podman}/hosts"), "/etc/hosts"),
                    (format!("{podman}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{podman}/hostname"), "/etc/hostname"),
                ],
                true,
            ),
            (
                "Podman in a pod",
                vec![
                    (format!("{infra}/hosts"), "/etc/hosts"),
                    (format!("{infra}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{podman}/hostname"), "/etc/hostname"),
                    (format!("{podman}/.containerenv"), "/run/.containerenv"),
                ],
                true,
            ),
            (
                "CRI-O",
                vec![
                    (format!("{infra}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{infra}/hostname"), "/etc/hostname"),
                    (format!("{infra}/.containerenv"), "/run/.containerenv"),
                    (format!("{pod}/etc-hosts"), "/etc/hosts"),
                    (format!("{pod}/containers/cart/0a1b2c3d"), "/dev/termination-log"),
                ],
                false,
            ),
            (
                "CRI-O with subscriptions",
                vec![
                    (format!("{infra}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{infra}/hostname"), "/etc/hostname"),
                    (format!("{infra}/.containerenv"), "/run/.containerenv"),
                    (format!("{podman}/run/secrets"), "/run/secrets"),
                    (format!("{pod}/etc-hosts"), "/etc/hosts"),
                ],
                true,
            ),
            (
                "CRI-O in the host's network",
                vec![
                    (format!("{infra}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{infra}/.containerenv"), "/run/.containerenv"),
                    ("/etc/hosts".to_owned(), "/etc/hosts"),
                ],
                false,
            ),
            (
                "cri-dockerd",
                vec![
                    (format!("{of_other}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{of_other}/hostname"), "/etc/hostname"),
                    (format!("{pod}/etc-hosts"), "/etc/hosts"),
                    (format!("{pod}/containers/cart/0a1b2c3d"), "/dev/termination-log"),
                ],
                false,
            ),
            (
                "containerd's CRI",
                vec![
                    (format!("{sandbox}/hostname"), "/etc/hostname"),
                    (format!("{sandbox}/resolv.conf"), "/etc/resolv.conf"),
                    (format!("{pod}/etc-hosts"), "/etc/hosts"),
                ],
                false,
            ),
            (
                "two containers' files",
                vec![
                    (format!("{docker}/hosts"), "/etc/hosts"),
                    (format!("{of_other}/resolv.conf"), "/etc/resolv.conf"),
                ],
                false,
            ),
            (
                "the host",
                vec![("/".to_owned(), "/var/lib/docker/containers/OWN/mounts/shm")],
                false,
            ),
        ] {
            let binds: Vec<_> = binds
                .iter()
                .map(|(source, target)| (source.as_str(), *target))
                .collect();
            let mounts = mountinfo(&binds);
            assert_eq!(container_id_of_mounts(&mounts), is_own.then_some(ID), "{runtime}");
        }
        assert_eq!(container_id_of_mounts("9 8 0:25 /x\n\n"), None);
    }

    #[test]
    fn a_container_in_the_network_of_another_has_not_its_id() {
        let directory = tempfile::tempdir().unwrap();
        let root_of = |tgid: u32| directory.path().join(tgid.to_string());
        for (tgid, namespace) in [(1, "mnt:[1]"), (10, "mnt:[2]"), (11, "mnt:[3]")] {
            fs::create_dir_all(root_of(tgid).join("ns")).unwrap();
            symlink(namespace, root_of(tgid).join("ns/mnt")).unwrap();
            let binds = [("/var/lib/docker/containers/OWN/hosts", "/etc/hosts")];
            fs::write(root_of(tgid).join("mountinfo"), mountinfo(&binds)).unwrap();
        }
        let of_runtime = root_of(1).join("root/var/lib/docker/containers").join(ID);
        fs::create_dir_all(&of_runtime).unwrap();
        let root = ProcRoot::new(directory.path());
        let ids = || {
            (
                id_of(&root, 10, "0::/\n"),
                id_of(&root, 11, "0::/\n"),
                id_of(&root, 1, "0::/\n"),
            )
        };
        let own = || Some(ID.to_owned());
        assert_eq!(ids(), (own(), own(), None), "the runtime does not say whose it is");
        fs::write(
            of_runtime.join("config.v2.json"),
            r#"{"Name":"/web","State":{"Pid":10}}"#,
        )
        .unwrap();
        assert_eq!(ids(), (own(), None, None));
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
}
