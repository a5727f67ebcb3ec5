//! Servers and clients of old protocols among themselves, without nuncio: what the stories with nuncio rest on.

#![cfg(unix)]

use std::net::SocketAddr;

use super::harness::Pki;
use super::harness::brokers::RabbitMq;
use super::harness::dovecot::{Door, Dovecot};
use super::harness::inn::Inn;
use super::harness::legacy::{Client, Over};
use super::harness::programs::Ran;
use super::harness::prosody::Prosody;
use super::harness::servers::Server;
use super::harness::slapd::Slapd;

/// What the client was given.
#[track_caller]
fn given(client: Client, at: SocketAddr, over: Over<'_>, answer: &str) {
    let ran = client.ask_over(at, over);
    assert!(ran.status.success() && ran.stdout.contains(answer), "{client:?} wants {answer:?}: {ran:#?}");
}

/// What it was told instead.
#[track_caller]
fn refused(client: Client, at: SocketAddr, over: Over<'_>, words: &str) {
    let ran: Ran = client.ask_over(at, over);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!ran.status.success() && said.contains(words), "{client:?} wants {words:?}: {ran:#?}");
}

/// A mailbox is had with the certificate only, and is that of the certificate's name.
#[test]
#[ignore = "needs dovecot and root: tests/run installs it"]
fn dovecot_lets_in_who_has_a_certificate_as_whom_that_names() {
    let pki = Pki::generate();
    let dovecot = Dovecot::start(&pki);
    let with = Some(&pki.client);
    let (mine, nobody) = ("the mailbox of client.test", "Client didn't present valid SSL certificate");
    for (client, starttls, tls) in
        [(Client::Imaplib, Door::Imap, Door::Imaps), (Client::Poplib, Door::Pop3, Door::Pop3s)]
    {
        given(client, dovecot.at(starttls), Over::Starttls(&pki, with), mine);
        given(client, dovecot.at(tls), Over::Tls(&pki, with), mine);
        refused(client, dovecot.at(starttls), Over::Starttls(&pki, None), nobody);
        refused(client, dovecot.at(tls), Over::Tls(&pki, None), nobody);
        refused(client, dovecot.at(starttls), Over::Plaintext, "");
    }
    let sieve = dovecot.at(Door::Sieve);
    given(Client::SieveConnect, sieve, Over::Starttls(&pki, with), "script-of-client.test");
    refused(Client::SieveConnect, sieve, Over::Starttls(&pki, None), nobody);
    refused(Client::SieveConnect, sieve, Over::Plaintext, "");
    let lmtp = dovecot.at(Door::Lmtp);
    given(Client::Lmtplib, lmtp, Over::Starttls(&pki, None), "delivered");
    given(Client::SwaksLmtp, lmtp, Over::Starttls(&pki, with), "Saved");
    given(Client::Lmtplib, lmtp, Over::Plaintext, "delivered");
    let mails = dovecot.delivered("client.test");
    let by = |mail: &String| if mail.contains("with LMTPS") { "LMTPS" } else { "LMTP" };
    assert_eq!(mails.iter().map(by).collect::<Vec<_>>(), ["LMTPS", "LMTPS", "LMTP"], "{mails:#?}");
}

#[test]
#[ignore = "needs dovecot and root: tests/run installs it"]
fn dovecot_without_tls_lets_in_whoever_has_the_password() {
    let dovecot = Dovecot::without_tls();
    for (client, door) in [(Client::Imaplib, Door::Imap), (Client::Poplib, Door::Pop3)] {
        given(client, dovecot.at(door), Over::Plaintext, "the mailbox of u");
    }
    given(Client::SieveConnect, dovecot.at(Door::Sieve), Over::Plaintext, "script-of-u");
    given(Client::SwaksLmtp, dovecot.at(Door::Lmtp), Over::Plaintext, "Saved");
    let pki = Pki::generate();
    let over = Over::Starttls(&pki, None);
    refused(Client::Imaplib, dovecot.at(Door::Imap), over, "TLS not supported by server");
    refused(Client::Lmtplib, dovecot.at(Door::Lmtp), over, "STARTTLS extension not supported by server");
}

#[test]
#[ignore = "needs slapd, ldap-utils, python3-ldap and python3-ldap3: tests/run installs them"]
fn slapd_knows_a_client_by_its_certificate() {
    let pki = Pki::generate();
    let slapd = Slapd::start(&pki);
    let with = Some(&pki.client);
    for (at, over, none) in [
        (slapd.ldap(), Over::Starttls(&pki, with), Over::Starttls(&pki, None)),
        (slapd.ldaps(), Over::Tls(&pki, with), Over::Tls(&pki, None)),
    ] {
        given(Client::Ldapsearch, at, over, "description: hello");
        given(Client::PythonLdap, at, over, "hello");
        given(Client::Ldapwhoami, at, over, "dn:cn=client.test");
        refused(Client::Ldapsearch, at, none, "");
        refused(Client::PythonLdap, at, none, "");
    }
    refused(Client::Ldapsearch, slapd.ldap(), Over::Plaintext, "Confidentiality required (13)");
    refused(Client::Ldap3, slapd.ldap(), Over::Plaintext, "confidentialityRequired");
}

#[test]
#[ignore = "needs slapd, ldap-utils, python3-ldap and java: tests/run installs them"]
fn slapd_without_tls_takes_plaintext_and_refuses_starttls() {
    let pki = Pki::generate();
    let slapd = Slapd::without_tls();
    given(Client::Ldapsearch, slapd.ldap(), Over::Plaintext, "description: hello");
    given(Client::PythonLdap, slapd.ldap(), Over::Plaintext, "hello");
    given(Client::Jndi, slapd.ldap(), Over::Plaintext, "hello");
    refused(Client::Ldapsearch, slapd.ldap(), Over::Starttls(&pki, None), "Protocol error (2)");
}

#[test]
#[ignore = "needs prosody, slixmpp and root: tests/run installs them"]
fn prosody_demands_a_certificate_and_tells_of_it() {
    let pki = Pki::generate();
    let mut prosody = Prosody::start(&pki);
    let with = Some(&pki.client);
    for (at, over, none) in [
        (prosody.starttls(), Over::Starttls(&pki, with), Over::Starttls(&pki, None)),
        (prosody.direct(), Over::Tls(&pki, with), Over::Tls(&pki, None)),
    ] {
        given(Client::Slixmpp, at, over, "a session as u@upstream.test");
        refused(Client::Slixmpp, at, none, "");
    }
    let log = prosody.process().lines().join("\n");
    assert_eq!(log.matches("u came with the certificate: CN=client.test").count(), 2, "{log}");
}

#[test]
#[ignore = "needs prosody, slixmpp and root: tests/run installs them"]
fn prosody_without_tls_begins_a_session_in_plaintext() {
    let prosody = Prosody::without_tls();
    given(Client::Slixmpp, prosody.starttls(), Over::Plaintext, "a session as u@upstream.test");
}

#[test]
#[ignore = "needs inn2 and root: tests/run unpacks it"]
fn inn_takes_an_article_inside_tls_only_and_asks_for_no_certificate() {
    let pki = Pki::generate();
    let inn = Inn::start(&pki);
    given(Client::Nntplib, inn.address(), Over::Starttls(&pki, None), "240 Article received");
    refused(Client::Nntplib, inn.address(), Over::Plaintext, "480");
}

#[test]
#[ignore = "needs inn2 and root: tests/run unpacks it"]
fn inn_without_tls_takes_an_article_in_plaintext() {
    let pki = Pki::generate();
    let inn = Inn::without_tls();
    given(Client::Nntplib, inn.address(), Over::Plaintext, "240 Article received");
    refused(Client::Nntplib, inn.address(), Over::Starttls(&pki, None), "580 Error initializing TLS");
}

#[test]
#[ignore = "needs redis-server and redis-tools: tests/run installs them"]
fn redis_demands_a_certificate() {
    let pki = Pki::generate();
    let redis = Server::redis(&pki);
    given(Client::RedisCli, redis.address(), Over::Tls(&pki, Some(&pki.client)), "PONG");
    // The server closes, or resets.
    refused(Client::RedisCli, redis.address(), Over::Tls(&pki, None), "");
    given(Client::RedisCli, Server::redis_without_tls().address(), Over::Plaintext, "PONG");
}

#[test]
#[ignore = "needs mosquitto and mosquitto-clients: tests/run installs them"]
fn mosquitto_knows_a_client_by_its_certificate() {
    let pki = Pki::generate();
    let mut broker = Server::mosquitto(&pki);
    given(Client::Mosquitto, broker.address(), Over::Tls(&pki, Some(&pki.client)), "hello");
    assert!(broker.process().tail().contains("u'client.test'"), "{}", broker.process().tail());
    refused(Client::Mosquitto, broker.address(), Over::Tls(&pki, None), "");
    given(Client::Mosquitto, Server::mosquitto_without_tls().address(), Over::Plaintext, "hello");
}

#[test]
#[ignore = "needs rabbitmq-server, pika and root: tests/run installs them"]
fn rabbitmq_knows_a_client_by_its_certificate() {
    let pki = Pki::generate();
    let mut broker = RabbitMq::start(&pki);
    given(Client::Pika, broker.address(), Over::Tls(&pki, Some(&pki.client)), "consumed hello");
    let tail = broker.process().tail();
    assert!(tail.contains("user 'client.test' authenticated"), "{tail}");
    refused(Client::Pika, broker.address(), Over::Tls(&pki, None), "");
}

#[test]
#[ignore = "needs mssql-mock-tds and freetds-bin: tests/run installs them"]
fn the_mock_of_sql_server_encrypts_where_it_is_told_to() {
    let pki = Pki::generate();
    let mut server = Server::sql_server(&pki);
    given(Client::Tsql, server.address(), Over::Plaintext, "1");
    assert!(server.process().tail().contains("encrypted bytes"), "{}", server.process().tail());
    let mut server = Server::sql_server_without_tls();
    given(Client::Tsql, server.address(), Over::Plaintext, "1");
    assert!(!server.process().tail().contains("encrypted bytes"), "{}", server.process().tail());
}
