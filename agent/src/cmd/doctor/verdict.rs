//! Verdict on the facts: what works, what does not, the consequence, and what to do.

use agent_ebpf::abi::CPU_LIMIT;

use super::facts::{Collector, Facts};
use crate::{
    preflight::{
        OLDEST_KERNEL, Problem, Tracefs,
        capability::{CAPABILITIES, Capability, Need, lacking},
        kernel_version, problems,
    },
    probe::{Family, Lost, Obstacle, Survey, Trial},
    process::{Peculiarity, Unseen},
};

/// Findings about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One line for each check.
    pub lines: Vec<Line>,
}

/// Outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Group that the check belongs to.
    pub group: Group,
    /// Name of the check.
    pub name: String,
    /// Outcome.
    pub state: State,
    /// Finding, for people.
    pub found: String,
    /// Consequence: something does not work, or works less well.
    pub cost: Option<String>,
    /// Advice: what the user can do.
    pub remedy: Option<String>,
}

/// Subject of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The kernel and what it allows.
    Kernel,
    /// Capabilities of this process.
    Rights,
    /// The eBPF programs.
    Programs,
    /// Traffic of the host that is not visible.
    Traffic,
    /// The machine and what else runs on it.
    Machine,
    /// Destinations of spans and metrics.
    Export,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is as it should be.
    Works,
    /// Part of tracing does not work.
    Lacks,
    /// Nothing can be traced.
    Stops,
    /// The check could not be made.
    Unknown,
    /// Information that is neither good nor bad.
    Note,
}

impl Group {
    /// All groups, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Kernel,
        Self::Rights,
        Self::Programs,
        Self::Traffic,
        Self::Machine,
        Self::Export,
    ];

    /// Returns the title.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Rights => "capabilities",
            Self::Programs => "eBPF programs",
            Self::Traffic => "traffic",
            Self::Machine => "machine",
            Self::Export => "export",
        }
    }

    /// Returns true if the lines are many of a kind.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Rights | Self::Programs)
    }
}

impl State {
    /// Returns the mark before a line.
    pub fn mark(self) -> char {
        match self {
            Self::Works => '✓',
            Self::Lacks | Self::Stops => '✗',
            Self::Unknown => '?',
            Self::Note => '·',
        }
    }

    /// Returns the name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Lacks => "lacks",
            Self::Stops => "stops",
            Self::Unknown => "unknown",
            Self::Note => "note",
        }
    }
}

impl Report {
    /// Returns true if anything can be traced.
    pub fn works(&self) -> bool {
        self.count(State::Stops) == 0
    }

    /// Returns the verdict in one sentence.
    pub fn summary(&self) -> String {
        let things = |count| match count {
            1 => "1 thing does".to_owned(),
            count => format!("{count} things do"),
        };
        let unknown = match self.count(State::Unknown) {
            0 => String::new(),
            count => format!(" ({count} could not be looked at, marked ?)"),
        };
        match (self.count(State::Stops), self.count(State::Lacks)) {
            (0, 0) if unknown.is_empty() => "Tracing works here, with all features.".to_owned(),
            (0, 0) => format!("Tracing works here{unknown}."),
            (0, lacks) => format!("Tracing works here; {} not, marked ✗{unknown}.", things(lacks)),
            (_, _) => format!("Tracing does NOT work here: see the lines marked ✗{unknown}."),
        }
    }

    fn count(&self, state: State) -> usize {
        self.lines.iter().filter(|line| line.state == state).count()
    }
}

impl Line {
    fn new(group: Group, name: impl Into<String>, state: State, found: impl Into<String>) -> Self {
        Self {
            group,
            name: name.into(),
            state,
            found: found.into(),
            cost: None,
            remedy: None,
        }
    }

    fn costs(self, cost: impl Into<String>) -> Self {
        Self {
            cost: Some(cost.into()),
            ..self
        }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// Consequence of a failed check that tracing needs.
const NOTHING: &str = "nothing can be traced";

/// Judges the facts.
pub fn verdict(facts: &Facts) -> Report {
    let mut lines = Vec::new();
    lines.extend(kernel(facts));
    lines.extend(rights(facts));
    match &facts.survey {
        Some(survey) => lines.extend(tried(survey, facts.ring_bytes)),
        None => lines.push(not_tried()),
    }
    lines.extend(traffic(facts));
    lines.extend(machine(facts));
    lines.extend(export(facts));
    Report { lines }
}

/// Judges the requirements of tracing, as [`problems`] does, one line each.
fn kernel(facts: &Facts) -> Vec<Line> {
    let system = &facts.system;
    let problems = problems(system);
    let line =
        |name: &str, well: String, is_it: fn(&Problem) -> bool| match problems.iter().find(|problem| is_it(problem)) {
            None => Line::new(Group::Kernel, name, State::Works, well),
            Some(problem) => Line::new(Group::Kernel, name, State::Stops, "does not allow tracing")
                .costs(NOTHING)
                .remedy(problem.to_string()),
        };
    let version = match kernel_version(&system.kernel) {
        Some(_) => format!(
            "{} ({}.{} or newer is needed)",
            system.kernel, OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ),
        None => format!(
            "{}, which is not a version number that spoor understands",
            system.kernel
        ),
    };
    let lockdown = match system.lockdown.as_deref() {
        Some(modes) => mode_in_force(modes),
        None => "none",
    };
    let mut lines = vec![
        line("version", version, |problem| {
            matches!(problem, Problem::OldKernel { .. })
        }),
        line("types", "/sys/kernel/btf/vmlinux can be read".to_owned(), |problem| {
            matches!(problem, Problem::NoBtf { .. })
        }),
        line("lockdown", lockdown.to_owned(), |problem| {
            matches!(problem, Problem::Lockdown)
        }),
        line("PID namespace", "the host's".to_owned(), |problem| {
            matches!(problem, Problem::PidNamespace)
        }),
        line("user namespace", "the host's".to_owned(), |problem| {
            matches!(problem, Problem::UserNamespace)
        }),
        tracefs(facts),
    ];
    lines.extend(facts.repairs.iter().map(|error| {
        Line::new(Group::Kernel, "preparation", State::Stops, "failed")
            .costs(NOTHING)
            .remedy(error.clone())
    }));
    lines
}

fn tracefs(facts: &Facts) -> Line {
    let line = |state, found| Line::new(Group::Kernel, "tracefs", state, found);
    match facts.system.tracefs {
        Tracefs::Readable => line(State::Works, "can be read"),
        Tracefs::NotMounted if facts.repairs.is_empty() => line(State::Works, "not mounted; `spoor run` mounts it"),
        Tracefs::NotMounted => line(State::Stops, "not mounted").costs(NOTHING),
        Tracefs::Unreadable => line(State::Stops, "cannot be read")
            .costs(NOTHING)
            .remedy("see CAP_DAC_READ_SEARCH below"),
    }
}

/// Returns the mode in brackets of `none [integrity] confidentiality`.
fn mode_in_force(modes: &str) -> &str {
    modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(mode, _)| mode)
}

/// Judges the capabilities that matter on this machine.
fn rights(facts: &Facts) -> Vec<Line> {
    let system = &facts.system;
    let line = |capability: &'static Capability| {
        let line = |state, found| Some(Line::new(Group::Rights, capability.name, state, found));
        let missing = |state, cost| {
            let remedy = "start spoor with sudo, or grant it (setcap, --cap-add): docs/capabilities.md";
            line(state, format!("missing: {}", capability.purpose)).map(|line| line.costs(cost).remedy(remedy))
        };
        match (capability.is_held(system.capabilities), capability.need(system)) {
            (true, _) => line(State::Works, capability.purpose.to_owned()),
            (false, Need::Always) => missing(State::Stops, NOTHING),
            (false, Need::Wanted) => missing(State::Lacks, capability.without),
            (false, Need::Never) => None,
        }
    };
    CAPABILITIES.iter().filter_map(line).collect()
}

fn not_tried() -> Line {
    Line::new(
        Group::Programs,
        "all",
        State::Unknown,
        "not tried: that needs CAP_BPF, CAP_PERFMON and tracefs",
    )
    .remedy("run `sudo spoor doctor`")
}

/// Joins one text of each, without repeats.
fn list<'a>(missing: &'a [Lost], text: impl Fn(&'a Lost) -> &'a str) -> String {
    let mut texts: Vec<&str> = missing.iter().map(text).collect();
    texts.dedup();
    texts.join(", ")
}

/// Judges the outcome of loading the programs.
fn tried(survey: &Survey, ring_bytes: u32) -> Vec<Line> {
    let Survey {
        missing_fields,
        registers,
        typed_loads,
        socket_events,
        family,
        maps,
        programs,
    } = survey;
    let kernel = |name, state, found: String| Line::new(Group::Kernel, name, state, found);
    let mut lines = vec![
        match missing_fields {
            Ok(missing) if missing.is_empty() => kernel("fields", State::Works, "all were found".to_owned()),
            Ok(missing) => kernel(
                "fields",
                State::Lacks,
                format!("missing: {}", list(missing, |lost| &lost.what)),
            )
            .costs(list(missing, |lost| lost.feature))
            .remedy("report it, with the kernel's version and where it comes from"),
            Err(why) => kernel("fields", State::Stops, why.clone()).costs(NOTHING),
        },
        match registers {
            Ok(()) => kernel(
                "registers",
                State::Works,
                "the arguments of system calls were found".to_owned(),
            ),
            Err(why) => kernel("registers", State::Stops, why.clone())
                .costs(NOTHING)
                .remedy("see the other lines; if they are fine, report it with the kernel's version"),
        },
        match typed_loads {
            Ok(()) => kernel(
                "typed loads",
                State::Works,
                "accepted: fields are read the fast way".to_owned(),
            ),
            Err(why) => kernel("typed loads", State::Lacks, why.clone())
                .costs("nothing is missing; each hooked system call takes longer")
                .remedy("nothing, or a newer kernel"),
        },
        events(socket_events, *family),
        match maps {
            Ok(()) => kernel(
                "ring buffer",
                State::Works,
                format!("{} MiB, with the other maps", ring_bytes >> 20),
            ),
            Err(why) => kernel("ring buffer", State::Stops, why.clone())
                .costs(NOTHING)
                .remedy("free memory, or ask for less with --ring-bytes and --max-connections"),
        },
    ];
    lines.extend(programs.iter().map(trial));
    lines
}

/// Judges the socket events, and tells which family of hooks an agent uses.
fn events(outcome: &Result<(), Obstacle>, family: Family) -> Line {
    let line = |state, found: String| Line::new(Group::Kernel, "socket events", state, found);
    let obstacle = match outcome {
        Ok(()) => {
            return line(
                State::Works,
                "used: bytes are seen there, and no system call is hooked".to_owned(),
            );
        }
        Err(obstacle) => obstacle,
    };
    const COST: &str = "nothing is missing; system calls are hooked instead, which slows each call of the host";
    match (family, obstacle) {
        (Family::Sock, _) => line(State::Stops, obstacle.to_string())
            .costs(NOTHING)
            .remedy("--hooks=auto takes the system calls where the socket events do not work"),
        (Family::Syscall, Obstacle::Refused(_)) => line(State::Lacks, obstacle.to_string())
            .costs(COST)
            .remedy("nothing; if this kernel should accept it, report it with the kernel's version"),
        (Family::Syscall, Obstacle::Absent | Obstacle::Unwanted) => line(State::Note, obstacle.to_string()).costs(COST),
    }
}

fn trial(trial: &Trial) -> Line {
    let Trial {
        program,
        tracepoint,
        feature,
        outcome,
    } = trial;
    let place = tracepoint.unwrap_or("called by the others");
    let line = |state, found| Line::new(Group::Programs, *program, state, found);
    match (outcome, feature) {
        (Ok(()), _) => line(State::Works, place.to_owned()),
        (Err(why), None) => line(State::Stops, format!("{place}: {why}"))
            .costs(NOTHING)
            .remedy("see the other lines; if they are fine, report it with the kernel's version"),
        (Err(why), Some(feature)) => line(State::Lacks, format!("{place}: {why}"))
            .costs(*feature)
            .remedy("a kernel that has this tracepoint; if it should, report it with the kernel's version"),
    }
}

fn traffic(facts: &Facts) -> Vec<Line> {
    let Unseen {
        looked_into,
        closed,
        thirty_two_bit,
        io_uring,
        spoors: _,
    } = &facts.unseen;
    let line = |name, state, found: String| Line::new(Group::Traffic, name, state, found);
    let hidden = |name, hidden: &[(u32, String)], cost, remedy| match hidden {
        [] if *looked_into == 0 => line(name, State::Unknown, "no process could be looked into".to_owned()),
        [] => line(name, State::Works, format!("none in {}", processes(*looked_into))),
        _ => line(name, State::Lacks, some(hidden)).costs(cost).remedy(remedy),
    };
    let shows = |peculiarity: Peculiarity| {
        facts
            .survey
            .as_ref()
            .is_some_and(|survey| !peculiarity.hides_from(survey.family))
    };
    let mut lines = vec![
        match io_uring.as_slice() {
            [_, ..] if shows(Peculiarity::IoUring) => {
                let found = match io_uring.len() {
                    1 => "1 process uses it, and is seen at the socket events".to_owned(),
                    count => format!("{count} processes use it, and are seen at the socket events"),
                };
                line("io_uring", State::Works, format!("{found}: {}", some(io_uring)))
            }
            _ => hidden(
                "io_uring",
                io_uring,
                "what these processes send and receive through it is not visible at system calls",
                "--hooks=auto on Linux 6.3 or newer; or, if they serve HTTP, switch it off in them (UV_USE_IO_URING=0 for Node)",
            ),
        },
        hidden(
            "32-bit programs",
            thirty_two_bit,
            "their traffic is not visible",
            "if they serve HTTP, use 64-bit builds of them",
        ),
    ];
    let lacks_ptrace = lacking(&facts.system, Need::Wanted).any(|capability| capability.name == "CAP_SYS_PTRACE");
    let found = format!("{} cannot be inspected", processes(closed.len()));
    match closed.as_slice() {
        [] => {}
        // They may be most of the host's, so a few names would say nothing.
        _ if lacks_ptrace => lines.push(
            line("closed processes", State::Unknown, found).remedy("run `sudo spoor doctor`, or add CAP_SYS_PTRACE"),
        ),
        _ => lines.push(
            line(
                "closed processes",
                State::Note,
                format!("{found} even by root (sandboxed): {}", some(closed)),
            )
            .costs("what they are is not known, so fewer of their calls have parents"),
        ),
    }
    let now = match facts.kernel_tls {
        Some(now) if now > 0 => format!(" ({now} connections by the kernel now)"),
        _ => String::new(),
    };
    lines.push(
        line("TLS", State::Note, format!("encrypted traffic is not visible yet{now}"))
            .costs("exchanges over TLS, kTLS included, have no spans"),
    );
    lines
}

fn processes(count: usize) -> String {
    let word = if count == 1 { "process" } else { "processes" };
    format!("{count} {word}")
}

/// Lists the first names, enough to know what is meant.
fn some(processes: &[(u32, String)]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = processes
        .iter()
        .take(SHOWN)
        .map(|(tgid, name)| format!("{name} ({tgid})"))
        .collect();
    if processes.len() > SHOWN {
        names.push(format!("{} more", processes.len() - SHOWN));
    }
    names.join(", ")
}

fn machine(facts: &Facts) -> Vec<Line> {
    let line = |name, state, found: String| Line::new(Group::Machine, name, state, found);
    let mut lines = vec![match facts.processors {
        Some(count) if count <= CPU_LIMIT => {
            line("processors", State::Works, format!("{count} of at most {CPU_LIMIT}"))
        }
        Some(count) => line("processors", State::Lacks, format!("{count}, above {CPU_LIMIT}"))
            .costs("processors above share counters of losses, which may say too little"),
        None => line("processors", State::Unknown, "their number cannot be read".to_owned()),
    }];
    lines.push(match facts.clock_source.as_deref() {
        Some(source @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) => line(
            "clock",
            State::Lacks,
            format!("{source}, which is slow to read or coarse"),
        )
        .costs("each hooked system call takes microseconds longer, and times are less exact")
        .remedy("find in the kernel's log why tsc was given up (dmesg | grep -i clocksource)"),
        Some(source) => line("clock", State::Works, source.to_owned()),
        None => line("clock", State::Unknown, "its source cannot be read".to_owned()),
    });
    if facts.clock_offset_s != 0 {
        lines.push(
            line(
                "time namespace",
                State::Lacks,
                format!("spoor's clock is {} s away from the kernel's", facts.clock_offset_s),
            )
            .costs("spans have wrong times, and wait for their parents too long or not at all")
            .remedy("start spoor in the host's time namespace"),
        );
    }
    lines.push(match (facts.unseen.spoors.as_slice(), facts.agent_answers) {
        ([], false) => line("other spoor", State::Works, "none runs".to_owned()),
        (spoors, _) => {
            let pids: Vec<String> = spoors.iter().map(u32::to_string).collect();
            let which = if pids.is_empty() {
                "one answers".to_owned()
            } else {
                format!("process {}", pids.join(", "))
            };
            line("other spoor", State::Note, which)
                .costs("processes traced by both are reported twice, and cost twice")
                .remedy("give them different selections, or stop one")
        }
    });
    lines
}

fn export(facts: &Facts) -> Vec<Line> {
    let line = |name, state, found: String| Line::new(Group::Export, name, state, found);
    let (address, outcome) = &facts.metrics;
    let running = !facts.unseen.spoors.is_empty() || facts.agent_answers;
    let metrics = match outcome {
        Ok(()) => line("metrics", State::Works, format!("{address} is free")),
        Err(_) if running => line(
            "metrics",
            State::Note,
            format!("{address} is in use, by the running spoor"),
        ),
        Err(why) => line("metrics", State::Lacks, format!("{address}: {why}"))
            .costs("no metrics and no health endpoint; tracing goes on")
            .remedy("choose another address with --metrics-listen"),
    };
    let collector = match &facts.collector {
        Collector::None => line(
            "collector",
            State::Note,
            "none is set: spans go to the terminal".to_owned(),
        )
        .remedy("set OTEL_EXPORTER_OTLP_ENDPOINT to send them to one (sudo -E keeps it)"),
        Collector::Wrong(why) => line("collector", State::Lacks, "the variables are not valid".to_owned())
            .costs("`spoor run` does not start with them")
            .remedy(why.clone()),
        Collector::At {
            address,
            reached: Ok(()),
        } => line("collector", State::Works, format!("{address} accepts connections")),
        Collector::At {
            address,
            reached: Err(why),
        } => line("collector", State::Lacks, format!("{address}: {why}"))
            .costs("spans wait in memory, and the oldest are lost when too many do")
            .remedy("start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT"),
    };
    vec![metrics, collector]
}
