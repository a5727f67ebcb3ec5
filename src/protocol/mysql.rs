//! MySQL's and MariaDB's client/server protocol, as far as TLS in the middle concerns it.
//!
//! The server speaks first, and reads a client's capabilities, packet size and character set only once: before TLS. So its
//! greeting is read (`negotiate`), told to the client without TLS, and what the client answers is what the server is asked
//! for TLS with (`interview`). Inside TLS the client's answer goes up, one number later than the client counts; numbers are
//! mended, and what only the two ends of a TLS connection may say is said in their place (`greet`, `rsa`), until the server
//! lets the client in or not. From there on no byte is looked at. `refuse` says no as the server would, and `login` is the
//! health check's own conversation.
//!
//! Owns the framing and the flags that these have in common. Leaves to the two peers what TLS does not change.

mod asked;
mod auth;
mod first_word;
mod greet;
mod greeting;
mod interview;
mod login;
mod negotiate;
mod refuse;
mod response;
mod rsa;
#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

use super::{
    Asking, Credentials, Dialect, Facts, First, Interviewed, Meeting, Negotiated, Offer, Ports, Refusal, Say,
    Talk,
};
use crate::relay::Greeting;

use greet::greet;
use interview::Interview;
use login::Login;
use negotiate::Negotiation;
use refuse::refusal;

const FACTS: Facts = Facts {
    name: "mysql",
    title: "MySQL and MariaDB",
    first: First::Server,
    asks_with: Some("SSLRequest"),
    alpn: None,
    ports: Ports { plain: Some(3306), direct: None },
    refuses_with: "ERR packet: 1040 (limits), 1053 (draining), 1130 (not allowed), 1159 (too slow) or 1158",
    limits: "the client's own TLS (--skip-ssl, sslmode=DISABLED or PREFERRED), but where its listener has TLS; over TCP, a \
             client without it that has caching_sha2_password \
             or sha256_password has to ask for the server's RSA key (--get-server-public-key, \
             allowPublicKeyRetrieval=true); COM_CHANGE_USER to an account of these two plugins that is not in the \
             server's cache; clients of before 4.1",
};

pub(super) struct Mysql;

impl Dialect for Mysql {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(asking.alone)))
    }

    fn interview(
        &self,
        negotiated: &Negotiated,
        offer: Offer,
    ) -> Option<Box<dyn Talk<Outcome = Interviewed>>> {
        Some(Box::new(Interview::new(&negotiated.greeting, offer)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(refused))))
    }

    fn login(
        &self,
        negotiated: &Negotiated,
        credentials: Credentials,
    ) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Login::new(negotiated, credentials)))
    }

    /// A login that is refused is nothing that a server counts.
    fn parting(&self, negotiated: &Negotiated) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Login::in_vain(negotiated)))
    }

    fn never_warm(&self) -> Option<&'static str> {
        Some("one that ends before its login counts as aborted, and its host may be blocked for it")
    }

    /// After `max_connect_errors` of them in a row.
    fn blocks_hosts(&self) -> bool {
        true
    }

    /// After COM_QUIT, and after an ERR, they just close.
    fn hangs_up(&self) -> bool {
        true
    }

    fn prepare(&self) {
        rsa::prepare();
    }
}

/// Length (three bytes, least first) and number, before each packet.
const HEADER: usize = 4;
/// Nothing that is said before a client is let in comes near.
const LONGEST: usize = 64 * 1024;

/// Capabilities, as both sides write them into four bytes. MariaDB calls this one CLIENT_MYSQL: where it is missing, what
/// is reserved elsewhere has MariaDB's own.
const LONG_PASSWORD: u32 = 1;
const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const LONG_AUTH: u32 = 1 << 21;
const FACTORS: u32 = 1 << 28;

/// What a packet of the server's begins with, before a client is let in.
const OK: u8 = 0;
const MORE: u8 = 1;
const NEXT_FACTOR: u8 = 2;
const SWITCH: u8 = 0xfe;
const ERR: u8 = 0xff;

/// A packet at the front of what was heard.
struct Packet<'a> {
    number: u8,
    body: &'a [u8],
}

impl Packet<'_> {
    /// With its header.
    fn length(&self) -> usize {
        HEADER + self.body.len()
    }
}

/// It says of itself that it is longer than anything that belongs here.
struct TooLong;

/// The first packet, if it is there as a whole.
fn first_packet(heard: &[u8], longest: usize) -> Result<Option<Packet<'_>>, TooLong> {
    let Some(&[a, b, c]) = heard.first_chunk() else { return Ok(None) };
    let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    if length > longest {
        return Err(TooLong);
    }
    let (number, body) = (heard.get(3), heard.get(HEADER..HEADER + length));
    Ok(number.zip(body).map(|(number, body)| Packet { number: *number, body }))
}

/// Bytes that are taken from the front.
#[derive(Default)]
struct Kept {
    bytes: Zeroizing<Vec<u8>>,
    /// So many of them are taken.
    taken: usize,
}

impl Kept {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Moves what is left to the front. Once for all that was heard: who says much in small packets must not cost more.
    fn settle(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
    }
}

/// A body with its header. Bodies are short here: of a longer one the front.
fn put_packet(number: u8, body: &[u8], onward: &mut Vec<u8>) {
    let body = &body[..body.len().min(LONGEST)];
    let [a, b, c, ..] = u32::try_from(body.len()).unwrap_or_default().to_le_bytes();
    onward.extend([a, b, c, number]);
    onward.extend_from_slice(body);
}

/// Up to the zero byte, and what stands behind it.
fn up_to_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
