//! No, in ManageSieve: BYE with a code and a string, as a greeting or in place of any answer.

use super::response::in_quotes;
use crate::failure::Reason;
use crate::protocol::Refusal;
use crate::protocol::sentence::sentence;

/// Of the words. A quoted string holds 1,024 bytes: no client has to know literals to read this one.
const LONGEST: usize = 900;

pub(in crate::protocol) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let words = in_quotes(sentence(refusal, LONGEST).as_bytes());
    // Who may not come will not be let in later.
    let code: &[u8] = match refusal.failure.reason {
        Reason::AdmissionDenied => b"",
        _ => b"(TRYLATER) ",
    };
    // Twice: sieve-connect answers BYE by LOGOUT, and prints it only when that is answered too.
    [b"BYE ", code, &words, b"\r\n"].concat().repeat(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Stage};

    fn refused(failure: &Failure) -> String {
        let refused = refusal(&Refusal { failure, id: "00c0ffee00c0ffee", greeted: false, said: b"" });
        let (line, again) = refused.split_at(refused.len() / 2);
        assert_eq!(line, again, "for LOGOUT too");
        String::from_utf8(line.to_vec()).unwrap()
    }

    #[test]
    fn a_client_reads_what_was_seen_what_to_do_and_where_to_look() {
        let failure =
            Failure::upstream(Stage::Negotiate, Reason::NegotiationError, "it begins with \"HTTP/1.1\\x0d\"");
        assert_eq!(
            refused(&failure),
            "BYE (TRYLATER) \"nuncio: it begins with \\\"HTTP/1.1\\\\x0d\\\"; is `protocol` the one that this server speaks? \
             (negotiation_error, connection 00c0ffee00c0ffee)\"\r\n"
        );
        let failure = Failure::upstream(Stage::Admit, Reason::AdmissionDenied, "not you");
        assert!(refused(&failure).starts_with("BYE \"nuncio: not you; "));
    }

    /// However many of its characters have to be escaped.
    #[test]
    fn every_reason_with_any_words_is_one_quoted_string() {
        for reason in Reason::ALL {
            let detail = "\"\\\r\n{5}\u{1F600}\0".repeat(200);
            let said = refused(&Failure::upstream(Stage::Relay, *reason, detail.clone()).mend(detail));
            let quoted = said.strip_suffix("\"\r\n").and_then(|said| said.split_once('"')).expect("quoted").1;
            assert!(quoted.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{said}");
            let mut letters = quoted.chars();
            let mut length = 0;
            while let Some(letter) = letters.next() {
                assert_ne!(letter, '"', "{said}");
                length += 1;
                if letter == '\\' {
                    assert!(matches!(letters.next(), Some('"' | '\\')), "{said}");
                }
            }
            assert!(length <= 1024, "{length}");
        }
    }
}
