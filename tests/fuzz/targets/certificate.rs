//! A server's certificate, as it is described in records, failures and by probe: any bytes are described or said to be odd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::tls::describe_peer;
use rustls_pki_types::CertificateDer;

fuzz_target!(|der: &[u8]| {
    let facts = describe_peer(&CertificateDer::from(der));
    // What goes into a log line keeps it one line.
    assert!(!facts.subject.contains('\n') && !facts.issuer.contains('\n'));
    assert!(!facts.san.iter().any(|name| name.contains('\n')));
});
