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
            Self::Python if has_green_workers(arguments) => Self::Loop,
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

/// Recognises a gunicorn whose workers run many requests on one thread (`-k eventlet`, `--worker-class=gevent`). eventlet
/// takes a socket out of its epoll set before it reads, so nothing else shows its loop.
fn has_green_workers(arguments: &[String]) -> bool {
    let is_green = |class: &str| class.starts_with("eventlet") || class.starts_with("gevent");
    let mut before = "";
    arguments.iter().any(|argument| {
        let class = match before {
            "-k" | "--worker-class" => Some(argument.as_str()),
            _ => argument
                .strip_prefix("--worker-class=")
                .or_else(|| argument.strip_prefix("-k")),
        };
        before = argument;
        class.is_some_and(is_green)
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
    fn green_workers_of_gunicorn_are_loops() {
        let with = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            Runtime::Python.with_arguments(&arguments)
        };
        for line in [
            "python3 /usr/bin/gunicorn -k eventlet shop:app",
            "python3 /usr/bin/gunicorn shop:app --worker-class gevent",
            "gunicorn -kgevent_pywsgi shop:app",
            "gunicorn --worker-class=eventlet shop:app",
        ] {
            assert_eq!(with(line), Runtime::Loop, "{line}");
        }
        for line in [
            "gunicorn -k gthread eventlet:app",
            "gunicorn --workers 2 gevent:app",
            "python3 eventlet",
        ] {
            assert_eq!(with(line), Runtime::Python, "{line}");
        }
    }

    #[test]
    fn an_unread_binary_may_be_an_event_loop() {
        assert_eq!(Runtime::Unknown.of_unread_binary(), Runtime::Loop);
        assert_eq!(Runtime::Nginx.of_unread_binary(), Runtime::Nginx);
    }
}
