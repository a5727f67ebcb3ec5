//! The race on loopback, with listeners that refuse, answer, or are too full to answer.

use std::net::{Ipv4Addr, Ipv6Addr};
#[cfg(unix)]
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::*;

fn addresses(of: &[&str]) -> Vec<SocketAddr> {
    of.iter().map(|address| address.parse().unwrap()).collect()
}

/// A port at which nothing listens: taken, but not listened at.
struct Refusing {
    _taken: Socket,
    address: SocketAddr,
}

fn refusing(ip: IpAddr) -> Refusing {
    let address = SocketAddr::new(ip, 0);
    let taken = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    taken.bind(&address.into()).unwrap();
    let address = taken.local_addr().unwrap().as_socket().unwrap();
    Refusing { _taken: taken, address }
}

/// An address at which nobody answers: the kernel drops what comes to a listener whose backlog is full.
#[cfg(target_os = "linux")]
struct Silent {
    address: SocketAddr,
    listener: Socket,
    fill: Vec<TcpStream>,
}

#[cfg(target_os = "linux")]
async fn silent() -> Silent {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        fill.push(stream.unwrap());
    }
    Silent { address, listener, fill }
}

#[test]
fn families_take_turns_beginning_with_the_first() {
    let mixed = addresses(&["[::1]:1", "[::2]:1", "1.0.0.1:1", "[::3]:1", "1.0.0.2:1"]);
    let tried = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
    assert_eq!(interleave(mixed.into_iter()), tried);
    let mixed = addresses(&["1.0.0.1:1", "1.0.0.2:1", "[::1]:1"]);
    let tried = addresses(&["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"]);
    assert_eq!(interleave(mixed.into_iter()), tried);
    assert!(interleave(std::iter::empty()).is_empty());
}

#[tokio::test]
async fn one_address_that_refuses_is_a_refused_connection() {
    let closed = refusing(Ipv4Addr::LOCALHOST.into());
    let failure = dial(&[closed.address], &Settings::default()).await.unwrap_err();
    assert_eq!((failure.stage, failure.reason), (Stage::Connect, Reason::ConnectionRefused));
    assert_eq!(&*failure.detail, format!("{} refused the connection", closed.address));
}

// Windows asks thrice before it believes that a port is closed.
#[cfg(unix)]
#[tokio::test]
async fn each_address_is_dialled_at_once_when_the_one_before_it_refuses() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let open = listener.local_addr().unwrap();
    let closed: Vec<_> = (0..8).map(|_| refusing(Ipv4Addr::LOCALHOST.into())).collect();
    let all: Vec<_> = closed.iter().map(|closed| closed.address).chain([open]).collect();
    let mut lost = Vec::new();
    let begun = Instant::now();
    let (stream, reached) = race(&all, &Settings::default(), &mut lost).await.expect("[::1] listens");
    assert!(begun.elapsed() < ATTEMPT_DELAY * 4, "it waited although the ones before had failed");
    assert_eq!((reached, stream.peer_addr().unwrap()), (open, open));
    assert!(stream.nodelay().unwrap());
    assert_eq!(lost.len(), closed.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_silent_address_holds_nobody_up_and_is_left_when_another_answers() {
    let silent = silent().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let open = listener.local_addr().unwrap();
    let begun = Instant::now();
    let (_stream, reached) = dial(&[silent.address, open], &Settings::default()).await.unwrap();
    assert_eq!(reached, open);
    assert!(begun.elapsed() >= ATTEMPT_DELAY, "the first had no head start");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_slow_address_still_wins_when_the_others_fail_after_it() {
    let silent = silent().await;
    let closed = refusing(Ipv4Addr::LOCALHOST.into());
    let mut lost = Vec::new();
    let both = [silent.address, closed.address];
    let settings = Settings::default();
    // The first SYN has been dropped when this is polled. Room in the backlog lets the kernel's next one through, which
    // is sent a second later: long after the other address has refused.
    let room = async {
        for _ in &silent.fill {
            silent.listener.accept().unwrap();
        }
    };
    let (won, ()) = tokio::join!(race(&both, &settings, &mut lost), room);
    assert_eq!(won.expect("the first answers in the end").1, silent.address);
    assert_eq!(lost.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [closed.address]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn when_the_time_is_up_each_address_is_told_as_silent_or_as_what_it_said() {
    let silent = silent().await;
    let closed = refusing(Ipv4Addr::LOCALHOST.into());
    let limit = Duration::from_millis(400);
    let both = [silent.address, closed.address];
    let failure = dial_within(&both, &Settings::default(), limit).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ConnectionRefused);
    let says = format!("{} did not answer within 400ms", silent.address);
    assert!(failure.detail.contains(&says), "{}", failure.detail);
    let failure = dial_within(&both[..1], &Settings::default(), limit).await.unwrap_err();
    assert_eq!((failure.reason, &*failure.detail), (Reason::ConnectionTimeout, says.as_str()));
}

#[tokio::test]
async fn a_source_address_is_dialled_from_and_leaves_the_other_family_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let open = listener.local_addr().unwrap();
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), open.port());
    let settings = Settings { source_address: Some(Ipv4Addr::LOCALHOST.into()), ..Settings::default() };
    let (stream, reached) = dial(&[other, open], &settings).await.unwrap();
    assert_eq!((reached, stream.local_addr().unwrap().ip()), (open, Ipv4Addr::LOCALHOST.into()));

    let failure = dial(&[other], &settings).await.unwrap_err();
    assert_eq!((failure.reason, failure.side), (Reason::DestinationIpUnroutable, Side::Ambassador));
    assert!(failure.detail.contains("can only dial IPv4"), "{}", failure.detail);
}

#[tokio::test]
async fn a_source_address_of_another_host_is_a_fault_of_the_configuration() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    // RFC 5737: documentation only, so no host has it.
    let settings = Settings { source_address: Some([192, 0, 2, 77].into()), ..Settings::default() };
    let failure = dial(&[listener.local_addr().unwrap()], &settings).await.unwrap_err();
    assert_eq!((failure.reason, failure.side), (Reason::ProxyConfigurationError, Side::Ambassador));
    assert!(failure.next_step().contains("`ip address`"), "{}", failure.next_step());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_to_itself_is_a_port_at_which_nothing_listens() {
    let address = {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        free.local_addr().unwrap()
    };
    let trouble = connect_from(Some(address), address, &TcpSettings::default()).await.unwrap_err();
    assert!(matches!(trouble, Trouble::Itself), "{trouble:?}");
    // And the port is free for the server that belongs there.
    TcpListener::bind(address).await.unwrap();
}
