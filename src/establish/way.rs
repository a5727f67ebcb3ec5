//! way: from an endpoint's name to a TCP connection that leads there: names to addresses, the race among these, a proxy in between,
//! and the header that tells the server who the client is. Leaves each of them to `discovery` and `dial`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Sight, Target, round};
use crate::addr::EndpointAddr;
use crate::dial::header::{Introduction, header};
use crate::dial::through::Through;
use crate::dial::{self};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::trail::Trail;

/// Where a connection has to lead.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    /// The server.
    pub(super) endpoint: &'a EndpointAddr,
    /// Only this one of its addresses.
    pub(super) address: Option<SocketAddr>,
    /// Whom it is for; `None`: for ourselves.
    pub(super) client: Option<&'a Introduction>,
    /// The server wants to know, where the target's do.
    pub(super) introduces: bool,
}

/// The connection, and the address that it goes to from here.
pub(super) async fn open(
    target: &Target,
    to: To<'_>,
    deadline: Instant,
    trail: &mut Trail,
    sight: Option<&mut Sight>,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let (mut stream, at) = match &target.dial.through {
        None => {
            let connected = dialled(target, to.endpoint, to.address, deadline, trail, sight).await;
            connected.inspect_err(|failure| {
                // The name may have moved: ask again now rather than when its time is up.
                if failure.stage == Stage::Connect {
                    target.resolver.suspect(target.set_name.as_ref().unwrap_or(&to.endpoint.host));
                }
            })?
        }
        Some(through) => through_proxy(target, through, to.endpoint, deadline, trail, sight).await?,
    };
    if let Some(version) = target.dial.header.filter(|_| to.introduces) {
        // It fits the socket's empty buffer: nobody waits here.
        stream.write_all(&header(version, to.client)).await.map_err(|error| {
            let detail = format!("the connection broke when the server was told who the client is: {error}");
            Failure::upstream(Stage::Proxy, Reason::ConnectionTerminated, detail)
        })?;
    }
    Ok((stream, at))
}

async fn dialled(
    target: &Target,
    to: &EndpointAddr,
    address: Option<SocketAddr>,
    deadline: Instant,
    trail: &mut Trail,
    mut sight: Option<&mut Sight>,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let bound = |limit: Duration| limit.min(deadline.saturating_duration_since(Instant::now()));
    let begun = Instant::now();
    let addresses = match address.or_else(|| to.socket_addr()) {
        Some(address) => vec![address],
        None => {
            trail.stage = Stage::Resolve;
            let addresses = resolve(target, to, bound(target.timeouts.resolve)).await;
            trail.times.resolve = Some(begun.elapsed());
            addresses?
        }
    };
    if let Some(sight) = &mut sight {
        sight.addresses.clone_from(&addresses);
    }
    let begun = Instant::now();
    trail.stage = Stage::Connect;
    let addresses = target.own.leave_out(addresses)?;
    let connected = dial::dial_within(&addresses, &target.dial, bound(target.timeouts.connect)).await;
    trail.times.connect = Some(begun.elapsed());
    let connected = connected?;
    if let Some(sight) = &mut sight {
        sight.connected = Some(connected.1);
    }
    Ok(connected)
}

/// `timeouts.connect` is for the way to the proxy, and once more for the proxy's own way to the endpoint.
async fn through_proxy(
    target: &Target,
    through: &Through,
    to: &EndpointAddr,
    deadline: Instant,
    trail: &mut Trail,
    sight: Option<&mut Sight>,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let connected = dialled(target, &through.address, None, deadline, trail, sight).await;
    // It is our own way out: that it cannot be reached says nothing about the endpoint.
    let (mut stream, at) = connected.map_err(|Failure { reason, detail, .. }| {
        let detail = format!("the proxy {}: {detail}", through.address);
        Failure::new(Stage::Proxy, reason, Side::Ambassador, detail)
            .mend("is the proxy running, and is that its address? (upstream.NAME.proxy)")
    })?;
    let begun = Instant::now();
    trail.stage = Stage::Proxy;
    let limit = target.timeouts.connect.min(deadline.saturating_duration_since(begun));
    let opened = tokio::time::timeout(limit, through.open(&mut stream, to)).await;
    trail.times.proxy = Some(begun.elapsed());
    opened.unwrap_or_else(|_| {
        let limit = humantime::format_duration(round(limit));
        let detail = format!("the proxy {} has not connected to {to} within {limit}", through.address);
        Err(Failure::upstream(Stage::Proxy, Reason::ConnectionTimeout, detail))
    })?;
    Ok((stream, at))
}

async fn resolve(target: &Target, to: &EndpointAddr, limit: Duration) -> Result<Vec<SocketAddr>, Failure> {
    let host = &to.host;
    match tokio::time::timeout(limit, target.resolver.addresses(host)).await {
        Ok(addresses) => Ok(addresses?.into_iter().map(|ip| SocketAddr::new(ip, to.port)).collect()),
        Err(_) => Err(Failure::upstream(
            Stage::Resolve,
            Reason::DnsTimeout,
            format!("{host} was not resolved within {}", humantime::format_duration(round(limit))),
        )),
    }
}
