//! Addresses as people write them: any text is an address or an error, and an address is read back as it was printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::addr::{EndpointAddr, ListenAddr};

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<EndpointAddr>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(address) = text.parse::<ListenAddr>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
});
