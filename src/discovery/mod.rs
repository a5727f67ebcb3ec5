//! Where the endpoints of a set come from, and names to addresses.
//!
//! Owns the sources and what a change of theirs means for the set. Leaves names to `dns` below, and to `upstream` what
//! becomes of an endpoint that stays, comes or goes.

mod ask;
pub mod consul;
mod dns;
mod dns_set;
pub mod file;
mod http;
mod known;
pub mod kubernetes;
mod origin;
mod reading;
mod servers;
mod share;
mod srv;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addr::EndpointAddr;
use crate::failure::{Failure, Reason, Stage};
use crate::upstream::{EndpointSpec, Upstream};

pub use dns::{NameView, Resolver};
pub use origin::Origin;
pub use srv::SrvName;

/// The source of an upstream's set.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The entries of `endpoints`, each an endpoint whose addresses are raced.
    Fixed(Vec<EndpointSpec>),
    /// `dns`: each address of the name is an endpoint.
    Dns(EndpointAddr),
    /// `srv`: each target of the name's SRV records is an endpoint.
    Srv(SrvName),
    /// `consul`: each instance of a service that passes its checks is an endpoint.
    Consul(Box<consul::Settings>),
    /// `file`: the endpoints that it names.
    File(PathBuf),
    /// `kubernetes`: the endpoints of a Service.
    Kubernetes(Box<kubernetes::Settings>),
}

/// What it is called in a report.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Fixed(_) => f.write_str("endpoints"),
            Source::Dns(name) => name.fmt(f),
            Source::Srv(name) => name.fmt(f),
            Source::Consul(settings) => f.write_str(&settings.service),
            Source::File(path) => path.display().fmt(f),
            Source::Kubernetes(settings) => f.write_str(&settings.service),
        }
    }
}

/// What keeps a set as its source says.
pub trait Discover: Send {
    /// The next answer: waits until there is one to give, also when it is that of before.
    ///
    /// # Errors
    /// It could not be asked, or not understood. How soon it is asked again after that is its own affair.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>>;
}

impl Source {
    /// What follows it; `None`: it never changes. `server_name`: the upstream's own, which is then whom its certificates have
    /// to name, and not the name that was looked up.
    pub fn discover(&self, resolver: &Resolver, server_name: Option<&str>) -> Option<Box<dyn Discover>> {
        match self {
            Source::Fixed(_) => None,
            Source::Dns(address) => Some(dns_set::discover(address, resolver, server_name)),
            Source::Srv(name) => Some(srv::discover(name, resolver, server_name)),
            Source::Consul(settings) => Some(consul::discover(settings, resolver)),
            Source::File(path) => Some(file::discover(path)),
            Source::Kubernetes(settings) => Some(kubernetes::discover(settings, resolver)),
        }
    }
}

/// How names are looked up: `[dns]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsSettings {
    /// DNS servers to ask; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// Answers are kept at least this long.
    pub ttl_floor: Duration,
    /// Answers are kept at most this long.
    pub ttl_ceiling: Duration,
    /// Time one look-up may take.
    pub timeout: Duration,
}

impl DnsSettings {
    /// How long an answer holds that has this TTL. `config` has checked that the floor is below the ceiling; were it not,
    /// the floor holds.
    fn holds(&self, ttl: Duration) -> Duration {
        ttl.min(self.ttl_ceiling).max(self.ttl_floor)
    }
}

impl Default for DnsSettings {
    fn default() -> Self {
        DnsSettings {
            servers: Vec::new(),
            ttl_floor: Duration::from_secs(1),
            ttl_ceiling: Duration::from_secs(300),
            timeout: Duration::from_secs(3),
        }
    }
}

/// So many names of a set are looked up before somebody is to connect to them.
const PREPARED: usize = 64;

/// Keeps an upstream's set as its source says, for as long as it is polled. A source that fails, or gives nothing, leaves the
/// set as it is: empty at the start, else the last one that it gave. Nothing at all is more often a registry that has lost
/// its memory than a service that has ended, and whoever has ended shows that by itself.
pub async fn follow(
    source: Source,
    resolver: Resolver,
    upstream: Arc<Upstream>,
    server_name: Option<String>,
) {
    if let Source::Fixed(specs) = &source {
        for spec in specs {
            resolver.prepare(&spec.address.host);
        }
        upstream.update(specs.clone(), Instant::now());
    }
    let Some(mut discover) = source.discover(&resolver, server_name.as_deref()) else {
        return std::future::pending().await;
    };
    loop {
        let answer = match discover.next().await {
            Ok(specs) if specs.is_empty() => Err(names_nobody()),
            answer => answer,
        };
        // Their first connections need not wait for it. Of thousands, the DNS is not to be asked at once.
        for spec in answer.iter().flatten().take(PREPARED) {
            resolver.prepare(&spec.address.host);
        }
        upstream.learn(answer, Instant::now());
    }
}

/// What is wrong with a source that answers, and names no endpoint.
pub fn names_nobody() -> Failure {
    Failure::upstream(
        Stage::Resolve,
        Reason::DestinationUnavailable,
        "its source answers, and names no endpoint",
    )
    .mend("see whether the service is registered there, under this very name")
}
