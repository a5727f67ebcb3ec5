//! A longer way to a server: bytes arrive as they were sent, later. (Linux' own netem is not to be had everywhere, and wants root.)
//!
//! TCP's own handshake is not delayed, as it ends here: who connects through it pays for that as on a short way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Listens for as long as the process lives, and adds `delay` to each round trip of `to`, half of it each way.
pub fn delayed(to: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            for socket in [&client, &server] {
                socket.set_nodelay(true).expect("a TCP socket");
            }
            let pairs = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
            for (from, to) in pairs {
                if let (Ok(from), Ok(to)) = (from, to) {
                    later(from, to, delay / 2);
                }
            }
        }
    });
    address
}

/// One direction.
fn later(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or_default();
            let sent = sender.send((Instant::now() + delay, buffer[..read].to_vec()));
            if read == 0 || sent.is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                // An error: it is closed already.
                to.shutdown(Shutdown::Write).ok();
                return;
            }
        }
    });
}
