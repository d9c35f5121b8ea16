//! Creates the file that a tape is recorded into.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::MAGIC;

/// Reason for which there is no file to record into.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The file exists and is not a tape.
    #[error("{path} exists and is not a tape, so it is not overwritten: name another file, or remove it first")]
    NotATape {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("the tape {path} cannot be written: {source}; name a file in a directory that exists and is writable")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Creates the file for a new tape, readable by its owner only. An older tape (or an empty file) is replaced, any
/// other file is left alone.
pub fn create(path: &Path) -> Result<File, CreateError> {
    let failed = |source| CreateError::Io {
        path: path.to_owned(),
        source,
    };
    if fs::symlink_metadata(path).is_ok() {
        if !is_tape(path).map_err(failed)? {
            return Err(CreateError::NotATape { path: path.to_owned() });
        }
        // Removed and made anew, not truncated: a process that has the old file open, or its owner, must not see the new one.
        fs::remove_file(path).map_err(failed)?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)
}

/// Returns whether a tape may replace a file: it is a regular file, and a tape or empty.
fn is_tape(path: &Path) -> io::Result<bool> {
    // A symbolic link may have been planted, so it is not followed. A FIFO must not block the open.
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == MAGIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_tape_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.tape");
        create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn an_older_tape_is_replaced_and_no_longer_readable_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.tape");
        for old in [b"SPOORTAPE\nwhatever".as_slice(), b""] {
            fs::write(&path, old).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
            create(&path).unwrap();
            assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, Vec::new()));
        }
    }

    #[test]
    fn other_files_and_links_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let diary = folder.path().join("diary");
        fs::write(&diary, "dear diary").unwrap();
        let error = create(&diary).unwrap_err().to_string();
        assert!(error.contains("exists and is not a tape"), "{error}");
        assert_eq!(fs::read(&diary).unwrap(), b"dear diary");

        let link = folder.path().join("link");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(create(&link), Err(CreateError::NotATape { .. })));
        assert!(matches!(create(folder.path()), Err(CreateError::NotATape { .. })));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = create(Path::new("/nonexistent/a.tape")).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/a.tape") && error.contains("directory that exists"),
            "{error}"
        );
    }
}
