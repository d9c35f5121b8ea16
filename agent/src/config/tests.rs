use std::{path::PathBuf, time::Duration};

use super::*;

fn parse(line: &str, environment: &[(&str, &str)]) -> Result<Invocation, String> {
    let arguments = line.split_whitespace().map(OsString::from);
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    Invocation::new(arguments, variable).map_err(|error| error.to_string())
}

fn run(line: &str) -> RunSettings {
    match parse(line, &[]).unwrap().command {
        Command::Run(settings) => settings,
        other => panic!("{other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(line, &[]).unwrap_err()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn without_options_all_is_at_its_default() {
    let expected = RunSettings {
        trace: TraceSettings {
            selection: Selection::default(),
            control: Some("/run/spoor/control.sock".into()),
            launch: None,
            core: CoreSettings {
                span_names: SpanNames::Template,
                routes: vec![],
                ignore: vec![],
                request_headers: vec![],
                response_headers: vec![],
                secrets: SecretNames::default(),
                body_sizes: false,
                known_methods: None,
                include_telemetry: false,
                sampler: Sampler::default(),
                max_connections: 65_536,
                hold: Duration::from_secs(10),
                hold_bytes: 16 * 1024 * 1024,
                idle_timeout: Duration::from_secs(900),
            },
            hooks: Hooks::Auto,
            ring_bytes: 8 * 1024 * 1024,
        },
        output: Output::Console,
        queue_bytes: 64 << 20,
        metrics_listen: Some("127.0.0.1:9469".parse().unwrap()),
    };
    assert_eq!(run("spoor run"), expected);
    assert!(expected.trace.selection.is_empty());
}

#[test]
fn options_and_the_command_are_read() {
    let settings = run(
        "spoor run --pid 7 --pid 8 --exe nginx --port 80 --output otlp-json=x=y --as-root \
         --span-names method --route /users/{id} --capture-request-header X-Request-Id \
         --capture-request-header x-request-id --capture-response-header Server --capture-body-sizes --include-telemetry \
         --hooks syscall --ring-bytes 1048576 --max-connections 5 --hold-seconds 0 --hold-bytes 1KiB --idle-timeout 90s \
         --metrics-listen off --queue-bytes 1MiB --container web --cgroup /system.slice/*.service --control /tmp/x --ignore /healthz --ignore user-agent:x/* -- curl --pid 9",
    );
    let expected = RunSettings {
        trace: TraceSettings {
            selection: Selection {
                pids: vec![7, 8],
                exes: vec!["nginx".parse().unwrap()],
                ports: vec![80],
                containers: vec!["web".to_owned()],
                cgroups: vec!["/system.slice/*.service".parse().unwrap()],
            },
            control: Some("/tmp/x".into()),
            launch: Some(LaunchSettings {
                command: ["curl", "--pid", "9"].map(OsString::from).to_vec(),
                as_root: true,
            }),
            core: CoreSettings {
                span_names: SpanNames::Method,
                routes: vec!["/users/{id}".parse().unwrap()],
                ignore: ["/healthz", "user-agent:x/*"]
                    .map(|rule| rule.parse().unwrap())
                    .to_vec(),
                request_headers: vec!["x-request-id".parse().unwrap()],
                response_headers: vec!["server".parse().unwrap()],
                secrets: SecretNames::default(),
                body_sizes: true,
                known_methods: None,
                include_telemetry: true,
                sampler: Sampler::default(),
                max_connections: 5,
                hold: Duration::ZERO,
                hold_bytes: 1024,
                idle_timeout: Duration::from_secs(90),
            },
            hooks: Hooks::Syscall,
            ring_bytes: 1024 * 1024,
        },
        output: Output::OtlpJson(Some(PathBuf::from("x=y"))),
        queue_bytes: 1 << 20,
        metrics_listen: None,
    };
    assert_eq!(settings, expected);
}

#[test]
fn ps_has_the_selection_and_asks_the_agent_there_is() {
    let ps = |line: &str| match parse(line, &[]).unwrap().command {
        Command::Ps(settings) => settings,
        other => panic!("{other:?}"),
    };
    let expected = PsSettings {
        selection: Selection::default(),
        asked: Asked::Usual,
        json: false,
        watch: false,
        all: false,
    };
    assert_eq!(ps("spoor ps"), expected);
    let settings = ps("spoor ps --control off --json --watch --all --port 80 --pid 7 --container web --cgroup /a");
    let rules = ["--pid 7", "--port 80", "--container web", "--cgroup /a"];
    assert_eq!(settings.selection.rules(), rules);
    assert_eq!(settings.asked, Asked::Nobody);
    assert!(settings.json && settings.watch && settings.all);
    // The user says that an agent listens there, even if it is the default.
    let at = |path: &str| ps(&format!("spoor ps --control {path}")).asked;
    assert_eq!(at("/tmp/c.sock"), Asked::At("/tmp/c.sock".into()));
    assert_eq!(at(CONTROL_SOCKET), Asked::At(CONTROL_SOCKET.into()));
}

#[test]
fn places_that_cannot_be_are_refused() {
    assert!(error("spoor run --container a/b").contains("container's name"));
    assert!(error("spoor run --container=").contains("container's name"));
    for pattern in ["nginx.service", "/", ""] {
        let error = error(&format!("spoor run --cgroup={pattern}"));
        assert!(error.contains("as /system.slice/nginx.service"), "{error}");
    }
    assert!(error("spoor run --cgroup /a/[b").contains("/system.slice/nginx.service"));
    assert!(error("spoor ps --control=").contains("or off"));
    assert!(error("spoor run --ignore healthz").contains("as '/healthz'"));
}

#[test]
fn doctor_looks_at_the_hooks_that_an_agent_would_use() {
    let doctor = |line: &str| match parse(line, &[]).unwrap().command {
        Command::Doctor(DoctorSettings { json, hooks }) => (json, hooks),
        other => panic!("{other:?}"),
    };
    assert_eq!(doctor("spoor doctor"), (false, Hooks::Auto));
    assert_eq!(doctor("spoor doctor --json --hooks=sock"), (true, Hooks::Sock));
}

#[test]
fn record_and_replay_name_their_tape() {
    match parse("spoor record -o a.tape --port 80", &[]).unwrap().command {
        Command::Record(RecordSettings { trace, file, redact: _ }) => {
            assert_eq!((trace.selection.ports, file), (vec![80], PathBuf::from("a.tape")));
        }
        other => panic!("{other:?}"),
    }
    match parse("spoor replay a.tape --output otlp-json", &[]).unwrap().command {
        Command::Replay(settings) => assert_eq!(
            settings,
            ReplaySettings {
                file: PathBuf::from("a.tape"),
                output: Output::OtlpJson(None),
                queue_bytes: 64 << 20,
            }
        ),
        other => panic!("{other:?}"),
    }
    assert!(error("spoor record --port 80").contains("--output <FILE>"));
}

#[test]
fn an_endpoint_in_the_environment_makes_otlp_the_default() {
    let output = |line, environment: &[(&str, &str)]| match parse(line, environment).unwrap().command {
        Command::Run(RunSettings { output, .. }) | Command::Replay(ReplaySettings { output, .. }) => output,
        other => panic!("{other:?}"),
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    assert_eq!(output("spoor run", &[endpoint]), Output::Otlp);
    assert_eq!(output("spoor replay t", &[endpoint]), Output::Otlp);
    assert_eq!(
        output("spoor run", &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "x")]),
        Output::Otlp
    );
    assert_eq!(
        output("spoor run", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
        Output::Console
    );
    assert_eq!(output("spoor run --output console", &[endpoint]), Output::Console);
}

#[test]
fn the_log_level_comes_from_the_option_then_from_the_environment() {
    let level = |line, value| {
        let invocation = parse(line, &[("OTEL_LOG_LEVEL", value)]).unwrap();
        (invocation.log_level, invocation.warnings.len())
    };
    assert_eq!(level("spoor run", "DEBUG"), (LogLevel::Debug, 0));
    assert_eq!(level("spoor run", ""), (LogLevel::Info, 0));
    assert_eq!(level("spoor run", "loud"), (LogLevel::Info, 1));
    assert_eq!(level("spoor run --log-level warn", "loud"), (LogLevel::Warn, 0));
    assert!(error("spoor run --log-level loud").contains("off, error, warn, info, debug, trace"));
}

#[test]
fn the_sampler_comes_from_the_environment() {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
    let sampler = |line, environment: &[(&str, &str)]| {
        let invocation = parse(line, environment)?;
        let (Command::Run(RunSettings { trace, .. }) | Command::Record(RecordSettings { trace, .. })) =
            invocation.command
        else {
            panic!("only these two have one");
        };
        Ok::<_, String>((trace.core.sampler, invocation.warnings.len()))
    };
    let named = |name, ratio| Sampler::new(name, ratio).unwrap().0;
    assert_eq!(sampler("spoor run", &[(NAME, "")]), Ok((Sampler::default(), 0)));
    assert_eq!(
        sampler("spoor run", &[(NAME, "parentbased_traceidratio"), (RATIO, "0.1")]),
        Ok((named("parentbased_traceidratio", Some("0.1")), 0))
    );
    assert_eq!(
        sampler("spoor record -o t", &[(NAME, "always_off"), (RATIO, "0.1")]),
        Ok((named("always_off", None), 1))
    );
    assert_eq!(sampler("spoor run", &[(RATIO, "0.1")]), Ok((Sampler::default(), 1)));
    let wrong = sampler("spoor run", &[(NAME, "traceidratio"), (RATIO, "2")]).unwrap_err();
    assert!(
        wrong.starts_with("error: OTEL_TRACES_SAMPLER_ARG=2: give the part"),
        "{wrong}"
    );
    // A tape has its own.
    assert!(parse("spoor replay t", &[(NAME, "nonsense")]).is_ok());
}

#[test]
fn names_of_secrets_are_added_to_the_default_list_or_to_the_environments() {
    const LIST: &str = "OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS";
    let query = |line, list| {
        let invocation = parse(line, &[(LIST, list)]).unwrap();
        let Command::Run(settings) = invocation.command else {
            panic!("this is spoor run");
        };
        let secrets = settings.trace.core.secrets;
        // As a tape has it.
        let json = serde_json::to_string(&secrets).unwrap();
        assert_eq!(serde_json::from_str::<SecretNames>(&json).unwrap(), secrets);
        secrets.query("sig=1&Token=2&session_key=3&hash=4&pin=5").into_owned()
    };
    assert_eq!(
        query("spoor run", ""),
        "sig=REDACTED&Token=REDACTED&session_key=3&hash=4&pin=5"
    );
    assert_eq!(
        query("spoor run --redact-query sessionKey --redact-query PIN", ""),
        "sig=REDACTED&Token=REDACTED&session_key=REDACTED&hash=4&pin=REDACTED"
    );
    assert_eq!(
        query("spoor run --redact-query pin", "hash, Pin"),
        "sig=1&Token=2&session_key=3&hash=REDACTED&pin=REDACTED"
    );
}

#[test]
fn errors_say_what_would_be_right() {
    for (line, says) in [
        ("spoor run --pid 0", "from 1 to 4194304"),
        ("spoor run --pid nginx", "`pgrep NAME` finds them"),
        ("spoor run --exe [", "[[] for a bracket"),
        ("spoor run --exe bin/nginx", "**/bin/nginx"),
        ("spoor run --pid -1", "from 1 to 4194304"),
        ("spoor run --port 65536", "from 1 to 65535"),
        ("spoor run --port 0", "from 1 to 65535"),
        ("spoor run --port -80", "from 1 to 65535"),
        ("spoor run --hold-seconds 1.5", "whole seconds from 0 to 3600"),
        ("spoor run --hold-seconds -1", "whole seconds from 0 to 3600"),
        ("spoor run --hold-seconds 3601", "whole seconds from 0 to 3600"),
        ("spoor run --max-connections 0", "from 1 to 4194304"),
        ("spoor run --max-connections many", "from 1 to 4194304"),
        ("spoor run --ring-bytes 7MiB", "power of two"),
        ("spoor run --ring-bytes 4096", "from 64KiB"),
        ("spoor run --ring-bytes many", "8MiB or 64KiB"),
        ("spoor run --output otlp-json=", "otlp-json=FILE"),
        ("spoor run --output zipkin", "console, otlp, otlp-json"),
        ("spoor run --output console=x", "console, otlp, otlp-json"),
        ("spoor run --metrics-listen localhost", "127.0.0.1:9469"),
        ("spoor run --capture-request-header x-id:", "without a colon"),
        ("spoor run --queue-bytes 1KiB", "at least 64KiB"),
        ("spoor run --redact-query a=b", "name of a query parameter"),
        ("spoor run --redact-query=", "name of a query parameter"),
        ("spoor run --route users", "begins with a slash"),
        ("spoor run --route /a?b", "without query"),
        ("spoor run --route /v{n}/x", "a whole segment"),
        ("spoor run --route /a/*/b", "only the last segment"),
        ("spoor run --route /{}", "a placeholder has a name"),
        ("spoor run --idle-timeout 5", "with its unit"),
        ("spoor run --idle-timeout 0s", "at least 1s"),
        ("spoor run --hooks kprobe", "auto, sock, syscall"),
        ("spoor run --as-root", "-- <CMD>"),
        ("spoor run curl", "unexpected argument 'curl'"),
        ("spoor", "Usage: spoor"),
    ] {
        let error = error(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn globs_fit_file_names_or_whole_paths() {
    let fits = |glob: &str, exe: &str| glob.parse::<ExeGlob>().unwrap().matches(exe.as_ref());
    for (glob, exe, expected) in [
        ("nginx", "/usr/sbin/nginx", true),
        ("nginx", "/nginx/other", false),
        ("python3*", "/usr/bin/python3.13", true),
        ("/usr/bin/*", "/usr/bin/perl", true),
        ("/usr/*", "/usr/bin/perl", false),
        ("/opt/**", "/opt/shop/bin/a", true),
        ("**/bin/perl", "/usr/bin/perl", true),
        ("*", "/anything", true),
    ] {
        assert_eq!(fits(glob, exe), expected, "{glob} {exe}");
    }
}

#[test]
fn cores_settings_survive_a_tape() {
    let core = run("spoor run --route /{id} --hold-seconds 3").trace.core;
    let json = serde_json::to_string(&core).unwrap();
    assert_eq!(serde_json::from_str::<CoreSettings>(&json).unwrap(), core);
    // Those that were recorded before there was a sampler, and a choice of secrets.
    let mut older: serde_json::Value = serde_json::from_str(&json).unwrap();
    older.as_object_mut().unwrap().remove("sampler").unwrap();
    older.as_object_mut().unwrap().remove("secrets").unwrap();
    assert_eq!(serde_json::from_value::<CoreSettings>(older).unwrap(), core);
}

/// Tapes of all versions have this text: values are written as they were given, and headers in lower case.
#[test]
fn cores_settings_are_written_as_they_were_given() {
    let arguments = [
        "spoor",
        "run",
        "--route",
        "/a/{id}",
        "--ignore",
        " GET  /static/** ",
        "--capture-request-header",
        "X-B",
        "--capture-request-header",
        "x-a",
        "--redact-query",
        "Session-Key",
    ];
    let environment = |name: &str| match name {
        "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS" => Some("GET, PROPFIND,".into()),
        "OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS" => Some("Sig".into()),
        _ => None,
    };
    let invocation = Invocation::new(arguments.map(OsString::from), environment).unwrap();
    let Command::Run(settings) = invocation.command else {
        panic!("this is spoor run");
    };
    let core = settings.trace.core;
    let json = r#"{"span_names":"Template","routes":["/a/{id}"],"ignore":[" GET  /static/** "],"request_headers":["x-a","x-b"],"response_headers":[],"secrets":{"exact":["Sig"],"words":["sessionkey"],"endings":[]},"body_sizes":false,"known_methods":"GET, PROPFIND,","include_telemetry":false,"sampler":{"parent_based":true,"threshold":0},"max_connections":65536,"hold":{"secs":10,"nanos":0},"hold_bytes":16777216,"idle_timeout":{"secs":900,"nanos":0}}"#;
    assert_eq!(serde_json::to_string(&core).unwrap(), json);
    assert_eq!(serde_json::from_str::<CoreSettings>(json).unwrap(), core);
    for (good, bad, error) in [
        (
            "/a/{id}",
            "/a{id}",
            r#""/a{id}": `a{id}`: a placeholder has a name and is a whole segment"#,
        ),
        ("GET  /static", "get /static", "`get` is not a method"),
        ("x-a", "x a", r#""x a": a header name has letters"#),
    ] {
        let told = serde_json::from_str::<CoreSettings>(&json.replace(good, bad)).unwrap_err();
        assert!(told.to_string().contains(error), "{told}");
    }
}

#[test]
fn tapes_are_redacted_where_asked_for() {
    let record = |line: &str| match parse(line, &[]).unwrap().command {
        Command::Record(settings) => settings.redact,
        other => panic!("{other:?}"),
    };
    assert!(!record("spoor record -o a.tape"));
    assert!(record("spoor record --redact -o a.tape"));
    let Command::Redact(settings) = parse("spoor redact a.tape -o b.tape", &[]).unwrap().command else {
        panic!("this is spoor redact");
    };
    assert_eq!((settings.file, settings.output), ("a.tape".into(), "b.tape".into()));
    // A tape is not replaced by what was made of it.
    assert!(error("spoor redact a.tape").contains("--output"));
}

#[test]
fn help_has_the_limits_last() {
    let headings = |line: &str| {
        let help = error(line);
        let words = ["Options", "Selection", "Spans", "Limits", "Examples"];
        let lines = help
            .lines()
            .filter_map(|line| line.strip_suffix(':').map(str::to_owned));
        lines
            .filter(|heading| words.contains(&heading.as_str()))
            .collect::<Vec<_>>()
    };
    let all = ["Options", "Selection", "Spans", "Limits", "Examples"];
    assert_eq!(headings("spoor run --help"), all);
    assert_eq!(headings("spoor record --help"), all);
    assert_eq!(headings("spoor replay --help"), ["Options", "Limits", "Examples"]);
}

#[test]
fn help_names_hooks_and_launched_commands_where_they_are() {
    assert!(error("spoor doctor --help").contains("Which kernel hooks capture traffic"));
    assert!(error("spoor run --help").contains("Beside a launched command"));
    assert!(
        !error("spoor replay --help").contains("command"),
        "{}",
        error("spoor replay --help")
    );
}

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Command::Completions(shell) = parse(&format!("spoor completions {shell}"), &[]).unwrap().command else {
            panic!("this is spoor completions");
        };
        let script = String::from_utf8(completions(shell)).unwrap();
        for command in ["run", "record", "replay", "redact", "doctor", "--ring-bytes"] {
            let word = command.trim_start_matches('-');
            assert!(script.contains(word), "{shell}: {command}");
        }
    }
}

#[test]
fn the_kernel_sides_defaults_are_the_command_lines() {
    let settings = run("spoor run");
    let kernel = crate::probe::Settings::default();
    assert_eq!(
        (settings.trace.ring_bytes, settings.trace.core.max_connections),
        (kernel.ring_bytes, kernel.connections)
    );
}
