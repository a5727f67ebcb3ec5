//! From the written shape to what it means: defaults filled in, and the keys of one section held against each other.
//!
//! Leaves upstreams to `upstreams`, listeners to `listeners`, and what sections say about each other (addresses, loops, names without use) to
//! `across`.

use std::time::Duration;

use super::file::{self, KeyPermissions, UpstreamOf};
use super::kinds::Entry;
use super::listeners::listener;
use super::problem::Problem;
use super::reader::Reader;
use super::section::{At, Field};
use super::upstreams::upstream;
use super::{Config, Log, Runtime, across, ports, unready};
use crate::discovery::DnsSettings;
use crate::socket::TcpSettings;
use crate::tls::{IdentitySettings, ShownTo};
use crate::{admin, record};

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
    across::state_files(&listeners, reader);
    across::addresses(&admin, &upstreams, &listeners, reader);
    unready::listeners(&upstreams, &listeners, reader);

    // A short drain is not to become one that ends connections from its first moment on.
    let jitter = (file.drain_timeout.or(Duration::from_secs(30)) / 6).min(Duration::from_secs(5));
    let (drain_jitter, drain_timeout) = in_order(
        Bound("drain_jitter", &file.drain_jitter, jitter),
        Bound("drain_timeout", &file.drain_timeout, Duration::from_secs(30)),
        time,
        reader,
    );
    let log = file.log.taken().unwrap_or_default();
    let shown_to = |name: &String| {
        let to_servers = upstreams.iter().any(|user| user.section.identity.value() == Some(name));
        let to_clients = listeners.iter().any(|user| user.section.identity.value() == Some(name));
        match (to_servers, to_clients) {
            (_, false) => ShownTo::Servers,
            (false, true) => ShownTo::Clients,
            (true, true) => ShownTo::Both,
        }
    };
    let shown_to: Vec<ShownTo> = identities.iter().map(|identity| shown_to(&identity.name)).collect();
    let listeners = listeners
        .into_iter()
        .map(|entry| (entry.name.as_str().into(), listener(entry, &identities, &upstreams, reader)))
        .collect();
    Config {
        admin: admin::Settings { addresses: values(admin.address), token_file: admin.token_file.taken() },
        log: Log { format: log.format.or(record::Format::Text), level: log.level.or("info".to_owned()) },
        runtime: runtime(file.runtime.taken().unwrap_or_default(), reader),
        dns: dns(file.dns.taken().unwrap_or_default(), reader),
        drain_timeout,
        drain_jitter,
        identities: identities
            .into_iter()
            .zip(shown_to)
            .map(|(entry, shown_to)| (entry.name.clone(), identity(entry, shown_to, reader)))
            .collect(),
        upstreams: upstreams
            .into_iter()
            .map(|entry| (entry.name.as_str().into(), upstream(entry, reader)))
            .collect(),
        listeners,
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

fn identity(entry: Entry<file::Identity>, shown_to: ShownTo, reader: &mut Reader) -> IdentitySettings {
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
        shown_to,
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
pub(super) fn values<T>(list: Field<Vec<At<T>>>) -> Vec<T> {
    list.taken().unwrap_or_default().into_iter().map(|at| at.value).collect()
}
