//! Families of hooks, and the choice between them.
//!
//! ```text
//! auto ── the kernel has the events, and the fields and casts that their programs need? ── yes ──► load `sock` ──► sock
//!                                  │ no                                                           │ refused
//!                                  └──────────────────────────────► syscall ◄─────────────────────┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ProbeError,
    lost::{Lost, NO_FIELD},
};

/// Places at which programs see that bytes move. The records of both families are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The events `sock:sock_send_length` and `sock:sock_recv_length` (Linux 6.3 and newer). No system call is hooked, so
    /// the kernel takes its fast way into each call of the host; a few are once a target speaks HTTP on a Unix socket.
    Sock,
    /// The exits of system calls.
    Syscall,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Sock, Self::Syscall];

    /// Returns the name, as in `--hooks`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sock => "sock",
            Self::Syscall => "syscall",
        }
    }

    /// Returns the program that makes the records: the programs that see bytes move end in it.
    pub const fn reporter(self) -> &'static str {
        match self {
            Self::Sock => "report_moved",
            Self::Syscall => "report_call",
        }
    }

    /// Returns the map by which programs find the reporter.
    pub(super) const fn reporters_map(self) -> &'static str {
        match self {
            Self::Sock => "NEXT_RAW",
            Self::Syscall => "NEXT",
        }
    }
}

/// Loss where the socket events cannot be used.
const WITHOUT_EVENTS: &str =
    "the socket events: capture takes the system calls instead, which slows each call of the host";

/// Reason why the programs are not at the socket events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The user chose the system calls.
    Unwanted,
    /// The kernel has no such events.
    Absent,
    /// The kernel has the events, and lacks or refuses a field, function or program that their use needs.
    Refused(Lost),
}

impl Obstacle {
    pub(super) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused(Lost {
            what: what.into(),
            feature: WITHOUT_EVENTS,
            reason: reason.into(),
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwanted => f.write_str("not used: --hooks=syscall was given"),
            Self::Absent => f.write_str("this kernel has none: they are in Linux 6.3 and newer"),
            Self::Refused(Lost { what, reason, .. }) => write!(f, "{what}: {reason}"),
        }
    }
}

/// Facts about the socket events, from the kernel's BTF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The kernel has the events.
    pub exist: bool,
    /// Fields that are missing, as `struct.member`, and without which the programs at the events cannot work.
    pub missing: Vec<String>,
    /// Fields that are missing, and the features that these programs lack without them. Programs of system calls have the
    /// features.
    pub instead: Vec<Lost>,
    /// Fields that are missing, and the features that programs of system calls never have.
    pub besides: Vec<Lost>,
    /// The kernel has io_urings.
    pub rings: bool,
}

impl Events {
    /// Returns all that the programs at the events lack.
    pub fn into_lost(self) -> impl Iterator<Item = Lost> {
        self.instead.into_iter().chain(self.besides)
    }
}

/// Returns the reason not to try the socket events. `casts`: whether the verifier takes loads from addresses that are
/// cast; the events give a program the address of a socket, and nothing else.
pub fn obstacle(wish: Option<Family>, events: &Events, casts: &Result<(), String>) -> Option<Obstacle> {
    if wish == Some(Family::Syscall) {
        return Some(Obstacle::Unwanted);
    }
    let Events {
        exist: true,
        missing,
        instead,
        besides: _,
        rings: _,
    } = events
    else {
        return Some(Obstacle::Absent);
    };
    if !missing.is_empty() {
        return Some(Obstacle::refused(missing.join(", "), NO_FIELD));
    }
    if let Err(reason) = casts {
        return Some(Obstacle::refused("typed loads", reason));
    }
    match instead.first() {
        // The other family loses nothing.
        Some(Lost { what, reason, .. }) if wish.is_none() => Some(Obstacle::refused(what, reason)),
        _ => None,
    }
}

/// Loads the family that is wished for, or the best one that this kernel takes. Returns what was loaded, and the reason
/// why that is not at the socket events.
///
/// # Errors
/// If the wish cannot be fulfilled, or nothing can be traced.
pub fn choose<T>(
    wish: Option<Family>,
    obstacle: Option<Obstacle>,
    mut load: impl FnMut(Family) -> Result<T, ProbeError>,
) -> Result<(T, Option<Obstacle>), ProbeError> {
    let obstacle = match obstacle {
        Some(obstacle) => obstacle,
        None => match load(Family::Sock) {
            Ok(loaded) => return Ok((loaded, None)),
            Err(ProbeError::Program { program, reason }) => Obstacle::refused(program, reason),
            // The other family would fail in the same way.
            Err(error) => return Err(error),
        },
    };
    if wish == Some(Family::Sock) {
        return Err(ProbeError::Events(obstacle));
    }
    Ok((load(Family::Syscall)?, Some(obstacle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: Events = Events {
        exist: true,
        missing: Vec::new(),
        instead: Vec::new(),
        besides: Vec::new(),
        rings: true,
    };

    #[test]
    fn events_are_tried_where_all_is_there_that_they_need() {
        let no_casts = Err("unknown func".to_owned());
        let none = Events { exist: false, ..EVENTS };
        let no_fields = Events {
            missing: vec!["sock.sk_socket".to_owned(), "socket.file".to_owned()],
            ..EVENTS
        };
        let told = |wish, events: &Events, casts| obstacle(wish, events, casts).map(|obstacle| obstacle.to_string());
        for wish in [None, Some(Family::Sock)] {
            assert_eq!(obstacle(wish, &EVENTS, &Ok(())), None);
            assert_eq!(obstacle(wish, &none, &no_casts), Some(Obstacle::Absent));
            let refused = told(wish, &EVENTS, &no_casts);
            assert_eq!(refused.as_deref(), Some("typed loads: unknown func"));
            let refused = told(wish, &no_fields, &Ok(()));
            let fields = "sock.sk_socket, socket.file: this kernel's BTF has no such field";
            assert_eq!(refused.as_deref(), Some(fields));
        }
        assert_eq!(
            obstacle(Some(Family::Syscall), &EVENTS, &Ok(())),
            Some(Obstacle::Unwanted)
        );
    }

    #[test]
    fn a_feature_that_the_other_family_has_is_lost_by_choice_only() {
        let missing = |name: &str| vec![Lost::field(name.to_owned(), "a feature")];
        let events = Events {
            instead: missing("file.f_ep"),
            ..EVENTS
        };
        let by_itself = obstacle(None, &events, &Ok(()));
        assert!(matches!(by_itself, Some(Obstacle::Refused(lost)) if lost.what == "file.f_ep"));
        assert_eq!(obstacle(Some(Family::Sock), &events, &Ok(())), None);
        let events = Events {
            besides: missing("io_kiocb.opcode"),
            ..EVENTS
        };
        assert_eq!(obstacle(None, &events, &Ok(())), None);
    }

    /// Chooses on a kernel that refuses a program of these families. Returns the family and what is said of the events.
    fn chosen(
        wish: Option<Family>,
        obstacle: Option<Obstacle>,
        refused: &[Family],
    ) -> Result<(Family, Option<String>), String> {
        let load = |family: Family| match refused.contains(&family) {
            true => Err(ProbeError::Program {
                program: family.reporter(),
                reason: "EPERM".to_owned(),
            }),
            false => Ok(family),
        };
        let (family, obstacle) = choose(wish, obstacle, load).map_err(|error| error.to_string())?;
        Ok((family, obstacle.map(|obstacle| obstacle.to_string())))
    }

    #[test]
    fn a_refused_program_costs_the_events_and_not_the_agent() {
        let refused = || Some("report_moved: EPERM".to_owned());
        assert_eq!(chosen(None, None, &[]), Ok((Family::Sock, None)));
        assert_eq!(chosen(None, None, &[Family::Sock]), Ok((Family::Syscall, refused())));
        let absent = chosen(None, Some(Obstacle::Absent), &[]);
        assert_eq!(absent, Ok((Family::Syscall, Some(Obstacle::Absent.to_string()))));
        let neither = chosen(None, None, &Family::ALL).unwrap_err();
        assert!(neither.contains("report_call"), "{neither}");
    }

    #[test]
    fn a_wish_is_fulfilled_or_refused() {
        let (sock, syscall) = (Some(Family::Sock), Some(Family::Syscall));
        assert_eq!(chosen(sock, None, &[Family::Syscall]), Ok((Family::Sock, None)));
        let unwanted = Obstacle::Unwanted;
        let told = unwanted.to_string();
        assert_eq!(
            chosen(syscall, Some(unwanted), &[Family::Sock]),
            Ok((Family::Syscall, Some(told)))
        );
        for (obstacle, refused, says) in [
            (Some(Obstacle::Absent), &[][..], "Linux 6.3"),
            (None, &[Family::Sock], "report_moved: EPERM"),
        ] {
            let error = chosen(sock, obstacle, refused).unwrap_err();
            assert!(error.contains(says) && error.contains("--hooks=auto"), "{error}");
        }
    }

    #[test]
    fn what_both_families_need_fails_once() {
        let mut tries = 0;
        let failed = choose(None, None, |_| -> Result<(), _> {
            tries += 1;
            Err(ProbeError::Calibration)
        });
        assert!(matches!(failed, Err(ProbeError::Calibration)) && tries == 1);
    }
}
