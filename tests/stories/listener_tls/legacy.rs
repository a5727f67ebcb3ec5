//! Stock clients of every other protocol, each with TLS in its own way: what it asks for ends at its listener, and its server
//! sees the certificate that nuncio has.

use std::net::SocketAddr;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::dovecot::{Door, Dovecot};
use super::super::harness::inn::Inn;
use super::super::harness::legacy::{Client, LIMIT, Over};
use super::super::harness::mysql::{self, Make, Mysql};
use super::super::harness::mysql_clients::{self, ClientTls, Login};
use super::super::harness::pki::Leaf;
use super::super::harness::programs::{Ran, Running};
use super::super::harness::prosody::Prosody;
use super::super::harness::servers::Server;
use super::super::harness::slapd::Slapd;
use super::super::harness::wording::redacted;
use super::super::harness::{Pki, config};
use super::behind;

fn listening(
    pki: &Pki,
    as_who: &Leaf,
    protocol: &str,
    at: SocketAddr,
    listener: &str,
    keys: &str,
) -> Ambassador {
    let upstream = format!(
        "protocol = \"{protocol}\"\nhealth.kind = \"off\"\nretry.attempts = 1\n{keys}{}",
        config::endpoints(&[at])
    );
    let listener = format!("identity = \"door\"\n{listener}");
    Ambassador::start(&behind(pki, as_who, &listener, &upstream))
}

/// Asks for TLS where it is optional and where it is required, is served, and what it says without where it must: what it
/// printed then.
#[track_caller]
fn asks_for_tls(pki: &Pki, protocol: &str, at: SocketAddr, client: Client, given: &str) -> String {
    for tls in ["optional", "required"] {
        let mut nuncio = listening(pki, &pki.client, protocol, at, &format!("tls = \"{tls}\""), "");
        let ran = client.ask_over(nuncio.listener("in"), Over::Starttls(pki, None));
        assert!(ran.status.success() && ran.stdout.contains(given), "{client:?}, {tls}: {ran:#?}");
        let record = nuncio.wait_records(1).remove(0);
        assert_eq!(record["outcome"], "success", "{record}");
        assert!(
            record["client_tls"]["version"].is_string() && record["tls"]["version"].is_string(),
            "{record}"
        );
        // It takes what it is offered, but knows nobody that it could trust; and one without a login waits for one.
        if matches!(client, Client::SieveConnect | Client::Slixmpp) {
            continue;
        }
        let ran = client.ask(nuncio.listener("in"));
        match tls {
            "optional" => assert!(ran.status.success() && ran.stdout.contains(given), "{ran:#?}"),
            _ => {
                assert!(!ran.status.success() || !ran.stdout.contains(given), "{ran:#?}");
                let words = format!("{}{}", ran.stdout, ran.stderr);
                let last: Vec<_> =
                    words.trim().lines().last().unwrap_or_default().split_whitespace().collect();
                return format!("{}: {}\n", client.name(), last.join(" "));
            }
        }
    }
    String::new()
}

/// Begins with TLS, and is served.
#[track_caller]
fn begins_with_tls(pki: &Pki, protocol: &str, at: SocketAddr, keys: &str, client: Client, given: &str) {
    let listener = "tls = \"required\"\ntls_mode = \"direct\"";
    let mut nuncio = listening(pki, &pki.client, protocol, at, listener, keys);
    let ran = client.ask_over(nuncio.listener("in"), Over::Tls(pki, None));
    assert!(ran.status.success() && ran.stdout.contains(given), "{client:?}: {ran:#?}");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
    assert!(record["client_tls"]["version"].is_string(), "{record}");
}

#[test]
#[ignore = "needs dovecot, sieve-connect, swaks and root: tests/run installs them"]
fn mailboxes() {
    let pki = Pki::generate();
    let dovecot = Dovecot::start(&pki);
    let mut shown = String::new();
    for (protocol, door, client, given) in [
        ("imap", Door::Imap, Client::Imaplib, "the mailbox of client.test"),
        ("pop3", Door::Pop3, Client::Poplib, "the mailbox of client.test"),
        ("sieve", Door::Sieve, Client::SieveConnect, "script-of-client.test"),
    ] {
        shown += &asks_for_tls(&pki, protocol, dovecot.at(door), client, given);
        if client != Client::SieveConnect {
            begins_with_tls(&pki, protocol, dovecot.at(door), "", client, given);
        }
    }
    for (client, given) in [(Client::Lmtplib, "delivered"), (Client::SwaksLmtp, "Saved")] {
        shown += &asks_for_tls(&pki, "lmtp", dovecot.at(Door::Lmtp), client, given);
    }
    insta::assert_snapshot!(redacted(&shown), @r#"
imaplib: error: b'[PRIVACYREQUIRED] STARTTLS is required first'
poplib: error_proto: b'-ERR [SYS/PERM] STLS is required first'
smtplib.LMTP: SMTPSenderRefused: (530, b'5.7.0 Must issue a STARTTLS command first', 'a@client.test')
swaks --protocol LMTP: === Connection closed with remote host.
"#);
}

#[test]
#[ignore = "needs inn2 and root: tests/run installs it"]
fn news() {
    let pki = Pki::generate();
    let inn = Inn::start(&pki);
    let shown = asks_for_tls(&pki, "nntp", inn.address(), Client::Nntplib, "240");
    insta::assert_snapshot!(redacted(&shown), @"nntplib: NNTPTemporaryError: 483 STARTTLS is required first");
}

#[test]
#[ignore = "needs slapd, ldap-utils and python3-ldap: tests/run installs them"]
fn directory() {
    let pki = Pki::generate();
    let slapd = Slapd::start(&pki);
    let mut shown = String::new();
    for client in [Client::Ldapsearch, Client::PythonLdap] {
        shown += &asks_for_tls(&pki, "ldap", slapd.ldap(), client, "");
        // And whoever does not ask begins with it, on the same port.
        let mut nuncio = listening(&pki, &pki.client, "ldap", slapd.ldap(), "tls = \"required\"", "");
        client.ask_over(nuncio.listener("in"), Over::Tls(&pki, None)).answer();
        assert!(nuncio.wait_records(1)[0]["client_tls"]["version"].is_string());
    }
    insta::assert_snapshot!(redacted(&shown), @r#"
ldapsearch: additional info: StartTLS is required first
python-ldap: CONFIDENTIALITY_REQUIRED: {'msgtype': 97, 'msgid': 1, 'result': 13, 'desc': 'Confidentiality required', 'ctrls': [], 'info': 'StartTLS is required first'}
"#);
}

#[test]
#[ignore = "needs prosody and slixmpp: tests/run installs them"]
fn chat() {
    let pki = Pki::generate();
    let prosody = Prosody::start(&pki);
    let shown =
        asks_for_tls(&pki, "xmpp", prosody.starttls(), Client::Slixmpp, "a session as u@upstream.test");
    insta::assert_snapshot!(redacted(&shown), @"");
    let mut nuncio = listening(&pki, &pki.client, "xmpp", prosody.starttls(), "tls = \"required\"", "");
    Client::Slixmpp.ask_over(nuncio.listener("in"), Over::Tls(&pki, None)).answer();
    assert!(nuncio.wait_records(1)[0]["client_tls"]["version"].is_string());
}

/// Clients of protocols that have no way to ask.
#[test]
#[ignore = "needs redis and mosquitto: tests/run installs them"]
fn those_that_never_ask() {
    let pki = Pki::generate();
    let redis = Server::redis(&pki);
    begins_with_tls(&pki, "redis", redis.address(), "", Client::RedisCli, "PONG");
    let mosquitto = Server::mosquitto(&pki);
    begins_with_tls(&pki, "mqtt", mosquitto.address(), "", Client::Mosquitto, "hello");
}

/// Every client that has TLS, to either server, with each way to log in: the password of caching_sha2_password goes as it does
/// inside TLS, and nobody has to ask for a key.
#[test]
#[ignore = "needs mariadb and root, and Oracle's MySQL: tests/run installs them"]
fn databases_of_mysql() {
    let pki = Pki::generate();
    let owner = mysql::client(&pki);
    let files = [&pki.ca(), &pki.client.certificate, &pki.client.key].map(Clone::clone);
    for make in [Make::MariaDb, Make::Oracle] {
        let server = Mysql::start(&pki, make);
        for tls in ["optional", "required"] {
            let mut nuncio =
                listening(&pki, &owner, "mysql", server.address(), &format!("tls = \"{tls}\""), "");
            let mut served = 0;
            for client in [
                mysql_clients::Client::MariaDb,
                mysql_clients::Client::Oracle,
                mysql_clients::Client::PyMysql,
            ] {
                if make == Make::Oracle {
                    server.forget_passwords();
                }
                for demanded in [ClientTls::Demanded, ClientTls::Mutual(files.clone())] {
                    let login = Login { tls: demanded, ..Login::at(nuncio.listener("in")) };
                    let ran = client.ask(&login, &["select 'hello'"]);
                    assert_eq!(ran.answer(), "hello", "{client:?} to {make:?}: {ran:#?}");
                    served += 1;
                }
            }
            for record in nuncio.wait_records(served) {
                assert_eq!(record["outcome"], "success", "{record}");
                assert_eq!(record["client_tls"]["version"], "TLSv1.3", "{record}");
            }
            let login =
                Login { tls: ClientTls::Disabled, public_key: true, ..Login::at(nuncio.listener("in")) };
            let ran = mysql_clients::Client::Oracle.ask(&login, &["select 'hello'"]);
            match tls {
                "optional" => assert_eq!(ran.answer(), "hello", "{ran:#?}"),
                _ => assert!(ran.refusal().contains("serves nobody without TLS"), "{ran:#?}"),
            }
        }
    }
}

/// TDS 7, whose handshake travels in packets on both sides.
#[test]
#[ignore = "needs freetds-bin and mssql-mock-tds: tests/run installs them"]
fn databases_of_sql_server() {
    let pki = Pki::generate();
    let server = Server::sql_server(&pki);
    for (tls, settings, served, inside) in [
        ("optional", "encryption = require", true, true),
        ("optional", "encryption = off", true, false),
        ("required", "encryption = require", true, true),
        ("required", "encryption = request", true, true),
        ("required", "encryption = off", false, false),
    ] {
        let mut nuncio =
            listening(&pki, &pki.client, "sqlserver", server.address(), &format!("tls = \"{tls}\""), "");
        let ran = tsql(&nuncio, settings);
        assert_eq!(ran.stdout.trim() == "1", served, "{tls}, {settings}: {ran:#?}");
        let record = nuncio.wait_records(1).remove(0);
        assert_eq!(record["client_tls"]["version"].is_string(), inside, "{tls}, {settings}: {record}");
        assert_eq!(record["outcome"], if served { "success" } else { "refused" }, "{record}");
    }
}

#[track_caller]
fn tsql(nuncio: &Ambassador, settings: &str) -> Ran {
    let directory = tempfile::tempdir().expect("a directory for freetds.conf");
    let file = directory.path().join("freetds.conf");
    let (ip, port) = (nuncio.listener("in").ip(), nuncio.listener("in").port());
    let text = format!("[it]\nhost = {ip}\nport = {port}\ntds version = 7.4\n{settings}\n");
    std::fs::write(&file, text).expect("it is written");
    let mut command = std::process::Command::new("env");
    command.arg(format!("FREETDSCONF={}", file.display()));
    command.args(["tsql", "-o", "fhq", "-S", "it", "-U", "sa", "-P", "x"]);
    Running::start(&mut command, "select 1\ngo\nexit\n").finish(LIMIT)
}
