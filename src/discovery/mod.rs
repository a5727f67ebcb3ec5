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
mod token;

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

    /// What is wrong with the files that it is asked with, as far as that can be seen before.
    pub fn complaints(&self) -> Vec<String> {
        match self {
            Source::Consul(settings) => settings.complaints(),
            Source::Fixed(_) | Source::Dns(_) | Source::Srv(_) | Source::File(_) | Source::Kubernetes(_) => {
                Vec::new()
            }
        }
    }

    /// Does it name the same endpoints as another one, and only ask for them otherwise: as somebody else, in another order?
    /// Then the last that either gave may stay in use. Else it may not, since the file that is in force does not name them.
    pub fn names_the_same(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::Fixed(_), Source::Fixed(_)) => true, // the new ones are known at once
            (Source::Dns(_), _) | (Source::Srv(_), _) | (Source::File(_), _) | (Source::Fixed(_), _) => {
                self == other
            }
            (Source::Consul(one), Source::Consul(other)) => one.names_the_same(other),
            (Source::Kubernetes(one), Source::Kubernetes(other)) => one.names_the_same(other),
            (Source::Consul(_) | Source::Kubernetes(_), _) => false,
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

/// More endpoints than any upstream has: whoever names so many has lost his mind, or his filter.
const MOST: usize = 20_000;

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
        let answer = discover.next().await.and_then(plausible);
        // Their first connections need not wait for it. Of thousands, the DNS is not to be asked at once.
        for spec in answer.iter().flatten().take(PREPARED) {
            resolver.prepare(&spec.address.host);
        }
        upstream.learn(answer, Instant::now());
    }
}

/// An answer, if it names as many endpoints as an upstream may have.
///
/// # Errors
/// It names none, or far too many.
pub fn plausible(specs: Vec<EndpointSpec>) -> Result<Vec<EndpointSpec>, Failure> {
    let odd = |detail: String| {
        Err(Failure::upstream(Stage::Resolve, Reason::DestinationUnavailable, detail)
            .mend("see whether the service is registered there, under this very name"))
    };
    match specs.len() {
        0 => odd("its source answers, and names no endpoint".to_owned()),
        count if count > MOST => {
            odd(format!("its source names {count} endpoints, and {MOST} at most are taken"))
        }
        _ => Ok(specs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_and_far_too_many_are_no_answer() {
        let specs = |count| plausible(vec![EndpointSpec::new("10.0.0.1:5432".parse().unwrap()); count]);
        assert!(specs(0).unwrap_err().detail.contains("names no endpoint"));
        assert_eq!(specs(MOST).unwrap().len(), MOST);
        assert!(specs(MOST + 1).unwrap_err().detail.contains("20001 endpoints"));
    }

    /// What only says how the same endpoints are asked for, and what says that they are others.
    #[test]
    fn sources_name_the_same_whoever_asks_and_in_whatever_order() {
        let consul = consul::Settings {
            service: "a".into(),
            address: "http://127.0.0.1:8500".parse().unwrap(),
            tag: None,
            datacenter: None,
            token_file: None,
            near: None,
            ca: None,
            certificate: None,
            key: None,
        };
        let kubernetes = kubernetes::Settings {
            service: "a".into(),
            namespace: None,
            port: None,
            api: None,
            token_file: None,
            ca: None,
        };
        let before = Source::Consul(Box::new(consul.clone()));
        let same = |now: consul::Settings| before.names_the_same(&Source::Consul(Box::new(now)));
        assert!(same(consul::Settings { token_file: Some("/t".into()), ..consul.clone() }));
        assert!(same(consul::Settings { near: Some("_agent".into()), ..consul.clone() }));
        assert!(same(consul::Settings { key: Some("/k".into()), ca: Some("/c".into()), ..consul.clone() }));
        assert!(!same(consul::Settings { service: "b".into(), ..consul.clone() }));
        assert!(!same(consul::Settings { tag: Some("t".into()), ..consul.clone() }));
        assert!(!same(consul::Settings { datacenter: Some("dc2".into()), ..consul.clone() }));
        assert!(!same(consul::Settings { address: "http://127.0.0.1:1".parse().unwrap(), ..consul.clone() }));
        let before = Source::Kubernetes(Box::new(kubernetes.clone()));
        let same = |now: kubernetes::Settings| before.names_the_same(&Source::Kubernetes(Box::new(now)));
        assert!(same(kubernetes::Settings { token_file: Some("/t".into()), ..kubernetes.clone() }));
        assert!(!same(kubernetes::Settings { namespace: Some("n".into()), ..kubernetes.clone() }));
        assert!(!same(kubernetes::Settings { port: Some("p".into()), ..kubernetes }));
        assert!(!before.names_the_same(&Source::Consul(Box::new(consul))));
        assert!(!Source::File("/a.json".into()).names_the_same(&Source::File("/b.json".into())));
    }
}
