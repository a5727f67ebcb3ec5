//! What an `[upstream.NAME]` means: where its endpoints come from, how they are spoken to, and within which limits.

use std::time::Duration;

use super::breaker::{Checks, breaker};
use super::endpoints;
use super::file;
use super::kinds::Entry;
use super::meaning::{Bound, in_order, tcp, time};
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field};
use super::sources::{leaves_this_host, source};
use super::{Upstream, proxies};
use crate::account::Login;
use crate::addr::Host;
use crate::discovery::Source;
use crate::health::http::Url;
use crate::protocol::Protocol;
use crate::relay::OnTruncation;
use crate::tls::Mode;
use crate::{backoff, dial, establish, health, relay, tls, upstream as set};

/// One upstream, with the problems of its keys among themselves noted.
pub(super) fn upstream(entry: Entry<file::Upstream>, reader: &mut Reader) -> Upstream {
    let Entry { section: mut written, place, .. } = entry;
    let source = source(&written, &place, reader);
    let protocol = written.protocol.or(Protocol::default());
    let tls = tls(&written, protocol, &source, reader);
    let written_health = std::mem::take(&mut written.health).taken().unwrap_or_default();
    let close_when_down = written_health.close_when_down.or(false);
    let health = health(written_health, tls.mode, protocol, reader);
    let deepest = health::Kind::deepest(tls.mode != Mode::Off, protocol != Protocol::Tcp);
    let usual = match protocol.blocks_hosts() && health.login.is_none() {
        true => health::Kind::Off,
        false => deepest,
    };
    let checks = Checks { kind: health.kind.unwrap_or(usual), deepest };
    let limits = std::mem::take(&mut written.limits).taken().unwrap_or_default();
    let written_timeouts = std::mem::take(&mut written.timeouts).taken().unwrap_or_default();
    let timeouts = timeouts(&written_timeouts, &limits, reader);
    endpoints::fit(&written, &limits, &source, reader);
    if let Some(At { value: set::WhenUnready::Wait, place }) = written.when_unready.given()
        && limits.pending.value() == Some(&0)
    {
        let mend = "raise limits.pending, or write when_unready = \"refuse\"";
        reader.warning(place, "never comes to pass: limits.pending = 0 lets nobody wait", mend);
    }
    let relay = relay::Settings::default();
    let default = set::Limits::default();
    Upstream {
        protocol,
        tls,
        source,
        identity: written.identity.taken(),
        set: set::Settings {
            balance: written.balance.or(Default::default()),
            breaker: breaker(written.breaker.taken().unwrap_or_default(), checks, reader),
            rise: health.rise,
            fall: health.fall,
            limits: set::Limits {
                connections: limits.connections.taken(),
                connections_per_endpoint: limits.connections_per_endpoint.taken(),
                pending: limits.pending.or(default.pending),
                queue_timeout: limits.queue_timeout.or(default.queue_timeout),
            },
            slow_start: written.slow_start.or(None),
            spill_over: written.spill_over.or(None),
            leave_timeout: written.leave_timeout.or(None),
            close_when_down,
            when_unready: written.when_unready.or(Default::default()),
            zone: written.zone.value().map(|zone| zone.as_str().into()),
        },
        health,
        timeouts,
        retry: retry(written.retry.taken().unwrap_or_default()),
        dial: dial::Settings {
            source_address: written.source_address.taken(),
            tcp: tcp(written.tcp.taken().unwrap_or_default()),
            header: proxies::header(&written.proxy, &written.pool, reader),
            through: proxies::through(written.proxy.taken().unwrap_or_default(), reader),
        },
        relay: relay::Settings {
            idle: written_timeouts.idle.or(relay.idle),
            half_close: written_timeouts.half_close.or(relay.half_close),
            lifetime: written_timeouts.lifetime.or(relay.lifetime),
            jitter: written_timeouts.jitter.or(relay.jitter),
            on_truncation: written.on_truncation.or(match protocol.hangs_up() {
                true => OnTruncation::Usual,
                false => relay.on_truncation,
            }),
        },
        required: written.required.or(false),
        pool: pool(written.pool, protocol, reader),
    }
}

/// When TLS begins.
pub(super) fn mode(written: &file::Upstream, protocol: Protocol) -> Mode {
    written.tls.or(if protocol.negotiates() { Mode::Negotiate } else { Mode::Direct })
}

fn tls(written: &file::Upstream, protocol: Protocol, source: &Source, reader: &mut Reader) -> tls::Settings {
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
    let mode = mode(written, protocol);
    if mode == Mode::Negotiate
        && !protocol.negotiates()
        && let Some(At { place, .. }) = written.tls.given()
    {
        let name = protocol.name();
        let message = format!("{name} has no way to ask for TLS on a connection that began in plaintext");
        let mend = "name the protocol (protocol = \"postgres\"), or write tls = \"direct\" for TLS from the first byte, tls = \"off\" for none";
        reader.problem(place, message, mend);
    }
    let is_wrapped = mode == Mode::Negotiate && protocol.wrapping().is_some();
    if is_wrapped && let Some(At { value: tls::Version::Tls13, place }) = written.tls_min.given() {
        let name = protocol.name();
        let message = format!("where {name} is asked for TLS, TLS 1.2 is the newest that it can carry");
        let mend =
            "remove it; or write tls = \"direct\", if the server takes TLS from the first byte (TDS 8)";
        reader.problem(place, message, mend);
    }
    let max_version = if is_wrapped { tls::Version::Tls12 } else { max_version };
    let alpn = match written.alpn.value() {
        Some(alpn) => Some(alpn.iter().map(|name| name.value.clone()).collect()),
        None if mode == Mode::Direct => protocol.facts().alpn.map(|name| vec![name.to_owned()]),
        None => None,
    };
    let settings = tls::Settings {
        mode,
        server_name: written.server_name.value().cloned(),
        alpn: alpn.unwrap_or_default(),
        min_version,
        max_version,
        post_quantum: written.post_quantum.or(default.post_quantum),
        pins: pins.unwrap_or_default(),
        danger_accept_any_certificate: written.danger_accept_any_certificate.or(false),
    };
    if let Some(At { value: Mode::Off, place }) = written.tls.given()
        && protocol == Protocol::Postgres
        && leaves_this_host(source)
    {
        reader.warning(
            place,
            "clients that would rather speak TLS themselves (sslmode=prefer) are told no, and everything goes in plaintext",
            "write tls = \"negotiate\"; or protocol = \"tcp\", which lets their own TLS pass",
        );
    }
    match settings.mode {
        Mode::Off => without_tls(written, reader),
        Mode::Negotiate | Mode::Direct => with_tls(written, &settings, source, reader),
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
    let asks_https = written.health.value().and_then(|health| health.url.value()).is_some_and(Url::is_https);
    let keys = [
        place(&written.identity, |_| !asks_https),
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
    if settings.server_name.is_some() || !settings.pins.is_empty() {
        return;
    }
    let consul = written.consul.given().map(|at| &at.place);
    let registries = [consul, written.kubernetes.given().map(|at| &at.place)];
    for place in registries.into_iter().flatten() {
        reader.warning(
            place,
            "gives addresses, so the certificate at each must carry its own address",
            "if they carry a name instead, write it as server_name",
        );
    }
    let Source::Fixed(specs) = source else { return };
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

fn health(written: file::Health, tls: Mode, protocol: Protocol, reader: &mut Reader) -> health::Settings {
    login(&written, tls, protocol, reader);
    if let Some(kind) = written.kind.given()
        && matches!(kind.value, health::Kind::Tls | health::Kind::Protocol)
        && tls == Mode::Off
    {
        let mend = "write kind = \"tcp\", or remove it";
        reader.problem(&kind.place, "checks TLS, and this upstream has tls = \"off\"", mend);
    }
    let asks = written.kind.value() == Some(&health::Kind::Http);
    match (&written.kind, &written.url) {
        (Field::Given(kind), Field::Absent) if asks => {
            let mend = "add for example: url = \"https://{host}:8008/primary\"";
            reader.problem(&kind.place, "asks a URL, and there is none", mend);
        }
        (Field::Given(_) | Field::Absent, Field::Given(url)) if !asks => {
            let mend = "write kind = \"http\", or remove it";
            reader.problem(&url.place, "is asked only by kind = \"http\"", mend);
        }
        _ => {}
    }
    let default = health::Settings::default();
    let password_file = written.password_file.taken();
    health::Settings {
        kind: written.kind.taken(),
        url: written.url.taken(),
        login: written.user.taken().map(|user| Login { user, password_file }),
        interval: written.interval.or(default.interval),
        timeout: written.timeout.or(default.timeout),
        rise: written.rise.or(default.rise),
        fall: written.fall.or(default.fall),
        jitter: written.jitter.or(default.jitter),
    }
}

/// Whom a check logs in as, and where it has to.
fn login(written: &file::Health, tls: Mode, protocol: Protocol, reader: &mut Reader) {
    use health::Kind::{Http, Off, Protocol as ByProtocol, Tcp, Tls};
    let Some(At { place, .. }) = written.user.given() else {
        if let Field::Given(file) = &written.password_file {
            let mend = "add the account's name: user = \"check\"; or remove it";
            reader.problem(&file.place, "has the password of nobody: there is no user", mend);
        }
        if let Field::Given(At { value: Tcp | Tls | ByProtocol, place }) = &written.kind
            && protocol.blocks_hosts()
        {
            let message = format!(
                "leaves before it is logged in, and {} servers block a host that does so max_connect_errors times in a row",
                protocol.name()
            );
            let mend = "add an account without rights that the check logs in as: kind = \"protocol\", user = \"check\", \
                        password_file = \"...\"; or remove it: the breaker judges by the clients' own connections";
            reader.problem(place, message, mend);
        }
        return;
    };
    let wrong = if !protocol.blocks_hosts() {
        Some((format!("logs in, and with protocol = \"{}\" no check has to", protocol.name()), "remove it"))
    } else if tls == Mode::Off {
        let message = "logs in only through TLS, and this upstream has tls = \"off\"".to_owned();
        Some((message, "remove it, or write tls = \"negotiate\""))
    } else {
        match written.kind.value() {
            None | Some(ByProtocol) => None,
            Some(Off | Tcp | Tls | Http) => Some((
                "logs in, and no check does but that of kind = \"protocol\"".to_owned(),
                "write kind = \"protocol\", or remove it",
            )),
        }
    };
    if let Some((message, mend)) = wrong {
        reader.problem(place, message, mend);
    }
}

/// What is kept ready, where its protocol lets that be.
fn pool(written: Field<file::Pool>, protocol: Protocol, reader: &mut Reader) -> Option<set::pool::Settings> {
    let Field::Given(At { value: written, place }) = written else { return None };
    let default = set::pool::Settings::default();
    let most = written.min.value().copied().unwrap_or(default.min);
    let (min, max) = in_order(
        Bound("min", &written.min, default.min),
        Bound("max", &written.max, most),
        |count| count.to_string(),
        reader,
    );
    let max_age = written.max_age.or(default.max_age);
    if protocol == Protocol::Postgres
        && let Some(At { place, .. }) =
            written.max_age.given().filter(|given| given.value >= POSTGRES_PATIENCE)
    {
        let message =
            "is as long as PostgreSQL waits for a login, unless its authentication_timeout was raised";
        reader.warning(place, message, "keep it below, with room for the login itself: \"30s\"");
    }
    if let Some(why) = protocol.never_warm().filter(|_| max > 0) {
        let message =
            format!("keeps connections ready before a client comes, and with {} {why}", protocol.name());
        reader.problem(&place, message, "remove it");
    }
    (max > 0).then_some(set::pool::Settings { min, max, max_age })
}

/// authentication_timeout, if nobody has changed it.
const POSTGRES_PATIENCE: Duration = Duration::from_secs(60);

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
