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
  TLS          asked for by SSLRequest (tls = "negotiate", the default)
               or from the first byte (tls = "direct"), with the ALPN postgresql
  first word   client
  no           FATAL ErrorResponse with SQLSTATE, DETAIL and HINT
  limits       the client's own TLS and GSSAPI encryption (both are answered no: sslmode=disable or prefer); SCRAM's channel binding, since TLS ends here (channel_binding=prefer or disable); clients of protocol 2

smtp: SMTP
  TLS          asked for by STARTTLS (tls = "negotiate", the default)
               or from the first byte (tls = "direct")
  first word   server
  no           421 with the reason in words (554 where the client may not come at all)
  limits       mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers
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
