//! A client's conversation with a server without TLS, or through its own: nothing is changed, and only who has not heard a
//! word yet can be told why there is none. Where that word is that the server can take nobody now, it is remembered.

use super::greeting::Said;
use super::negotiate::LONGEST_GREETING;
use super::{ERR, HEADER, first_packet};
use crate::relay::{Greeter, Objection, Onward, Party, Remark};

/// Stands for the number of the packet before the first one.
pub(super) const BEFORE_THE_FIRST: u8 = u8::MAX;

/// The time until the server's first packet.
#[derive(Default)]
pub(super) struct FirstWord {
    /// As far as it is not known what it is.
    heard: Vec<u8>,
    is_said: bool,
    is_over: bool,
    overload: Option<Remark>,
}

/// What an error is remembered as, if it says that the server can take nobody now. `instead`: of what it says so.
pub(super) fn overload(body: &[u8], instead: &str) -> Option<Remark> {
    let said = Said::read(body).filter(Said::is_overload)?;
    let (detail, mend) = said.words(instead);
    Some(Remark { of: Party::Upstream, detail: detail.into(), mend })
}

impl Greeter for FirstWord {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.is_said |= !heard.is_empty();
        if !self.is_over && self.overload.is_none() {
            self.heard.extend_from_slice(heard);
            let packet = first_packet(&self.heard, LONGEST_GREETING);
            match (self.heard.get(HEADER), packet) {
                (None | Some(&ERR), Ok(None)) => {}
                (_, Ok(Some(packet))) => {
                    self.overload = overload(packet.body, "its greeting");
                    self.is_over = self.overload.is_none();
                }
                _ => self.is_over = true,
            }
        }
        onward.down.extend_from_slice(heard);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_over
    }

    fn may_refuse(&self) -> bool {
        !self.is_said
    }

    fn why_ended(&self) -> Option<Remark> {
        self.overload.clone()
    }

    fn is_overloaded(&self) -> bool {
        self.overload.is_some()
    }

    fn unanswered(&self) -> Vec<u8> {
        vec![0, 0, 0, BEFORE_THE_FIRST]
    }
}
