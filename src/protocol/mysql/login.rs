//! A health check's own login: a connection that is broken off before its client is let in counts towards the server's
//! `max_connect_errors`, and a hundred of them block the host for everyone.
//!
//! Owns the two plugins that a check's user may have. Inside TLS only: what a server asks for in the clear, it gets there.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use zeroize::Zeroizing;

use super::super::reply::quoted;
use super::super::{Credentials, Negotiated, Talk};
use super::greeting::{HandshakeV10, Said};
use super::negotiate::own_words;
use super::{
    ERR, LONGEST, MORE, OK, PLUGIN_AUTH, Packet, SWITCH, TooLong, first_packet, put_packet, up_to_zero,
};
use crate::failure::{Failure, Reason, Side, Stage};

const NATIVE: &[u8] = b"mysql_native_password";
const CACHING_SHA2: &[u8] = b"caching_sha2_password";
const ED25519: &[u8] = b"client_ed25519";
/// What it takes for one, right or wrong.
const ED25519_PROOF: usize = 64;
/// Whom the server's log names where a client left before it had said who it is.
const NOBODY: &str = "nuncio-client-left";
/// A command's count begins anew.
const COM_QUIT: &[u8] = &[1, 0, 0, 0, 1];

/// From the greeting to OK.
pub(super) struct Login {
    user: String,
    password: Zeroizing<Vec<u8>>,
    /// What the server said before TLS; empty: it says it inside.
    greeting: Vec<u8>,
    /// The server asked for TLS itself, and knows that it is inside.
    is_behind_ssl_request: bool,
    is_greeted: bool,
    /// It cannot come to anything: why, once the server has said so.
    in_vain: Option<Failure>,
}

impl Login {
    pub(super) fn new(negotiated: &Negotiated, credentials: Credentials) -> Login {
        let Credentials { user, password } = credentials;
        Login {
            user,
            password,
            greeting: negotiated.greeting.clone(),
            is_behind_ssl_request: !negotiated.greeting.is_empty(),
            is_greeted: false,
            in_vain: None,
        }
    }

    /// A login by nobody, without TLS, that leads to an orderly refusal.
    pub(super) fn in_vain(negotiated: &Negotiated) -> Login {
        let credentials = Credentials { user: NOBODY.into(), password: Zeroizing::new(b"none".to_vec()) };
        Login { is_behind_ssl_request: false, ..Login::new(negotiated, credentials) }
    }

    /// The answer to the greeting.
    fn respond(&mut self, greeting: &Packet<'_>, say: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(said) = Said::read(greeting.body) {
            return Err(self.said_no(&said));
        }
        let Some(server) = HandshakeV10::read(greeting.body) else { return Err(odd("its greeting")) };
        self.is_greeted = true;
        let mut body = Zeroizing::new(own_words(&server, self.is_behind_ssl_request).to_vec());
        body.extend(self.user.bytes());
        body.push(0);
        let plugin = if server.plugin() == CACHING_SHA2 { CACHING_SHA2 } else { NATIVE };
        let proof = proof(plugin, &self.password, &server.nonce());
        body.push(u8::try_from(proof.len()).unwrap_or_default());
        body.extend(proof);
        if server.capabilities() & PLUGIN_AUTH != 0 {
            body.extend_from_slice(plugin);
            body.push(0);
        }
        // Between the two came the request for TLS.
        let number = if self.is_behind_ssl_request { 2 } else { 1 };
        put_packet(number, &body, say);
        Ok(())
    }

    /// What the server makes of it. `true`: we are in.
    fn hear_packet(&mut self, packet: &Packet<'_>, say: &mut Vec<u8>) -> Result<bool, Failure> {
        let mut answer = |body: &[u8]| put_packet(packet.number.wrapping_add(1), body, say);
        match packet.body {
            [OK, ..] => {
                say.extend_from_slice(COM_QUIT);
                return Ok(true);
            }
            [ERR, ..] => {
                let said = Said::read(packet.body).map(|said| self.said_no(&said));
                return Err(self.in_vain.take().or(said).unwrap_or_else(|| odd("an error without a number")));
            }
            [SWITCH, to @ ..] => match up_to_zero(to) {
                Some((plugin @ (NATIVE | CACHING_SHA2), nonce)) => {
                    let nonce = nonce.strip_suffix(&[0]).unwrap_or(nonce);
                    answer(&proof(plugin, &self.password, nonce));
                }
                // Who leaves now is counted as one who broke off; who says something wrong is not.
                other => {
                    let name = other.map_or(&b"mysql_old_password"[..], |(name, _)| name);
                    self.in_vain = Some(self.unknown_plugin(name));
                    answer(if name == ED25519 { &[0; ED25519_PROOF] } else { &[0] });
                }
            },
            _ if self.in_vain.is_some() => answer(&[0]),
            // It knew the hash; OK comes next.
            [MORE, 3] => {}
            [MORE, 4] if self.is_behind_ssl_request => {
                let password = Zeroizing::new([&self.password[..], &[0]].concat());
                answer(&password);
            }
            [MORE, 4] => {
                answer(&[0]);
                let detail = format!(
                    "the server asks for the password of '{}' itself, and does not know that it is spoken to through TLS",
                    self.user
                );
                let mend = "give that user mysql_native_password, or no password";
                self.in_vain = Some(ours(detail).mend(mend));
            }
            _ => return Err(odd("its answer to a login")),
        }
        Ok(false)
    }

    fn said_no(&self, said: &Said<'_>) -> Failure {
        let Said { number, text } = said;
        let detail = format!(
            "the server did not let the check's user '{}' in: error {number}: {}",
            self.user,
            quoted(text)
        );
        match number {
            // The server is well; it is the user who is not.
            1044 | 1045 | 1698 | 1820 | 1862 | 3118 | 4151 => ours(detail).mend(
                "compare health.user and health.password_file with the server's account (SHOW CREATE USER)",
            ),
            _ => Failure::upstream(Stage::Greet, Reason::NegotiationRefused, detail)
                .mend("look in the server's log for why"),
        }
    }

    fn unknown_plugin(&self, name: &[u8]) -> Failure {
        let detail = format!(
            "the check's user '{}' is to log in by {}, which a check cannot",
            self.user,
            quoted(name)
        );
        ours(detail).mend("give that user mysql_native_password or caching_sha2_password")
    }
}

impl Talk for Login {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        let greeting = std::mem::take(&mut self.greeting);
        if let Ok(Some(greeting)) = first_packet(&greeting, LONGEST) {
            self.respond(&greeting, say)?;
        }
        let mut taken = 0;
        let mut is_in = false;
        while !is_in {
            let packet = match first_packet(&heard[taken..], LONGEST) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(TooLong) => return Err(odd("a packet of over 64 KiB")),
            };
            match self.is_greeted {
                true => is_in = self.hear_packet(&packet, say)?,
                false => self.respond(&packet, say)?,
            }
            taken += packet.length();
        }
        heard.drain(..if is_in { heard.len() } else { taken });
        Ok(is_in.then_some(()))
    }

    fn awaits(&self) -> &'static str {
        if self.is_greeted { "the server's answer to the check's login" } else { "the server's greeting" }
    }
}

/// The hash that proves a password without telling it. No password is proven by nothing.
fn proof(plugin: &[u8], password: &[u8], nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let hash = |by: &'static Algorithm, of: &[&[u8]]| digest(by, &of.concat()).as_ref().to_vec();
    let (once, mask) = match plugin {
        CACHING_SHA2 => {
            let once = hash(&SHA256, &[password]);
            let twice = hash(&SHA256, &[&once]);
            let mask = hash(&SHA256, &[&twice, nonce]);
            (once, mask)
        }
        _ => {
            let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password]);
            let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
            let mask = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &twice]);
            (once, mask)
        }
    };
    once.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()
}

/// What says nothing about the server: it would take every endpoint down at a time.
fn ours(detail: String) -> Failure {
    Failure::new(Stage::Greet, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}

fn odd(what: &str) -> Failure {
    let detail = format!("what the server said to the check is none of MySQL's: {what}");
    Failure::upstream(Stage::Greet, Reason::NegotiationError, detail)
}
