//! One look-up: the hosts file, then the DNS servers, with the search list, for both families.
//!
//! Owns which server is asked when and what its answer means. Leaves it to `known` how long an answer holds, and the
//! messages themselves (UDP, its repetition, TCP where it was truncated, CNAMEs) to hickory-resolver.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DnsSettings;
use crate::failure::{Failure, Reason, Side, Stage};

/// What is known of a name after a look-up that found something.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// The A records; `None`: they could not be asked for, so those of before hold.
    pub(super) v4: Option<Vec<IpAddr>>,
    /// The AAAA records, likewise.
    pub(super) v6: Option<Vec<IpAddr>>,
    /// The smallest TTL on the way to them.
    pub(super) ttl: Duration,
}

/// A line of the hosts file has no TTL: it is read again after this time.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// How long a server is waited for before the next one is asked as well. In turn, as resolv.conf(5) has it, since the
/// first may know names that the others do not; but a dead one must not cost its whole time-out at every look-up.
const HEAD_START: Duration = Duration::from_millis(800);

/// How long one family is waited for after the other has answered: some servers never answer AAAA.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// Asks.
pub(super) struct Asker {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    system: Mutex<Option<Arc<System>>>,
}

/// The configuration of the host's resolver, and a client for each server.
struct System {
    /// By this a change is seen; hickory's types cannot be compared.
    written: String,
    servers: Vec<Server>,
    search: Vec<Name>,
    ndots: usize,
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    client: TokioResolver,
}

/// What one family of one name came to.
enum Reply {
    Found(Vec<IpAddr>, Duration),
    /// The server knows that there is none: no record of that family, or no such name.
    Nothing {
        no_such_name: bool,
        server: SocketAddr,
    },
    Failed(Unanswered),
}

/// No server gave an answer to rely on.
struct Unanswered {
    says: String,
    /// None of them said anything at all.
    silence: bool,
}

impl Asker {
    pub(super) fn new(settings: &DnsSettings) -> Self {
        Asker { servers: settings.servers.clone(), timeout: settings.timeout, system: Mutex::new(None) }
    }

    /// Looks a name up, within the time that the settings allow.
    pub(super) async fn ask(&self, name: &str) -> Result<Found, Failure> {
        if let Some(found) = in_hosts_file(name) {
            return Ok(found);
        }
        let system = self.system()?;
        let deadline = Instant::now() + self.timeout;
        let mut unanswered = None;
        let mut nothing = None;
        for candidate in candidates(name, &system.search, system.ndots)? {
            match self.both(&system, &candidate, deadline).await {
                (Reply::Failed(v4), Reply::Failed(v6)) => {
                    let silence = v4.silence && v6.silence;
                    unanswered = Some(if v4.silence { v6 } else { v4 });
                    // As the system's own resolver: an error leads to the next name of the list, silence does not.
                    if silence {
                        break;
                    }
                }
                (Reply::Failed(failed), Reply::Nothing { .. })
                | (Reply::Nothing { .. }, Reply::Failed(failed)) => {
                    unanswered = Some(failed);
                }
                (Reply::Nothing { no_such_name, server }, Reply::Nothing { .. }) => {
                    nothing = Some((no_such_name, server, candidate));
                }
                (v4, v6) => {
                    let ttl = [&v4, &v6]
                        .into_iter()
                        .filter_map(|reply| match reply {
                            Reply::Found(_, ttl) => Some(*ttl),
                            Reply::Nothing { .. } | Reply::Failed(_) => None,
                        })
                        .min()
                        .unwrap_or_default();
                    return Ok(Found { v4: v4.addresses(), v6: v6.addresses(), ttl });
                }
            }
        }
        Err(match (unanswered, nothing) {
            (Some(Unanswered { says, silence: true }), _) => {
                Failure::upstream(Stage::Resolve, Reason::DnsTimeout, format!("{name}: {says}"))
            }
            (Some(Unanswered { says, silence: false }), _) => {
                Failure::upstream(Stage::Resolve, Reason::DnsError, format!("{name}: {says}")).mend(
                    "look in the DNS server's log for why it failed, or name another one in `dns.servers`",
                )
            }
            (None, Some((true, server, candidate))) => Failure::upstream(
                Stage::Resolve,
                Reason::DnsError,
                format!("{name}: no such name ({server} said NXDOMAIN of {candidate})"),
            ),
            (None, _) => Failure::upstream(
                Stage::Resolve,
                Reason::DnsError,
                format!("{name}: the name exists but has neither A nor AAAA records"),
            )
            .mend("give the name an address in the DNS, or write the endpoint's address"),
        })
    }

    /// A and AAAA at a time.
    async fn both(&self, system: &System, name: &Name, deadline: Instant) -> (Reply, Reply) {
        let v4 = self.family(system, name, RecordType::A, deadline);
        let v6 = self.family(system, name, RecordType::AAAA, deadline);
        tokio::pin!(v4, v6);
        let late = |reply: &Reply| match reply {
            Reply::Found(..) => deadline.min(Instant::now() + OTHER_FAMILY),
            Reply::Nothing { .. } | Reply::Failed(_) => deadline,
        };
        let missed = || {
            Reply::Failed(Unanswered { says: "the other family's answer did not come".into(), silence: true })
        };
        tokio::select! {
            first = &mut v4 => {
                let second = tokio::time::timeout_at(late(&first), v6).await.unwrap_or_else(|_| missed());
                (first, second)
            }
            first = &mut v6 => {
                let second = tokio::time::timeout_at(late(&first), v4).await.unwrap_or_else(|_| missed());
                (second, first)
            }
        }
    }

    /// One record type of one name, from the first server that answers.
    async fn family(&self, system: &System, name: &Name, kind: RecordType, deadline: Instant) -> Reply {
        let mut told = Vec::new();
        let mut silent = Vec::new();
        let mut waiting = system.servers.iter().cloned();
        let mut running = JoinSet::new();
        let head_start = HEAD_START.min(self.timeout / (system.servers.len() as u32 + 1));
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
                    Ok((server, answer)) => match read(answer, server) {
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

    /// The host's configuration as it is now: a laptop changes its network, a container gets its resolv.conf late.
    fn system(&self) -> Result<Arc<System>, Failure> {
        let (config, options) = match (read_system_conf(), self.servers.is_empty()) {
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
        let configured = self.servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let of_system = config.name_servers().iter().filter(|_| self.servers.is_empty()).cloned();
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
        Ok(System { written, servers, search, ndots: options.ndots })
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
fn read(
    answer: Result<hickory_resolver::lookup::Lookup, NetError>,
    server: SocketAddr,
) -> Result<Reply, Option<String>> {
    match answer {
        Ok(lookup) => {
            let records = lookup.answers();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            // 0.0.0.0 and :: are how filtering servers say no; dialled, they would be this very host.
            let mut addresses: Vec<_> = records
                .iter()
                .filter_map(|record| record.data.ip_addr())
                .filter(|ip| !ip.is_unspecified())
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            Ok(match addresses.is_empty() {
                true => Reply::Nothing { no_such_name: false, server },
                false => Reply::Found(addresses, Duration::from_secs(u64::from(ttl))),
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

impl Reply {
    /// The addresses of the family; `None`: not known.
    fn addresses(self) -> Option<Vec<IpAddr>> {
        match self {
            Reply::Found(addresses, _) => Some(addresses),
            Reply::Nothing { .. } => Some(Vec::new()),
            Reply::Failed(_) => None,
        }
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

fn in_hosts_file(name: &str) -> Option<Found> {
    let path = if cfg!(windows) {
        PathBuf::from(std::env::var_os("SystemRoot")?).join("System32\\drivers\\etc\\hosts")
    } else {
        PathBuf::from("/etc/hosts")
    };
    // A host without the file, or with one that is not for us, has no such names.
    hosts_lines(&std::fs::read_to_string(path).ok()?, name)
}

fn hosts_lines(text: &str, name: &str) -> Option<Found> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)) {
            if ip.is_ipv4() { v4.push(ip) } else { v6.push(ip) }
        }
    }
    let found = !v4.is_empty() || !v6.is_empty();
    found.then_some(Found { v4: Some(v4), v6: Some(v6), ttl: HOSTS_TTL })
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

    #[test]
    fn a_name_of_the_hosts_file_has_the_addresses_of_all_its_lines() {
        let text = "127.0.0.1 localhost\n10.0.0.5\tdb.example.com db # the old one\n#10.0.0.6 db\n::5 DB\nnonsense db\n";
        let found = hosts_lines(text, "db").unwrap();
        assert_eq!(found.v4, Some(vec!["10.0.0.5".parse().unwrap()]));
        assert_eq!(found.v6, Some(vec!["::5".parse().unwrap()]));
        assert_eq!(hosts_lines(text, "old"), None);
        assert_eq!(hosts_lines(text, "10.0.0.5"), None);
    }
}
