//! Listening: on every kind of address, several at once, and with the sockets that systemd opened.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::harness::ambassador::{Ambassador, refused};
use super::super::harness::process::run_by;
use super::super::harness::{PATIENCE, clients, http};
use super::{World, echoes, listener_at, we_are_root};

/// A connection to a Unix socket that gives up as a test should.
fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One listener on IPv4, IPv6 and a Unix socket: each serves, and each client is shown as what it is.
#[test]
fn a_listener_serves_all_its_addresses() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let list = format!("address = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:{}\"]", path.display());
    let config = world.up() + &listener_at("in", "", "").replace("address = \"\"", &list);
    let mut nuncio = Ambassador::start(&config);
    let addresses = nuncio.addresses("in");
    assert_eq!(addresses.iter().map(SocketAddr::is_ipv6).collect::<Vec<_>>(), [true, false]);
    for address in &addresses {
        let mut client = clients::connect(*address);
        echoes(&mut client).unwrap();
        let local = client.local_addr().unwrap().to_string();
        drop(client);
        nuncio.process().wait_line(&format!("\"client\":\"{local}\""), PATIENCE);
    }
    echoes(&mut unix(&path)).unwrap();
    let record = nuncio.wait_records(3).pop().unwrap();
    assert!(record["uid"].is_number() && record["client"].as_str().unwrap().starts_with("unix"), "{record}");
}

/// `[::]` takes IPv4 along, and `allow` means an IPv4 client however its address came.
#[test]
fn dual_stack_takes_both_families_and_allow_knows_each() {
    let world = World::new();
    let both = listener_at("both", "[::]:0", "allow = [\"127.0.0.1/32\", \"::1/128\"]");
    let v6 = listener_at("v6", "[::]:0", "allow = [\"::1/128\"]");
    let mut nuncio = Ambassador::start(&(world.up() + &both + &v6));
    let from_v4 = |name| SocketAddr::from(([127, 0, 0, 1], nuncio.listener(name).port()));
    let from_v6 = |name| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, nuncio.listener(name).port()));
    echoes(&mut clients::connect(from_v4("both"))).unwrap();
    echoes(&mut clients::connect(from_v6("both"))).unwrap();
    echoes(&mut clients::connect(from_v6("v6"))).unwrap();
    super::is_reset(from_v4("v6"));
    let records = nuncio.wait_records(4);
    let refused: Vec<_> = records.iter().filter(|record| record["outcome"] == "refused").collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0]["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", refused[0]);
}

/// A Unix socket has the mode, owner and group of the file; who is not root is told that he may not give it away.
#[test]
fn a_unix_socket_has_its_mode_owner_and_group() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let rest = "mode = \"0606\"\nowner = \"nobody\"\ngroup = \"nogroup\"";
    let config = world.up() + &listener_at("in", &format!("unix:{}", path.display()), rest);
    if !we_are_root() {
        let (code, said) = refused(&config, |_| {});
        assert_eq!(code, Some(3));
        assert!(said.contains("only root may set the owner"), "{said}");
        return;
    }
    let _nuncio = Ambassador::start(&config);
    let file = path.metadata().unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o606, 65534, 65534));
    echoes(&mut unix(&path)).unwrap();
}

/// A killed process left its socket behind: it is replaced. A living one's is respected. A file that is no socket stays.
#[test]
fn a_stale_socket_is_replaced_and_a_live_one_respected() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let config = world.up() + &listener_at("in", &format!("unix:{}", path.display()), "");
    let mut first = Ambassador::start(&config);
    let (code, said) = refused(&config, |_| {});
    assert_eq!(code, Some(3));
    assert!(said.contains("another process does") && said.contains("ss -xlp"), "{said}");
    echoes(&mut unix(&path)).unwrap();

    first.process().signal("KILL");
    first.process().wait_exit(PATIENCE);
    assert!(path.exists(), "kill -9 leaves the file");
    let mut second = Ambassador::start(&config);
    echoes(&mut unix(&path)).unwrap();
    assert!(second.stop(PATIENCE).success());
    assert!(!path.exists(), "an orderly end removes it");

    std::fs::write(&path, "precious").unwrap();
    let (code, said) = refused(&config, |_| {});
    assert_eq!(code, Some(3));
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// Becomes the program of its arguments with listening sockets at descriptor 3 and on, as systemd would start it; first
/// their names, separated by colons, and what each of them is: a path or a port.
const ACTIVATE: &str = r#"
import fcntl, os, socket, sys
names, places, program = sys.argv[1].split(":"), sys.argv[2].split(","), sys.argv[3:]
high = []
for place in places:
    if place.startswith("/"):
        one = socket.socket(socket.AF_UNIX); one.bind(place)
    else:
        one = socket.socket(socket.AF_INET); one.bind(("127.0.0.1", int(place)))
    one.listen(64)
    high.append(fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 20))
for number, one in enumerate(high):
    os.dup2(one, 3 + number)
    os.close(one)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
os.execvp(program[0], program)
"#;

fn activated(config: &str, names: &str, places: &str) -> Ambassador {
    Ambassador::start_with(config, |command| {
        run_by(command, "python3", &["-c", ACTIVATE, names, places]);
    })
}

/// systemd passes three sockets: each is served under its name, two of one name by one listener, and the one that nobody
/// asked for is warned of. A client that connected before is served.
#[test]
fn sockets_of_systemd_are_served_by_name_and_a_spare_one_is_told_of() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let config = world.up() + &listener_at("in", "systemd:orders", "");
    let places = format!("0,{},0", path.display());
    let mut nuncio = activated(&config, "orders:orders:spare", &places);
    echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
    echoes(&mut unix(&path)).unwrap();
    let line = nuncio.wait_line("that no listener uses");
    assert!(line.contains("spare") && line.contains("\"level\":\"warn\""), "{line}");
    assert_eq!(
        nuncio.process().lines().iter().filter(|line| line.contains("that no listener uses")).count(),
        1
    );
}

/// The admin's sockets may be systemd's too: then it can be asked while nuncio restarts. One that other hosts could reach is
/// as wrong as such an address in the file.
#[test]
fn the_admin_answers_on_sockets_of_systemd_if_they_are_local() {
    let world = World::new();
    let path = world.pki.directory().join("admin.sock");
    let config =
        world.up() + &listener_at("in", "systemd:orders", "") + "[admin]\naddress = \"systemd:admin\"\n";
    let places = format!("0,0,{}", path.display());
    let nuncio = activated(&config, "orders:admin:admin", &places);
    assert_eq!(nuncio.get("/healthz").body, "ok\n");
    assert_ne!(nuncio.admin(), nuncio.listener("in"));
    let request = "GET /healthz HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\n\r\n";
    assert_eq!(http::request_on(unix(&path), request).unwrap().body, "ok\n");
    drop(nuncio);

    let open = ACTIVATE.replace("\"127.0.0.1\"", "\"0.0.0.0\"");
    let (code, said) = refused(&config.replace("systemd:orders", "127.0.0.1:0"), |command| {
        run_by(command, "python3", &["-c", &open, "admin", "0"]);
    });
    assert_eq!(code, Some(3));
    assert!(said.contains("other hosts could reach 0.0.0.0:"), "{said}");
}

/// A listener's socket of systemd goes with a reload and comes back with the next one.
#[test]
fn a_socket_of_systemd_survives_a_reload_without_it() {
    let world = World::new();
    let with = world.up() + &listener_at("in", "systemd:orders", "") + &super::listener("other", "");
    let without = world.up() + &super::listener("other", "");
    let mut nuncio = activated(&with, "orders", "0");
    let address = nuncio.listener("in");
    nuncio.reloaded(&without);
    // The socket is systemd's: it still queues, and nobody answers.
    let mut waiting = clients::connect(address);
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent = echoes(&mut waiting).unwrap_err();
    assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    nuncio.reloaded(&with);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Read::read_exact(&mut waiting, &mut [0; 4]).unwrap();
}

/// systemd's own helper starts it at the first connection, which is served.
#[test]
#[ignore = "needs systemd-socket-activate: tests/run installs it"]
fn systemd_starts_it_at_the_first_connection() {
    let world = World::new();
    let address = super::super::harness::free_address();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nuncio.toml");
    std::fs::write(&file, world.up() + &listener_at("in", "systemd:in", "")).unwrap();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &address.to_string(), "--fdname=in", env!("CARGO_BIN_EXE_nuncio")]);
    command.arg("run").arg("--config").arg(&file);
    let mut process = super::super::harness::process::Process::start("systemd-socket-activate", &mut command);
    process.wait_line("Listening on", PATIENCE);
    echoes(&mut clients::connect(address)).unwrap();
    process.wait_line("listening", PATIENCE);
    process.signal("TERM");
    assert!(process.wait_exit(PATIENCE).success());
}

/// Two listeners may both leave their port to the kernel.
#[test]
fn two_listeners_on_port_0_are_two_listeners() {
    let world = World::new();
    let nuncio = Ambassador::start(&(world.up() + &super::listener("one", "") + &super::listener("two", "")));
    assert_ne!(nuncio.listener("one"), nuncio.listener("two"));
    for name in ["one", "two"] {
        echoes(&mut clients::connect(nuncio.listener(name))).unwrap();
    }
    // And each is free again when it ends.
    let addresses = ["one", "two"].map(|name| nuncio.listener(name));
    drop(nuncio);
    addresses.iter().for_each(|address| drop(TcpListener::bind(address).unwrap()));
    assert!(TcpStream::connect(addresses[0]).is_err());
}
