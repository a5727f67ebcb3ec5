//! From the written shape to what it means: defaults filled in, and the keys of one section held against each other.
//!
//! Leaves what sections say about each other (addresses, loops, names without use) to `across`.

use std::time::Duration;

use super::file::{self, KeyPermissions, UpstreamOf};
use super::kinds::Entry;
use super::problem::{Place, Problem};
use super::reader::{At, Field, Reader};
use super::{Config, Listener, Log, Runtime, Upstream, across};
use crate::addr::{Host, ListenAddr};
use crate::discovery::{DnsSettings, Source};
use crate::socket::TcpSettings;
use crate::tls::{IdentitySettings, Mode};
use crate::upstream::EndpointSpec;
use crate::{
    accept, admin, admit, backoff, dial, establish, health, record, relay, route, tls, upstream as set,
};

/// What the files mean. Where something was noted as a problem, the result holds a stand-in and is not to be used.
pub(super) fn config(file: file::File, name: &str, reader: &mut Reader) -> Config {
    if file.listener.is_absent() {
        no_listener(name, reader);
    }
    let identities = file.identity.taken().unwrap_or_default();
    let mut upstreams = file.upstream.taken().unwrap_or_default();
    let mut listeners = file.listener.taken().unwrap_or_default();
    inline_upstreams(&mut listeners, &mut upstreams, reader);
    let admin = file.admin.taken().unwrap_or_default();
    across::check(&admin, &identities, &upstreams, &listeners, reader);

    let (drain_jitter, drain_timeout) = in_order(
        Bound("drain_jitter", &file.drain_jitter, Duration::from_secs(5)),
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

fn upstream(entry: Entry<file::Upstream>, reader: &mut Reader) -> Upstream {
    let Entry { section: mut written, place, .. } = entry;
    let source = source(&written, &place, reader);
    let tls = tls(&written, &source, reader);
    let written_health = std::mem::take(&mut written.health).taken().unwrap_or_default();
    let health = health(written_health, &written.tls, reader);
    let limits = std::mem::take(&mut written.limits).taken().unwrap_or_default();
    let written_timeouts = std::mem::take(&mut written.timeouts).taken().unwrap_or_default();
    let timeouts = timeouts(&written_timeouts, &limits, reader);
    let relay = relay::Settings::default();
    let default = set::Limits::default();
    Upstream {
        tls,
        source,
        identity: written.identity.taken(),
        set: set::Settings {
            balance: written.balance.or(Default::default()),
            breaker: breaker(written.breaker.taken().unwrap_or_default(), reader),
            rise: health.rise,
            fall: health.fall,
            limits: set::Limits {
                connections: limits.connections.taken(),
                pending: limits.pending.or(default.pending),
                queue_timeout: limits.queue_timeout.or(default.queue_timeout),
            },
        },
        health,
        timeouts,
        retry: retry(written.retry.taken().unwrap_or_default()),
        dial: dial::Settings {
            source_address: written.source_address.taken(),
            tcp: tcp(written.tcp.taken().unwrap_or_default()),
        },
        relay: relay::Settings {
            idle: written_timeouts.idle.or(relay.idle),
            half_close: written_timeouts.half_close.or(relay.half_close),
            lifetime: written_timeouts.lifetime.or(relay.lifetime),
            jitter: written_timeouts.jitter.or(relay.jitter),
            on_truncation: written.on_truncation.or(relay.on_truncation),
        },
        required: written.required.or(false),
    }
}

fn source(written: &file::Upstream, place: &Place, reader: &mut Reader) -> Source {
    match (&written.endpoints, &written.dns) {
        (Field::Given(_), Field::Given(dns)) => {
            reader.problem(&dns.place, "stands beside `endpoints`", "keep one of them");
        }
        (Field::Absent, Field::Absent) => {
            let mend = "add for example: endpoints = [\"db.example.com:5432\"]";
            reader.problem(place, "has neither `endpoints` nor `dns`", mend);
        }
        _ => {}
    }
    if let Some(dns) = written.dns.given() {
        if let Host::Ip(_) = dns.value.host {
            let mend = format!("write endpoints = [\"{}\"]", dns.value);
            reader.problem(&dns.place, "wants a name to look up, and this is an address", mend);
        }
        return Source::Dns(dns.value.clone());
    }
    let Some(endpoints) = written.endpoints.given() else { return Source::Fixed(Vec::new()) };
    if endpoints.value.is_empty() {
        reader.problem(&endpoints.place, "is empty", "name one server at least, as HOST:PORT");
    }
    let mut specs: Vec<EndpointSpec> = Vec::new();
    for At { value: entry, .. } in &endpoints.value {
        let Some(At { value: address, place }) = entry.address.given() else { continue };
        if specs.iter().any(|known| known.address == *address) {
            reader.problem(
                place,
                format!("{address} is there twice"),
                "remove one; for a larger share, give it a weight",
            );
        }
        specs.push(EndpointSpec {
            address: address.clone(),
            weight: entry.weight.or(1),
            backup: entry.backup.or(false),
            server_name: entry.server_name.value().cloned(),
        });
    }
    if !specs.is_empty() && specs.iter().all(|spec| spec.weight == 0) {
        reader.warning(
            &endpoints.place,
            "every endpoint has weight 0",
            "give one a weight: no connection will be made",
        );
    }
    Source::Fixed(specs)
}

fn tls(written: &file::Upstream, source: &Source, reader: &mut Reader) -> tls::Settings {
    let default = tls::Settings::default();
    let show = |version| match version {
        tls::Version::Tls12 => "1.2".to_owned(),
        tls::Version::Tls13 => "1.3".to_owned(),
    };
    let (min_version, max_version) = in_order(
        Bound("tls_min", &written.tls_min, default.min_version),
        Bound("tls_max", &written.tls_max, default.max_version),
        show,
        reader,
    );
    let pins = written.pins.value().map(|pins| pins.iter().map(|pin| pin.value.clone()).collect());
    let alpn = written.alpn.value().map(|alpn| alpn.iter().map(|name| name.value.clone()).collect());
    let settings = tls::Settings {
        mode: written.tls.or(default.mode),
        server_name: written.server_name.value().cloned(),
        alpn: alpn.unwrap_or_default(),
        min_version,
        max_version,
        post_quantum: written.post_quantum.or(default.post_quantum),
        pins: pins.unwrap_or_default(),
        danger_accept_any_certificate: written.danger_accept_any_certificate.or(false),
    };
    match settings.mode {
        Mode::Off => without_tls(written, reader),
        Mode::Direct => with_tls(written, &settings, source, reader),
    }
    settings
}

/// `tls = "off"` beside keys that only mean something with TLS: whoever wrote them expects it to be on.
fn without_tls(written: &file::Upstream, reader: &mut Reader) {
    fn place<T>(field: &Field<T>, counts: impl Fn(&T) -> bool) -> Option<Place> {
        field.given().filter(|at| counts(&at.value)).map(|at| at.place.clone())
    }
    let of_endpoints = written.endpoints.value().into_iter().flatten();
    let of_endpoints = of_endpoints.filter_map(|entry| place(&entry.value.server_name, |_| true));
    let keys = [
        place(&written.identity, |_| true),
        place(&written.server_name, |_| true),
        place(&written.alpn, |alpn| !alpn.is_empty()),
        place(&written.pins, |pins| !pins.is_empty()),
        place(&written.danger_accept_any_certificate, |danger| *danger),
    ];
    for place in keys.into_iter().flatten().chain(of_endpoints) {
        let mend = "remove it, or write tls = \"direct\"";
        reader.problem(&place, "says how TLS is done, and tls = \"off\" sends everything in plaintext", mend);
    }
}

fn with_tls(written: &file::Upstream, settings: &tls::Settings, source: &Source, reader: &mut Reader) {
    if let Some(danger) = written.danger_accept_any_certificate.given().filter(|danger| danger.value) {
        match written.pins.given().filter(|pins| !pins.value.is_empty()) {
            Some(pins) => {
                let mend = "remove danger_accept_any_certificate: the pins alone accept what they name";
                reader.problem(&pins.place, "names what is accepted, and danger_accept_any_certificate accepts all", mend);
            }
            None => reader.warning(
                &danger.place,
                "DANGER: no certificate is checked; whoever answers at that address reads and writes the data",
                "name the server's CA in an identity, or its key in `pins`",
            ),
        }
        return;
    }
    let Source::Fixed(specs) = source else { return };
    if settings.server_name.is_some() || !settings.pins.is_empty() {
        return;
    }
    let places = written.endpoints.value().into_iter().flatten();
    for (spec, entry) in specs.iter().zip(places.filter(|entry| entry.value.address.given().is_some())) {
        if let (Host::Ip(ip), None) = (&spec.address.host, &spec.server_name) {
            reader.warning(
                &entry.place,
                format!("the certificate there must carry the address {ip} itself"),
                "if it carries a name instead, write it as server_name",
            );
        }
    }
}

fn timeouts(written: &file::Timeouts, limits: &file::Limits, reader: &mut Reader) -> establish::Timeouts {
    let default = establish::Timeouts::default();
    let establish = written.establish.or(default.establish);
    let stages =
        [&written.resolve, &written.connect, &written.negotiate, &written.handshake, &limits.queue_timeout];
    for stage in stages {
        if let Some(stage) = stage.given().filter(|stage| stage.value > establish) {
            let message =
                format!("never comes to pass: timeouts.establish ends it all after {}", time(establish));
            reader.warning(&stage.place, message, "raise timeouts.establish above it, or lower it");
        }
    }
    establish::Timeouts {
        resolve: written.resolve.or(default.resolve),
        connect: written.connect.or(default.connect),
        negotiate: written.negotiate.or(default.negotiate),
        handshake: written.handshake.or(default.handshake),
        establish,
    }
}

fn health(written: file::Health, tls: &Field<Mode>, reader: &mut Reader) -> health::Settings {
    if let Some(kind) = written.kind.given()
        && kind.value == health::Kind::Tls
        && tls.value() == Some(&Mode::Off)
    {
        let mend = "write kind = \"tcp\", or remove it";
        reader.problem(&kind.place, "checks TLS, and this upstream has tls = \"off\"", mend);
    }
    let default = health::Settings::default();
    health::Settings {
        kind: written.kind.taken(),
        interval: written.interval.or(default.interval),
        timeout: written.timeout.or(default.timeout),
        rise: written.rise.or(default.rise),
        fall: written.fall.or(default.fall),
        jitter: written.jitter.or(default.jitter),
    }
}

fn breaker(written: file::Breaker, reader: &mut Reader) -> set::breaker::Settings {
    let default = set::breaker::Settings::default();
    let (open_for, max_open) = in_order(
        Bound("open_for", &written.open_for, default.open_for),
        Bound("max_open", &written.max_open, default.max_open),
        time,
        reader,
    );
    if let Some(rate) = written.failure_rate.given().filter(|rate| rate.value == Some(0.0)) {
        reader.problem(
            &rate.place,
            "0 would open the circuit without a failure",
            "write a share above 0, or \"off\"",
        );
    }
    set::breaker::Settings {
        consecutive: written.consecutive.or(default.consecutive),
        failure_rate: written.failure_rate.or(default.failure_rate),
        window: written.window.or(default.window),
        minimum: written.minimum.or(default.minimum),
        open_for,
        max_open,
        half_open_trials: written.half_open_trials.or(default.half_open_trials),
        max_ejected: written.max_ejected.or(default.max_ejected),
        early_close: written.early_close.or(default.early_close),
    }
}

fn retry(written: file::Retry) -> backoff::Settings {
    let default = backoff::Settings::default();
    let (backoff_min, backoff_max) = written.backoff.or((default.backoff_min, default.backoff_max));
    backoff::Settings {
        attempts: written.attempts.or(default.attempts),
        backoff_min,
        backoff_max,
        budget: written.budget.or(default.budget),
    }
}

fn tcp(written: file::Tcp) -> TcpSettings {
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
            false => "remove it, or listen on unix:/PATH; over TCP, allow_users says who may come",
        };
        reader.problem(place, "is for Unix sockets, and there is none", mend);
    }
}

/// One end of a range: its key, what was written, and what holds otherwise.
#[derive(Debug)]
struct Bound<'a, T>(&'static str, &'a Field<T>, T);

/// Both ends of a range; the lower must not be above the upper.
fn in_order<T: PartialOrd + Copy>(
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

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The entries of a list, without their places.
fn values<T>(list: Field<Vec<At<T>>>) -> Vec<T> {
    list.taken().unwrap_or_default().into_iter().map(|at| at.value).collect()
}
