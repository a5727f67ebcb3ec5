//! route: which upstream, as a plain value computed before any dialling.
//!
//! Owns the decision and nothing else: no socket is open yet, so a decision is tested by comparing values. Who reads the
//! value (`establish`, through `connection`) looks the upstream up in the same snapshot of the configuration. Which upstream
//! answers for a destination is found in [`hosts`].

mod hosts;

use std::hash::{DefaultHasher, Hash, Hasher};

pub use hosts::{HostPattern, Reachable};

use crate::addr::{EndpointAddr, Host, SourceKey, UpstreamName};
use crate::context::Context;
use crate::failure::{Failure, Reason, Side, Stage};

/// What a listener's connections are routed by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The upstream that the listener names; of several, the first.
    pub upstream: UpstreamName,
    /// Where its clients ask for destinations: the upstreams that they may reach. Empty: all go to `upstream`.
    pub reachable: Vec<Reachable>,
    /// The upstreams among which its clients are divided. Empty: they are not.
    pub split: Vec<UpstreamName>,
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
/// it shares with others. `context`: what it asks for, which can only narrow what the file allows. `has`: does the upstream of
/// that name have that endpoint now?
///
/// Of a split it says only what the client asks for: whose turn it is otherwise, `rollout` knows.
///
/// # Errors
/// The file has no upstream for what it asks for.
pub fn decide(
    settings: &Settings,
    client: SourceKey,
    context: &Context,
    has: impl Fn(&str, &EndpointAddr) -> bool,
) -> Result<Route, Failure> {
    // DefaultHasher::new() has fixed keys: the hash must not differ between two ambassadors of one fleet. It is no defence
    // against chosen collisions, which could only send a client to an endpoint that it may use anyway.
    let mut hasher = DefaultHasher::new();
    match &context.user {
        Some(user) => user.hash(&mut hasher),
        None => client.hash(&mut hasher),
    }
    Ok(Route { upstream: upstream(settings, context, has)?.clone(), source: hasher.finish() })
}

fn upstream<'a>(
    settings: &'a Settings,
    context: &Context,
    has: impl Fn(&str, &EndpointAddr) -> bool,
) -> Result<&'a UpstreamName, Failure> {
    let wish = context.options.upstream.as_deref();
    let is_wished = |name: &str| wish.is_none_or(|wish| wish == name);
    let no = |reason, detail: String| Failure::new(Stage::Route, reason, Side::Client, detail);
    let mut named = (settings.reachable.iter().map(|reachable| &reachable.upstream))
        .chain(&settings.split)
        .chain([&settings.upstream]);
    if let Some(wish) = wish
        && !named.any(|name| **name == *wish)
    {
        let detail = format!(
            "the client asks for the upstream '{}', which is none of its listener's",
            wish.escape_debug()
        );
        return Err(no(Reason::DestinationNotFound, detail).mend(
            "name it among the listener's `upstreams` or in its `split`, or let the client not ask for it",
        ));
    }
    if settings.reachable.is_empty() {
        let mut among = settings.split.iter().filter(|name| is_wished(name));
        return match &context.options.endpoint {
            // Where nothing is divided, the upstream says itself that it has no such endpoint.
            _ if settings.split.is_empty() => Ok(&settings.upstream),
            None => Ok(among.next().unwrap_or(&settings.upstream)),
            Some(endpoint) => among.find(|name| has(name, endpoint)).ok_or_else(|| {
                let whose = match wish {
                    None => "none of the listener's upstreams has".to_owned(),
                    Some(wish) => format!("the upstream '{wish}' has not got"),
                };
                let detail = format!("the client asks for the endpoint {endpoint}, which {whose}");
                no(Reason::DestinationNotFound, detail)
                    .mend("ask for one of those in /api/v1/upstreams, spelt as there")
            }),
        };
    }
    let Some(destination) = &context.destination else {
        return Err(no(Reason::DestinationNotFound, "nothing says where the connection wants to go".into()));
    };
    let among = settings.reachable.iter().filter(|reachable| is_wished(&reachable.upstream));
    hosts::find(among, destination).ok_or_else(|| {
        let detail = match wish {
            None => format!("the client asks for {destination}, and no upstream of its listener answers for it"),
            Some(wish) => format!("the client asks for {destination}, and the upstream '{wish}' does not answer for it"),
        };
        match destination.host {
            Host::Name(_) => no(Reason::DestinationNotFound, detail),
            Host::Ip(_) => no(Reason::DestinationIpProhibited, detail),
        }
        .mend("add it to the `hosts` of the upstream that is meant, and name that among the listener's `upstreams`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::context::Options;

    fn settings(reachable: &[(&str, &str)]) -> Settings {
        let reachable = reachable.iter().map(|(upstream, host)| Reachable {
            upstream: (*upstream).into(),
            hosts: vec![host.parse().unwrap()],
        });
        Settings { upstream: "orders".into(), reachable: reachable.collect(), split: Vec::new() }
    }

    /// No upstream has the endpoint.
    fn nowhere(_: &str, _: &EndpointAddr) -> bool {
        false
    }

    fn by_key(client: SourceKey) -> Route {
        decide(&settings(&[]), client, &Context::default(), nowhere).unwrap()
    }

    fn route(client: &str) -> Route {
        by_key(ClientAddr::Tcp(client.parse().unwrap()).source_key())
    }

    /// Where a client comes that asks for this, and for this upstream.
    fn asks(destination: &str, upstream: Option<&str>) -> Result<String, Reason> {
        let options = Options { upstream: upstream.map(Into::into), ..Options::default() };
        let context =
            Context { destination: Some(destination.parse().unwrap()), options, ..Context::default() };
        let settings =
            settings(&[("orders", "*.example.com"), ("mail", "mail.example.com"), ("net", "10.0.0.0/8")]);
        match decide(&settings, SourceKey::User(None), &context, nowhere) {
            Ok(route) => Ok(route.upstream.to_string()),
            Err(failure) => Err(failure.reason),
        }
    }

    #[test]
    fn a_destination_leads_to_the_upstream_that_answers_for_it_or_nowhere() {
        assert_eq!(asks("mail.example.com:25", None).unwrap(), "mail");
        assert_eq!(asks("db.example.com:5432", None).unwrap(), "orders");
        assert_eq!(asks("10.1.1.1:5432", None).unwrap(), "net");
        assert_eq!(asks("example.org:443", None), Err(Reason::DestinationNotFound));
        assert_eq!(asks("192.0.2.1:443", None), Err(Reason::DestinationIpProhibited));
    }

    /// Who names an upstream gets that one or none: what its hosts do not answer for, it is not sent.
    #[test]
    fn an_upstream_that_is_asked_for_narrows_and_never_widens() {
        assert_eq!(asks("mail.example.com:25", Some("orders")).unwrap(), "orders");
        assert_eq!(asks("db.example.com:5432", Some("mail")), Err(Reason::DestinationNotFound));
        assert_eq!(asks("mail.example.com:25", Some("other")), Err(Reason::DestinationNotFound));
        let options = Options { upstream: Some("other".into()), ..Options::default() };
        let context = Context { options, ..Context::default() };
        let refused = decide(&settings(&[]), SourceKey::User(None), &context, nowhere).unwrap_err();
        assert_eq!(refused.reason, Reason::DestinationNotFound);
    }

    /// Of a split a client may name each upstream, and each endpoint of any; what none of them has is refused, and never somebody
    /// else's in its stead.
    #[test]
    fn an_upstream_or_endpoint_of_a_split_that_is_asked_for_is_had_or_refused() {
        let split = ["stable", "canary"].map(UpstreamName::from).into();
        let settings = Settings { upstream: "stable".into(), reachable: Vec::new(), split };
        let has = |upstream: &str, endpoint: &EndpointAddr| match &*endpoint.to_string() {
            "old:1" => upstream == "stable",
            "new:1" => upstream == "canary",
            "both:1" => true,
            _ => false,
        };
        let no = |says| Err((Reason::DestinationNotFound, says));
        for (upstream, endpoint, leads) in [
            (None, None, Ok("stable")),
            (Some("stable"), None, Ok("stable")),
            (Some("canary"), None, Ok("canary")),
            (Some("other"), None, no("'other', which is none of its listener's")),
            (None, Some("old:1"), Ok("stable")),
            (None, Some("new:1"), Ok("canary")),
            (None, Some("both:1"), Ok("stable")),
            (None, Some("none:1"), no("none:1, which none of the listener's upstreams has")),
            (Some("canary"), Some("both:1"), Ok("canary")),
            (Some("canary"), Some("new:1"), Ok("canary")),
            (Some("canary"), Some("old:1"), no("old:1, which the upstream 'canary' has not got")),
            (Some("other"), Some("new:1"), no("'other', which is none of its listener's")),
        ] {
            let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
            let options = Options { upstream: upstream.map(Into::into), endpoint, ..Options::default() };
            let context = Context { options, ..Context::default() };
            match (decide(&settings, SourceKey::User(None), &context, has), leads) {
                (Ok(route), Ok(upstream)) => assert_eq!(&*route.upstream, upstream, "{context:?}"),
                (Err(failure), Err((reason, says))) => {
                    assert!(
                        failure.reason == reason && failure.detail.contains(says),
                        "{context:?}: {failure}"
                    );
                }
                (decided, leads) => panic!("{context:?}: {decided:?} instead of {leads:?}"),
            }
        }
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
        let user = |uid| by_key(SourceKey::User(Some(uid))).source;
        assert_eq!(user(1000), user(1000));
        assert_ne!(user(1000), user(1001));
        let named = |user: &str| {
            let context = Context { user: Some(user.into()), ..Context::default() };
            decide(&settings(&[]), SourceKey::User(None), &context, nowhere).unwrap().source
        };
        assert_eq!(named("erp"), named("erp"));
        assert_ne!(named("erp"), named("crm"));
    }
}
