//! What an attempt to connect failed of, and what that means: the table from the kernel's answers to the vocabulary.
//!
//! Owns the wording of connect failures. Leaves the attempts themselves to its parent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::failure::{Failure, Reason, Side, Stage};

/// Why one address was not reached, by the step that the kernel refused: the same error number means different things.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No socket.
    Socket(io::Error),
    /// Not from this source address.
    Bind(IpAddr, io::Error),
    /// No connection.
    Connect(io::Error),
    /// The socket's options were refused.
    Options(io::Error),
    /// Connected to itself: nothing listens there.
    Itself,
    /// No answer in this time.
    Silent(Duration),
}

/// One trouble in the vocabulary.
struct Meaning {
    reason: Reason,
    side: Side,
    says: String,
    mend: Option<&'static str>,
}

/// EMFILE and ENFILE (WSAEMFILE): std has no kind for them, and the numbers are the same on every Unix.
const NO_DESCRIPTORS: &[i32] = if cfg!(windows) { &[10024] } else { &[24, 23] };

const PORTS_USED_UP: &str = "spread the connections over more endpoints or source addresses, or widen \
                             net.ipv4.ip_local_port_range (Windows: netsh int ipv4 set dynamicport)";

impl Trouble {
    fn meaning(&self, address: SocketAddr) -> Meaning {
        let upstream =
            |reason, says: &str| Meaning { reason, side: Side::Upstream, says: says.into(), mend: None };
        let ours = |reason, says: String, mend| Meaning { reason, side: Side::Ambassador, says, mend };
        match self {
            Trouble::Socket(error)
            | Trouble::Bind(_, error)
            | Trouble::Connect(error)
            | Trouble::Options(error)
                if error.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code)) =>
            {
                ours(
                    Reason::ProxyInternalError,
                    format!("no file descriptor is left ({error})"),
                    Some("raise LimitNOFILE= of the service (ulimit -n), or lower the limits on connections"),
                )
            }
            Trouble::Socket(error) => {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                ours(
                    Reason::DestinationIpUnroutable,
                    format!("this host opens no {family} socket ({error})"),
                    Some("remove the addresses of that family from the endpoint, or switch the family on"),
                )
            }
            Trouble::Bind(source, error) => match error.kind() {
                io::ErrorKind::AddrInUse => ours(
                    Reason::ConnectionLimitReached,
                    format!("every local port of {source} is in use"),
                    Some(PORTS_USED_UP),
                ),
                io::ErrorKind::AddrNotAvailable => ours(
                    Reason::ProxyConfigurationError,
                    format!("source_address {source} is not an address of this host"),
                    Some("set `source_address` to an address that `ip address` shows, or leave it out"),
                ),
                _ => ours(
                    Reason::ProxyConfigurationError,
                    format!("source_address {source} cannot be used ({error})"),
                    Some("leave `source_address` out, or set it to an address of this host"),
                ),
            },
            Trouble::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    upstream(Reason::ConnectionRefused, "refused the connection")
                }
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                    upstream(Reason::ConnectionTerminated, "reset the connection while it was being opened")
                }
                io::ErrorKind::TimedOut => {
                    upstream(Reason::ConnectionTimeout, "did not answer, and the kernel gave up")
                }
                io::ErrorKind::HostUnreachable => {
                    upstream(Reason::DestinationIpUnroutable, "is not reachable (no route to host)")
                }
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => upstream(
                    Reason::DestinationIpUnroutable,
                    "is in a network that this host has no route to",
                ),
                io::ErrorKind::PermissionDenied => ours(
                    Reason::DestinationIpProhibited,
                    format!("may not be dialled from here ({error})"),
                    Some("a firewall rule or a security policy of this very host forbids it"),
                ),
                // Linux says the same of an IPv6 address where it has none of its own, and of a full port range.
                io::ErrorKind::AddrNotAvailable if address.is_ipv6() => ours(
                    Reason::DestinationIpUnroutable,
                    "has no local IPv6 address to be dialled from, or every local port is in use".into(),
                    None,
                ),
                io::ErrorKind::AddrNotAvailable => ours(
                    Reason::ConnectionLimitReached,
                    "has every local port that could dial it in use already".into(),
                    Some(PORTS_USED_UP),
                ),
                _ => upstream(Reason::ConnectionTerminated, &format!("could not be connected to ({error})")),
            },
            Trouble::Options(error) => ours(
                Reason::ProxyInternalError,
                format!("cannot be dialled: the socket's options were refused ({error})"),
                None,
            ),
            Trouble::Itself => upstream(
                Reason::ConnectionRefused,
                "has nothing that listens (the connection was answered by itself)",
            ),
            Trouble::Silent(limit) => upstream(
                Reason::ConnectionTimeout,
                &format!("did not answer within {}", humantime::format_duration(*limit)),
            ),
        }
    }
}

/// Of several reasons the most telling: first what is wrong here, then what a server said, then silence, and last what
/// is missing anyway on half of all hosts, a route for the other family.
fn telling(reason: Reason) -> u8 {
    match reason {
        Reason::ProxyInternalError => 0,
        Reason::ProxyConfigurationError => 1,
        Reason::ConnectionLimitReached => 2,
        Reason::ConnectionRefused => 3,
        Reason::ConnectionTerminated => 4,
        Reason::DestinationIpProhibited => 5,
        Reason::ConnectionTimeout => 6,
        _ => 7,
    }
}

/// One failure out of those of all addresses, in the order in which they came.
pub(super) fn failure(lost: &[(SocketAddr, Trouble)]) -> Failure {
    let meanings: Vec<_> =
        lost.iter().map(|(address, trouble)| (*address, trouble.meaning(*address))).collect();
    let detail = match meanings.as_slice() {
        [(address, only)] => format!("{address} {}", only.says),
        several => {
            let each: Vec<_> =
                several.iter().map(|(address, meaning)| format!("{address} {}", meaning.says)).collect();
            format!("none of {} addresses: {}", several.len(), each.join(", "))
        }
    };
    match meanings.into_iter().min_by_key(|(_, meaning)| telling(meaning.reason)) {
        Some((_, Meaning { reason, side, mend, .. })) => {
            let failure = Failure::new(Stage::Connect, reason, side, detail);
            match mend {
                Some(mend) => failure.mend(mend),
                None => failure,
            }
        }
        None => Failure::new(
            Stage::Connect,
            Reason::DestinationIpUnroutable,
            Side::Ambassador,
            "there is no address to dial",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(trouble: Trouble) -> Failure {
        failure(&[("10.0.0.5:5432".parse().unwrap(), trouble)])
    }

    fn connect(kind: io::ErrorKind) -> Trouble {
        Trouble::Connect(kind.into())
    }

    #[test]
    fn each_answer_of_the_kernel_has_its_word() {
        use io::ErrorKind::*;
        for (trouble, reason, side) in [
            (connect(ConnectionRefused), Reason::ConnectionRefused, Side::Upstream),
            (connect(ConnectionReset), Reason::ConnectionTerminated, Side::Upstream),
            (connect(TimedOut), Reason::ConnectionTimeout, Side::Upstream),
            (connect(HostUnreachable), Reason::DestinationIpUnroutable, Side::Upstream),
            (connect(NetworkUnreachable), Reason::DestinationIpUnroutable, Side::Upstream),
            (connect(PermissionDenied), Reason::DestinationIpProhibited, Side::Ambassador),
            (connect(AddrNotAvailable), Reason::ConnectionLimitReached, Side::Ambassador),
            (
                Trouble::Bind([10, 0, 0, 9].into(), AddrNotAvailable.into()),
                Reason::ProxyConfigurationError,
                Side::Ambassador,
            ),
            (
                Trouble::Bind([10, 0, 0, 9].into(), AddrInUse.into()),
                Reason::ConnectionLimitReached,
                Side::Ambassador,
            ),
            (Trouble::Itself, Reason::ConnectionRefused, Side::Upstream),
            (Trouble::Silent(Duration::from_secs(3)), Reason::ConnectionTimeout, Side::Upstream),
        ] {
            let said = format!("{trouble:?}");
            let failure = meant(trouble);
            assert_eq!((failure.reason, failure.side), (reason, side), "{said}");
            assert!(failure.detail.starts_with("10.0.0.5:5432 "), "{}", failure.detail);
        }
    }

    #[test]
    fn without_descriptors_the_mend_is_the_limit_on_them() {
        let failure = meant(Trouble::Socket(io::Error::from_raw_os_error(NO_DESCRIPTORS[0])));
        assert_eq!((failure.reason, failure.side), (Reason::ProxyInternalError, Side::Ambassador));
        assert!(failure.next_step().contains("LimitNOFILE"), "{}", failure.next_step());
    }

    #[test]
    fn of_several_failures_each_is_told_and_the_most_telling_gives_the_reason() {
        let failure = failure(&[
            ("[2001:db8::1]:5432".parse().unwrap(), connect(io::ErrorKind::NetworkUnreachable)),
            ("10.0.0.5:5432".parse().unwrap(), connect(io::ErrorKind::ConnectionRefused)),
            ("10.0.0.6:5432".parse().unwrap(), Trouble::Silent(Duration::from_secs(3))),
        ]);
        assert_eq!(
            failure.to_string(),
            "connect: connection_refused (upstream): none of 3 addresses: [2001:db8::1]:5432 is in a network that \
             this host has no route to, 10.0.0.5:5432 refused the connection, 10.0.0.6:5432 did not answer within \
             3s; is the server running, and does it listen on this address and port?"
        );
    }
}
