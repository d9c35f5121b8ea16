//! Language runtimes that Spoor distinguishes.
//!
//! A [`Runtime`] decides which causality rules apply to a process. `recognise` finds it from the executable's name and
//! from the marks in its binary; `table.rs` has one row for each kind of executable. This room reads no file and knows
//! no process: its callers read for it.

mod rules;
mod table;

use serde::{Deserialize, Serialize};

pub use rules::{Rule, Rules};
pub(crate) use table::{Evidence, Recognised, recognise, without_version};

/// Kind of program that a process runs, as causality distinguishes them. Tapes hold these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Runtime {
    /// Nothing special is known: the thread rule may be tried, behind its gate.
    Unknown,
    /// nginx: one loop a process, proved to send the call in the turn that read the request.
    Nginx,
    /// Go: goroutines move between threads, so a thread does not identify a request.
    Go,
    /// Node.js, Deno, Bun: one event loop for all requests.
    Node,
    /// CPython.
    Python,
    /// A Java virtual machine.
    Jvm,
    /// Ruby.
    Ruby,
    /// Puma, a Ruby server: the reactor may read a request's head; one worker thread then works for that request alone
    /// until it has written the response.
    Puma,
    /// PHP.
    Php,
    /// Erlang: schedulers multiplex Erlang processes on threads.
    Beam,
    /// .NET.
    Dotnet,
    /// A program with an event loop that multiplexes requests (HAProxy, Envoy, a tokio program), or one whose binary
    /// may not be read and could be such a program.
    Loop,
}

impl Runtime {
    /// Returns the name shown to users; empty for [`Runtime::Unknown`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Nginx => "nginx",
            Self::Go => "Go",
            Self::Node => "Node.js",
            Self::Python => "Python",
            Self::Jvm => "JVM",
            Self::Ruby => "Ruby",
            Self::Puma => "Puma",
            Self::Php => "PHP",
            Self::Beam => "BEAM",
            Self::Dotnet => ".NET",
            Self::Loop => "event loop",
        }
    }

    /// Returns the runtime once the command line is known too: a Ruby process may be Puma.
    pub(crate) fn with_arguments(self, arguments: &[String]) -> Self {
        match self {
            Self::Ruby if is_puma(arguments) => Self::Puma,
            runtime => runtime,
        }
    }

    /// Returns the runtime to assume when the binary could not be read. The program may multiplex requests on one
    /// thread, so the thread rule must not be tried.
    pub(crate) fn of_unread_binary(self) -> Self {
        match self {
            Self::Unknown => Self::Loop,
            known => known,
        }
    }
}

/// Marks of a language or runtime that a binary holds, whatever the file is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Marks {
    /// None was found.
    #[default]
    None,
    /// Go's build information.
    Go {
        /// The version as Go writes it (`go1.26.1`); absent in binaries of Go before 1.18.
        version: Option<String>,
    },
    /// Source paths of Rust's standard library.
    Rust,
    /// The name of tokio's worker threads. Implies Rust.
    Tokio,
}

/// Recognises Puma by its script (`/usr/bin/puma`), or by the title that it sets (`puma 5.6.5 (tcp://…) [dir]`,
/// `puma: cluster worker 0: 42 [dir]`).
fn is_puma(arguments: &[String]) -> bool {
    // An interpreter's options come before the script.
    const FIRST_ARGUMENTS: usize = 4;
    arguments.iter().take(FIRST_ARGUMENTS).any(|argument| {
        let is_title = argument.starts_with("puma ") || argument.starts_with("puma: ");
        is_title || argument.trim_end_matches('/').rsplit('/').next() == Some("puma")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puma_is_recognised_by_script_and_title() {
        let with = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            Runtime::Ruby.with_arguments(&arguments)
        };
        assert_eq!(with(&["ruby", "-I.", "/usr/bin/puma", "-p", "80"]), Runtime::Puma);
        assert_eq!(with(&["puma 5.6.5 (tcp://0.0.0.0:80) [shop]"]), Runtime::Puma);
        assert_eq!(with(&["puma: cluster worker 0: 42 [shop]"]), Runtime::Puma);
        assert_eq!(with(&["ruby", "a", "b", "c", "puma"]), Runtime::Ruby);
        assert_eq!(with(&["ruby", "pumas.rb"]), Runtime::Ruby);
        assert_eq!(Runtime::Go.with_arguments(&["puma".to_owned()]), Runtime::Go);
    }

    #[test]
    fn an_unread_binary_may_be_an_event_loop() {
        assert_eq!(Runtime::Unknown.of_unread_binary(), Runtime::Loop);
        assert_eq!(Runtime::Nginx.of_unread_binary(), Runtime::Nginx);
    }
}
