//! Directories and chat behind nuncio: what stock clients of LDAP and XMPP print when they are refused.

#![cfg(unix)]

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::harness::ambassador::Ambassador;
use super::harness::legacy::Client;
use super::harness::peer::Peer;
use super::harness::pki::{By, Leaf, SERVER_NAME, Valid};
use super::harness::programs::Ran;
use super::harness::prosody::Prosody;
use super::harness::slapd::Slapd;
use super::harness::wording::redacted;
use super::harness::{Pki, config, free_address};

const LDAP: &[Client] = &[Client::Ldapsearch, Client::PythonLdap, Client::Ldap3, Client::Jndi];
const XMPP: &[Client] = &[Client::Slixmpp];

/// The only connections are those of the test, and each is tried once.
fn upstream(protocol: &str, server: SocketAddr, keys: &str) -> String {
    let endpoints = config::endpoints(&[server]);
    format!("protocol = \"{protocol}\"\n{endpoints}health.kind = \"off\"\nretry.attempts = 1\n{keys}")
}

/// All of them at once.
fn ask(clients: &[Client], door: SocketAddr) -> Vec<(Client, JoinHandle<Ran>)> {
    clients.iter().copied().map(|client| (client, thread::spawn(move || client.ask(door)))).collect()
}

/// What programs that are refused print, without what differs from run to run; and that the records say so too.
#[track_caller]
fn printed(pki: &Pki, asked: Vec<(Client, JoinHandle<Ran>)>, records: &[Value], reason: &str) -> String {
    let directory = pki.directory().display().to_string();
    for record in records {
        assert_eq!(record["reason"], reason, "{record}");
    }
    let mut shown = format!("{reason}\n");
    for (client, asked) in asked {
        let ran = asked.join().expect("it ends");
        assert!(!ran.status.success(), "{ran:#?}");
        let id = |record: &&Value| record["id"].as_str().is_some_and(|id| ran.stderr.contains(id));
        let record = records.iter().find(id).unwrap_or_else(|| panic!("no id is told: {ran:#?}"));
        let words = ran.stderr.replace(record["id"].as_str().unwrap_or_default(), "ID");
        shown +=
            &format!("{}: {}\n", client.name(), redacted(words.replace(&directory, "/etc/nuncio").trim()));
    }
    shown
}

#[track_caller]
fn refused(pki: &Pki, clients: &[Client], ambassador: &mut Ambassador, reason: &str) -> String {
    let before = ambassador.records().len();
    let asked = ask(clients, ambassador.listener("in"));
    let records = ambassador.wait_records(before + clients.len());
    printed(pki, asked, &records[before..], reason)
}

/// While they wait for a server that says nothing, nuncio is told to end.
#[track_caller]
fn drained(pki: &Pki, clients: &[Client], protocol: &str) -> String {
    let silent = Peer::start(|mut stream| drop(io::copy(&mut stream, &mut io::sink())));
    let patient = "timeouts.negotiate = \"25s\"\ntimeouts.establish = \"25s\"\n";
    let file = config::mtls(pki, &upstream(protocol, silent.address(), patient));
    let mut ambassador = Ambassador::start(&format!("drain_timeout = \"0s\"\ndrain_jitter = \"0s\"\n{file}"));
    let asked = ask(clients, ambassador.listener("in"));
    let count = clients.len();
    ambassador.wait_state("/api/v1/connections", "all wait", |live| (live["total"] == count).then_some(()));
    ambassador.process().signal("TERM");
    let records = ambassador.wait_records(count);
    printed(pki, asked, &records, "draining")
}

/// Each kind of trouble: nothing listens there, nobody is sent there any more, its certificate is of another CA, it has no TLS,
/// and nuncio is going. `foreign` and `plain` are servers.
#[track_caller]
fn each_trouble(pki: &Pki, protocol: &str, clients: &[Client], [foreign, plain]: [SocketAddr; 2]) -> String {
    let behind =
        |server, keys: &str| Ambassador::start(&config::mtls(pki, &upstream(protocol, server, keys)));
    let mut down = behind(free_address(), "breaker = { consecutive = 1, open_for = \"60s\" }\n");
    let mut shown = refused(pki, &clients[..1], &mut down, "connection_refused");
    shown += &refused(pki, clients, &mut down, "circuit_open");
    shown += &refused(pki, clients, &mut behind(foreign, ""), "tls_certificate_error");
    shown += &refused(pki, clients, &mut behind(plain, ""), "negotiation_refused");
    shown + &drained(pki, clients, protocol)
}

fn foreign(pki: &Pki) -> Leaf {
    pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now)
}

#[test]
#[ignore = "needs slapd, ldap-utils, python3-ldap, python3-ldap3 and java: tests/run installs them"]
fn directory_programs_print_why_they_are_refused() {
    let pki = Pki::generate();
    let (foreign, plain) = (Slapd::presenting(&pki, &foreign(&pki)), Slapd::without_tls());
    let servers = [foreign.ldap(), plain.ldap()];
    insta::assert_snapshot!(each_trouble(&pki, "ldap", LDAP, servers), @r#"
connection_refused
ldapsearch: ldap_bind: Server is unavailable (52)
	additional info: nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)
circuit_open
ldapsearch: ldap_bind: Server is unavailable (52)
	additional info: nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)
python-ldap: UNAVAILABLE: {'msgtype': 97, 'msgid': 1, 'result': 52, 'desc': 'Server is unavailable', 'ctrls': [], 'info': "nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"}
ldap3: LDAPUnavailableResult: LDAPUnavailableResult - 52 - unavailable - None - nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID) - bindResponse - None
JNDI: javax.naming.ServiceUnavailableException: [LDAP: error code 52 - nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)]
tls_certificate_error
ldapsearch: ldap_bind: Server is unavailable (52)
	additional info: nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)
python-ldap: UNAVAILABLE: {'msgtype': 97, 'msgid': 1, 'result': 52, 'desc': 'Server is unavailable', 'ctrls': [], 'info': "nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"}
ldap3: LDAPUnavailableResult: LDAPUnavailableResult - 52 - unavailable - None - nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID) - bindResponse - None
JNDI: javax.naming.ServiceUnavailableException: [LDAP: error code 52 - nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)]
negotiation_refused
ldapsearch: ldap_bind: Server is unavailable (52)
	additional info: nuncio: the server said no to StartTLS: protocolError (2): unsupported extended operation; the server has no TLS: give it a certificate and key (OpenLDAP: olcTLSCertificateFile and olcTLSCertificateKeyFile; 389 DS: nsslapd-security = on); or, if TLS is on a port of its own (636), use that with tls = "direct" (negotiation_refused, connection ID)
python-ldap: UNAVAILABLE: {'msgtype': 97, 'msgid': 1, 'result': 52, 'desc': 'Server is unavailable', 'ctrls': [], 'info': 'nuncio: the server said no to StartTLS: protocolError (2): unsupported extended operation; the server has no TLS: give it a certificate and key (OpenLDAP: olcTLSCertificateFile and olcTLSCertificateKeyFile; 389 DS: nsslapd-security = on); or, if TLS is on a port of its own (636), use that with tls = "direct" (negotiation_refused, connection ID)'}
ldap3: LDAPUnavailableResult: LDAPUnavailableResult - 52 - unavailable - None - nuncio: the server said no to StartTLS: protocolError (2): unsupported extended operation; the server has no TLS: give it a certificate and key (OpenLDAP: olcTLSCertificateFile and olcTLSCertificateKeyFile; 389 DS: nsslapd-security = on); or, if TLS is on a port of its own (636), use that with tls = "direct" (negotiation_refused, connection ID) - bindResponse - None
JNDI: javax.naming.ServiceUnavailableException: [LDAP: error code 52 - nuncio: the server said no to StartTLS: protocolError (2): unsupported extended operation; the server has no TLS: give it a certificate and key (OpenLDAP: olcTLSCertificateFile and olcTLSCertificateKeyFile; 389 DS: nsslapd-security = on); or, if TLS is on a port of its own (636), use that with tls = "direct" (negotiation_refused, connection ID)]
draining
ldapsearch: ldap_bind: Server is unavailable (52)
	additional info: nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)
python-ldap: UNAVAILABLE: {'msgtype': 97, 'msgid': 1, 'result': 52, 'desc': 'Server is unavailable', 'ctrls': [], 'info': 'nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)'}
ldap3: LDAPUnavailableResult: LDAPUnavailableResult - 52 - unavailable - None - nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID) - bindResponse - None
JNDI: javax.naming.ServiceUnavailableException: [LDAP: error code 52 - nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)]
"#);
}

#[test]
#[ignore = "needs prosody, slixmpp and root: tests/run installs them"]
fn chat_programs_print_why_they_are_refused() {
    let pki = Pki::generate();
    let (foreign, plain) = (Prosody::presenting(&pki, &foreign(&pki)), Prosody::without_tls());
    let servers = [foreign.starttls(), plain.starttls()];
    insta::assert_snapshot!(each_trouble(&pki, "xmpp", XMPP, servers), @r#"
connection_refused
slixmpp: OSError: stream error remote-connection-failed: nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)
circuit_open
slixmpp: OSError: stream error remote-connection-failed: nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)
tls_certificate_error
slixmpp: OSError: stream error remote-connection-failed: nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)
negotiation_refused
slixmpp: OSError: stream error remote-connection-failed: nuncio: the server offers no starttls, only: mechanisms; switch TLS on at the server, with a certificate for this domain (Prosody: the `tls` module and `prosodyctl cert import`; ejabberd: starttls in the listener, and `certfiles`); or, if TLS is on a port of its own (5223), use that with tls = "direct" (negotiation_refused, connection ID)
draining
slixmpp: OSError: stream error system-shutdown: nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)
"#);
}
