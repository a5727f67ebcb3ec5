//! Which local user owns the other end of a loopback TCP connection: asked of the kernel, never of the client.
//!
//! Linux only. The question is for one exact connection (sock_diag over netlink; /proc/net/tcp where that is missing). Everything
//! that is not a clear answer is an error, and `admit` refuses on it. A socket that its process has closed already is
//! such a case: the kernel then answers with user 0, which would make everybody root for as long as it takes to hang up.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// The user that owns the peer's socket. `local` and `peer` as our own socket has them.
pub fn owner_of_peer(local: SocketAddr, peer: SocketAddr) -> Result<u32, String> {
    /// Set by the first answer: from then on "no such socket" is known to mean that, and not "no such kernel module".
    static ANSWERS: AtomicBool = AtomicBool::new(false);

    // A dual-stack socket shows IPv4 clients as mapped addresses; the kernel finds both kinds by the plain form.
    let wanted = Tuple { ours: canonical(peer), theirs: canonical(local) };
    let asked = ask(wanted);
    let found = match asked {
        Ok(Some(owner)) => {
            ANSWERS.store(true, Ordering::Relaxed);
            Some(owner)
        }
        Ok(None) if ANSWERS.load(Ordering::Relaxed) => None,
        // The tables are read whole, which is slow with many connections: only where netlink never answered.
        Ok(None) | Err(_) => listed(wanted).map_err(|error| match asked {
            Err(first) => format!("the kernel was asked who owns {peer}, in vain: {first}; {error}"),
            Ok(_) => format!("the kernel was asked who owns {peer}, in vain: {error}"),
        })?,
    };
    match found {
        Some(Owner { inode: 1.., uid }) => Ok(uid),
        Some(_) => Err(format!("the process behind {peer} has closed its socket, so that nobody owns it")),
        None => {
            Err(format!("no process of this host (or of this network namespace) holds the socket {peer}"))
        }
    }
}

/// A connection as the socket that we look for has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    ours: SocketAddr,
    theirs: SocketAddr,
}

/// What the kernel says of a socket. Inode 0: no process holds it any more, and `uid` means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    inode: u32,
    uid: u32,
}

/// Without the scope and flow of IPv6, which tables do not show.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
const NETLINK_HEADER: usize = 16;
const REQUEST: usize = NETLINK_HEADER + 56;
const DIAG_MESSAGE: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;

/// States of a client whose handshake is done (net/tcp_states.h): ESTABLISHED, and FIN_WAIT1 and 2 where it has said all
/// it has to say. We have not closed our side, so that it can be in no other. One in SYN_SENT is another client, that wants
/// the port of one who left while the connection still waited for us.
const CONNECTED: [u8; 3] = [1, 4, 5];
/// Any: a kernel answers one question on one socket here, there is nothing to tell apart.
const SEQUENCE: u32 = 1;

/// One question, one answer, about 10 µs. The kernel answers within the call to send, so that nothing blocks; the
/// time-out is for kernels that only pretend to be Linux.
fn ask(wanted: Tuple) -> io::Result<Option<Owner>> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    // Without an address it goes to the kernel. Only a process with CAP_NET_ADMIN could answer in its stead.
    socket.write_all(&request(wanted))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    read_answer(answer.get(..length).unwrap_or_default(), wanted)
}

/// `inet_diag_req_v2` for exactly one socket.
fn request(wanted: Tuple) -> [u8; REQUEST] {
    let family = match wanted.ours {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend((REQUEST as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(SEQUENCE.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // sockets in any state
    bytes.extend(wanted.ours.port().to_be_bytes());
    bytes.extend(wanted.theirs.port().to_be_bytes());
    bytes.extend(sixteen(wanted.ours.ip()));
    bytes.extend(sixteen(wanted.theirs.ip()));
    bytes.extend(0u32.to_ne_bytes()); // any interface
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    let mut request = [0; REQUEST];
    request.copy_from_slice(&bytes);
    request
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.copy_from_slice(&ip.octets()),
    }
    bytes
}

/// Reads one netlink datagram. `Ok(None)`: the kernel knows no such socket.
fn read_answer(answer: &[u8], wanted: Tuple) -> io::Result<Option<Owner>> {
    let mut reader = Fields(answer);
    let odd = |what: &str| io::Error::other(format!("sock_diag answered oddly: {what}"));
    let mut parse = || -> Option<Result<Option<Owner>, io::Error>> {
        let length = usize::try_from(reader.u32()?).ok()?;
        let kind = reader.u16()?;
        let _flags = reader.u16()?;
        let (sequence, _port) = (reader.u32()?, reader.u32()?);
        if length > answer.len() || sequence != SEQUENCE {
            return None;
        }
        if kind == NLMSG_ERROR {
            let code = (reader.u32()? as i32).wrapping_neg();
            return Some(match code {
                libc::ENOENT => Ok(None),
                code => Err(io::Error::from_raw_os_error(code)),
            });
        }
        if kind != SOCK_DIAG_BY_FAMILY || length < NETLINK_HEADER + DIAG_MESSAGE {
            return None;
        }
        let [family, state, _timer, _retransmits] = reader.take()?;
        let (our_port, their_port) = (reader.be_u16()?, reader.be_u16()?);
        let (our_ip, their_ip) = (reader.ip(family)?, reader.ip(family)?);
        let _interface_and_cookie: [u8; 12] = reader.take()?;
        let _expires_and_queues: [u8; 12] = reader.take()?;
        let (uid, inode) = (reader.u32()?, reader.u32()?);
        let found = Tuple {
            ours: canonical(SocketAddr::new(our_ip, our_port)),
            theirs: canonical(SocketAddr::new(their_ip, their_port)),
        };
        // Where the connection is gone, the kernel goes on to look for a listener at the client's port: not it either.
        let is_it = found == wanted && CONNECTED.contains(&state);
        Some(Ok(is_it.then_some(Owner { inode, uid })))
    };
    parse().unwrap_or_else(|| Err(odd("not the message that was asked for")))
}

/// What is left to read of a message; `None` at its end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn be_u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn ip(&mut self, family: u8) -> Option<IpAddr> {
        let bytes: [u8; 16] = self.take()?;
        match i32::from(family) {
            libc::AF_INET => bytes.first_chunk::<4>().map(|four| Ipv4Addr::from(*four).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
            _ => None,
        }
    }
}

/// The same from /proc, for kernels without sock_diag. An IPv6 socket may carry IPv4, so that both tables are read.
fn listed(wanted: Tuple) -> io::Result<Option<Owner>> {
    let mut read_one = false;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = File::open(table) else { continue };
        read_one = true;
        for line in BufReader::new(file).lines() {
            if let Some(owner) = read_line(&line?, wanted) {
                return Ok(Some(owner));
            }
        }
    }
    if read_one { Ok(None) } else { Err(io::Error::other("/proc/net/tcp cannot be read either")) }
}

/// One line of the table, if it is the socket that is wanted:
/// `sl local remote state queues timer retransmits uid timeout inode …`
fn read_line(line: &str, wanted: Tuple) -> Option<Owner> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let found = Tuple { ours: read_address(fields.next()?)?, theirs: read_address(fields.next()?)? };
    if found != wanted {
        return None;
    }
    if !CONNECTED.contains(&u8::from_str_radix(fields.next()?, 16).ok()?) {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Owner { inode, uid })
}

/// `0100007F:1538`: each four bytes of the address as one number of the host's byte order, the port as it is read.
fn read_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |from: usize| {
        let hex = address.get(from..from + 8)?;
        u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ourselves() -> u32 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("/proc/self").unwrap().uid()
    }

    /// A client and its server's end, connected over `address`; `None` where the host has no such family.
    fn connected(listen: &str, connect: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(listen).ok()?;
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(format!("{connect}:{port}")).unwrap();
        Some((client, listener.accept().unwrap().0))
    }

    #[test]
    fn the_kernel_names_us_as_the_owner_of_our_own_client() {
        for (listen, connect) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "127.0.0.1"), ("[::]:0", "[::1]")]
        {
            let Some((client, server)) = connected(listen, connect) else { continue };
            let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert_eq!(owner_of_peer(local, peer), Ok(ourselves()), "{listen} {connect}");
            drop(client);
        }
    }

    #[test]
    fn a_client_that_speaks_ipv4_through_an_ipv6_socket_is_found() {
        let (client, server) = connected("127.0.0.1:0", "[::ffff:127.0.0.1]").unwrap();
        assert!(client.local_addr().unwrap().is_ipv6());
        let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(owner_of_peer(local, peer), Ok(ourselves()));
        let wanted = Tuple { ours: canonical(peer), theirs: canonical(local) };
        assert_eq!(listed(wanted).unwrap().unwrap().uid, ourselves());
    }

    #[test]
    fn another_users_client_is_told_from_ours() {
        let (client, server) = connected("127.0.0.1:0", "127.0.0.1").unwrap();
        // The owner of a socket is the owner of its inode, which only root may give away.
        if std::os::unix::fs::fchown(&client, Some(54321), None).is_err() {
            return;
        }
        let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(owner_of_peer(local, peer), Ok(54321));
        let wanted = Tuple { ours: peer, theirs: local };
        assert_eq!(listed(wanted).unwrap().unwrap().uid, 54321);
    }

    #[test]
    fn the_tables_say_the_same_as_the_socket_that_was_asked() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
            let Some((client, server)) = connected(listen, connect) else { continue };
            let wanted = Tuple { ours: client.local_addr().unwrap(), theirs: server.local_addr().unwrap() };
            let listed = listed(wanted).unwrap();
            assert!(listed.is_some());
            assert_eq!(ask(wanted).unwrap(), listed);
        }
    }

    #[test]
    fn a_client_that_closed_its_socket_has_no_owner() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
            let Some((client, mut server)) = connected(listen, connect) else { continue };
            let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            drop(client);
            assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
            let error = owner_of_peer(local, peer).unwrap_err();
            assert!(error.contains("closed its socket") || error.contains("no process"), "{error}");
        }
    }

    #[test]
    fn a_client_that_only_listens_to_the_answer_is_still_its_owners() {
        let (client, mut server) = connected("127.0.0.1:0", "127.0.0.1").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(owner_of_peer(local, peer), Ok(ourselves()));
        drop(client);
    }

    /// Whoever knocks at a port where nothing answers yet holds a socket of the same four numbers.
    #[test]
    fn a_client_that_is_still_connecting_is_not_taken_for_one_that_has_come() {
        let server = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        server.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        server.listen(0).unwrap();
        let local = server.local_addr().unwrap().as_socket().unwrap();
        // The queue is full after a few; from then on the kernel answers no SYN.
        let knocking: Vec<_> = (0..8)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                // In progress, which is what is wanted.
                client.connect(&local.into()).ok();
                client
            })
            .collect();
        let last = knocking.last().unwrap().local_addr().unwrap().as_socket().unwrap();
        let wanted = Tuple { ours: last, theirs: local };
        assert_eq!((ask(wanted).unwrap(), listed(wanted).unwrap()), (None, None));
    }

    #[test]
    fn a_listener_at_the_clients_old_port_is_not_taken_for_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error =
            owner_of_peer("127.0.0.1:9".parse().unwrap(), listener.local_addr().unwrap()).unwrap_err();
        assert!(error.contains("no process"), "{error}");
    }

    fn wanted() -> Tuple {
        Tuple { ours: "127.0.0.1:40000".parse().unwrap(), theirs: "127.0.0.1:5432".parse().unwrap() }
    }

    /// An answer as the kernel writes it.
    fn answer(state: u8, inode: u32) -> Vec<u8> {
        let mut bytes = request(wanted()).to_vec();
        bytes.truncate(NETLINK_HEADER);
        bytes[..4].copy_from_slice(&((NETLINK_HEADER + DIAG_MESSAGE) as u32).to_ne_bytes());
        bytes.extend([libc::AF_INET as u8, state, 0, 0]);
        bytes.extend_from_slice(&request(wanted())[NETLINK_HEADER + 8..]);
        bytes.extend([0; 12]);
        bytes.extend(1001u32.to_ne_bytes());
        bytes.extend(inode.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_answer_is_read_only_if_it_is_whole_and_about_the_connection() {
        let whole = answer(1, 77);
        assert_eq!(read_answer(&whole, wanted()).unwrap(), Some(Owner { inode: 77, uid: 1001 }));
        for state in [2, 3, 6, 7, 8, 9, 10, 11, 12] {
            assert_eq!(read_answer(&answer(state, 77), wanted()).unwrap(), None, "state {state}");
        }
        for state in CONNECTED {
            assert!(read_answer(&answer(state, 77), wanted()).unwrap().is_some(), "state {state}");
        }
        for length in 0..whole.len() {
            assert_eq!(
                read_answer(&whole[..length], wanted()).unwrap_err().kind(),
                ErrorKind::Other,
                "{length}"
            );
        }
        let another = Tuple { ours: "127.0.0.1:40001".parse().unwrap(), ..wanted() };
        assert_eq!(read_answer(&whole, another).unwrap(), None);
        let mut of_another_kind = whole.clone();
        of_another_kind[4] = 0;
        assert!(read_answer(&of_another_kind, wanted()).is_err());
    }

    #[test]
    fn an_error_of_the_kernel_is_told_from_no_such_socket() {
        let error = |code: i32| {
            let mut bytes = answer(1, 1);
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[16..20].copy_from_slice(&(-code).to_ne_bytes());
            bytes
        };
        assert_eq!(read_answer(&error(libc::ENOENT), wanted()).unwrap(), None);
        let refused = read_answer(&error(libc::EPERM), wanted()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_table_is_read_and_every_other_is_passed_over() {
        let line = "   1: 0100007F:9C40 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0 20 4";
        assert_eq!(read_line(line, wanted()), Some(Owner { inode: 4711, uid: 1001 }));
        let mapped = line.replace("0100007F:", "0000000000000000FFFF00000100007F:");
        assert_eq!(read_line(&mapped, wanted()), Some(Owner { inode: 4711, uid: 1001 }));
        for other in [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            "   1: 0100007F:9C41 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1001        0 4711",
            "   1: 0100007F:9C40 0100007F:1538 01 00000000:00000000 00:00000000 00000000",
            "   1: 0100007F:9C40 0100007F:1538 02 00000000:00000000 00:00000000 00000000  1001        0 4711",
            "   1: 0100007F:9C40 0100007F:1538 0A 00000000:00000000 00:00000000 00000000  1001        0 4711",
            "   1: 0100007\u{e9}:9C40 0100007F:1538 01",
            "",
        ] {
            assert_eq!(read_line(other, wanted()), None, "{other}");
        }
    }
}
