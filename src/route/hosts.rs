//! hosts: which upstream answers for a destination that a client asks for.
//!
//! Owns how hosts are written, and which of them is the closest. What is found is only a name of the file's: nobody dials a
//! destination itself.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::addr::{EndpointAddr, Host, UpstreamName};

/// An upstream that a listener's clients may reach, and the destinations that it answers for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reachable {
    /// Its name.
    pub upstream: UpstreamName,
    /// Its `hosts`.
    pub hosts: Vec<HostPattern>,
}

/// One of an upstream's `hosts`: a name, `*.` and a name, an address or a network; of one port, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    host: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Name(Box<str>),
    /// What stands beneath this name, with the dot in front.
    Beneath(Box<str>),
    Network(IpNet),
}

impl HostPattern {
    /// How closely it fits; `None`: not at all. The longer name or network first, then that with its port.
    fn fits(&self, destination: &EndpointAddr) -> Option<(usize, bool)> {
        if self.port.is_some_and(|port| port != destination.port) {
            return None;
        }
        let close = match (&self.host, &destination.host) {
            (Hosts::Name(name), Host::Name(asked)) if **name == **asked => usize::MAX,
            (Hosts::Beneath(suffix), Host::Name(asked))
                if asked.len() > suffix.len() && asked.ends_with(&**suffix) =>
            {
                suffix.len()
            }
            (Hosts::Network(network), Host::Ip(ip)) if network.contains(&ip.to_canonical()) => {
                usize::from(network.prefix_len())
            }
            _ => return None,
        };
        Some((close, self.port.is_some()))
    }
}

/// The upstream whose hosts fit the destination closest; of two that do so alike, the one named first.
pub(super) fn find<'a>(
    among: impl Iterator<Item = &'a Reachable>,
    destination: &EndpointAddr,
) -> Option<&'a UpstreamName> {
    let mut best = None;
    for reachable in among {
        let fits = reachable.hosts.iter().filter_map(|pattern| pattern.fits(destination)).max();
        if fits > best.map(|(fits, _)| fits) {
            best = fits.map(|fits| (fits, &reachable.upstream));
        }
    }
    best.map(|(_, upstream)| upstream)
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no host: write a name, *.NAME, an IP address or a network, with :PORT behind it for one port only"
            )
        };
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((inner, rest))) => match rest.strip_prefix(':') {
                Some(port) => (inner, Some(port)),
                None if rest.is_empty() => (inner, None),
                None => return Err(wrong()),
            },
            Some(None) => return Err(wrong()),
            // An address of IPv6 alone: its colons are its own.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => None,
            Some(port) => {
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                Some(port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(wrong)?)
            }
        };
        let name = |name: &str| match format!("{name}:1").parse() {
            Ok(EndpointAddr { host: Host::Name(name), .. }) => Ok(name),
            Ok(_) | Err(_) => Err(wrong()),
        };
        let host = match (host.parse::<IpAddr>(), host.parse::<IpNet>(), host.strip_prefix("*.")) {
            (Ok(ip), ..) => Hosts::Network(ip.to_canonical().into()),
            (_, Ok(network), _) => Hosts::Network(network.trunc()),
            (_, _, Some(suffix)) => Hosts::Beneath(format!(".{}", name(suffix)?).into()),
            _ => Hosts::Name((*name(host)?).into()),
        };
        Ok(HostPattern { host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_six = matches!(&self.host, Hosts::Network(IpNet::V6(_))) && self.port.is_some();
        f.write_str(if is_six { "[" } else { "" })?;
        match &self.host {
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Beneath(suffix) => write!(f, "*{suffix}")?,
            Hosts::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().fmt(f)?
            }
            Hosts::Network(network) => network.fmt(f)?,
        }
        f.write_str(if is_six { "]" } else { "" })?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_back_as_they_were_printed() {
        for text in [
            "db.example.com",
            "db.example.com:5432",
            "*.example.com",
            "*.example.com:1",
            "10.0.0.5",
            "10.0.0.5:5432",
            "10.0.0.0/8",
            "10.0.0.0/8:5432",
            "fd00::/8",
            "[fd00::/8]:5432",
            "::1",
            "[::1]:5432",
        ] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
        assert_eq!("[fd00::1]".parse::<HostPattern>().unwrap().to_string(), "fd00::1");
        assert_eq!("10.1.2.3/8".parse::<HostPattern>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("DB.Example.com.".parse::<HostPattern>().unwrap().to_string(), "db.example.com");
    }

    #[test]
    fn what_would_let_everything_through_or_nothing_is_no_host() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.com",
            "a.*.com",
            ":5432",
            "db:0",
            "db:+5",
            "db:",
            "[::1",
            "[::1]5432",
            "http://db",
            "10.0.0.0/33",
            "a b",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_closest_host_wins_then_the_one_with_its_port_then_the_first() {
        let reachable = |upstream: &str, hosts: &[&str]| Reachable {
            upstream: upstream.into(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        };
        let all = [
            reachable("any", &["*.example.com", "10.0.0.0/8", "fd00::/8"]),
            reachable("db", &["db.example.com:5432", "*.db.example.com", "10.1.0.0/16", "10.0.0.0/8:25"]),
            reachable("again", &["*.example.com"]),
        ];
        let found = |destination: &str| find(all.iter(), &destination.parse().unwrap()).map(|name| &**name);
        for (destination, upstream) in [
            ("db.example.com:5432", Some("db")),
            ("db.example.com:5433", Some("any")),
            ("one.db.example.com:1", Some("db")),
            ("mail.example.com:1", Some("any")),
            ("example.com:1", None),
            ("badexample.com:1", None),
            ("10.1.2.3:1", Some("db")),
            ("10.2.2.3:1", Some("any")),
            ("10.2.2.3:25", Some("db")),
            ("[::ffff:10.1.2.3]:1", Some("db")),
            ("[fd00::1]:1", Some("any")),
            ("192.0.2.1:1", None),
        ] {
            assert_eq!(found(destination), upstream, "{destination}");
        }
    }
}
