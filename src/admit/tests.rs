//! Who comes in, and who does not.

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
    let accepted = Accepted {
        stream,
        client: client_addr,
        local: ListenAddr::Tcp(local),
        redirected_from: None,
        at: Instant::now(),
    };
    (client, accepted)
}

/// The same, said to come from elsewhere.
async fn from(address: &str) -> Accepted {
    let (_, accepted) = loopback().await;
    Accepted { client: ClientAddr::Tcp(address.parse().unwrap()), ..accepted }
}

async fn verdict(gate: &Gate, address: &str) -> Result<(), Reason> {
    gate.admit(&from(address).await, Instant::now(), &mut None)
        .await
        .map(drop)
        .map_err(|failure| failure.reason)
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
    let first = gate.admit(&from("127.0.0.1:1").await, now, &mut None).await.unwrap();
    let gate = gate.renewed(&settings).unwrap();
    let second = gate.admit(&from("127.0.0.1:2").await, now, &mut None).await.unwrap();
    let refused = gate.admit(&from("127.0.0.1:3").await, now, &mut None).await.unwrap_err();
    assert_eq!((refused.stage, refused.reason), (Stage::Admit, Reason::ConnectionLimitReached));
    assert!(refused.detail.contains("may be: 2 (`connections`)"), "{refused}");
    drop(first);
    let third = gate.admit(&from("127.0.0.1:3").await, now, &mut None).await.unwrap();
    drop((second, third));
    assert!(gate.counts.lock().by_source.is_empty() && gate.counts.lock().open == 0);
}

#[tokio::test]
async fn a_source_that_has_its_share_leaves_room_for_others() {
    let gate = gate(Settings { connections_per_source: Some(1), ..Settings::default() });
    let now = Instant::now();
    let held = gate.admit(&from("127.0.0.1:1").await, now, &mut None).await.unwrap();
    let refused = gate.admit(&from("[::ffff:127.0.0.1]:2").await, now, &mut None).await.unwrap_err();
    assert_eq!((refused.reason, refused.side), (Reason::ConnectionLimitReached, Side::Client));
    assert!(refused.detail.contains("connections_per_source"), "{refused}");
    gate.admit(&from("127.0.0.2:1").await, now, &mut None).await.unwrap();
    drop(held);
    gate.admit(&from("127.0.0.1:2").await, now, &mut None).await.unwrap();
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
            count += usize::from(gate.admit(&accepted, now, &mut None).await.is_ok());
        }
        count
    };
    assert_eq!(let_in(0, 10).await, 4);
    assert_eq!(let_in(250, 10).await, 1);
    assert_eq!(let_in(0, 10).await, 0); // who came long ago, and had to wait for its user to be known
    assert_eq!(let_in(750, 10).await, 2);
    assert_eq!(let_in(60_000, 10).await, 4);
    let refused = gate.admit(&accepted, start + Duration::from_secs(60), &mut None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ConnectionLimitReached);
    assert!(refused.detail.contains("`rate`"), "{refused}");
}

#[tokio::test]
async fn a_wave_of_sources_leaves_no_table_behind() {
    let counts = Counts::default();
    let gate = gate(Settings::default());
    let source = |n: u32| SourceKey::Ip(IpAddr::from(n.to_be_bytes()));
    for n in 0..20_000 {
        counts.lock().enter(&gate, Some(source(n)), Instant::now()).unwrap();
    }
    for n in 0..20_000 {
        counts.lock().leave(Some(source(n)));
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
        (client, Accepted { stream, client: client_addr, local, redirected_from: None, at: Instant::now() })
    }

    fn only_users(users: &[&str]) -> Gate {
        gate(Settings { allow_users: users.iter().map(|&user| user.into()).collect(), ..Settings::default() })
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
        let mut user = None;
        let ticket = only_users(&[NOBODY_IS, name]).admit(&accepted, now, &mut user).await.unwrap();
        assert_eq!((user, ticket.source()), (Some(uid), SourceKey::User(Some(uid))));

        let mut user = None;
        let refused = only_users(&[NOBODY_IS]).admit(&accepted, now, &mut user).await.unwrap_err();
        assert_eq!(user, Some(uid));
        assert_eq!((refused.reason, refused.side), (Reason::AdmissionDenied, Side::Client));
        assert!(refused.detail.contains(&format!("(uid {uid})")), "{refused}");
        assert!(refused.next_step().contains("allow_users"), "{refused}");
    }

    /// To be counted changes nothing else: a client is capped by its address as before, and comes in though nobody can tell
    /// who it is. One that is turned away is counted too.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_metered_client_is_known_by_its_user_and_judged_as_if_it_were_not() {
        let (uid, _) = ourselves().await;
        let metered = |connections| {
            let allow = ["127.0.0.0/8", "10.0.0.0/8"].map(|net| net.parse().unwrap()).into();
            gate(Settings { allow, meter_users: true, connections, ..Settings::default() })
        };
        let asked = async |gate: &Gate, accepted: &Accepted| {
            let mut user = None;
            let admitted = gate.admit(accepted, Instant::now(), &mut user).await;
            (user, admitted.map(|ticket| ticket.source()).map_err(|failure| failure.reason))
        };
        let (_client, ours) = loopback().await;
        let by_address = |ip: &str| Ok(SourceKey::Ip(ip.parse().unwrap()));
        assert_eq!(asked(&metered(None), &ours).await, (Some(uid), by_address("127.0.0.1")));
        let full = Err(Reason::ConnectionLimitReached);
        assert_eq!(asked(&metered(Some(0)), &ours).await, (Some(uid), full));
        assert_eq!(asked(&metered(None), &from("10.0.0.1:9").await).await, (None, by_address("10.0.0.1")));
        assert_eq!(asked(&gate(Settings::default()), &ours).await, (None, by_address("127.0.0.1")));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_loopback_client_comes_in_by_its_group() {
        let (uid, _) = ourselves().await;
        let group = users::groups_of(uid).unwrap()[0].to_string();
        let (_client, accepted) = loopback().await;
        only_groups(&[group]).admit(&accepted, Instant::now(), &mut None).await.unwrap();
        let refused =
            only_groups(&[NOBODY_IS.into()]).admit(&accepted, Instant::now(), &mut None).await.unwrap_err();
        assert_eq!(refused.reason, Reason::AdmissionDenied);
    }

    #[tokio::test]
    async fn a_client_whose_user_cannot_be_told_is_refused() {
        let gate = only_users(&["0", NOBODY_IS]);
        // Its socket is closed, and the kernel would say "user 0" of it.
        let (client, mut accepted) = loopback().await;
        drop(client);
        tokio::io::AsyncReadExt::read(&mut accepted.stream, &mut [0; 1]).await.unwrap();
        let refused = gate.admit(&accepted, Instant::now(), &mut None).await.unwrap_err();
        assert_eq!(refused.reason, Reason::AdmissionDenied, "{refused}");

        let (_client, accepted) = unix().await;
        let unknown = Accepted { client: ClientAddr::Unix { uid: None }, ..accepted };
        assert!(gate.admit(&unknown, Instant::now(), &mut None).await.is_err());
    }

    #[tokio::test]
    async fn a_client_from_another_host_has_no_user() {
        let allow = vec!["10.0.0.0/8".parse().unwrap()];
        let gate = gate(Settings { allow, allow_users: vec!["0".into()], ..Settings::default() });
        let refused = gate.admit(&from("10.0.0.1:9").await, Instant::now(), &mut None).await.unwrap_err();
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
        gate.admit(&accepted, now, &mut None).await.unwrap();

        let (gate, _hold) = hanging(only_groups(&[NOBODY_IS.into()]));
        let refused = gate.admit(&accepted, now, &mut None).await.unwrap_err();
        assert_eq!((refused.reason, refused.side), (Reason::AdmissionDenied, Side::Ambassador));
        assert!(refused.detail.contains("user databases did not tell"), "{refused}");

        let (gate, _hold) = hanging(only_users(&[NOBODY_IS]));
        let refused = gate.admit(&accepted, now, &mut None).await.unwrap_err();
        assert!(refused.detail.contains(&format!("user uid {uid} may not use")), "{refused}");
    }

    /// While one connection waits for the databases, its reactor goes on with all others.
    #[tokio::test]
    async fn a_look_up_that_hangs_holds_up_nobody_else() {
        let (directory, hold) = directory::tests::hanging();
        let gate = Arc::new(Gate { directory, ..only_groups(&[NOBODY_IS.into()]) });
        let (_client, accepted) = unix().await;
        let waits = tokio::spawn(async move { gate.admit(&accepted, Instant::now(), &mut None).await });
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
        let mut user = None;
        gate(Settings::default()).admit(&accepted, now, &mut user).await.unwrap();
        assert_eq!(user, Some(uid));
        only_users(&[&uid.to_string()]).admit(&accepted, now, &mut None).await.unwrap();
        only_groups(&[gid.to_string()]).admit(&accepted, now, &mut None).await.unwrap();
        assert!(only_users(&[NOBODY_IS]).admit(&accepted, now, &mut None).await.is_err());
        assert!(only_groups(&[NOBODY_IS.into()]).admit(&accepted, now, &mut None).await.is_err());
    }

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let settings = Settings { allow_users: vec!["no-such-user".into()], ..Settings::default() };
        let problem = Gate::new(&settings).unwrap_err();
        assert!(problem.starts_with("allow_users: ") && problem.contains("'no-such-user'"), "{problem}");
    }
}

/// Who connects through a proxy is judged by where it comes from itself, and counts against its own cap; the proxy's own
/// network is asked for before.
#[tokio::test]
async fn whom_a_proxy_brings_is_judged_as_if_it_had_come_itself() {
    let network = |text: &str| text.parse::<IpNet>().unwrap();
    let gate = gate(Settings {
        allow: vec![network("192.0.2.0/24")],
        proxies: Some(vec![network("10.0.0.0/8")]),
        connections_per_source: Some(1),
        ..Settings::default()
    });
    assert_eq!(verdict(&gate, "192.0.2.1:9").await, Err(Reason::AdmissionDenied), "a client is no proxy");
    let now = Instant::now();
    let mut tickets = Vec::new();
    for _ in 0..3 {
        tickets.push(gate.admit(&from("10.0.0.1:9").await, now, &mut None).await.unwrap());
    }
    let [first, second, third] = &mut tickets[..] else { unreachable!() };
    let behind = |ticket: &mut Ticket, ip: &str| gate.admit_behind(ticket, Some(ip.parse().unwrap()));
    behind(first, "192.0.2.1").unwrap();
    assert_eq!(first.source(), SourceKey::Ip("192.0.2.1".parse().unwrap()));
    assert_eq!(behind(second, "::ffff:192.0.2.1").unwrap_err().reason, Reason::ConnectionLimitReached);
    assert_eq!(behind(third, "198.51.100.1").unwrap_err().reason, Reason::AdmissionDenied);
    behind(third, "192.0.2.2").unwrap();
    // The proxy for itself: a check of its own.
    gate.admit_behind(second, None).unwrap();
    tickets.remove(0);
    let mut again = gate.admit(&from("10.0.0.1:9").await, now, &mut None).await.unwrap();
    behind(&mut again, "192.0.2.1").unwrap();
    drop((again, tickets));
    let inside = gate.counts.lock();
    assert_eq!((inside.open, inside.by_source.len()), (0, 0));
}

/// A proxy that says of its client only that there is one (PROXY UNKNOWN, a client on a Unix socket of its own) opens no way
/// around `allow` and the caps: its own address stands for all of them.
#[tokio::test]
async fn whom_a_proxy_hides_is_judged_by_where_the_proxy_is() {
    let gate = |allow: &[&str]| {
        gate(Settings {
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            proxies: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            connections_per_source: Some(1),
            ..Settings::default()
        })
    };
    let now = Instant::now();
    for allow in [&[][..], &["192.0.2.0/24"]] {
        let gate = gate(allow);
        let mut ticket = gate.admit(&from("10.0.0.1:9").await, now, &mut None).await.unwrap();
        let refused = gate.admit_hidden(&mut ticket).unwrap_err();
        assert_eq!(refused.reason, Reason::AdmissionDenied, "{refused}");
        assert!(
            refused.detail.contains("names no address of its client") && refused.detail.contains("10.0.0.1")
        );
    }
    let gate = gate(&["10.0.0.1/32"]);
    let mut first = gate.admit(&from("10.0.0.1:9").await, now, &mut None).await.unwrap();
    let mut second = gate.admit(&from("10.0.0.1:8").await, now, &mut None).await.unwrap();
    gate.admit_hidden(&mut first).unwrap();
    assert_eq!(gate.admit_hidden(&mut second).unwrap_err().reason, Reason::ConnectionLimitReached);
    drop(first);
    gate.admit_hidden(&mut second).unwrap();
    drop(second);
    let inside = gate.counts.lock();
    assert_eq!((inside.open, inside.by_source.len()), (0, 0));
}

#[tokio::test]
async fn without_networks_of_proxies_only_this_hosts_are_heard() {
    let gate = gate(Settings { proxies: Some(Vec::new()), ..Settings::default() });
    assert_eq!(verdict(&gate, "127.0.0.1:9").await, Ok(()));
    assert_eq!(verdict(&gate, "10.0.0.1:9").await, Err(Reason::AdmissionDenied));
}
