//! `consul`: the instances of a service that pass their checks, as a Consul agent knows them.
//!
//! Owns the blocking queries, when the next one follows, and what an answer means for the set. Leaves the way to the agent to
//! `http`.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use fastrand::Rng;
use hyper::StatusCode;
use hyper::header::HeaderName;
use serde::Deserialize;
use tokio::time::Instant;

use super::http::{self, Answer, Question, Registry, encoded, theirs};
use super::reading::ours;
use super::share::share;
use super::{Discover, Origin, Resolver, token};
use crate::addr::EndpointAddr;
use crate::failure::{Failure, Reason, Stage};
use crate::tls::{Identity, IdentitySettings};
use crate::upstream::EndpointSpec;

/// What is asked for, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The service's name.
    pub service: String,
    /// The agent.
    pub address: Origin,
    /// Only instances with this tag.
    pub tag: Option<String>,
    /// `None`: the agent's own.
    pub datacenter: Option<String>,
    /// Where the ACL token stands.
    pub token_file: Option<PathBuf>,
    /// The node from which the distance counts; `_agent`: the agent's own.
    pub near: Option<String>,
    /// What the agent's certificate is checked against; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// What we show the agent, where it wants to know who asks.
    pub certificate: Option<PathBuf>,
    /// The certificate's key; `None`: it stands beside it.
    pub key: Option<PathBuf>,
}

impl Settings {
    /// With https: whom we trust, and who we are.
    fn identity(&self) -> IdentitySettings {
        let Settings { ca, certificate, key, .. } = self.clone();
        IdentitySettings { ca, certificate, key, ..IdentitySettings::default() }
    }

    /// What is wrong with its files for TLS, or should not stay so. They may yet come: none of it keeps nuncio from starting.
    pub(super) fn complaints(&self) -> Vec<String> {
        let found = match (self.address.is_https(), Identity::load("", &self.identity())) {
            (false, _) => Vec::new(),
            (true, Ok(identity)) => [identity.warnings, identity.faults].concat(),
            (true, Err(problems)) => problems,
        };
        found.iter().map(|it| it.trim_start_matches(http::OF_NO_NAME).to_owned()).collect()
    }

    /// Do both ask for the same instances? Not so of another agent, who may be that of another cluster.
    pub(super) fn names_the_same(&self, other: &Settings) -> bool {
        let asked = |settings: &Settings| Settings {
            token_file: None,
            near: None,
            ca: None,
            certificate: None,
            key: None,
            ..settings.clone()
        };
        asked(self) == asked(other)
    }
}

/// How long the agent may keep a query that has nothing new; the set is known to be that old at most.
const WAIT: Duration = Duration::from_secs(30);
/// The agent keeps it up to a sixteenth longer (so its documentation); the rest is for the way.
const GRACE: Duration = Duration::from_secs(12);
/// Between two answers: a service of which each second instance flaps is not to be asked about all the time.
const BREATH: Duration = Duration::from_millis(100);
/// The longest pause while it may be a restart: to ask an agent that is away costs nothing.
const SOON: Duration = Duration::from_millis(900);
/// So many failures in a row are taken for a restart.
const RESTART: u32 = 60;
/// The longest pause after those, of an agent that answers, but not as it should.
const LATER: Duration = Duration::from_secs(10);

/// Follows a service.
pub(super) fn discover(settings: &Settings, resolver: &Resolver) -> Box<dyn Discover> {
    Box::new(Consul {
        registry: Registry::new("Consul", settings.address.clone(), settings.identity(), resolver),
        settings: settings.clone(),
        index: Index::default(),
        due: Instant::now(),
        failures: 0,
        rng: Rng::new(),
    })
}

struct Consul {
    registry: Registry,
    settings: Settings,
    index: Index,
    due: Instant,
    failures: u32,
    rng: Rng,
}

impl Discover for Consul {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            tokio::time::sleep_until(self.due).await;
            let (asked, before) = (Instant::now(), self.index);
            let answer = self.ask().await;
            let rest = match &answer {
                Ok(_) => {
                    self.failures = 0;
                    let is_news = self.index != before || asked.elapsed() > WAIT / 2;
                    self.index.rest(is_news, &mut self.rng)
                }
                Err(failure) => {
                    // Whatever it knew may be gone: a higher index than its own would make it wait for nothing.
                    self.index = Index::default();
                    self.failures = self.failures.saturating_add(1);
                    pause(self.failures, failure.stage == Stage::Connect, &mut self.rng)
                }
            };
            self.due = Instant::now() + rest;
            answer
        })
    }
}

impl Consul {
    async fn ask(&mut self) -> Result<Vec<EndpointSpec>, Failure> {
        let mut headers = Vec::new();
        if let Some(file) = self.settings.token_file.clone() {
            let what = format!("token_file {}", file.display());
            let token = self.registry.read(&what, move || token::header(&file, "")).await?;
            headers.push((HeaderName::from_static("x-consul-token"), token));
        }
        let limit = if self.index.0.is_some() { WAIT + GRACE } else { GRACE };
        let path = path(&self.settings, self.index);
        let answer = self.registry.ask(Question { path, headers, limit, lines: None }).await?;
        let told = |failure: Failure| {
            let detail = format!("Consul at {}: {}", self.settings.address, failure.detail).into();
            Failure { detail, ..failure }
        };
        let index = answer.headers.get("x-consul-index").and_then(|index| index.to_str().ok()?.parse().ok());
        let settings = self.settings.clone();
        // Thousands of instances take their time, which is that of the connections here.
        let specs = tokio::task::spawn_blocking(move || read(&answer, &settings)).await;
        let specs = specs.unwrap_or_else(|panicked| Err(ours(panicked.to_string()))).map_err(told)?;
        self.index.advance(index);
        Ok(specs)
    }
}

/// Up to where the agent's answers are known. `None`: nothing is; the next query is answered at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Index(Option<u64>);

impl Index {
    /// The index of an answer. One that goes backwards is that of another agent, or of a restored one; 0 is none, and to ask
    /// with it would be to ask all the time.
    fn advance(&mut self, index: Option<u64>) {
        self.0 = match (index, self.0) {
            (None | Some(0), _) => None,
            (Some(index), Some(before)) if index < before => None,
            (Some(index), _) => Some(index),
        };
    }

    /// How long until the next query. An agent, or whoever stands before it, that has nothing new and does not wait for it is
    /// not asked all the time.
    fn rest(self, is_news: bool, rng: &mut Rng) -> Duration {
        let at_most = if self.0.is_some() && is_news { BREATH } else { SOON };
        at_most.mul_f64(0.5 + 0.5 * rng.f64())
    }
}

/// After a failure, drawn so that many ambassadors do not come back in step.
fn pause(failures: u32, away: bool, rng: &mut Rng) -> Duration {
    let longest = match failures.checked_sub(RESTART) {
        Some(beyond) if !away => SOON.saturating_mul(1 << beyond.min(8)).min(LATER),
        Some(_) | None => SOON,
    };
    longest.mul_f64(0.4 + 0.6 * rng.f64())
}

fn path(settings: &Settings, index: Index) -> String {
    let mut path = format!("/v1/health/service/{}?passing=true", encoded(&settings.service));
    let named = [("tag", &settings.tag), ("dc", &settings.datacenter), ("near", &settings.near)];
    for (key, value) in named {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", encoded(value)));
        }
    }
    if let Index(Some(index)) = index {
        path.push_str(&format!("&index={index}&wait={}s", WAIT.as_secs()));
    }
    path
}

/// As the API's documentation has it, and no more of it than is needed.
#[derive(Deserialize)]
struct Instance {
    #[serde(rename = "Node")]
    node: Node,
    #[serde(rename = "Service")]
    service: Service,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Locality", default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: u16,
    #[serde(rename = "Weights", default)]
    weights: Option<Weights>,
    #[serde(rename = "Locality", default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
struct Weights {
    #[serde(rename = "Passing", default)]
    passing: u32,
}

#[derive(Deserialize)]
struct Locality {
    #[serde(rename = "Zone", default)]
    zone: String,
}

fn read(answer: &Answer, settings: &Settings) -> Result<Vec<EndpointSpec>, Failure> {
    let no = |detail: String| theirs(Reason::DestinationUnavailable, detail);
    if answer.status != StatusCode::OK {
        let failure = no(format!("it answered {}: {}", answer.status, answer.words()));
        return Err(match answer.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => failure.mend(
                "name a token_file whose token may read the service and its nodes (service:read, node:read)",
            ),
            StatusCode::NOT_FOUND => failure.mend("is that the address of a Consul agent?"),
            _ => failure.mend("look in the agent's log; the last instances stay in use"),
        });
    }
    let instances: Vec<Instance> = serde_json::from_slice(&answer.body).map_err(|error| {
        no(format!("it answered something else than the instances of a service ({error})"))
            .mend("is that the address of a Consul agent?")
    })?;
    let heaviest = instances.iter().map(|instance| weight(&instance.service)).max().unwrap_or(0);
    let some_have_none = heaviest > 0 && instances.iter().any(|instance| weight(&instance.service) == 0);
    let mut specs = Vec::with_capacity(instances.len());
    let mut bad = None;
    for (rank, Instance { node, service }) in instances.iter().enumerate() {
        let host = if service.address.is_empty() { &node.address } else { &service.address };
        let Some(address) = address(host, service.port) else {
            bad = Some(format!("{host}:{}", service.port));
            continue;
        };
        let locality = service.locality.as_ref().or(node.locality.as_ref());
        let zone = locality.map(|locality| locality.zone.as_str()).filter(|zone| !zone.is_empty());
        specs.push(EndpointSpec {
            weight: share(weight(service), heaviest, some_have_none),
            // With `near`, they come in the order of their distance.
            tier: if settings.near.is_some() { u16::try_from(rank).unwrap_or(u16::MAX) } else { 0 },
            zone: zone.map(Into::into),
            ..EndpointSpec::new(address)
        });
    }
    match bad {
        Some(bad) if specs.is_empty() => {
            let bad: String = bad.chars().filter(char::is_ascii_graphic).take(80).collect();
            Err(no(format!("no instance has an address and a port to connect to (such as '{bad}')"))
                .mend("register the service with its address and port"))
        }
        _ => Ok(specs),
    }
}

fn weight(service: &Service) -> u32 {
    service.weights.as_ref().map_or(1, |weights| weights.passing)
}

fn address(host: &str, port: u16) -> Option<EndpointAddr> {
    match host.parse() {
        Ok(ip) if port != 0 => Some(std::net::SocketAddr::new(ip, port).into()),
        Ok(_) => None,
        Err(_) => format!("{host}:{port}").parse().ok(),
    }
}

#[cfg(test)]
mod tests;
