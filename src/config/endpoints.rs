//! What the entries of `endpoints` mean, and whether tiers, zones and limits fit what there is.

use std::sync::Arc;

use super::file::{self, EndpointTable};
use super::reader::Reader;
use super::section::At;
use crate::discovery::Source;
use crate::upstream::EndpointSpec;

/// The endpoints as they are written.
pub(super) fn specs(endpoints: &At<Vec<At<EndpointTable>>>, reader: &mut Reader) -> Vec<EndpointSpec> {
    if endpoints.value.is_empty() {
        reader.problem(&endpoints.place, "is empty", "name one server at least, as HOST:PORT");
    }
    let mut specs: Vec<EndpointSpec> = Vec::new();
    for At { value: entry, .. } in &endpoints.value {
        let Some(At { value: address, place }) = entry.address.given() else { continue };
        if specs.iter().any(|known| known.address == *address) {
            reader.problem(
                place,
                format!("{address} is there twice"),
                "remove one; for a larger share, give it a weight",
            );
        }
        if let (Some(tier), Some(_)) = (entry.tier.given(), entry.backup.given()) {
            let mend = "keep one of them: backup = true is tier = 1";
            reader.problem(&tier.place, "stands beside `backup`", mend);
        }
        let tier = u16::try_from(entry.tier.or(0)).unwrap_or(u16::MAX);
        specs.push(EndpointSpec {
            weight: entry.weight.or(1),
            tier: tier.max(entry.backup.or(false).into()),
            zone: entry.zone.value().map(|zone| Arc::from(zone.as_str())),
            server_name: entry.server_name.value().cloned(),
            ..EndpointSpec::new(address.clone())
        });
    }
    if !specs.is_empty() && specs.iter().all(|spec| spec.weight == 0) {
        reader.warning(
            &endpoints.place,
            "every endpoint has weight 0",
            "give one a weight: no connection will be made",
        );
    }
    specs
}

/// Warns of keys that come to nothing: whoever wrote them expects something of them.
pub(super) fn fit(written: &file::Upstream, limits: &file::Limits, source: &Source, reader: &mut Reader) {
    // Whether there may be several tiers, somebody of our zone, and where they would be.
    let zone = written.zone.value().map(String::as_str);
    let (has_tiers, has_zone, knows) = match source {
        Source::Fixed(specs) => {
            let first = specs.iter().map(|spec| spec.tier).min();
            let several = specs.iter().any(|spec| Some(spec.tier) != first);
            (several, specs.iter().any(|spec| spec.zone.as_deref() == zone), "in `endpoints`")
        }
        Source::Dns(_) => (false, false, "in an answer of DNS"),
        Source::Srv(_) => (true, false, "in SRV records"),
        Source::Consul(consul) => (consul.near.is_some(), true, "in Consul without `near`"),
        Source::Kubernetes(_) => (false, true, "in EndpointSlices"),
        Source::File(_) => (true, true, "in the file"),
    };
    if let Some(spill_over) = written.spill_over.given().filter(|at| at.value.is_some())
        && !has_tiers
    {
        let message = format!("there is one tier only {knows}: its connections have nowhere else to go");
        reader.warning(&spill_over.place, message, "give some endpoints a tier (tier = 1), or remove it");
    }
    if let Some(zone) = written.zone.given().filter(|_| !has_zone) {
        let message = format!("no endpoint {knows} is in \"{}\": none is nearer than another", zone.value);
        let mend = format!("write zone = \"{}\" at those that are there, or remove it", zone.value);
        reader.warning(&zone.place, message, mend);
    }
    let entries = written.endpoints.value().into_iter().flatten();
    if let Some(zone) = entries.filter_map(|entry| entry.value.zone.given()).next()
        && written.zone.is_absent()
    {
        let mend = "add to the upstream where nuncio is: zone = \"eu-1a\", or zone = \"${ZONE}\"";
        reader.warning(&zone.place, "counts only where the upstream has a `zone` too", mend);
    }
    if let (Some(each), Some(all)) = (limits.connections_per_endpoint.given(), limits.connections.value())
        && each.value > *all
    {
        let message =
            format!("never comes to pass: limits.connections allows {all} at all endpoints together");
        reader.warning(&each.place, message, "lower it, or raise limits.connections");
    }
}
