//! Starting: what is refused is refused at once, whole and in words; what is only not there yet is waited for.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use super::super::harness::ambassador::{self, Ambassador, refused};
use super::super::harness::http;
use super::super::harness::{PATIENCE, Upstream, clients, eventually};
use super::{World, echoes, is_reset, listener, listener_at, upstream};

/// Runs it with a file that nobody wrote: exit code 3, and the file is named.
#[test]
fn a_configuration_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, err) = ambassador::run(&["run", "--config", "missing.toml"], directory.path());
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("missing.toml: there is no such file") && err.contains("--config FILE"), "{err}");
}

/// The exit codes of the face: 0 for what was asked, 2 for what is no usage, 3 for a file that is refused.
#[test]
fn exit_codes_are_those_of_the_face() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bad.toml"), "[listener.in]\n").unwrap();
    let code = |arguments: &[&str]| ambassador::run(arguments, directory.path()).0;
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["run", "--help"]), Some(0));
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["run", "--no-such-flag"]), Some(2));
    assert_eq!(code(&["walk"]), Some(2));
    assert_eq!(code(&["run", "--config", "bad.toml"]), Some(3));
    assert_eq!(code(&["check", "--config", "bad.toml"]), Some(3));
}

/// Somebody has the port, and another somebody the admin's: both are said in one run, with what shows who it is.
#[test]
fn every_address_that_is_taken_is_said_in_one_run() {
    let world = World::new();
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two, admin] = taken.each_ref().map(|socket| socket.local_addr().unwrap());
    let config = world.up()
        + &listener_at("one", &one.to_string(), "")
        + &listener_at("two", &two.to_string(), "")
        + &listener("free", "")
        + &format!("[admin]\naddress = \"{admin}\"\n");
    let (code, said) = refused(&config, |_| {});
    assert_eq!(code, Some(3), "{said}");
    for (name, address) in [("listener.one", one), ("listener.two", two)] {
        let port = address.port();
        assert!(
            said.contains(&format!("{name}: cannot listen on {address}: Address already in use")),
            "{said}"
        );
        assert!(said.contains(&format!("ss -ltnp sport = :{port}")), "{said}");
    }
    assert!(said.contains(&format!("admin.address {admin} cannot be bound")), "{said}");
    assert!(said.contains("is another nuncio running?"), "{said}");
    assert!(!said.contains("listening"), "nothing listened for a moment: {said}");
}

/// Each file of the identity is broken in its own way, one listener cannot be bound: everything is said in one run.
#[test]
fn broken_identity_files_are_all_said_with_what_else_is_wrong() {
    let world = World::new();
    let (taken, directory) = (TcpListener::bind("127.0.0.1:0").unwrap(), world.pki.directory());
    let stranger = world.pki.issue(
        "stranger",
        &["stranger.test"],
        super::super::harness::pki::By::Ca,
        super::super::harness::pki::Valid::Now,
    );
    let garbage = directory.join("garbage.pem");
    std::fs::write(&garbage, "this is no certificate\n").unwrap();
    let certificate = &world.pki.client.certificate;
    let config = format!(
        "[identity.mismatch]\ncertificate = {certificate:?}\nkey = {:?}\n\
         [identity.garbage]\nca = {garbage:?}\n\
         [identity.missing]\nca = {:?}\n",
        stranger.key,
        directory.join("gone.pem"),
    ) + &["mismatch", "garbage", "missing"]
        .map(|name| {
            format!(
                "[upstream.{name}]\nidentity = \"{name}\"\nendpoints = [\"127.0.0.1:1\"]\n\
             [listener.{name}]\naddress = \"127.0.0.1:0\"\nupstream = \"{name}\"\n"
            )
        })
        .concat()
        + &format!(
            "[listener.taken]\naddress = \"{}\"\nupstream = \"missing\"\n",
            taken.local_addr().unwrap()
        );
    let (code, said) = refused(&config, |_| {});
    assert_eq!(code, Some(3), "{said}");
    for needle in ["identity.mismatch: ", "identity.garbage: ", "identity.missing: ", "listener.taken: "] {
        assert_eq!(said.matches(needle).count(), 1, "{needle} in {said}");
    }
    assert!(said.contains("gone.pem") && said.contains("garbage.pem"), "{said}");
}

/// An ordinary user may not listen below 1024: the two mends that there are.
#[cfg(target_os = "linux")]
#[test]
fn a_privileged_port_names_the_capability_that_it_takes() {
    use super::super::harness::process::run_by;
    // Some containers let everybody listen everywhere; then this host has nothing to refuse.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let first: u16 = first.trim().parse().unwrap();
    let world = World::new();
    let port = first.saturating_sub(1).max(1);
    let config = world.up() + &listener_at("low", &format!("127.0.0.1:{port}"), "");
    let (code, said) = match first {
        0 => {
            // Its own network namespace has the kernel's default again; loopback is not up there, so not by 127.0.0.1.
            let config = world.up() + &listener_at("low", "0.0.0.0:1023", "allow = [\"10.0.0.0/8\"]");
            refused(&config, |command| {
                run_by(
                    command,
                    "setpriv",
                    &["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"],
                );
                run_by(command, "unshare", &["--map-root-user", "--net"]);
            })
        }
        _ if super::we_are_root() => refused(&config, |command| {
            run_by(command, "setpriv", &["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]);
        }),
        _ => refused(&config, |_| {}),
    };
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("listener.low: cannot listen on") && said.contains("Permission denied"), "{said}");
    assert!(said.contains("CAP_NET_BIND_SERVICE") && said.contains("ip_unprivileged_port_start"), "{said}");
}

/// The directory of a Unix socket is missing: it is named, with what makes it.
#[cfg(unix)]
#[test]
fn a_unix_path_without_its_directory_is_named() {
    let world = World::new();
    let path = world.pki.directory().join("missing/orders.sock");
    let config = world.up() + &listener_at("orders", &format!("unix:{}", path.display()), "");
    let (code, said) = refused(&config, |_| {});
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("there is no directory") && said.contains("RuntimeDirectory="), "{said}");
}

/// The only endpoint is dead at the start: it listens, /readyz says why not, clients are refused; then it comes to life.
#[test]
fn an_endpoint_that_is_dead_at_the_start_is_waited_for() {
    let mut world = World::new();
    world.echo.kill();
    let config = world.identity()
        + &upstream("up", &[world.echo.address()]).replace("kind = \"off\"", HEALTH)
        + "required = true\n"
        + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    let unready = eventually("/readyz says no", PATIENCE, || {
        Some(nuncio.get("/readyz")).filter(|answer| answer.status == 503)
    });
    assert!(unready.body.contains("upstream 'up' has no usable endpoint"), "{}", unready.body);
    assert_eq!(nuncio.get("/healthz").status, 200);
    is_reset(nuncio.listener("in"));
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(record["side"], "upstream", "{record}");

    world.echo.restart();
    eventually("/readyz says yes", PATIENCE, || (nuncio.get("/readyz").status == 200).then_some(()));
    echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
}

const HEALTH: &str = "kind = \"tls\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 1";

/// The DNS is down at the start: it listens, /readyz says so, and it recovers by itself once the DNS answers.
#[test]
fn a_dns_that_is_down_at_the_start_is_waited_for() {
    let world = World::new();
    let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = dns.local_addr().unwrap();
    drop(dns);
    let port = world.echo.address().port();
    let set = format!("dns = \"db.example:{port}\"\nrequired = true\n");
    let config = world.identity()
        + &upstream("up", &[]).replace("endpoints = []\n", &set)
        + &listener("in", "")
        + &format!("[dns]\nservers = [\"{address}\"]\ntimeout = \"500ms\"\n");
    let mut nuncio = Ambassador::start(&config);
    let unready = nuncio.get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.body.contains("upstream 'up'"), "{}", unready.body);
    is_reset(nuncio.listener("in"));
    let record = nuncio.wait_records(1).remove(0);
    assert!(
        ["dns_error", "dns_timeout", "destination_unavailable"].contains(&record["reason"].as_str().unwrap()),
        "{record}"
    );

    let _dns = answering(UdpSocket::bind(address).unwrap());
    eventually("/readyz says yes", PATIENCE, || (nuncio.get("/readyz").status == 200).then_some(()));
    echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
}

/// A name server that knows one answer: 127.0.0.1 for each A, nothing for all else.
fn answering(socket: UdpSocket) -> std::thread::JoinHandle<()> {
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // The header is twelve bytes; the question is the name up to its zero, type and class.
            let Some(end) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &query[12..12 + end + 5];
            let is_a = question[end + 1..end + 3] == [0, 1];
            let mut answer = query[..2].to_vec();
            answer.extend([0x85, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(question);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    })
}

/// One endpoint of two is dead at the start: nobody notices but the record.
#[test]
fn one_dead_endpoint_of_two_fails_no_client() {
    let world = World::new();
    let mut dead = Upstream::start(&world.pki);
    dead.kill();
    let up = world.identity() + &upstream("up", &[dead.address(), world.echo.address()]);
    let mut nuncio = Ambassador::start(&(up + &listener("in", "")));
    for _ in 0..20 {
        echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
    }
    let records = nuncio.wait_records(20);
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:?}");
    assert!(http::get(nuncio.admin(), "/readyz").unwrap().status == 200);
}
