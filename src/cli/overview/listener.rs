//! Listeners: who may come, and where that leads.

use serde::Serialize;

use super::super::rows::Rows;
use super::changed::Settings;
use crate::config::{self, Changed};
use crate::context;
use crate::rollout::Share;

#[derive(Serialize)]
pub(super) struct Listener {
    name: String,
    addresses: Vec<String>,
    allow: Vec<String>,
    allow_users: Vec<String>,
    allow_groups: Vec<String>,
    upstream: String,
    /// `off`, `optional` or `required`.
    tls: &'static str,
    /// `negotiate` or `direct`; with TLS off, none.
    tls_mode: Option<&'static str>,
    /// Whose certificate clients are shown; none: nobody's, or one of nuncio's own making.
    identity: Option<String>,
    /// Names of which a client's certificate must carry one.
    client_names: Vec<String>,
    /// How it hears of its connections' context; none: not at all.
    context: Option<&'static str>,
    /// Keys that do not have their default, as they are written.
    settings: Settings,
}

impl Listener {
    pub(super) fn new(name: &str, listener: &config::Listener, changed: &[Changed]) -> Listener {
        Listener {
            name: name.to_string(),
            addresses: listener.accept.addresses.iter().map(ToString::to_string).collect(),
            allow: listener.admit.allow.iter().map(ToString::to_string).collect(),
            allow_users: listener.admit.allow_users.clone(),
            allow_groups: listener.admit.allow_groups.clone(),
            upstream: upstreams_of(listener),
            tls: match &listener.tls {
                None => "off",
                Some(tls) if tls.required => "required",
                Some(_) => "optional",
            },
            tls_mode: listener.tls.as_ref().map(|tls| if tls.direct { "direct" } else { "negotiate" }),
            identity: listener.identity.clone(),
            client_names: listener.tls.as_ref().map_or_else(Vec::new, |tls| tls.client_names.clone()),
            context: (listener.context != context::Kind::None).then(|| listener.context.label()),
            settings: Settings::of_listener(name, changed),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let mut rows = Rows::titled(format!("listener {}", self.name));
        rows.row("address", self.addresses.join(", "));
        for (label, names) in
            [("networks", &self.allow), ("users", &self.allow_users), ("groups", &self.allow_groups)]
        {
            if !names.is_empty() {
                rows.row(label, names.join(", "));
            }
        }
        if let Some(context) = self.context {
            rows.row("context", context);
        }
        rows.row("leads to", format!("upstream {}", self.upstream));
        if let Some(mode) = self.tls_mode {
            let begins = match mode {
                "direct" => "from the first byte",
                _ => "asked for in the protocol's words",
            };
            let shown = match &self.identity {
                Some(identity) => format!("the certificate of {identity}"),
                None => {
                    "a certificate of nuncio's own making, which none of them can verify (each start makes a new one, and \
                     logs its SHA-256)"
                        .to_owned()
                }
            };
            rows.row("tls", format!("{}, {begins}; clients are shown {shown}", self.tls));
        }
        if !self.client_names.is_empty() {
            rows.row("clients", format!("with a certificate for {}", self.client_names.join(" or ")));
        }
        self.settings.tell(&mut rows);
        rows.into_text()
    }
}

/// One, those that have their share, or those that a destination chooses among.
fn upstreams_of(listener: &config::Listener) -> String {
    if let Some(split) = &listener.split {
        let canary = split.progressive.as_ref().map(|progressive| &progressive.canary);
        let share = |Share { upstream, weight }: &Share| match canary {
            None => format!("{upstream} ({weight})"),
            Some(canary) if canary == upstream => format!("{upstream} (on trial, step by step)"),
            Some(_) => upstream.to_string(),
        };
        return split.shares.iter().map(share).collect::<Vec<_>>().join(", ");
    }
    let several: Vec<_> = listener.route.reachable.iter().map(|reachable| &*reachable.upstream).collect();
    match several.is_empty() {
        true => listener.route.upstream.to_string(),
        false => several.join(", "),
    }
}
