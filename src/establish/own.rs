//! Our own listeners, so that no connection is made to one of them: it would open the next one, until the descriptors end.
//! `check` refuses what the file itself shows; a registry, a name or a port of 0 shows it only now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use crate::failure::{Failure, Reason, Side, Stage};

/// Where this process listens, as it is now.
#[derive(Debug, Default)]
pub struct OwnListeners(RwLock<Arc<[SocketAddr]>>);

impl OwnListeners {
    /// These, from now on.
    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses.into_iter().collect();
    }

    /// The addresses of an endpoint that are not ours.
    ///
    /// # Errors
    /// All of them are.
    pub(super) fn leave_out(&self, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
        let listening = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut loops = None;
        addresses.retain(|address| {
            let ours = listening.iter().find(|own| is_same(**own, *address, is_of_this_host));
            loops = loops.or(ours.map(|own| (*address, *own)));
            ours.is_none()
        });
        match loops {
            Some((address, own)) if addresses.is_empty() => {
                let detail = format!(
                    "{address} is nuncio's own listener ({own}): the connection would open another one to itself"
                );
                Err(Failure::new(Stage::Connect, Reason::ProxyLoopDetected, Side::Ambassador, detail).mend(
                    "have whoever names this endpoint name the server instead, or move the listener to another port",
                ))
            }
            Some(_) | None => Ok(addresses),
        }
    }
}

/// Does what is sent to `address` arrive at the socket that listens at `own`?
fn is_same(own: SocketAddr, address: SocketAddr, is_of_this_host: impl Fn(SocketAddr) -> bool) -> bool {
    if own.port() != address.port() {
        return false;
    }
    // What is sent to the unspecified address goes to this very host.
    let to = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    match own.ip().to_canonical() {
        // Dual stack: it gets both families.
        IpAddr::V6(own) if own.is_unspecified() => is_of_this_host(SocketAddr::new(to, 0)),
        IpAddr::V4(own) if own.is_unspecified() => to.is_ipv4() && is_of_this_host(SocketAddr::new(to, 0)),
        own => own == to,
    }
}

/// Only an address of one's own can be bound to. Asked only about a port that is ours.
fn is_of_this_host(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(of: &[&str]) -> Vec<SocketAddr> {
        of.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn a_listener_is_met_by_its_address_and_one_for_all_of_them_by_each_of_the_hosts() {
        // This host: loopback, 10.0.0.5 and fd00::5.
        let here = |at: SocketAddr| {
            at.ip().is_loopback() || ["10.0.0.5", "fd00::5"].contains(&at.ip().to_string().as_str())
        };
        let met = |own: &str, address: &str| is_same(own.parse().unwrap(), address.parse().unwrap(), here);
        for (own, address) in [
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("127.0.0.1:5", "[::ffff:127.0.0.1]:5"),
            ("127.0.0.1:5", "0.0.0.0:5"),
            ("0.0.0.0:5", "10.0.0.5:5"),
            ("0.0.0.0:5", "127.0.0.9:5"),
            ("[::]:5", "10.0.0.5:5"),
            ("[::]:5", "[fd00::5]:5"),
            ("[::1]:5", "[::]:5"),
        ] {
            assert!(met(own, address), "{own} {address}");
        }
        for (own, address) in [
            ("127.0.0.1:5", "127.0.0.1:6"),
            ("127.0.0.1:5", "127.0.0.2:5"),
            ("127.0.0.1:5", "10.0.0.5:5"),
            ("0.0.0.0:5", "10.0.0.6:5"),
            ("0.0.0.0:5", "[fd00::5]:5"),
            ("[::]:5", "10.0.0.6:5"),
        ] {
            assert!(!met(own, address), "{own} {address}");
        }
    }

    #[test]
    fn addresses_of_this_host_are_known_from_others() {
        assert!(is_of_this_host("127.0.0.1:0".parse().unwrap()));
        assert!(!is_of_this_host("192.0.2.1:0".parse().unwrap()), "kept for documentation (RFC 5737)");
    }

    #[test]
    fn of_several_addresses_the_others_stay_and_of_one_it_is_told() {
        let own = OwnListeners::default();
        let both = addresses(&["127.0.0.1:5432", "127.0.0.2:5432"]);
        assert_eq!(own.leave_out(both.clone()).unwrap(), both);
        own.set(addresses(&["127.0.0.1:5432"]));
        assert_eq!(own.leave_out(both.clone()).unwrap(), both[1..]);
        let failure = own.leave_out(both[..1].to_vec()).unwrap_err();
        assert_eq!((failure.reason, failure.stage), (Reason::ProxyLoopDetected, Stage::Connect));
        assert_eq!(own.leave_out(Vec::new()).unwrap(), []);
    }
}
