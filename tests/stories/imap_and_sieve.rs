//! IMAP and ManageSieve behind nuncio: what stock clients print when they are refused, and servers that are hostile or old.

#![cfg(unix)]

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::harness::ambassador::Ambassador;
use super::harness::dovecot::{Door, Dovecot};
use super::harness::legacy::Client;
use super::harness::pki::{By, SERVER_NAME, Valid};
use super::harness::programs::Ran;
use super::harness::smtp::{Scripted, Step, Typist, say};
use super::harness::wording::redacted;
use super::harness::{Pki, config, free_address};

/// A protocol, and how one of its servers speaks before TLS.
#[derive(Clone, Copy)]
struct Spoken {
    protocol: &'static str,
    greeting: &'static str,
    /// To STARTTLS.
    answer: &'static str,
    /// With what a refusal begins.
    no: &'static str,
}

const IMAP: Spoken = Spoken {
    protocol: "imap",
    greeting: "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n",
    answer: "nuncio OK go\r\n",
    no: "* BYE [",
};
const SIEVE: Spoken = Spoken {
    protocol: "sieve",
    greeting: "\"IMPLEMENTATION\" \"x\"\r\n\"SASL\" \"\"\r\n\"STARTTLS\"\r\nOK \"ready\"\r\n",
    answer: "OK \"go\"\r\n",
    no: "BYE (TRYLATER) \"",
};

impl Spoken {
    /// Up to the answer to STARTTLS, and then these steps.
    fn starttls_then(self, steps: &[Step]) -> Vec<Step> {
        [&[say(self.greeting), Step::Hear, say(self.answer)], steps].concat()
    }

    /// The upstream's keys; the only connections are those of the test.
    fn upstream(self, server: SocketAddr, keys: &str) -> String {
        let endpoints = config::endpoints(&[server]);
        format!(
            "protocol = \"{}\"\n{endpoints}health.kind = \"off\"\nretry.attempts = 1\n{keys}",
            self.protocol
        )
    }

    fn behind(self, pki: &Pki, server: SocketAddr, keys: &str) -> String {
        config::mtls(pki, &self.upstream(server, keys))
    }
}

/// What somebody on the way puts behind the answer to STARTTLS would count as said inside TLS (CVE-2011-0411).
#[test]
fn bytes_injected_behind_the_answer_to_starttls_reach_no_mailbox_client() {
    let pki = Pki::generate();
    for (spoken, injected) in [
        (IMAP, "nuncio OK go\r\n* CAPABILITY IMAP4rev1 AUTH=EVIL\r\n"),
        (IMAP, "nuncio OK go\r\n*"),
        (SIEVE, "OK\r\n\"SASL\" \"EVIL\"\r\nOK\r\n"),
        (SIEVE, "OK\r\n\""),
    ] {
        let steps = vec![say(spoken.greeting), Step::Hear, say(injected), Step::Tls];
        let server = Scripted::start(pki.server_config(), steps);
        let mut ambassador = Ambassador::start(&spoken.behind(&pki, server.address(), ""));
        let read = Typist::connect(ambassador.listener("in")).rest();
        assert!(read.starts_with(spoken.no) && !read.contains("EVIL"), "{read}");
        let record = ambassador.wait_records(1).remove(0);
        assert_eq!((&record["stage"], &record["reason"]), (&"negotiate".into(), &"negotiation_error".into()));
        assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("in plaintext")), "{record}");
        assert!(read.contains("CVE-2011-0411"), "{read}");
    }
}

/// TLS 1.3 refuses a certificate late, when the client awaits its greeting: that is where it is told.
#[test]
fn a_certificate_that_is_refused_late_is_told_in_place_of_the_greeting() {
    let pki = Pki::generate();
    for spoken in [IMAP, SIEVE] {
        let server = Scripted::start(pki.server_config(), spoken.starttls_then(&[Step::Tls, Step::Hear]));
        let file = config::anonymous(&pki, &spoken.upstream(server.address(), ""));
        let mut ambassador = Ambassador::start(&file);
        let read = Typist::connect(ambassador.listener("in")).rest();
        assert!(read.starts_with(spoken.no) && read.contains("(client_certificate_refused, "), "{read}");
        let record = ambassador.wait_records(1).remove(0);
        assert_eq!(record["reason"], "client_certificate_refused", "{record}");
    }
}

/// What is bound to the server's TLS, or stands for TLS that nuncio has begun, is not for the client to see.
#[test]
fn a_mailbox_client_is_offered_what_it_can_have() {
    let pki = Pki::generate();
    let inside = [
        Step::Tls,
        Step::Hear,
        say("* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN AUTH=SCRAM-SHA-256-PLUS\r\nnuncio OK done\r\n"),
        Step::Hear,
        say("* CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=SCRAM-SHA-256-PLUS AUTH=PLAIN\r\na OK done\r\n"),
        Step::Hear,
        say("+ go\r\n"),
        Step::Hear,
        say("b OK [CAPABILITY IMAP4rev1 STARTTLS] in\r\n"),
        Step::Hear,
        say("* CAPABILITY STARTTLS\r\nc OK done\r\n"),
        Step::Close,
    ];
    let server = Scripted::start(pki.server_config(), IMAP.starttls_then(&inside));
    let mut ambassador = Ambassador::start(&IMAP.behind(&pki, server.address(), ""));
    let mut client = Typist::connect(ambassador.listener("in"));
    let types = "a CAPABILITY\r\nb LOGIN u {13}\r\nc CAPABILITY\r\nc CAPABILITY\r\n";
    client.types(types);
    assert_eq!(
        client.rest(),
        "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\na OK done\r\n+ go\r\n\
         b OK [CAPABILITY IMAP4rev1] in\r\n* CAPABILITY STARTTLS\r\nc OK done\r\n"
    );
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success");
    assert_eq!(record["bytes_sent"], types.len(), "what nuncio asks itself is not the client's");
    let heard = [
        "nuncio STARTTLS",
        "nuncio CAPABILITY",
        "a CAPABILITY",
        "b LOGIN u {13}",
        "c CAPABILITY",
        "c CAPABILITY",
    ];
    assert_eq!(server.heard(), heard);
}

/// An old server waits inside TLS to be asked, where a newer one begins by itself; the client sees no difference.
#[test]
fn a_sieve_server_that_waits_is_asked_for_its_capabilities() {
    let pki = Pki::generate();
    let offer = "\"SASL\" \"PLAIN SCRAM-SHA-256-PLUS\"\r\n\"STARTTLS\"\r\n\"SIEVE\" \"fileinto\"\r\nOK\r\n";
    let waits = vec![Step::Tls, Step::Hear, say("NO \"what?\"\r\n"), Step::Hear, say(offer)];
    let begins = vec![Step::Tls, say(offer), Step::Hear, say("OK (TAG {6}\r\nnuncio) \"Done\"\r\n")];
    let end = [Step::Hear, say("OK \"bye\"\r\n"), Step::Close];
    for (steps, asked) in [(waits, vec!["NOOP \"nuncio\"", "CAPABILITY"]), (begins, vec!["NOOP \"nuncio\""])]
    {
        let inside = [steps, end.to_vec()].concat();
        let server = Scripted::start(pki.server_config(), SIEVE.starttls_then(&inside));
        let mut ambassador = Ambassador::start(&SIEVE.behind(&pki, server.address(), ""));
        let mut client = Typist::connect(ambassador.listener("in"));
        client.types("LOGOUT\r\n");
        assert_eq!(client.rest(), "\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\nOK\r\nOK \"bye\"\r\n");
        drop(client);
        let record = ambassador.wait_records(1).remove(0);
        assert_eq!((&record["outcome"], &record["bytes_sent"]), (&"success".into(), &8.into()));
        assert_eq!(server.heard(), [vec!["STARTTLS"], asked, vec!["LOGOUT"]].concat());
    }
}

impl Spoken {
    fn client(self) -> Client {
        if self.protocol == "imap" { Client::Imaplib } else { Client::SieveConnect }
    }

    /// What a program that is refused prints of nuncio's words.
    #[track_caller]
    fn printed(self, pki: &Pki, name: &str, ran: &Ran, record: &Value) -> String {
        assert!(!ran.status.success(), "{ran:#?}");
        let id = record["id"].as_str().expect("a record has an id");
        let directory = pki.directory().display().to_string();
        let lines = ran.stderr.replace(id, "ID").replace(&directory, "/etc/nuncio");
        let mut lines: Vec<_> = lines.lines().filter(|line| line.contains("nuncio: ")).collect();
        lines.dedup();
        redacted(&format!("{name}, {}:\n{}", self.client().name(), lines.join("\n"))) + "\n"
    }

    /// Asks once more.
    #[track_caller]
    fn refused(self, pki: &Pki, name: &str, ambassador: &mut Ambassador) -> String {
        let before = ambassador.records().len();
        let ran = self.client().ask(ambassador.listener("in"));
        self.printed(pki, name, &ran, &ambassador.wait_records(before + 1)[before])
    }

    /// While it waits for a server that does not greet, nuncio is told to end.
    #[track_caller]
    fn drained(self, pki: &Pki) -> String {
        let silent = Scripted::start(pki.server_config(), vec![Step::Hear]);
        let patient = "timeouts.negotiate = \"20s\"\ntimeouts.establish = \"20s\"\n";
        let file = self.behind(pki, silent.address(), patient);
        let mut ambassador =
            Ambassador::start(&format!("drain_timeout = \"0s\"\ndrain_jitter = \"0s\"\n{file}"));
        let (client, door) = (self.client(), ambassador.listener("in"));
        let running = std::thread::spawn(move || client.ask(door));
        ambassador.wait_state("/api/v1/connections", "it waits", |live| (live["total"] == 1).then_some(()));
        ambassador.process().signal("TERM");
        let ran = running.join().expect("it ends");
        self.printed(pki, "draining", &ran, &ambassador.wait_records(1)[0])
    }
}

/// Each kind of trouble, as whoever runs such a program reads it.
#[test]
#[ignore = "needs dovecot, sieve-connect and root: tests/run installs them"]
fn mailbox_programs_print_why_they_are_refused() {
    let pki = Pki::generate();
    let dovecot = Dovecot::without_tls();
    let foreign = pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now);
    let foreign = Arc::new(pki.server_config_with(&foreign, By::Ca));
    let mut shown = String::new();
    for (spoken, door) in [(IMAP, Door::Imap), (SIEVE, Door::Sieve)] {
        let breaker = "breaker = { consecutive = 1, open_for = \"30s\" }\n";
        let mut ambassador = Ambassador::start(&spoken.behind(&pki, free_address(), breaker));
        shown += &spoken.refused(&pki, "down", &mut ambassador);
        shown += &spoken.refused(&pki, "circuit open", &mut ambassador);

        let foreign = Scripted::start(foreign.clone(), spoken.starttls_then(&[Step::Tls]));
        for (name, server) in [("wrong CA", foreign.address()), ("server without TLS", dovecot.at(door))] {
            let mut ambassador = Ambassador::start(&spoken.behind(&pki, server, ""));
            shown += &spoken.refused(&pki, name, &mut ambassador);
        }
        shown += &spoken.drained(&pki);
    }
    insta::assert_snapshot!(shown, @r#"
down, imaplib:
error: b'* BYE [UNAVAILABLE] nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)'
circuit open, imaplib:
error: b"* BYE [UNAVAILABLE] nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"
wrong CA, imaplib:
error: b"* BYE [CONTACTADMIN] nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"
server without TLS, imaplib:
error: b'* BYE [CONTACTADMIN] nuncio: the server has no STARTTLS here: BAD TLS support isn\'t enabled.; it offers only: IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN AUTH=EXTERNAL; switch STARTTLS on at the server (Dovecot: ssl = yes and a certificate; Cyrus: tls_server_cert); or, if this port speaks TLS from its first byte (993), set tls = "direct" (negotiation_refused, connection ID)'
draining, imaplib:
error: b'* BYE [UNAVAILABLE] nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)'
down, sieve-connect:
: (TRYLATER) "nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)"
circuit open, sieve-connect:
: (TRYLATER) "nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"
wrong CA, sieve-connect:
: (TRYLATER) "nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"
server without TLS, sieve-connect:
: (TRYLATER) "nuncio: the server offers no STARTTLS, only: IMPLEMENTATION SIEVE NOTIFY SASL VERSION; switch STARTTLS on at the server (Dovecot: ssl = yes and a certificate; Cyrus: tls_server_cert) (negotiation_refused, connection ID)"
draining, sieve-connect:
: (TRYLATER) "nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)"
"#);
}
