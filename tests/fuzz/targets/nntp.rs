//! NNTP: either side's words until a session has begun.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;
#[path = "../offer.rs"]
mod offer;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::Protocol;

fuzz_target!(|input: &[u8]| {
    conversation::run(Protocol::Nntp, input);
    offer::run(Protocol::Nntp, input);
});
