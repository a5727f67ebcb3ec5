//! Where a registry is, as it is written: a scheme, a host and a port. Pure.

use std::fmt;
use std::str::FromStr;

use crate::addr::{EndpointAddr, Host};

/// Where a registry is: `http://127.0.0.1:8500`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(super) https: bool,
    pub(super) server: EndpointAddr,
}

impl Origin {
    /// At this address.
    pub fn new(https: bool, server: EndpointAddr) -> Origin {
        Origin { https, server }
    }

    /// Is what is sent there seen by nobody else: over TLS, or without leaving this host?
    pub fn is_private(&self) -> bool {
        self.https
            || match &self.server.host {
                Host::Ip(ip) => ip.to_canonical().is_loopback(),
                Host::Name(name) => &**name == "localhost",
            }
    }

    /// Is it asked over TLS?
    pub fn is_https(&self) -> bool {
        self.https
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.server)
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Whoever writes a password into it must not read it back in a log.
        if text.contains('@') {
            return Err("a user or a password in it is not sent: write http://HOST:PORT".to_owned());
        }
        let (https, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(format!("'{text}' is neither http nor https: write http://HOST:PORT")),
            None => return Err(format!("'{text}' has no scheme: write http://{text} or https://{text}")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            let scheme = if https { "https" } else { "http" };
            let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
            return Err(format!("'{text}' has a path: write {scheme}://{}", &authority[..end]));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let server = match has_port {
            true => authority.parse()?,
            false => format!("{authority}:{}", if https { 443 } else { 80 }).parse()?,
        };
        Ok(Origin { https, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_written_as_its_scheme_host_and_port_alone() {
        let shown = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        assert_eq!(shown("http://127.0.0.1:8500").as_deref(), Ok("http://127.0.0.1:8500"));
        assert_eq!(shown("https://Consul.example/").as_deref(), Ok("https://consul.example:443"));
        assert_eq!(shown("http://[::1]").as_deref(), Ok("http://[::1]:80"));
        for (text, told) in [
            ("127.0.0.1:8500", "write http://127.0.0.1:8500"),
            ("ftp://a", "neither http nor https"),
            ("http://a:8500/v1", "write http://a:8500"),
            ("http://a:99999", "is not a port"),
            ("http://u:secret@a", "write http://HOST:PORT"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(told) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
