//! LMTP: either side's words until a session has begun.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::Protocol;

fuzz_target!(|input: &[u8]| conversation::run(Protocol::Lmtp, input));
