//! Executables: their kind, read once for each file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{elf::Binary, proc_root::ProcRoot, reader::Identity};
use crate::runtimes::{Evidence, Recognised, recognise};

/// Upper bound on executables that are kept; at the bound, the cache is emptied and all are read again.
const CACHED: usize = 4096;
/// Upper bound on bytes that are read of a file beside an executable.
const BESIDE_BYTES: u64 = 16 << 10;

/// Kind and word size of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) kind: Recognised,
    /// System calls of 32-bit programs have other numbers, which are not hooked.
    pub(super) is_32_bit: bool,
}

/// Name of an executable: the file as the kernel knows it, and its path, for one file may be many programs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    file: Identity,
    path: PathBuf,
}

/// Executables, each read once.
#[derive(Debug, Default)]
pub(super) struct Executables(HashMap<Key, Executable>);

impl Executables {
    /// Describes the executable of a process. `identity` names the file, if its file system answers; `path` is the
    /// file's name in the process's mount namespace.
    pub(super) fn describe(
        &mut self,
        root: &ProcRoot,
        tgid: u32,
        identity: Option<Identity>,
        path: &Path,
    ) -> Executable {
        let by_name = || Executable::of(path, &Binary::default(), &|_| None);
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
            Some(binary) => match Executable::of(path, &binary, &beside) {
                bare if bare.kind.is_bare() => match root.search(tgid, device) {
                    Some(binary) => Executable::of(path, &binary, &beside),
                    None => bare.unread(),
                },
                executable => executable,
            },
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
    fn of(path: &Path, binary: &Binary, read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let Binary { is_32_bit, marks } = binary;
        Self {
            kind: recognise(&Evidence { path, marks, read }),
            is_32_bit: *is_32_bit,
        }
    }

    /// Takes back what only the binary could prove: it may not be read.
    fn unread(mut self) -> Self {
        self.kind.runtime = self.kind.runtime.of_unread_binary();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once() {
        let mut executables = Executables::default();
        let (root, own) = (ProcRoot::default(), std::process::id());
        let exe = root.exe(own).unwrap();
        let identity = root.identity(own);
        let first = executables.describe(&root, own, identity, &exe);
        assert_eq!(first.kind.language, "rust");
        assert_eq!(executables.describe(&root, own, identity, &exe), first);
        assert_eq!(executables.0.len(), 1);
    }
}
