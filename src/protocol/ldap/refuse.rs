//! No, in LDAP: the response to what the client asked, with a result and words; or the notice of disconnection.

use zeroize::{Zeroize, Zeroizing};

use super::message::{Message, Reader, UNBIND_REQUEST, response};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::sentence::sentence;
use crate::protocol::{Refusal, Talk};

/// Of the words; what is longer is in the log.
const LONGEST: usize = 1500;

/// Answers what the client was left waiting for; else its next request.
pub(in crate::protocol) struct Refused {
    code: u32,
    diagnostic: String,
    /// What it has said; a password may be among it.
    said: Zeroizing<Vec<u8>>,
    reader: Reader,
}

impl Refused {
    pub(in crate::protocol) fn new(refusal: &Refusal<'_>) -> Refused {
        Refused {
            code: code(refusal.failure.reason),
            diagnostic: sentence(refusal, LONGEST),
            said: refusal.said.to_vec().into(),
            reader: Reader::default(),
        }
    }

    /// The answer to one message, or none.
    fn answer(&self, message: &Message) -> Option<Vec<u8>> {
        let kind = message.answered_by()?;
        Some(response(Some((message.id, kind)), self.code, &self.diagnostic))
    }

    /// Whatever is no LDAP gets what a server has to say to that.
    fn notice(&self) -> Vec<u8> {
        response(None, self.code, &self.diagnostic)
    }
}

impl Talk for Refused {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        let before = std::mem::take(&mut self.said);
        let mut rest = &before[..];
        // All that it waits for; of what comes now the first, as there is no telling what else would come.
        let mut is_answered = false;
        while let Ok(Some(message)) = self.reader.next(&mut rest) {
            if let Some(answer) = self.answer(&message) {
                say.extend(answer);
                is_answered = true;
            }
        }
        let mut rest = &heard[..];
        while !is_answered {
            match self.reader.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    let answer = self.answer(&message);
                    is_answered = answer.is_some() || message.kind == UNBIND_REQUEST;
                    say.extend(answer.unwrap_or_default());
                }
                Err(_) => {
                    say.extend(self.notice());
                    is_answered = true;
                }
            }
        }
        heard.zeroize();
        Ok(is_answered.then_some(()))
    }

    fn awaits(&self) -> &'static str {
        "the client's first request"
    }

    fn ended(&self, _: &[u8]) -> Option<Failure> {
        let detail = "the client left before its first request";
        Some(Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail))
    }
}

/// What a client makes its own decisions by: at 51 and 52 many a client with several servers asks the next.
fn code(reason: Reason) -> u32 {
    match reason {
        // protocolError
        Reason::PrefaceTimeout | Reason::BadPreface => 2,
        // insufficientAccessRights
        Reason::AdmissionDenied => 50,
        // busy
        Reason::ConnectionLimitReached | Reason::QueueTimeout => 51,
        // unavailable
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationNotFound
        | Reason::DestinationUnavailable
        | Reason::DestinationIpProhibited
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::CircuitOpen
        | Reason::NegotiationRefused
        | Reason::NegotiationError
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::ClientCertificateRefused
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout
        | Reason::LifetimeReached
        | Reason::EstablishTimeout
        | Reason::Draining
        | Reason::ProxyConfigurationError => 52,
        // loopDetect
        Reason::ProxyLoopDetected => 54,
        // other
        Reason::ProxyInternalError => 80,
    }
}
