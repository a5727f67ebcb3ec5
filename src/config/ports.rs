//! An endpoint that was written without a port is at its protocol's own: the one where a connection begins in plaintext, or
//! that for TLS from the first byte.

use super::file;
use super::kinds::Entry;
use super::reader::Reader;
use super::section::{At, Field};
use super::upstreams::mode;
use crate::addr::EndpointAddr;
use crate::protocol::Protocol;
use crate::tls::Mode;

/// Stands for the port of an address that was written without. None can be dialled by it, so nobody writes it.
pub(super) const UNWRITTEN: u16 = 0;

/// Gives every address its port, before anything else looks at it.
pub(super) fn fill(upstreams: &mut [Entry<file::Upstream>], reader: &mut Reader) {
    for Entry { section, .. } in upstreams {
        let protocol = section.protocol.or(Protocol::default());
        let ports = protocol.facts().ports;
        let port = match mode(section, protocol) {
            Mode::Negotiate | Mode::Off => ports.plain,
            Mode::Direct => ports.direct,
        };
        // Where the protocol itself is a mistake, what is missing is not known either.
        let is_known = !matches!(section.protocol, Field::Bad) && !matches!(section.tls, Field::Bad);
        let mut give = |address: &mut Field<EndpointAddr>| {
            let Field::Given(At { value, place }) = address else { return };
            if value.port != UNWRITTEN {
                return;
            }
            match port {
                Some(port) => value.port = port,
                None => {
                    let host = EndpointAddr { port: 1, ..value.clone() }.to_string();
                    let host = host.strip_suffix(":1").unwrap_or(&host);
                    if is_known {
                        reader.problem(place, format!("'{host}' has no port"), format!("write {host}:PORT"));
                    }
                    *address = Field::Bad;
                }
            }
        };
        give(&mut section.dns);
        if let Field::Given(endpoints) = &mut section.endpoints {
            for endpoint in &mut endpoints.value {
                give(&mut endpoint.value.address);
            }
        }
    }
}
