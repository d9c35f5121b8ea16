//! The user who called sudo.

use std::{
    env,
    ffi::{CString, OsString},
    path::PathBuf,
    process::Command,
};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::LaunchError;

/// Variables in which sudo passes its caller. The command does not get them: it does not run under sudo any more.
const SUDO_VARIABLES: [&str; 5] = ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME"];

/// A user, with the identity that a process of theirs has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
    pub(super) name: String,
    pub(super) home: Option<PathBuf>,
}

impl Account {
    /// Returns the user who called sudo; `None` if it was root, or if there was no sudo.
    pub(super) fn of_sudo_caller() -> Result<Option<Self>, LaunchError> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        Self::from_variables(|name| env::var_os(name))
    }

    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, LaunchError> {
        let number = |name: &str| {
            let Some(value) = variable(name) else {
                return Ok(None);
            };
            match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(LaunchError::User(format!("{name}={} is not a number", value.display()))),
            }
        };
        let Some(uid) = number("SUDO_UID")? else {
            return Ok(None);
        };
        let Some(gid) = number("SUDO_GID")? else {
            return Err(LaunchError::User("SUDO_UID is set, SUDO_GID is not".to_owned()));
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if uid.is_root() {
            return Ok(None);
        }

        // A static binary reads /etc/passwd only. For users of a directory service, sudo's variables must do.
        let entry = User::from_uid(uid).ok().flatten();
        let (name, home) = match entry {
            Some(user) => (user.name, Some(user.dir)),
            None => {
                let name = variable("SUDO_USER").and_then(|name| name.into_string().ok());
                let Some(name) = name else {
                    return Err(LaunchError::User(format!(
                        "there is no user {uid}, and SUDO_USER is not set"
                    )));
                };
                (name, variable("SUDO_HOME").map(PathBuf::from))
            }
        };
        let groups = CString::new(name.as_str())
            .ok()
            .and_then(|name| getgrouplist(&name, gid).ok())
            .unwrap_or_else(|| vec![gid]);
        Ok(Some(Self {
            uid,
            gid,
            groups,
            name,
            home,
        }))
    }

    /// Sets the user's HOME, USER and LOGNAME for the command. PATH stays as sudo set it.
    pub(super) fn set_environment(&self, command: &mut Command) {
        for name in SUDO_VARIABLES {
            command.env_remove(name);
        }
        command.env("USER", &self.name).env("LOGNAME", &self.name);
        match &self.home {
            Some(home) => command.env("HOME", home),
            // Root's home would only give permission errors.
            None => command.env_remove("HOME"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(variables: &[(&str, &str)]) -> Result<Option<Account>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Account::from_variables(variable).map_err(|error| error.to_string())
    }

    #[test]
    fn without_sudo_or_by_root_nothing_changes() {
        assert_eq!(account(&[]), Ok(None));
        assert_eq!(account(&[("SUDO_UID", "0"), ("SUDO_GID", "0")]), Ok(None));
    }

    #[test]
    fn a_user_that_the_machine_does_not_know_is_taken_from_sudo() {
        let variables = [
            ("SUDO_UID", "3999999"),
            ("SUDO_GID", "3999998"),
            ("SUDO_USER", "remote-user"),
            ("SUDO_HOME", "/net/home/remote-user"),
        ];
        let expected = Account {
            uid: Uid::from_raw(3_999_999),
            gid: Gid::from_raw(3_999_998),
            groups: vec![Gid::from_raw(3_999_998)],
            name: "remote-user".to_owned(),
            home: Some(PathBuf::from("/net/home/remote-user")),
        };
        assert_eq!(account(&variables), Ok(Some(expected)));
    }

    #[test]
    fn what_cannot_be_told_is_not_taken_for_root() {
        for (variables, says) in [
            (
                &[("SUDO_UID", "me"), ("SUDO_GID", "0")][..],
                "SUDO_UID=me is not a number",
            ),
            (&[("SUDO_UID", "1000")], "SUDO_GID is not"),
            (&[("SUDO_UID", "3999999"), ("SUDO_GID", "1")], "no user 3999999"),
        ] {
            let error = account(variables).unwrap_err();
            assert!(error.contains(says) && error.contains("--as-root"), "{error}");
        }
    }
}
