//! What a configuration comes to, for `check`: listeners, where they lead, and who we are there.

use serde::Serialize;

use super::rows::{Rows, count};
use crate::config::{self, Config};
use crate::context;
use crate::discovery::Source;
use crate::protocol::Protocol;
use crate::rollout::Share;
use crate::tls::{self, Date, Identity, PeerFacts};
use crate::upstream::{EndpointSpec, WhenUnready};

/// All of it. Its JSON is part of the face: every field is always there.
#[derive(Default, Serialize)]
pub(super) struct Overview {
    listeners: Vec<Listener>,
    upstreams: Vec<Upstream>,
    identities: Vec<Who>,
    #[serde(skip)]
    now: Option<Date>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    addresses: Vec<String>,
    allow: Vec<String>,
    allow_users: Vec<String>,
    allow_groups: Vec<String>,
    upstream: String,
    /// `off`, `optional` or `required`.
    tls: &'static str,
    /// `negotiate` or `direct`; with TLS off, none.
    tls_mode: Option<&'static str>,
    /// Whose certificate clients are shown; none: nobody's, or one of nuncio's own making.
    identity: Option<String>,
    /// Names of which a client's certificate must carry one.
    client_names: Vec<String>,
    /// How it hears of its connections' context; none: not at all.
    context: Option<&'static str>,
}

#[derive(Serialize)]
struct Upstream {
    name: String,
    /// As written; with another source, none.
    endpoints: Vec<Endpoint>,
    dns: Option<String>,
    srv: Option<String>,
    /// The service, and at which agent.
    consul: Option<String>,
    /// The service, its namespace where it is written, and at which API.
    kubernetes: Option<String>,
    file: Option<String>,
    /// `tcp`, `postgres`, ...
    protocol: &'static str,
    /// `negotiate`, `direct` or `off`.
    tls: &'static str,
    /// `ca`, `system`, `pins` or `anything`; with TLS off, none.
    trusts: Option<&'static str>,
    server_name: Option<String>,
    identity: Option<String>,
    /// `refuse`, `reset`, `unlisten` or `wait`.
    when_unready: &'static str,
}

#[derive(Serialize)]
struct Endpoint {
    address: String,
    weight: u32,
    backup: bool,
    tier: u16,
    zone: Option<String>,
    server_name: Option<String>,
}

#[derive(Serialize)]
struct Who {
    name: String,
    /// Our certificate, and what stands behind it in the file; empty: we show nothing.
    chain: Vec<PeerFacts>,
    /// What servers are checked against; empty: the system's roots.
    authorities: Vec<PeerFacts>,
}

impl Overview {
    pub(super) fn new(config: &Config, identities: &[Identity], now: Date) -> Overview {
        let listeners = config.listeners.iter().map(|(name, listener)| Listener {
            name: name.to_string(),
            addresses: listener.accept.addresses.iter().map(ToString::to_string).collect(),
            allow: listener.admit.allow.iter().map(ToString::to_string).collect(),
            allow_users: listener.admit.allow_users.clone(),
            allow_groups: listener.admit.allow_groups.clone(),
            upstream: upstreams_of(listener),
            tls: match &listener.tls {
                None => "off",
                Some(tls) if tls.required => "required",
                Some(_) => "optional",
            },
            tls_mode: listener.tls.as_ref().map(|tls| if tls.direct { "direct" } else { "negotiate" }),
            identity: listener.identity.clone(),
            client_names: listener.tls.as_ref().map_or_else(Vec::new, |tls| tls.client_names.clone()),
            context: (listener.context != context::Kind::None).then(|| listener.context.label()),
        });
        let identities = identities.iter().map(|identity| Who {
            name: identity.name.to_string(),
            chain: identity.facts().to_vec(),
            authorities: identity.authorities().to_vec(),
        });
        Overview {
            listeners: listeners.collect(),
            upstreams: config.upstreams.iter().map(|(name, it)| upstream(name, it, config)).collect(),
            identities: identities.collect(),
            now: Some(now),
        }
    }

    pub(super) fn summary(&self) -> String {
        let Overview { listeners, upstreams, identities, .. } = self;
        format!(
            "{}, {}, {}",
            count(listeners.len(), "listener"),
            count(upstreams.len(), "upstream"),
            match identities.len() {
                1 => "1 identity".to_owned(),
                number => format!("{number} identities"),
            }
        )
    }

    pub(super) fn to_text(&self) -> String {
        let now = self.now.unwrap_or(Date(0));
        let blocks = (self.listeners.iter().map(Listener::to_text))
            .chain(self.upstreams.iter().map(Upstream::to_text))
            .chain(self.identities.iter().map(|who| who.to_text(now)));
        blocks.map(|block| block + "\n").collect()
    }
}

/// One, those that have their share, or those that a destination chooses among.
fn upstreams_of(listener: &config::Listener) -> String {
    if let Some(split) = &listener.split {
        let canary = split.progressive.as_ref().map(|progressive| &progressive.canary);
        let share = |Share { upstream, weight }: &Share| match canary {
            None => format!("{upstream} ({weight})"),
            Some(canary) if canary == upstream => format!("{upstream} (on trial, step by step)"),
            Some(_) => upstream.to_string(),
        };
        return split.shares.iter().map(share).collect::<Vec<_>>().join(", ");
    }
    let several: Vec<_> = listener.route.reachable.iter().map(|reachable| &*reachable.upstream).collect();
    match several.is_empty() {
        true => listener.route.upstream.to_string(),
        false => several.join(", "),
    }
}

fn upstream(name: &str, written: &config::Upstream, config: &Config) -> Upstream {
    let tls::Settings { mode, pins, danger_accept_any_certificate, server_name, .. } = &written.tls;
    let with_ca = || {
        let identity = written.identity.as_ref().and_then(|identity| config.identities.get(identity));
        identity.is_some_and(|identity| identity.ca.is_some())
    };
    let trusts = match mode {
        tls::Mode::Off => None,
        _ if *danger_accept_any_certificate => Some("anything"),
        _ if !pins.is_empty() => Some("pins"),
        _ if with_ca() => Some("ca"),
        tls::Mode::Negotiate | tls::Mode::Direct => Some("system"),
    };
    let endpoint = |spec: &EndpointSpec| Endpoint {
        address: spec.address.to_string(),
        weight: spec.weight,
        backup: spec.is_backup(),
        tier: spec.tier,
        zone: spec.zone.as_deref().map(str::to_owned),
        server_name: spec.server_name.clone(),
    };
    let mut endpoints = Vec::new();
    let (mut dns, mut srv, mut consul, mut kubernetes, mut file) = (None, None, None, None, None);
    match &written.source {
        Source::Fixed(specs) => endpoints = specs.iter().map(endpoint).collect(),
        Source::Dns(name) => dns = Some(name.to_string()),
        Source::Srv(name) => srv = Some(name.to_string()),
        Source::Consul(at) => consul = Some(format!("{} at {}", at.service, at.address)),
        Source::Kubernetes(at) => {
            let namespace = at.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
            let api = at.api.as_ref().map(|api| format!(" at {api}")).unwrap_or_default();
            kubernetes = Some(format!("{namespace}{}{api}", at.service));
        }
        Source::File(path) => file = Some(path.display().to_string()),
    }
    Upstream {
        name: name.to_owned(),
        endpoints,
        dns,
        srv,
        consul,
        kubernetes,
        file,
        protocol: written.protocol.name(),
        tls: match mode {
            tls::Mode::Off => "off",
            tls::Mode::Negotiate => "negotiate",
            tls::Mode::Direct => "direct",
        },
        trusts,
        server_name: server_name.clone(),
        identity: written.identity.clone(),
        when_unready: written.set.when_unready.label(),
    }
}

impl Listener {
    fn to_text(&self) -> String {
        let mut rows = Rows::titled(format!("listener {}", self.name));
        rows.row("address", self.addresses.join(", "));
        for (label, names) in
            [("networks", &self.allow), ("users", &self.allow_users), ("groups", &self.allow_groups)]
        {
            if !names.is_empty() {
                rows.row(label, names.join(", "));
            }
        }
        if let Some(context) = self.context {
            rows.row("context", context);
        }
        rows.row("leads to", format!("upstream {}", self.upstream));
        if let Some(mode) = self.tls_mode {
            let begins = match mode {
                "direct" => "from the first byte",
                _ => "asked for in the protocol's words",
            };
            let shown = match &self.identity {
                Some(identity) => format!("the certificate of {identity}"),
                None => {
                    "a certificate of nuncio's own making, which none of them can verify (each start makes a new one, and \
                     logs its SHA-256)"
                        .to_owned()
                }
            };
            rows.row("tls", format!("{}, {begins}; clients are shown {shown}", self.tls));
        }
        if !self.client_names.is_empty() {
            rows.row("clients", format!("with a certificate for {}", self.client_names.join(" or ")));
        }
        rows.into_text()
    }
}

impl Upstream {
    fn to_text(&self) -> String {
        let mut rows = Rows::titled(format!("upstream {}", self.name));
        if let Some(dns) = &self.dns {
            rows.row("endpoints", format!("every address of {dns}"));
        }
        if let Some(srv) = &self.srv {
            rows.row("endpoints", format!("every target of the SRV records of {srv}"));
        }
        if let Some(consul) = &self.consul {
            rows.row("endpoints", format!("every passing instance of {consul} (Consul)"));
        }
        if let Some(kubernetes) = &self.kubernetes {
            rows.row("endpoints", format!("every ready endpoint of the Service {kubernetes} (Kubernetes)"));
        }
        if let Some(file) = &self.file {
            rows.row("endpoints", format!("those that {file} names"));
        }
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let marks = [
                match endpoint.tier {
                    0 => None,
                    1 => Some(" (backup)".to_owned()),
                    tier => Some(format!(" (tier {tier})")),
                },
                endpoint.zone.as_ref().map(|zone| format!(" (zone {zone})")),
                (endpoint.weight != 1).then(|| format!(" (weight {})", endpoint.weight)),
                endpoint.server_name.as_ref().map(|name| format!(" (server name {name})")),
            ];
            let marks: String = marks.into_iter().flatten().collect();
            rows.row(if place == 0 { "endpoints" } else { "" }, format!("{}{marks}", endpoint.address));
        }
        if self.protocol != Protocol::Tcp.name() {
            rows.row("protocol", self.protocol);
        }
        let by = match self.trusts {
            None => "everything goes in plaintext",
            Some("pins") => "the server by its pin",
            Some("anything") => "any server is taken",
            Some("ca") => "the server by the CA of the identity",
            Some(_) => "the server by the system's roots",
        };
        let begins = match self.tls {
            "negotiate" => "asked for in the protocol's words; ",
            "direct" => "from the first byte; ",
            _ => "off: ",
        };
        let name = self.server_name.as_ref().map(|name| format!(", as {name}")).unwrap_or_default();
        rows.row("tls", format!("{begins}{by}{name}"));
        if let Some(identity) = &self.identity {
            rows.row("identity", identity);
        }
        if self.when_unready != WhenUnready::default().label() {
            let meets = match self.when_unready {
                "reset" => "connections are reset",
                "unlisten" => "nobody listens at the listeners that lead only here",
                _ => "clients wait, for as long as timeouts.establish",
            };
            rows.row("unready", format!("{}: while no endpoint can be used, {meets}", self.when_unready));
        }
        rows.into_text()
    }
}

impl Who {
    fn to_text(&self, now: Date) -> String {
        let mut rows = Rows::titled(format!("identity {}", self.name));
        let told = |facts: &PeerFacts| {
            format!("{}, issued by {}, valid {}", facts.subject, facts.issuer, facts.validity(now))
        };
        let label = |place: usize, label| if place == 0 { label } else { "" };
        for (place, facts) in self.chain.iter().enumerate() {
            rows.row(label(place, "certificate"), told(facts));
        }
        if self.chain.is_empty() {
            rows.row("certificate", "none: servers are shown nothing");
        }
        for (place, facts) in self.authorities.iter().enumerate() {
            rows.row(label(place, "trusts"), format!("{}, valid {}", facts.subject, facts.validity(now)));
        }
        if self.authorities.is_empty() {
            rows.row("trusts", "the system's roots");
        }
        rows.into_text()
    }
}
