//! The client: closed loops over plain sockets, each returning what it did in how long.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::upstream::{REQUEST, request};

/// A round trip carries this many bytes each way.
const MESSAGE: usize = 64;

/// Which way the bulk goes, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to upstream.
    Up,
    /// Upstream to client.
    Down,
}

/// One request and its answer, on a connection of its own.
pub fn echo_once(address: SocketAddr) -> Result<(), String> {
    echo(&mut connect(address)?, 0)
}

/// Moves so many bytes on each of `connections` at once.
pub fn bulk(address: SocketAddr, direction: Direction, connections: usize, bytes: u64) -> Result<(), String> {
    together(connections, |_| {
        let mut stream = connect(address)?;
        let done = match direction {
            Direction::Up => send(&mut stream, bytes),
            Direction::Down => receive(&mut stream, bytes),
        };
        done.map_err(|e| format!("bulk {direction:?}: {e}"))
    })
}

/// Opens, asks once and closes, so many times in all on four connections at a time.
pub fn short_connections(address: SocketAddr, count: usize) -> Result<(), String> {
    together(4, |worker| (worker..count).step_by(4).try_for_each(|_| echo_once(address)))
}

/// Round trips on each of `connections` for so long: the mean time of one, in µs.
pub fn round_trips(address: SocketAddr, connections: usize, time: Duration) -> Result<f64, String> {
    let trips = std::sync::atomic::AtomicU64::new(0);
    together(connections, |_| {
        let mut stream = connect(address)?;
        echo(&mut stream, MESSAGE - REQUEST)?;
        let started = Instant::now();
        let mut done = 0;
        while started.elapsed() < time {
            echo(&mut stream, MESSAGE - REQUEST)?;
            done += 1;
        }
        trips.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    })?;
    Ok(time.as_secs_f64() * 1e6 * connections as f64 / trips.into_inner() as f64)
}

/// Opens so many connections, each of which has carried one short request, and keeps them.
pub fn idle(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    let open = |_| {
        let mut stream = connect(address)?;
        echo(&mut stream, 0).map(|()| stream)
    };
    (0..count).map(open).collect()
}

/// Sends so many bytes there and back.
pub fn echo(stream: &mut TcpStream, bytes: usize) -> Result<(), String> {
    let mut message = vec![0; REQUEST + bytes];
    message[..REQUEST].copy_from_slice(&request(b'E', bytes as u64));
    let done = stream.write_all(&message).and_then(|()| stream.read_exact(&mut message));
    done.map_err(|e| format!("echo: {e}"))
}

/// Full and resumed handshakes so far on the upstream's TLS port of that index.
pub fn handshakes(plain: SocketAddr, index: usize) -> Result<(u64, u64), String> {
    let mut stream = connect(plain)?;
    let mut answer = [0; 16];
    let done = stream.write_all(&request(b'K', index as u64)).and_then(|()| stream.read_exact(&mut answer));
    done.map_err(|e| format!("counts: {e}"))?;
    let both = u128::from_be_bytes(answer);
    Ok(((both >> 64) as u64, both as u64))
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let limit = Duration::from_secs(30);
    let stream = TcpStream::connect_timeout(&address, limit).map_err(|e| format!("connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    stream.write_all(&request(b'S', bytes))?;
    let buffer = vec![7; 256 * 1024];
    let mut left = bytes as usize;
    while left > 0 {
        let most = left.min(buffer.len());
        stream.write_all(&buffer[..most])?;
        left -= most;
    }
    stream.read_exact(&mut [0; 1])
}

fn receive(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    stream.write_all(&request(b'G', bytes))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut left = bytes as usize;
    while left > 0 {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

fn together(workers: usize, work: impl Fn(usize) -> Result<(), String> + Sync) -> Result<(), String> {
    std::thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| "a worker panicked".to_owned())?)
    })
}
