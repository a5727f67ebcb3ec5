//! What a configuration names, loaded: identities, TLS, targets. Each piece for itself, for whoever puts it to use.
//!
//! Leaves to `compose` what becomes of the pieces that are running already. It reads files and asks the system for users and
//! groups: nothing here belongs on a reactor that serves connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::Login;
use crate::addr::{ListenAddr, ListenerName, UpstreamName};
use crate::admin::Token;
use crate::admit::Gate;
use crate::config::{self, Config};
use crate::discovery::{Resolver, Source};
use crate::establish::warm::Pool;
use crate::establish::{HttpCheck, JudgedBy, OwnListeners, Target};
use crate::protocol::Protocol;
use crate::socket;
use crate::tls::{self, ClientTls, Identity, SelfMade, ServerTls};
use crate::upstream::{Observer, State, Upstream};

/// The identities that load; of the others, every problem.
pub(super) fn identities(config: &Config, problems: &mut Vec<String>) -> BTreeMap<String, Identity> {
    let mut identities = BTreeMap::new();
    for (name, settings) in &config.identities {
        match Identity::load(name, settings) {
            Ok(identity) => drop(identities.insert(name.clone(), identity)),
            Err(found) => problems.extend(found),
        }
    }
    identities
}

/// How an upstream's servers are spoken to.
pub(super) fn client_tls(
    written: &config::Upstream,
    identity: Option<&Identity>,
) -> Result<Option<Arc<ClientTls>>, Vec<String>> {
    match written.tls.mode {
        tls::Mode::Off => Ok(None),
        tls::Mode::Direct | tls::Mode::Negotiate => {
            ClientTls::new(&written.tls, identity).map(|tls| Some(Arc::new(tls)))
        }
    }
}

/// The certificates of listeners that were given none. One is made when it is first needed, and stays for as long as the
/// process: whoever was told its fingerprint is not to be told another one at each reload.
#[derive(Default)]
pub(super) struct SelfMadeOnes(Mutex<BTreeMap<ListenerName, Arc<SelfMade>>>);

impl SelfMadeOnes {
    fn of(&self, name: &ListenerName, written: &config::Listener) -> Result<Arc<SelfMade>, String> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(name) {
            return Ok(known.clone());
        }
        let addresses: Vec<_> =
            (written.accept.addresses.iter()).filter_map(tcp).map(|tcp| tcp.ip()).collect();
        let new = Arc::new(SelfMade::new(name, socket::host_name().as_deref(), &addresses)?);
        made.insert(name.clone(), new.clone());
        Ok(new)
    }
}

/// What the protocol of a listener's upstream is.
pub(super) fn protocol_of(written: &config::Listener, config: &Config) -> Protocol {
    config.upstreams.get(&written.route.upstream).map_or(Protocol::Tcp, |upstream| upstream.protocol)
}

/// What a listener has for its clients. `identity`: the one that it names.
pub(super) fn server_tls(
    name: &ListenerName,
    written: &config::Listener,
    protocol: Protocol,
    identity: Option<&Identity>,
    self_made: &SelfMadeOnes,
) -> Result<Option<ServerTls>, Vec<String>> {
    let Some(settings) = &written.tls else { return Ok(None) };
    let certificate = match identity {
        Some(identity) => Ok(identity),
        None => Err(self_made.of(name, written).map_err(|problem| vec![problem])?),
    };
    ServerTls::new(settings, protocol.facts().alpn, certificate).map(Some)
}

/// What the health checks ask over HTTP. Of the upstream's TLS settings only those count that speak of the network between:
/// names, pins and ALPN are those of another server, and what opens that one to anybody opens this one to nobody.
pub(super) fn http_check(
    written: &config::Upstream,
    identity: Option<&Identity>,
) -> Result<Option<HttpCheck>, Vec<String>> {
    let Some(url) = &written.health.url else { return Ok(None) };
    let settings = tls::Settings { post_quantum: written.tls.post_quantum, ..tls::Settings::default() };
    let tls = match url.is_https() {
        true => Some(Arc::new(ClientTls::new(&settings, identity)?)),
        false => None,
    };
    Ok(Some(HttpCheck { url: url.clone(), tls }))
}

/// An upstream's target on its own, without the service around it: what `probe` and `check --online` dial with.
pub(crate) fn lone_target(
    config: &Config,
    name: &UpstreamName,
    resolver: &Resolver,
) -> Result<Target, Vec<String>> {
    let Some(written) = config.upstreams.get(name) else {
        return Err(vec![format!("there is no upstream '{name}'")]);
    };
    let identity = match &written.identity {
        None => None,
        Some(identity) => match config.identities.get(identity) {
            Some(settings) => Some(Identity::load(identity, settings)?),
            None => return Err(vec![format!("there is no identity '{identity}'")]),
        },
    };
    let tls = client_tls(written, identity.as_ref())?;
    let http = http_check(written, identity.as_ref())?;
    let upstream = Upstream::new(
        name.clone(),
        written.set.clone(),
        &written.retry,
        fastrand::u64(..),
        Arc::new(Unheard),
    );
    // The listeners of whoever runs by this file; one with another port each time is not known here.
    let own = Arc::new(OwnListeners::default());
    let listeners = config.listeners.values().flat_map(|listener| &listener.accept.addresses);
    own.set(listeners.filter_map(tcp).filter(|address| address.port() != 0));
    Ok(target(written, upstream, tls, http, resolver.clone(), own))
}

/// What is not as it should be of the files that a configuration names beside its identities', and works all the same.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let exposed = accounts(config).filter_map(|(table, login)| {
        let found = tls::exposed(login.password_file.as_ref()?)?;
        Some(format!("{table}: password_file {found}"))
    });
    let of_admin = config.admin.token_file.as_deref().and_then(tls::exposed);
    let of_admin = of_admin.map(|found| format!("admin: token_file {found}"));
    let of_sources = config.upstreams.iter().flat_map(|(name, written)| {
        let of = written.source.to_string();
        written.source.complaints().into_iter().map(move |found| format!("upstream.{name}: {of}: {found}"))
    });
    let homeless = config.listeners.iter().filter_map(|(name, written)| {
        let file = written.split.as_ref()?.progressive.as_ref()?.state_file.as_ref()?;
        let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty())?;
        let directory = (!directory.is_dir()).then_some(directory)?.display();
        Some(format!(
            "listener.{name}.rollout: state_file is to lie in {directory}, and there is no such directory: a restart would begin \
             the rollout again; mend: create it for the user that nuncio runs as (systemd: StateDirectory=nuncio is /var/lib/nuncio)"
        ))
    });
    exposed.chain(of_sources).chain(homeless).chain(of_admin).collect()
}

/// What orders to the admin have to carry over TCP.
pub(super) fn token(config: &Config) -> Result<Option<Arc<Token>>, String> {
    config.admin.token_file.as_deref().map(|file| Token::load(file).map(Arc::new)).transpose()
}

/// Who we are elsewhere, with the table that says so.
fn accounts(config: &Config) -> impl Iterator<Item = (String, &Login)> {
    config.upstreams.iter().flat_map(|(name, written)| {
        let at_proxy = written.dial.through.as_ref().and_then(|through| through.login.as_ref());
        let named = [("health", written.health.login.as_ref()), ("proxy", at_proxy)];
        named.into_iter().filter_map(move |(table, login)| Some((format!("upstream.{name}.{table}"), login?)))
    })
}

/// Loads all that a configuration names, without binding or dialling.
pub(crate) fn load_everything(config: &Config) -> Result<Vec<Identity>, Vec<String>> {
    let mut problems = Vec::new();
    let identities = identities(config, &mut problems);
    for (name, written) in &config.upstreams {
        let identity = written.identity.as_ref().and_then(|identity| identities.get(identity));
        let has_its_identity = written.identity.is_none() || identity.is_some();
        if has_its_identity
            && let Err(found) = client_tls(written, identity).and_then(|_| http_check(written, identity))
        {
            problems.extend(found.into_iter().map(|problem| format!("upstream.{name}: {problem}")));
        }
    }
    for (table, login) in accounts(config) {
        if let Err(problem) = login.password() {
            problems.push(format!("{table}: {problem}"));
        }
    }
    problems.extend(token(config).err());
    for (name, written) in &config.listeners {
        if let Err(problem) = Gate::new(&written.admit) {
            problems.push(format!("listener.{name}: {problem}"));
        }
        let identity = written.identity.as_ref().and_then(|identity| identities.get(identity));
        let has_its_identity = written.identity.is_none() || identity.is_some();
        let protocol = protocol_of(written, config);
        if has_its_identity
            && let Err(found) = server_tls(name, written, protocol, identity, &SelfMadeOnes::default())
        {
            problems.extend(found.into_iter().map(|problem| format!("listener.{name}: {problem}")));
        }
    }
    if problems.is_empty() { Ok(identities.into_values().collect()) } else { Err(problems) }
}

/// Everything that it takes to reach it.
pub(super) fn target(
    written: &config::Upstream,
    upstream: Arc<Upstream>,
    tls: Option<Arc<ClientTls>>,
    http: Option<HttpCheck>,
    resolver: Resolver,
    own: Arc<OwnListeners>,
) -> Target {
    Target {
        upstream,
        resolver,
        own,
        set_name: match &written.source {
            Source::Dns(name) => Some(name.host.clone()),
            Source::Fixed(_)
            | Source::Srv(_)
            | Source::Consul(_)
            | Source::Kubernetes(_)
            | Source::File(_) => None,
        },
        dial: written.dial.clone(),
        protocol: written.protocol,
        tls,
        negotiates: written.tls.mode == tls::Mode::Negotiate,
        http,
        login: written.health.login.clone(),
        timeouts: written.timeouts.clone(),
        retry: written.retry.clone(),
        relay: written.relay.clone(),
        judged_by: JudgedBy {
            early_close: written.set.breaker.early_close,
            zero_byte: written.set.breaker.zero_byte,
            slow_first_byte: written.set.breaker.slow_first_byte,
        },
        pool: written.pool.map(Pool::new),
    }
}

/// An address that can be dialled.
pub(super) fn tcp(address: &ListenAddr) -> Option<SocketAddr> {
    match address {
        ListenAddr::Tcp(tcp) => Some(*tcp),
        ListenAddr::Unix(_) | ListenAddr::Systemd(_) => None,
    }
}

/// Nobody watches.
struct Unheard;

impl Observer for Unheard {
    fn breaker(&self, _: &str, _: &str, _: State, _: &str) {}
    fn health(&self, _: &str, _: &str, _: bool, _: &str) {}
    fn panic(&self, _: &str, _: bool) {}
    fn source(&self, _: &str, _: Option<&str>) {}
}
