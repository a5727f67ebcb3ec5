//! Dialling endpoints to look at them: what `check --online` and `probe` share.
//!
//! Goes the same way as a connection (`establish`), so that what it finds is what a client would meet.

mod health;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::health::Health;
use super::rows::{Rows, count, joined};
use crate::addr::UpstreamName;
use crate::config::Config;
use crate::discovery::{self, Resolver, Source};
use crate::establish::{self, Reached, Sight, Target};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::record::Millis;
use crate::service;
use crate::tls::{self, Date, PeerFacts};
use crate::trail::{Times, Trail};
use crate::upstream::EndpointSpec;

/// So many endpoints are looked at at a time.
const AT_ONCE: usize = 32;
/// How long a refusal that comes after the handshake is waited for, at least. Longer than a health check listens: a
/// person would rather wait than be told half the truth.
const PROOF: Duration = Duration::from_millis(500);
/// How long a set's source is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What was seen of one endpoint. Its JSON is part of the face: every field is always there.
#[derive(Serialize)]
pub(super) struct Examination {
    pub(super) upstream: String,
    pub(super) endpoint: String,
    pub(super) fine: bool,
    /// In one line.
    verdict: String,
    /// The name that was asked for and that the certificate had to carry; `None`: it did not come to that.
    server_name: Option<String>,
    stages: Vec<Took>,
    addresses: Vec<SocketAddr>,
    connected: Option<SocketAddr>,
    tls: Option<Tls>,
    /// `None`: it did not come to that.
    client_certificate: Option<ClientCertificate>,
    /// As the server sent it, leaf first; whether it is trusted is the verdict's matter.
    chain: Vec<PeerFacts>,
    /// Of the leaf: of its key, and of itself.
    pins: Vec<String>,
    /// What its health check says beside that; `None`: it is one that would see no more.
    health: Option<Health>,
    pub(super) fault: Option<Fault>,
    #[serde(skip)]
    now: Date,
}

#[derive(Serialize)]
struct Took {
    stage: &'static str,
    ms: Millis,
}

#[derive(Serialize)]
struct Tls {
    version: &'static str,
    suite: &'static str,
    group: Option<&'static str>,
    alpn: Option<String>,
}

#[derive(Serialize)]
struct ClientCertificate {
    /// The server asked for one.
    asked: bool,
    /// Whose it said it takes.
    accepted_issuers: Vec<String>,
    /// What was shown.
    presented: Option<PeerFacts>,
    /// There is one, and the server did not take its kind of key.
    unfit: bool,
}

/// A failure in words: the same as the record's.
#[derive(Serialize)]
pub(super) struct Fault {
    stage: &'static str,
    reason: &'static str,
    side: Side,
    detail: String,
    next_step: String,
}

impl From<&Failure> for Fault {
    fn from(failure: &Failure) -> Fault {
        Fault {
            stage: failure.stage.label(),
            reason: failure.reason.label(),
            side: failure.side,
            detail: failure.detail.to_string(),
            next_step: failure.next_step().to_owned(),
        }
    }
}

/// Dials every endpoint of the named upstream (of all, where none is named), many at a time; in the order of the file.
///
/// # Errors
/// What kept a target from being built: files that do not load, DNS settings that do not hold.
pub(super) async fn examine(config: &Config, only: Option<&str>) -> Result<Vec<Examination>, Vec<String>> {
    let resolver = Resolver::new(&config.dns).map_err(|problem| vec![format!("dns: {problem}")])?;
    let mut sets = Vec::new();
    for (name, written) in &config.upstreams {
        if only.is_none_or(|only| *only == **name) {
            service::lone_target(config, name, &resolver)?;
            sets.push(endpoints(
                name.clone(),
                written.source.clone(),
                written.tls.server_name.clone(),
                resolver.clone(),
            ));
        }
    }
    let mut looks = Vec::new();
    for (name, found) in all(sets).await.into_iter().flatten() {
        // A target each: with sessions shared, the second endpoint would resume the first one's and show no certificate.
        let target = service::lone_target(config, &name, &resolver)?;
        let limit = config.upstreams.get(&name).map_or(PROOF, |written| written.health.timeout);
        looks.push(async move {
            match found {
                Ok(spec) => look_at(&name, &target, &spec, limit).await,
                Err((endpoint, failure)) => Examination::not_found(&name, endpoint, &failure),
            }
        });
    }
    Ok(all(looks).await)
}

/// Runs all of them, a bounded number at a time; the results in their order.
async fn all<T: Send + 'static>(jobs: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (index, job) in jobs.into_iter().enumerate() {
        let places = places.clone();
        running.spawn(async move {
            // The semaphore is never closed; and without a place it would merely be early.
            let _place = places.acquire().await.ok();
            (index, job.await)
        });
    }
    let mut results = running.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

type Found = (UpstreamName, Result<EndpointSpec, (String, Failure)>);

/// The endpoints that a source has now.
async fn endpoints(
    name: UpstreamName,
    source: Source,
    server_name: Option<String>,
    resolver: Resolver,
) -> Vec<Found> {
    let found = match (source.discover(&resolver, server_name.as_deref()), &source) {
        (Some(mut discover), _) => match tokio::time::timeout(FIRST_ANSWER, discover.next()).await {
            Ok(answer) => answer.and_then(discovery::plausible),
            Err(_) => Err(Failure::upstream(
                Stage::Resolve,
                Reason::DestinationUnavailable,
                format!("no answer within {}", humantime::format_duration(FIRST_ANSWER)),
            )),
        },
        (None, Source::Fixed(specs)) => Ok(specs.clone()),
        (None, _) => Ok(Vec::new()),
    };
    match found {
        Ok(specs) => specs.into_iter().map(|spec| (name.clone(), Ok(spec))).collect(),
        Err(failure) => vec![(name, Err((source.to_string(), failure)))],
    }
}

/// `limit`: what a health check may take.
async fn look_at(upstream: &str, target: &Target, spec: &EndpointSpec, limit: Duration) -> Examination {
    let mut trail = Trail::default();
    let mut sight = Sight::new();
    let deadline = Instant::now() + target.timeouts.establish;
    let attempted = establish::look_at_endpoint(target, spec, deadline, &mut trail, Some(&mut sight)).await;
    let (tls, failure) = match attempted {
        Err(failure) => (None, Some(failure)),
        Ok(Reached { secured: None, .. }) => (None, None),
        Ok(Reached { mut stream, secured: Some(secured), .. }) => {
            let tls::Summary { version, suite, group, alpn, .. } = secured.summary.clone();
            let proven = match &target.tls {
                // A refusal takes as long to arrive as the answers in the handshake did.
                Some(tls) => {
                    let window = PROOF.max(trail.times.handshake.unwrap_or_default() * 2);
                    secured.prove(&mut stream, window, target.protocol.farewell(), tls).await
                }
                None => Ok(()),
            };
            (Some(Tls { version, suite, group, alpn }), proven.err())
        }
    };
    let Sight { addresses, connected, server_name, tls: seen } = sight;
    let own = target.tls.as_ref().and_then(|tls| tls.own());
    let came_to_it = tls.is_some() || seen.asked || !seen.chain.is_empty();
    let client_certificate = came_to_it.then(|| ClientCertificate {
        asked: seen.asked,
        accepted_issuers: seen.accepted,
        presented: own.filter(|_| seen.presented).cloned(),
        unfit: seen.asked && !seen.presented && own.is_some(),
    });
    let mut pins = Vec::new();
    if let Some(leaf) = seen.chain.first() {
        pins.extend(tls::Pin::of_key(leaf).map(|pin| pin.to_string()));
        pins.push(tls::Pin::of_leaf(leaf).to_string());
    }
    Examination {
        upstream: upstream.to_owned(),
        endpoint: spec.address.to_string(),
        fine: failure.is_none(),
        verdict: verdict(failure.as_ref(), target, client_certificate.as_ref()),
        server_name,
        stages: stages(&trail.times),
        addresses,
        connected,
        tls,
        client_certificate,
        chain: seen.chain.iter().map(tls::describe_peer).collect(),
        pins,
        health: Health::ask(target, spec, limit).await,
        fault: failure.as_ref().map(Fault::from),
        now: Date::of(SystemTime::now()),
    }
}

/// The one line for who reads no other.
fn verdict(failure: Option<&Failure>, target: &Target, ours: Option<&ClientCertificate>) -> String {
    if let Some(failure) = failure {
        return format!("failed at {}: {}", failure.stage.label(), failure.reason);
    }
    let Some(tls) = &target.tls else {
        return "fine: it takes connections; with tls off there is no more to see".into();
    };
    let server = match tls.trusts() {
        tls::Trusts::Chain => "the server's certificate is trusted",
        tls::Trusts::Pins => "the server has the key or certificate that is pinned",
        tls::Trusts::Anything => "TLS works, and whose server it is was not looked at",
    };
    let taken = match ours {
        Some(ClientCertificate { presented: Some(_), .. }) => ", and ours was taken",
        Some(ClientCertificate { asked: true, presented: None, .. }) => {
            ", and it let us in without a certificate, though it asked for one"
        }
        Some(ClientCertificate { asked: false, .. }) | None => "",
    };
    format!("fine: {server}{taken}")
}

fn stages(times: &Times) -> Vec<Took> {
    let Times { queue: _, resolve, connect, proxy, negotiate, handshake, warm: _ } = times;
    [
        ("resolve", resolve),
        ("connect", connect),
        ("proxy", proxy),
        ("negotiate", negotiate),
        ("handshake", handshake),
    ]
    .into_iter()
    .filter_map(|(stage, took)| took.map(|took| Took { stage, ms: Millis(took) }))
    .collect()
}

impl Examination {
    fn not_found(upstream: &str, endpoint: String, failure: &Failure) -> Examination {
        Examination {
            upstream: upstream.to_owned(),
            endpoint,
            fine: false,
            verdict: format!("failed at {}: {}", failure.stage.label(), failure.reason),
            server_name: None,
            stages: Vec::new(),
            addresses: Vec::new(),
            connected: None,
            tls: None,
            client_certificate: None,
            chain: Vec::new(),
            pins: Vec::new(),
            health: None,
            fault: Some(Fault::from(failure)),
            now: Date::of(SystemTime::now()),
        }
    }

    /// Puts the mend into other words.
    pub(super) fn reword(&mut self, words: fn(&str) -> String) {
        if let Some(fault) = &mut self.fault {
            fault.detail = words(&fault.detail);
            fault.next_step = words(&fault.next_step);
        }
    }

    /// What works and will not for long.
    pub(super) fn warning(&self) -> Option<String> {
        let leaf = self.chain.first().filter(|leaf| self.fine && leaf.ends_soon(self.now))?;
        Some(format!(
            "upstream.{}: {}: the server's certificate {} expires at {}, in {}; have it renewed there",
            self.upstream,
            self.endpoint,
            leaf.subject,
            leaf.not_after,
            leaf.not_after.apart(self.now)
        ))
    }

    /// Everything, for `probe`.
    pub(super) fn to_text(&self, title: &str) -> String {
        let mut rows = Rows::titled(title);
        if let Some(name) = &self.server_name {
            rows.row("server name", name);
        }
        for Took { stage, ms } in &self.stages {
            let with = match *stage {
                "resolve" => self.addresses.iter().map(|address| address.ip().to_string()).collect(),
                "connect" => self.connected.iter().map(ToString::to_string).collect(),
                _ => Vec::new(),
            };
            rows.row(stage, format!("{ms} ms  {}", joined(&with, "")).trim_end());
        }
        if let Some(Tls { version, suite, group, alpn }) = &self.tls {
            let group = group.map(|group| format!(", {group}")).unwrap_or_default();
            let alpn = alpn.as_ref().map(|alpn| format!(", ALPN {alpn}")).unwrap_or_default();
            rows.row("tls", format!("{version}, {suite}{group}{alpn}"));
        }
        if let Some(ours) = &self.client_certificate {
            rows.row("our side", ours.to_text(self.now));
        }
        let length = self.chain.len();
        for (place, facts) in self.chain.iter().enumerate() {
            let number = format!("{} of {length}", place + 1);
            let whose = if place == 0 { ", the server's own" } else { "" };
            rows.row("certificate", format!("{number}{whose}, as the server sent it"));
            rows.row("  subject", &facts.subject);
            rows.row("  names", joined(&facts.san, "none"));
            rows.row("  issuer", &facts.issuer);
            rows.row("  valid", facts.validity(self.now));
            rows.row("  key", &facts.key);
            rows.row("  serial", &facts.serial);
            let odd = [
                (facts.version < 3 && facts.version > 0).then(|| format!("X.509 v{}", facts.version)),
                facts.self_signed.then(|| "self-signed".to_owned()),
                facts.ca.then(|| "says that it is a CA".to_owned()),
            ];
            let odd: Vec<_> = odd.into_iter().flatten().collect();
            if !odd.is_empty() {
                rows.row("  kind", odd.join(", "));
            }
        }
        for (place, pin) in self.pins.iter().enumerate() {
            rows.row(if place == 0 { "pins" } else { "" }, pin);
        }
        self.end(&mut rows);
        rows.into_text()
    }

    /// A line for what is fine, and what to do for what is not: for `check`, which may have many to show.
    pub(super) fn to_short_text(&self) -> String {
        let took: Duration = self.stages.iter().map(|took| took.ms.0).sum();
        let mut rows = Rows::titled(format!("upstream {} at {}", self.upstream, self.endpoint));
        if let (Some(Tls { version, .. }), Some(leaf)) = (&self.tls, self.chain.first()) {
            let names = joined(&leaf.san, &leaf.subject);
            rows.row("server", format!("{version}, certificate for {names}, {}", leaf.validity(self.now)));
        }
        rows.row("took", format!("{} ms", Millis(took)));
        self.end(&mut rows);
        rows.into_text()
    }

    fn end(&self, rows: &mut Rows) {
        if let Some(health) = &self.health {
            health.tell(rows);
        }
        rows.row("verdict", &self.verdict);
        if let Some(fault) = &self.fault {
            rows.row("cause", &fault.detail);
            rows.row("side", side(fault.side));
            rows.row("mend", &fault.next_step);
        }
    }
}

impl ClientCertificate {
    fn to_text(&self, now: Date) -> String {
        let accepted = match self.accepted_issuers.as_slice() {
            [] => String::new(),
            issuers => format!(" issued by {}", issuers.join(" or ")),
        };
        match (&self.presented, self.asked, self.unfit) {
            (Some(facts), ..) => format!(
                "the server asked for a client certificate{accepted}; it was shown {}, issued by {}, valid {}",
                facts.subject,
                facts.issuer,
                facts.validity(now)
            ),
            (None, true, true) => format!(
                "the server asked for a client certificate{accepted}; ours has a kind of key that it does not take"
            ),
            (None, true, false) => {
                format!("the server asked for a client certificate{accepted}; there is none to show")
            }
            (None, false, _) => "the server did not ask for a client certificate".into(),
        }
    }
}

/// The side in a word, and what it means.
fn side(side: Side) -> &'static str {
    match side {
        Side::Client => "client (the program that connects to nuncio)",
        Side::Upstream => "upstream (the server, or the way to it)",
        Side::Ambassador => "ambassador (nuncio, its files, or this host)",
    }
}

/// How many are fine, and how many are not.
pub(super) fn tally(seen: &[Examination]) -> String {
    let faults = seen.iter().filter(|endpoint| !endpoint.fine).count();
    match faults {
        0 => format!("{}: fine", count(seen.len(), "endpoint")),
        faults => format!("{faults} of {} failed", count(seen.len(), "endpoint")),
    }
}
