//! `srv`: each target of a name's SRV records is an endpoint (RFC 2782).
//!
//! Owns the question, what the records mean for the set, and when they are asked for again. Leaves the servers to
//! `servers`, and the addresses of a target to `dns`: an answer's additional section is not looked at.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant;

use super::known::pause;
use super::servers::{Reply, System, Unanswered};
use super::share::share;
use super::{Discover, Resolver};
use crate::addr::{EndpointAddr, Host};
use crate::failure::{Failure, Reason, Stage};
use crate::upstream::EndpointSpec;

/// So many CNAMEs are followed from the name to its records.
const CNAMES: usize = 8;

/// A name that has SRV records, `_postgres._tcp.db.example.com`. One without a service and a protocol in front is taken as
/// well: registries answer for such, `orders.service.consul`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvName(Arc<str>);

impl SrvName {
    /// The name of whoever offers the service, which is what its certificates have to carry: without the service and the
    /// protocol. A target is what the DNS says today, and the DNS is not to be trusted with whom we talk to (RFC 6125, 1.8).
    pub fn domain(&self) -> &str {
        let is_label = |label: &str| label.starts_with('_');
        match self.0.split_once('.') {
            Some((service, rest)) if is_label(service) => match rest.split_once('.') {
                Some((protocol, domain)) if is_label(protocol) => domain,
                _ => rest,
            },
            _ => &self.0,
        }
    }
}

impl fmt::Display for SrvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SrvName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, port)) = text.rsplit_once(':') {
            return match port.parse::<u16>() {
                Ok(_) => Err(format!("'{text}' has a port, and its records say which: write {name}")),
                Err(_) => Err(format!("'{text}' is not a name: write _SERVICE._tcp.DOMAIN")),
            };
        }
        // What may stand in a name is the same for all of them.
        let Ok(EndpointAddr { host: Host::Name(name), .. }) = format!("{text}:1").parse() else {
            return Err(format!("'{text}' is not a name: write _SERVICE._tcp.DOMAIN"));
        };
        let mut labels = name.split('.');
        if let (Some(service), Some(protocol)) = (labels.next(), labels.next())
            && service.starts_with('_')
        {
            let domain: Vec<_> = labels.collect();
            if protocol != "_tcp" {
                return Err(format!("'{text}' is not a service over TCP: write {service}._tcp.DOMAIN"));
            }
            if domain.is_empty() {
                return Err(format!("'{text}' names no domain: write {service}._tcp.DOMAIN"));
            }
        }
        Ok(SrvName(name))
    }
}

/// Follows the records. `server_name`: the upstream's own.
pub(super) fn discover(name: &SrvName, resolver: &Resolver, server_name: Option<&str>) -> Box<dyn Discover> {
    Box::new(Srv {
        name: name.clone(),
        resolver: resolver.clone(),
        named: server_name.is_none().then(|| name.domain().to_owned()),
        due: Instant::now(),
        failures: 0,
        rng: Rng::new(),
    })
}

/// A name whose records are followed.
struct Srv {
    name: SrvName,
    resolver: Resolver,
    /// Whom the targets' certificates have to name, unless the upstream says that.
    named: Option<String>,
    due: Instant,
    failures: u32,
    rng: Rng,
}

impl Discover for Srv {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            tokio::time::sleep_until(self.due).await;
            let answer = self.ask().await;
            let rest = match &answer {
                Ok((_, ttl)) => {
                    self.failures = 0;
                    self.resolver.holds(*ttl)
                }
                Err(_) => {
                    self.failures = self.failures.saturating_add(1);
                    pause(self.failures, &mut self.rng)
                }
            };
            self.due = Instant::now() + rest;
            answer.map(|(specs, _)| specs)
        })
    }
}

impl Srv {
    async fn ask(&self) -> Result<(Vec<EndpointSpec>, Duration), Failure> {
        let name = &self.name.0;
        let servers = self.resolver.servers();
        let (system, deadline) = (servers.system()?, servers.deadline());
        let no = |detail: String| Failure::upstream(Stage::Resolve, Reason::DnsError, detail);
        let mut unanswered = None;
        let mut nothing = None;
        for candidate in system.candidates(name)? {
            match records(&system, candidate.clone(), deadline).await {
                Reply::Found(records, ttl) => {
                    return Ok((endpoints(name, records, self.named.as_deref())?, ttl));
                }
                Reply::Nothing { no_such_name, server } => nothing = Some((no_such_name, server, candidate)),
                Reply::Failed(failed) => {
                    let silence = failed.silence;
                    unanswered = Some(failed);
                    if silence {
                        break;
                    }
                }
            }
        }
        Err(match (unanswered, nothing) {
            (Some(unanswered), _) => unanswered.failure(name),
            (None, Some((true, server, candidate))) => {
                no(format!("{name}: no such name ({server} said NXDOMAIN of {candidate})"))
                    .mend("check the spelling of `srv`, and ask the DNS by hand: dig SRV NAME")
            }
            (None, _) => no(format!("{name}: the name exists but has no SRV records"))
                .mend("give the name SRV records; if it has addresses only, write `dns` instead of `srv`"),
        })
    }
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    priority: u16,
    weight: u16,
    port: u16,
    /// As in the answer, with its dot at the end.
    host: String,
}

/// The records of a name, behind its CNAMEs.
async fn records(system: &System, mut name: Name, deadline: Instant) -> Reply<Target> {
    let mut longest = Duration::MAX;
    for _ in 0..CNAMES {
        let reply = match system.ask(&name, RecordType::SRV, target, deadline).await {
            Reply::Found(targets, ttl) => return Reply::Found(targets, ttl.min(longest)),
            reply @ (Reply::Nothing { .. } | Reply::Failed(_)) => reply,
        };
        // hickory does not look for SRV records behind a CNAME.
        match system.ask(&name, RecordType::CNAME, cname, deadline).await {
            Reply::Found(mut names, ttl) if matches!(reply, Reply::Nothing { .. }) => {
                name = names.swap_remove(0); // there is one at least, or it were Nothing
                longest = longest.min(ttl);
            }
            _ => return reply,
        }
    }
    let says = format!("more than {CNAMES} CNAMEs stand between it and its records");
    Reply::Failed(Unanswered { says, silence: false })
}

/// What a server says of names that it was not asked for is none of its business.
fn target(asked: &Name, record: &Record) -> Option<Target> {
    match &record.data {
        RData::SRV(srv) if record.name == *asked => Some(Target {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            host: srv.target.to_ascii(),
        }),
        _ => None,
    }
}

fn cname(asked: &Name, record: &Record) -> Option<Name> {
    match &record.data {
        RData::CNAME(other) if record.name == *asked => Some(other.0.clone()),
        _ => None,
    }
}

/// The endpoints that the records make: a lower priority is tried first, so the priorities' ranks are the tiers.
fn endpoints(
    name: &str,
    mut targets: Vec<Target>,
    server_name: Option<&str>,
) -> Result<Vec<EndpointSpec>, Failure> {
    let no = |detail: String| Failure::upstream(Stage::Resolve, Reason::DestinationUnavailable, detail);
    if targets.iter().any(|target| target.host == ".") && targets.len() == 1 {
        return Err(no(format!(
            "{name}: its SRV record says that there is no such service here (target \".\")"
        ))
        .mend("have the service's targets put into the DNS, or name where it is"));
    }
    let written = targets.len();
    let fits = |target: &Target| format!("{}:{}", target.host, target.port).parse::<EndpointAddr>().ok();
    targets.retain(|target| fits(target).is_some());
    if targets.is_empty() {
        return Err(no(format!(
            "{name}: none of its {written} SRV records has a host and a port to connect to"
        ))
        .mend("ask the DNS by hand (dig SRV NAME), and mend the zone"));
    }
    targets.sort_by_key(|target| target.priority);
    let mut specs: Vec<EndpointSpec> = Vec::with_capacity(targets.len());
    let tiers = targets.chunk_by(|one, other| one.priority == other.priority);
    for (tier, targets) in (0u16..).zip(tiers) {
        let heaviest = targets.iter().map(|target| target.weight).max().unwrap_or(0);
        let some_have_none = heaviest > 0 && targets.iter().any(|target| target.weight == 0);
        for target in targets {
            let Some(address) = fits(target) else { continue };
            specs.push(EndpointSpec {
                weight: share(target.weight.into(), heaviest.into(), some_have_none),
                tier,
                server_name: server_name.map(String::from),
                ..EndpointSpec::new(address)
            });
        }
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(targets: &[(u16, u16, &str)]) -> Vec<(String, u16, u32)> {
        let target = |(priority, weight, at): &(u16, u16, &str)| {
            let (host, port) = at.split_once(':').unwrap();
            Target { priority: *priority, weight: *weight, host: host.into(), port: port.parse().unwrap() }
        };
        let specs = endpoints("_db._tcp.test", targets.iter().map(target).collect(), Some("test")).unwrap();
        assert!(specs.iter().all(|spec| spec.server_name.as_deref() == Some("test")));
        specs.iter().map(|spec| (spec.address.to_string(), spec.tier, spec.weight)).collect()
    }

    fn refused(host: &str, port: u16) -> String {
        let target = Target { priority: 0, weight: 0, port, host: host.into() };
        endpoints("_db._tcp.test", vec![target], None).unwrap_err().detail.into()
    }

    #[test]
    fn priorities_are_tiers_in_their_order_whatever_their_numbers() {
        let seen = made(&[
            (20, 5, "c.test.:1"),
            (10, 5, "a.test.:1"),
            (65535, 5, "d.test.:1"),
            (10, 7, "b.test.:2"),
        ]);
        let wanted = [("a.test:1", 0, 5), ("b.test:2", 0, 7), ("c.test:1", 1, 5), ("d.test:1", 2, 5)];
        assert_eq!(seen, wanted.map(|(at, tier, weight)| (at.to_owned(), tier, weight)));
    }

    #[test]
    fn weights_keep_their_proportion_and_none_among_some_is_a_little() {
        let weights = |of: &[u16]| {
            let hosts: Vec<_> = (0..of.len()).map(|n| format!("h{n}.test.:1")).collect();
            let targets: Vec<_> =
                of.iter().zip(&hosts).map(|(weight, at)| (1, *weight, at.as_str())).collect();
            made(&targets).into_iter().map(|(_, _, weight)| weight).collect::<Vec<_>>()
        };
        assert_eq!(weights(&[0, 0]), [1, 1]);
        assert_eq!(weights(&[60, 20, 20]), [60, 20, 20]);
        assert_eq!(weights(&[3, 1, 0]), [1000, 333, 1]);
        assert_eq!(weights(&[65535, 32768, 1]), [1000, 500, 1]);
        let mut rng = Rng::with_seed(7);
        for _ in 0..1000 {
            let of: Vec<u16> = (0..rng.usize(1..8)).map(|_| rng.u16(..)).collect();
            assert!(weights(&of).iter().all(|weight| (1..=1000).contains(weight)), "{of:?}");
        }
    }

    #[test]
    fn a_record_that_names_nobody_is_none_and_the_only_one_says_that_there_is_no_service() {
        assert!(refused(".", 0).contains("there is no such service here"));
        assert!(refused("a.test.", 0).contains("none of its 1 SRV records"));
        assert!(refused("a b.test.", 5432).contains("none of its 1 SRV records"));
        assert_eq!(made(&[(1, 1, ".:5"), (1, 1, "a.test.:5"), (1, 1, "b.test.:0")]).len(), 1);
    }

    #[test]
    fn a_name_is_that_of_its_domain_to_a_certificate() {
        let domain = |text: &str| text.parse::<SrvName>().unwrap().domain().to_owned();
        assert_eq!(domain("_postgres._tcp.db.example.com"), "db.example.com");
        assert_eq!(domain("_Postgres._TCP.DB.example.com."), "db.example.com");
        assert_eq!(domain("orders.service.consul"), "orders.service.consul");
    }

    #[test]
    fn what_is_no_name_of_a_service_over_tcp_is_told_so() {
        for (text, told) in [
            ("_postgres._tcp.db.test:5432", "has a port"),
            ("_sip._udp.test", "not a service over TCP: write _sip._tcp.DOMAIN"),
            ("_postgres.db.test", "not a service over TCP"),
            ("_postgres._tcp", "names no domain"),
            ("10.0.0.5", "is not a name"),
            ("https://db.test", "is not a name"),
            ("", "is not a name"),
        ] {
            let error = text.parse::<SrvName>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
