//! `nuncio bridge LISTEN UPSTREAM...`: one listener, one upstream, no file.

use std::fmt::Write;
use std::process::ExitCode;

use super::inline::{self, ServerFlags, list, quoted};
use super::{USAGE, complain, start_logging};
use crate::config;

const EXAMPLES: &str = "\
Examples:
  A PostgreSQL that demands a client certificate, for a program that speaks plaintext:
    nuncio bridge 127.0.0.1:5432 db.example.com:5432 --protocol postgres \\
      --ca ca.pem --cert client.pem --key client.key
  The same of a Redis, whose TLS begins with the first byte:
    nuncio bridge 127.0.0.1:6379 redis.example.com:6379 \\
      --ca ca.pem --cert client.pem --key client.key
  Two servers, of which one may be down; whoever may use the socket file may connect:
    nuncio bridge unix:/run/ldap.sock ldap1.example.com:636 ldap2.example.com:636
  A server that no CA vouches for, by its key (nuncio probe 10.0.0.5:8443 prints it):
    nuncio bridge 127.0.0.1:8443 10.0.0.5:8443 --pin spki-sha256:...

Ctrl-C ends it: open connections get 30 seconds, a second Ctrl-C ends them at once.
Paths start from the current directory.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Flags {
    /// Where the program connects to: IP:PORT or unix:/PATH.
    listen: String,
    /// The servers, HOST:PORT each; without the port, the one that --protocol has.
    #[arg(required = true, value_name = "UPSTREAM")]
    upstreams: Vec<String>,
    #[command(flatten)]
    server: ServerFlags,
    /// A network that may connect, such as 10.0.0.0/8, where LISTEN is not on loopback. May be given several times.
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Answer liveness, metrics and the API here, such as 127.0.0.1:9746.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Write the log and the records as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    match config::from_text("the flags", flags.as_file()) {
        Ok(loaded) => {
            let _logging = start_logging(loaded.config.log.format, &loaded.config.log.level);
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            super::run::serve(loaded.config, None)
        }
        Err(problems) => {
            complain(&inline::complaints(&problems));
            ExitCode::from(USAGE)
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
        line(format_args!("{}", inline::upstream("bridge", &self.upstreams, &self.server)));
        line(format_args!("[listener.bridge]\naddress = {}\nupstream = \"bridge\"", quoted(&self.listen)));
        if !self.allow.is_empty() {
            line(format_args!("allow = {}", list(&self.allow)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_file_that_means_the_same() {
        let flags = Flags {
            listen: "127.0.0.1:5432".into(),
            upstreams: vec!["db.example.com:5432".into(), "[::1]:1".into()],
            server: ServerFlags { ca: Some("/etc/a \"b\"$.pem".into()), ..ServerFlags::default() },
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
