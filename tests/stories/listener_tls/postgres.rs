//! PostgreSQL's clients with sslmode=require and stricter.

use super::super::harness::ambassador::Ambassador;
use super::super::harness::postgres::{self, PASSWORD, Postgres, Release, USER};
use super::super::harness::{Pki, config, sql};
use super::{DOOR, behind, told};

const WHO: &str = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()";

/// As libpq has it: to the listener `in`, with these words of TLS.
fn through(nuncio: &Ambassador, tls: &str) -> String {
    let address = nuncio.listener("in");
    format!(
        "host={DOOR} hostaddr={} port={} user={USER} password={PASSWORD} dbname={USER} {tls}",
        address.ip(),
        address.port()
    )
}

fn upstream(server: &Postgres) -> String {
    format!("protocol = \"postgres\"\n{}", config::endpoints(&[server.address()]))
}

/// The client verifies the listener, the listener's upstream verifies us, and the server sees the role's certificate. Before,
/// during and after: what is asked inside TLS arrives, and the record has both.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_client_that_verifies_reaches_a_server_that_does() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let listener = "tls = \"required\"\nidentity = \"door\"";
    let mut nuncio = Ambassador::start(&behind(&pki, &postgres::client(&pki), listener, &upstream(&server)));
    let verify = format!("sslmode=verify-full sslrootcert={} channel_binding=disable", pki.ca().display());
    for release in [Release::Debian, Release::Newest] {
        let ran = sql::psql(release, &through(&nuncio, &verify), WHO);
        assert_eq!(ran.answer(), "t|TLSv1.3|/CN=app", "{ran:#?}");
    }
    // Without asking: PostgreSQL 17 and later.
    let direct = format!("{verify} sslnegotiation=direct");
    let ran = sql::psql(Release::Newest, &through(&nuncio, &direct), WHO);
    assert_eq!(ran.answer(), "t|TLSv1.3|/CN=app", "{ran:#?}");
    let records = nuncio.wait_records(3);
    for record in &records {
        assert_eq!(record["outcome"], "success", "{record}");
        assert_eq!(record["client_tls"]["version"], "TLSv1.3", "{record}");
        assert_eq!(record["tls"]["peer"]["san"][0], DOOR, "{record}");
    }
    assert_eq!(records[2]["client_tls"]["alpn"], "postgresql");
}

/// Who speaks plaintext to a listener that demands TLS is told so by its own driver, and what to set.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn plaintext_is_turned_away_in_words_where_tls_is_demanded() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let required = |tls: &str| {
        let listener = format!("tls = \"{tls}\"");
        Ambassador::start(&behind(&pki, &postgres::client(&pki), &listener, &upstream(&server)))
    };
    let mut nuncio = required("required");
    let ran = sql::psql(Release::Debian, &through(&nuncio, "sslmode=disable"), "select 1");
    for part in ["serves nobody without TLS", "set sslmode=require in the client", "reason admission_denied"]
    {
        assert!(ran.refusal().contains(part), "{ran:#?}");
    }
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!((&record["outcome"], &record["side"]), (&"refused".into(), &"client".into()), "{record}");

    // Where it is not demanded, both are served.
    let nuncio = required("optional");
    for tls in [
        "sslmode=disable",
        "sslmode=require channel_binding=disable",
        "sslmode=prefer channel_binding=disable",
    ] {
        sql::psql(Release::Debian, &through(&nuncio, tls), "select 1").answer();
    }
}

/// Without an identity the listener shows a certificate of its own making: enough for sslmode=require, and one that verifies
/// is told in the log why it left.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_self_made_certificate_encrypts_and_cannot_be_verified() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let config = behind(&pki, &postgres::client(&pki), "tls = \"required\"", &upstream(&server));
    let mut nuncio = Ambassador::start(&config);
    let line = nuncio.wait_line("a certificate of its own making");
    assert!(line.contains("sha256"), "{line}");
    let ran = sql::psql(Release::Debian, &through(&nuncio, "sslmode=require channel_binding=disable"), WHO);
    assert_eq!(ran.answer(), "t|TLSv1.3|/CN=app", "{ran:#?}");
    let verify = format!("sslmode=verify-ca sslrootcert={}", pki.ca().display());
    let ran = sql::psql(Release::Debian, &through(&nuncio, &verify), "select 1");
    assert!(ran.refusal().contains("certificate verify failed"), "{ran:#?}");
    let record = nuncio.wait_records(2).remove(1);
    insta::assert_snapshot!(told(&record), @r#"
failed at admit: tls_alert_received (client)
  the client ended its TLS handshake with nuncio by the alert unknown_ca (48): it does not trust the listener's self-made certificate
  no client can verify a self-made certificate: give the listener an `identity` whose issuer the client trusts, or let the client encrypt without verifying (sslmode=require)
"#);
}

/// SCRAM's channel binding ends where TLS does. A client that would bind is told before the server takes that for an attack.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_client_that_counts_on_channel_binding_is_told_what_to_set() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let listener = "tls = \"optional\"\nidentity = \"door\"";
    let nuncio = Ambassador::start(&behind(&pki, &postgres::client(&pki), listener, &upstream(&server)));
    for release in [Release::Debian, Release::Newest] {
        let ran = sql::psql(release, &through(&nuncio, "sslmode=require"), "select 1");
        assert!(ran.refusal().contains("set channel_binding=disable in the client"), "{ran:#?}");
    }
}

/// ^C from a client that speaks TLS reaches its server, whichever way its library asks.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_session_inside_tls_can_be_cancelled() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let nuncio =
        Ambassador::start(&behind(&pki, &postgres::client(&pki), "tls = \"required\"", &upstream(&server)));
    for release in [Release::Debian, Release::Newest] {
        let conninfo = through(&nuncio, "sslmode=require channel_binding=disable");
        let ran = sql::interrupted_psql(release, &conninfo, &[&server]);
        assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
    }
}

/// What cannot be served is refused inside TLS as outside.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_client_inside_tls_is_refused_in_words() {
    let pki = Pki::generate();
    let gone = super::super::harness::free_address();
    let upstream = format!("protocol = \"postgres\"\nretry.attempts = 1\n{}", config::endpoints(&[gone]));
    let nuncio = Ambassador::start(&behind(&pki, &postgres::client(&pki), "tls = \"required\"", &upstream));
    for release in [Release::Debian, Release::Newest] {
        let ran = sql::psql(release, &through(&nuncio, "sslmode=require"), "select 1");
        assert!(ran.refusal().contains("refused the connection"), "{ran:#?}");
    }
}
