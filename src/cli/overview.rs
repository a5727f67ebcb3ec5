//! What a configuration comes to, for `check`: listeners, where they lead, and who we are there. Owns upstreams. Leaves
//! listeners to `listener`, identities and the admin to `about`, and to `changed` what is not as it is by default.

mod about;
mod changed;
mod listener;

use serde::Serialize;

use self::about::{Admin, Who};
use self::changed::Settings;
use self::listener::Listener;

use super::rows::{Rows, count};
use crate::config::{self, Config, Loaded};
use crate::dial::header::Version;
use crate::dial::through::Kind as ProxyKind;
use crate::discovery::Source;
use crate::health;
use crate::protocol::Protocol;
use crate::tls::{self, Date, Identity};
use crate::upstream::{EndpointSpec, WhenUnready};

/// All of it. Its JSON is part of the face: every field is always there.
#[derive(Default, Serialize)]
pub(super) struct Overview {
    listeners: Vec<Listener>,
    upstreams: Vec<Upstream>,
    identities: Vec<Who>,
    admin: Admin,
    #[serde(skip)]
    now: Option<Date>,
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
    /// Through which its servers are dialled.
    proxy: Option<Proxy>,
    /// The version in which servers are told who the client is.
    proxy_protocol: Option<u8>,
    /// What active checks do: `off`, `tcp`, `tls`, `protocol` or `http`.
    health: &'static str,
    /// Keys that do not have their default, as they are written.
    settings: Settings,
}

#[derive(Serialize)]
struct Proxy {
    /// `http` or `socks5`.
    kind: &'static str,
    address: String,
    user: Option<String>,
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

impl Overview {
    pub(super) fn new(loaded: &Loaded, identities: &[Identity], now: Date) -> Overview {
        let Loaded { config, changed, .. } = loaded;
        Overview {
            listeners: (config.listeners.iter()).map(|(name, it)| Listener::new(name, it, changed)).collect(),
            upstreams: (config.upstreams.iter())
                .map(|(name, it)| Upstream {
                    settings: Settings::of_upstream(name, changed),
                    ..upstream(name, it, config)
                })
                .collect(),
            identities: identities.iter().map(Who::new).collect(),
            admin: Admin::new(&config.admin),
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
            .chain(self.identities.iter().map(|who| who.to_text(now)))
            .chain(self.admin.to_text());
        blocks.map(|block| block + "\n").collect()
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
        proxy: written.dial.through.as_ref().map(|through| Proxy {
            kind: match through.kind {
                ProxyKind::Http => "http",
                ProxyKind::Socks5 => "socks5",
            },
            address: through.address.to_string(),
            user: through.login.as_ref().map(|login| login.user.clone()),
        }),
        proxy_protocol: written.dial.header.map(|version| match version {
            Version::One => 1,
            Version::Two => 2,
        }),
        health: match written.checked_by() {
            health::Kind::Off => "off",
            health::Kind::Tcp => "tcp",
            health::Kind::Tls => "tls",
            health::Kind::Protocol => "protocol",
            health::Kind::Http => "http",
        },
        settings: Settings::default(),
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
        // Where there is another one behind it, it is more than a backup.
        let has_tiers = self.endpoints.iter().any(|endpoint| endpoint.tier > 1);
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let marks = [
                match endpoint.tier {
                    0 => None,
                    1 if !has_tiers => Some(" (backup)".to_owned()),
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
        if let Some(Proxy { kind, address, user }) = &self.proxy {
            let user = user.as_ref().map(|user| format!(", as {user}")).unwrap_or_default();
            let kind = if *kind == "http" { "HTTP" } else { "SOCKS5" };
            rows.row("through", format!("the {kind} proxy {address}{user}"));
        }
        if let Some(version) = self.proxy_protocol {
            rows.row(
                "header",
                format!("servers are told who the client is (PROXY protocol, version {version})"),
            );
        }
        let checks = match self.health {
            "tcp" => "connect",
            "tls" => "connect and shake hands",
            "protocol" => "go as far as the protocol does",
            "http" => "ask a URL",
            _ => "off: only connections tell",
        };
        rows.row("checks", checks);
        self.settings.tell(&mut rows);
        rows.into_text()
    }
}
