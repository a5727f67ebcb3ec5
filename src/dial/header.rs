//! header: the PROXY protocol towards a server (HAProxy's proxy-protocol.txt, versions 1 and 2): who the client is, said before the
//! first byte of anything else, TLS included. Leaves to the caller what is known of the client.

use std::net::{IpAddr, SocketAddr};

/// Which of the two is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text: addresses, and nothing else.
    One,
    /// Binary, with what else there is to tell.
    Two,
}

/// What is known of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Where it is, and where it connected to; `None`: it came over a Unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The connection's name in our records.
    pub id: String,
    /// What it told of itself, as a client may tell us: `correlation=…;traceparent=…`.
    pub options: String,
    /// Its own TLS, where the listener terminated that.
    pub tls: Option<ClientTls>,
}

/// A client's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `TLSv1.3`
    pub version: String,
    /// The cipher suite.
    pub suite: String,
    /// The name in the certificate that it has shown, and that was verified.
    pub name: Option<String>,
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_NAME: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
/// As where we hear it: see `context::proxy_protocol`.
const NUNCIO: u8 = 0xe4;
/// Of a name that others gave us.
const LONGEST: usize = 1024;

/// The header for a client's connection; `None`: we connect for ourselves, as a health check does.
pub fn header(version: Version, client: Option<&Introduction>) -> Vec<u8> {
    match version {
        Version::One => line(client).into_bytes(),
        Version::Two => binary(client),
    }
}

fn line(client: Option<&Introduction>) -> String {
    match client.and_then(|client| client.addresses).map(same_family) {
        Some((from, to)) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        None => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

fn binary(client: Option<&Introduction>) -> Vec<u8> {
    let Some(client) = client else { return [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat() };
    let mut body = Vec::with_capacity(128);
    let family = match client.addresses.map(same_family) {
        None => 0x00,
        Some((from, to)) => {
            for ip in [from.ip(), to.ip()] {
                match ip {
                    IpAddr::V4(ip) => body.extend(ip.octets()),
                    IpAddr::V6(ip) => body.extend(ip.octets()),
                }
            }
            body.extend(from.port().to_be_bytes());
            body.extend(to.port().to_be_bytes());
            if from.is_ipv4() { 0x11 } else { 0x21 }
        }
    };
    put(&mut body, UNIQUE_ID, client.id.as_bytes());
    if let Some(tls) = &client.tls {
        put(&mut body, SSL, &ssl(tls));
    }
    if !client.options.is_empty() {
        put(&mut body, NUNCIO, client.options.as_bytes());
    }
    // Each part is bounded, so that all of them are far below 64 KiB.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&SIGNATURE[..], &[PROXY, family], &length, &body].concat()
}

/// That it spoke TLS, and whether it showed a certificate; 0: verified, or none was asked for.
fn ssl(tls: &ClientTls) -> Vec<u8> {
    const SPOKE_TLS: u8 = 0x01;
    const SHOWED_CERTIFICATE: u8 = 0x02 | 0x04;
    let showed = if tls.name.is_some() { SHOWED_CERTIFICATE } else { 0 };
    let mut value = vec![SPOKE_TLS | showed, 0, 0, 0, 0];
    put(&mut value, SSL_VERSION, tls.version.as_bytes());
    if let Some(name) = &tls.name {
        put(&mut value, SSL_NAME, name.as_bytes());
    }
    put(&mut value, SSL_CIPHER, tls.suite.as_bytes());
    value
}

fn put(body: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = &value[..value.len().min(LONGEST)];
    body.push(kind);
    // No longer than LONGEST.
    body.extend((value.len() as u16).to_be_bytes());
    body.extend_from_slice(value);
}

/// Both of one family: where they differ, IPv4 is written as IPv6.
fn same_family((from, to): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match (plain(from), plain(to)) {
        (from, to) if from.is_ipv4() == to.is_ipv4() => (from, to),
        (from, to) => (mapped(from), mapped(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, to: &str) -> Introduction {
        let addresses = Some((from.parse().unwrap(), to.parse().unwrap()));
        Introduction { addresses, id: "6f1c0e9a4b7d2358".into(), ..Introduction::default() }
    }

    #[test]
    fn version_one_is_a_line() {
        let said = |client: Option<&Introduction>| String::from_utf8(header(Version::One, client)).unwrap();
        assert_eq!(
            said(Some(&client("10.0.0.1:40000", "127.0.0.1:5432"))),
            "PROXY TCP4 10.0.0.1 127.0.0.1 40000 5432\r\n"
        );
        assert_eq!(said(Some(&client("[2001:db8::1]:1", "[::1]:2"))), "PROXY TCP6 2001:db8::1 ::1 1 2\r\n");
        assert_eq!(
            said(Some(&client("[::ffff:10.0.0.1]:1", "10.0.0.2:2"))),
            "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            "an IPv4 client of a dual-stack socket"
        );
        assert_eq!(said(Some(&client("10.0.0.1:1", "[::1]:2"))), "PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n");
        assert_eq!(said(Some(&Introduction::default())), "PROXY UNKNOWN\r\n");
        assert_eq!(said(None), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_two_has_addresses_and_what_else_is_known() {
        let all = Introduction {
            options: "correlation=7".into(),
            tls: Some(ClientTls { version: "TLSv1.3".into(), suite: "S".into(), name: Some("erp".into()) }),
            ..client("10.0.0.1:258", "127.0.0.1:5432")
        };
        let said = header(Version::Two, Some(&all));
        let mut expected = SIGNATURE.to_vec();
        expected.extend([0x21, 0x11, 0, 75, 10, 0, 0, 1, 127, 0, 0, 1, 1, 2, 0x15, 0x38]);
        expected.extend(b"\x05\x00\x106f1c0e9a4b7d2358");
        expected.extend(b"\x20\x00\x19\x07\0\0\0\0\x21\x00\x07TLSv1.3\x22\x00\x03erp\x23\x00\x01S");
        expected.extend(b"\xe4\x00\x0dcorrelation=7");
        assert_eq!(said, expected);
        assert_eq!(usize::from(said[15]), said.len() - 16);
        assert_eq!(header(Version::Two, None), [&SIGNATURE[..], b"\x20\0\0\0"].concat(), "for ourselves");
        let over_unix = Introduction { id: "i".into(), ..Introduction::default() };
        assert_eq!(
            header(Version::Two, Some(&over_unix)),
            [&SIGNATURE[..], b"\x21\0\0\x04\x05\0\x01i"].concat()
        );
    }

    #[test]
    fn what_others_gave_us_is_cut_before_it_could_fill_the_header() {
        let long = Introduction { options: "x".repeat(100_000), ..client("10.0.0.1:1", "10.0.0.2:2") };
        let said = header(Version::Two, Some(&long));
        assert_eq!(usize::from(u16::from_be_bytes([said[14], said[15]])), said.len() - 16);
        assert!(said.len() < 2048);
    }
}
