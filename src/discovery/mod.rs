//! Where the endpoints of a set come from, and names to addresses.
use std::net::SocketAddr;
use std::time::Duration;

use crate::addr::EndpointAddr;
use crate::upstream::EndpointSpec;

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
