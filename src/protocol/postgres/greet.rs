//! Reads along while the client logs in: one message is mended, one is remembered, all else passes.
//!
//! A server that speaks TLS offers SCRAM bound to its channel (`SCRAM-SHA-256-PLUS`). The client, which has no TLS, takes
//! that offer for an attack and leaves; so it is taken out of the list. BackendKeyData is remembered: whoever sends it back
//! in a CancelRequest has to reach this very server.
//!
//! A client that speaks TLS to nuncio could bind as well, says so, and its server takes the list without bound mechanisms
//! for an attack. That client is told what to do before the server is asked.
//!
//! Messages pass as they come, held back only until they can be judged: by their first nine bytes, or whole where they are
//! the list or the key. With the key, with an error (which ends a session that has not begun), with ReadyForQuery, and
//! with anything that does not belong here, it is done: the peers know best what to make of that. An error by which a server
//! says that it can take nobody now (too many connections, starting, stopping) reaches the client as it is, and is
//! remembered: the next client may go elsewhere.

use super::super::{KeepKey, Meeting, Offer, SessionKey};
use super::negotiate::{Answer, Said};
use super::{PROCESS_ID, SECRET, length, number};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

/// Type and length.
const HEADER: usize = 5;
/// No message of the login comes near; what claims more is no message.
const LONGEST: usize = 16 * 1024 * 1024;
/// A longer list passes as it is: libpq itself takes none of over 2,000 bytes.
const LONGEST_LIST: usize = 16 * 1024;

/// What AuthenticationXxx asks for, as far as it matters here.
const CLEARTEXT_PASSWORD: u32 = 3;
const MD5_PASSWORD: u32 = 5;
const SASL: u32 = 10;

/// How a client's answer to the list begins, with the answer's length cut out: it could bind, and was not asked to.
const COULD_BIND: [&[u8]; 2] = [b"SCRAM-SHA-256\0", b"y,"];
const COULD_BIND_LENGTH: usize = HEADER + 14 + 4 + 2;

/// The client's first message goes up; whoever cancels has nothing to be read along with.
pub(in crate::protocol) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { opening, offer, keep_key, .. } = meeting;
    let could_bind = offer == Offer::Taken;
    let login = || Box::new(Login { could_bind, ..Login::new(keep_key) }) as Box<dyn Greeter>;
    let login = opening.cancels.is_none().then(login);
    Greeting { onward: Onward { up: opening.bytes, down: Vec::new() }, greeter: login }
}

/// The time from StartupMessage to BackendKeyData.
struct Login {
    /// Of the server's: the beginning of a message that cannot be judged yet.
    kept: Vec<u8>,
    /// So many bytes of the message that is passing are still to come.
    passing: usize,
    keep_key: Option<KeepKey>,
    /// What the client has been asked for, and has not answered.
    asked: Option<Asked>,
    /// The client speaks TLS to nuncio.
    could_bind: bool,
    /// How it answers a list that was mended.
    answer: Option<Vec<u8>>,
    /// The server's error, which has gone on.
    error: Option<Erring>,
    done: bool,
}

/// An error of the server's.
enum Erring {
    /// As far as it was heard.
    Heard(Vec<u8>),
    /// It can take nobody now.
    Overload(Said),
}

/// What a client may leave for.
#[derive(Clone, Copy)]
enum Asked {
    Password,
    /// By a list that had bound mechanisms.
    PasswordUnbound,
}

impl Login {
    fn new(keep_key: KeepKey) -> Login {
        Login {
            kept: Vec::new(),
            passing: 0,
            keep_key: Some(keep_key),
            asked: None,
            could_bind: false,
            answer: None,
            error: None,
            done: false,
        }
    }

    /// Looks at the message that begins at this place of `kept`. `false`: there is too little of it yet.
    fn judge(&mut self, at: &mut usize) -> Result<bool, Objection> {
        let kept = &self.kept[*at..];
        let Some(kind) = kept.first() else { return Ok(false) };
        if *kind == b'E' {
            self.error = Some(Erring::Heard(Vec::new()));
            return Ok(true);
        }
        if !b"RKSNv".contains(kind) {
            self.done = true;
            return Ok(true);
        }
        let Some(length) = length(kept, 1) else { return Ok(false) };
        let is_message = (4..=LONGEST).contains(&length);
        let whole = 1 + length;
        match kind {
            _ if !is_message => self.done = true,
            b'K' if !SECRET.contains(&length.saturating_sub(4 + PROCESS_ID)) => self.done = true,
            b'K' => {
                let Some(key) = kept.get(HEADER..whole) else { return Ok(false) };
                // Before the client has it: it may be very quick to cancel.
                if let Some(keep_key) = self.keep_key.take() {
                    keep_key(SessionKey::new(key));
                }
                self.done = true;
            }
            b'R' if length < 8 => self.done = true,
            b'R' => return self.judge_request(at, whole),
            _ => self.passing = whole,
        }
        Ok(true)
    }

    /// What the server wants for a proof. A list is mended where it stands, and begins later then.
    fn judge_request(&mut self, at: &mut usize, whole: usize) -> Result<bool, Objection> {
        let kept = &mut self.kept[*at..];
        let Some(request) = number(kept, HEADER) else { return Ok(false) };
        let is_list = request == SASL && whole <= LONGEST_LIST;
        let mended = match kept.get(..whole) {
            None if is_list => return Ok(false),
            Some(list) if is_list => without_bound(list)?,
            _ => None,
        };
        self.asked = match request {
            SASL if mended.is_some() => Some(Asked::PasswordUnbound),
            SASL | CLEARTEXT_PASSWORD | MD5_PASSWORD => Some(Asked::Password),
            _ => None,
        };
        self.passing = whole;
        if let Some(mended) = mended {
            let shorter = whole - mended.len();
            kept[shorter..whole].copy_from_slice(&mended);
            *at += shorter;
            self.passing = mended.len();
            self.answer = self.could_bind.then(Vec::new);
        }
        Ok(true)
    }

    /// The server's last words. What goes on does not wait for what they are.
    fn hear_error(&mut self, said: &[u8]) {
        let Some(Erring::Heard(heard)) = &mut self.error else { return };
        heard.extend_from_slice(said);
        match Answer::read(heard) {
            Answer::Part => {}
            Answer::Whole(said) if said.is_overload() => self.error = Some(Erring::Overload(said)),
            Answer::Whole(_) | Answer::Odd => (self.error, self.done) = (None, true),
        }
    }

    /// The server would take it for an attack, and say so in words that nobody can act on.
    fn hear_answer(&mut self, heard: &[u8]) -> Result<(), Objection> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        answer.extend(heard.iter().take(COULD_BIND_LENGTH - answer.len()));
        if answer.len() < COULD_BIND_LENGTH {
            return Ok(());
        }
        let [mechanism, flag] = COULD_BIND;
        let could_bind = answer[HEADER..].starts_with(mechanism) && answer.ends_with(flag);
        self.answer = None;
        match could_bind {
            false => Ok(()),
            true => Err(Objection {
                to: Party::Client,
                detail: "the client speaks TLS to nuncio and counts on SCRAM's channel binding, which cannot pass where TLS \
                         ends in between: its server would take that for an attack",
                mend: "set channel_binding=disable in the client (PGCHANNELBINDING, channelBinding in JDBC)",
            }),
        }
    }
}

impl Greeter for Login {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if !heard.is_empty() {
            self.asked = None;
        }
        self.hear_answer(heard)?;
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.kept.extend_from_slice(heard);
        let mut at = 0;
        let judged = loop {
            let now = self.passing.min(self.kept.len() - at);
            onward.down.extend_from_slice(&self.kept[at..at + now]);
            at += now;
            self.passing -= now;
            match self.passing > 0 {
                true => break Ok(()),
                false if self.error.is_some() => break Ok(()),
                false => match self.judge(&mut at) {
                    Ok(true) if !self.done => {}
                    judged => break judged.map(drop),
                },
            }
        };
        // Once, and not for each message: a server that sends many small ones must not cost more than it sends.
        self.kept.drain(..at);
        if self.error.is_some() {
            let said = std::mem::take(&mut self.kept);
            self.hear_error(&said);
            onward.down.extend(said);
        }
        if self.done {
            onward.down.append(&mut self.kept);
        }
        judged
    }

    fn is_done(&self) -> bool {
        self.done
    }

    /// Also after the server's first messages: between two of them an ErrorResponse is what a client must reckon with.
    fn may_refuse(&self) -> bool {
        !self.done && self.passing == 0 && self.error.is_none()
    }

    fn is_overloaded(&self) -> bool {
        matches!(self.error, Some(Erring::Overload(_)))
    }

    fn why_ended(&self) -> Option<Remark> {
        if let Some(Erring::Overload(said)) = &self.error {
            let (words, mend) = said.words();
            let detail = format!("the server can take nobody now: {words}").into();
            return Some(Remark { of: Party::Upstream, detail, mend });
        }
        let (detail, mend) = match self.asked? {
            Asked::Password => (
                "the client left when the server asked it for a password",
                "psql does so to ask its user for one, and comes again; a program has to be given its password",
            ),
            Asked::PasswordUnbound => (
                "the client left when the server asked it for a password: it has none, or insists on channel binding, \
                 which cannot pass where TLS ends in between",
                "give the client its password (psql asks for it and comes again), and set channel_binding=prefer or \
                 disable in it",
            ),
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend })
    }
}

/// AuthenticationSASL without the mechanisms that are bound to a TLS channel; `None`: it has none, or is no list.
fn without_bound(message: &[u8]) -> Result<Option<Vec<u8>>, Objection> {
    let (head, list) = message.split_at(HEADER + 4);
    let is_bound = |name: &[u8]| name.ends_with(b"-PLUS");
    let (mut kept, mut rest, mut bound) = (Vec::with_capacity(message.len()), list, Vec::new());
    kept.extend_from_slice(head);
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == 0) else { return Ok(None) };
        let (name, behind) = rest.split_at(end + 1);
        match &name[..end] {
            [] => break,
            mechanism if is_bound(mechanism) => bound.push(mechanism),
            _ => kept.extend_from_slice(name),
        }
        rest = behind;
    }
    if bound.is_empty() {
        return Ok(None);
    }
    if kept.len() == head.len() {
        // An empty list would do, but all that a client makes of it is "none of the mechanisms are supported".
        return Err(Objection {
            to: Party::Upstream,
            detail: "the server lets a client in only by SCRAM bound to its own TLS channel, and TLS ends at nuncio",
            mend: "offer SCRAM-SHA-256 there too",
        });
    }
    kept.extend_from_slice(rest);
    let length = u32::try_from(kept.len() - 1).unwrap_or(u32::MAX);
    kept[1..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(Some(kept))
}
