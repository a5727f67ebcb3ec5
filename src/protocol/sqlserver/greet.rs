//! The client is given the server's PRELOGIN without encryption in it, and logs in; from the server's answer on no byte is
//! looked at.
//!
//! Where TLS came first (TDS 8), PRELOGIN itself runs inside it, and only then is the answer changed on its way.

use zeroize::Zeroizing;

use super::super::first_words::{self, MOST};
use super::super::{Negotiated, Opening};
use super::packet::{LOGIN7, Message, PRELOGIN, TABULAR, message};
use super::prelogin::{Encryption, Prelogin};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "set Encrypt=no or optional in the client (encrypt=false in JDBC, encryption = off in freetds.conf): nuncio speaks TLS to the server";

/// `secured`: the server is reached through TLS. Towards one that is not, nothing is changed: a client's own encryption is
/// then all that there is.
pub(super) fn greet(opening: Opening, negotiated: Negotiated, secured: bool) -> Greeting {
    let asked = match message(&opening.bytes, PRELOGIN) {
        Message::Whole { payload, length } => Prelogin::read(&payload).map(|prelogin| (prelogin, length)),
        Message::Part | Message::Odd(_) => None,
    };
    let Some((mut prelogin, length)) = asked.filter(|_| secured) else {
        // A client of TDS 7.0 has logged in at once: the server's PRELOGIN was an answer to ours.
        return first_words::greet(opening, secured);
    };
    let (asked, behind) = opening.bytes.split_at(length);
    let insists = matches!(prelogin.encryption(), Some(Encryption::On | Encryption::Required));
    let mut login =
        Login { insists, said: Zeroizing::default(), answer: None, is_answered: false, asked: Vec::new() };
    login.remember(behind);
    let mut onward = Onward { up: Vec::new(), down: negotiated.greeting };
    if onward.down.is_empty() {
        prelogin.set(Encryption::NotSupported);
        prelogin.ask(&mut onward.up);
        login.answer = Some(Vec::new());
        login.asked = asked.to_vec();
    }
    onward.up.extend_from_slice(behind);
    Greeting { onward, greeter: Some(Box::new(login)) }
}

/// Reads along until the server has answered the login.
struct Login {
    /// The client wants encryption of its own.
    insists: bool,
    /// The server's PRELOGIN so far, of which nothing has gone on yet; `None`: the client has it.
    answer: Option<Vec<u8>>,
    /// With that: the client's.
    asked: Vec<u8>,
    /// What the client said behind its PRELOGIN, up to [`MOST`]: its login, in which a password is only scrambled.
    said: Zeroizing<Vec<u8>>,
    is_answered: bool,
}

impl Login {
    fn remember(&mut self, heard: &[u8]) {
        let room = MOST - self.said.len();
        if !heard.is_empty() {
            self.said.reserve_exact(room); // what grows leaves copies behind
        }
        self.said.extend(heard.iter().take(room));
    }
}

impl Greeter for Login {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let begins = self.said.is_empty() && self.answer.is_none() && !self.is_answered;
        if begins && heard.first().is_some_and(|first| *first != LOGIN7) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client was told that there is no encryption, and began something else than its login",
                mend: SWITCH_OFF,
            });
        }
        self.remember(heard);
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let Some(mut answer) = self.answer.take() else {
            self.is_answered |= !heard.is_empty();
            onward.down.extend_from_slice(heard);
            return Ok(());
        };
        answer.extend_from_slice(heard);
        let (prelogin, length) = match message(&answer, TABULAR) {
            Message::Part => {
                self.answer = Some(answer);
                return Ok(());
            }
            Message::Odd(_) => (None, 0),
            Message::Whole { payload, length } => (Prelogin::read(&payload), length),
        };
        match prelogin {
            Some(mut prelogin) => {
                prelogin.set(Encryption::NotSupported);
                prelogin.put(TABULAR, &mut onward.down);
                let behind = &answer[length..];
                self.is_answered = !behind.is_empty();
                onward.down.extend_from_slice(behind);
            }
            // An error, most likely: the client's to read.
            None => {
                self.is_answered = true;
                onward.down.append(&mut answer);
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_answered
    }

    fn may_refuse(&self) -> bool {
        !self.is_answered
    }

    fn unanswered(&self) -> Vec<u8> {
        match &self.answer {
            Some(_) => [&self.asked[..], &self.said].concat(),
            None => self.said.to_vec(),
        }
    }

    fn why_ended(&self) -> Option<Remark> {
        let left = self.insists && self.answer.is_none() && self.said.is_empty() && !self.is_answered;
        left.then(|| Remark {
            of: Party::Client,
            detail: "the client left when it was told that there is no encryption: it insists on its own"
                .into(),
            mend: SWITCH_OFF,
        })
    }
}
