//! Plaintext clients: a good one, and those that come and go as clients do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::hostile::reset_on_close;

/// Connects; a read or write that takes longer than a test should wait is an error.
pub fn connect(address: SocketAddr) -> TcpStream {
    reach(address).expect("the listener accepts")
}

/// The same where the listener may refuse so fast that connect(2) itself already tells of the reset.
pub fn reach(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The same from an address of the test's choice: all of 127.0.0.0/8 is this host.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("loopback can be bound");
    socket.connect(&to.into()).expect("the listener accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// Sends, half-closes and reads to the end, as `nc -N` would: what came back, or how it ended.
pub fn ask(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = reach(address)?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Sends, and reads as many bytes back.
pub fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    if answer == bytes { Ok(()) } else { Err(io::Error::other("what came back is not what was sent")) }
}

/// Connects, says nothing, and is still there.
pub fn says_nothing(address: SocketAddr) -> TcpStream {
    connect(address)
}

/// Connects and sends before anybody was reached on its behalf.
pub fn sends_early(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("the first bytes fit the socket");
    stream
}

/// Connects and is gone in order: a probe, or a client that lost its patience.
pub fn leaves(address: SocketAddr) {
    drop(connect(address));
}

/// Connects, sends, and resets the connection.
pub fn resets(address: SocketAddr, bytes: &[u8]) {
    let stream = sends_early(address, bytes);
    reset_on_close(&stream).expect("SO_LINGER");
}
