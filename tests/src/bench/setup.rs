//! Services under load, the way of their spans, and a run of load with and without the agent.

use std::{fmt, net::SocketAddr, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use super::{
    agent::{Agent, Output, SELECTION_TIME},
    proc::{self, Usage},
    rig::{Rig, Service, Side},
    sink::{Sink, settle},
    span_file::SpanFile,
};

/// Time without a new span after which a round is over.
const PATIENCE: Duration = Duration::from_secs(3);

/// Server under load. Each has connections that stay open, and a small response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Server {
    /// nginx with a file of 1 KiB
    #[default]
    Nginx,
    /// Node's http
    Node,
    /// Go's net/http
    Go,
}

/// Where the agent's spans go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Where {
    /// To a collector
    #[default]
    Otlp,
    /// Into a file, as lines of JSON
    OtlpJson,
}

/// How spans go to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// OTLP/gRPC
    Grpc,
    /// OTLP/HTTP, as protobuf
    Http,
}

/// Services under load, and the way of their spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct Setup {
    /// The server
    #[arg(long, value_enum, default_value_t)]
    server: Server,

    /// Send each request through nginx, over connections that stay open; both are traced
    #[arg(long)]
    proxy: bool,

    /// Where the spans go
    #[arg(long, value_enum, default_value_t)]
    output: Where,

    /// How they go to a collector [default: grpc]
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
}

impl Setup {
    /// nginx, with spans over gRPC: the default.
    const NGINX: Self = Self {
        server: Server::Nginx,
        proxy: false,
        output: Where::Otlp,
        protocol: None,
    };
    /// The default, behind a proxy.
    pub const PROXY: Self = Self {
        proxy: true,
        ..Self::NGINX
    };
    /// The default, with Node.
    pub const NODE: Self = Self {
        server: Server::Node,
        ..Self::NGINX
    };
    /// The default, with Go.
    pub const GO: Self = Self {
        server: Server::Go,
        ..Self::NGINX
    };
    /// The default, with spans as JSON in a file.
    pub const JSON: Self = Self {
        output: Where::OtlpJson,
        ..Self::NGINX
    };
    /// The default, with spans over HTTP.
    pub const HTTP: Self = Self {
        protocol: Some(Protocol::Http),
        ..Self::NGINX
    };

    /// Returns whether the spans go into a file.
    pub fn is_json(self) -> bool {
        self.output == Where::OtlpJson
    }

    /// Returns the number of spans that belong to a request: with a proxy, those of the client's request and of both ends
    /// of the proxy's.
    fn spans_a_request(self) -> u64 {
        if self.proxy { 3 } else { 1 }
    }
}

impl fmt::Display for Setup {
    /// Writes the options that are not the default, each after a blank.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            proxy,
            output,
            protocol,
        } = self;
        match server {
            Server::Nginx => {}
            Server::Node => f.write_str(" --server node")?,
            Server::Go => f.write_str(" --server go")?,
        }
        if *proxy {
            f.write_str(" --proxy")?;
        }
        match (output, protocol) {
            (Where::OtlpJson, _) => f.write_str(" --output otlp-json"),
            (Where::Otlp, Some(Protocol::Http)) => f.write_str(" --protocol http"),
            (Where::Otlp, Some(Protocol::Grpc) | None) => Ok(()),
        }
    }
}

/// Services under load.
pub struct Bed<'a> {
    rig: &'a Rig,
    setup: Setup,
    /// The one that the load calls comes first.
    services: Vec<Service>,
    /// Runs so far.
    runs: u32,
}

/// A load that was answered.
pub trait Answered {
    /// Returns the number of responses.
    fn responses(&self) -> u64;
}

/// Costs of a load, from before it until its last span had arrived.
#[derive(Clone, Copy, Debug)]
pub struct Run<A> {
    /// Answers to the load.
    pub answered: A,
    /// Processor time of the services.
    pub services: Usage,
}

/// Costs and yield of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Traced {
    /// CPU time of the agent, in ns.
    pub cpu_ns: u64,
    /// Number of spans that arrived.
    pub spans: u64,
    /// Number of spans that the responses give.
    pub expected: u64,
}

impl Traced {
    /// Returns the share of the expected spans that arrived. It may be a little above 1: a load that ends abandons requests
    /// that are answered all the same.
    pub fn coverage(&self) -> f64 {
        self.spans as f64 / self.expected as f64
    }
}

impl<'a> Bed<'a> {
    /// Starts the services. Each has the path of a program that is traced.
    pub fn start(rig: &'a Rig, setup: Setup) -> Result<Self> {
        let server = match setup.server {
            Server::Nginx => rig.nginx(Side::Traced),
            Server::Node => rig.node(Side::Traced),
            Server::Go => rig.go(Side::Traced),
        }?;
        let proxy = setup.proxy.then(|| rig.proxy(Side::Traced, server.address));
        let mut services = vec![server];
        if let Some(proxy) = proxy.transpose()? {
            services.insert(0, proxy);
        }
        let this = Self {
            rig,
            setup,
            services,
            runs: 0,
        };
        ensure!(
            this.setup.protocol.is_none() || !this.setup.is_json(),
            "--protocol is for --output otlp"
        );
        Ok(this)
    }

    /// Returns the address that the load calls.
    pub fn address(&self) -> SocketAddr {
        self.services[0].address
    }

    /// Runs a load while no program is loaded.
    pub fn without<A: Answered>(&self, load: impl FnOnce() -> Result<A>) -> Result<Run<A>> {
        let before = self.usage()?;
        let answered = load()?;
        Ok(Run {
            answered,
            services: self.usage()?.since(before),
        })
    }

    /// Runs a load under an agent that is started for it, and ready before the load begins.
    pub fn with<A: Answered>(&mut self, load: impl FnOnce() -> Result<A>) -> Result<(Run<A>, Traced)> {
        let mut launch = self.rig.launch()?;
        let mut spans = self.destination(&mut launch.output);
        let agent = Agent::start(&launch)?;
        sleep(SELECTION_TIME);
        let (services, cpu_ns) = (self.usage()?, proc::usage(agent.id())?.cpu_ns);
        let answered = load()?;
        let expected = answered.responses() * self.setup.spans_a_request();
        let arrived = settle(|| spans.count(), expected, PATIENCE);
        let run = Run {
            answered,
            services: self.usage()?.since(services),
        };
        let traced = Traced {
            cpu_ns: proc::usage(agent.id())?.cpu_ns - cpu_ns,
            spans: arrived,
            expected,
        };
        agent.finish()?;
        ensure!(arrived > 0, "no span came of {expected}");
        Ok((run, traced))
    }

    fn usage(&self) -> Result<Usage> {
        self.services.iter().map(Service::usage).sum()
    }

    /// Sends an agent's spans where the setup says. Returns the counter of those that come from now on.
    fn destination(&mut self, output: &mut Output) -> Spans<'a> {
        let sink = &self.rig.sink;
        if self.setup.is_json() {
            self.runs += 1;
            let path = self.rig.path().join(format!("spans-{}.jsonl", self.runs));
            *output = Output::Json(path.clone());
            return Spans::File(SpanFile::new(path));
        }
        *output = match self.setup.protocol {
            Some(Protocol::Http) => Output::Http(sink.http),
            Some(Protocol::Grpc) | None => Output::Grpc(sink.grpc),
        };
        Spans::Sink {
            sink,
            before: sink.spans(),
        }
    }
}

/// Counter of the spans of one run.
enum Spans<'a> {
    /// Spans that arrive at the sink.
    Sink {
        sink: &'a Sink,
        /// Number of spans before the run.
        before: u64,
    },
    /// Spans in a file.
    File(SpanFile),
}

impl Spans<'_> {
    fn count(&mut self) -> u64 {
        match self {
            Self::Sink { sink, before } => sink.spans() - *before,
            Self::File(file) => file.count(),
        }
    }
}
