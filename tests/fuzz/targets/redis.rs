//! Redis: what a refused client says and hears, and the first words of both sides.
#![no_main]

#[path = "../conversation.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::Protocol;

fuzz_target!(|input: &[u8]| conversation::run(Protocol::Redis, input));
