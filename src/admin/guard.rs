//! Who may ask: keeps web pages that a browser on this host has open away from the admin.
//!
//! A page can make its own name resolve to 127.0.0.1 and then read the answers as its own (DNS rebinding). Such a request
//! carries the page's name as `Host`; one that carries an address, or a loopback name, cannot be that. Nothing is said to
//! other origins, so there is no CORS either.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{StatusCode, Uri};

/// How the client reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Over TCP: a browser can.
    Tcp,
    /// Over the Unix socket: no browser can, and its mode says who may.
    Unix,
}

/// May this be answered? Else the status and the reason.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, reached: Reached) -> Result<(), (StatusCode, String)> {
    if reached == Reached::Unix {
        return Ok(());
    }
    let hosts: Vec<&HeaderValue> = headers.get_all(HOST).iter().collect();
    if hosts.len() > 1 {
        return Err((StatusCode::BAD_REQUEST, "more than one Host".into()));
    }
    // HTTP/1.0 has none, and no browser speaks it.
    let host = hosts.first().map(|host| host.to_str().unwrap_or("(unreadable)"));
    for named in [host, uri.authority().map(|authority| authority.as_str())].into_iter().flatten() {
        if !is_ours(named) {
            let said = named.escape_debug();
            let words = format!("this admin is not '{said}': ask for it by an IP address or as localhost");
            return Err((StatusCode::MISDIRECTED_REQUEST, words));
        }
    }
    match headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("(unreadable)")) {
        Some(origin) if host.is_none_or(|host| origin.strip_prefix("http://") != Some(host)) => {
            Err((StatusCode::FORBIDDEN, format!("no answer for pages of '{}'", origin.escape_debug())))
        }
        _ => Ok(()),
    }
}

/// May whoever reached us so change anything? Over TCP nothing tells an operator from any other program of this host.
pub(super) fn may_write(reached: Reached) -> Result<(), (StatusCode, String)> {
    match reached {
        Reached::Unix => Ok(()),
        Reached::Tcp => {
            let words = "over TCP the admin is for reading: give this order through its Unix socket \
                         (admin.address = \"unix:/run/nuncio/admin.sock\")";
            Err((StatusCode::FORBIDDEN, words.to_owned()))
        }
    }
}

/// An address, or a name that every system resolves to itself (RFC 6761, section 6.3).
fn is_ours(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_loopback_names_are_ours_and_other_names_are_not() {
        for ours in
            ["127.0.0.1", "127.0.0.1:9746", "localhost:1", "LOCALHOST", "[::1]:9746", "[::1]", "10.1.2.3:80"]
        {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:9746",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "::1",
            "a@127.0.0.1",
            "[127.0.0.1]",
            "127.1.evil:1",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
