//! What `when_unready` asks of the listeners that lead to an upstream.

use super::file::{self, UpstreamOf};
use super::kinds::Entry;
use super::reader::Reader;
use super::section::At;
use crate::addr::ListenAddr;
use crate::upstream::WhenUnready;

/// Listeners are closed only where that can be done, and only where all that they lead to wants it.
pub(super) fn listeners(
    upstreams: &[Entry<file::Upstream>],
    listeners: &[Entry<file::Listener>],
    reader: &mut Reader,
) {
    for Entry { name, section: listener, .. } in listeners {
        let behind: Vec<_> = names(listener)
            .into_iter()
            .filter_map(|name| upstreams.iter().find(|known| known.name == *name))
            .collect();
        let wants = |upstream: &&&Entry<file::Upstream>| {
            upstream.section.when_unready.value() == Some(&WhenUnready::Unlisten)
        };
        let Some(closing) = behind.iter().find(wants) else { continue };
        for At { value: address, place } in listener.address.value().into_iter().flatten() {
            if let ListenAddr::Systemd(_) = address {
                let message = format!(
                    "is systemd's own socket, which nuncio cannot close, and [upstream.{}] has when_unready = \"unlisten\"",
                    closing.name
                );
                let mend = "let nuncio listen itself (address = \"127.0.0.1:5432\"), or write when_unready = \"refuse\" or \"reset\" there";
                reader.problem(place, message, mend);
            }
        }
        let other = behind.iter().find(|upstream| !wants(upstream));
        if let (Some(other), Some(At { place, .. })) = (other, closing.section.when_unready.given()) {
            let message = format!(
                "does not close [listener.{name}], which leads to [upstream.{}] too, where that is not wanted",
                other.name
            );
            reader.warning(place, message, "write it in both, or give each upstream a listener of its own");
        }
    }
}

/// The upstreams that a listener leads to.
fn names(listener: &file::Listener) -> Vec<&String> {
    let one = listener.upstream.value().and_then(|upstream| match upstream {
        UpstreamOf::Name(name) => Some(name),
        // Those were moved to the others before.
        UpstreamOf::Inline(_) => None,
    });
    let of_split = listener.split.value().into_iter().flatten();
    let of_split = of_split.filter_map(|share| share.value.upstream.value());
    let asked_for = listener.upstreams.value().into_iter().flatten().map(|named| &named.value);
    one.into_iter().chain(of_split).chain(asked_for).collect()
}
