//! Verdicts on tables of facts.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    facts::{Collector, Facts},
    json, text,
    verdict::{Group, Line, State, verdict},
};
use crate::{
    preflight::{self, Tracefs},
    probe::{Family, Lost, Obstacle, Survey, Trial},
    process::Unseen,
};

/// A machine on which all is well.
fn good() -> Facts {
    let trial = |program, tracepoint, feature| Trial {
        program,
        tracepoint,
        feature,
        outcome: Ok(()),
    };
    Facts {
        system: preflight::Facts {
            capabilities: u64::MAX,
            pid_namespace: 0xEFFF_FFFC,
            user_namespace: Some(0xEFFF_FFFD),
            kernel: "6.12.1-amd64".to_owned(),
            has_btf: true,
            lockdown: Some("none [integrity] confidentiality\n".to_owned()),
            tracefs: Tracefs::Readable,
            memlock_unlimited: true,
        },
        repairs: vec![],
        survey: Some(Survey {
            missing_fields: Ok(vec![]),
            registers: Ok(()),
            typed_loads: Ok(()),
            socket_events: Ok(()),
            family: Family::Sock,
            maps: Ok(()),
            programs: vec![
                trial("report_call", None, None),
                trial("read_exit", Some("sys_exit_read"), None),
                trial("readv_exit", Some("sys_exit_readv"), Some("bytes by readv(2)")),
            ],
        }),
        ring_bytes: 8 << 20,
        processors: Some(4),
        clock_source: Some("tsc".to_owned()),
        clock_offset_s: 0,
        unseen: Unseen {
            looked_into: 70,
            ..Unseen::default()
        },
        kernel_tls: Some(0),
        agent_answers: false,
        metrics: (SocketAddr::from((Ipv4Addr::LOCALHOST, 9469)), Ok(())),
        collector: Collector::At {
            address: "collector:4318".to_owned(),
            reached: Ok(()),
        },
    }
}

/// Lines that are not as on the good machine: name, state, and all that is said.
fn changed(facts: &Facts) -> Vec<(String, State, String)> {
    let usual = verdict(&good()).lines;
    let said = |line: Line| {
        let parts = [Some(line.found), line.cost, line.remedy];
        (
            line.name,
            line.state,
            parts.into_iter().flatten().collect::<Vec<_>>().join(" | "),
        )
    };
    let lines = verdict(facts).lines.into_iter();
    lines.filter(|line| !usual.contains(line)).map(said).collect()
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = good();
    change(&mut facts);
    facts
}

fn with_survey(change: impl FnOnce(&mut Survey)) -> Facts {
    with(|facts| change(facts.survey.as_mut().unwrap()))
}

fn with_events(family: Family, obstacle: Obstacle) -> Facts {
    with_survey(|survey| {
        survey.family = family;
        survey.socket_events = Err(obstacle);
    })
}

fn refused_events() -> Obstacle {
    Obstacle::Refused(Lost {
        what: "sock_send".to_owned(),
        feature: "the socket events",
        reason: "EPERM".to_owned(),
    })
}

#[test]
fn all_is_well() {
    let report = verdict(&good());
    assert!(report.works());
    let odd = report.lines.iter().filter(|line| line.state != State::Works);
    assert_eq!(odd.map(|line| line.name.as_str()).collect::<Vec<_>>(), ["TLS"]);
    assert_eq!(report.summary(), "Tracing works here, with all features.");
}

#[test]
fn one_thing_at_a_time() {
    let refused = || Err("the BPF_PROG_LOAD syscall failed: EACCES … R1 invalid mem access".to_owned());
    let without = |number: u32| with(|facts| facts.system.capabilities = !(1 << number));
    let cases: [(Facts, &str, State, &str); 35] = [
        (
            with(|facts| facts.system.kernel = "4.18.0".into()),
            "version",
            State::Stops,
            "needs 5.10 or newer",
        ),
        (
            with(|facts| facts.system.has_btf = false),
            "types",
            State::Stops,
            "CONFIG_DEBUG_INFO_BTF",
        ),
        (
            with(|facts| facts.system.lockdown = Some("none [confidentiality]".into())),
            "lockdown",
            State::Stops,
            "lockdown=integrity",
        ),
        (
            with(|facts| facts.system.pid_namespace = 1),
            "PID namespace",
            State::Stops,
            "--pid=host",
        ),
        (
            with(|facts| facts.system.user_namespace = Some(1)),
            "user namespace",
            State::Stops,
            "--userns=host",
        ),
        (
            with(|facts| facts.system.tracefs = Tracefs::NotMounted),
            "tracefs",
            State::Works,
            "`spoor run` mounts it",
        ),
        (
            with(|facts| facts.repairs = vec!["ulimit".into()]),
            "preparation",
            State::Stops,
            "ulimit",
        ),
        (without(2), "CAP_DAC_READ_SEARCH", State::Works, ""),
        (without(19), "CAP_SYS_PTRACE", State::Lacks, "--cap-add"),
        (without(23), "CAP_SYS_NICE", State::Lacks, "records may be lost"),
        (
            with_survey(|survey| {
                survey.missing_fields = Ok(vec![Lost {
                    what: "sock.sk_err".to_owned(),
                    feature: "why a connection ended",
                    reason: "no such field".to_owned(),
                }]);
            }),
            "fields",
            State::Lacks,
            "missing: sock.sk_err",
        ),
        (
            with_survey(|survey| survey.missing_fields = Err("cut".into())),
            "fields",
            State::Stops,
            "cut",
        ),
        (
            with_survey(|survey| survey.registers = refused()),
            "registers",
            State::Stops,
            "EACCES",
        ),
        (
            with_survey(|survey| survey.typed_loads = refused()),
            "typed loads",
            State::Lacks,
            "takes longer",
        ),
        (
            with_events(Family::Syscall, Obstacle::Absent),
            "socket events",
            State::Note,
            "Linux 6.3 and newer | nothing is missing",
        ),
        (
            with_events(Family::Syscall, Obstacle::Unwanted),
            "socket events",
            State::Note,
            "--hooks=syscall was given",
        ),
        (
            with_events(Family::Syscall, refused_events()),
            "socket events",
            State::Lacks,
            "sock_send: EPERM | nothing is missing; system calls are hooked",
        ),
        (
            with_events(Family::Sock, refused_events()),
            "socket events",
            State::Stops,
            "sock_send: EPERM | nothing can be traced | --hooks=auto",
        ),
        (
            with_survey(|survey| survey.maps = refused()),
            "ring buffer",
            State::Stops,
            "--ring-bytes",
        ),
        (
            with_survey(|survey| survey.programs[1].outcome = refused()),
            "read_exit",
            State::Stops,
            "sys_exit_read: the BPF_PROG_LOAD syscall failed: EACCES … R1 invalid mem access | nothing can be traced",
        ),
        (
            with_survey(|survey| survey.programs[2].outcome = refused()),
            "readv_exit",
            State::Lacks,
            "| bytes by readv(2) |",
        ),
        (
            with(|facts| facts.survey = None),
            "all",
            State::Unknown,
            "sudo spoor doctor",
        ),
        (
            with(|facts| facts.unseen.io_uring = vec![(1, "node".into())]),
            "io_uring",
            State::Works,
            "1 process uses it, and is seen at the socket events: node (1)",
        ),
        (
            with(|facts| facts.unseen.io_uring = vec![(1, "node".into()), (2, "ringd".into())]),
            "io_uring",
            State::Works,
            "2 processes use it, and are seen at the socket events: node (1), ringd (2)",
        ),
        (
            with(|facts| {
                facts.survey.as_mut().unwrap().family = Family::Syscall;
                facts.unseen.io_uring = (1..8).map(|pid| (pid, "node".into())).collect();
            }),
            "io_uring",
            State::Lacks,
            "node (1), node (2), node (3), node (4), node (5), 2 more | ",
        ),
        (
            with(|facts| facts.unseen.thirty_two_bit = vec![(9, "old".into())]),
            "32-bit programs",
            State::Lacks,
            "old (9) | their traffic",
        ),
        (
            with(|facts| facts.unseen.closed = (1..8).map(|pid| (pid, "box".into())).collect()),
            "closed processes",
            State::Note,
            "7 processes cannot be inspected even by root (sandboxed): box (1), box (2), box (3), box (4), box (5), 2 more | ",
        ),
        (
            with(|facts| facts.unseen.closed = vec![(9, "sandbox".into())]),
            "closed processes",
            State::Note,
            "1 process cannot be inspected even by root (sandboxed): sandbox (9)",
        ),
        (
            with(|facts| facts.kernel_tls = Some(5)),
            "TLS",
            State::Note,
            "5 connections by the kernel",
        ),
        (
            with(|facts| facts.processors = Some(1024)),
            "processors",
            State::Lacks,
            "1024",
        ),
        (
            with(|facts| facts.clock_source = Some("hpet".into())),
            "clock",
            State::Lacks,
            "slow",
        ),
        (
            with(|facts| facts.clock_offset_s = -60),
            "time namespace",
            State::Lacks,
            "-60 s",
        ),
        (
            with(|facts| facts.unseen.spoors = vec![4, 5]),
            "other spoor",
            State::Note,
            "process 4, 5",
        ),
        (
            with(|facts| facts.metrics.1 = Err("Address already in use".into())),
            "metrics",
            State::Lacks,
            "127.0.0.1:9469: Address already in use | no metrics",
        ),
        (
            with(|facts| {
                facts.collector = Collector::At {
                    address: "c:4317".into(),
                    reached: Err("refused".into()),
                }
            }),
            "collector",
            State::Lacks,
            "c:4317: refused | ",
        ),
    ];
    for (facts, name, state, says) in cases {
        let found = changed(&facts);
        // CAP_DAC_OVERRIDE does as well as CAP_DAC_READ_SEARCH.
        if state == State::Works && says.is_empty() {
            assert_eq!(found, [], "{name}");
            continue;
        }
        let [(line, line_state, said)] = found.as_slice() else {
            panic!("{name}: {found:?}");
        };
        assert_eq!((line.as_str(), *line_state), (name, state), "{said}");
        assert!(said.contains(says), "{name}: {said:?} does not say {says:?}");
        assert_eq!(verdict(&facts).works(), state != State::Stops, "{name}");
    }
}

#[test]
fn without_any_right() {
    let facts = with(|facts| {
        facts.system.capabilities = 0;
        facts.system.tracefs = Tracefs::Unreadable;
        facts.survey = None;
        facts.unseen.looked_into = 0;
        facts.unseen.closed = vec![(9, "sandbox".into())];
    });
    let report = verdict(&facts);
    assert!(!report.works());
    let state = |name: &str| {
        report
            .lines
            .iter()
            .find(|line| line.name == name)
            .map(|line| line.state)
    };
    for name in ["CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH", "tracefs"] {
        assert_eq!(state(name), Some(State::Stops), "{name}");
    }
    for name in ["io_uring", "32-bit programs", "closed processes", "all"] {
        assert_eq!(state(name), Some(State::Unknown), "{name}");
    }
    // What would change nothing here is not asked for.
    assert_eq!(state("CAP_SYS_ADMIN"), None);
    assert_eq!(state("CAP_SYS_RESOURCE"), None);
    assert!(report.summary().contains("does NOT work"), "{}", report.summary());
}

#[test]
fn people_see_what_is_wrong_and_how_much_is_well() {
    let facts = with_survey(|survey| survey.programs[2].outcome = Err("No such file or directory".to_owned()));
    let text = text(&verdict(&facts));
    let expected = "\neBPF programs
  ✓ 2 of 3: report_call, read_exit
  ✗ readv_exit  sys_exit_readv: No such file or directory
    costs bytes by readv(2)
    do    a kernel that has this tracepoint; if it should, report it with the kernel's version
";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.starts_with("Tracing works here; 1 thing does not, marked ✗.\n"),
        "{text}"
    );
    for group in Group::ALL {
        assert!(text.contains(&format!("\n{}\n", group.name())), "{text}");
    }
}

#[test]
fn programs_see_every_line() {
    let report = verdict(&good());
    let value: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
    assert_eq!(value["works"], true);
    assert_eq!(value["checks"].as_array().unwrap().len(), report.lines.len());
    let last = &value["checks"][report.lines.len() - 1];
    assert_eq!(
        *last,
        serde_json::json!({
            "group": "export", "name": "collector", "state": "works",
            "found": "collector:4318 accepts connections", "costs": null, "do": null,
        })
    );
}
