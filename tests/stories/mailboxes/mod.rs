//! Mailboxes and news behind nuncio (POP3, LMTP, NNTP): plaintext clients, and servers that want STLS or STARTTLS and a
//! certificate.

#[cfg(unix)]
mod refusals;
mod words;

use std::net::SocketAddr;

use super::harness::smtp::{Step, say};
use super::harness::{Pki, config};

/// A protocol, and a good server of it up to TLS: each of its words answers a line, but for the first.
struct Spoken {
    protocol: &'static str,
    words: &'static [&'static str],
    /// How it says no.
    refuses: &'static str,
    /// What a client says first, of which TLS in the middle changes nothing.
    first: &'static str,
}

const ALL: [Spoken; 3] = [
    Spoken {
        protocol: "pop3",
        words: &["+OK ready <1896.697170952@upstream.test>\r\n", "+OK go\r\n"],
        refuses: "-ERR [SYS/",
        first: "USER u",
    },
    Spoken {
        protocol: "nntp",
        words: &["200 news.upstream.test ready\r\n", "382 go\r\n"],
        refuses: "400 ",
        first: "MODE READER",
    },
    Spoken {
        protocol: "lmtp",
        words: &["220 box ready\r\n", "250-box\r\n250-STARTTLS\r\n250 DSN\r\n", "220 go\r\n"],
        refuses: "421",
        first: "LHLO client.test",
    },
];

impl Spoken {
    fn greeting(&self) -> &'static str {
        self.words[0]
    }

    /// The server's words, `behind` the last of them, TLS, and then `inside`.
    fn steps(&self, behind: &str, inside: &[Step]) -> Vec<Step> {
        let (last, before) = self.words.split_last().expect("some words");
        let mut steps: Vec<Step> = before.iter().flat_map(|words| [say(words), Step::Hear]).collect();
        steps.extend([say([last, behind].concat()), Step::Tls]);
        steps.extend_from_slice(inside);
        steps
    }

    /// The file of an ambassador in front of this server.
    fn behind(&self, pki: &Pki, server: SocketAddr, keys: &str) -> String {
        config::mtls(pki, &self.upstream(server, keys))
    }

    fn upstream(&self, server: SocketAddr, keys: &str) -> String {
        let endpoints = config::endpoints(&[server]);
        format!(
            "protocol = \"{}\"\n{endpoints}health.kind = \"off\"\nretry.attempts = 1\n{keys}",
            self.protocol
        )
    }
}
