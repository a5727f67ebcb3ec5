//! MySQL: either side's words until a session has begun, and a server's words to a check that logs in.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::{Credentials, Negotiated, Protocol};

// The key that clients seal their passwords with takes its time, which is no input's fault.
fuzz_target!(init: Protocol::Mysql.prepare(), |input: &[u8]| {
    conversation::run(Protocol::Mysql, input);
    let [piece, length, words @ ..] = input else { return };
    let (greeting, words) = words.split_at(usize::from(*length).min(words.len()));
    let whole = check(greeting, words, usize::MAX);
    assert_eq!(check(greeting, words, usize::from(*piece).max(1)), whole);
    // It never says more than it is asked for, and its password only to a server that knows of its TLS.
    assert!(whole.0.len() <= 200 + words.len() * 70);
    let tells = whole.0.windows(PASSWORD.len()).any(|said| said == PASSWORD);
    assert!(!tells || !greeting.is_empty());
});

const PASSWORD: &[u8] = b"correct-horse-battery-staple";

/// What a check says to these words that come in such pieces, and what comes of it.
fn check(greeting: &[u8], words: &[u8], piece: usize) -> (Vec<u8>, Option<Result<(), String>>) {
    let credentials = Credentials { user: "checker".into(), password: PASSWORD.to_vec().into() };
    let negotiated = Negotiated { greeting: greeting.to_vec() };
    let Some(mut login) = Protocol::Mysql.login(&negotiated, credentials) else { return Default::default() };
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for piece in std::iter::once(&b""[..]).chain(words.chunks(piece)) {
        heard.extend_from_slice(piece);
        match login.hear(&mut heard, &mut said) {
            Ok(None) => assert!(heard.len() <= 70_000),
            Ok(Some(())) => return (said, Some(Ok(()))),
            Err(failure) => return (said, Some(Err(failure.to_string()))),
        }
    }
    (said, None)
}
