//! Who we are, and where we are asked how it goes.

use serde::Serialize;

use super::super::rows::Rows;
use crate::addr::ListenAddr;
use crate::admin;
use crate::tls::{Date, Identity, PeerFacts};

#[derive(Serialize)]
pub(super) struct Who {
    name: String,
    /// Our certificate, and what stands behind it in the file; empty: we show nothing.
    chain: Vec<PeerFacts>,
    /// What servers are checked against; empty: the system's roots.
    authorities: Vec<PeerFacts>,
}

/// Where the admin answers, and who may give it orders.
#[derive(Default, Serialize)]
pub(super) struct Admin {
    addresses: Vec<String>,
    /// With which orders are taken over TCP.
    token_file: Option<String>,
    /// One of the addresses is a file, whose mode says who may give orders.
    #[serde(skip)]
    has_file: bool,
}

impl Who {
    pub(super) fn new(identity: &Identity) -> Who {
        Who {
            name: identity.name.to_string(),
            chain: identity.facts().to_vec(),
            authorities: identity.authorities().to_vec(),
        }
    }

    pub(super) fn to_text(&self, now: Date) -> String {
        let mut rows = Rows::titled(format!("identity {}", self.name));
        let told = |facts: &PeerFacts| {
            format!("{}, issued by {}, valid {}", facts.subject, facts.issuer, facts.validity(now))
        };
        let label = |place: usize, label| if place == 0 { label } else { "" };
        for (place, facts) in self.chain.iter().enumerate() {
            rows.row(label(place, "certificate"), told(facts));
        }
        if self.chain.is_empty() {
            rows.row("certificate", "none: servers are shown nothing");
        }
        for (place, facts) in self.authorities.iter().enumerate() {
            rows.row(label(place, "trusts"), format!("{}, valid {}", facts.subject, facts.validity(now)));
        }
        if self.authorities.is_empty() {
            rows.row("trusts", "the system's roots");
        }
        rows.into_text()
    }
}

impl Admin {
    pub(super) fn new(written: &admin::Settings) -> Admin {
        Admin {
            addresses: written.addresses.iter().map(ToString::to_string).collect(),
            token_file: written.token_file.as_ref().map(|file| file.display().to_string()),
            has_file: written.addresses.iter().any(|address| matches!(address, ListenAddr::Unix(_))),
        }
    }

    /// None where there is none.
    pub(super) fn to_text(&self) -> Option<String> {
        if self.addresses.is_empty() {
            return None;
        }
        let mut rows = Rows::titled("admin");
        rows.row("address", self.addresses.join(", "));
        let by_token = self.token_file.as_ref().map(|file| format!("over TCP with the token of {file}"));
        let by_mode = self.has_file.then(|| "through the Unix socket, from whom its mode lets in".to_owned());
        let takes: Vec<_> = by_token.into_iter().chain(by_mode).collect();
        rows.row(
            "orders",
            if takes.is_empty() { "none: over TCP it is for reading".to_owned() } else { takes.join("; ") },
        );
        Some(rows.into_text())
    }
}
