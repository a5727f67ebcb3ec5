//! The configuration: what was written becomes what it means ([`Config`]), or every [`Problem`] at once.
//!
//! Two shapes. `file` is the written one: each section and key declared once (by `section`), with kind, default and
//! text, read by `reader`, `kinds` and `words` with the place of everything. [`Config`] is what it means: `meaning` and
//! `upstreams`, `listeners` fill in defaults and hold the keys of a section against each other, `across` the sections. `load` reads
//! files, `syntax` says what is wrong with text that is not TOML, `reference` writes `conf/nuncio.toml` from the keys.
//! Leaves the files that the configuration names to `tls`.

mod across;
mod breaker;
mod choices;
mod contexts;
mod endpoints;
mod file;
mod kinds;
mod listeners;
mod load;
mod meaning;
mod ports;
mod problem;
mod proxies;
mod reader;
mod reference;
mod section;
mod sources;
mod splits;
mod syntax;
mod unready;
mod upstreams;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use load::default_file;
pub use problem::{Problem, Problems};
pub use reader::Changed;
pub use reference::reference;

use crate::addr::{ListenerName, UpstreamName};
use crate::protocol::Protocol;
use crate::{
    accept, admin, admit, backoff, context, dial, discovery, establish, health, record, relay, rollout,
    route, tls, upstream,
};

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What is likely not meant so, one line each, with its place and mend.
    pub warnings: Vec<String>,
    /// The files it was read from, the named one first.
    pub files: Vec<PathBuf>,
    /// Keys that were given another value than their default, for who looks at what is special here.
    pub changed: Vec<Changed>,
}

/// Reads a file and what it includes.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let mut reader = reader::Reader::new();
    let read = load::files(path, &mut reader);
    finish(read, &path.display().to_string(), reader)
}

/// Reads a text; `name` stands for its file in messages. No bytes make it panic.
pub fn from_text(name: &str, text: impl AsRef<[u8]>) -> Result<Loaded, Problems> {
    let mut reader = reader::Reader::new();
    let read = load::text(name, text.as_ref(), &mut reader).map(|file| (file, Vec::new()));
    finish(read, name, reader)
}

fn finish(
    read: Option<(file::File, Vec<PathBuf>)>,
    name: &str,
    mut reader: reader::Reader,
) -> Result<Loaded, Problems> {
    let meant = read.map(|(file, files)| (meaning::config(file, name, &mut reader), files));
    let changed = std::mem::take(&mut reader.changed);
    let warnings = reader.finish()?;
    match meant {
        Some((config, files)) => Ok(Loaded { config, warnings, files, changed }),
        // Whoever gives up reading notes why; should one forget it, this is still no panic.
        None => {
            Err(Problems(vec![Problem::of_file(name, "could not be read", "please report this as a defect")]))
        }
    }
}

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
    /// `protocol`
    pub protocol: Protocol,
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
    /// `pool`: connections that are kept ready.
    pub pool: Option<upstream::pool::Settings>,
}

impl Upstream {
    /// What its endpoints' active checks do: what is written, or the deepest that cannot have us blocked.
    pub fn checked_by(&self) -> health::Kind {
        let may_break_off = !self.protocol.blocks_hosts() || self.health.login.is_some();
        self.health.kind.unwrap_or_else(|| match may_break_off {
            true => health::Kind::deepest(self.tls.mode != tls::Mode::Off, self.protocol != Protocol::Tcp),
            false => health::Kind::Off,
        })
    }
}

/// `[listener.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// `address`, `mode`, `owner`, `group`, `backlog`, `[listener.NAME.tcp]`
    pub accept: accept::Settings,
    /// `allow`, `allow_users`, `allow_groups`, `connections`, `connections_per_source`, `rate`
    pub admit: admit::Settings,
    /// `upstream`, `upstreams` with their `hosts`
    pub route: route::Settings,
    /// `split`, `sticky`, `rollout`; `None`: all connections go to one upstream.
    pub split: Option<rollout::Settings>,
    /// `context`
    pub context: context::Kind,
    /// `preface_timeout`
    pub preface_timeout: Duration,
    /// `tls`, `tls_mode`, `client_names`; `None`: clients are served in plaintext.
    pub tls: Option<tls::ListenerSettings>,
    /// `identity`: the key in `identities`; `None`: a certificate of our own making.
    pub identity: Option<String>,
}
