//! Who may ask: keeps web pages that a browser on this host has open away from the admin.
//!
//! A page can make its own name resolve to 127.0.0.1 and then read the answers as its own (DNS rebinding). Such a request
//! carries the page's name as `Host`; one that carries an address, or a loopback name, cannot be that. Nothing is said to
//! other origins, so there is no CORS either.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{StatusCode, Uri};

use super::token::Token;

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

/// Shown to whoever carries an order out: it was asked whether that may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MayWrite(());

/// Why an order is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// There is no token: over TCP nothing tells an operator from any other program of this host.
    OnlyReads,
    /// It carries none.
    NoToken,
    /// It carries another one.
    WrongToken,
}

impl Denied {
    /// What is wrong, and what would mend it.
    pub(super) fn told(self) -> (&'static str, &'static str) {
        match self {
            Denied::OnlyReads => (
                "over TCP the admin is for reading",
                "give this order through its Unix socket (admin.address = \"unix:/run/nuncio/admin.sock\"), or let \
                 orders over TCP carry a token (admin.token_file)",
            ),
            Denied::NoToken => (
                "an order over TCP needs the token",
                "send the header `Authorization: Bearer TOKEN` with what is in admin.token_file, or use the Unix socket",
            ),
            Denied::WrongToken => (
                "that is not the token",
                "send what is in admin.token_file; one that was replaced counts from the next reload on (SIGHUP)",
            ),
        }
    }

    /// `WWW-Authenticate` (RFC 6750, section 3), where a token would help.
    pub(super) fn challenge(self) -> Option<&'static str> {
        match self {
            Denied::OnlyReads => None,
            Denied::NoToken => Some("Bearer realm=\"nuncio\""),
            Denied::WrongToken => Some("Bearer realm=\"nuncio\", error=\"invalid_token\""),
        }
    }
}

/// May this change anything?
pub(super) fn may_write(
    headers: &HeaderMap,
    reached: Reached,
    token: Option<&Token>,
) -> Result<MayWrite, Denied> {
    if reached == Reached::Unix {
        return Ok(MayWrite(()));
    }
    let token = token.ok_or(Denied::OnlyReads)?;
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (None, _) => Err(Denied::NoToken),
        (Some(shown), None) if bearer(shown).is_some_and(|shown| token.is(shown)) => Ok(MayWrite(())),
        _ => Err(Denied::WrongToken),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii_start())
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

    /// Over TCP only the very token opens, however it is wrapped; at the Unix socket the file's mode has said who may.
    #[test]
    fn an_order_over_tcp_needs_the_token_and_nothing_else_will_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let token = Token::load(file.path()).unwrap();
        let may = |shown: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in shown {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(may_write(&headers, Reached::Unix, Some(&token)), Ok(MayWrite(())));
            assert_eq!(may_write(&headers, Reached::Unix, None), Ok(MayWrite(())));
            assert_eq!(may_write(&headers, Reached::Tcp, None), Err(Denied::OnlyReads));
            may_write(&headers, Reached::Tcp, Some(&token))
        };
        assert_eq!(may(&[]), Err(Denied::NoToken));
        assert_eq!(may(&["Bearer 0123456789abcdef"]), Ok(MayWrite(())));
        assert_eq!(may(&["bearer   0123456789abcdef"]), Ok(MayWrite(())));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeff",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer0123456789abcdef",
        ] {
            assert_eq!(may(&[wrong]), Err(Denied::WrongToken), "{wrong}");
        }
        let twice = ["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"];
        assert_eq!(may(&twice), Err(Denied::WrongToken));
    }

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
