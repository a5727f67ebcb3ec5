//! XMPP: either side's words until a session has begun. Inside TLS the client's go on as they came, and of the server's
//! only whole elements are left out.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::{Meeting, Negotiated, Offer, Opening, Protocol};
use nuncio::relay::Greeting;

const HEADER: &[u8] = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";

/// What a server says behind its header, and what is left of it.
fn only_loses_elements(words: &[u8]) {
    let meeting = Meeting {
        opening: Opening { bytes: HEADER.to_vec(), ..Opening::default() },
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key: Box::new(drop),
    };
    let Greeting { mut onward, greeter } = Protocol::Xmpp.greet(meeting);
    let mut greeter = greeter.expect("somebody reads along");
    greeter.upstream_said(HEADER, &mut onward).expect("a header");
    assert!(onward.up == HEADER && onward.down == HEADER);
    if greeter.upstream_said(words, &mut onward).is_err() {
        return;
    }
    // With this the client is past the beginning: nothing is kept back any more, unless the server's offer is to come.
    greeter.client_said(b"<auth/>", &mut onward).expect("no objection");
    let mut said = words;
    for byte in &onward.down[HEADER.len()..] {
        let at = said.iter().position(|said| said == byte).expect("nothing is put in, and in the same order");
        said = &said[at + 1..];
    }
    let tags = |bytes: &[u8]| bytes.iter().filter(|byte| b"<>".contains(byte)).count();
    if greeter.is_done() {
        let is_cut = onward.down.len() - HEADER.len() < words.len();
        assert!(!is_cut || tags(words) >= tags(&onward.down[HEADER.len()..]) + 2, "whole tags are left out");
    }
}

fuzz_target!(|input: &[u8]| {
    conversation::run(Protocol::Xmpp, input);
    only_loses_elements(input);
});
