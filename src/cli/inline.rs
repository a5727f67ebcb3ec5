//! What takes the place of a file where there is none: flags become the text of one, so that configurations have one
//! reader and one set of rules; and what that reader says is put into the words of the flags again.

use std::path::PathBuf;

use crate::config::Problems;

/// What a server speaks, and how it does TLS, where no file says it.
#[derive(clap::Args, Clone, Default)]
pub(super) struct ServerFlags {
    /// PEM file with the CAs that the server is checked against. Without it: the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// PEM file with our certificate, and the chain behind it.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// PEM file with our certificate's private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
    /// The name that the server's certificate must carry (and that is asked for, as SNI). Without it: the HOST.
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// Accept this key or certificate, whatever its CA and name: spki-sha256:... or leaf-sha256:..., as `nuncio probe`
    /// prints them. May be given several times.
    #[arg(long, value_name = "PIN")]
    pub(super) pin: Vec<String>,
    /// What is spoken, as `nuncio protocols` lists it. Without it: tcp, which is anything.
    #[arg(long, value_name = "NAME")]
    pub(super) protocol: Option<String>,
    /// negotiate: asked for in the protocol's own words. direct: from the first byte. off: none, everything goes in plaintext.
    /// Without it: negotiate where the protocol can, else direct.
    #[arg(long, value_name = "MODE")]
    pub(super) tls: Option<String>,
}

impl ServerFlags {
    /// The first of them that was given.
    pub(super) fn any(&self) -> Option<&'static str> {
        let ServerFlags { ca, cert, key, server_name, pin, protocol, tls } = self;
        [
            ("--ca", ca.is_some()),
            ("--cert", cert.is_some()),
            ("--key", key.is_some()),
            ("--server-name", server_name.is_some()),
            ("--pin", !pin.is_empty()),
            ("--protocol", protocol.is_some()),
            ("--tls", tls.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// The text of `[upstream.NAME]` and, where needed, `[identity.NAME]`.
pub(super) fn upstream(name: &str, endpoints: &[String], tls: &ServerFlags) -> String {
    let mut lines = Vec::new();
    let with_identity = tls.ca.is_some() || tls.cert.is_some();
    if with_identity {
        lines.push(format!("[identity.{name}]"));
        for (key, path) in [("ca", &tls.ca), ("certificate", &tls.cert), ("key", &tls.key)] {
            if let Some(path) = path {
                lines.push(format!("{key} = {}", quoted(&path.to_string_lossy())));
            }
        }
    }
    lines.push(format!("[upstream.{name}]"));
    lines.push(format!("endpoints = {}", list(endpoints)));
    for (key, value) in [("protocol", &tls.protocol), ("tls", &tls.tls)] {
        if let Some(value) = value {
            lines.push(format!("{key} = {}", quoted(value)));
        }
    }
    if with_identity {
        lines.push(format!("identity = {}", quoted(name)));
    }
    if let Some(server_name) = &tls.server_name {
        lines.push(format!("server_name = {}", quoted(server_name)));
    }
    if !tls.pin.is_empty() {
        lines.push(format!("pins = {}", list(&tls.pin)));
    }
    lines.join("\n")
}

/// A TOML list of strings.
pub(super) fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML string. What JSON escapes, TOML escapes alike; a dollar would begin a variable and is doubled.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

/// Keys of the file, and the flags that set them. The longer of two with the same end stands first.
const FLAGS: [(&str, &str); 11] = [
    ("server_name", "--server-name"),
    ("certificate", "--cert"),
    ("endpoints", "UPSTREAM"),
    ("protocol", "--protocol"),
    ("identity", "--ca, --cert and --key"),
    ("address", "LISTEN"),
    ("allow", "--allow"),
    ("pins", "--pin"),
    ("tls", "--tls"),
    ("key", "--key"),
    ("ca", "--ca"),
];

/// Problems of a text that came from flags: each by its flag, and nothing of a file that the reader never wrote.
pub(super) fn complaints(problems: &Problems) -> Vec<String> {
    let of = |key: &str| match key {
        "admin.address" => "--admin".to_owned(),
        key => {
            let last = key.rsplit('.').next().unwrap_or(key);
            let last = last.split('[').next().unwrap_or(last);
            FLAGS.iter().find(|(known, _)| *known == last).map_or(last, |(_, flag)| flag).to_owned()
        }
    };
    problems
        .iter()
        .map(|problem| {
            let place = problem.key.as_deref().map(|key| format!("{}: ", of(key))).unwrap_or_default();
            format!("{place}{}\n  mend: {}", in_flags(&problem.message), in_flags(&problem.mend))
        })
        .collect()
}

/// A sentence about what flags named, in their words: `ca FILE: …` becomes `--ca FILE: …`.
pub(super) fn complaint(problem: &str) -> String {
    let rest = ["identity.", "upstream.", "listener."].iter().find_map(|section| {
        let (_, rest) = problem.strip_prefix(section)?.split_once(": ")?;
        Some(rest)
    });
    let Some(rest) = rest else { return in_flags(problem) };
    let named = FLAGS.iter().find_map(|(key, flag)| {
        let rest = rest.strip_prefix(key)?.strip_prefix(' ')?;
        Some(format!("{flag} {}", in_flags(rest)))
    });
    named.unwrap_or_else(|| in_flags(rest))
}

/// `server_name = "db"` becomes `--server-name db`, and the key in backticks the flag's name.
pub(super) fn in_flags(text: &str) -> String {
    // There are no sections to look for.
    let mut text = text.replace(" in the [identity] that the upstream uses", "");
    for (key, flag) in FLAGS {
        text = text.replace(&format!("`{key}`"), flag);
        let assigned = format!("{key} = ");
        let mut from = 0;
        while let Some(at) = text[from..].find(&assigned).map(|at| from + at) {
            from = at + assigned.len();
            let alone = !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_');
            if let Some((value, length)) = first_string(&text[from..]).filter(|_| alone) {
                let spelled = format!("{flag} {value}");
                text.replace_range(at..from + length, &spelled);
                from = at + spelled.len();
            }
        }
    }
    text
}

/// The string that a TOML value begins with, or the only one of a list; and how long it is in the text.
fn first_string(value: &str) -> Option<(String, usize)> {
    let list = value.strip_prefix('[');
    let (text, rest) = list.unwrap_or(value).strip_prefix('"')?.split_once('"')?;
    let rest = match list {
        Some(_) => rest.strip_prefix(']')?,
        None => rest,
    };
    Some((text.to_owned(), value.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mends_speak_of_the_flags_that_were_given() {
        for (toml, flags) in [
            ("say who may: allow = [\"10.0.0.0/8\"]; or", "say who may: --allow 10.0.0.0/8; or"),
            ("set `server_name` to a name", "set --server-name to a name"),
            (
                "set server_name = \"db\" if so; server_name = \"e\"",
                "set --server-name db if so; --server-name e",
            ),
            ("pin its key: pins = [\"spki-sha256:AA=\"]", "pin its key: --pin spki-sha256:AA="),
            ("set `post_quantum = false`", "set `post_quantum = false`"),
            ("on_key = \"x\"", "on_key = \"x\""),
            ("endpoints = [\"a:1\", \"b:1\"]", "endpoints = [\"a:1\", \"b:1\"]"),
            ("tls = \"", "tls = \""),
        ] {
            assert_eq!(in_flags(toml), flags);
        }
        assert_eq!(complaint("identity.probe: ca a.pem: there is none"), "--ca a.pem: there is none");
        assert_eq!(complaint("listener.bridge: 127.0.0.1:1 is taken"), "127.0.0.1:1 is taken");
        assert_eq!(complaint("dns: no servers"), "dns: no servers");
    }
}
