//! The configuration: what was written ([`file`]) becomes what it means ([`Config`]).
use std::collections::BTreeMap;
use std::time::Duration;

use crate::addr::{ListenerName, UpstreamName};
use crate::{
    accept, admin, admit, backoff, dial, discovery, establish, health, record, relay, route, tls, upstream,
};

/// What a file means. Cannot hold a value that does not make sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[admin]`
    pub admin: admin::Settings,
    /// `[log]`
    pub log: Log,
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[dns]`
    pub dns: discovery::DnsSettings,
    /// `drain_timeout`
    pub drain_timeout: Duration,
    /// `drain_jitter`: each connection is ended up to this much earlier, so that clients do not come back all at once.
    pub drain_jitter: Duration,
    /// `[identity.NAME]`
    pub identities: BTreeMap<String, tls::IdentitySettings>,
    /// `[upstream.NAME]`, and inline ones under the listener's name
    pub upstreams: BTreeMap<UpstreamName, Upstream>,
    /// `[listener.NAME]`
    pub listeners: BTreeMap<ListenerName, Listener>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: record::Format,
    /// A `tracing` filter: "info", "warn", "nuncio=debug".
    pub level: String,
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Reactors; `None`: one a core, at most four.
    pub threads: Option<usize>,
    /// Bytes that relay buffers may take in all.
    pub memory: usize,
    /// Connections open at a time in the whole process; `None`: what the descriptor limit allows.
    pub connections: Option<u32>,
}

/// `[upstream.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// `endpoints` or `dns`
    pub source: discovery::Source,
    /// `tls`, `server_name`, ...
    pub tls: tls::Settings,
    /// `identity`: the key in `identities`; `None`: system roots and no certificate of ours.
    pub identity: Option<String>,
    /// Balance, breaker, limits, rise and fall.
    pub set: upstream::Settings,
    /// `[upstream.NAME.health]`
    pub health: health::Settings,
    /// `[upstream.NAME.timeouts]`
    pub timeouts: establish::Timeouts,
    /// `[upstream.NAME.retry]`
    pub retry: backoff::Settings,
    /// `source_address`, `[upstream.NAME.tcp]`
    pub dial: dial::Settings,
    /// `[upstream.NAME.timeouts]`, `on_truncation`
    pub relay: relay::Settings,
    /// `required`: counts for /readyz
    pub required: bool,
}

/// `[listener.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// `address`, `mode`, `owner`, `group`, `backlog`, `[listener.NAME.tcp]`
    pub accept: accept::Settings,
    /// `allow`, `allow_users`, `allow_groups`, `connections`, `connections_per_source`, `rate`
    pub admit: admit::Settings,
    /// `upstream`
    pub route: route::Settings,
}
