//! A small shop of services in eight languages without instrumentation, watched by Spoor. Shows whole traces, and
//! checks all of them against the log of the services.
//!
//! `cargo xtask demo` installs what it needs, builds it and runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use spoor_tests::{
    agent::{Agent, Recorder, binary},
    compare::{Expectation, Fault, Report, compare, root},
    net,
    otlp::Span,
    render,
    services::{Server, Service, route},
    truth::Event,
};

/// Visits to the shop: path, expected status, and the point of the visit.
const VISITS: [(&str, u16, &str); 4] = [
    ("/checkout", 200, "one request, eight services"),
    ("/pay", 502, "a failing call: the bank answers 500"),
    ("/newsletter", 502, "a call to a dead service"),
    ("/report", 200, "a slow call: the ledger takes 250 ms"),
];
const VISITORS: usize = 4;

/// Shows how Spoor sees a small shop of uninstrumented services
#[derive(Parser)]
struct Arguments {
    /// Number of requests to send
    #[arg(long, default_value_t = 300)]
    requests: usize,
    /// Leave the shop running until Ctrl-C, with a request now and then and an agent that prints traces
    #[arg(long)]
    keep: bool,
    /// Also export the traces to this OTLP endpoint.
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.requests >= VISITS.len(),
        "--requests: at least {} are needed to show something",
        VISITS.len()
    );
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle Ctrl-C")?;
    }
    let shop = Shop::open()?;
    let until = if arguments.keep {
        "until Ctrl-C"
    } else {
        "until the demo ends (`cargo xtask demo -- --keep` leaves it open)"
    };
    println!("The shop is open {until}: {}", shop.front().url("/checkout"));

    let exporter = arguments
        .otlp
        .as_deref()
        .map(|endpoint| watcher(&shop, Some(endpoint)))
        .transpose()?;
    let agent = Recorder::start(&shop.selection()?)?;
    println!("Sending {} requests, {VISITORS} at a time …\n", arguments.requests);
    visit(&shop, arguments.requests, &stop)?;
    // nginx logs after it has answered.
    sleep(Duration::from_millis(300));
    let (spans, said) = agent.finish()?;
    let outcome = Outcome::new(&shop, &spans)?;
    outcome.show(&spans);

    if arguments.keep && !stop.load(Ordering::Relaxed) {
        keep(&shop, exporter, &stop)?;
    } else if let Some(exporter) = exporter {
        exporter.finish()?;
    }
    outcome
        .check(arguments.requests)
        .with_context(|| format!("the agent said:\n{said}"))?;
    println!(
        "\nNext, your own services: `cargo xtask build`, then for what serves port 8080: sudo spoor run --port 8080"
    );
    Ok(())
}

struct Shop {
    /// Services of the shop; the last one is the front.
    services: Vec<Service>,
}

impl Shop {
    fn open() -> Result<Self> {
        let dead = format!("http://{}/subscribe", net::free_address());
        let mut services = Vec::new();
        let mut open = |server, name: &str, routes: &[String]| -> Result<String> {
            let service = Service::start(server, name, routes)?;
            let url = service.url("");
            services.push(service);
            Ok(url)
        };
        let stock = open(Server::Go, "stock", &[route("/stock", 200, 2, &[])])?;
        let rates = open(Server::Node, "rates", &[route("/rates", 200, 3, &[])])?;
        let bank = open(
            Server::Perl,
            "bank",
            &[route("/transfer", 500, 5, &[]), route("/limits", 200, 4, &[])],
        )?;
        let ledger = open(
            Server::Jdk,
            "ledger",
            &[
                route("/book", 200, 2, &[format!("{bank}/limits")]),
                route("/pay", 200, 0, &[format!("{bank}/transfer")]),
                route("/sums", 200, 250, &[]),
            ],
        )?;
        let price = open(
            Server::Php,
            "price",
            &[route("/price", 200, 1, &[format!("{rates}/rates")])],
        )?;
        let cart = open(
            Server::Puma { reactor: false },
            "cart",
            &[route(
                "/cart",
                200,
                1,
                &[format!("{stock}/stock/17"), format!("{stock}/stock/42")],
            )],
        )?;
        let shop = open(
            Server::GunicornSync,
            "shop",
            &[
                route(
                    "/checkout",
                    200,
                    1,
                    &[
                        format!("{cart}/cart"),
                        format!("{price}/price"),
                        format!("{ledger}/book"),
                    ],
                ),
                route("/pay", 200, 0, &[format!("{ledger}/pay")]),
                route("/newsletter", 200, 0, &[dead]),
                route("/report", 200, 0, &[format!("{ledger}/sums")]),
            ],
        )?;
        let upstream = shop.trim_start_matches("http://").parse()?;
        open(
            Server::NginxProxy {
                upstream,
                keepalive: false,
            },
            "front",
            &[],
        )?;
        Ok(Self { services })
    }

    fn front(&self) -> &Service {
        self.services.last().expect("an open shop has services")
    }

    fn selection(&self) -> Result<Vec<String>> {
        let selections = self
            .services
            .iter()
            .map(Service::selection)
            .collect::<Result<Vec<_>>>()?;
        Ok(selections.concat())
    }

    fn truth(&self) -> Result<Vec<Event>> {
        let truths = self.services.iter().map(Service::truth).collect::<Result<Vec<_>>>()?;
        Ok(truths.concat())
    }
}

/// Sends that many requests, and fails unless each is answered as expected.
fn visit(shop: &Shop, requests: usize, stop: &AtomicBool) -> Result<()> {
    let next = AtomicUsize::new(0);
    let visitor = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= requests {
                return Ok(());
            }
            ensure!(!stop.load(Ordering::Relaxed), "stopped");
            one_visit(shop, number, &format!("visit-{number}"))?;
        }
    };
    std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS).map(|_| scope.spawn(visitor)).collect();
        visitors
            .into_iter()
            .try_for_each(|visitor| visitor.join().expect("a visitor does not panic"))
    })
}

fn one_visit(shop: &Shop, number: usize, id: &str) -> Result<()> {
    // Most visitors check out.
    let (path, expected, _) = *VISITS.get(number % 8).unwrap_or(&VISITS[0]);
    let status = net::get(shop.front().address, path, &[("x-request-id", id)])?;
    ensure!(
        status == expected,
        "{path} of the shop answered {status}, not {expected}"
    );
    Ok(())
}

struct Outcome {
    report: Report,
    traces: usize,
    complete: usize,
    wrong: usize,
}

impl Outcome {
    fn new(shop: &Shop, spans: &[Span]) -> Result<Self> {
        let events = shop.truth()?;
        let titled = shop
            .services
            .iter()
            .filter(|service| service.titled)
            .map(|service| service.name.clone())
            .collect();
        let report = compare(
            &events,
            spans,
            &Expectation {
                titled,
                ..Expectation::default()
            },
        );
        let traces: BTreeSet<_> = events.iter().map(|event| root(&event.id)).collect();
        let with = |only_wrong: bool| {
            let differences = report.differences.iter();
            let counted = differences.filter(|d| !only_wrong || !matches!(d.fault, Fault::Missing | Fault::NoParent));
            counted.map(|difference| root(&difference.id)).collect::<BTreeSet<_>>()
        };
        let (complete, wrong) = (traces.difference(&with(false)).count(), with(true).len());
        let traces = traces.len();
        Ok(Self {
            report,
            traces,
            complete,
            wrong,
        })
    }

    fn show(&self, spans: &[Span]) {
        let mut traces = BTreeMap::<_, Vec<&Span>>::new();
        for span in spans {
            traces.entry(&span.trace_id).or_default().push(span);
        }
        for (path, _, what) in VISITS {
            let is_such = |span: &&Span| span.parent_id.is_empty() && span.text("url.path") == Some(path);
            if let Some(root) = spans.iter().find(is_such) {
                println!("{path}: {what}\n{}", render::tree(&traces[&root.trace_id]));
            }
        }
        println!("{}", render::table(spans));
        println!(
            "{} traces, {} complete, {} wrong, against the services' own logs",
            self.traces, self.complete, self.wrong
        );
    }

    fn check(&self, requests: usize) -> Result<()> {
        if (self.traces, self.complete, self.wrong) != (requests, requests, 0) {
            bail!("not every trace is whole and right:\n{}", self.report);
        }
        Ok(())
    }
}

/// Starts an agent that exports to `endpoint`, or else prints traces.
fn watcher(shop: &Shop, endpoint: Option<&str>) -> Result<Agent> {
    let selection = shop.selection()?;
    match endpoint {
        Some(endpoint) => {
            let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
            Agent::start(&selection, "otlp", &environment, Stdio::inherit())
        }
        None => Agent::start(&selection, "console", &[], Stdio::inherit()),
    }
}

/// Sends a visit every second until Ctrl-C, with an agent that prints its trace.
fn keep(shop: &Shop, exporter: Option<Agent>, stop: &AtomicBool) -> Result<()> {
    let mut watcher = exporter.map_or_else(|| watcher(shop, None), Ok)?;
    println!(
        "The shop stays open, with a visit every second: {}  (Ctrl-C ends it)",
        shop.front().url("/checkout")
    );
    if let Some(metrics) = watcher.metrics_address() {
        println!("Metrics of the agent: http://{metrics}/metrics");
    }
    println!("What it traces, and why: sudo {} ps\n", binary()?.display());
    for number in 0.. {
        sleep(Duration::from_secs(1));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        watcher.check_running()?;
        one_visit(shop, number, &format!("kept-{number}"))?;
    }
    watcher.finish().map(drop)
}
