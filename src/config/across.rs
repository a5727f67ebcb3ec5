//! What the sections say about each other: names that must exist, addresses that meet, loops, and what nobody uses.

use std::net::{IpAddr, SocketAddr};

use super::file::{self, UpstreamOf};
use super::kinds::Entry;
use super::reader::{Reader, nearest};
use super::section::At;
use crate::addr::{EndpointAddr, Host, ListenAddr};

/// Every name that is used exists, and every name that exists is used.
pub(super) fn names(
    identities: &[Entry<file::Identity>],
    upstreams: &[Entry<file::Upstream>],
    listeners: &[Entry<file::Listener>],
    reader: &mut Reader,
) {
    let of_upstreams = upstreams.iter().filter_map(|upstream| upstream.section.identity.given());
    let of_listeners = listeners.iter().filter_map(|listener| listener.section.identity.given());
    let named: Vec<_> = of_upstreams.chain(of_listeners).collect();
    for At { value: name, place } in &named {
        if !identities.iter().any(|known| known.name == *name) {
            let mend = missing("identity", name, identities.iter().map(|known| known.name.as_str()));
            reader.problem(place, format!("there is no [identity.{name}]"), mend);
        }
    }
    let (mut used, mut asked) = (Vec::new(), Vec::new());
    for Entry { section: listener, .. } in listeners {
        let one = listener.upstream.given().and_then(|upstream| match &upstream.value {
            UpstreamOf::Name(name) => Some((name, &upstream.place)),
            UpstreamOf::Inline(_) => None,
        });
        let of_split = listener.split.value().into_iter().flatten();
        let of_split = of_split.filter_map(|share| share.value.upstream.given());
        let by_destination = listener.upstreams.value().into_iter().flatten();
        asked.extend(by_destination.clone().map(|named| &named.value));
        let several = of_split.chain(by_destination).map(|named| (&named.value, &named.place));
        for (name, place) in one.into_iter().chain(several) {
            used.push(name);
            if !upstreams.iter().any(|known| known.name == *name) {
                let mend = missing("upstream", name, upstreams.iter().map(|known| known.name.as_str()));
                reader.problem(place, format!("there is no [upstream.{name}]"), mend);
            }
        }
    }
    for upstream in upstreams.iter().filter(|upstream| !asked.contains(&&upstream.name)) {
        if let Some(hosts) = upstream.section.hosts.given() {
            let mend = "name the upstream among the `upstreams` of a listener whose clients do, or remove it";
            reader.warning(&hosts.place, "no client asks for a destination that would lead here", mend);
        }
    }
    for Entry { place, .. } in upstreams.iter().filter(|upstream| !used.contains(&&upstream.name)) {
        reader.warning(place, "no listener uses it", "name it as the `upstream` of a listener, or remove it");
    }
    let uses = |name: &String| named.iter().any(|named| named.value == *name);
    for Entry { place, .. } in identities.iter().filter(|identity| !uses(&identity.name)) {
        reader.warning(
            place,
            "nobody uses it",
            "name it as the `identity` of an upstream or a listener, or remove it",
        );
    }
}

/// No two rollouts write one file.
pub(super) fn state_files(listeners: &[Entry<file::Listener>], reader: &mut Reader) {
    let rollouts = listeners.iter().filter_map(|listener| listener.section.rollout.value());
    let all: Vec<_> = rollouts.filter_map(|rollout| rollout.state_file.given()).collect();
    for (index, later) in all.iter().enumerate() {
        if let Some(first) = all[..index].iter().find(|first| first.value == later.value) {
            let message = format!("is {}'s too ({})", first.place.key, reader.name(&first.place));
            reader.problem(&later.place, message, "give each rollout a file of its own");
        }
    }
}

fn missing<'a>(section: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(nearest) = nearest(name, known.clone()) {
        return format!("did you mean \"{nearest}\"?");
    }
    let known: Vec<_> = known.collect();
    match known.is_empty() {
        true => format!("add [{section}.{name}]"),
        false => format!("add [{section}.{name}], or name one of: {}", known.join(", ")),
    }
}

fn admin_is_local(admin: &file::Admin, reader: &mut Reader) {
    if let Some(At { place, .. }) = admin.token_file.given()
        && admin
            .address
            .value()
            .is_none_or(|addresses| addresses.iter().all(|at| matches!(at.value, ListenAddr::Unix(_))))
    {
        let mend = "add an address like \"127.0.0.1:9746\", or remove the token: a Unix socket goes by its file's mode";
        reader.warning(place, "the admin has no address where it would be asked for", mend);
    }
    for At { value, place } in admin.address.value().into_iter().flatten() {
        if let ListenAddr::Tcp(socket) = value
            && !socket.ip().to_canonical().is_loopback()
        {
            reader.problem(
                place,
                format!("other hosts could reach {socket}: all of them could read, and what is sent there goes in plaintext"),
                format!("write \"127.0.0.1:{}\" or \"unix:/run/nuncio/admin.sock\"", socket.port()),
            );
        }
    }
}

/// No address is listened on twice, dialled by ourselves, or open to more than it should be.
pub(super) fn addresses(
    admin: &file::Admin,
    upstreams: &[Entry<file::Upstream>],
    listeners: &[Entry<file::Listener>],
    reader: &mut Reader,
) {
    admin_is_local(admin, reader);
    loops(upstreams, listeners, reader);
    let of_listeners =
        listeners.iter().flat_map(|listener| listener.section.address.value().into_iter().flatten());
    let all: Vec<_> = admin.address.value().into_iter().flatten().chain(of_listeners).collect();
    for (index, later) in all.iter().enumerate() {
        if let Some(first) = all[..index].iter().find(|first| meet(&first.value, &later.value)) {
            let message =
                format!("{} is taken by {} ({})", later.value, first.place.key, reader.name(&first.place),);
            reader.problem(&later.place, message, "give each its own port or path");
        }
    }
}

/// Whether both cannot be bound at a time.
fn meet(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Tcp(one), ListenAddr::Tcp(other)) => {
            let same = one.ip().to_canonical() == other.ip().to_canonical();
            one.port() != 0
                && one.port() == other.port()
                && (same || covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
        }
        (one, other) => one == other,
    }
}

/// Whether a listener on the one address gets what is sent to the other. `[::]` is dual stack.
fn covers(listening: IpAddr, other: IpAddr) -> bool {
    match listening {
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && other.to_canonical().is_ipv4(),
    }
}

/// No endpoint is one of our own listeners: each connection would open the next until the descriptors end.
fn loops(upstreams: &[Entry<file::Upstream>], listeners: &[Entry<file::Listener>], reader: &mut Reader) {
    let of_listeners =
        listeners.iter().flat_map(|listener| listener.section.address.value().into_iter().flatten());
    let ours: Vec<(SocketAddr, &At<ListenAddr>)> = of_listeners
        .filter_map(|at| match &at.value {
            ListenAddr::Tcp(socket) => Some((*socket, at)),
            ListenAddr::Unix(_) | ListenAddr::Systemd(_) => None,
        })
        .collect();
    for upstream in upstreams {
        let fixed = upstream.section.endpoints.value().into_iter().flatten();
        let fixed = fixed.filter_map(|entry| entry.value.address.given());
        for endpoint in fixed.chain(upstream.section.dns.given()) {
            if let Some((_, listener)) = ours.iter().find(|(socket, _)| is_ours(*socket, &endpoint.value)) {
                let message = format!(
                    "{} is our own {} ({}): every connection would open another one to ourselves",
                    endpoint.value,
                    listener.place.key,
                    reader.name(&listener.place),
                );
                reader.problem(
                    &endpoint.place,
                    message,
                    "name the server that is meant, or move the listener",
                );
            }
        }
    }
}

fn is_ours(listening: SocketAddr, endpoint: &EndpointAddr) -> bool {
    if listening.port() != endpoint.port {
        return false;
    }
    let listening = listening.ip().to_canonical();
    match &endpoint.host {
        Host::Name(name) => {
            (&**name == "localhost" || name.ends_with(".localhost"))
                && (listening.is_loopback() || listening.is_unspecified())
        }
        Host::Ip(ip) => {
            let ip = ip.to_canonical();
            ip == listening || (ip.is_loopback() && covers(listening, ip))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_both_be_bound_meet() {
        let meet = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(super::meet(&one, &other), super::meet(&other, &one));
            super::meet(&one, &other)
        };
        assert!(meet("127.0.0.1:1", "127.0.0.1:1"));
        assert!(meet("0.0.0.0:1", "127.0.0.1:1"));
        assert!(meet("[::]:1", "127.0.0.1:1"));
        assert!(meet("unix:/a", "unix:/a"));
        assert!(!meet("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!meet("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!meet("0.0.0.0:1", "[::1]:1"));
        assert!(!meet("127.0.0.1:1", "127.0.0.2:1"));
    }

    #[test]
    fn an_endpoint_that_leads_back_to_a_listener_is_ours() {
        let ours =
            |listening: &str, endpoint: &str| is_ours(listening.parse().unwrap(), &endpoint.parse().unwrap());
        assert!(ours("127.0.0.1:1", "localhost:1"));
        assert!(ours("0.0.0.0:1", "127.0.0.1:1"));
        assert!(ours("[::]:1", "[::1]:1"));
        assert!(!ours("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!ours("127.0.0.1:1", "db:1"));
        assert!(!ours("127.0.0.1:1", "127.0.0.2:1"));
    }
}
