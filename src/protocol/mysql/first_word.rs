//! A client's conversation with a server without TLS, or through its own: nothing is changed, and only who has not heard a
//! word yet can be told why there is none.

use crate::relay::{Greeter, Objection, Onward};

/// Stands for the number of the packet before the first one.
pub(super) const BEFORE_THE_FIRST: u8 = u8::MAX;

/// The time until the server's first byte.
#[derive(Default)]
pub(super) struct FirstWord {
    is_said: bool,
}

impl Greeter for FirstWord {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.is_said |= !heard.is_empty();
        onward.down.extend_from_slice(heard);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_said
    }

    fn may_refuse(&self) -> bool {
        !self.is_said
    }

    fn unanswered(&self) -> Vec<u8> {
        vec![0, 0, 0, BEFORE_THE_FIRST]
    }
}
