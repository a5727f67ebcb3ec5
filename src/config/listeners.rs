//! What a `[listener.NAME]` means: where it listens, who may come, and what TLS it has to give to its clients.

use std::time::Duration;

use super::file::{self, ClientTls, TlsMode, UpstreamOf};
use super::kinds::Entry;
use super::meaning::{tcp, values};
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field};
use super::{Listener, contexts, splits};
use crate::addr::ListenAddr;
use crate::context::Kind;
use crate::protocol::{First, Protocol};
use crate::tls::{self, ListenerSettings};
use crate::{accept, admit, route};

/// One listener, with the problems of its keys among themselves noted, and of its TLS with the rest of the file.
pub(super) fn listener(
    entry: Entry<file::Listener>,
    identities: &[Entry<file::Identity>],
    upstreams: &[Entry<file::Upstream>],
    reader: &mut Reader,
) -> Listener {
    let Entry { section: written, .. } = entry;
    let tls = client_tls(&written, identities, upstreams, reader);
    let context = contexts::context(&written, &entry.place, upstreams, reader);
    let split = splits::split(&written, upstreams, reader);
    who_may_come(&written, reader);
    for_unix_only(&written, reader);
    let connections = written.connections.value().copied();
    if let (Some(connections), Some(each)) = (connections, written.connections_per_source.given())
        && each.value > connections
    {
        let mend = "lower it, or raise `connections`";
        reader.warning(&each.place, format!("never comes to pass: `connections` is {connections}"), mend);
    }
    let contexts::Context { kind, proxies, reachable } = context;
    let shares = split.iter().flat_map(|split| &split.shares);
    let of_split: Vec<_> = shares.map(|share| share.upstream.clone()).collect();
    let first = reachable.first().map(|reachable| &reachable.upstream).or(of_split.first()).cloned();
    let upstream = match (first, written.upstream.taken()) {
        (Some(first), _) => first,
        (None, Some(UpstreamOf::Name(name))) => name.as_str().into(),
        (None, Some(UpstreamOf::Inline(_)) | None) => entry.name.as_str().into(),
    };
    Listener {
        accept: accept::Settings {
            addresses: values(written.address),
            mode: written.mode.or(0o660),
            owner: written.owner.taken(),
            group: written.group.taken(),
            backlog: written.backlog.or(1024),
            tcp: tcp(written.tcp.taken().unwrap_or_default()),
        },
        admit: admit::Settings {
            allow: values(written.allow),
            proxies,
            allow_users: values(written.allow_users),
            allow_groups: values(written.allow_groups),
            connections,
            connections_per_source: written.connections_per_source.taken(),
            rate: written.rate.taken(),
            meter_users: written.meter_users.or(false),
        },
        route: route::Settings { upstream, reachable, split: of_split },
        split,
        context: kind,
        preface_timeout: written.preface_timeout.or(Duration::from_secs(10)),
        tls,
        identity: written.identity.taken(),
    }
}

/// TLS for the clients; `None`: they are served in plaintext.
fn client_tls(
    written: &file::Listener,
    identities: &[Entry<file::Identity>],
    upstreams: &[Entry<file::Upstream>],
    reader: &mut Reader,
) -> Option<ListenerSettings> {
    let required = match written.tls.or(ClientTls::Off) {
        ClientTls::Off => {
            without_tls(written, reader);
            return None;
        }
        ClientTls::Optional => false,
        ClientTls::Required => true,
    };
    // One that stands within its listener was moved to the others before.
    let named = match written.upstream.value() {
        Some(UpstreamOf::Name(name)) => Some(name),
        Some(UpstreamOf::Inline(_)) => None,
        // All of a split speak the same.
        None => written.split.value().and_then(|split| split.first()?.value.upstream.value()),
    };
    let upstream = upstreams.iter().find(|known| Some(&known.name) == named).map(|known| &known.section);
    let protocol = upstream.map_or(Protocol::default(), |upstream| upstream.protocol.or(Protocol::default()));
    let direct = match written.tls_mode.given() {
        None => !protocol.negotiates(),
        Some(At { value: TlsMode::Direct, .. }) => true,
        Some(At { value: TlsMode::Negotiate, place }) => {
            if !protocol.negotiates() {
                let message = format!(
                    "a client that speaks {} has no way to ask for TLS on a connection that began in plaintext",
                    protocol.name()
                );
                let mend =
                    "name the protocol in the upstream (protocol = \"smtp\"), or write tls_mode = \"direct\"";
                reader.problem(place, message, mend);
            }
            false
        }
    };
    if direct
        && !required
        && protocol.facts().first == First::Server
        && let Some(At { place, .. }) = written.tls.given()
    {
        let message = format!(
            "with TLS from the first byte, clients that wait for the {} server's greeting cannot be told from those that \
             begin with TLS",
            protocol.name()
        );
        reader.problem(place, message, "write tls = \"required\", or tls_mode = \"negotiate\"");
    }
    let of_split = written.split.value().into_iter().flatten();
    let all = named.into_iter().chain(of_split.filter_map(|share| share.value.upstream.value()));
    let mut all = all.filter_map(|name| upstreams.iter().find(|known| known.name == *name));
    let asks_through_us =
        all.any(|upstream| upstream.section.tls.value().is_some_and(|mode| *mode != tls::Mode::Negotiate));
    if !direct
        && protocol.interviews()
        && asks_through_us
        && let Some(At { place, .. }) = written.tls.given()
    {
        let message = format!(
            "clients of {} are offered TLS in the server's own greeting, which is read only where TLS is asked for there too",
            protocol.name()
        );
        reader.problem(place, message, "write tls = \"negotiate\" in the upstream, or remove it there");
    }
    let client_names = client_names(written, required, reader);
    shows_a_certificate(written, identities, reader);
    Some(ListenerSettings { required, direct, client_names })
}

/// Keys that say how TLS is done: whoever wrote them expects it to be on.
fn without_tls(written: &file::Listener, reader: &mut Reader) {
    if matches!(written.tls, Field::Bad) {
        return;
    }
    fn place<T>(field: &Field<T>) -> Option<Place> {
        field.given().map(|at| at.place.clone())
    }
    let keys = [place(&written.tls_mode), place(&written.identity), place(&written.client_names)];
    for place in keys.into_iter().flatten() {
        let message = "says how TLS is done with clients, and this listener has tls = \"off\": it serves them in plaintext";
        reader.problem(&place, message, "write tls = \"required\" or tls = \"optional\", or remove it");
    }
}

fn client_names(written: &file::Listener, required: bool, reader: &mut Reader) -> Vec<String> {
    let Some(At { value: names, place }) = written.client_names.given() else { return Vec::new() };
    if names.is_empty() || names.iter().any(|name| name.value.trim().is_empty()) {
        reader.problem(place, "names nobody", "write a name as in the clients' certificates, or remove it");
    } else if !required {
        let message =
            "says whose certificates are taken, and with tls = \"optional\" anybody may come without one";
        reader.problem(place, message, "write tls = \"required\", or remove client_names");
    }
    if written.identity.is_absent() {
        let message =
            "asks clients for certificates, and without an identity there is no `ca` to check them against";
        reader.problem(
            place,
            message,
            "name an `identity` with ca, certificate and key, or remove client_names",
        );
    }
    names.iter().map(|name| name.value.clone()).collect()
}

/// An identity that clients are shown has a certificate, and authorities where clients are to show theirs.
fn shows_a_certificate(written: &file::Listener, identities: &[Entry<file::Identity>], reader: &mut Reader) {
    let Some(At { value: name, place }) = written.identity.given() else { return };
    let Some(known) = identities.iter().find(|known| known.name == *name) else { return };
    if known.section.certificate.is_absent() && known.section.key.is_absent() {
        let message = format!("[identity.{name}] has no certificate to show to clients");
        let mend =
            "give it `certificate` and `key`; or remove it here, for a certificate that nuncio makes itself";
        reader.problem(place, message, mend);
    }
    if let Some(names) = written.client_names.given()
        && known.section.ca.is_absent()
    {
        let message =
            format!("asks clients for certificates, and [identity.{name}] has no `ca` to check them against");
        reader.problem(&names.place, message, "give that identity a `ca`, or remove client_names");
    }
}

/// Is it proxies that connect, and others whom `allow` is for?
fn is_behind_proxies(written: &file::Listener) -> bool {
    written.context.value() == Some(&Kind::ProxyProtocol)
}

/// Other hosts may come only where they are named, and users only where the kernel can tell who they are.
fn who_may_come(written: &file::Listener, reader: &mut Reader) {
    let networks = written.allow.value().map(Vec::as_slice).unwrap_or_default();
    let (who, key) = match is_behind_proxies(written) {
        true => (&written.proxy_from, "proxy_from"),
        false => (&written.allow, "allow"),
    };
    for address in written.address.value().into_iter().flatten() {
        if let ListenAddr::Tcp(socket) = &address.value
            && !socket.ip().to_canonical().is_loopback()
            && (who.is_absent() || who.value().is_some_and(Vec::is_empty))
        {
            reader.problem(
                &address.place,
                format!("other hosts could reach {socket}, and act with our certificate"),
                format!("say who may: {key} = [\"10.0.0.0/8\"]; or listen on 127.0.0.1:{}", socket.port()),
            );
        }
    }
    let remote = networks.iter().find(|network| !network.value.addr().to_canonical().is_loopback());
    for users in [&written.allow_users, &written.allow_groups] {
        if let Some(users) = users.given().filter(|users| cfg!(not(unix)) && !users.value.is_empty()) {
            reader.problem(
                &users.place,
                "this system does not tell who is behind a connection",
                "remove it; every user of this host may connect then",
            );
            continue;
        }
        if let (Some(users), Some(network)) = (users.given(), remote)
            && !users.value.is_empty()
        {
            reader.problem(
                &users.place,
                format!("users can be told on this host only, and allow has {}", network.value),
                "use a listener of its own for the other hosts, or remove one of the two",
            );
        }
    }
    if cfg!(not(unix))
        && let Some(At { value: true, place }) = written.meter_users.given()
    {
        reader.problem(place, "this system does not tell who is behind a connection", "remove it");
    }
    let is_unix = |address: &At<ListenAddr>| matches!(address.value, ListenAddr::Unix(_));
    if let (Some(allow), Some(addresses)) = (written.allow.given(), written.address.value())
        && addresses.iter().all(is_unix)
        && !is_behind_proxies(written)
    {
        reader.warning(&allow.place, "says who may come over TCP, and there is no TCP address", "remove it");
    }
}

fn for_unix_only(written: &file::Listener, reader: &mut Reader) {
    if let Some(addresses) = written.address.given().filter(|addresses| addresses.value.is_empty()) {
        reader.problem(&addresses.place, "is empty", "name one address at least, such as \"127.0.0.1:5432\"");
        return;
    }
    let is_unix = |address: &At<ListenAddr>| matches!(address.value, ListenAddr::Unix(_));
    let Some(addresses) = written.address.value() else { return };
    if addresses.iter().any(is_unix) {
        return;
    }
    let mode = written.mode.given().map(|at| &at.place);
    let owner = written.owner.given().map(|at| &at.place);
    let group = written.group.given().map(|at| &at.place);
    for place in [mode, owner, group].into_iter().flatten() {
        let mend = match addresses.iter().any(|address| matches!(address.value, ListenAddr::Systemd(_))) {
            true => {
                "remove it; for a systemd socket, its unit says so (SocketMode=, SocketUser=, SocketGroup=)"
            }
            false if cfg!(not(unix)) => "remove it",
            false => "remove it, or listen on unix:/PATH; over TCP, allow_users says who may come",
        };
        reader.problem(place, "is for Unix sockets, and there is none", mend);
    }
}
