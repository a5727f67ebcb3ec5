//! What a client says while it may still ask for TLS of its own: STARTTLS is taken here, and ends at its listener.
//!
//! A line goes on to the server only once its first word is known. What is sent before TLS may be anybody's (CVE-2011-0411):
//! nothing but what asks and greets goes on, and what stands behind STARTTLS ends the conversation.

use crate::protocol::Offer;
use crate::relay::{Objection, Party, Upgrade};

/// What goes on to the server. Of XCLIENT it would keep what it was told for what comes inside TLS.
const GOES_ON: [&[u8]; 6] = [b"EHLO", b"HELO", b"HELP", b"NOOP", b"QUIT", b"RSET"];
const STARTTLS: &[u8] = b"STARTTLS";

pub(super) const READY: &[u8] = b"220 2.0.0 Ready to start TLS\r\n";
const NO_PARAMETERS: &[u8] = b"501 5.5.4 STARTTLS takes no parameters\r\n";
const FIRST: &[u8] = b"530 5.7.0 Must issue a STARTTLS command first\r\n";

/// The line that is being read.
#[derive(Default)]
pub(super) struct Asking {
    /// What of it is not judged yet, as it came. Never longer than the longest word and the byte behind it.
    kept: Vec<u8>,
    fate: Fate,
    /// Something stands behind its first word.
    has_more: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Open,
    GoesOn,
    StartTls,
    TurnedDown,
}

/// What comes of a byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing yet.
    Nothing,
    /// These bytes go on.
    Onward(Vec<u8>),
    /// These bytes go on, and are the end of a command whose answer the server gives.
    Command(Vec<u8>),
    /// A command ended that is answered here.
    Answer(&'static [u8], Upgrade),
    /// It is none of those that may come before TLS, and TLS is not demanded: from here on nothing is looked at.
    Past(Vec<u8>),
}

impl Asking {
    pub(super) fn hear(&mut self, byte: u8, offer: Offer) -> Heard {
        let ends = byte == b'\n';
        if self.fate == Fate::Open {
            self.kept.push(byte);
            self.fate = self.judge(byte);
            match self.fate {
                Fate::Open => return Heard::Nothing,
                Fate::TurnedDown if offer != Offer::Required => {
                    return Heard::Past(std::mem::take(&mut self.kept));
                }
                Fate::GoesOn => {
                    let kept = std::mem::take(&mut self.kept);
                    return if ends { self.ended(kept) } else { Heard::Onward(kept) };
                }
                Fate::StartTls | Fate::TurnedDown => self.kept.clear(),
            }
        } else {
            self.has_more |= !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        }
        match (self.fate, ends) {
            (_, true) => self.ended(vec![byte]),
            (Fate::GoesOn, false) => Heard::Onward(vec![byte]),
            (_, false) => Heard::Nothing,
        }
    }

    /// By its first word, as soon as that can be no other.
    fn judge(&self, byte: u8) -> Fate {
        let ended = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let word = if ended { &self.kept[..self.kept.len() - 1] } else { &self.kept[..] };
        let is = |known: &[u8]| match ended {
            true => known.eq_ignore_ascii_case(word),
            false => known.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word)),
        };
        match (GOES_ON.iter().any(|known| is(known)), is(STARTTLS)) {
            (false, false) => Fate::TurnedDown,
            _ if !ended => Fate::Open,
            (true, _) => Fate::GoesOn,
            (false, true) => Fate::StartTls,
        }
    }

    fn ended(&mut self, rest: Vec<u8>) -> Heard {
        let Asking { fate, has_more, .. } = std::mem::take(self);
        match fate {
            Fate::StartTls if has_more => Heard::Answer(NO_PARAMETERS, Upgrade::None),
            Fate::StartTls => Heard::Answer(READY, Upgrade::Asked),
            Fate::TurnedDown => Heard::Answer(FIRST, Upgrade::None),
            Fate::GoesOn | Fate::Open => Heard::Command(rest),
        }
    }
}

/// Somebody sent more in plaintext than the request for TLS.
pub(super) const SLIPPED_IN: Objection = Objection {
    to: Party::Client,
    detail: "the client sent plaintext behind its STARTTLS, where only TLS may follow: it, or somebody on the way, tries to slip it in",
    mend: "if the client itself does that, update it: it must await the answer to STARTTLS",
};

#[cfg(test)]
mod tests;
