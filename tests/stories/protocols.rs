//! `nuncio protocols`, and the README's table of the same.

use std::path::Path;

use serde_json::Value;

use super::harness::ambassador::run;

#[test]
fn the_protocols_are_told_to_a_person() {
    let (code, out, err) = run(&["protocols"], Path::new("."));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    insta::assert_snapshot!(out, @r#"
tcp: anything over TCP
  TLS          from the first byte (tls = "direct", the default)
  first word   either
  no           a reset
  limits       servers that send their clients to other addresses lead them past nuncio

postgres: PostgreSQL
  TLS          asked for by SSLRequest (tls = "negotiate", the default), port 5432
               or from the first byte (tls = "direct"), with the ALPN postgresql, port 5432
  first word   client
  no           FATAL ErrorResponse with SQLSTATE, DETAIL and HINT
  limits       the client's own TLS and GSSAPI encryption (both are answered no: sslmode=disable or prefer; TLS where the listener has it); SCRAM's channel binding, since TLS ends here (channel_binding=prefer or disable, with TLS on both sides disable); clients of protocol 2

mysql: MySQL and MariaDB
  TLS          asked for by SSLRequest (tls = "negotiate", the default), port 3306
               or from the first byte (tls = "direct")
  first word   server
  no           ERR packet: 1040 (limits), 1053 (draining), 1130 (not allowed), 1159 (too slow) or 1158
  limits       the client's own TLS (--skip-ssl, sslmode=DISABLED or PREFERRED), but where its listener has TLS; over TCP, a client without it that has caching_sha2_password or sha256_password has to ask for the server's RSA key (--get-server-public-key, allowPublicKeyRetrieval=true); COM_CHANGE_USER to an account of these two plugins that is not in the server's cache; clients of before 4.1

sqlserver: Microsoft SQL Server (TDS)
  TLS          asked for by PRELOGIN (tls = "negotiate", the default), port 1433
               or from the first byte (tls = "direct"), with the ALPN tds/8.0, port 1433
  first word   client
  no           an error (class 20) in answer to the login
  limits       a client's own encryption (Encrypt=no or optional), but where its listener has TLS (and then neither MARS nor federated logins); clients of TDS 4.2 and 5.0; TLS 1.3 where TLS is asked for (TDS 7 has none); what leads a client to other addresses (Azure's redirect, read-only routing, the SQL Browser's ports of named instances); Windows logins where Extended Protection is required. Proven with FreeTDS and Microsoft's mock server: no real one has seen a certificate of ours, and it may log health checks (17830)

smtp: SMTP
  TLS          asked for by STARTTLS (tls = "negotiate", the default), port 25
               or from the first byte (tls = "direct"), port 465
  first word   server
  no           421 with the reason in words (554 where the client may not come at all)
  limits       mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; where a listener has TLS, STARTTLS before AUTH and MAIL ends there

lmtp: LMTP
  TLS          asked for by STARTTLS (tls = "negotiate", the default), port 24
               or from the first byte (tls = "direct")
  first word   server
  no           421 with the reason in words: the mail stays in the sender's queue
  limits       mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; where a listener has TLS, STARTTLS before MAIL ends there

imap: IMAP
  TLS          asked for by STARTTLS (tls = "negotiate", the default), port 143
               or from the first byte (tls = "direct"), with the ALPN imap, port 993
  first word   server
  no           an untagged BYE with the reason in words
  limits       STARTTLS, LOGINDISABLED and mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the server offers; a server that greets with PREAUTH cannot be asked for TLS; referrals lead clients past nuncio; where a listener has TLS, STARTTLS before the login ends there

pop3: POP3
  TLS          asked for by STLS (tls = "negotiate", the default), port 110
               or from the first byte (tls = "direct"), with the ALPN pop3, port 995
  first word   server
  no           -ERR [SYS/TEMP] or [SYS/PERM] with the reason in words
  limits       mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STLS are taken out of what the server offers; where a listener has TLS, STLS before the login ends there

sieve: ManageSieve
  TLS          asked for by STARTTLS (tls = "negotiate", the default), port 4190
               or from the first byte (tls = "direct"), with the ALPN managesieve
  first word   server
  no           BYE with the reason in words
  limits       STARTTLS and mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the server offers; referrals lead clients past nuncio; where a listener has TLS, STARTTLS before the login ends there

nntp: NNTP
  TLS          asked for by STARTTLS (tls = "negotiate", the default), port 119
               or from the first byte (tls = "direct"), with the ALPN nntp, port 563
  first word   server
  no           400 with the reason in words (502 where the client may not come at all)
  limits       mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; where a listener has TLS, STARTTLS before the login ends there; feeds into INN's innd, which knows no TLS: whom it leaves to nnrpd is a reader

ldap: LDAP
  TLS          asked for by StartTLS (tls = "negotiate", the default), port 389
               or from the first byte (tls = "direct"), port 636
  first word   client
  no           resultCode 52 unavailable (51 busy at limits) and diagnosticMessage, in the response to the first request
  limits       the client's own StartTLS (the server answers operationsError), but where its listener has TLS; the rootDSE passes as it is, with what it says of StartTLS and SASL; Active Directory inside TLS neither signs nor seals (SASL_SECPROPS maxssf=0), and with LdapEnforceChannelBinding = 2 takes simple binds only; referrals lead clients past nuncio

xmpp: XMPP
  TLS          asked for by starttls (tls = "negotiate", the default), port 5222
               or from the first byte (tls = "direct"), with the ALPN xmpp-client, port 5223
  first word   client
  no           a stream error (remote-connection-failed, resource-constraint, system-shutdown) with the reason in words
  limits       clients only, no streams between servers and no components; starttls (but where the listener has TLS) and mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the server offers, which a client that checks the list (XEP-0474) takes for an attack; a server's see-other-host leads past nuncio; a check asks for the domain that server_name names

redis: Redis, Valkey
  TLS          from the first byte (tls = "direct", the default), port 6379
  first word   client
  no           -ERR and one line: to each command that only sets up the session (HELLO, AUTH), and to the first real one
  limits       what leads a client to other addresses: Redis Cluster (MOVED, ASK) and Sentinel; health checks end with TLS (a PING would need a password)

amqp: AMQP 0-9-1, AMQP 1.0
  TLS          from the first byte (tls = "direct", the default), with the ALPN amqp, port 5671
  first word   client
  no           connection.close 320 (0-9-1), close with amqp:connection:forced (1.0), once the connection is opened
  limits       what leads a client to other addresses (AMQP 1.0's redirect, RabbitMQ's streams); health checks end with TLS (a connection would need a password)

mqtt: MQTT
  TLS          from the first byte (tls = "direct", the default), with the ALPN mqtt, port 8883
  first word   client
  no           CONNACK: "server unavailable", and to MQTT 5 the reason in words
  limits       MQTT over WebSocket; in MQTT 5 a server may lead its clients elsewhere (Server Reference); health checks end with TLS (a CONNECT would need a client's name and password)
"#);
}

/// The README's table is made of what the program says; what differs is shown as it should be.
#[test]
fn the_readme_has_the_table_of_protocols() {
    let (code, out, _) = run(&["protocols", "--json"], Path::new("."));
    assert_eq!(code, Some(0));
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    let mut table = "| `protocol` | | TLS | speaks first | says no with | does not pass |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for spoken in &all {
        let text = |key: &str| spoken[key].as_str().unwrap_or_default();
        let tls = match spoken["asks_with"].as_str() {
            Some(words) => format!("asked for by {words}, or `tls = \"direct\"`"),
            None => "from the first byte".to_owned(),
        };
        table += &format!(
            "| `{}` | {} | {tls} | {} | {} | {} |\n",
            text("name"),
            text("title"),
            text("speaks_first"),
            text("refuses_with"),
            text("limits")
        );
    }
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    assert!(readme.contains(&table), "README.md wants this table:\n{table}");
}

/// So has it what cannot be done: people look there before they try.
#[test]
fn the_readme_has_the_table_of_what_cannot_pass() {
    let (code, out, _) = run(&["protocols", "--beyond", "--json"], Path::new("."));
    assert_eq!(code, Some(0));
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    let mut table = "| | why | instead |\n| --- | --- | --- |\n".to_owned();
    for row in &all {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        table += &format!("| {} | {} | {} |\n", text("what"), text("why"), text("instead"));
    }
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    assert!(readme.contains(&table), "README.md wants this table:\n{table}");
    let (_, told, _) = run(&["protocols", "--beyond"], Path::new("."));
    assert!(told.starts_with("FTP\n  why          its data comes over second connections"), "{told}");
}
