//! through: the way out through a proxy, HTTP's CONNECT (RFC 9110, 9.3.6) or SOCKS5 (RFC 1928, RFC 1929). The proxy is given the
//! endpoint's name as it is written: what it resolves to there may be nothing that we can resolve here.
//!
//! Reads no byte beyond the proxy's answer: the server's own words may be right behind it. Leaves the connection to the proxy
//! to `dial`, and the time to the caller.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::account::Login;
use crate::addr::{EndpointAddr, Host};
use crate::failure::{Failure, Reason, Side, Stage};

/// A proxy that lies between us and the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// Where it is.
    pub address: EndpointAddr,
    /// How it is asked.
    pub kind: Kind,
    /// Who we are there; `None`: it does not want to know.
    pub login: Option<Login>,
}

/// How a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT.
    Http,
    /// SOCKS5.
    Socks5,
}

/// Of an answer's head.
const LONGEST_HEAD: usize = 16 * 1024;
/// Of its first line, what is quoted.
const QUOTED: usize = 200;

/// What the account's file has.
async fn password(login: &Login) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let read = login.password_aside().await;
    read.map_err(|problem| ours(problem).mend("mend proxy.password_file, or its permissions"))
}

impl Through {
    /// Has the proxy connect to `to`; what `stream` carries from then on goes there.
    ///
    /// # Errors
    /// On our side, where it is the proxy itself that will not do; on the upstream's, where it says that of the endpoint.
    pub async fn open(&self, stream: &mut TcpStream, to: &EndpointAddr) -> Result<(), Failure> {
        match self.kind {
            Kind::Http => self.connect(stream, to).await,
            Kind::Socks5 => self.socks5(stream, to).await,
        }
    }

    async fn connect(&self, stream: &mut TcpStream, to: &EndpointAddr) -> Result<(), Failure> {
        let mut request = Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes());
        if let Some(login) = &self.login {
            let credentials = Zeroizing::new([login.user.as_bytes(), b":", &password(login).await?].concat());
            let encoded = Zeroizing::new(data_encoding::BASE64.encode(&credentials));
            request.extend_from_slice(b"Proxy-Authorization: Basic ");
            request.extend_from_slice(encoded.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await.map_err(|error| self.broke(&error))?;
        let head = self.head(stream).await?;
        let line: String = head.split(|byte| *byte == b'\r').next().map(quoted).unwrap_or_default();
        let status = line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse::<u16>().ok());
        let said = format!("the proxy {} answered \"{line}\" to CONNECT {to}", self.address);
        let told = |reason| Err(Failure::upstream(Stage::Proxy, reason, said.clone()));
        match status {
            Some(200..=299) => Ok(()),
            Some(401 | 407) => Err(ours(said).mend("give it an account: proxy.user and proxy.password_file")),
            Some(403 | 405) => Err(ours(said).mend("let the proxy allow CONNECT to that host and port")),
            // 500: as tinyproxy says that it could not connect.
            Some(500 | 502 | 503) => told(Reason::DestinationUnavailable),
            Some(504) => told(Reason::ConnectionTimeout),
            Some(404) => told(Reason::DestinationNotFound),
            _ => Err(ours(said).mend("is it an HTTP proxy that allows CONNECT, and is that its port?")),
        }
    }

    /// Up to the empty line, and no further.
    async fn head(&self, stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
        let mut head = Vec::new();
        let mut seen = [0; 2048];
        loop {
            let waiting = stream.peek(&mut seen).await.map_err(|error| self.broke(&error))?;
            if waiting == 0 {
                return Err(self.broke(&io::ErrorKind::UnexpectedEof.into()));
            }
            let from = head.len();
            head.extend_from_slice(&seen[..waiting]);
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            let taken = end.unwrap_or(head.len()) - from;
            head.truncate(from + taken);
            stream.read_exact(&mut seen[..taken]).await.map_err(|error| self.broke(&error))?;
            if end.is_some() {
                return Ok(head);
            }
            if head.len() > LONGEST_HEAD || !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
                let said = format!("the proxy {} answered no HTTP: \"{}\"", self.address, quoted(&head));
                return Err(ours(said).mend("is it an HTTP proxy? SOCKS5 is proxy.socks5"));
            }
        }
    }

    async fn socks5(&self, stream: &mut TcpStream, to: &EndpointAddr) -> Result<(), Failure> {
        const NO_LOGIN: u8 = 0;
        const LOGIN: u8 = 2;
        let offered: &[u8] = if self.login.is_some() { &[5, 2, NO_LOGIN, LOGIN] } else { &[5, 1, NO_LOGIN] };
        stream.write_all(offered).await.map_err(|error| self.broke(&error))?;
        let [version, method] = self.read(stream).await?;
        let proxy = &self.address;
        match (version, method, &self.login) {
            (5, NO_LOGIN, _) => {}
            (5, LOGIN, Some(login)) => {
                let password = password(login).await?;
                let (user, longest) = (login.user.as_bytes(), usize::from(u8::MAX));
                if user.len() > longest || password.len() > longest {
                    return Err(ours("SOCKS5 takes no user and no password of more than 255 bytes".into()));
                }
                // Both fit a byte.
                let words = Zeroizing::new(
                    [&[1, user.len() as u8], user, &[password.len() as u8], &password].concat(),
                );
                stream.write_all(&words).await.map_err(|error| self.broke(&error))?;
                if !matches!(self.read(stream).await?, [1, 0]) {
                    let said = format!(
                        "the proxy {proxy} does not accept the user '{}' with its password",
                        login.user
                    );
                    return Err(ours(said).mend("mend proxy.user, or what is in proxy.password_file"));
                }
            }
            (5, _, _) => {
                let said =
                    format!("the proxy {proxy} takes nobody without a login of a kind that was not offered");
                return Err(ours(said).mend("give it an account: proxy.user and proxy.password_file"));
            }
            _ => {
                let said = format!("the proxy {proxy} answered no SOCKS5: its first byte is {version:#04x}");
                return Err(ours(said).mend("is it a SOCKS5 proxy? HTTP's CONNECT is proxy.http"));
            }
        }
        let mut request = vec![5, 1, 0];
        match &to.host {
            Host::Ip(std::net::IpAddr::V4(ip)) => {
                request.push(1);
                request.extend(ip.octets());
            }
            Host::Ip(std::net::IpAddr::V6(ip)) => {
                request.push(4);
                request.extend(ip.octets());
            }
            Host::Name(name) => {
                // A name of the DNS is no longer than that.
                let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
                request.extend([3, name.len() as u8]);
                request.extend_from_slice(name);
            }
        }
        request.extend(to.port.to_be_bytes());
        stream.write_all(&request).await.map_err(|error| self.broke(&error))?;
        let [_, reply, _, family] = self.read(stream).await?;
        let rest = match family {
            1 => 4,
            4 => 16,
            3 => usize::from(self.read::<1>(stream).await?[0]),
            _ => 0,
        };
        let mut bound = vec![0; rest + 2];
        if reply == 0 {
            stream.read_exact(&mut bound).await.map_err(|error| self.broke(&error))?;
            return Ok(());
        }
        let (reason, words) = match reply {
            1 => (Reason::DestinationUnavailable, "general failure"),
            2 => return Err(ours(format!("the proxy {proxy} does not allow connections to {to}"))),
            3 => (Reason::DestinationIpUnroutable, "network unreachable"),
            4 => (Reason::DestinationUnavailable, "host unreachable"),
            5 => (Reason::ConnectionRefused, "connection refused"),
            6 => (Reason::ConnectionTimeout, "TTL expired"),
            _ => return Err(ours(format!("the proxy {proxy} answered {reply} to a request for {to}"))),
        };
        Err(Failure::upstream(Stage::Proxy, reason, format!("the proxy {proxy} says of {to}: {words}")))
    }

    async fn read<const LENGTH: usize>(&self, stream: &mut TcpStream) -> Result<[u8; LENGTH], Failure> {
        let mut bytes = [0; LENGTH];
        stream.read_exact(&mut bytes).await.map_err(|error| self.broke(&error))?;
        Ok(bytes)
    }

    fn broke(&self, error: &io::Error) -> Failure {
        let did = match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed the connection instead of answering".to_owned(),
            _ => format!("broke the connection instead of answering: {error}"),
        };
        ours(format!("the proxy {} {did}", self.address)).mend("look in the proxy's log for why")
    }
}

/// The proxy is our own way out: that it will not do says nothing about the endpoint.
fn ours(detail: String) -> Failure {
    Failure::new(Stage::Proxy, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}

/// Printable, and not too much of it.
fn quoted(bytes: &[u8]) -> String {
    let shown = bytes
        .iter()
        .take(QUOTED)
        .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' });
    shown.collect()
}

#[cfg(test)]
mod tests;
