//! proof: does the server still want us after the handshake? What health checks and probes ask; a connection just relays.
//!
//! In TLS 1.3 a client's handshake ends before the server has looked at its certificate: "no" comes afterwards. And there
//! are servers that shake hands with everyone and hang up on everyone. Both show within a short time, unprompted.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{ClientTls, PeerFacts, Secured, late_failure};
use crate::failure::{Failure, Reason, Stage};
use crate::relay::How;

/// How long our close_notify may take: it is a courtesy that keeps the server's log free of complaints.
const FAREWELL: Duration = Duration::from_millis(200);

impl Secured {
    /// Listens for `window` and then says goodbye, with `farewell` as its last words. Data and tickets are welcome, and so is
    /// silence.
    ///
    /// # Errors
    /// The refusal of our certificate, or an end of the connection that nobody asked for.
    pub async fn prove<S>(
        self,
        stream: &mut S,
        window: Duration,
        farewell: &[u8],
        tls: &ClientTls,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut carried = self.carried;
        let unwritten = carried.flush(stream).await.err();
        match tokio::time::timeout(window, carried.listen(stream)).await {
            Ok(how) => Err(late_failure(&how, false, tls).unwrap_or_else(|| slammed(&how, tls.own()))),
            Err(_) if unwritten.is_some() => Err(slammed(&How::UpstreamReset, tls.own())),
            Err(_) => {
                let deadline = Instant::now() + FAREWELL;
                let goodbye = async {
                    if !farewell.is_empty() {
                        // An error: it hung up, and how it did shows in a moment.
                        carried.say(stream, farewell).await.ok();
                    }
                    carried.close(stream).await
                };
                // How a server answers the goodbye is its own business; only a refusal of our certificate is not.
                match tokio::time::timeout_at(deadline, goodbye).await {
                    Ok(how @ How::TlsAlert(_)) => late_failure(&how, false, tls).map_or(Ok(()), Err),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        }
    }
}

fn slammed(how: &How, ours: Option<&PeerFacts>) -> Failure {
    let did = match how {
        How::Closed => "closed",
        How::Truncated => "dropped",
        _ => "reset",
    };
    let detail =
        format!("the server {did} the connection right after the handshake, before anybody had said a thing");
    let failure = Failure::upstream(Stage::Handshake, Reason::EarlyClose, detail);
    match ours {
        None => failure,
        Some(ours) => failure.mend(format!(
            "look in the server's log for why it hung up: may {} come in, and from this host?",
            ours.subject
        )),
    }
}
