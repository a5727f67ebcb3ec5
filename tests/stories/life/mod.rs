//! The life of the process, through the real binary: start, listen, admit, reload, drain, admin, limits.
//!
//! Each file is one part of it. Here is what they share: a CA, an upstream that echoes, and the configuration around them.

mod admin;
#[cfg(unix)]
mod admit;
#[cfg(unix)]
mod demo;
#[cfg(unix)]
mod drain;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(unix)]
mod listen;
#[cfg(unix)]
mod log;
#[cfg(target_os = "linux")]
mod metering;
mod places;
#[cfg(unix)]
mod reload;
mod start;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::harness::pki::SERVER_NAME;
use super::harness::{PATIENCE, Pki, Upstream};

/// A CA and an upstream over mutual TLS that echoes.
struct World {
    pki: Pki,
    echo: Upstream,
}

impl World {
    fn new() -> World {
        let pki = Pki::generate();
        let echo = Upstream::start(&pki);
        World { pki, echo }
    }

    /// `[identity.test]`, and `[upstream.up]` with the echo. No health checks: what a story counts is its own.
    fn up(&self) -> String {
        self.identity() + &upstream("up", &[self.echo.address()])
    }

    fn identity(&self) -> String {
        let (ca, certificate, key) = (self.pki.ca(), &self.pki.client.certificate, &self.pki.client.key);
        format!("[identity.test]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n")
    }
}

/// `[upstream.NAME]` over mutual TLS, without health checks.
fn upstream(name: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(SocketAddr::to_string).collect();
    format!(
        "[upstream.{name}.health]\nkind = \"off\"\n\
         [upstream.{name}]\nidentity = \"test\"\nserver_name = \"{SERVER_NAME}\"\nendpoints = {endpoints:?}\n"
    )
}

/// `[listener.NAME]` on a port of the kernel's choice, before the upstream `up`; `rest` is the rest of its section.
fn listener(name: &str, rest: &str) -> String {
    listener_at(name, "127.0.0.1:0", rest)
}

/// The same at an address.
fn listener_at(name: &str, address: &str, rest: &str) -> String {
    format!("[listener.{name}]\naddress = \"{address}\"\nupstream = \"up\"\n{rest}\n")
}

/// Whether what is sent comes back.
fn echoes(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut answer)?;
    if &answer == b"ping" { Ok(()) } else { Err(io::Error::other("what came back is not what was sent")) }
}

/// The same on a connection of its own; how it was refused, where it was.
fn try_echo(address: SocketAddr) -> io::Result<()> {
    // A reset may be there before connect(2) has told of the connection.
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    echoes(&mut stream)
}

/// A connection is refused in the way that plain TCP has: reset, and not a byte.
#[track_caller]
fn is_reset(address: SocketAddr) {
    let seen = try_echo(address);
    let is_reset =
        |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(matches!(&seen, Err(error) if is_reset(error)), "{seen:?}");
}

#[cfg(unix)]
fn we_are_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|myself| myself.uid() == 0)
}

/// A command run as the user `nobody`; where we are not root, sudo has to help.
#[cfg(unix)]
fn as_nobody(program: &str) -> Command {
    let arguments: &[&str] = match we_are_root() {
        true => &["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"],
        false => &["sudo", "-n", "-u", "nobody"],
    };
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).arg(program);
    command
}
