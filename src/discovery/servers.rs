//! The DNS servers, and one question to them: which is asked when, and for which full names.
//!
//! Leaves it to `ask` and `srv` what an answer means, and the messages themselves (UDP, its repetition, TCP where it was
//! truncated, CNAMEs) to hickory-resolver.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DnsSettings;
use crate::failure::{Failure, Reason, Side, Stage};

/// How long a server is waited for before the next one is asked as well. In turn, as resolv.conf(5) has it, since the
/// first may know names that the others do not; but a dead one must not cost its whole time-out at every look-up.
const HEAD_START: Duration = Duration::from_millis(800);

/// Whom to ask: the servers that are configured, else the system's, as they are now.
pub(super) struct Servers {
    configured: Vec<SocketAddr>,
    timeout: Duration,
    system: Mutex<Option<Arc<System>>>,
}

/// The configuration of the host's resolver, and a client for each server.
pub(super) struct System {
    /// By this a change is seen; hickory's types cannot be compared.
    written: String,
    servers: Vec<Server>,
    search: Vec<Name>,
    ndots: usize,
    timeout: Duration,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    client: TokioResolver,
}

/// What one question came to.
pub(super) enum Reply<T> {
    Found(Vec<T>, Duration),
    /// The server knows that there is none: no record of that type, or no such name.
    Nothing {
        no_such_name: bool,
        server: SocketAddr,
    },
    Failed(Unanswered),
}

/// No server gave an answer to rely on.
pub(super) struct Unanswered {
    pub(super) says: String,
    /// None of them said anything at all.
    pub(super) silence: bool,
}

impl Unanswered {
    /// Of a name that was asked for.
    pub(super) fn failure(self, name: &str) -> Failure {
        let detail = format!("{name}: {}", self.says);
        match self.silence {
            true => Failure::upstream(Stage::Resolve, Reason::DnsTimeout, detail),
            false => Failure::upstream(Stage::Resolve, Reason::DnsError, detail)
                .mend("look in the DNS server's log for why it failed, or name another one in `dns.servers`"),
        }
    }
}

impl Servers {
    pub(super) fn new(settings: &DnsSettings) -> Self {
        Servers { configured: settings.servers.clone(), timeout: settings.timeout, system: Mutex::new(None) }
    }

    /// By when a look-up that begins now has to have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The host's configuration as it is now: a laptop changes its network, a container gets its resolv.conf late.
    pub(super) fn system(&self) -> Result<Arc<System>, Failure> {
        let (config, options) = match (read_system_conf(), self.configured.is_empty()) {
            (Ok(read), _) => read,
            (Err(_), false) => Default::default(),
            (Err(error), true) => {
                let detail = format!("no DNS server is known: the host's configuration says \"{error}\"");
                return Err(Failure::new(Stage::Resolve, Reason::DnsError, Side::Ambassador, detail)
                    .mend("name one in /etc/resolv.conf or in `dns.servers`"));
            }
        };
        let written = format!("{config:?} {options:?}");
        let mut kept = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(system) = kept.as_ref().filter(|system| system.written == written) {
            return Ok(system.clone());
        }
        let system = Arc::new(self.load(written, &config, &options)?);
        *kept = Some(system.clone());
        Ok(system)
    }

    fn load(
        &self,
        written: String,
        config: &ResolverConfig,
        options: &ResolverOpts,
    ) -> Result<System, Failure> {
        let configured = self.configured.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let of_system = config.name_servers().iter().filter(|_| self.configured.is_empty()).cloned();
        let servers = configured
            .chain(of_system)
            .map(|server| {
                let port = server.connections.first().map_or(53, |connection| connection.port);
                let address = SocketAddr::new(server.ip, port);
                let client = client(server, options, self.timeout).map_err(|error| {
                    let detail = format!("the DNS client for {address} could not be set up: {error}");
                    Failure::new(Stage::Resolve, Reason::DnsError, Side::Ambassador, detail)
                })?;
                Ok(Server { address, client })
            })
            .collect::<Result<Vec<_>, _>>()?;
        // As resolv.conf(5): the host's own domain is the search list of a host that has none.
        let search = match config.search() {
            [] => config.domain().cloned().into_iter().collect(),
            search => search.to_vec(),
        };
        Ok(System { written, servers, search, ndots: options.ndots, timeout: self.timeout })
    }
}

impl System {
    /// The full names to ask for, in order.
    pub(super) fn candidates(&self, name: &str) -> Result<Vec<Name>, Failure> {
        candidates(name, &self.search, self.ndots)
    }

    /// One record type of one name, from the first server that answers. Of an answer counts what `take` makes of its records,
    /// in their order; it is given the name that was asked for.
    pub(super) async fn ask<T>(
        &self,
        name: &Name,
        kind: RecordType,
        take: fn(&Name, &Record) -> Option<T>,
        deadline: Instant,
    ) -> Reply<T> {
        let mut told = Vec::new();
        let mut silent = Vec::new();
        let mut waiting = self.servers.iter().cloned();
        let mut running = JoinSet::new();
        let head_start = HEAD_START.min(self.timeout / (self.servers.len() as u32 + 1));
        loop {
            match waiting.next() {
                Some(Server { address, client }) => {
                    silent.push(address);
                    let name = name.clone();
                    running.spawn(async move {
                        // Each answer is kept here for its time; a second memory of it would only be another age.
                        client.clear_cache();
                        (address, client.lookup(name, kind).await)
                    });
                }
                None if running.is_empty() => {
                    return Reply::Failed(Unanswered {
                        silence: told.is_empty(),
                        says: sum_up(&told, &silent),
                    });
                }
                None => {}
            }
            tokio::select! {
                biased;
                Some(done) = running.join_next() => match done {
                    Ok((server, answer)) => match read(answer, |record| take(name, record), server) {
                        Ok(reply) => return reply,
                        Err(None) => {}
                        Err(Some(says)) => {
                            silent.retain(|address| *address != server);
                            told.push(format!("{server} {says}"));
                        }
                    },
                    Err(error) => told.push(format!("the look-up ended early ({error})")),
                },
                () = tokio::time::sleep(head_start), if waiting.len() > 0 => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Reply::Failed(Unanswered { silence: told.is_empty(), says: sum_up(&told, &silent) });
                }
            }
        }
    }
}

/// A client for one server: the order and the patience among several are ours (see `family`). hickory's own would give
/// an error of the fastest server for the answer of all, and a dead first one its whole time, again and again.
fn client(
    server: NameServerConfig,
    system: &ResolverOpts,
    timeout: Duration,
) -> Result<TokioResolver, NetError> {
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.edns0 = system.edns0;
    options.timeout = timeout;
    options.attempts = 0; // over UDP the question is repeated within the time-out anyway
    options.use_hosts_file = ResolveHosts::Never; // read by us, and read again when it changes
    options.cache_size = 1;
    builder.build()
}

/// `Err`: no answer to rely on, another server may have one; `None` in it: nothing was said at all.
fn read<T>(
    answer: Result<Lookup, NetError>,
    take: impl Fn(&Record) -> Option<T>,
    server: SocketAddr,
) -> Result<Reply<T>, Option<String>> {
    match answer {
        Ok(lookup) => {
            let records = lookup.answers();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            let taken: Vec<_> =
                records.iter().filter(|record| record.dns_class == DNSClass::IN).filter_map(take).collect();
            Ok(match taken.is_empty() {
                true => Reply::Nothing { no_such_name: false, server },
                false => Reply::Found(taken, Duration::from_secs(u64::from(ttl))),
            })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Ok(Reply::Nothing { no_such_name: none.response_code == ResponseCode::NXDomain, server })
        }
        Err(NetError::Timeout) => Err(None),
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Some(format!("answered \"{code}\""))),
        Err(error) => Err(Some(format!("could not be asked ({error})"))),
    }
}

fn sum_up(told: &[String], silent: &[SocketAddr]) -> String {
    let silent: Vec<_> = silent.iter().map(SocketAddr::to_string).collect();
    match (told.is_empty(), silent.is_empty()) {
        (_, true) => told.join(", "),
        (true, false) => format!("{} did not answer in time", silent.join(", ")),
        (false, false) => format!("{}, {} did not answer in time", told.join(", "), silent.join(", ")),
    }
}

/// The full names to ask for, in order, as resolv.conf(5) has `search` and `ndots`.
fn candidates(name: &str, search: &[Name], ndots: usize) -> Result<Vec<Name>, Failure> {
    let mut full = Name::from_ascii(name).map_err(|error| {
        Failure::new(
            Stage::Resolve,
            Reason::DnsError,
            Side::Ambassador,
            format!("{name}: not a DNS name ({error})"),
        )
    })?;
    let searched = search.iter().filter_map(|domain| {
        // What becomes too long with the domain behind it is no name.
        let mut longer = full.clone().append_domain(domain).ok()?;
        longer.set_fqdn(true);
        Some(longer)
    });
    let mut names: Vec<_> = searched.collect();
    full.set_fqdn(true);
    let place = if name.matches('.').count() >= ndots { 0 } else { names.len() };
    names.insert(place, full);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, search: &[&str], ndots: usize) -> Vec<String> {
        let search: Vec<_> = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
        candidates(name, &search, ndots).unwrap().iter().map(Name::to_string).collect()
    }

    #[test]
    fn the_search_list_comes_before_or_after_the_name_as_ndots_says() {
        assert_eq!(asked("db", &["a.example", "b.example"], 1), ["db.a.example.", "db.b.example.", "db."]);
        assert_eq!(asked("db.prod", &["a.example"], 1), ["db.prod.", "db.prod.a.example."]);
        assert_eq!(asked("db.prod", &["svc.cluster.local"], 5), ["db.prod.svc.cluster.local.", "db.prod."]);
        assert_eq!(asked("_x.example.com", &[], 1), ["_x.example.com."]);
    }
}
