//! What `[upstream.NAME.proxy]` means: the way out through a proxy, and what servers are told of clients.

use super::file;
use super::reader::Reader;
use super::section::{At, Field};
use crate::account::Login;
use crate::dial::header::Version;
use crate::dial::through::{Kind, Through};

/// Which header the servers expect.
pub(super) fn header(
    proxy: &Field<file::Proxy>,
    pool: &Field<file::Pool>,
    reader: &mut Reader,
) -> Option<Version> {
    let At { value, place } = proxy.value()?.proxy_protocol.given()?;
    let keeps = |count: &Field<u32>| count.value().is_some_and(|count| *count > 0);
    if pool.value().is_some_and(|pool| keeps(&pool.min) || keeps(&pool.max)) {
        let message = "tells the servers who the client is in front of all else, and of a connection in `pool` nobody knows yet";
        reader.problem(place, message, "remove it, or the table `pool`");
    }
    Some(if *value == 1 { Version::One } else { Version::Two })
}

/// The proxy on the way.
pub(super) fn through(written: file::Proxy, reader: &mut Reader) -> Option<Through> {
    let file::Proxy { http, socks5, user, password_file, proxy_protocol: _ } = written;
    if let (Some(_), Some(other)) = (http.given(), socks5.given()) {
        reader.problem(&other.place, "stands beside `http`", "keep one of them");
    }
    let is_any = http.given().or(socks5.given()).is_some();
    match (&user, &password_file) {
        (Field::Given(user), _) if !is_any && http.is_absent() && socks5.is_absent() => {
            let mend = "add for example: http = \"proxy.example.com:3128\"; or remove it";
            reader.problem(&user.place, "is nobody's: no proxy is named", mend);
        }
        (Field::Given(user), Field::Absent) => {
            reader.problem(&user.place, "has no password", "add password_file = \"...\"");
        }
        (Field::Absent, Field::Given(file)) => {
            reader.problem(
                &file.place,
                "has the password of nobody: there is no user",
                "add user = \"...\", or remove it",
            );
        }
        _ => {}
    }
    let login = user.taken().zip(password_file.taken());
    let login = login.map(|(user, file)| Login { user, password_file: Some(file) });
    let of = |kind, address: Field<_>| Some((kind, address.taken()?));
    let (kind, address) = of(Kind::Http, http).or_else(|| of(Kind::Socks5, socks5))?;
    Some(Through { address, kind, login })
}
