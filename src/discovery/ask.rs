//! One look-up of addresses: the hosts file, then the DNS servers, with the search list, for both families.
//!
//! Owns what the answers mean. Leaves it to `known` how long one holds, and to `servers` whom to ask.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, Record, RecordType};
use tokio::time::Instant;

use super::servers::{Reply, Servers, System, Unanswered};
use crate::failure::{Failure, Reason, Stage};

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

/// How long reading it may take.
const HOSTS_READ: Duration = Duration::from_secs(1);

/// How long one family is waited for after the other has answered: some servers never answer AAAA.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// Looks a name up, within the time that the settings allow.
pub(super) async fn addresses(servers: &Servers, name: &str) -> Result<Found, Failure> {
    let deadline = servers.deadline();
    // It is read anew, and connections share this thread. Where that takes too long, there is still the DNS.
    let asked = name.to_owned();
    let read = tokio::task::spawn_blocking(move || in_hosts_file(&asked));
    if let Ok(Ok(Some(found))) = tokio::time::timeout(HOSTS_READ, read).await {
        return Ok(found);
    }
    let system = servers.system()?;
    let mut unanswered = None;
    let mut nothing = None;
    for candidate in system.candidates(name)? {
        match both(&system, &candidate, deadline).await {
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
                return Ok(Found { v4: of_family(v4), v6: of_family(v6), ttl });
            }
        }
    }
    Err(match (unanswered, nothing) {
        (Some(unanswered), _) => unanswered.failure(name),
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
async fn both(system: &System, name: &Name, deadline: Instant) -> (Reply<IpAddr>, Reply<IpAddr>) {
    let v4 = system.ask(name, RecordType::A, address, deadline);
    let v6 = system.ask(name, RecordType::AAAA, address, deadline);
    tokio::pin!(v4, v6);
    let late = |reply: &Reply<IpAddr>| match reply {
        Reply::Found(..) => deadline.min(Instant::now() + OTHER_FAMILY),
        Reply::Nothing { .. } | Reply::Failed(_) => deadline,
    };
    let missed =
        || Reply::Failed(Unanswered { says: "the other family's answer did not come".into(), silence: true });
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

fn address(_: &Name, record: &Record) -> Option<IpAddr> {
    // 0.0.0.0 and :: are how filtering servers say no; dialled, they would be this very host.
    record.data.ip_addr().filter(|ip| !ip.is_unspecified())
}

/// The addresses of the family; `None`: not known.
fn of_family(reply: Reply<IpAddr>) -> Option<Vec<IpAddr>> {
    match reply {
        Reply::Found(mut addresses, _) => {
            addresses.sort_unstable();
            addresses.dedup();
            Some(addresses)
        }
        Reply::Nothing { .. } => Some(Vec::new()),
        Reply::Failed(_) => None,
    }
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
