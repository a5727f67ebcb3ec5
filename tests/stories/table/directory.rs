//! Directories.

use super::super::harness::Pki;
use super::super::harness::legacy::Client;
use super::super::harness::slapd::Slapd;
use super::{Meeting, Table};

#[test]
#[ignore = "needs slapd, ldap-utils, python3-ldap and python3-ldap3: tests/run installs them"]
fn table_ldap() {
    let pki = Pki::generate();
    let slapd = Slapd::start(&pki);
    let mut table = Table::of("ldap");
    for (client, says, given) in [
        (Client::Ldap3, "EXTERNAL", "dn:cn=client.test"),
        (Client::Ldapsearch, "cn=admin,dc=upstream,dc=test", "description: hello"),
        (Client::PythonLdap, "cn=admin,dc=upstream,dc=test", "hello"),
    ] {
        for (at, keys) in [(slapd.ldap(), ""), (slapd.ldaps(), "tls = \"direct\"\n")] {
            let ask = |at| client.ask(at);
            let meeting =
                Meeting { server: "OpenLDAP", at, keys, client: client.name(), ask: &ask, says, given };
            let demanded = if client == Client::Ldap3 {
                // It is told who it is by the name in there.
                format!("bound as `{given}`")
            } else {
                table.demanded(&pki, &meeting)
            };
            table.line(&pki, &meeting, || demanded);
        }
    }
    table.write();
}
