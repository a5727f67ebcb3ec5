//! admit: who may come (networks, users), how many, how fast.
//!
//! The user of a Unix client comes from its credentials, that of a loopback TCP client from the kernel's socket tables:
//! without that every local process could act with our certificate. What cannot be told is refused. How the refusal
//! reaches the client is left to `connection`, and asking the user databases, which may take long, to [`directory`].

mod directory;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;

use crate::accept::Accepted;
use crate::addr::{ClientAddr, ListenAddr, SourceKey};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::socket::{self, users};

use self::directory::Directory;

/// Who may use a listener, and how much of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Networks that may connect. Empty: loopback and Unix sockets only.
    pub allow: Vec<IpNet>,
    /// Networks of the proxies that say who their clients are, which `allow` is for then; empty: those of this host. `None`:
    /// nobody comes through a proxy.
    pub proxies: Option<Vec<IpNet>>,
    /// Users that may connect (names or numbers). Empty with `allow_groups` empty: every local user.
    pub allow_users: Vec<String>,
    /// Groups whose members may connect.
    pub allow_groups: Vec<String>,
    /// Open connections of the listener at a time.
    pub connections: Option<u32>,
    /// Open connections of one source at a time.
    pub connections_per_source: Option<u32>,
    /// New connections a second, as a token bucket of one second's size.
    pub rate: Option<u32>,
    /// Count what each local user does.
    pub meter_users: bool,
}

/// The door of one listener.
#[derive(Debug)]
pub struct Gate {
    allow: Vec<IpNet>,
    proxies: Option<Vec<IpNet>>,
    users: Vec<u32>,
    groups: Vec<u32>,
    connections: u32,
    connections_per_source: u32,
    rate: Option<u32>,
    meters_users: bool,
    directory: Directory,
    counts: Arc<Counts>,
}

/// A connection that was let in. It counts against the caps until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    source: SourceKey,
    /// Does it count against those of its source? What a proxy itself brings does not, until it says for whom.
    counts_by_source: bool,
    counts: Arc<Counts>,
}

impl Ticket {
    /// What the client shares with others of the same source: its user where known, else its address.
    pub fn source(&self) -> SourceKey {
        self.source
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.counts.lock().leave(self.counts_by_source.then_some(self.source));
    }
}

impl Gate {
    /// Names of users and groups are looked up here; one that does not exist is an error.
    pub fn new(settings: &Settings) -> Result<Gate, String> {
        Gate::with_counts(settings, Arc::default())
    }

    /// A door with other settings through which the same connections have come: for a reload.
    pub fn renewed(&self, settings: &Settings) -> Result<Gate, String> {
        Gate::with_counts(settings, self.counts.clone())
    }

    fn with_counts(settings: &Settings, counts: Arc<Counts>) -> Result<Gate, String> {
        let users = settings.allow_users.iter().map(|user| users::user_id(user)).collect::<Result<_, _>>();
        let groups =
            settings.allow_groups.iter().map(|group| users::group_id(group)).collect::<Result<_, _>>();
        let groups: Vec<u32> = groups.map_err(|problem| format!("allow_groups: {problem}"))?;
        Ok(Gate {
            allow: settings.allow.clone(),
            proxies: settings.proxies.clone(),
            users: users.map_err(|problem| format!("allow_users: {problem}"))?,
            directory: Directory::of_host(!groups.is_empty()),
            groups,
            connections: settings.connections.unwrap_or(u32::MAX),
            connections_per_source: settings.connections_per_source.unwrap_or(u32::MAX),
            rate: settings.rate,
            meters_users: settings.meter_users,
            counts,
        })
    }

    /// Is what each local user does to be counted?
    pub fn meters_users(&self) -> bool {
        self.meters_users
    }

    /// Lets the client in or says why not. Who may not come at all is told apart first, so that strangers use up neither
    /// the rate nor the places of those who may.
    ///
    /// It waits only where the user databases have to be asked, and then not for long; whoever needs no asking is
    /// judged within the first poll, and without an allocation. `user`: the client's, where it was told, had to be found out
    /// or is metered; also of one who is not let in.
    pub async fn admit(
        &self,
        accepted: &Accepted,
        now: Instant,
        user: &mut Option<u32>,
    ) -> Result<Ticket, Failure> {
        if let ClientAddr::Tcp(peer) = &accepted.client {
            match &self.proxies {
                // The address that it comes from is the one by which it would have left. That it is of this host all the same
                // the kernel knows.
                None if self.allow.is_empty() && is_redirected_here(accepted) => {
                    *user = Some(owner(accepted, *peer)?);
                }
                None => self.check_network(peer.ip().to_canonical())?,
                Some(proxies) => check_proxy(proxies, peer.ip().to_canonical())?,
            }
        }
        let judged_by = self.check_user(accepted, user).await?;
        let source = judged_by.map_or_else(|| accepted.client.source_key(), |uid| SourceKey::User(Some(uid)));
        let counts_by_source = self.proxies.is_none();
        self.counts.lock().enter(self, counts_by_source.then_some(source), now)?;
        Ok(Ticket { source, counts_by_source, counts: self.counts.clone() })
    }

    /// Judges who is behind a proxy as if it had come itself; `None`: the proxy speaks for itself.
    pub fn admit_behind(&self, ticket: &mut Ticket, client: Option<IpAddr>) -> Result<(), Failure> {
        let Some(ip) = client.map(|ip| ip.to_canonical()) else { return Ok(()) };
        self.check_network(ip)?;
        let source = SourceKey::Ip(ip);
        self.counts.lock().enter_source(self, source)?;
        (ticket.source, ticket.counts_by_source) = (source, true);
        Ok(())
    }

    /// The same for whom a proxy brings without a word of where from: it is judged by where the proxy is, and counts there.
    pub fn admit_hidden(&self, ticket: &mut Ticket) -> Result<(), Failure> {
        if let SourceKey::Ip(ip) = ticket.source {
            self.check_network(ip).map_err(|failure| Failure {
                detail: format!(
                    "the proxy names no address of its client, so that its own counts: {}",
                    failure.detail
                )
                .into(),
                ..failure
            })?;
        }
        self.counts.lock().enter_source(self, ticket.source)?;
        ticket.counts_by_source = true;
        Ok(())
    }

    fn check_network(&self, ip: IpAddr) -> Result<(), Failure> {
        if self.allow.is_empty() {
            return match ip.is_loopback() {
                true => Ok(()),
                false => Err(denied(format!("{ip} is not this host, and `allow` names no network"))
                    .mend(format!("add its network to the listener's `allow`, as in allow = [\"{ip}\"]"))),
            };
        }
        match is_in(&self.allow, ip) {
            true => Ok(()),
            false => Err(denied(format!("{ip} is in no network of `allow`")).mend(
                "add its network to the listener's `allow`; loopback is in it only if it is written there",
            )),
        }
    }

    /// The user by whom the client is judged and its connections are capped; `None`: it is by its address.
    async fn check_user(&self, accepted: &Accepted, user: &mut Option<u32>) -> Result<Option<u32>, Failure> {
        let anybody = self.users.is_empty() && self.groups.is_empty();
        let uid = match (&accepted.client, &accepted.local) {
            (ClientAddr::Unix { uid }, _) if anybody => {
                *user = *uid;
                return Ok(*uid);
            }
            (ClientAddr::Tcp(peer), _) if anybody => {
                // To be counted is no reason to be turned away, nor to share a cap with others.
                if self.meters_users && user.is_none() {
                    *user = owner(accepted, *peer).ok();
                }
                return Ok(None);
            }
            (ClientAddr::Unix { uid: Some(uid) }, _) => *uid,
            (ClientAddr::Tcp(peer), ListenAddr::Tcp(_)) => match *user {
                Some(uid) => uid,
                None => owner(accepted, *peer)?,
            },
            _ => return Err(denied("the system does not tell which user the client is")),
        };
        *user = Some(uid);
        if self.users.contains(&uid) || self.has_group(accepted) {
            return Ok(Some(uid));
        }
        // Boxed, so that those who need no asking do not carry it.
        let who = match Box::pin(self.directory.look_up(uid)).await {
            Ok(person) if person.groups.iter().any(|group| self.groups.contains(group)) => {
                return Ok(Some(uid));
            }
            Ok(person) => person.name.clone(),
            // It was asked only for a name to show.
            Err(_) if self.groups.is_empty() => format!("uid {uid}"),
            Err(why) => return Err(untold(uid, &why)),
        };
        Err(denied(format!("user {who} may not use this listener"))
            .mend(format!("add the user to the listener's `allow_users` (or `allow_groups`): {who}")))
    }

    /// Whether a Unix client runs in one of the groups: sg(1), or a unit with Group=, puts it in one that the databases
    /// don't know of.
    #[cfg(unix)]
    fn has_group(&self, accepted: &Accepted) -> bool {
        match &accepted.stream {
            socket::Stream::Unix(stream) => {
                stream.peer_cred().is_ok_and(|peer| self.groups.contains(&peer.gid()))
            }
            // Without TLS of its own yet: that begins later.
            socket::Stream::Tcp(_) | socket::Stream::Upgradable(_) => false,
        }
    }

    #[cfg(not(unix))]
    fn has_group(&self, _: &Accepted) -> bool {
        false
    }
}

/// Was it redirected to loopback? What another host sends does not arrive there, unless it was made to (route_localnet).
fn is_redirected_here(accepted: &Accepted) -> bool {
    let on_loopback =
        matches!(&accepted.local, ListenAddr::Tcp(local) if local.ip().to_canonical().is_loopback());
    accepted.redirected_from.is_some() && on_loopback
}

/// Only from a proxy that is known a client's address is taken.
fn check_proxy(proxies: &[IpNet], ip: IpAddr) -> Result<(), Failure> {
    let may = if proxies.is_empty() { ip.is_loopback() } else { is_in(proxies, ip) };
    match may {
        true => Ok(()),
        false => Err(denied(format!("{ip} is none of the proxies that may say who their clients are")).mend(
            format!("if it is one, add it to the listener's `proxy_from`, as in proxy_from = [\"{ip}\"]"),
        )),
    }
}

fn is_in(networks: &[IpNet], ip: IpAddr) -> bool {
    let contains = |network: &IpNet| {
        network.contains(&ip) || mapped(network).is_some_and(|network| network.contains(&ip))
    };
    networks.iter().any(contains)
}

/// The user behind a TCP client, which only this host's kernel can tell.
fn owner(accepted: &Accepted, peer: SocketAddr) -> Result<u32, Failure> {
    if !peer.ip().to_canonical().is_loopback() && !is_redirected_here(accepted) {
        return Err(denied(format!("{peer} is not on loopback, and only there a TCP client has a user"))
            .mend(
                "with `allow_users` or `allow_groups` let clients connect to 127.0.0.1, ::1 or a Unix socket",
            ));
    }
    // The client's own socket knows nothing of being redirected.
    let connected_to = match (accepted.redirected_from, &accepted.local) {
        (Some(destination), _) => destination,
        (None, ListenAddr::Tcp(local)) => *local,
        (None, ListenAddr::Unix(_) | ListenAddr::Systemd(_)) => {
            return Err(denied("the system does not tell which user the client is"));
        }
    };
    socket::owner_of_peer(connected_to, peer).map_err(|why| {
        denied(why).mend(
            "the client must still hold its connection when it is let in, and must not come from another network \
             namespace; a Unix socket always tells its user",
        )
    })
}

/// A network of IPv4 written as mapped into IPv6; clients are compared in the plain form.
fn mapped(network: &IpNet) -> Option<IpNet> {
    match network {
        IpNet::V6(network) if network.prefix_len() >= 96 => {
            let v4 = network.addr().to_ipv4_mapped()?;
            IpNet::new(v4.into(), network.prefix_len() - 96).ok()
        }
        _ => None,
    }
}

fn denied(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Client, detail)
}

/// Without an answer nobody comes in by a group.
fn untold(uid: u32, why: &str) -> Failure {
    Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Ambassador, why).mend(format!(
        "see what keeps `id {uid}` on this host (LDAP, sssd); users named in `allow_users` come in without it"
    ))
}

fn limited(side: Side, detail: String) -> Failure {
    Failure::new(Stage::Admit, Reason::ConnectionLimitReached, side, detail)
}

/// Who is inside.
#[derive(Debug, Default)]
struct Counts(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    open: u32,
    /// Only sources with open connections: it grows with these and shrinks again.
    by_source: HashMap<SourceKey, u32>,
    /// Connections that may come at once, and when that was reckoned. `None`: a full bucket.
    tokens: Option<(f64, Instant)>,
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        lock(&self.0)
    }
}

impl Inside {
    fn enter(&mut self, gate: &Gate, source: Option<SourceKey>, now: Instant) -> Result<(), Failure> {
        if self.open >= gate.connections {
            let detail = format!(
                "as many connections of this listener are open as may be: {} (`connections`)",
                self.open
            );
            return Err(limited(Side::Ambassador, detail));
        }
        if let Some(source) = source {
            self.has_room_for(gate, source)?;
        }
        // Last, so that who is turned away at a cap uses up none of the rate.
        if let Some(rate) = gate.rate
            && !self.take_token(f64::from(rate), now)
        {
            let detail = format!("more than {rate} new connections a second (`rate`)");
            return Err(limited(Side::Ambassador, detail));
        }
        self.open += 1;
        if let Some(source) = source {
            *self.by_source.entry(source).or_default() += 1;
        }
        Ok(())
    }

    /// The same for one that is inside already, and of whom only now is known who it is.
    fn enter_source(&mut self, gate: &Gate, source: SourceKey) -> Result<(), Failure> {
        self.has_room_for(gate, source)?;
        *self.by_source.entry(source).or_default() += 1;
        Ok(())
    }

    fn has_room_for(&self, gate: &Gate, source: SourceKey) -> Result<(), Failure> {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if of_source >= gate.connections_per_source {
            let detail = format!(
                "as many connections of this source are open as may be: {of_source} (`connections_per_source`)"
            );
            return Err(limited(Side::Client, detail));
        }
        Ok(())
    }

    /// Takes one of the tokens that trickle in at `rate` a second, `rate` of them at most.
    fn take_token(&mut self, rate: f64, now: Instant) -> bool {
        let (tokens, at) = self.tokens.unwrap_or((rate, now));
        let tokens = (tokens + now.saturating_duration_since(at).as_secs_f64() * rate).min(rate);
        let takes = tokens >= 1.0;
        // Never back: who had to wait for the user databases comes with a time that others have been paid for already.
        self.tokens = Some((if takes { tokens - 1.0 } else { tokens }, now.max(at)));
        takes
    }

    fn leave(&mut self, source: Option<SourceKey>) {
        self.open = self.open.saturating_sub(1);
        let Some(source) = source else { return };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
        // A wave of thousands of sources leaves its table behind otherwise.
        if self.by_source.capacity() > 1024 && self.by_source.len() < self.by_source.capacity() / 8 {
            self.by_source.shrink_to(self.by_source.capacity() / 4);
        }
    }
}

/// Nothing panics while it holds one of these locks; if it ever did, the numbers would still be sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
