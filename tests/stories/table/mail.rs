//! Mail: what is sent, what is delivered, and what is read.

use super::super::harness::Pki;
use super::super::harness::dovecot::{Door, Dovecot};
use super::super::harness::legacy::Client;
use super::super::harness::mail::{MailServer, Mailer};
use super::super::harness::servers::Server;
use super::{Meeting, Table, told};

#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn table_smtp() {
    let pki = Pki::generate();
    let postfix = MailServer::postfix(&pki);
    let mut table = Table::of("smtp");
    for (mailer, client) in [(Mailer::Swaks, "swaks"), (Mailer::Smtplib, "smtplib"), (Mailer::Msmtp, "msmtp")]
    {
        let meeting = Meeting {
            server: "Postfix",
            at: postfix.address(),
            keys: "",
            client,
            ask: &|at| mailer.send(at, client),
            says: "a@client.test",
            given: "",
        };
        table.line(&pki, &meeting, || {
            told(&mut || postfix.wait_mail(client), "Client ", ')') + "), in `Received:`"
        });
    }
    table.write();
}

/// What Dovecot logs of who logs in, whose name it has from the certificate.
fn login(dovecot: &mut Dovecot) -> String {
    let name = told(&mut || dovecot.process().lines().join("\n"), "Login: user=<", '>');
    assert_eq!(name, "client.test");
    format!("logs `u` in as `{name}`, its CN")
}

/// Through STARTTLS, and through the port where TLS comes first.
fn read_mail(protocol: &'static str, client: Client, says: &str, doors: [Door; 2]) {
    let pki = Pki::generate();
    let mut table = Table::of(protocol);
    for (door, keys) in doors.into_iter().zip(["", "tls = \"direct\"\n"]) {
        let mut dovecot = Dovecot::start(&pki);
        let meeting = Meeting {
            server: "Dovecot",
            at: dovecot.at(door),
            keys,
            client: client.name(),
            ask: &|at| client.ask(at),
            says,
            given: "the mailbox of client.test",
        };
        table.line(&pki, &meeting, || login(&mut dovecot));
    }
    table.write();
}

#[test]
#[ignore = "needs dovecot and root: tests/run installs it"]
fn table_imap() {
    read_mail("imap", Client::Imaplib, "LOGIN u", [Door::Imap, Door::Imaps]);
}

#[test]
#[ignore = "needs dovecot and root: tests/run installs it"]
fn table_pop3() {
    read_mail("pop3", Client::Poplib, "USER u", [Door::Pop3, Door::Pop3s]);
}

#[test]
#[ignore = "needs dovecot, sieve-connect and root: tests/run installs them"]
fn table_sieve() {
    let pki = Pki::generate();
    let mut dovecot = Dovecot::start(&pki);
    let mut table = Table::of("sieve");
    let client = Client::SieveConnect;
    let meeting = Meeting {
        server: "Dovecot",
        at: dovecot.at(Door::Sieve),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "AUTHENTICATE \"PLAIN\"",
        given: "script-of-client.test",
    };
    table.line(&pki, &meeting, || login(&mut dovecot));
    table.write();
}

/// Dovecot's LMTP never asks for a certificate: nginx before it does.
#[test]
#[ignore = "needs dovecot, nginx, swaks and root: tests/run installs them"]
fn table_lmtp() {
    let pki = Pki::generate();
    let dovecot = Dovecot::start(&pki);
    let mut nginx = Server::nginx(&pki, dovecot.at(Door::Lmtp));
    let (behind, at) = (dovecot.at(Door::Lmtp), nginx.address());
    let mut table = Table::of("lmtp");
    for client in [Client::Lmtplib, Client::SwaksLmtp] {
        let meeting = Meeting {
            server: "Dovecot",
            at: behind,
            keys: "",
            client: client.name(),
            ask: &|at| client.ask(at),
            says: "TO:<client.test>",
            given: if client == Client::Lmtplib { "delivered" } else { "Saved" },
        };
        let none = table.not_demanded(&pki, &meeting);
        table.line(&pki, &meeting, || {
            let mails = dovecot.delivered("client.test");
            let mail = mails.last().expect("it was delivered");
            assert!(mail.contains("with LMTPS"), "{mail}");
            format!("{none}; `with LMTPS` in `Received:`")
        });
        let meeting = Meeting { server: "nginx before Dovecot", at, keys: "tls = \"direct\"\n", ..meeting };
        table.line(&pki, &meeting, || nginx_told(&mut nginx));
    }
    table.write();
}

/// The subject of the certificate that nginx was shown.
pub(super) fn nginx_told(nginx: &mut Server) -> String {
    told(&mut || nginx.process().lines().join("\n"), " SUCCESS ", '\n') + ", by nginx"
}
