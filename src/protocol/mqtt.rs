//! MQTT 3.1, 3.1.1 and 5: TLS begins with the first byte, and changes nothing behind it.
//!
//! Owns how a refused client is told: its CONNECT says which version it speaks, and only CONNACK of version 5 has room for
//! words.

use std::mem;

use super::sentence::sentence;
use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk, first_words};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "mqtt",
    title: "MQTT",
    first: First::Client,
    asks_with: None,
    alpn: Some("mqtt"),
    ports: Ports { plain: Some(1883), direct: Some(8883) },
    refuses_with: "CONNACK: \"server unavailable\", and to MQTT 5 the reason in words",
    limits: "MQTT over WebSocket; in MQTT 5 a server may lead its clients elsewhere (Server Reference); health checks end with \
             TLS (a CONNECT would need a client's name and password)",
};

pub(super) struct Mqtt;

impl Dialect for Mqtt {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        first_words::greet(meeting.opening, meeting.secured)
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Refusing {
            reason: refusal.failure.reason,
            words: sentence(refusal, LONGEST_REASON),
            said: refusal.said.to_vec(),
        }))
    }
}

/// Kinds of packets, with their flags.
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
/// What a session's first packet begins with, in each version.
const NAMES: [&[u8]; 2] = [b"MQTT", b"MQIsdp"];
/// So much of a CONNECT is waited for: its properties are at its beginning, and matter little.
const MOST_HEARD: usize = first_words::MOST;
/// In bytes.
const LONGEST_REASON: usize = 1000;
/// Properties (MQTT 5, 2.2.2.2).
const REASON_STRING: u8 = 0x1f;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// Hears CONNECT, and answers it.
struct Refusing {
    reason: Reason,
    words: String,
    /// What the client had said before.
    said: Vec<u8>,
}

impl Talk for Refusing {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        if !self.said.is_empty() {
            heard.splice(..0, mem::take(&mut self.said));
        }
        let five = match connect(heard) {
            Connect::Part => return Ok(None),
            Connect::Not => return Err(not_mqtt()),
            Connect::Older => None,
            Connect::Five { most } => Some(most),
        };
        heard.clear();
        match five {
            None => say.extend_from_slice(&[CONNACK, 2, 0, return_code(self.reason)]),
            Some(most) => self.answer_five(most, say),
        }
        Ok(Some(()))
    }

    fn awaits(&self) -> &'static str {
        "the client's CONNECT"
    }
}

impl Refusing {
    /// With the reason in words, unless that makes a packet of more than the client takes.
    fn answer_five(&self, most: usize, say: &mut Vec<u8>) {
        let code = reason_code(self.reason);
        let mut properties = vec![REASON_STRING];
        properties.extend_from_slice(&u16::try_from(self.words.len()).unwrap_or(u16::MAX).to_be_bytes());
        properties.extend_from_slice(self.words.as_bytes());
        let mut body = vec![0, code];
        put_length(properties.len(), &mut body);
        body.extend_from_slice(&properties);
        let start = say.len();
        say.push(CONNACK);
        put_length(body.len(), say);
        say.extend_from_slice(&body);
        if say.len() - start > most {
            say.truncate(start);
            say.extend_from_slice(&[CONNACK, 3, 0, code, 0]);
        }
    }
}

/// What a client began with.
enum Connect {
    /// Too little to tell.
    Part,
    /// Something else.
    Not,
    /// Of a version before 5.
    Older,
    /// Of version 5, by a client that takes packets of so many bytes.
    Five { most: usize },
}

fn connect(heard: &[u8]) -> Connect {
    match heard.get(..MOST_HEARD) {
        None => read_connect(heard),
        // It may take small packets only; that is not waited for.
        Some(beginning) => match read_connect(beginning) {
            Connect::Part => Connect::Five { most: 0 },
            connect => connect,
        },
    }
}

fn read_connect(heard: &[u8]) -> Connect {
    let Some((first, rest)) = heard.split_first() else { return Connect::Part };
    if *first != CONNECT {
        return Connect::Not;
    }
    let (_, rest) = match length(rest) {
        Length::Part => return Connect::Part,
        Length::Not => return Connect::Not,
        Length::Of(length, rest) => (length, rest),
    };
    let is_name = |name: &&[u8]| {
        let written = [&[0, u8::try_from(name.len()).unwrap_or(0)], *name].concat();
        let now = written.len().min(rest.len());
        rest[..now] == written[..now]
    };
    let Some(name) = NAMES.iter().find(|name| is_name(name)) else { return Connect::Not };
    // The highest bit is a bridge's.
    match rest.get(2 + name.len()).map(|level| level & 0x7f) {
        None => Connect::Part,
        Some(5) => match rest.get(2 + name.len() + 4..).map(length) {
            None | Some(Length::Part) => Connect::Part,
            Some(Length::Not) => Connect::Not,
            Some(Length::Of(length, properties)) => match most_of(length, properties) {
                None => Connect::Part,
                Some(most) => Connect::Five { most },
            },
        },
        Some(_) => Connect::Older,
    }
}

/// How large a packet may be for a client with these properties; what they are that have no place here is not told apart.
/// `None`: too little of them to tell.
fn most_of(length: usize, heard: &[u8]) -> Option<usize> {
    let whole = heard.get(..length);
    let mut rest = whole.unwrap_or(heard);
    loop {
        let Some((property, behind)) = rest.split_first() else {
            return whole.map(|_| usize::MAX);
        };
        let text = |at: usize| {
            let length = behind.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))?;
            Some(at + 2 + usize::from(length))
        };
        let size = match property {
            &MAXIMUM_PACKET_SIZE => {
                let most = behind.first_chunk().map(|four| u32::from_be_bytes(*four));
                return match most {
                    Some(most) => Some(usize::try_from(most).unwrap_or(usize::MAX)),
                    None => whole.map(|_| usize::MAX),
                };
            }
            // Session expiry.
            0x11 => Some(4),
            // Receive maximum, topic alias maximum.
            0x21 | 0x22 => Some(2),
            // Wishes for problem and response information.
            0x17 | 0x19 => Some(1),
            // Authentication's method and data.
            0x15 | 0x16 => text(0),
            // A name and its value.
            0x26 => text(0).and_then(text),
            _ => return Some(usize::MAX),
        };
        match size.and_then(|size| behind.get(size..)) {
            Some(behind) => rest = behind,
            None => return whole.map(|_| usize::MAX),
        }
    }
}

/// A length in one to four bytes of seven bits each.
enum Length<'a> {
    Part,
    Not,
    Of(usize, &'a [u8]),
}

fn length(bytes: &[u8]) -> Length<'_> {
    let mut length = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Length::Of(length, &bytes[at + 1..]);
        }
    }
    if bytes.len() < 4 { Length::Part } else { Length::Not }
}

fn put_length(mut length: usize, to: &mut Vec<u8>) {
    while length > 0x7f {
        to.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    to.push(length as u8);
}

/// In CONNACK before MQTT 5.
fn return_code(reason: Reason) -> u8 {
    match reason {
        Reason::AdmissionDenied => 5, // not authorized
        _ => 3,                       // server unavailable
    }
}

/// In CONNACK of MQTT 5.
fn reason_code(reason: Reason) -> u8 {
    match reason {
        Reason::AdmissionDenied => 0x87, // not authorized
        Reason::ConnectionLimitReached | Reason::QueueTimeout => 0x89, // server busy
        _ => 0x88,                       // server unavailable
    }
}

fn not_mqtt() -> Failure {
    let detail = "the client's first packet is no CONNECT: this is not MQTT";
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}

#[cfg(test)]
mod tests;
