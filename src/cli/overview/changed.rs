//! What of a section is not as it is by default, in the words of the file. Complete by itself: every key that was read is here,
//! but for those that have a row of their own.

use serde::{Serialize, Serializer};

use super::super::rows::Rows;
use crate::config::Changed;

/// Keys of a section with their values.
#[derive(Default)]
pub(super) struct Settings(Vec<Setting>);

struct Setting {
    /// Of the section within, `breaker`; empty: the section itself.
    within: String,
    key: String,
    text: String,
}

/// What the overview tells in words, and what only says where it comes from.
const TOLD: &[&str] = &[
    "address",
    "consul",
    "context",
    "danger_accept_any_certificate",
    "dns",
    "endpoints",
    "file",
    "health.kind",
    "identity",
    "kubernetes",
    "protocol",
    "proxy",
    "server_name",
    "split",
    "srv",
    "tls",
    "tls_mode",
    "upstream",
    "when_unready",
];

impl Settings {
    pub(super) fn of_listener(name: &str, changed: &[Changed]) -> Settings {
        Settings::below(&[format!("listener.{name}.")], changed)
    }

    /// One that stands within its listener has the listener's name.
    pub(super) fn of_upstream(name: &str, changed: &[Changed]) -> Settings {
        Settings::below(&[format!("upstream.{name}."), format!("listener.{name}.upstream.")], changed)
    }

    fn below(sections: &[String], changed: &[Changed]) -> Settings {
        let ours = changed.iter().filter_map(|Changed { key, text }| {
            let rest = sections.iter().find_map(|section| key.strip_prefix(section.as_str()))?;
            let told = |told: &&&str| {
                rest.strip_prefix(**told).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            if TOLD.iter().any(|known| told(&known)) {
                return None;
            }
            let (within, key) = rest.split_once('.').unwrap_or(("", rest));
            Some(Setting { within: within.to_owned(), key: key.to_owned(), text: text.clone() })
        });
        Settings(ours.collect())
    }

    /// A row for each section within.
    pub(super) fn tell(&self, rows: &mut Rows) {
        let mut sections: Vec<&str> = self.0.iter().map(|setting| setting.within.as_str()).collect();
        sections.sort_unstable();
        sections.dedup();
        for section in sections {
            let ours = self.0.iter().filter(|setting| setting.within == section);
            let ours: Vec<_> = ours.map(|Setting { key, text, .. }| format!("{key} = {text}")).collect();
            rows.row(if section.is_empty() { "settings" } else { section }, ours.join(", "));
        }
    }
}

/// `["breaker.consecutive = 3"]`
impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|Setting { within, key, text }| match within.is_empty() {
            true => format!("{key} = {text}"),
            false => format!("{within}.{key} = {text}"),
        }))
    }
}
