//! From the written shape to what it means: defaults filled in, and the keys of one section held against each other.
//!
//! Leaves upstreams to `upstreams`, and what sections say about each other (addresses, loops, names without use) to
//! `across`.

use std::time::Duration;

use super::file::{self, KeyPermissions, UpstreamOf};
use super::kinds::Entry;
use super::problem::Problem;
use super::reader::Reader;
use super::section::{At, Field};
use super::upstreams::upstream;
use super::{Config, Listener, Log, Runtime, across, ports};
use crate::addr::ListenAddr;
use crate::discovery::DnsSettings;
use crate::socket::TcpSettings;
use crate::tls::IdentitySettings;
use crate::{accept, admin, admit, record, route};

/// What the files mean. Where something was noted as a problem, the result holds a stand-in and is not to be used.
pub(super) fn config(file: file::File, name: &str, reader: &mut Reader) -> Config {
    if file.listener.is_absent() {
        no_listener(name, reader);
    }
    let unreadable = matches!(file.upstream, Field::Bad) || matches!(file.identity, Field::Bad);
    let identities = file.identity.taken().unwrap_or_default();
    let mut upstreams = file.upstream.taken().unwrap_or_default();
    let mut listeners = file.listener.taken().unwrap_or_default();
    inline_upstreams(&mut listeners, &mut upstreams, reader);
    ports::fill(&mut upstreams, reader);
    let admin = file.admin.taken().unwrap_or_default();
    if !unreadable {
        across::names(&identities, &upstreams, &listeners, reader);
    }
    across::addresses(&admin, &upstreams, &listeners, reader);

    // A short drain is not to become one that ends connections from its first moment on.
    let jitter = (file.drain_timeout.or(Duration::from_secs(30)) / 6).min(Duration::from_secs(5));
    let (drain_jitter, drain_timeout) = in_order(
        Bound("drain_jitter", &file.drain_jitter, jitter),
        Bound("drain_timeout", &file.drain_timeout, Duration::from_secs(30)),
        time,
        reader,
    );
    let log = file.log.taken().unwrap_or_default();
    Config {
        admin: admin::Settings { addresses: values(admin.address) },
        log: Log { format: log.format.or(record::Format::Text), level: log.level.or("info".to_owned()) },
        runtime: runtime(file.runtime.taken().unwrap_or_default(), reader),
        dns: dns(file.dns.taken().unwrap_or_default(), reader),
        drain_timeout,
        drain_jitter,
        identities: identities
            .into_iter()
            .map(|entry| (entry.name.clone(), identity(entry, reader)))
            .collect(),
        upstreams: upstreams
            .into_iter()
            .map(|entry| (entry.name.as_str().into(), upstream(entry, reader)))
            .collect(),
        listeners: listeners
            .into_iter()
            .map(|entry| (entry.name.as_str().into(), listener(entry, reader)))
            .collect(),
    }
}

fn no_listener(name: &str, reader: &mut Reader) {
    reader.problem_of_file(Problem::of_file(
        name,
        "has no listener: there would be nothing to do",
        "the smallest useful file is\n\n\
         \x20   [listener.orders]\n\
         \x20   address = \"127.0.0.1:5432\"\n\
         \x20   upstream = { endpoints = [\"db.example.com:5432\"] }",
    ));
}

/// Moves upstreams that stand within their listener to the others, under the listener's name.
fn inline_upstreams(
    listeners: &mut [Entry<file::Listener>],
    upstreams: &mut Vec<Entry<file::Upstream>>,
    reader: &mut Reader,
) {
    for Entry { name, section: listener, .. } in listeners {
        listener.upstream = match std::mem::take(&mut listener.upstream) {
            Field::Given(At { value: UpstreamOf::Inline(inline), place }) => {
                if let Some(known) = upstreams.iter().find(|known| known.name == *name) {
                    let known = reader.name(&known.place);
                    let message = format!("becomes the upstream `{name}`, and there is one already: {known}");
                    reader.problem(&place, message, "name that one here, or give the listener another name");
                }
                upstreams.push(Entry { name: name.clone(), place: place.clone(), section: *inline });
                Field::Given(At { value: UpstreamOf::Name(name.clone()), place })
            }
            other => other,
        };
    }
}

fn runtime(written: file::Runtime, reader: &mut Reader) -> Runtime {
    if let Some(memory) = written.memory.given()
        && memory.value < 1 << 20
    {
        reader.problem(&memory.place, "is too little to relay with", "write \"1MiB\" or more");
    }
    Runtime {
        threads: written.threads.value().map(|threads| *threads as usize),
        memory: written.memory.or(64 << 20),
        connections: written.connections.value().copied(),
    }
}

fn dns(written: file::Dns, reader: &mut Reader) -> DnsSettings {
    let default = DnsSettings::default();
    let (ttl_floor, ttl_ceiling) = in_order(
        Bound("ttl_floor", &written.ttl_floor, default.ttl_floor),
        Bound("ttl_ceiling", &written.ttl_ceiling, default.ttl_ceiling),
        time,
        reader,
    );
    DnsSettings {
        ttl_floor,
        ttl_ceiling,
        timeout: written.timeout.or(default.timeout),
        servers: values(written.servers),
    }
}

fn identity(entry: Entry<file::Identity>, reader: &mut Reader) -> IdentitySettings {
    let Entry { section: written, .. } = entry;
    let mend = "name both; if one PEM file holds both, name it twice";
    match (&written.certificate, &written.key) {
        (Field::Given(certificate), Field::Absent) => {
            reader.problem(&certificate.place, "a certificate without its `key` cannot be shown", mend);
        }
        (Field::Absent, Field::Given(key)) => {
            reader.problem(&key.place, "a key without its `certificate` is of no use", mend);
        }
        _ => {}
    }
    IdentitySettings {
        ca: written.ca.taken(),
        certificate: written.certificate.taken(),
        key: written.key.taken(),
        strict_permissions: written.key_permissions.taken() == Some(KeyPermissions::Strict),
    }
}

pub(super) fn tcp(written: file::Tcp) -> TcpSettings {
    let default = TcpSettings::default();
    TcpSettings {
        keepalive: written.keepalive.or(default.keepalive),
        keepalive_interval: written.keepalive_interval.or(default.keepalive_interval),
        keepalive_count: written.keepalive_count.or(default.keepalive_count),
        user_timeout: written.user_timeout.or(default.user_timeout),
    }
}

fn listener(entry: Entry<file::Listener>, reader: &mut Reader) -> Listener {
    let Entry { section: written, .. } = entry;
    who_may_come(&written, reader);
    for_unix_only(&written, reader);
    let connections = written.connections.value().copied();
    if let (Some(connections), Some(each)) = (connections, written.connections_per_source.given())
        && each.value > connections
    {
        let mend = "lower it, or raise `connections`";
        reader.warning(&each.place, format!("never comes to pass: `connections` is {connections}"), mend);
    }
    let upstream = match written.upstream.taken() {
        Some(UpstreamOf::Name(name)) => name,
        Some(UpstreamOf::Inline(_)) | None => entry.name,
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
            allow_users: values(written.allow_users),
            allow_groups: values(written.allow_groups),
            connections,
            connections_per_source: written.connections_per_source.taken(),
            rate: written.rate.taken(),
        },
        route: route::Settings { upstream: upstream.as_str().into() },
        preface_timeout: written.preface_timeout.or(Duration::from_secs(10)),
    }
}

/// Other hosts may come only where they are named, and users only where the kernel can tell who they are.
fn who_may_come(written: &file::Listener, reader: &mut Reader) {
    let networks = written.allow.value().map(Vec::as_slice).unwrap_or_default();
    for address in written.address.value().into_iter().flatten() {
        if let ListenAddr::Tcp(socket) = &address.value
            && !socket.ip().to_canonical().is_loopback()
            && (written.allow.is_absent() || written.allow.value().is_some_and(Vec::is_empty))
        {
            reader.problem(
                &address.place,
                format!("other hosts could reach {socket}, and act with our certificate"),
                format!("say who may: allow = [\"10.0.0.0/8\"]; or listen on 127.0.0.1:{}", socket.port()),
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
    let is_unix = |address: &At<ListenAddr>| matches!(address.value, ListenAddr::Unix(_));
    if let (Some(allow), Some(addresses)) = (written.allow.given(), written.address.value())
        && addresses.iter().all(is_unix)
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

/// One end of a range: its key, what was written, and what holds otherwise.
#[derive(Debug)]
pub(super) struct Bound<'a, T>(pub(super) &'static str, pub(super) &'a Field<T>, pub(super) T);

/// Both ends of a range; the lower must not be above the upper.
pub(super) fn in_order<T: PartialOrd + Copy>(
    low: Bound<'_, T>,
    high: Bound<'_, T>,
    show: fn(T) -> String,
    reader: &mut Reader,
) -> (T, T) {
    let values = (low.1.or(low.2), high.1.or(high.2));
    let bad = matches!(low.1, Field::Bad) || matches!(high.1, Field::Bad);
    if let Some(at) = low.1.given().or(high.1.given())
        && values.0 > values.1
        && !bad
    {
        let said = |field: &Field<T>, value| match field.is_absent() {
            true => format!("{}, by default", show(value)),
            false => show(value),
        };
        let message = format!(
            "{} ({}) is above {} ({})",
            low.0,
            said(low.1, values.0),
            high.0,
            said(high.1, values.1),
        );
        reader.problem(&at.place, message, format!("lower {} or raise {}", low.0, high.0));
    }
    values
}

pub(super) fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The entries of a list, without their places.
fn values<T>(list: Field<Vec<At<T>>>) -> Vec<T> {
    list.taken().unwrap_or_default().into_iter().map(|at| at.value).collect()
}
