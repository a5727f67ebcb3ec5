//! pending: TLS that a server cannot be asked for before its client has been greeted and heard. Owns how it goes on, and how
//! such a server is left. Leaves the hearing to `connection`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::{Established, Reached, Target};
use crate::converse::converse;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::Protocol;
use crate::tls::ClientTls;
use crate::trail::Trail;

/// TLS that cannot be asked for before the client has said something in plaintext.
pub struct Pending {
    pub(super) tls: Arc<ClientTls>,
    pub(super) name: ServerName<'static>,
    pub(super) at: SocketAddr,
    /// What it has taken to come so far.
    pub(super) took: Duration,
}

/// Goes on with TLS that was pending: `request` asks the server for it. The endpoint is settled by what comes of it; no other
/// is tried, as the client has been told this server's first words.
///
/// # Errors
/// What kept it from being established.
pub async fn secure(
    target: &Target,
    mut established: Established,
    request: &[u8],
    trail: &mut Trail,
) -> Result<Established, Failure> {
    let Established { lease, reached } = &mut established;
    let Some(pending) = reached.pending.take() else { return Ok(established) };
    let Pending { tls, name, at, took } = *pending;
    let begun = Instant::now();
    trail.stage = Stage::Handshake;
    let limit = target.timeouts.handshake;
    let secured = async {
        tokio::time::timeout(limit, reached.stream.write_all(request))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|error| {
                let detail = format!("the connection broke when the server was asked for TLS: {error}");
                Failure::upstream(Stage::Negotiate, Reason::ConnectionTerminated, detail)
            })?;
        tls.handshake(&mut reached.stream, at, name, limit).await
    }
    .await;
    trail.times.handshake = Some(begun.elapsed());
    let now = Instant::now().into_std();
    match secured {
        Ok(secured) => {
            if let Some((_, lease)) = lease {
                lease.established(now, took + begun.elapsed());
            }
            reached.secured = Some(secured);
            Ok(established)
        }
        Err(failure) => {
            if let Some(attempt) = trail.attempts.last_mut() {
                (attempt.stage, attempt.reason) = (Some(failure.stage), Some(failure.reason));
                attempt.took += begun.elapsed();
            }
            let class = failure.breaker_class().filter(|_| failure.side == Side::Upstream);
            if let (Some((_, lease)), Some(class)) = (lease.take(), class) {
                lease.failed_with(now, class, &failure.detail);
            }
            Err(failure)
        }
    }
}

/// Takes leave of a server whose TLS is pending, and will be. Its place is kept until then.
pub async fn take_leave(protocol: Protocol, established: Established) {
    let Established { lease: _lease, reached: Reached { mut stream, negotiated, .. } } = established;
    let Some(mut talk) = protocol.parting(&negotiated) else { return };
    match tokio::time::timeout(PARTING, converse(&mut stream, &mut *talk)).await {
        // Nobody is left whom it could matter to.
        Ok(Ok(()) | Err(_)) | Err(_) => {}
    }
}

/// How long that may take.
const PARTING: Duration = Duration::from_secs(2);
