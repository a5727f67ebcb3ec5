//! LDAP: either side's words until a session has begun. Inside TLS all of them go on as they came.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::{Meeting, Negotiated, Offer, Opening, Protocol};
use nuncio::relay::Greeting;

/// In turns, each begun by how many bytes it has: first the client's, then the server's.
fn goes_on_as_it_came(mut turns: &[u8]) {
    let meeting = Meeting {
        opening: Opening::default(),
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key: Box::new(drop),
    };
    let Greeting { mut onward, greeter } = Protocol::Ldap.greet(meeting);
    let mut greeter = greeter.expect("somebody reads along");
    let (mut said, mut is_client) = ([Vec::new(), Vec::new()], true);
    while let [length, rest @ ..] = turns {
        let (words, behind) = rest.split_at(usize::from(*length).min(rest.len()));
        let gone_on = match is_client {
            true => greeter.client_said(words, &mut onward),
            false => greeter.upstream_said(words, &mut onward),
        };
        if gone_on.is_err() {
            // It began with TLS.
            assert!(is_client && words.first() == Some(&0x16) && said[0].is_empty());
            return;
        }
        said[usize::from(!is_client)].extend_from_slice(words);
        (turns, is_client) = (behind, !is_client);
        assert!(greeter.unanswered().len() < 4096, "what is remembered is bounded");
    }
    assert_eq!([onward.up, onward.down], said);
}

fuzz_target!(|input: &[u8]| {
    conversation::run(Protocol::Ldap, input);
    goes_on_as_it_came(input);
});
