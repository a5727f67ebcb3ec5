//! A wire that can be listened to: passes everything on, and keeps what the clients have said.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::clients;
use super::peer::Peer;

/// Before a server.
pub struct Tap {
    peer: Peer,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    /// Whoever connects here talks to the server.
    pub fn before(server: SocketAddr) -> Tap {
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let hearing = heard.clone();
        let peer = Peer::start(move |client| {
            // Not there any more: the client is cut off.
            let Ok(server) = clients::reach(server) else { return };
            let (Ok(mut answers), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else {
                return;
            };
            let back = std::thread::spawn(move || {
                // An error is an end, which is passed on.
                std::io::copy(&mut answers, &mut to_client).ok();
                to_client.shutdown(Shutdown::Both).ok();
            });
            listen(client, server, &hearing);
            back.join().expect("copying does not panic");
        });
        Tap { peer, heard }
    }

    /// Where its clients connect.
    pub fn address(&self) -> SocketAddr {
        self.peer.address()
    }

    /// What the clients have said so far, each connection of its own.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("no connection panicked here").clone()
    }
}

fn listen(mut client: TcpStream, mut server: TcpStream, heard: &Mutex<Vec<Vec<u8>>>) {
    let place = {
        let mut heard = heard.lock().expect("no connection panicked here");
        heard.push(Vec::new());
        heard.len() - 1
    };
    let mut bytes = [0; 16 * 1024];
    // An error is an end.
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        heard.lock().expect("no connection panicked here")[place].extend(&bytes[..count]);
        if server.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // An error: it has ended already.
    server.shutdown(Shutdown::Write).ok();
}

/// What was said before TLS; from there on there are records of TLS and nothing else. `None`: there is no TLS.
pub fn before_tls(said: &[u8]) -> Option<&[u8]> {
    let only_records = |mut rest: &[u8]| {
        let whole = rest.len();
        // The last may be under way.
        while let [20..=23, 3, 0..=4, high, low, ..] = rest {
            rest = rest.get(5 + usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
        }
        rest.len() < whole && rest.len() < 5
    };
    let start = (0..said.len()).find(|start| only_records(&said[*start..]))?;
    Some(&said[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_records_to_the_end() {
        assert_eq!(
            before_tls(b"STLS\r\n\x16\x03\x01\x00\x01a\x17\x03\x03\x00\x02bc"),
            Some(&b"STLS\r\n"[..])
        );
        assert_eq!(before_tls(b"\x16\x03\x01\x00\x01a"), Some(&b""[..]));
        assert_eq!(before_tls(b"\x16\x03\x01\x00\x01aPASS pw\r\n"), None);
        assert_eq!(before_tls(b"PASS pw\r\n"), None);
    }
}
