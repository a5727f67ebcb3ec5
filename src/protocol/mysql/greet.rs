//! Reads along until the server lets the client in, or not.
//!
//! The two count their packets differently, as the client knows nothing of the request for TLS: each gets the other's
//! packets under its own count. And where a client would have its password encrypted by the server's key, which a server
//! inside TLS has no use for, it is given ours, and the server the password.
//!
//! Packets go on as a whole, and none is longer than [`LONGEST`] before a client is let in. With the server's OK or ERR it
//! is done.

use zeroize::Zeroizing;

use super::super::{Meeting, Offer};
use super::asked::{Asked, NO_KEY, NOT_OPENED, too_long};
use super::auth::{Answer, Plugin, SEALED};
use super::first_word::{BEFORE_THE_FIRST, FirstWord, overload};
use super::greeting::{HandshakeV10, NONCE, with_ssl};
use super::interview::{take_ssl, why_unfit};
use super::response::{Response, SSL_AT, Unfit, with_proof};
use super::{
    ERR, FACTORS, HEADER, Kept, LONGEST, MORE, NEXT_FACTOR, OK, Packet, SWITCH, TooLong, first_packet,
    put_packet, rsa, up_to_zero,
};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

/// The client's answer goes up; towards a server without TLS nothing is changed.
pub(super) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { opening, negotiated, secured, offer, .. } = meeting;
    if !secured {
        return Greeting { onward: Onward::default(), greeter: Some(Box::new(FirstWord::default())) };
    }
    let client = Kept { bytes: Zeroizing::new(opening.bytes), taken: 0 };
    let is_inside = offer == Offer::Taken;
    let mut login = Login { client, is_inside, ..Login::default() };
    let mut onward = Onward::default();
    if !negotiated.greeting.is_empty() {
        login.is_behind_ssl_request = true;
        // A client that asked for TLS has counted its request, as the server has ours.
        login.server_is_ahead = u8::from(!is_inside);
        login.hear_greeting(negotiated.greeting.get(HEADER..).unwrap_or_default());
        login.begin(&mut onward);
    }
    Greeting { onward, greeter: Some(Box::new(login)) }
}

/// The time from the server's greeting to its OK.
#[derive(Default)]
struct Login {
    /// What each side said that has not gone on yet.
    client: Kept,
    server: Kept,
    phase: Phase,
    /// TLS was asked for in MySQL's own way, so that the server knows that it is inside.
    is_behind_ssl_request: bool,
    /// The server's count is ahead of the client's.
    server_is_ahead: u8,
    /// The client speaks TLS to nuncio, and its answer says so.
    is_inside: bool,
    /// The last packet's number, as the client counts.
    last: Option<u8>,
    plugin: Plugin,
    nonce: Vec<u8>,
    /// A client may have to log in by more than one plugin.
    has_factors: bool,
    /// What the client has been asked for, and has not answered.
    asked: Option<Asked>,
    /// The client was given our key, and has not said its password yet: it belongs here.
    sealed_for: Option<SealedFor>,
    /// What the server said, if that was that it can take nobody now.
    overload: Option<Remark>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The server's greeting is to come.
    #[default]
    Greeting,
    /// The client's answer to it is.
    Response,
    Login,
    Over,
}

/// Where a password goes that is sealed with our key.
enum SealedFor {
    /// Into the client's answer to the greeting, in the place of its first proof.
    Response(Zeroizing<Vec<u8>>),
    /// Into a packet of its own.
    Answer,
}

impl Login {
    /// What the server's greeting says that matters later.
    fn hear_greeting(&mut self, body: &[u8]) {
        self.phase = Phase::Response;
        self.last = Some(0);
        if let Some(greeting) = HandshakeV10::read(body) {
            self.nonce = greeting.nonce();
        }
    }

    /// The client's answer, which was read before; what stands behind it waits for its turn.
    fn begin(&mut self, onward: &mut Onward) {
        let mut client = std::mem::take(&mut self.client);
        if let Ok(Some(packet)) = first_packet(client.rest(), LONGEST) {
            if self.take_response(&packet, onward).is_err() {
                // Not reached: it was read before, and found fit.
                self.forward(&packet, onward);
            }
            client.taken += packet.length();
        }
        self.client = client;
    }

    fn work(&mut self, onward: &mut Onward) -> Result<(), Objection> {
        // One of the server's at a time: what it lets the client say is next, wherever the bytes were cut.
        loop {
            while self.phase != Phase::Over && self.take_of_client(onward)? {}
            if self.phase == Phase::Over || !self.take_of_server(onward)? {
                break;
            }
        }
        self.client.settle();
        self.server.settle();
        if self.phase == Phase::Over {
            onward.up.append(&mut self.client.bytes);
            onward.down.append(&mut self.server.bytes);
        }
        Ok(())
    }

    /// The server's next packet. `false`: it is not there yet.
    fn take_of_server(&mut self, onward: &mut Onward) -> Result<bool, Objection> {
        let mut server = std::mem::take(&mut self.server);
        let packet = first_packet(server.rest(), LONGEST).map_err(|TooLong| too_long(Party::Upstream))?;
        let length = packet.as_ref().map_or(0, Packet::length);
        if let Some(packet) = packet {
            self.hear_server(&packet, onward);
        }
        server.taken += length;
        self.server = server;
        Ok(length > 0)
    }

    fn hear_server(&mut self, packet: &Packet<'_>, onward: &mut Onward) {
        match self.phase {
            Phase::Greeting if HandshakeV10::read(packet.body).is_some() => {
                self.hear_greeting(packet.body);
                let start = onward.down.len();
                put_packet(packet.number, packet.body, &mut onward.down);
                take_ssl(&mut onward.down[start..]);
            }
            Phase::Login => {
                self.judge(packet.body);
                let number = packet.number.wrapping_sub(self.server_is_ahead);
                self.last = Some(number);
                put_packet(number, packet.body, &mut onward.down);
            }
            // It says no to whoever comes, or what the client may make of it.
            Phase::Greeting | Phase::Response | Phase::Over => {
                if self.phase == Phase::Greeting {
                    self.overload = overload(packet.body, "its greeting");
                }
                self.phase = Phase::Over;
                put_packet(packet.number, packet.body, &mut onward.down);
            }
        }
    }

    /// What the server's packet asks of the client.
    fn judge(&mut self, body: &[u8]) {
        self.asked = match body {
            [OK, ..] => {
                self.phase = Phase::Over;
                None
            }
            // What it was asked and did not answer may be what it left for: a server has an ERR even for the end of that. And
            // one place more than it has is there for its administrators: others are told no when they have logged in.
            [ERR, ..] => {
                self.phase = Phase::Over;
                self.overload = overload(body, "letting the client in");
                self.asked
            }
            [SWITCH, to @ ..] => Some(self.switch(to)),
            [NEXT_FACTOR, to @ ..] if self.has_factors => Some(self.switch(to)),
            // The server knew the hash by heart: OK comes next.
            [MORE, 3] if self.plugin == Plugin::CachingSha2 => None,
            [MORE, 4] if self.plugin == Plugin::CachingSha2 => Some(Asked::Password),
            _ => Some(Asked::More),
        };
    }

    /// Another plugin, and its nonce; without either, it is that of before 4.1.
    fn switch(&mut self, to: &[u8]) -> Asked {
        let (name, nonce) = up_to_zero(to).unwrap_or_default();
        self.plugin = Plugin::of(name);
        self.nonce = nonce[..nonce.len().min(NONCE)].to_vec();
        match self.plugin {
            Plugin::Sha256 => Asked::Password,
            _ => Asked::Switch,
        }
    }

    /// The client's next packet. `false`: it is not there yet, or it is not its turn.
    fn take_of_client(&mut self, onward: &mut Onward) -> Result<bool, Objection> {
        let mut client = std::mem::take(&mut self.client);
        let packet = first_packet(client.rest(), LONGEST).map_err(|TooLong| too_long(Party::Client))?;
        let packet = packet.filter(|packet| self.is_due(packet));
        let length = packet.as_ref().map_or(0, Packet::length);
        match packet {
            Some(packet) => self.take(&packet, onward)?,
            None if client.rest().len() > HEADER + LONGEST => return Err(too_long(Party::Client)),
            None => {}
        }
        client.taken += length;
        self.client = client;
        Ok(length > 0)
    }

    /// Nobody is asked before the greeting; and a command's count begins anew, so that one which comes before it is known
    /// whether the client may come in has to wait.
    fn is_due(&self, packet: &Packet<'_>) -> bool {
        match self.phase {
            Phase::Greeting | Phase::Over => false,
            Phase::Response => true,
            Phase::Login => packet.number != 0 || self.last == Some(BEFORE_THE_FIRST),
        }
    }

    fn take(&mut self, packet: &Packet<'_>, onward: &mut Onward) -> Result<(), Objection> {
        if self.phase == Phase::Response {
            return self.take_response(packet, onward);
        }
        if let Some(sealed_for) = self.sealed_for.take() {
            return self.unseal(sealed_for, packet, onward);
        }
        let tells_password = self.is_behind_ssl_request && self.asked == Some(Asked::Password);
        match self.plugin.tells(packet.body) {
            Answer::AsksKey if tells_password => self.give_key(SealedFor::Answer, packet, onward),
            Answer::Sealed if tells_password => {
                Err(Objection { to: Party::Client, detail: SEALED.0, mend: SEALED.1 })
            }
            _ => {
                self.forward(packet, onward);
                Ok(())
            }
        }
    }

    fn take_response(&mut self, packet: &Packet<'_>, onward: &mut Onward) -> Result<(), Objection> {
        let response = match self.is_inside {
            true => Response::read_any(packet.body),
            false => Response::read(packet.body),
        };
        let response = match response {
            Ok(response) => response,
            // Behind TLS that is none of MySQL's, a server may well have use for it.
            Err(Unfit::Old | Unfit::Odd) if !self.is_behind_ssl_request => {
                self.forward(packet, onward);
                self.phase = Phase::Over;
                return Ok(());
            }
            Err(unfit) => {
                let (detail, mend) = why_unfit(unfit);
                return Err(Objection { to: Party::Client, detail, mend });
            }
        };
        self.phase = Phase::Login;
        self.plugin = Plugin::of(response.plugin);
        self.has_factors = response.flags & FACTORS != 0;
        if !self.is_behind_ssl_request {
            self.forward(packet, onward);
            return Ok(());
        }
        let asks_key = self.plugin.answers(response.proof) == Answer::AsksKey;
        let mut body = Zeroizing::new(packet.body.to_vec());
        if let Some(byte) = body.get_mut(SSL_AT) {
            *byte = with_ssl(*byte);
        }
        match asks_key {
            true => self.give_key(SealedFor::Response(body), packet, onward),
            false => {
                self.forward(&Packet { number: packet.number, body: &body }, onward);
                Ok(())
            }
        }
    }

    /// Answers in the server's place. That makes two packets of which the server knows nothing.
    fn give_key(
        &mut self,
        sealed_for: SealedFor,
        packet: &Packet<'_>,
        onward: &mut Onward,
    ) -> Result<(), Objection> {
        let key = rsa::key().ok_or(NO_KEY)?;
        let number = packet.number.wrapping_add(1);
        put_packet(number, &[&[MORE], key.pem.as_bytes()].concat(), &mut onward.down);
        self.last = Some(number);
        self.server_is_ahead = self.server_is_ahead.wrapping_sub(2);
        self.asked = Some(Asked::More);
        self.sealed_for = Some(sealed_for);
        Ok(())
    }

    /// The password goes to the server as one inside TLS expects it.
    fn unseal(
        &mut self,
        sealed_for: SealedFor,
        packet: &Packet<'_>,
        onward: &mut Onward,
    ) -> Result<(), Objection> {
        let key = rsa::key().ok_or(NO_KEY)?;
        let password = key.open(packet.body, &self.nonce).ok_or(NOT_OPENED)?;
        let number = packet.number;
        match sealed_for {
            SealedFor::Answer => self.forward(&Packet { number, body: &password }, onward),
            SealedFor::Response(response) => {
                let body = with_proof(&response, &password).ok_or(NOT_OPENED)?;
                self.forward(&Packet { number, body: &body }, onward);
            }
        }
        Ok(())
    }

    fn forward(&mut self, packet: &Packet<'_>, onward: &mut Onward) {
        self.last = Some(packet.number);
        self.asked = None;
        put_packet(packet.number.wrapping_add(self.server_is_ahead), packet.body, &mut onward.up);
    }
}

impl Greeter for Login {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.client.bytes.extend_from_slice(heard);
        self.work(onward)
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.server.bytes.extend_from_slice(heard);
        self.work(onward)
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Over && self.asked.is_none() && self.overload.is_none()
    }

    /// Packets go on as a whole: between any two of them an ERR is what a client must reckon with.
    fn may_refuse(&self) -> bool {
        self.phase != Phase::Over
    }

    /// The header of the client's last packet. Where it is the client's turn, its next one: it speaks before it listens.
    fn unanswered(&self) -> Vec<u8> {
        let number = match self.last {
            None => BEFORE_THE_FIRST,
            Some(last) if self.asked.is_some() || self.phase == Phase::Response => last.wrapping_add(1),
            Some(last) => last,
        };
        vec![0, 0, 0, number]
    }

    fn is_overloaded(&self) -> bool {
        self.overload.is_some()
    }

    fn why_ended(&self) -> Option<Remark> {
        if self.overload.is_some() {
            return self.overload.clone();
        }
        self.asked?.left_for(self.plugin, self.is_behind_ssl_request)
    }
}
