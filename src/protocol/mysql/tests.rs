//! MySQL's packets: tables of situations, and what must hold however the bytes are cut and whatever they are.

mod before_tls;
mod check;
mod login;
mod refused;
mod sealed;
mod upgrade;

use super::*;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::{Opening, Protocol};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";
const SHA256: &str = "sha256_password";
const NONCE: &[u8; 20] = b"abcdefghABCDEFGHIJKL";
const OTHER_NONCE: &[u8; 20] = b"01234567890123456789";

fn packet(number: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    put_packet(number, body, &mut packet);
    packet
}

fn err(number: u8, code: u16, text: &str) -> Vec<u8> {
    packet(number, &[&[ERR][..], &code.to_le_bytes(), text.as_bytes()].concat())
}

fn ok(number: u8) -> Vec<u8> {
    packet(number, b"\0\0\0\x02\0\0\0")
}

fn switch(number: u8, plugin: &str, nonce: &[u8]) -> Vec<u8> {
    packet(number, &[&[SWITCH][..], plugin.as_bytes(), b"\0", nonce, b"\0"].concat())
}

/// A server, by what its greeting says.
#[derive(Clone)]
struct Server {
    version: &'static str,
    flags: u32,
    /// MariaDB's own capabilities.
    reserved: [u8; 10],
    plugin: &'static str,
}

impl Server {
    fn mysql() -> Server {
        Server { version: "9.7.4", flags: 0xdfff_ffff, reserved: [0; 10], plugin: CACHING_SHA2 }
    }

    fn mariadb() -> Server {
        Server {
            version: "5.5.5-10.11.19-MariaDB-0+deb12u1",
            flags: 0x81ff_fffe,
            reserved: [0, 0, 0, 0, 0, 0, 0x1d, 0, 0, 0],
            plugin: NATIVE,
        }
    }

    /// It knows of no plugins.
    fn old() -> Server {
        Server { version: "5.1.73-log", flags: 0xffff & !1, reserved: [0; 10], plugin: "" }
    }

    /// All of them.
    fn all() -> [Server; 3] {
        [Server::mysql(), Server::mariadb(), Server::old()]
    }

    fn greeting(&self) -> Vec<u8> {
        let Server { version, flags, reserved, plugin } = self;
        let [a, b, c, d] = flags.to_le_bytes();
        let length = if plugin.is_empty() { 0 } else { 21 };
        let mut body = vec![10];
        body.extend(version.bytes());
        body.extend([0, 7, 0, 0, 0]);
        body.extend(&NONCE[..8]);
        body.extend([0, a, b, 45, 2, 0, c, d, length]);
        body.extend(reserved);
        body.extend(&NONCE[8..]);
        body.push(0);
        if !plugin.is_empty() {
            body.extend(plugin.bytes());
            body.push(0);
        }
        packet(0, &body)
    }
}

/// The client's answer to it: with a user, a proof, a database, and a plugin's name.
fn response(plugin: &str, proof: &[u8]) -> Vec<u8> {
    response_of(0x01bf_a28d & !SSL, plugin, proof)
}

fn response_of(flags: u32, plugin: &str, proof: &[u8]) -> Vec<u8> {
    let mut body = flags.to_le_bytes().to_vec();
    body.extend([0, 0, 0, 1, 45]);
    body.extend([0; 19]);
    // MariaDB's own.
    body.extend([4, 0, 0, 0]);
    body.extend(b"erp\0");
    body.push(u8::try_from(proof.len()).unwrap());
    body.extend(proof);
    body.extend(b"orders\0");
    body.extend(plugin.bytes());
    body.extend(b"\0\x0d\x03_os\x05Linux\x01a\x00");
    packet(1, &body)
}

/// As a server gets it: told of TLS, and one later.
fn as_sent(response: &[u8]) -> Vec<u8> {
    let mut sent = response.to_vec();
    sent[3] += 1;
    sent[HEADER + 1] |= 0x08;
    sent
}

/// What a greeter came to.
#[derive(Debug, Default, PartialEq)]
struct Led {
    up: Vec<u8>,
    down: Vec<u8>,
    is_done: bool,
    may_refuse: bool,
    unanswered: Vec<u8>,
    why: Option<Remark>,
    objection: Option<Objection>,
}

/// A conversation inside TLS.
struct Scene {
    greeter: Box<dyn Greeter>,
    onward: Onward,
}

impl Scene {
    /// Behind TLS that was asked for in MySQL's way.
    fn new(server: &Server, response: &[u8]) -> Scene {
        Scene::of(Negotiated { greeting: server.greeting() }, response, true)
    }

    /// A TLS front before a server that knows nothing of it.
    fn direct() -> Scene {
        Scene::of(Negotiated::default(), b"", true)
    }

    fn of(negotiated: Negotiated, opening: &[u8], secured: bool) -> Scene {
        let opening = Opening { bytes: opening.to_vec(), ..Opening::default() };
        let keep_key = Box::new(drop);
        let meeting = Meeting { opening, negotiated, secured, offer: Offer::No, keep_key };
        let Greeting { onward, greeter } = Protocol::Mysql.greet(meeting);
        Scene { greeter: greeter.unwrap(), onward }
    }

    fn says(&mut self, by: Party, words: &[u8]) -> Result<(), Objection> {
        match by {
            Party::Client => self.greeter.client_said(words, &mut self.onward),
            _ => self.greeter.upstream_said(words, &mut self.onward),
        }
    }

    fn client(&mut self, words: &[u8]) -> &mut Scene {
        self.says(Party::Client, words).unwrap();
        self
    }

    fn server(&mut self, words: &[u8]) -> &mut Scene {
        self.says(Party::Upstream, words).unwrap();
        self
    }

    /// What has gone on since it was last asked.
    fn up(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.onward.up)
    }

    fn down(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.onward.down)
    }

    /// What it comes to if all that is said comes in pieces.
    fn lead(mut self, turns: &[(Party, Vec<u8>)], cut: &mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>) -> Led {
        let mut objection = None;
        'led: for (by, words) in turns {
            for piece in cut(words) {
                objection = self.says(*by, &piece).err();
                if objection.is_some() {
                    break 'led;
                }
            }
        }
        let Onward { up, down } = self.onward;
        Led {
            up,
            down,
            is_done: self.greeter.is_done(),
            may_refuse: self.greeter.may_refuse(),
            unanswered: self.greeter.unanswered(),
            why: self.greeter.why_ended(),
            objection,
        }
    }
}
