//! What EndpointSlices say: pages of a list, events of a watch, and the endpoints that they come to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize;

use super::Answer;
use crate::upstream::EndpointSpec;

/// The slices of one Service, by their names.
#[derive(Debug, Default)]
pub(super) struct Slices {
    named: BTreeMap<String, Slice>,
    /// How much memory they take, about.
    weight: usize,
}

/// A Service whose slices take more is none: an API that names others all the time must not fill this host's memory.
const HEAVIEST: usize = 32 << 20;

/// A page of the list.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    /// From where on a watch tells what changes.
    pub(super) version: String,
    /// The next page; `None`: that was the last one.
    pub(super) next: Option<String>,
}

/// What a line of a watch comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Everything up to this version is known.
    At(String),
    /// The version that was asked for is too old: list again.
    Expired,
    /// The API could not go on.
    Failed(String),
}

#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
    items: Option<Vec<Slice>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Meta,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    target_ref: Option<TargetRef>,
    zone: Option<String>,
    hints: Option<Hints>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct TargetRef {
    uid: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<ForZone>>,
}

#[derive(Clone, Debug, Deserialize)]
struct ForZone {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
    #[serde(default)]
    message: String,
}

impl Slices {
    /// Takes in a page.
    pub(super) fn page(&mut self, body: &[u8]) -> Result<Page, String> {
        let List { metadata, items } = serde_json::from_slice(body)
            .map_err(|error| format!("it answered something else than a list of EndpointSlices ({error})"))?;
        for slice in items.into_iter().flatten() {
            self.put(slice)?;
        }
        let next = metadata.next.filter(|next| !next.is_empty());
        Ok(Page { version: metadata.resource_version, next })
    }

    /// Takes in a line of a watch.
    pub(super) fn event(&mut self, line: &[u8]) -> Result<Event, String> {
        let odd = |error: serde_json::Error| format!("the watch told something else than an event ({error})");
        let Line { r#type, object } = serde_json::from_slice(line).map_err(odd)?;
        let slice = || serde_json::from_str::<Slice>(object.get()).map_err(odd);
        let at = match r#type {
            "ADDED" | "MODIFIED" => {
                let slice = slice()?;
                let at = slice.metadata.resource_version.clone();
                self.put(slice)?;
                at
            }
            "DELETED" => {
                let slice = slice()?;
                self.remove(&slice.metadata.name);
                slice.metadata.resource_version
            }
            "BOOKMARK" => {
                serde_json::from_str::<Bookmark>(object.get()).map_err(odd)?.metadata.resource_version
            }
            "ERROR" => {
                let Status { code, message } = serde_json::from_str(object.get()).map_err(odd)?;
                return Ok(match code {
                    Some(410) => Event::Expired,
                    _ => Event::Failed(
                        message.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(200).collect(),
                    ),
                });
            }
            // A type of a later API changes nothing that is known here.
            _ => return Ok(Event::At(object_version(object.get()).map_err(odd)?)),
        };
        Ok(Event::At(at))
    }

    fn put(&mut self, slice: Slice) -> Result<(), String> {
        self.remove(&slice.metadata.name);
        self.weight += slice.weight();
        self.named.insert(slice.metadata.name.clone(), slice);
        match self.weight > HEAVIEST {
            true => Err(format!("the Service's EndpointSlices take more than {} MiB", HEAVIEST >> 20)),
            false => Ok(()),
        }
    }

    fn remove(&mut self, name: &str) {
        self.weight -= self.named.remove(name).map_or(0, |slice| slice.weight());
    }

    /// The endpoints: those that are ready, and with none, those that still serve while they end, as kube-proxy has it.
    /// `usable` gives the addresses that this host can reach.
    pub(super) fn endpoints(
        &self,
        port: Option<&str>,
        usable: impl Fn(&[IpAddr]) -> Vec<IpAddr>,
    ) -> Result<Vec<EndpointSpec>, String> {
        let mut found = Vec::new();
        let mut offered = BTreeSet::new();
        // Names cannot be dialled as what they are: nobody says whether they are names of this cluster.
        let of_addresses =
            self.named.values().filter(|slice| ["IPv4", "IPv6"].contains(&slice.address_type.as_str()));
        for slice in of_addresses {
            let ports = slice.ports.as_deref().unwrap_or_default();
            let ports = ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            let ports: Vec<&Port> = ports.collect();
            offered.extend(ports.iter().map(|port| port.shown()));
            let Some(number) = chosen(&ports, port)? else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                // They are the same to a client, which is to take the first (so the API's documentation).
                let ip = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
                if let Some(ip) = ip {
                    found.push((endpoint, SocketAddr::new(ip, number)));
                }
            }
        }
        if let (true, Some(port), false) = (found.is_empty(), port, offered.is_empty()) {
            let offered: Vec<_> = offered.into_iter().collect();
            return Err(format!("the Service has no port {port} over TCP; it has {}", offered.join(", ")));
        }
        let ready = found.iter().any(|(endpoint, _)| endpoint.is_ready());
        found.retain(|(endpoint, _)| if ready { endpoint.is_ready() } else { endpoint.still_serves() });
        let ips: Vec<IpAddr> = found.iter().map(|(_, at)| at.ip()).collect();
        let reached: BTreeSet<IpAddr> = usable(&ips).into_iter().collect();
        found.retain(|(_, at)| reached.contains(&at.ip()));
        // A pod with an address of each family is one server, not two.
        found.sort_by_key(|(_, at)| at.is_ipv6());
        let mut pods = BTreeSet::new();
        found.retain(|(endpoint, _)| endpoint.uid().is_none_or(|uid| pods.insert(uid)));
        let mut at_once = BTreeSet::new();
        found.retain(|(_, at)| at_once.insert(*at));
        let spec = |(endpoint, at): &(&Endpoint, SocketAddr)| EndpointSpec {
            zone: endpoint.zone.as_deref().map(Into::into),
            for_zones: endpoint.for_zones(),
            ..EndpointSpec::new((*at).into())
        };
        Ok(found.iter().map(spec).collect())
    }
}

/// The port's number; `None`: this slice has none such.
fn chosen(ports: &[&Port], wanted: Option<&str>) -> Result<Option<u16>, String> {
    let Some(wanted) = wanted else {
        return match ports {
            [] => Ok(None),
            [one] => Ok(one.port),
            several => {
                let names: Vec<_> = several.iter().map(|port| port.shown()).collect();
                Err(format!("the Service has several ports: {}", names.join(", ")))
            }
        };
    };
    let is_it = |port: &&&Port| {
        port.name.as_deref() == Some(wanted) || port.port.is_some_and(|number| number.to_string() == wanted)
    };
    Ok(ports.iter().find(is_it).and_then(|port| port.port))
}

impl Port {
    fn shown(&self) -> String {
        let number = self.port.map(|port| port.to_string()).unwrap_or_default();
        match self.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} ({number})"),
            None => number,
        }
    }
}

impl Slice {
    /// How much memory it takes, about: texts, and what they are in.
    fn weight(&self) -> usize {
        let ports = self
            .ports
            .iter()
            .flatten()
            .map(|port| size_of::<Port>() + length(port.name.as_ref()) + length(port.protocol.as_ref()));
        let endpoints = self.endpoints.iter().flatten().map(Endpoint::weight);
        let Meta { name, resource_version } = &self.metadata;
        let texts = 2 * name.len() + resource_version.len() + self.address_type.len();
        size_of::<Slice>() + texts + ports.sum::<usize>() + endpoints.sum::<usize>()
    }
}

fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

impl Endpoint {
    fn weight(&self) -> usize {
        let addresses = self.addresses.iter().map(|address| size_of::<String>() + address.len());
        let zones = self.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
        let zones = zones.map(|zone| size_of::<ForZone>() + zone.name.len());
        let uid = self.target_ref.as_ref().map_or(0, |target| length(target.uid.as_ref()));
        let texts = uid + length(self.zone.as_ref());
        size_of::<Endpoint>() + texts + addresses.sum::<usize>() + zones.sum::<usize>()
    }

    fn conditions(&self) -> Conditions {
        self.conditions.unwrap_or_default()
    }

    /// What is not said is so, as far as the API's documentation goes.
    fn is_ready(&self) -> bool {
        self.conditions().ready.unwrap_or(true)
    }

    fn still_serves(&self) -> bool {
        let Conditions { serving, terminating, .. } = self.conditions();
        serving.unwrap_or_else(|| self.is_ready()) && terminating.unwrap_or(false)
    }

    fn uid(&self) -> Option<&str> {
        self.target_ref.as_ref()?.uid.as_deref()
    }

    /// The zones from which the cluster wants it to be used.
    fn for_zones(&self) -> Arc<[Arc<str>]> {
        let zones = self.hints.as_ref().and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        zones.iter().map(|zone| Arc::from(zone.name.as_str())).collect()
    }
}

fn object_version(object: &str) -> Result<String, serde_json::Error> {
    Ok(serde_json::from_str::<Bookmark>(object)?.metadata.resource_version)
}

/// What an answer that is no list says of itself.
pub(super) fn message(body: &[u8], answer: &Answer) -> String {
    match serde_json::from_slice::<Status>(body) {
        Ok(Status { message, .. }) if !message.is_empty() => {
            message.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(200).collect()
        }
        _ => answer.words(),
    }
}

#[cfg(test)]
mod tests;
