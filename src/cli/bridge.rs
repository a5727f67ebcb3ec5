//! `nuncio bridge LISTEN UPSTREAM...`: one listener, one upstream, no file.
//!
//! The flags become the text of a file, so that there is one reader of configurations with one set of rules.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{REFUSED, start_logging};
use crate::config;

#[derive(clap::Args)]
pub(super) struct Flags {
    /// Where to listen: IP:PORT or unix:/PATH.
    listen: String,
    /// Endpoints, HOST:PORT each.
    #[arg(required = true, value_name = "UPSTREAM")]
    upstreams: Vec<String>,
    #[command(flatten)]
    tls: TlsFlags,
    /// What is spoken before TLS.
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// Networks other than loopback that may connect.
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Where the admin answers, such as 127.0.0.1:9746; none without it.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Records as JSON.
    #[arg(long)]
    json: bool,
}

/// How a server is spoken to, where no file says it.
#[derive(clap::Args, Clone, Default)]
pub(super) struct TlsFlags {
    /// CA certificates that the server is checked against. Default: the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Our certificate and its chain.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
    /// SNI and the name that the server's certificate must carry.
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
    /// A certificate or key that is accepted whatever its chain and name (repeatable).
    #[arg(long, value_name = "PIN")]
    pub(super) pin: Vec<String>,
    /// direct or off.
    #[arg(long, value_name = "MODE", default_value = "direct")]
    pub(super) tls: String,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let text = flags.as_file();
    match config::from_text("the command line", &text) {
        Ok(loaded) => {
            let _logging = start_logging(loaded.config.log.format, &loaded.config.log.level);
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            super::run::serve(loaded.config, None)
        }
        Err(problems) => {
            eprint!("{problems}");
            ExitCode::from(REFUSED)
        }
    }
}

impl Flags {
    fn as_file(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        if self.json {
            line(format_args!("[log]\nformat = \"json\""));
        }
        match &self.admin {
            Some(address) => line(format_args!("[admin]\naddress = {}", quoted(address))),
            None => line(format_args!("[admin]\naddress = []")),
        }
        line(format_args!("{}", upstream_as_file("bridge", &self.upstreams, &self.protocol, &self.tls)));
        line(format_args!("[listener.bridge]\naddress = {}\nupstream = \"bridge\"", quoted(&self.listen)));
        if !self.allow.is_empty() {
            line(format_args!("allow = {}", list(&self.allow)));
        }
        text
    }
}

/// The text of `[upstream.NAME]` and, where needed, `[identity.NAME]`.
pub(super) fn upstream_as_file(name: &str, endpoints: &[String], protocol: &str, tls: &TlsFlags) -> String {
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
    lines.push(format!("protocol = {}", quoted(protocol)));
    lines.push(format!("tls = {}", quoted(&tls.tls)));
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

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML string. What JSON escapes, TOML escapes alike; a dollar would begin a variable and is doubled.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_file_that_means_the_same() {
        let flags = Flags {
            listen: "127.0.0.1:5432".into(),
            upstreams: vec!["db.example.com:5432".into(), "[::1]:1".into()],
            tls: TlsFlags {
                ca: Some("/etc/a \"b\"$.pem".into()),
                tls: "direct".into(),
                ..TlsFlags::default()
            },
            protocol: "tcp".into(),
            allow: Vec::new(),
            admin: None,
            json: false,
        };
        let loaded = config::from_text("flags", flags.as_file()).unwrap();
        let (_, upstream) = loaded.config.upstreams.first_key_value().unwrap();
        assert_eq!(upstream.identity.as_deref(), Some("bridge"));
        assert_eq!(loaded.config.identities["bridge"].ca.as_deref(), Some("/etc/a \"b\"$.pem".as_ref()));
        assert!(loaded.config.admin.addresses.is_empty());
    }
}
