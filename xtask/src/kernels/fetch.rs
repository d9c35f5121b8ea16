//! Debian's kernels, and the Debian packages of the guest's root file system. They come from the mirrors that this
//! machine's apt uses, by an apt with lists and a cache of its own: the machine's stay as they are.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::Arch;

/// Suites that together have Debian's kernels of all series. A suite that the mirror has dropped costs only itself.
const SUITES: [&str; 6] = [
    "bullseye",
    "bookworm",
    "bookworm-updates",
    "trixie",
    "trixie-updates",
    "trixie-backports",
];
const SECURITY_SUITES: [&str; 3] = ["bullseye-security", "bookworm-security", "trixie-security"];
/// Suites of the guest's programs.
const GUEST_SUITES: [&str; 1] = ["bookworm"];
/// The guest's programs: a shell with the tools of an init, network namespaces, and programs that start the tests'
/// processes.
const GUEST_PACKAGES: [&str; 3] = ["busybox-static", "iproute2", "util-linux"];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The processor that it is for.
    pub arch: Arch,
    /// Series, such as `6.12`.
    pub series: String,
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Folder with `vmlinuz`, `config` and `lib/modules/RELEASE`.
    pub folder: PathBuf,
}

impl Kernel {
    /// Returns the folder of the kernel's own modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// Returns whether a boot parameter can choose how the kernel preempts (since 5.12).
    pub fn can_preempt_fully(&self) -> Result<bool> {
        let config = self.folder.join("config");
        let config = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        Ok(config.lines().any(|line| line == "CONFIG_PREEMPT_DYNAMIC=y"))
    }
}

/// A cache: never fetches twice.
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens a cache in this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Returns the kernels of these series, fetched if needed. `newest` is the newest that is packaged.
    pub fn kernels(&self, arch: Arch, wanted: &[String]) -> Result<Vec<Kernel>> {
        let mut apt = None;
        let mut kernels: Vec<Kernel> = Vec::new();
        for series in wanted {
            let kernel = match self.cached(arch, series) {
                Some(kernel) => kernel,
                None => {
                    if apt.is_none() {
                        println!("Looking for {arch} kernels in Debian's archive");
                        let folder = self.folder.join("apt").join(arch.debian());
                        apt = Some(Apt::with(&folder, arch, &SUITES, &SECURITY_SUITES)?);
                    }
                    let apt = apt.as_ref().context("apt was just set up")?;
                    self.fetch(apt, arch, series)?
                }
            };
            if kernels.iter().all(|other| other.release != kernel.release) {
                kernels.push(kernel);
            }
        }
        Ok(kernels)
    }

    fn cached(&self, arch: Arch, series: &str) -> Option<Kernel> {
        let link = self.folder.join(arch.debian()).join(series);
        let folder = fs::canonicalize(link).ok()?;
        let release = fs::read_to_string(folder.join("release")).ok()?.trim().to_owned();
        let series = folder.file_name()?.to_str()?.to_owned();
        Some(Kernel {
            arch,
            series,
            release,
            folder,
        })
    }

    fn fetch(&self, apt: &Apt, arch: Arch, wanted: &str) -> Result<Kernel> {
        let packages = kernel_packages(&apt.packages()?, arch, wanted)?;
        let release = packages.release;
        let series = series_of(&release).context("a release without numbers")?;
        println!("Fetching the {arch} kernel {release}");
        let parent = self.folder.join(arch.debian());
        let new = parent.join(format!(".{series}.new"));
        renew(&new)?;
        apt.download(&new.join("debs"), &packages.names)?;
        unpack(&new.join("debs"), &new.join("root"))?;
        let vmlinuz = find(&new.join("root"), &|path| {
            path.is_file() && name_of(path).starts_with("vmlinuz")
        })
        .with_context(|| format!("no vmlinuz in the packages {:?}", packages.names))?;
        let modules = find(&new.join("root"), &|path| {
            path.join("kernel").is_dir() && name_of(path) == release
        })
        .with_context(|| format!("no modules in the packages {:?}", packages.names))?;
        let config = find(&new.join("root"), &|path| {
            path.is_file()
                && (name_of(path) == format!("config-{release}") || path.ends_with(format!("{release}/config")))
        })
        .with_context(|| format!("no configuration in the packages {:?}", packages.names))?;
        fs::rename(vmlinuz, new.join("vmlinuz"))?;
        fs::rename(config, new.join("config"))?;
        fs::create_dir_all(new.join("lib/modules"))?;
        fs::rename(modules, new.join("lib/modules").join(&release))?;
        run(Command::new("depmod").arg("-b").arg(&new).arg(&release))?;
        fs::remove_dir_all(new.join("root"))?;
        fs::remove_dir_all(new.join("debs"))?;
        // Written last: a folder with this file is whole.
        fs::write(new.join("release"), &release)?;
        let folder = parent.join(&series);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::rename(&new, &folder)?;
        if wanted == "newest" {
            let link = parent.join("newest");
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link)?;
            }
            std::os::unix::fs::symlink(&series, link)?;
        }
        Ok(Kernel {
            arch,
            series,
            release,
            folder,
        })
    }

    /// Returns a root file system with the programs that the tests call.
    pub fn guest_root(&self, arch: Arch) -> Result<PathBuf> {
        let folder = self.folder.join(arch.debian()).join("root");
        if folder.is_dir() {
            return Ok(folder);
        }
        println!("Fetching the guest's {arch} programs");
        let apt = Apt::with(
            &self.folder.join("apt").join(format!("{}-guest", arch.debian())),
            arch,
            &GUEST_SUITES,
            &[],
        )?;
        let new = self.folder.join(arch.debian()).join(".root.new");
        renew(&new)?;
        apt.download_closure(&GUEST_PACKAGES)?;
        unpack(&apt.folder.join("cache/archives"), &new)?;
        for needless in ["usr/share", "usr/lib/systemd", "lib/systemd"] {
            if new.join(needless).exists() {
                fs::remove_dir_all(new.join(needless))?;
            }
        }
        fs::rename(&new, &folder)?;
        Ok(folder)
    }
}

/// Packages of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct KernelPackages {
    release: String,
    /// Names, as `NAME=VERSION`.
    names: Vec<String>,
}

/// Picks the newest kernel of a series from all packages (name, version). A kernel is one `linux-image-` package. From
/// 6.19 on that one is empty: the kernel is in `linux-binary-`, the rest in `linux-modules-` and `linux-base-`.
fn kernel_packages(packages: &[(String, String)], arch: Arch, wanted: &str) -> Result<KernelPackages> {
    let flavour = format!("-cloud-{}", arch.debian());
    // Release and version of a package that holds a kernel.
    let kernel = |name: &str| -> Option<String> {
        let release = ["linux-image-", "linux-binary-"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))?;
        // Meta-packages such as `linux-image-cloud-amd64` name no single kernel.
        let numbered = release.strip_suffix(&flavour)?;
        let plain = numbered.chars().all(|digit| digit.is_ascii_digit() || digit == '.');
        (numbered.starts_with(|digit: char| digit.is_ascii_digit()) && !plain).then(|| release.to_owned())
    };
    let candidates = packages
        .iter()
        .filter_map(|(name, version)| Some((kernel(name)?, version)));
    let newest = candidates
        .filter(|(release, _)| wanted == "newest" || series_of(release).as_deref() == Some(wanted))
        .max_by(|one, other| natural(one.1, other.1))
        .with_context(|| format!("no {arch} kernel of series {wanted} is packaged (flavour {flavour})"))?;
    let release = newest.0;
    let named = |kind: &str| {
        let name = format!("linux-{kind}-{release}");
        let mut versions = packages.iter().filter(|(other, _)| *other == name);
        let first = versions.next()?;
        let newest = versions.fold(first, |best, next| match natural(&best.1, &next.1) {
            Ordering::Less => next,
            _ => best,
        });
        Some(format!("{name}={}", newest.1))
    };
    let kernel = named("binary").or_else(|| named("image"));
    let names = [kernel, named("modules"), named("base")];
    Ok(KernelPackages {
        names: names.into_iter().flatten().collect(),
        release,
    })
}

/// Returns `6.12` for `6.12.117+deb13-cloud-amd64`.
fn series_of(release: &str) -> Option<String> {
    version(release).map(|(major, minor)| format!("{major}.{minor}"))
}

/// Returns 6 and 12 for `6.12.117+deb13-cloud-amd64`.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Orders versions by their numbers.
fn natural(one: &str, other: &str) -> Ordering {
    let numbers = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse::<u64>().ok())
            .collect::<Vec<_>>()
    };
    numbers(one).cmp(&numbers(other))
}

/// An apt with folders of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Sets it up for an architecture with these suites, and fetches their lists.
    fn with(folder: &Path, arch: Arch, suites: &[&str], security_suites: &[&str]) -> Result<Self> {
        ensure!(
            which("apt-get") && which("dpkg-deb"),
            "kernels are fetched as Debian packages: this needs apt-get and dpkg-deb, on Debian or Ubuntu"
        );
        let (main, security) = mirrors()?;
        renew(folder)?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let line = |mirror: &str, suite: &&str| format!("deb [arch={}] {mirror} {suite} main\n", arch.debian());
        let mut sources: String = suites.iter().map(|suite| line(&main, suite)).collect();
        sources.extend(security_suites.iter().map(|suite| line(&security, suite)));
        fs::write(folder.join("sources.list"), sources)?;
        fs::write(folder.join("status"), "")?;
        let at = |part: &str| folder.join(part).display().to_string();
        let options = [
            format!("APT::Architecture={}", arch.debian()),
            format!("APT::Architectures={}", arch.debian()),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State={}", at("")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            // The signed validity of an old release's lists has run out.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self {
            folder: folder.to_owned(),
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
        };
        // Fails where the mirror lacks one of the suites. A missing package shows later.
        let _ = apt.get(&["update"]).output().context("cannot start apt-get")?;
        Ok(apt)
    }

    fn get(&self, words: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-q").args(&self.options).args(words);
        command
    }

    /// Lists all packages of the suites: name and version.
    fn packages(&self) -> Result<Vec<(String, String)>> {
        let files = run(&mut self.get(&["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]))?;
        let mut packages = Vec::new();
        for file in files.lines() {
            let text = run(Command::new("/usr/lib/apt/apt-helper").args(["cat-file", file]))?;
            let mut name = None;
            for line in text.lines() {
                if let Some(value) = line.strip_prefix("Package: ") {
                    name = value.starts_with("linux-").then(|| value.to_owned());
                } else if let Some(version) = line.strip_prefix("Version: ")
                    && let Some(name) = name.take()
                {
                    packages.push((name, version.to_owned()));
                }
            }
        }
        ensure!(
            !packages.is_empty(),
            "the mirror that apt uses has none of Debian's suites"
        );
        Ok(packages)
    }

    fn download(&self, folder: &Path, packages: &[String]) -> Result<()> {
        fs::create_dir_all(folder)?;
        run(self.get(&["download"]).args(packages).current_dir(folder)).map(drop)
    }

    /// Downloads packages with all their dependencies into the cache.
    fn download_closure(&self, packages: &[&str]) -> Result<()> {
        let words = ["install", "--download-only", "--yes", "--no-install-recommends"];
        run(self.get(&words).args(packages)).map(drop)
    }
}

/// Returns Debian's mirror and that of its security updates, from this machine's apt.
fn mirrors() -> Result<(String, String)> {
    let format = "$(LABEL)|$(ORIGIN)|$(REPO_URI)";
    let known = run(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let of = |label: &str| {
        known
            .lines()
            .find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
                [found, "Debian", uri] if found == label => Some(uri.to_owned()),
                _ => None,
            })
    };
    let Some(main) = of("Debian") else {
        bail!("apt knows no Debian mirror: on Debian, run `apt-get update`; elsewhere the kernels cannot be fetched");
    };
    let security = of("Debian-Security").unwrap_or_else(|| format!("{}-security/", main.trim_end_matches('/')));
    Ok((main, security))
}

fn unpack(debs: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for entry in fs::read_dir(debs)? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
        }
    }
    Ok(())
}

/// Empties a folder, or creates it.
fn renew(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Returns the first file or folder below that is wanted.
fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if wanted(&path) {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find(&path, wanted)
        {
            return Some(found);
        }
    }
    None
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn which(command: &str) -> bool {
    crate::tools::exists(command)
}

/// Runs a tool to its end. Returns its output, or an error with its messages.
pub fn run(command: &mut Command) -> Result<String> {
    command.env("PATH", crate::tools::search_path());
    let Output { status, stdout, stderr } = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{command:?} ended with {status}: {said:.2000}");
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(list: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
        list.iter().map(own).collect()
    }

    #[test]
    fn the_newest_kernel_of_a_series_is_picked() {
        let all = packages(&[
            ("linux-image-cloud-amd64", "6.12.9-1"),
            ("linux-image-6.12-cloud-amd64", "6.12.200-1"),
            ("linux-image-6.12.9+deb13-cloud-amd64", "6.12.9-1"),
            ("linux-image-6.12.86+deb13-cloud-amd64", "6.12.86-1"),
            ("linux-image-6.12.90+deb13-amd64", "6.12.90-1"),
            ("linux-image-6.1.0-50-cloud-amd64", "6.1.170-1"),
            ("linux-image-6.12.99+deb13-cloud-arm64", "6.12.99-1"),
        ]);
        let picked = kernel_packages(&all, Arch::Amd64, "6.12").unwrap();
        assert_eq!(picked.names, ["linux-image-6.12.86+deb13-cloud-amd64=6.12.86-1"]);
        let old = kernel_packages(&all, Arch::Amd64, "6.1").unwrap();
        assert_eq!(old.release, "6.1.0-50-cloud-amd64");
        assert!(kernel_packages(&all, Arch::Amd64, "5.10").is_err());
    }

    #[test]
    fn a_kernel_in_parts_is_fetched_in_parts() {
        let all = packages(&[
            ("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
            ("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
            ("linux-modules-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
            ("linux-base-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
            ("linux-image-6.12.9+deb13-cloud-amd64", "6.12.9-1"),
        ]);
        let picked = kernel_packages(&all, Arch::Amd64, "newest").unwrap();
        assert_eq!(
            picked.names,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64=7.3.4-1",
                "linux-modules-7.3.4+deb13-cloud-amd64=7.3.4-1",
                "linux-base-7.3.4+deb13-cloud-amd64=7.3.4-1",
            ]
        );
        assert_eq!(series_of(&picked.release).as_deref(), Some("7.3"));
    }
}
