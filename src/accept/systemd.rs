//! Sockets that systemd opened for us (`.socket` units), by their `FileDescriptorName=`.
//!
//! They are taken from the environment once and kept for the life of the process: a listener works on duplicates, so that
//! one that a reload removes can come back with the next.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use socket2::{SockRef, Type};

use super::bind::Socket;
use crate::addr::ListenAddr;
use crate::socket::sys;

struct Inherited {
    name: String,
    socket: OwnedFd,
    used: bool,
}

/// `None` until they were taken.
static INHERITED: Mutex<Option<Vec<Inherited>>> = Mutex::new(None);

/// The sockets that systemd passed and no listener asked for, by name: worth a warning once all are bound.
pub fn unused_systemd_sockets() -> Vec<String> {
    // An environment that cannot be read was reported to the listener that asked, if one did.
    with_inherited(|all| all.iter().filter(|one| !one.used).map(|one| one.name.clone()).collect())
        .unwrap_or_default()
}

/// All sockets of a name: a unit with several `ListenStream=` passes several under one.
///
/// # Errors
/// There is none of that name, or one that nobody can accept from.
pub fn sockets(name: &str) -> Result<Vec<(ListenAddr, Socket)>, String> {
    let refused = |error: io::Error| format!("cannot listen on systemd:{name}: {error}");
    with_inherited(|all| {
        let mut found = Vec::new();
        for one in all.iter_mut().filter(|one| one.name == name) {
            found.push(listening(one.socket.try_clone().map_err(refused)?).map_err(refused)?);
            one.used = true;
        }
        if found.is_empty() {
            let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
            return Err(format!(
                "cannot listen on systemd:{name}: {}; set FileDescriptorName={name} in the .socket unit, and start the \
                 service through it",
                match names.as_slice() {
                    [] => "systemd passed no socket".to_owned(),
                    names => format!("systemd passed only {}", names.join(", ")),
                }
            ));
        }
        Ok(found)
    })
    .map_err(refused)?
}

fn with_inherited<T>(look: impl FnOnce(&mut Vec<Inherited>) -> T) -> io::Result<T> {
    let mut kept = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.is_none() {
        let passed = sys::inherited_sockets()?;
        *kept =
            Some(passed.into_iter().map(|(name, socket)| Inherited { name, socket, used: false }).collect());
    }
    Ok(look(kept.get_or_insert_default()))
}

/// What kind of socket it is, and whether it is one that we can accept from.
fn listening(socket: OwnedFd) -> io::Result<(ListenAddr, Socket)> {
    let facts = SockRef::from(&socket);
    if facts.r#type()? != Type::STREAM || !facts.is_listener()? {
        return Err(io::Error::other(
            "the socket is none to accept from; use ListenStream= and Accept=no in the .socket unit",
        ));
    }
    facts.set_nonblocking(true)?;
    let address = facts.local_addr()?;
    if let Some(tcp) = address.as_socket() {
        return Ok((ListenAddr::Tcp(tcp), Socket::Tcp(socket.into())));
    }
    if !address.is_unix() {
        return Err(io::Error::other("the socket is neither TCP nor Unix"));
    }
    // An abstract address has no path; it is shown empty.
    let path = address.as_pathname().map(Into::into).unwrap_or_default();
    Ok((ListenAddr::Unix(path), Socket::Unix(socket.into())))
}
