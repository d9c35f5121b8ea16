//! Facts about the machine. Nothing is judged here, and nothing stays changed.

use std::{
    ffi::OsString,
    fs,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    config::{CONTROL_SOCKET, METRICS_ADDRESS},
    export::config::{Choice, ExportConfig, Target, names_endpoint},
    preflight::{self, Tracefs},
    probe::{self, Family, Survey},
    process::{ProcRoot, Unseen, unseen},
};

/// Longest wait for a connection to the collector, the look-up of its name included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Facts about the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Requirements of tracing.
    pub system: preflight::Facts,
    /// Errors of mounting tracefs, or of lifting the limit on locked memory, where that was needed.
    pub repairs: Vec<String>,
    /// Outcome of loading the programs; `None`: this process may not try.
    pub survey: Option<Survey>,
    /// Size of the ring buffer that was tried, bytes.
    pub ring_bytes: u32,
    /// Processors that this machine may have.
    pub processors: Option<u32>,
    /// The kernel's source of time, as `tsc`.
    pub clock_source: Option<String>,
    /// Seconds that this process's monotonic clock is ahead of the kernel's (time namespaces).
    pub clock_offset_s: i64,
    /// Other processes.
    pub unseen: Unseen,
    /// TLS connections that the kernel encrypts, in this network namespace; `None`: it knows no kTLS.
    pub kernel_tls: Option<u64>,
    /// An agent answers at its control socket.
    pub agent_answers: bool,
    /// Address that metrics would be served at, and the error of listening there.
    pub metrics: (SocketAddr, Result<(), String>),
    /// Destination of spans.
    pub collector: Collector,
}

/// Destination of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collector {
    /// No collector is named: spans go to the terminal.
    None,
    /// The environment's variables are not valid.
    Wrong(String),
    /// A collector, and the outcome of connecting to it.
    At {
        /// Host and port.
        address: String,
        /// The error of connecting.
        reached: Result<(), String>,
    },
}

impl Facts {
    /// Reads the machine, for an agent with this family of hooks. Programs are loaded for a moment; where tracefs is not mounted, it is for this process alone.
    ///
    /// # Errors
    /// If the process file system cannot be read.
    pub fn read(hooks: Option<Family>) -> anyhow::Result<Self> {
        let system = preflight::Facts::read()?;
        let settings = probe::Settings {
            hooks,
            ..probe::Settings::default()
        };
        let mut repairs = Vec::new();
        if system.tracefs == Tracefs::NotMounted
            && let Err(error) = preflight::mount_tracefs_for_self()
        {
            repairs.push(error.to_string());
        }
        if let Err(error) = preflight::raise_memlock() {
            repairs.push(error.to_string());
        }
        let may_try = preflight::may_load(&system) && system.tracefs != Tracefs::Unreadable && repairs.is_empty();
        let survey = may_try.then(|| probe::survey(&settings));
        Ok(Self {
            repairs,
            survey,
            ring_bytes: settings.ring_bytes,
            processors: first_line("/sys/devices/system/cpu/possible").and_then(|list| processors(&list)),
            clock_source: first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock_offset_s: fs::read_to_string("/proc/self/timens_offsets")
                .ok()
                .and_then(|text| clock_offset(&text))
                .unwrap_or(0),
            unseen: unseen(&ProcRoot::of_host()),
            kernel_tls: fs::read_to_string("/proc/net/tls_stat").ok().map(|text| tls_now(&text)),
            agent_answers: UnixStream::connect(CONTROL_SOCKET).is_ok(),
            metrics: (
                METRICS_ADDRESS,
                TcpListener::bind(METRICS_ADDRESS)
                    .map(drop)
                    .map_err(|error| error.to_string()),
            ),
            collector: collector(|name| std::env::var_os(name)),
            system,
        })
    }
}

fn first_line(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// Returns how many processors a list such as `0-3,8` has room for.
fn processors(list: &str) -> Option<u32> {
    let last = list.rsplit([',', '-']).next()?;
    last.trim().parse::<u32>().ok()?.checked_add(1)
}

/// Reads the seconds of the line `monotonic SECONDS NANOSECONDS` of /proc/self/timens_offsets (time_namespaces(7)).
fn clock_offset(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Sums `TlsCurr*` of /proc/net/tls_stat (Documentation/networking/tls.rst), sending sides only.
fn tls_now(text: &str) -> u64 {
    let value = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        matches!(name, "TlsCurrTxSw" | "TlsCurrTxDevice").then(|| value.trim().parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

fn collector<V: Into<OsString>>(env: impl Fn(&str) -> Option<V>) -> Collector {
    if !names_endpoint(&env) {
        return Collector::None;
    }
    let url = match ExportConfig::from_env(Choice::Otlp, env) {
        Ok(ExportConfig {
            target: Target::Grpc(endpoint) | Target::Http(endpoint, _),
            ..
        }) => endpoint.url,
        Ok(_) => return Collector::None,
        Err(error) => return Collector::Wrong(error.to_string()),
    };
    let port = url.port_u16().unwrap_or(match url.scheme_str() {
        Some("https") => 443,
        _ => 80,
    });
    let address = format!("{}:{port}", url.host().unwrap_or_default());
    Collector::At {
        reached: connect(&address),
        address,
    }
}

/// Tries to connect. The call that looks a name up takes no time limit, so it has a thread of its own.
fn connect(address: &str) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let name = address.to_owned();
    let connecting = move || {
        let attempt = || {
            let mut last = "the name has no address".to_owned();
            for address in name.to_socket_addrs().map_err(|error| error.to_string())? {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            Err(last)
        };
        // The caller may have given up.
        drop(tell.send(attempt()));
    };
    let started = thread::Builder::new().name("spoor-doctor".to_owned()).spawn(connecting);
    if let Err(error) = started {
        return Err(error.to_string());
    }
    told.recv_timeout(CONNECT_TIMEOUT)
        .unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(processors("0"), Some(1));
        assert_eq!(processors("0-3"), Some(4));
        assert_eq!(processors("0-3,8-11\n"), Some(12));
        assert_eq!(processors(""), None);
        assert_eq!(
            clock_offset("monotonic     -86400         5\nboottime 0 0\n"),
            Some(-86_400)
        );
        assert_eq!(clock_offset(""), None);
        assert_eq!(
            tls_now("TlsCurrTxSw                     \t3\nTlsCurrRxSw \t9\nTlsCurrTxDevice\t1\nTlsTxSw\t7\n"),
            4
        );
    }

    #[test]
    fn a_collector_is_reached_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ask = |value: String| collector(move |name| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| value.clone()));
        assert_eq!(
            ask(format!("http://{address}")),
            Collector::At {
                address: address.clone(),
                reached: Ok(())
            }
        );
        drop(listener);
        let Collector::At { reached: Err(why), .. } = ask(format!("http://{address}")) else {
            panic!("nobody listens there");
        };
        assert!(why.contains("refused"), "{why}");
        assert!(matches!(ask("nonsense".to_owned()), Collector::Wrong(why) if why.contains("nonsense")));
        assert_eq!(collector(|_| None::<OsString>), Collector::None);
    }
}
