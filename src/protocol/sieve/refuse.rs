//! No, in ManageSieve: BYE with a code and a string, as a greeting or in place of any answer.

use super::response::in_quotes;
use crate::failure::Reason;
use crate::protocol::Refusal;
use crate::protocol::sentence::sentence;

/// Of the words. c-client and its kin cut at 1,000 bytes.
const LONGEST: usize = 900;

/// A quoted string holds 1,024 bytes, and a sentence is shorter: no client has to know literals to read it.
pub(in crate::protocol) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let words = in_quotes(sentence(refusal, LONGEST).as_bytes());
    // Who may not come will not be let in later.
    let code: &[u8] = match refusal.failure.reason {
        Reason::AdmissionDenied => b"",
        _ => b"(TRYLATER) ",
    };
    [b"BYE ", code, &words, b"\r\n"].concat()
}
