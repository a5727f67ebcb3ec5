//! The table of what nuncio does for whom: a stock client that knows no TLS, a real server that demands a certificate, and
//! the words of the client when there is no server.
//!
//! Each story fills the lines of one protocol with what it has seen, in `table/NAME.md` of the target directory; `tests/run`
//! puts them together.

#![cfg(unix)]

mod chat;
mod databases;
mod directory;
mod mail;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use super::harness::ambassador::{self, Ambassador};
use super::harness::programs::Ran;
use super::harness::tap::{Tap, before_tls};
use super::harness::{PATIENCE, Pki, config, eventually, free_address};

/// One protocol's lines.
struct Table {
    protocol: &'static str,
    lines: String,
}

/// Who meets whom.
struct Meeting<'a> {
    /// The server.
    server: &'a str,
    /// Where that listens.
    at: SocketAddr,
    /// Keys of the upstream: `tls = "direct"`, ...
    keys: &'a str,
    /// The client.
    client: &'a str,
    /// Runs the client.
    ask: &'a dyn Fn(SocketAddr) -> Ran,
    /// Words of the client that must be heard in the clear before nuncio, and must not behind it.
    says: &'a str,
    /// What it must be given.
    given: &'a str,
}

impl Table {
    fn of(protocol: &'static str) -> Table {
        Table { protocol, lines: String::new() }
    }

    /// Lets both meet through nuncio, as the certificate's owner, and then the client and nobody. `seen` tells what the
    /// server knows of the certificate.
    #[track_caller]
    fn line(&mut self, pki: &Pki, meeting: &Meeting<'_>, seen: impl FnOnce() -> String) {
        let protocol = self.protocol;
        let file = |at| config::mtls(pki, &Table::upstream(protocol, at, meeting.keys));
        self.line_of(&file, meeting, seen);
    }

    /// The same with a configuration of the test's own for a server that is there.
    #[track_caller]
    fn line_of(
        &mut self,
        file: &dyn Fn(SocketAddr) -> String,
        meeting: &Meeting<'_>,
        seen: impl FnOnce() -> String,
    ) {
        let Meeting { server, at, client, ask, says, given, .. } = meeting;
        let outside = Tap::before(*at);
        let mut nuncio = Ambassador::start(&file(outside.address()));
        let inside = Tap::before(nuncio.listener("in"));
        let ran = ask(inside.address());
        assert!(ran.status.success() && ran.stdout.contains(given), "{client} wants {given:?}: {ran:#?}");
        let plaintext = inside.heard().concat();
        assert!(holds(&plaintext, says), "{client} does not say {says:?}: {}", plaintext.escape_ascii());
        let tls = self.tls_out(&nuncio.wait_records(1), &outside, says);
        let seen = seen();
        drop(nuncio);

        let once = |at| file(at) + "retry.attempts = 1\n";
        let mut nuncio = Ambassador::start(&once(free_address()));
        let ran = ask(nuncio.listener("in"));
        let words = printed(&ran);
        // redis-cli prints an error as it prints any other answer.
        let content = ran.status.success() && ran.stdout.contains(given);
        assert!(!content, "{client} is content without a server: {ran:#?}");
        // MQTT 3 has a number for it.
        assert!(self.protocol == "mqtt" || words.contains("refused the connection"), "{client}: {words}");
        let record = nuncio.wait_records(1).remove(0);
        assert_eq!(record["reason"], "connection_refused", "{record}");

        let given = if given.is_empty() { "done".to_owned() } else { quoted(given) };
        let plaintext = format!("`{says}`: {given}");
        for cell in [self.protocol, server, client, &plaintext, &tls, &seen, &words] {
            assert!(!cell.is_empty(), "a cell of {} is empty: {}", self.protocol, self.lines);
            self.lines += &format!("| {} ", cell.replace('|', "\\|"));
        }
        self.lines += "|\n";
    }

    /// nuncio's own word for the TLS that it had, which the wire must not contradict.
    #[track_caller]
    fn tls_out(&self, records: &[Value], outside: &Tap, says: &str) -> String {
        let record = records.first().expect("a connection has a record");
        assert_eq!(record["outcome"], "success", "{record}");
        let said = outside.heard();
        assert!(!said.is_empty());
        let mut asked = false;
        for said in &said {
            let before = before_tls(said).unwrap_or_else(|| panic!("not TLS: {}", said.escape_ascii()));
            assert!(!holds(before, says), "in the clear: {}", before.escape_ascii());
            asked |= !before.is_empty();
        }
        let version = record["tls"]["version"].as_str().unwrap_or_default();
        if asked {
            format!("{version}, asked for by {}", self.asks_with())
        } else {
            format!("{version} from the first byte")
        }
    }

    /// As `nuncio protocols` has it.
    fn asks_with(&self) -> String {
        let (_, out, _) = ambassador::run(&["protocols", "--json"], Path::new("."));
        let all: Vec<Value> = serde_json::from_str(&out).expect("a list");
        let ours = all.iter().find(|protocol| protocol["name"] == self.protocol).expect("it is in the list");
        ours["asks_with"].as_str().expect("it asks for TLS").to_owned()
    }

    /// `[upstream.up]`, without its first lines.
    fn upstream(protocol: &str, at: SocketAddr, keys: &str) -> String {
        format!("protocol = \"{protocol}\"\nhealth.kind = \"off\"\n{}{keys}", config::endpoints(&[at]))
    }

    /// For a server that cannot tell what certificate it was shown: it demands one.
    #[track_caller]
    fn demanded(&self, pki: &Pki, meeting: &Meeting<'_>) -> String {
        let mut nuncio = Ambassador::start(&config::anonymous(
            pki,
            &Table::upstream(self.protocol, meeting.at, meeting.keys),
        ));
        let ran = (meeting.ask)(nuncio.listener("in"));
        assert!(!ran.stdout.contains(meeting.given), "nobody needs a certificate: {ran:#?}");
        let record = nuncio.wait_records(1).remove(0);
        assert_eq!(record["reason"], "client_certificate_refused", "{record}");
        "demanded, not named: without it `client_certificate_refused`".to_owned()
    }

    /// For a server that asks for none: whoever has none is served as well.
    #[track_caller]
    fn not_demanded(&self, pki: &Pki, meeting: &Meeting<'_>) -> String {
        let nuncio = Ambassador::start(&config::anonymous(
            pki,
            &Table::upstream(self.protocol, meeting.at, meeting.keys),
        ));
        let ran = (meeting.ask)(nuncio.listener("in"));
        assert!(
            ran.status.success() && ran.stdout.contains(meeting.given),
            "a certificate is missed: {ran:#?}"
        );
        "not asked for: served without one, too".to_owned()
    }

    fn write(self) {
        // Beside the directory that cargo has for tests' files.
        let at = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("table");
        fs::create_dir_all(&at).expect("a directory for the table");
        fs::write(at.join(self.protocol).with_extension("md"), self.lines).expect("the lines are written");
    }
}

/// Waits until the log has such a line, and returns what follows `words` up to `end`.
#[track_caller]
fn told(log: &mut dyn FnMut() -> String, words: &str, end: char) -> String {
    let follows = |text: &str| Some(text.split_once(words)?.1.split(end).next()?.trim().to_owned());
    eventually(&format!("the log says {words:?}"), PATIENCE, || follows(&log()))
}

/// Also where the protocol has two bytes for a letter.
fn holds(bytes: &[u8], words: &str) -> bool {
    let wide: Vec<u8> = words.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [words.as_bytes(), &wide].iter().any(|words| bytes.windows(words.len()).any(|window| window == *words))
}

/// What a client that failed has printed, a line each.
fn printed(ran: &Ran) -> String {
    let both = format!("{}\n{}", ran.stdout, ran.stderr);
    let lines = both.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(quoted).collect::<Vec<_>>().join("<br>")
}

/// In a cell, as it is.
fn quoted(line: &str) -> String {
    if line.contains('`') { format!("`` {line} ``") } else { format!("`{line}`") }
}
