//! What a listener's `context` means, and which keys go with it.

use ipnet::IpNet;

use super::file::{self, ClientTls};
use super::kinds::Entry;
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field};
use crate::addr::ListenAddr;
use crate::context::Kind;
use crate::route::{HostPattern, Reachable};

/// What there is to hear of a listener's connections, and where it leads.
pub(super) struct Context {
    pub(super) kind: Kind,
    /// The proxies that may say who their clients are; `None`: there are none.
    pub(super) proxies: Option<Vec<IpNet>>,
    /// Where a destination may lead; empty: nobody asks for one.
    pub(super) reachable: Vec<Reachable>,
}

/// The context of a listener at `place`, with the problems of its keys noted.
pub(super) fn context(
    written: &file::Listener,
    place: &Place,
    upstreams: &[Entry<file::Upstream>],
    reader: &mut Reader,
) -> Context {
    let kind = written.context.or(Kind::None);
    let is_known = !matches!(written.context, Field::Bad);
    if is_known {
        where_it_leads(written, kind, place, reader);
    }
    let reachable = match kind.names_destination() {
        true => reachable(written, upstreams, reader),
        false => Vec::new(),
    };
    if let Some(proxies) = written.proxy_from.given().filter(|_| is_known) {
        if kind != Kind::ProxyProtocol {
            let mend = "write context = \"proxy_protocol\", or remove it";
            reader.problem(&proxies.place, "names proxies, and this listener does not hear them", mend);
        } else if proxies.value.is_empty() {
            let mend = "name the proxies' networks, or remove it: proxies on this host are heard then";
            reader.problem(&proxies.place, "is empty", mend);
        }
    }
    if let Some(At { place, .. }) = written.context.given() {
        goes_with(written, kind, place, reader);
    }
    let proxies = (kind == Kind::ProxyProtocol)
        .then(|| written.proxy_from.value().into_iter().flatten().map(|network| network.value).collect());
    Context { kind, proxies, reachable }
}

/// One upstream, or several that a destination chooses among.
fn where_it_leads(written: &file::Listener, kind: Kind, place: &Place, reader: &mut Reader) {
    let label = kind.label();
    match (kind.names_destination(), &written.upstream, &written.upstreams) {
        (false, Field::Absent, Field::Absent) if written.split.is_absent() => {
            reader.problem(place, "has no `upstream`", "add for example: upstream = \"example\"");
        }
        (false, _, Field::Given(several)) => {
            let message = format!(
                "are chosen by the destination that a client asks for, and with context = \"{label}\" none does"
            );
            let mend = "write upstream = \"NAME\"; or context = \"socks5\", \"http_connect\" or \"original_destination\"";
            reader.problem(&several.place, message, mend);
        }
        (true, Field::Given(one), _) => {
            let message =
                format!("is one, and with context = \"{label}\" the destination chooses among `upstreams`");
            let mend = "write upstreams = [\"NAME\"], and give each of them its `hosts`";
            reader.problem(&one.place, message, mend);
        }
        (true, Field::Absent, Field::Absent) => {
            let mend = "add for example: upstreams = [\"orders\"], and give each of them its `hosts`";
            reader.problem(place, "has no `upstreams`", mend);
        }
        _ => {}
    }
}

/// The upstreams that clients may reach. Each has hosts, and no host leads to two of them.
fn reachable(
    written: &file::Listener,
    upstreams: &[Entry<file::Upstream>],
    reader: &mut Reader,
) -> Vec<Reachable> {
    let Some(named) = written.upstreams.given() else { return Vec::new() };
    if named.value.is_empty() {
        reader.problem(&named.place, "is empty", "name one upstream at least");
    }
    let mut all: Vec<Reachable> = Vec::new();
    for At { value: name, place } in &named.value {
        let Some(known) = upstreams.iter().find(|known| known.name == *name) else { continue };
        if all.iter().any(|other| *other.upstream == **name) {
            reader.problem(place, format!("{name} is there twice"), "remove one");
            continue;
        }
        if known.section.hosts.is_absent() || known.section.hosts.value().is_some_and(Vec::is_empty) {
            let message = format!("[upstream.{name}] has no `hosts`: no destination leads there");
            reader.problem(place, message, "add to it for example: hosts = [\"db.example.com\"]");
        }
        let hosts: Vec<HostPattern> =
            known.section.hosts.value().into_iter().flatten().map(|host| host.value.clone()).collect();
        for host in &hosts {
            if let Some(other) = all.iter().find(|other| other.hosts.contains(host)) {
                let message = format!("{host} would lead to {} and to {name}", other.upstream);
                reader.problem(place, message, "keep it among the `hosts` of one of them");
            }
        }
        all.push(Reachable { upstream: name.as_str().into(), hosts });
    }
    all
}

/// What else the listener has must fit.
fn goes_with(written: &file::Listener, kind: Kind, place: &Place, reader: &mut Reader) {
    let label = kind.label();
    if kind.names_destination()
        && let Some(At { value: ClientTls::Optional | ClientTls::Required, place }) = written.tls.given()
    {
        let message = format!("with context = \"{label}\" clients are served in plaintext in this version");
        reader.problem(place, message, "remove it, or use a listener of its own for clients with TLS");
    }
    if kind == Kind::ProxyProtocol {
        for users in [&written.allow_users, &written.allow_groups] {
            if let Some(users) = users.given() {
                let message = "names users, and of a client behind a proxy nobody can tell which it is";
                reader.problem(
                    &users.place,
                    message,
                    "remove it; `proxy_from` says which proxies may connect, `allow` whose clients",
                );
            }
        }
        if let Some(At { value: true, place }) = written.meter_users.given() {
            let message = "counts users, and of a client behind a proxy nobody can tell which it is";
            reader.problem(place, message, "remove it, or meter where the clients themselves connect");
        }
        if written.allow.is_absent() && written.proxy_from.given().is_some() {
            let message = "clients of other hosts are behind the proxies, and without `allow` only this host's may come";
            reader.warning(place, message, "add for example: allow = [\"10.0.0.0/8\"]");
        }
    }
    if kind == Kind::OriginalDestination {
        let other = cfg!(not(target_os = "linux"));
        if other {
            reader.problem(
                place,
                "this system does not tell where a connection was going",
                "use socks5 or http_connect",
            );
        }
        for address in written.address.value().into_iter().flatten() {
            if let ListenAddr::Unix(_) = &address.value {
                let message = "nothing can be redirected to a Unix socket";
                reader.problem(&address.place, message, "write a TCP address, such as \"127.0.0.1:15001\"");
            }
        }
    }
}
