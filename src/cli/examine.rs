//! Dialling an endpoint to look at it: what `check --online` and `probe` share.
//!
//! Goes the same way as a connection (`establish`), so that what it finds is what a client would meet.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::config::Config;
use crate::discovery::{Resolver, Source};
use crate::establish::{self, Target};
use crate::failure::Failure;
use crate::service;
use crate::tls;
use crate::trail::{Times, Trail};
use crate::upstream::EndpointSpec;

/// What was seen of one endpoint.
#[derive(Serialize)]
pub(super) struct Examination {
    upstream: String,
    endpoint: String,
    server_name: Option<String>,
    stages_ms: Vec<(&'static str, f64)>,
    tls: Option<Tls>,
    certificate: Option<tls::PeerFacts>,
    pub(super) fault: Option<Fault>,
}

#[derive(Serialize)]
struct Tls {
    version: &'static str,
    suite: &'static str,
    group: Option<&'static str>,
    alpn: Option<String>,
}

/// A failure in words.
#[derive(Serialize)]
pub(super) struct Fault {
    stage: &'static str,
    reason: &'static str,
    side: &'static str,
    detail: String,
    next_step: String,
}

impl From<&Failure> for Fault {
    fn from(failure: &Failure) -> Fault {
        Fault {
            stage: failure.stage.label(),
            reason: failure.reason.label(),
            side: failure.side.label(),
            detail: failure.detail.to_string(),
            next_step: failure.next_step().to_owned(),
        }
    }
}

/// Dials every endpoint of the named upstreams (all, where none is named).
///
/// # Errors
/// What kept a target from being built: files that do not load, DNS settings that do not hold.
pub(super) async fn examine(config: &Config, only: Option<&str>) -> Result<Vec<Examination>, Vec<String>> {
    let resolver = Resolver::new(&config.dns).map_err(|problem| vec![format!("dns: {problem}")])?;
    let mut seen = Vec::new();
    for (name, written) in &config.upstreams {
        if only.is_some_and(|only| *only != **name) {
            continue;
        }
        let target = service::lone_target(config, name, &resolver)?;
        for endpoint in endpoints(&written.source, &resolver).await {
            seen.push(match endpoint {
                Ok(spec) => look_at(name, &target, &spec).await,
                Err(failure) => Examination::not_found(name, &written.source, &failure),
            });
        }
    }
    Ok(seen)
}

/// The endpoints that a source has now.
async fn endpoints(source: &Source, resolver: &Resolver) -> Vec<Result<EndpointSpec, Failure>> {
    match source {
        Source::Fixed(specs) => specs.iter().cloned().map(Ok).collect(),
        Source::Dns(name) => match resolver.addresses(&name.host).await {
            Ok(addresses) => crate::discovery::endpoints(&addresses, name.port, Some(&name.host.to_string()))
                .into_iter()
                .map(Ok)
                .collect(),
            Err(failure) => vec![Err(failure)],
        },
    }
}

async fn look_at(upstream: &str, target: &Target, spec: &EndpointSpec) -> Examination {
    let mut trail = Trail::default();
    let deadline = Instant::now() + target.timeouts.establish;
    let attempted = establish::try_endpoint(target, spec, deadline, &mut trail).await;
    let mut seen = Examination {
        upstream: upstream.to_owned(),
        endpoint: spec.address.to_string(),
        server_name: spec.server_name.clone(),
        stages_ms: stages(&trail.times),
        tls: None,
        certificate: None,
        fault: None,
    };
    match attempted {
        Ok((_, None)) => {}
        Ok((mut stream, Some(secured))) => {
            let summary = &secured.summary;
            seen.certificate = summary.peer.as_ref().map(tls::describe_peer);
            seen.tls = Some(Tls {
                version: summary.version,
                suite: summary.suite,
                group: summary.group,
                alpn: summary.alpn.clone(),
            });
            // Longer than a health check listens: a person would rather wait than be told half the truth.
            if let Some(tls) = &target.tls {
                let proven = secured.prove(&mut stream, Duration::from_millis(500), tls).await;
                seen.fault = proven.err().as_ref().map(Fault::from);
            }
        }
        Err(failure) => seen.fault = Some(Fault::from(&failure)),
    }
    seen
}

fn stages(times: &Times) -> Vec<(&'static str, f64)> {
    let Times { queue: _, resolve, connect, proxy, negotiate, handshake } = times;
    [
        ("resolve", resolve),
        ("connect", connect),
        ("proxy", proxy),
        ("negotiate", negotiate),
        ("handshake", handshake),
    ]
    .into_iter()
    .filter_map(|(stage, took)| took.map(|took| (stage, (took.as_secs_f64() * 1e6).round() / 1e3)))
    .collect()
}

impl Examination {
    fn not_found(upstream: &str, source: &Source, failure: &Failure) -> Examination {
        let endpoint = match source {
            Source::Dns(name) => name.to_string(),
            Source::Fixed(_) => String::new(),
        };
        Examination {
            upstream: upstream.to_owned(),
            endpoint,
            server_name: None,
            stages_ms: Vec::new(),
            tls: None,
            certificate: None,
            fault: Some(Fault::from(failure)),
        }
    }

    /// A block of lines for a person.
    pub(super) fn to_text(&self) -> String {
        let mut lines = vec![format!("{} at {}", self.upstream, self.endpoint)];
        let mut line = |what: &str, text: String| lines.push(format!("  {what:<12} {text}"));
        for (stage, milliseconds) in &self.stages_ms {
            line(stage, format!("{milliseconds:.1} ms"));
        }
        if let Some(Tls { version, suite, group, alpn }) = &self.tls {
            let group = group.map(|group| format!(", {group}")).unwrap_or_default();
            let alpn = alpn.as_ref().map(|alpn| format!(", ALPN {alpn}")).unwrap_or_default();
            line("tls", format!("{version}, {suite}{group}{alpn}"));
        }
        if let Some(facts) = &self.certificate {
            line("certificate", facts.subject.clone());
            line("names", if facts.san.is_empty() { "none".into() } else { facts.san.join(", ") });
            line("issuer", facts.issuer.clone());
            line("valid", format!("until {}", facts.not_after));
        }
        match &self.fault {
            None => line("verdict", "fine".into()),
            Some(fault) => {
                line("verdict", format!("{}: {} ({})", fault.stage, fault.reason, fault.side));
                line("seen", fault.detail.clone());
                line("next", fault.next_step.clone());
            }
        }
        lines.join("\n")
    }
}
