//! route: which upstream, as a plain value computed before any dialling.
//!
//! Owns the decision and nothing else: no socket is open yet, so a decision is tested by comparing values. Who reads the
//! value (`establish`, through `connection`) looks the upstream up in the same snapshot of the configuration.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::addr::{SourceKey, UpstreamName};

/// What a listener's connections are routed by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The upstream that the listener names.
    pub upstream: UpstreamName,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The upstream's name.
    pub upstream: UpstreamName,
    /// What `source_hash` hashes: equal for all connections of one source, the same in every process and after a restart.
    pub source: u64,
}

/// Decides where a client's connection goes. `client`: whom `admit` took it for, which may be a user behind an address that
/// it shares with others.
pub fn decide(settings: &Settings, client: SourceKey) -> Route {
    // DefaultHasher::new() has fixed keys: the hash must not differ between two ambassadors of one fleet. It is no defence
    // against chosen collisions, which could only send a client to an endpoint that it may use anyway.
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    Route { upstream: settings.upstream.clone(), source: hasher.finish() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;

    fn route(client: &str) -> Route {
        let client = ClientAddr::Tcp(client.parse().unwrap());
        decide(&Settings { upstream: "orders".into() }, client.source_key())
    }

    #[test]
    fn a_listener_sends_everyone_to_the_upstream_that_it_names() {
        assert_eq!(&*route("127.0.0.1:1").upstream, "orders");
    }

    #[test]
    fn connections_of_one_source_share_a_key_whatever_their_port_and_spelling() {
        assert_eq!(route("10.0.0.1:1"), route("10.0.0.1:2"));
        assert_eq!(route("10.0.0.1:1").source, route("[::ffff:10.0.0.1]:9").source);
        assert_ne!(route("10.0.0.1:1").source, route("10.0.0.2:1").source);
        let user = |uid| decide(&Settings { upstream: "orders".into() }, SourceKey::User(Some(uid))).source;
        assert_eq!(user(1000), user(1000));
        assert_ne!(user(1000), user(1001));
    }
}
