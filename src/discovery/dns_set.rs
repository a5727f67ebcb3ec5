//! `dns`: each address of a name is an endpoint.
//!
//! Owns what the addresses mean for the set. Leaves the look-ups, and how long an answer holds, to `dns`.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use super::dns::Followed;
use super::{Discover, Resolver};
use crate::addr::{EndpointAddr, Host};
use crate::failure::Failure;
use crate::upstream::EndpointSpec;

/// Follows a name. `server_name`: the upstream's own.
pub(super) fn discover(
    address: &EndpointAddr,
    resolver: &Resolver,
    server_name: Option<&str>,
) -> Box<dyn Discover> {
    let EndpointAddr { host, port } = address;
    match host {
        Host::Ip(ip) => Box::new(Once(Some(endpoints(&[*ip], *port, None)))),
        Host::Name(name) => Box::new(Name {
            followed: resolver.follow(name),
            name: name.clone(),
            port: *port,
            server_name: server_name.map(Into::into),
        }),
    }
}

/// A name that is followed.
struct Name {
    followed: Followed,
    name: Arc<str>,
    port: u16,
    server_name: Option<Box<str>>,
}

impl Discover for Name {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            let addresses = self.followed.next().await?;
            Ok(endpoints_of(&self.name, self.port, self.server_name.as_deref(), &addresses))
        })
    }
}

/// An address in the place of a name: there is nothing to look up.
struct Once(Option<Vec<EndpointSpec>>);

impl Discover for Once {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        let once = self.0.take();
        Box::pin(async move {
            match once {
                Some(specs) => Ok(specs),
                None => std::future::pending().await,
            }
        })
    }
}

/// The endpoints that a name's addresses make: those that this host can reach, and whom their certificates have to name.
fn endpoints_of(name: &str, port: u16, server_name: Option<&str>, addresses: &[IpAddr]) -> Vec<EndpointSpec> {
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

/// So many addresses of a family are asked for their route: where none of them has one, the others hardly have.
const TRIED: usize = 8;

/// Leaves out a family that this host has no route for, while the other has one (RFC 6724, rule 1): on a host without
/// IPv6, half the endpoints of a dual-stack name would only ever fail. With no route at all, as early at boot, all stay.
pub(super) fn with_a_route(addresses: &[IpAddr], has_route: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let reaches = |v4: bool| addresses.iter().filter(|ip| ip.is_ipv4() == v4).take(TRIED).any(&has_route);
    let (v4, v6) = (reaches(true), reaches(false));
    let stays = |ip: &&IpAddr| v4 == v6 || ip.is_ipv4() == v4;
    addresses.iter().filter(stays).copied().collect()
}

/// Asks the kernel for its route; a UDP socket that is only connected sends nothing.
pub(super) fn has_route(ip: &IpAddr) -> bool {
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
