//! TCP to one endpoint: its addresses raced as RFC 8305 has it, and every way in which that fails put into words.
//!
//! Owns the order of the addresses, the race, the local address and the socket's options. Leaves names to
//! `discovery`, the choice of the endpoint to `upstream`, and TLS to `tls`.

pub mod header;
pub mod through;
mod trouble;

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::failure::{Failure, Reason, Side, Stage};
use crate::socket::{self, TcpSettings};
use trouble::Trouble;

/// Has neither side ended the connection, as far as is known here? Nothing is read.
pub fn is_open(stream: &TcpStream) -> bool {
    socket::is_open(stream)
}

/// How sockets to the upstream are opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The local address to dial from.
    pub source_address: Option<IpAddr>,
    /// Keep-alive and user timeout.
    pub tcp: TcpSettings,
    /// A proxy on the way.
    pub through: Option<through::Through>,
    /// Servers are told who the client is.
    pub header: Option<header::Version>,
}

/// How long an attempt has the field for itself (RFC 8305, section 5: "Connection Attempt Delay").
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the first of `addresses` that answers. The caller drops the future when its time is up; then nothing is
/// known of the addresses that had failed by then, which is why [`dial_within`] exists.
pub async fn dial(addresses: &[SocketAddr], settings: &Settings) -> Result<(TcpStream, SocketAddr), Failure> {
    let usable = usable(addresses, settings)?;
    let mut lost = Vec::new();
    race(&usable, settings, &mut lost).await.ok_or_else(|| trouble::failure(&lost))
}

/// [`dial`] with a limit. When it is reached, the failure says which addresses had failed, and how, and which were silent.
pub async fn dial_within(
    addresses: &[SocketAddr],
    settings: &Settings,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let usable = usable(addresses, settings)?;
    let mut lost = Vec::new();
    match tokio::time::timeout(limit, race(&usable, settings, &mut lost)).await {
        Ok(won) => won.ok_or_else(|| trouble::failure(&lost)),
        Err(_) => {
            for address in usable.iter() {
                if !lost.iter().any(|(failed, _)| failed == address) {
                    lost.push((*address, Trouble::Silent(limit)));
                }
            }
            Err(trouble::failure(&lost))
        }
    }
}

/// One address needs no order and no heap; it is what nearly every connection has.
enum Usable {
    One([SocketAddr; 1]),
    Several(Vec<SocketAddr>),
}

impl std::ops::Deref for Usable {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        match self {
            Usable::One(one) => one,
            Usable::Several(several) => several,
        }
    }
}

/// The addresses that can be reached from `source_address`, in the order in which they are tried.
fn usable(addresses: &[SocketAddr], settings: &Settings) -> Result<Usable, Failure> {
    let fits = |address: &SocketAddr| {
        settings.source_address.is_none_or(|source| source.is_ipv4() == address.is_ipv4())
    };
    if let [one] = addresses
        && fits(one)
    {
        return Ok(Usable::One([*one]));
    }
    let fitting = interleave(addresses.iter().copied().filter(fits));
    match (fitting.is_empty(), settings.source_address) {
        (false, _) => Ok(Usable::Several(fitting)),
        (true, Some(source)) if !addresses.is_empty() => {
            let all: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
            let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
            // Not a fault of the configuration as a whole: another endpoint may well have an address of this family.
            Err(Failure::new(
                Stage::Connect,
                Reason::DestinationIpUnroutable,
                Side::Ambassador,
                format!(
                    "source_address {source} can only dial {family}, and there is only {}",
                    all.join(", ")
                ),
            )
            .mend("leave `source_address` out, or give the endpoint an address of its family"))
        }
        (true, _) => Err(Failure::new(
            Stage::Connect,
            Reason::DestinationIpUnroutable,
            Side::Ambassador,
            "there is no address to dial",
        )),
    }
}

/// Families in turn, beginning with that of the first address; within a family the order stays (RFC 8305, section 4).
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut first = Vec::new();
    let mut second = Vec::new();
    for address in addresses {
        let same = first.first().is_none_or(|one: &SocketAddr| one.is_ipv4() == address.is_ipv4());
        if same { first.push(address) } else { second.push(address) }
    }
    let mut merged = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let before = merged.len();
        merged.extend(first.next());
        merged.extend(second.next());
        if merged.len() == before {
            return merged;
        }
    }
}

/// The first that connects; `None`: all are in `lost`. Dropping it closes whatever is still under way.
async fn race(
    addresses: &[SocketAddr],
    settings: &Settings,
    lost: &mut Vec<(SocketAddr, Trouble)>,
) -> Option<(TcpStream, SocketAddr)> {
    if let [only] = addresses {
        return match connect(*only, settings).await {
            Ok(stream) => Some((stream, *only)),
            Err(trouble) => {
                lost.push((*only, trouble));
                None
            }
        };
    }
    let mut waiting = addresses.iter().copied();
    let mut running = Vec::with_capacity(addresses.len());
    loop {
        match waiting.next() {
            Some(address) => running.push(Runner { address, attempt: Box::pin(connect(address, settings)) }),
            None if running.is_empty() => return None,
            None => {}
        }
        // A failure starts the next attempt at once, and with it a new delay.
        tokio::select! {
            biased;
            (address, result) = first_done(&mut running) => match result {
                Ok(stream) => return Some((stream, address)),
                Err(trouble) => lost.push((address, trouble)),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<TcpStream, Trouble>> + Send + 'a>>;

struct Runner<'a> {
    address: SocketAddr,
    attempt: Attempt<'a>,
}

/// Takes the first attempt that is done out of the race. A handful of attempts at most: polling each on every wake-up
/// is cheaper than a set that would remember who woke.
async fn first_done(running: &mut Vec<Runner<'_>>) -> (SocketAddr, Result<TcpStream, Trouble>) {
    poll_fn(|context| {
        for place in 0..running.len() {
            if let Poll::Ready(result) = running[place].attempt.as_mut().poll(context) {
                return Poll::Ready((running.remove(place).address, result));
            }
        }
        Poll::Pending
    })
    .await
}

async fn connect(address: SocketAddr, settings: &Settings) -> Result<TcpStream, Trouble> {
    connect_from(settings.source_address.map(|ip| SocketAddr::new(ip, 0)), address, &settings.tcp).await
}

async fn connect_from(
    source: Option<SocketAddr>,
    address: SocketAddr,
    options: &TcpSettings,
) -> Result<TcpStream, Trouble> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(Trouble::Socket)?;
    // Before it is connected: of a connection that the peer has reset already, they would be refused.
    options.apply_to_new(&socket).map_err(Trouble::Options)?;
    if let Some(source) = source {
        socket.bind(source).map_err(|error| Trouble::Bind(source.ip(), error))?;
    }
    let stream = socket.connect(address).await.map_err(Trouble::Connect)?;
    // Where nothing listens at a port of the ephemeral range, the kernel may pick that very port as ours and TCP
    // connects to itself (RFC 9293, simultaneous open): everything we say would be our answer.
    match stream.local_addr() {
        Ok(local) if local == address => {
            // Without it the port would stay in TIME_WAIT, and the server that belongs there could not bind it.
            stream.set_zero_linger().map_err(Trouble::Options)?;
            Err(Trouble::Itself)
        }
        Ok(_) => Ok(stream),
        Err(error) => Err(Trouble::Connect(error)),
    }
}

#[cfg(test)]
mod tests;
