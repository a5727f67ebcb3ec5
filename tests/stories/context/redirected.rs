//! Connections that the kernel redirects, by the rules in packaging/nftables, in a network namespace of their own.

use std::process::Command;

use serde_json::Value;

use super::super::harness::PATIENCE;
use super::super::harness::ambassador::program;
use super::super::harness::programs::{Ran, run};

/// Programs that connect to the servers' own addresses come through nuncio, and know nothing of it: over IPv4 and IPv6, and by
/// user where the listener asks for one. What no `hosts` names is refused, though the rules brought it.
#[test]
#[ignore = "needs root, nftables, iproute2 and socat"]
fn redirected_connections_lead_to_the_upstream_of_their_destination() {
    let directory = tempfile::TempDir::with_prefix("nuncio-").unwrap();
    let rules = include_str!("../../../packaging/nftables/nuncio.nft");
    // The user of a package that is not installed here.
    let rules = rules.replace("nuncio_user = nuncio", "nuncio_user = root");
    assert!(rules.contains("nuncio_user = root"));
    let file = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(file("rules.nft"), rules).unwrap();
    let config = "[log]\nformat = \"json\"\n[admin]\naddress = \"127.0.0.1:9746\"\n\
                  [listener.redirected]\naddress = [\"127.0.0.1:15001\", \"[::1]:15001\"]\n\
                  context = \"original_destination\"\nupstreams = [\"db\"]\nallow_users = [\"nobody\"]\n\
                  [upstream.db]\nendpoints = [\"127.0.0.1:7\"]\ntls = \"off\"\nhealth.kind = \"off\"\n\
                  hosts = [\"192.0.2.10:5432\", \"[2001:db8::/32]:5432\"]\n";
    std::fs::write(file("nuncio.toml"), config).unwrap();
    let script = r#"
        set -e
        ip link set lo up
        # As on a host with an address: what leaves it comes from there, also once it is redirected.
        ip addr add 10.9.9.1/32 dev lo
        ip addr add fd00::9/128 dev lo nodad
        ip route add 192.0.2.0/24 dev lo src 10.9.9.1
        ip -6 route add 2001:db8::/32 dev lo src fd00::9
        nft -f "$1/rules.nft"
        socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat &
        "$2" run --config "$1/nuncio.toml" >"$1/records" 2>"$1/log" &
        nuncio=$!
        trap 'kill $nuncio %1; wait $nuncio || true' EXIT
        until grep -q 9746 "$1/log"; do kill -0 $nuncio; sleep 0.05; done
        as_nobody() { setpriv --reuid=nobody --regid=nogroup --clear-groups socat -t 2 - "$1"; }
        echo four | as_nobody TCP:192.0.2.10:5432
        echo six | as_nobody 'TCP6:[2001:db8::5]:5432'
        echo other | as_nobody TCP:192.0.2.11:5432 || true
        # Root is nobody, and its connections are let through: there is nothing behind them.
        ! echo root | socat -t 2 - TCP:192.0.2.10:5432,connect-timeout=2
        until [ "$(wc -l <"$1/records")" = 3 ]; do kill -0 $nuncio; sleep 0.05; done
    "#;
    let nuncio = program().get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--net", "bash", "-c", script, "bash"]).arg(directory.path()).arg(nuncio);
    let ran: Ran = run(&mut command, PATIENCE * 2);
    let log = std::fs::read_to_string(file("log")).unwrap_or_default();
    assert!(ran.status.success(), "{ran:#?}\n{log}");
    assert_eq!(ran.stdout, "four\nsix\n", "{ran:#?}");
    let records = std::fs::read_to_string(file("records")).unwrap();
    let records: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |record: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {}",
            word(&record["context"]["destination"]),
            word(&record["upstream"]),
            word(&record["reason"])
        )
    };
    let told: Vec<_> = records.iter().map(told).collect();
    assert_eq!(
        told,
        ["192.0.2.10:5432 db -", "[2001:db8::5]:5432 db -", "192.0.2.11:5432 - destination_ip_prohibited"],
        "{records:#?}"
    );
}
