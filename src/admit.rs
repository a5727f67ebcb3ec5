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
}

/// The door of one listener.
#[derive(Debug)]
pub struct Gate {
    allow: Vec<IpNet>,
    users: Vec<u32>,
    groups: Vec<u32>,
    connections: u32,
    connections_per_source: u32,
    rate: Option<u32>,
    directory: Directory,
    counts: Arc<Counts>,
}

/// A connection that was let in. It counts against the caps until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    user: Option<u32>,
    source: SourceKey,
    counts: Arc<Counts>,
}

impl Ticket {
    /// The client's user, where it was told or had to be found out.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    /// What the client shares with others of the same source: its user where known, else its address.
    pub fn source(&self) -> SourceKey {
        self.source
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.counts.lock().leave(self.source);
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
            users: users.map_err(|problem| format!("allow_users: {problem}"))?,
            directory: Directory::of_host(!groups.is_empty()),
            groups,
            connections: settings.connections.unwrap_or(u32::MAX),
            connections_per_source: settings.connections_per_source.unwrap_or(u32::MAX),
            rate: settings.rate,
            counts,
        })
    }

    /// Lets the client in or says why not. Who may not come at all is told apart first, so that strangers use up neither
    /// the rate nor the places of those who may.
    ///
    /// It waits only where the user databases have to be asked, and then not for long; whoever needs no asking is
    /// judged within the first poll, and without an allocation.
    pub async fn admit(&self, accepted: &Accepted, now: Instant) -> Result<Ticket, Failure> {
        if let ClientAddr::Tcp(peer) = &accepted.client {
            self.check_network(peer.ip().to_canonical())?;
        }
        let user = self.check_user(accepted).await?;
        let source = user.map_or_else(|| accepted.client.source_key(), |uid| SourceKey::User(Some(uid)));
        self.counts.lock().enter(self, source, now)?;
        Ok(Ticket { user, source, counts: self.counts.clone() })
    }

    fn check_network(&self, ip: IpAddr) -> Result<(), Failure> {
        if self.allow.is_empty() {
            return match ip.is_loopback() {
                true => Ok(()),
                false => Err(denied(format!("{ip} is not this host, and `allow` names no network"))
                    .mend(format!("add its network to the listener's `allow`, as in allow = [\"{ip}\"]"))),
            };
        }
        let is_in = |network: &IpNet| {
            network.contains(&ip) || mapped(network).is_some_and(|network| network.contains(&ip))
        };
        match self.allow.iter().any(is_in) {
            true => Ok(()),
            false => Err(denied(format!("{ip} is in no network of `allow`")).mend(
                "add its network to the listener's `allow`; loopback is in it only if it is written there",
            )),
        }
    }

    async fn check_user(&self, accepted: &Accepted) -> Result<Option<u32>, Failure> {
        let anybody = self.users.is_empty() && self.groups.is_empty();
        let uid = match (&accepted.client, &accepted.local) {
            (ClientAddr::Unix { uid }, _) if anybody => return Ok(*uid),
            _ if anybody => return Ok(None),
            (ClientAddr::Unix { uid: Some(uid) }, _) => *uid,
            (ClientAddr::Tcp(peer), ListenAddr::Tcp(local)) => owner(*local, *peer)?,
            _ => return Err(denied("the system does not tell which user the client is")),
        };
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

/// The user behind a TCP client, which only this host's kernel can tell.
fn owner(local: SocketAddr, peer: SocketAddr) -> Result<u32, Failure> {
    if !peer.ip().to_canonical().is_loopback() {
        return Err(denied(format!("{peer} is not on loopback, and only there a TCP client has a user"))
            .mend(
                "with `allow_users` or `allow_groups` let clients connect to 127.0.0.1, ::1 or a Unix socket",
            ));
    }
    socket::owner_of_peer(local, peer).map_err(|why| {
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
    fn enter(&mut self, gate: &Gate, source: SourceKey, now: Instant) -> Result<(), Failure> {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if self.open >= gate.connections {
            let detail = format!(
                "as many connections of this listener are open as may be: {} (`connections`)",
                self.open
            );
            return Err(limited(Side::Ambassador, detail));
        }
        if of_source >= gate.connections_per_source {
            let detail = format!(
                "as many connections of this source are open as may be: {of_source} (`connections_per_source`)"
            );
            return Err(limited(Side::Client, detail));
        }
        // Last, so that who is turned away at a cap uses up none of the rate.
        if let Some(rate) = gate.rate
            && !self.take_token(f64::from(rate), now)
        {
            let detail = format!("more than {rate} new connections a second (`rate`)");
            return Err(limited(Side::Ambassador, detail));
        }
        self.open += 1;
        *self.by_source.entry(source).or_default() += 1;
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

    fn leave(&mut self, source: SourceKey) {
        self.open = self.open.saturating_sub(1);
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
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::socket::Stream;

    fn gate(settings: Settings) -> Gate {
        Gate::new(&settings).unwrap()
    }

    /// A real loopback connection: the client, and what the acceptor would make of it.
    async fn loopback() -> (TcpStream, Accepted) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let client = TcpStream::connect(local).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let (stream, client_addr) = (Stream::Tcp(stream), ClientAddr::Tcp(peer));
        let accepted =
            Accepted { stream, client: client_addr, local: ListenAddr::Tcp(local), at: Instant::now() };
        (client, accepted)
    }

    /// The same, said to come from elsewhere.
    async fn from(address: &str) -> Accepted {
        let (_, accepted) = loopback().await;
        Accepted { client: ClientAddr::Tcp(address.parse().unwrap()), ..accepted }
    }

    async fn verdict(gate: &Gate, address: &str) -> Result<(), Reason> {
        gate.admit(&from(address).await, Instant::now()).await.map(drop).map_err(|failure| failure.reason)
    }

    #[tokio::test]
    async fn without_allow_only_loopback_comes_in() {
        let gate = gate(Settings::default());
        for ours in ["127.0.0.1:9", "127.8.8.8:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(verdict(&gate, ours).await, Ok(()), "{ours}");
        }
        for other in ["10.0.0.1:9", "[2001:db8::1]:9", "[::ffff:10.0.0.1]:9", "0.0.0.0:9"] {
            assert_eq!(verdict(&gate, other).await, Err(Reason::AdmissionDenied), "{other}");
        }
    }

    #[tokio::test]
    async fn with_allow_only_the_networks_named_come_in_however_their_addresses_are_written() {
        let allow = ["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"].map(|net| net.parse().unwrap());
        let gate = gate(Settings { allow: allow.into(), ..Settings::default() });
        for inside in ["10.1.2.3:9", "[::ffff:10.1.2.3]:9", "[2001:db8::7]:9", "192.0.2.9:9"] {
            assert_eq!(verdict(&gate, inside).await, Ok(()), "{inside}");
        }
        for outside in ["11.0.0.1:9", "127.0.0.1:9", "[2001:db9::1]:9", "192.0.3.1:9"] {
            assert_eq!(verdict(&gate, outside).await, Err(Reason::AdmissionDenied), "{outside}");
        }
    }

    #[tokio::test]
    async fn places_come_free_with_their_tickets_and_a_reload_does_not_forget_them() {
        let settings = Settings { connections: Some(2), ..Settings::default() };
        let gate = gate(settings.clone());
        let now = Instant::now();
        let first = gate.admit(&from("127.0.0.1:1").await, now).await.unwrap();
        let gate = gate.renewed(&settings).unwrap();
        let second = gate.admit(&from("127.0.0.1:2").await, now).await.unwrap();
        let refused = gate.admit(&from("127.0.0.1:3").await, now).await.unwrap_err();
        assert_eq!((refused.stage, refused.reason), (Stage::Admit, Reason::ConnectionLimitReached));
        assert!(refused.detail.contains("may be: 2 (`connections`)"), "{refused}");
        drop(first);
        let third = gate.admit(&from("127.0.0.1:3").await, now).await.unwrap();
        drop((second, third));
        assert!(gate.counts.lock().by_source.is_empty() && gate.counts.lock().open == 0);
    }

    #[tokio::test]
    async fn a_source_that_has_its_share_leaves_room_for_others() {
        let gate = gate(Settings { connections_per_source: Some(1), ..Settings::default() });
        let now = Instant::now();
        let held = gate.admit(&from("127.0.0.1:1").await, now).await.unwrap();
        let refused = gate.admit(&from("[::ffff:127.0.0.1]:2").await, now).await.unwrap_err();
        assert_eq!((refused.reason, refused.side), (Reason::ConnectionLimitReached, Side::Client));
        assert!(refused.detail.contains("connections_per_source"), "{refused}");
        gate.admit(&from("127.0.0.2:1").await, now).await.unwrap();
        drop(held);
        gate.admit(&from("127.0.0.1:2").await, now).await.unwrap();
    }

    #[tokio::test]
    async fn connections_come_no_faster_than_the_rate_after_a_burst_of_one_second() {
        let gate = gate(Settings { rate: Some(4), ..Settings::default() });
        let (_client, accepted) = loopback().await;
        let start = Instant::now();
        let let_in = async |after_ms: u64, asked: u32| {
            let now = start + Duration::from_millis(after_ms);
            let mut count = 0;
            for _ in 0..asked {
                count += usize::from(gate.admit(&accepted, now).await.is_ok());
            }
            count
        };
        assert_eq!(let_in(0, 10).await, 4);
        assert_eq!(let_in(250, 10).await, 1);
        assert_eq!(let_in(0, 10).await, 0); // who came long ago, and had to wait for its user to be known
        assert_eq!(let_in(750, 10).await, 2);
        assert_eq!(let_in(60_000, 10).await, 4);
        let refused = gate.admit(&accepted, start + Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(refused.reason, Reason::ConnectionLimitReached);
        assert!(refused.detail.contains("`rate`"), "{refused}");
    }

    #[tokio::test]
    async fn a_wave_of_sources_leaves_no_table_behind() {
        let counts = Counts::default();
        let gate = gate(Settings::default());
        let source = |n: u32| SourceKey::Ip(IpAddr::from(n.to_be_bytes()));
        for n in 0..20_000 {
            counts.lock().enter(&gate, source(n), Instant::now()).unwrap();
        }
        for n in 0..20_000 {
            counts.lock().leave(source(n));
        }
        assert!(counts.lock().by_source.capacity() < 4096);
    }

    #[cfg(unix)]
    mod users {
        use super::*;
        use crate::socket::users;

        /// The user and the group that the tests run as.
        async fn ourselves() -> (u32, u32) {
            let (one, _other) = tokio::net::UnixStream::pair().unwrap();
            let we = one.peer_cred().unwrap();
            (we.uid(), we.gid())
        }

        async fn unix() -> (tokio::net::UnixStream, Accepted) {
            let (client, server) = tokio::net::UnixStream::pair().unwrap();
            let uid = Some(server.peer_cred().unwrap().uid());
            let local = ListenAddr::Unix("/run/orders.sock".into());
            let (stream, client_addr) = (Stream::Unix(server), ClientAddr::Unix { uid });
            (client, Accepted { stream, client: client_addr, local, at: Instant::now() })
        }

        fn only_users(users: &[&str]) -> Gate {
            gate(Settings {
                allow_users: users.iter().map(|&user| user.into()).collect(),
                ..Settings::default()
            })
        }

        fn only_groups(groups: &[String]) -> Gate {
            gate(Settings { allow_groups: groups.into(), ..Settings::default() })
        }

        const NOBODY_IS: &str = "3999999999";

        #[tokio::test]
        #[cfg(target_os = "linux")]
        async fn a_loopback_client_is_known_by_its_user() {
            let (uid, _) = ourselves().await;
            let name = users::describe(uid);
            let name = name.split(' ').next().unwrap();
            let (_client, accepted) = loopback().await;
            let now = Instant::now();
            let ticket = only_users(&[NOBODY_IS, name]).admit(&accepted, now).await.unwrap();
            assert_eq!((ticket.user(), ticket.source()), (Some(uid), SourceKey::User(Some(uid))));

            let refused = only_users(&[NOBODY_IS]).admit(&accepted, now).await.unwrap_err();
            assert_eq!((refused.reason, refused.side), (Reason::AdmissionDenied, Side::Client));
            assert!(refused.detail.contains(&format!("(uid {uid})")), "{refused}");
            assert!(refused.next_step().contains("allow_users"), "{refused}");
        }

        #[tokio::test]
        #[cfg(target_os = "linux")]
        async fn a_loopback_client_comes_in_by_its_group() {
            let (uid, _) = ourselves().await;
            let group = users::groups_of(uid).unwrap()[0].to_string();
            let (_client, accepted) = loopback().await;
            only_groups(&[group]).admit(&accepted, Instant::now()).await.unwrap();
            let refused =
                only_groups(&[NOBODY_IS.into()]).admit(&accepted, Instant::now()).await.unwrap_err();
            assert_eq!(refused.reason, Reason::AdmissionDenied);
        }

        #[tokio::test]
        async fn a_client_whose_user_cannot_be_told_is_refused() {
            let gate = only_users(&["0", NOBODY_IS]);
            // Its socket is closed, and the kernel would say "user 0" of it.
            let (client, mut accepted) = loopback().await;
            drop(client);
            tokio::io::AsyncReadExt::read(&mut accepted.stream, &mut [0; 1]).await.unwrap();
            let refused = gate.admit(&accepted, Instant::now()).await.unwrap_err();
            assert_eq!(refused.reason, Reason::AdmissionDenied, "{refused}");

            let (_client, accepted) = unix().await;
            let unknown = Accepted { client: ClientAddr::Unix { uid: None }, ..accepted };
            assert!(gate.admit(&unknown, Instant::now()).await.is_err());
        }

        #[tokio::test]
        async fn a_client_from_another_host_has_no_user() {
            let allow = vec!["10.0.0.0/8".parse().unwrap()];
            let gate = gate(Settings { allow, allow_users: vec!["0".into()], ..Settings::default() });
            let refused = gate.admit(&from("10.0.0.1:9").await, Instant::now()).await.unwrap_err();
            assert!(refused.detail.contains("not on loopback"), "{refused}");
        }

        /// A database that does not answer keeps out who would come by a group, and nobody else.
        #[tokio::test(start_paused = true)]
        async fn users_that_are_named_come_in_though_the_databases_hang() {
            let (uid, _) = ourselves().await;
            let (_client, accepted) = unix().await;
            let now = Instant::now();
            let hanging = |gate: Gate| {
                let (directory, hold) = directory::tests::hanging();
                (Gate { directory, ..gate }, hold)
            };
            let (gate, _hold) = hanging(only_users(&[&uid.to_string()]));
            gate.admit(&accepted, now).await.unwrap();

            let (gate, _hold) = hanging(only_groups(&[NOBODY_IS.into()]));
            let refused = gate.admit(&accepted, now).await.unwrap_err();
            assert_eq!((refused.reason, refused.side), (Reason::AdmissionDenied, Side::Ambassador));
            assert!(refused.detail.contains("user databases did not tell"), "{refused}");

            let (gate, _hold) = hanging(only_users(&[NOBODY_IS]));
            let refused = gate.admit(&accepted, now).await.unwrap_err();
            assert!(refused.detail.contains(&format!("user uid {uid} may not use")), "{refused}");
        }

        /// While one connection waits for the databases, its reactor goes on with all others.
        #[tokio::test]
        async fn a_look_up_that_hangs_holds_up_nobody_else() {
            let (directory, hold) = directory::tests::hanging();
            let gate = Arc::new(Gate { directory, ..only_groups(&[NOBODY_IS.into()]) });
            let (_client, accepted) = unix().await;
            let waits = tokio::spawn(async move { gate.admit(&accepted, Instant::now()).await });
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(!waits.is_finished(), "it would have to be asked for");
            drop(hold);
            assert_eq!(&*waits.await.unwrap().unwrap_err().detail, "let go");
        }

        #[tokio::test]
        async fn a_unix_client_is_known_by_its_credentials() {
            let (uid, gid) = ourselves().await;
            let (_client, accepted) = unix().await;
            let now = Instant::now();
            assert_eq!(gate(Settings::default()).admit(&accepted, now).await.unwrap().user(), Some(uid));
            only_users(&[&uid.to_string()]).admit(&accepted, now).await.unwrap();
            only_groups(&[gid.to_string()]).admit(&accepted, now).await.unwrap();
            assert!(only_users(&[NOBODY_IS]).admit(&accepted, now).await.is_err());
            assert!(only_groups(&[NOBODY_IS.into()]).admit(&accepted, now).await.is_err());
        }

        #[test]
        fn a_user_that_does_not_exist_is_named() {
            let settings = Settings { allow_users: vec!["no-such-user".into()], ..Settings::default() };
            let problem = Gate::new(&settings).unwrap_err();
            assert!(problem.starts_with("allow_users: ") && problem.contains("'no-such-user'"), "{problem}");
        }
    }
}
