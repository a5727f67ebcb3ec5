//! Where the endpoints of a set come from, and names to addresses.
//!
//! Owns the sources and what a change of theirs means for the set. Leaves names to `dns` below, and to `upstream` what
//! becomes of an endpoint that stays, comes or goes.

mod ask;
mod dns;
mod known;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addr::{EndpointAddr, Host};
use crate::upstream::{EndpointSpec, Upstream};

pub use dns::{NameView, Resolver};

/// The source of an upstream's set.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The entries of `endpoints`, each an endpoint whose addresses are raced.
    Fixed(Vec<EndpointSpec>),
    /// `dns`: each address of the name is an endpoint.
    Dns(EndpointAddr),
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

/// Keeps an upstream's set as its source says, for as long as it is polled. A source that gives nothing leaves the set
/// as it is: empty at the start, else the last one that it gave.
pub async fn follow(source: Source, resolver: Resolver, upstream: Arc<Upstream>) {
    follow_as(source, resolver, upstream, None).await
}

/// [`follow`] for an upstream with a `server_name` of its own: that is whom its certificates have to name, and not the
/// name that was looked up.
pub async fn follow_as(
    source: Source,
    resolver: Resolver,
    upstream: Arc<Upstream>,
    server_name: Option<String>,
) {
    match source {
        Source::Fixed(specs) => {
            for spec in &specs {
                resolver.prepare(&spec.address.host);
            }
            upstream.update(specs, Instant::now());
        }
        Source::Dns(EndpointAddr { host: Host::Ip(ip), port }) => {
            upstream.update(endpoints(&[ip], port, None), Instant::now());
        }
        Source::Dns(EndpointAddr { host: Host::Name(name), port }) => {
            let server_name = server_name.as_deref();
            let mut followed = resolver.follow(&name);
            let mut last = Vec::new();
            loop {
                let specs = endpoints_of(&name, port, server_name, &followed.next().await);
                if specs != last {
                    upstream.update(specs.clone(), Instant::now());
                    last = specs;
                }
            }
        }
    }
    std::future::pending().await
}

/// The endpoints that a name's addresses make: those that this host can reach, and whom their certificates have to name.
pub fn endpoints_of(
    name: &str,
    port: u16,
    server_name: Option<&str>,
    addresses: &[IpAddr],
) -> Vec<EndpointSpec> {
    let named = server_name.is_none().then_some(name);
    endpoints(&with_a_route(addresses, has_route), port, named)
}

/// Each address an endpoint. The certificate has to carry the name that was written: an address is what the DNS says
/// today, and the DNS is not to be trusted with whom we talk to.
fn endpoints(addresses: &[IpAddr], port: u16, name: Option<&str>) -> Vec<EndpointSpec> {
    let endpoint = |ip: &IpAddr| EndpointSpec {
        server_name: name.map(String::from),
        ..EndpointSpec::new(SocketAddr::new(*ip, port).into())
    };
    addresses.iter().map(endpoint).collect()
}

/// Leaves out a family that this host has no route for, while the other has one (RFC 6724, rule 1): on a host without
/// IPv6, half the endpoints of a dual-stack name would only ever fail. With no route at all, as early at boot, all stay.
fn with_a_route(addresses: &[IpAddr], has_route: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let reaches = |v4: bool| addresses.iter().any(|ip| ip.is_ipv4() == v4 && has_route(ip));
    let (v4, v6) = (reaches(true), reaches(false));
    let stays = |ip: &&IpAddr| v4 == v6 || ip.is_ipv4() == v4;
    addresses.iter().filter(stays).copied().collect()
}

/// Asks the kernel for its route; a UDP socket that is only connected sends nothing.
fn has_route(ip: &IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((*ip, 9))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(of: &[&str]) -> Vec<IpAddr> {
        of.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_family_without_a_route_is_left_out_only_while_the_other_has_one() {
        let both = ips(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
        assert_eq!(with_a_route(&both, IpAddr::is_ipv4), both[..2]);
        assert_eq!(with_a_route(&both, IpAddr::is_ipv6), both[2..]);
        assert_eq!(with_a_route(&both, |_| true), both);
        assert_eq!(with_a_route(&both, |_| false), both);
        assert!(has_route(&[127, 0, 0, 1].into()));
    }

    #[test]
    fn endpoints_of_a_name_are_checked_by_that_name() {
        let specs = endpoints(&ips(&["10.0.0.1", "::5"]), 5432, Some("db.example.com"));
        assert_eq!(specs[1].address.to_string(), "[::5]:5432");
        assert!(specs.iter().all(|spec| spec.server_name.as_deref() == Some("db.example.com")));
    }
}
