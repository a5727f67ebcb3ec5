//! `meter_users`: what each local user does, told apart in metrics and API, over loopback TCP and a Unix socket alike.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::{PATIENCE, clients, eventually};
use super::{World, as_nobody, echoes, is_reset, listener, listener_at};

/// A connection of the user nobody, that stays open until its input ends.
struct Nobody {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Nobody {
    fn connects(address: &str) -> Nobody {
        let mut child = as_nobody("socat")
            .args(["-t5", "-", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("socat, setpriv (or sudo): tests/run installs them");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Nobody { child, input, output }
    }

    fn echoes(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
        let mut answer = vec![0; bytes.len()];
        self.output.read_exact(&mut answer).unwrap();
        assert_eq!(answer, bytes);
    }

    fn leaves(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// What this user is called here; its number where it has no name.
fn our_name() -> String {
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let ours = lines.find(|fields| fields.get(2) == Some(&&*uid.to_string()));
    ours.map_or_else(|| uid.to_string(), |fields| fields[0].to_owned())
}

/// A user's row of `/api/v1/users`.
fn row(nuncio: &Ambassador, user: &str) -> Value {
    let all = nuncio.get("/api/v1/users").json();
    let all = all.as_array().unwrap();
    let mut rows = all.iter().filter(|row| row["user"] == user && row["upstream"] == "up");
    let row = rows.next().unwrap_or_else(|| panic!("{user}: {all:?}"));
    assert!(rows.next().is_none(), "{all:?}");
    row.clone()
}

/// Waits until so many bytes are counted, and no more.
fn moved(nuncio: &Ambassador, user: &str, direction: &str, count: f64) {
    let labels = [("user", user), ("upstream", "up"), ("direction", direction)];
    nuncio.wait_metric("nuncio_user_bytes_total", &labels, |bytes| bytes == count);
}

/// Two users share one ambassador, and whoever pays for it asks who did what: connections of both kinds, the bytes of one that
/// is still open, and the time that goes by for it.
#[test]
#[ignore = "needs socat, and root or sudo: tests/run installs it"]
fn each_user_has_its_own_count_whichever_way_it_comes() {
    let world = World::new();
    let directory = world.pki.directory();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.join("metered").display().to_string();
    let config = world.up()
        + &listener("tcp", "meter_users = true")
        + &listener_at("unix", &format!("unix:{path}"), "mode = \"0666\"\nmeter_users = true");
    let mut nuncio = Ambassador::start(&config);

    let mut over_tcp = Nobody::connects(&format!("TCP:{}", nuncio.listener("tcp")));
    let mut over_unix = Nobody::connects(&format!("UNIX-CONNECT:{path}"));
    over_tcp.echoes(b"first");
    over_unix.echoes(b"second");
    echoes(&mut clients::connect(nuncio.listener("tcp"))).unwrap();
    echoes(&mut UnixStream::connect(&path).unwrap()).unwrap();
    nuncio.wait_records(2);

    let (ours, open) = (our_name(), [("user", "nobody"), ("upstream", "up")]);
    nuncio.wait_metric("nuncio_user_connections_open", &open, |open| open == 2.0);
    let ended = |user, outcome| [("user", user), ("upstream", "up"), ("outcome", outcome)];
    assert_eq!(nuncio.metric("nuncio_user_connections_total", &ended("nobody", "success")), 0.0);
    assert_eq!(nuncio.metric("nuncio_user_connections_total", &ended(&ours, "success")), 2.0);
    moved(&nuncio, "nobody", "sent", 11.0);
    moved(&nuncio, &ours, "sent", 8.0);

    // They go on, and their count with them, long before they end.
    over_tcp.echoes(b"third");
    moved(&nuncio, "nobody", "received", 16.0);
    let seconds = || row(&nuncio, "nobody")["connection_seconds"].as_f64().unwrap();
    let before = seconds();
    eventually("time to pass", PATIENCE, || (seconds() > before).then_some(()));

    over_tcp.leaves();
    let last = row(&nuncio, "nobody");
    over_unix.leaves();
    let records = nuncio.wait_records(4);
    let nobody = row(&nuncio, "nobody");
    assert_eq!((&last["uid"], &nobody["open"]), (&65534.into(), &0.into()), "{last} {nobody}");
    assert_eq!((&nobody["connections"]["success"], &nobody["bytes_sent"]), (&2.into(), &16.into()));
    // The records say the same of each, and their sum is the time.
    let of_nobody = records.iter().filter(|record| record["uid"] == 65534);
    let lasted: f64 = of_nobody.map(|record| record["duration_ms"].as_f64().unwrap() / 1e3).sum();
    let told = nobody["connection_seconds"].as_f64().unwrap();
    assert!((told - lasted).abs() < 0.1 && lasted > 0.0, "{told} s, and in the records {lasted} s");
    assert_eq!(row(&nuncio, &ours)["connections"]["success"], 2);
}

/// Where nobody asks for it nobody is looked up, and nothing is shown; who is turned away is counted where it is.
#[test]
fn who_is_turned_away_is_counted_and_where_nobody_asks_nobody_is() {
    let world = World::new();
    let config = world.up()
        + &listener("plain", "")
        + &listener("full", "meter_users = true\nallow = [\"127.0.0.2\"]\nallow_users = [\"nobody\"]")
        + &listener("closed", "meter_users = true\nallow = [\"127.0.0.2\"]");
    let mut nuncio = Ambassador::start(&config);
    echoes(&mut clients::connect(nuncio.listener("plain"))).unwrap();
    let records = nuncio.wait_records(1);
    assert!(records[0]["uid"].is_null(), "{records:?}");
    assert_eq!(nuncio.get("/api/v1/users").json(), serde_json::json!([]));
    assert!(!nuncio.get("/metrics").body.contains("nuncio_user"));

    // From an address that may not come: nobody was asked who that is.
    is_reset(nuncio.listener("closed"));
    let unknown = [("user", "unknown"), ("upstream", ""), ("outcome", "refused")];
    nuncio.wait_metric("nuncio_user_connections_total", &unknown, |count| count == 1.0);
    // From one that may, and is not the user who may.
    let mut refused = clients::connect_from([127, 0, 0, 2].into(), nuncio.listener("full"));
    echoes(&mut refused).unwrap_err();
    let ours = our_name();
    let ours = [("user", &*ours), ("upstream", ""), ("outcome", "refused")];
    nuncio.wait_metric("nuncio_user_connections_total", &ours, |count| count == 1.0);
}
