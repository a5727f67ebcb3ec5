//! A DNS server of the tests' own, which answers, lies, fails or says nothing, as each test tells it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// What the server says of a name.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// These addresses, each family to who asks for it, with a TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// Addresses over TCP only: over UDP the answer "does not fit".
    OnlyOverTcp(Vec<IpAddr>),
    /// Not whole over UDP, and over TCP no whole answer either: the server hangs up.
    CutShort,
    /// Addresses of another name than the one that was asked for.
    AddressesOfAnother(&'static str, Vec<IpAddr>),
    /// Another name, with a TTL, and that name's addresses with theirs.
    AnotherName(&'static str, u32, Vec<IpAddr>, u32),
    /// A records at once, and never an answer to AAAA.
    NoAnswerToAaaa(Vec<IpAddr>),
    ServFail,
    Refused,
    NoSuchName,
    NothingOfTheKind,
    /// SRV records (priority, weight, port, target), with a TTL; and a false address of each target beside them.
    Services(Vec<(u16, u16, u16, &'static str)>, u32),
    /// The same over TCP only.
    ServicesOverTcp(Vec<(u16, u16, u16, &'static str)>),
    /// An SRV record of another name than the one that was asked for.
    ServicesOfAnother(&'static str, (u16, u16, u16, &'static str)),
    /// An SRV record of the class CHAOS.
    ServicesOfAnotherClass((u16, u16, u16, &'static str)),
    /// A message that is none.
    Nonsense,
    Silence,
}

/// A DNS server on loopback, UDP and TCP.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    says: Arc<Mutex<HashMap<String, Says>>>,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl Server {
    /// Starts it; every name is unknown.
    pub(crate) async fn start() -> Server {
        // TCP first: of the two it is the one whose ports are scarce.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let server =
            Server { address: udp.local_addr().unwrap(), says: Arc::default(), asked: Arc::default() };
        let (over_udp, over_tcp) = (server.clone(), server.clone());
        tokio::spawn(async move {
            let mut query = [0; 1500];
            loop {
                let (length, from) = udp.recv_from(&mut query).await.unwrap();
                if let Some(answer) = over_udp.answer(&query[..length], false) {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let server = over_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        stream.read_exact(&mut query).await.unwrap();
                        if let Some(answer) = server.answer(&query, true) {
                            stream.write_u16(answer.len() as u16).await.unwrap();
                            stream.write_all(&answer).await.unwrap();
                        }
                    }
                });
            }
        });
        server
    }

    /// From now on.
    pub(crate) fn says(&self, name: &str, says: Says) {
        self.says.lock().unwrap().insert(name.into(), says);
    }

    /// How often each type of a name was asked for: (A, AAAA).
    pub(crate) fn asked(&self, name: &str) -> (usize, usize) {
        let asked = self.asked.lock().unwrap();
        let count = |kind| asked.iter().filter(|(of, what)| of == name && *what == kind).count();
        (count(A), count(AAAA))
    }

    /// How often its services were asked for.
    pub(crate) fn asked_for_services(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(of, what)| of == name && *what == SRV).count()
    }

    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap().to_lowercase());
            at = end;
        }
        let (name, kind) = (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]));
        let question = &query[12..at + 5];
        if !tcp {
            self.asked.lock().unwrap().push((name.clone(), kind));
        }
        let says = self.says.lock().unwrap().get(&name).cloned().unwrap_or(Says::NoSuchName);
        let (code, truncated, records) = match says {
            Says::Silence => return None,
            Says::Nonsense => return Some([&query[..2], &[0x81, 0x80, 0xff, 0xff, 9]].concat()),
            Says::ServFail => (2, false, Vec::new()),
            Says::NoSuchName => (3, false, Vec::new()),
            Says::Refused => (5, false, Vec::new()),
            Says::NothingOfTheKind => (0, false, Vec::new()),
            Says::NoAnswerToAaaa(_) if kind == AAAA => return None,
            Says::NoAnswerToAaaa(ips) => (0, false, records(&[0xc0, 12], kind, &ips, 3600)),
            Says::Addresses(ips, ttl) => (0, false, records(&[0xc0, 12], kind, &ips, ttl)),
            Says::OnlyOverTcp(ips) if tcp => (0, false, records(&[0xc0, 12], kind, &ips, 3600)),
            Says::OnlyOverTcp(_) => (0, true, Vec::new()),
            Says::CutShort if tcp => return None,
            Says::CutShort => (0, true, Vec::new()),
            Says::AddressesOfAnother(other, ips) => (0, false, records(&wire(other), kind, &ips, 3600)),
            Says::Services(..)
            | Says::ServicesOverTcp(_)
            | Says::ServicesOfAnother(..)
            | Says::ServicesOfAnotherClass(_)
                if kind != SRV =>
            {
                (0, false, Vec::new())
            }
            Says::Services(services, ttl) => (0, false, services_of(&[0xc0, 12], &services, ttl)),
            Says::ServicesOverTcp(services) if tcp => (0, false, services_of(&[0xc0, 12], &services, 3600)),
            Says::ServicesOverTcp(_) => (0, true, Vec::new()),
            Says::ServicesOfAnother(other, service) => {
                (0, false, services_of(&wire(other), &[service], 3600))
            }
            Says::ServicesOfAnotherClass(service) => {
                let mut record = services_of(&[0xc0, 12], &[service], 3600).swap_remove(0);
                record[5] = 3;
                (0, false, vec![record])
            }
            Says::AnotherName(other, ttl, ..) if kind != A && kind != AAAA => {
                let alias = (kind == CNAME).then(|| record(&[0xc0, 12], CNAME, ttl, &wire(other)));
                (0, false, alias.into_iter().collect())
            }
            Says::AnotherName(other, ttl, ips, their_ttl) => {
                let other = wire(other);
                let mut all = vec![record(&[0xc0, 12], CNAME, ttl, &other)];
                all.extend(records(&other, kind, &ips, their_ttl));
                (0, false, all)
            }
        };
        let flags: u16 = 0x8180 | if truncated { 0x0200 } else { 0 } | code;
        let mut message = query[..2].to_vec();
        for field in [flags, 1, records.len() as u16, 0, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend(question);
        message.extend(records.concat());
        Some(message)
    }
}

fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn record(name: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [name, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length, data].concat()
}

fn records(name: &[u8], kind: u16, ips: &[IpAddr], ttl: u32) -> Vec<Vec<u8>> {
    let of_kind = ips.iter().filter(|ip| ip.is_ipv4() == (kind == A));
    of_kind
        .map(|ip| match ip {
            IpAddr::V4(ip) => record(name, A, ttl, &ip.octets()),
            IpAddr::V6(ip) => record(name, AAAA, ttl, &ip.octets()),
        })
        .collect()
}

fn services_of(name: &[u8], services: &[(u16, u16, u16, &str)], ttl: u32) -> Vec<Vec<u8>> {
    let data = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
        let numbers = [*priority, *weight, *port].map(u16::to_be_bytes).concat();
        [numbers, if target.is_empty() { vec![0] } else { wire(target) }].concat()
    };
    services.iter().map(|service| record(name, SRV, ttl, &data(service))).collect()
}
