//! Where an upstream's endpoints come from: one source, and what its keys mean.

use std::net::SocketAddr;

use super::endpoints;
use super::file as written_as;
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field};
use crate::addr::Host;
use crate::discovery::{Origin, Source, consul, file, kubernetes};

/// Of a token.
const SEEN: &str = "is sent to another host in plaintext";

/// The one source that is written.
pub(super) fn source(written: &written_as::Upstream, place: &Place, reader: &mut Reader) -> Source {
    only_one(written, place, reader);
    if let Some(At { value: dns, place }) = written.dns.given() {
        if let Host::Ip(_) = dns.host {
            let mend = format!("write endpoints = [\"{dns}\"]");
            reader.problem(place, "wants a name to look up, and this is an address", mend);
        }
        return Source::Dns(dns.clone());
    }
    if let Some(srv) = written.srv.value() {
        return Source::Srv(srv.clone());
    }
    if let Some(at) = written.consul.given() {
        return Source::Consul(Box::new(consul(&at.value, reader)));
    }
    if let Some(at) = written.kubernetes.given() {
        return Source::Kubernetes(Box::new(kubernetes(&at.value, reader)));
    }
    if let Some(At { value: path, place }) = written.file.given() {
        if let Err(problem) = file::fits(path) {
            let (message, mend) = problem.split_once(": ").unwrap_or((&problem, ""));
            reader.problem(place, message, mend);
        }
        return Source::File(path.clone());
    }
    let Some(endpoints) = written.endpoints.given() else { return Source::Fixed(Vec::new()) };
    Source::Fixed(endpoints::specs(endpoints, reader))
}

fn consul(written: &written_as::Consul, reader: &mut Reader) -> consul::Settings {
    let agent = Origin::new(false, SocketAddr::from(([127, 0, 0, 1], 8500)).into());
    let address = written.address.or(agent);
    let of_tls = [
        (&written.ca, "says whom TLS trusts, and the agent is asked without"),
        (&written.certificate, "says who we are in TLS, and the agent is asked without"),
    ];
    for (field, problem) in of_tls {
        if let Some(At { place, .. }) = field.given().filter(|_| !address.is_https()) {
            reader.problem(place, problem, "remove it, or write the agent's address as https://HOST:8501");
        }
    }
    if let Some(At { place, .. }) = written.key.given().filter(|_| written.certificate.is_absent()) {
        let mend = "add `certificate`, the file with what it belongs to";
        reader.problem(place, "stands without a certificate", mend);
    }
    if let Some(At { place, .. }) = written.token_file.given().filter(|_| !address.is_private()) {
        reader.warning(
            place,
            SEEN,
            "write the agent's address as https://HOST:8501, or ask one on this host",
        );
    }
    consul::Settings {
        service: written.service.or(String::new()),
        address,
        tag: written.tag.value().cloned(),
        datacenter: written.datacenter.value().cloned(),
        token_file: written.token_file.value().cloned(),
        near: written.near.value().cloned(),
        ca: written.ca.value().cloned(),
        certificate: written.certificate.value().cloned(),
        key: written.key.value().cloned(),
    }
}

fn kubernetes(written: &written_as::Kubernetes, reader: &mut Reader) -> kubernetes::Settings {
    let api = written.api.value();
    if let Some(At { place, .. }) = written.ca.given().filter(|_| api.is_some_and(|api| !api.is_https())) {
        let mend = "remove it, or write the API's address as https://HOST:PORT";
        reader.problem(place, "says whom TLS trusts, and the API is asked without", mend);
    }
    if let Some(at) = written.token_file.given().filter(|_| api.is_some_and(|api| !api.is_private())) {
        reader.warning(&at.place, SEEN, "write the API's address as https://HOST:PORT");
    }
    kubernetes::Settings {
        service: written.service.or(String::new()),
        namespace: written.namespace.value().cloned(),
        port: written.port.value().cloned(),
        api: api.cloned(),
        token_file: written.token_file.value().cloned(),
        ca: written.ca.value().cloned(),
    }
}

/// Notes a second source, and that there is none.
fn only_one(written: &written_as::Upstream, place: &Place, reader: &mut Reader) {
    fn of<T>(key: &'static str, field: &Field<T>) -> Option<(&'static str, Option<Place>)> {
        (!field.is_absent()).then(|| (key, field.given().map(|at| at.place.clone())))
    }
    let all = [
        of("endpoints", &written.endpoints),
        of("dns", &written.dns),
        of("srv", &written.srv),
        of("consul", &written.consul),
        of("kubernetes", &written.kubernetes),
        of("file", &written.file),
    ];
    let sources: Vec<_> = all.into_iter().flatten().collect();
    let Some(((first, _), more)) = sources.split_first() else {
        let mend = "add for example: endpoints = [\"db.example.com:5432\"]; or one of dns, srv, consul, kubernetes and file";
        return reader.problem(place, "does not say where its endpoints come from", mend);
    };
    for place in more.iter().filter_map(|(_, place)| place.as_ref()) {
        reader.problem(place, format!("stands beside `{first}`"), "keep one of them");
    }
}

/// Whether an endpoint may be on another host.
pub(super) fn leaves_this_host(source: &Source) -> bool {
    match source {
        Source::Dns(_) | Source::Srv(_) | Source::Consul(_) | Source::File(_) | Source::Kubernetes(_) => true,
        Source::Fixed(specs) => specs.iter().any(|spec| match &spec.address.host {
            Host::Ip(ip) => !ip.to_canonical().is_loopback(),
            Host::Name(name) => &**name != "localhost",
        }),
    }
}
