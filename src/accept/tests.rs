//! The acceptor on real sockets, of each kind; what is process-wide, in a process of its own.

use std::net::IpAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::drain::Drain;

const SOON: Duration = Duration::from_secs(5);

fn settings(addresses: &[&str]) -> Settings {
    Settings {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mode: 0o660,
        owner: None,
        group: None,
        backlog: 128,
        tcp: TcpSettings::default(),
    }
}

/// An acceptor at work, and what it accepted.
struct Running {
    drain: Drain,
    permits: Arc<Semaphore>,
    accepted: mpsc::UnboundedReceiver<(Accepted, OwnedSemaphorePermit)>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(acceptor: Acceptor, permits: usize) -> Running {
        let (drain, watch) = Drain::new();
        let permits = Arc::new(Semaphore::new(permits));
        let (sender, accepted) = mpsc::unbounded_channel();
        let on = move |connection, permit| sender.send((connection, permit)).unwrap();
        let task = tokio::spawn(acceptor.run(permits.clone(), watch, on));
        Running { drain, permits, accepted, task }
    }

    async fn next(&mut self) -> (Accepted, OwnedSemaphorePermit) {
        timeout(SOON, self.accepted.recv()).await.unwrap().unwrap()
    }

    async fn stop(self) {
        self.drain.start();
        timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

fn tcp(address: &ListenAddr) -> SocketAddr {
    match address {
        ListenAddr::Tcp(address) => *address,
        other => panic!("{other} is not TCP"),
    }
}

#[tokio::test]
async fn every_address_of_a_listener_is_served_until_the_drain() {
    let acceptor = Acceptor::bind(&settings(&["127.0.0.1:0", "127.0.0.1:0"])).unwrap();
    let addresses = acceptor.local_addrs();
    let mut running = Running::start(acceptor, 10);
    for address in &addresses {
        let mut client = TcpStream::connect(tcp(address)).await.unwrap();
        let (mut accepted, _permit) = running.next().await;
        assert_eq!(accepted.client, ClientAddr::Tcp(client.local_addr().unwrap()));
        assert_eq!(accepted.local, *address);
        client.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        accepted.stream.read_exact(&mut said).await.unwrap();
    }
    running.stop().await;
    assert!(TcpStream::connect(tcp(&addresses[0])).await.is_err());
}

#[tokio::test]
async fn a_dual_stack_socket_shows_each_client_by_its_own_family() {
    // Port 0 keeps 0.0.0.0 out of it: nothing else is asked for here.
    let Ok(acceptor) = Acceptor::bind(&settings(&["[::]:0"])) else { return };
    let port = tcp(&acceptor.local_addrs()[0]).port();
    let mut running = Running::start(acceptor, 10);
    for host in ["127.0.0.1", "::1"] {
        let at = SocketAddr::new(host.parse::<IpAddr>().unwrap(), port);
        let _client = TcpStream::connect(at).await.unwrap();
        let (accepted, _) = running.next().await;
        assert_eq!(accepted.local, ListenAddr::Tcp(at));
        assert!(matches!(accepted.client, ClientAddr::Tcp(peer) if peer.ip() == at.ip()));
    }
}

#[tokio::test]
async fn accepted_connections_have_the_options_of_their_listener() {
    let tcp_settings = TcpSettings {
        keepalive: Some(Duration::from_secs(77)),
        user_timeout: Some(Duration::from_secs(99)),
        ..TcpSettings::default()
    };
    let acceptor = Acceptor::bind(&Settings { tcp: tcp_settings, ..settings(&["127.0.0.1:0"]) }).unwrap();
    let address = tcp(&acceptor.local_addrs()[0]);
    let mut running = Running::start(acceptor, 1);
    let _client = TcpStream::connect(address).await.unwrap();
    let (accepted, _permit) = running.next().await;
    let Stream::Tcp(stream) = &accepted.stream else { panic!("TCP was asked for") };
    let socket = socket2::SockRef::from(stream);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    #[cfg(target_os = "linux")]
    {
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(99)));
    }
}

#[tokio::test]
async fn without_a_permit_clients_wait_in_the_kernels_queue() {
    let acceptor = Acceptor::bind(&settings(&["127.0.0.1:0"])).unwrap();
    let address = tcp(&acceptor.local_addrs()[0]);
    let mut running = Running::start(acceptor, 1);
    let _first = TcpStream::connect(address).await.unwrap();
    let (first, permit) = running.next().await;
    let second = TcpStream::connect(address).await.unwrap();
    assert!(timeout(Duration::from_millis(50), running.accepted.recv()).await.is_err());
    assert_eq!(running.permits.available_permits(), 0);
    drop((first, permit));
    let (accepted, _permit) = running.next().await;
    assert_eq!(accepted.client, ClientAddr::Tcp(second.local_addr().unwrap()));
}

/// They were told that they are connected: whoever serves them can still tell them why not.
#[tokio::test]
async fn who_waits_in_the_queue_at_the_drain_is_handed_on() {
    let acceptor = Acceptor::bind(&settings(&["127.0.0.1:0"])).unwrap();
    let address = tcp(&acceptor.local_addrs()[0]);
    let mut running = Running::start(acceptor, 3);
    // The acceptor does not get to run in between: this is its thread.
    let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    running.drain.start();
    for client in &clients {
        let (accepted, _) = running.next().await;
        assert_eq!(accepted.client, ClientAddr::Tcp(client.local_addr().unwrap()));
    }
    running.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

/// They are the next acceptor's, by its rules.
#[tokio::test]
async fn who_waits_at_a_socket_that_stays_is_left_to_whoever_goes_on_with_it() {
    let settings = settings(&["127.0.0.1:0"]);
    let acceptor = Acceptor::bind(&settings).unwrap();
    let next = Unbound::new(&settings).unwrap().bind(acceptor.bounds()).unwrap();
    let address = tcp(&acceptor.local_addrs()[0]);
    let mut old = Running::start(acceptor, 3);
    let _client = std::net::TcpStream::connect(address).unwrap();
    old.drain.start();
    timeout(SOON, old.task).await.unwrap().unwrap();
    assert!(old.accepted.recv().await.is_none());
    let (accepted, _permit) = Running::start(next, 3).next().await;
    assert!(matches!(accepted.client, ClientAddr::Tcp(_)));
}

#[tokio::test]
async fn a_reload_keeps_the_socket_and_who_waits_in_its_queue() {
    let settings = settings(&["127.0.0.1:0"]);
    let acceptor = Acceptor::bind(&settings).unwrap();
    let (bounds, before) = (acceptor.bounds().to_vec(), acceptor.local_addrs());
    let old = Running::start(acceptor, 10);
    old.task.abort();
    assert!(old.task.await.unwrap_err().is_cancelled());
    let waiting = TcpStream::connect(tcp(&before[0])).await.unwrap();

    let acceptor = Unbound::new(&settings).unwrap().bind(&bounds).unwrap();
    drop(bounds);
    assert_eq!(acceptor.local_addrs(), before);
    let mut new = Running::start(acceptor, 10);
    let (accepted, _) = new.next().await;
    assert_eq!(accepted.client, ClientAddr::Tcp(waiting.local_addr().unwrap()));
    new.stop().await;
    assert!(TcpStream::connect(tcp(&before[0])).await.is_err());
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_its_mend() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let problem = Acceptor::bind(&settings(&[&address])).unwrap_err();
    assert!(problem.contains(&format!("cannot listen on {address}: ")), "{problem}");
    assert!(problem.contains(if cfg!(unix) { "ss -ltnp" } else { "netstat" }), "{problem}");

    // TEST-NET-1: no host has it.
    let problem = Acceptor::bind(&settings(&["192.0.2.1:0"])).unwrap_err();
    assert!(problem.contains("no interface of this host has 192.0.2.1"), "{problem}");

    let problem = Acceptor::bind(&settings(&["systemd:orders"])).unwrap_err();
    assert!(problem.contains("systemd:orders"), "{problem}");
}

#[test]
fn a_privileged_port_names_the_capability_that_is_missing() {
    let refused = io::Error::from(io::ErrorKind::PermissionDenied);
    let step = |port| bind::tcp_next_step(SocketAddr::from(([127, 0, 0, 1], port)), &refused);
    assert_eq!(step(25).contains("CAP_NET_BIND_SERVICE"), cfg!(target_os = "linux"));
    assert!(!step(2525).contains("CAP_NET_BIND_SERVICE"));
}

#[test]
fn pauses_double_from_five_milliseconds_to_a_second() {
    let pauses: Vec<_> = (0..10).map(|errors| Trouble::length(errors).as_millis()).collect();
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    assert_eq!(Trouble::length(u32::MAX).as_millis(), 1000);
}

#[test]
fn the_accept_future_can_run_on_any_reactor() {
    fn is_send(_: &impl Send) {}
    let acceptor = Acceptor::bind(&settings(&["127.0.0.1:0"])).unwrap();
    let (_drain, watch) = Drain::new();
    let seen = Arc::new(Mutex::new(0));
    is_send(&acceptor.run(Arc::new(Semaphore::new(1)), watch, move |_, _| *seen.lock().unwrap() += 1));
}

#[cfg(unix)]
mod unix_sockets {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::*;

    fn at(path: &Path) -> Settings {
        settings(&[&format!("unix:{}", path.display())])
    }

    #[tokio::test]
    async fn its_file_has_the_mode_that_was_asked_for_and_goes_with_the_drain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let acceptor = Acceptor::bind(&Settings { mode: 0o606, ..at(&path) }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o606);
        let mut running = Running::start(acceptor, 10);
        let _client = UnixStream::connect(&path).await.unwrap();
        let (accepted, _permit) = running.next().await;
        let uid = fs::metadata(&path).unwrap().uid();
        assert_eq!(accepted.client, ClientAddr::Unix { uid: Some(uid) });
        assert_eq!(accepted.local, ListenAddr::Unix(path.clone()));
        running.stop().await;
        assert!(!path.exists());
    }

    #[test]
    fn its_file_is_given_to_the_owner_and_group_that_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let ours = fs::metadata(folder.path()).unwrap();
        // Only root may give a file away.
        let (owner, group) = if ours.uid() == 0 { (54321, 54322) } else { (ours.uid(), ours.gid()) };
        let settings =
            Settings { owner: Some(owner.to_string()), group: Some(group.to_string()), ..at(&path) };
        let _acceptor = Acceptor::bind(&settings).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (owner, group, 0o660));

        let nobody = Settings { group: Some("no-such-group".into()), ..at(&folder.path().join("another")) };
        assert!(Acceptor::bind(&nobody).unwrap_err().starts_with("group: there is no group"));
    }

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _acceptor = Acceptor::bind(&at(&path)).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_somebody_listens_on_is_respected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let refused = || {
            let problem = Acceptor::bind(&at(&path)).unwrap_err();
            assert!(problem.contains("another process does") && problem.contains("ss -xlp"), "{problem}");
        };
        refused();
        // Also when it is so busy that it does not answer.
        socket2::SockRef::from(&live).listen(0).unwrap();
        let busy: Vec<_> = std::iter::repeat_with(|| {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&socket2::SockAddr::unix(&path).unwrap()).map(|()| socket)
        })
        .take_while(Result::is_ok)
        .take(1000)
        .collect();
        refused();
        drop(busy);
        assert!(path.exists());
        live.set_nonblocking(true).unwrap();
        live.accept().unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        fs::write(&path, "precious").unwrap();
        let problem = Acceptor::bind(&at(&path)).unwrap_err();
        assert!(problem.contains("no socket"), "{problem}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_path_that_cannot_be_had_is_named_with_its_mend() {
        let folder = tempfile::tempdir().unwrap();
        let problem = Acceptor::bind(&at(&folder.path().join("missing/orders.sock"))).unwrap_err();
        assert!(problem.contains("there is no directory") && problem.contains("/missing"), "{problem}");
        let problem = Acceptor::bind(&at(&folder.path().join("x".repeat(120)))).unwrap_err();
        assert!(problem.contains("choose a shorter one"), "{problem}");
    }

    #[test]
    fn a_listener_that_fails_at_its_second_address_leaves_no_file_of_its_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let both = settings(&[&format!("unix:{}", path.display()), "192.0.2.1:0"]);
        Acceptor::bind(&both).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_another_process_put_in_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let acceptor = Acceptor::bind(&at(&path)).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _another = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(acceptor);
        assert!(path.exists());
    }

    #[test]
    fn a_reload_sets_the_new_mode_and_brings_back_a_file_that_somebody_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.sock");
        let first = Acceptor::bind(&at(&path)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let second =
            Unbound::new(&Settings { mode: 0o600, ..at(&path) }).unwrap().bind(first.bounds()).unwrap();
        drop(first);
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.ino(), file.mode() & 0o777), (inode, 0o600));

        fs::remove_file(&path).unwrap();
        let _third = Unbound::new(&at(&path)).unwrap().bind(second.bounds()).unwrap();
        drop(second);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}

/// What is process-wide (limits, inherited descriptors) happens in a process of its own: this test binary once more, for
/// the one test, started by a line of shell.
#[cfg(target_os = "linux")]
mod in_a_process_of_its_own {
    use std::process::{Command, Stdio};

    use super::*;

    const CHILD: &str = "NUNCIO_TEST_CHILD";

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    /// Runs `test` again, with `before` as shell code ahead of it and `stdin` as descriptor 0.
    fn again(test: &str, before: &str, stdin: Stdio) {
        let run = Command::new("sh")
            .arg("-c")
            .arg(format!("{before} \"$0\" --exact \"$1\" --nocapture"))
            .arg(std::env::current_exe().unwrap())
            .arg(format!("accept::tests::in_a_process_of_its_own::{test}"))
            .env(CHILD, "1")
            .stdin(stdin)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_socket_of_systemd_is_served_by_its_name() {
        if !is_child() {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let pass = "exec env LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=orders:spare 3<&0 4</dev/null";
            let stdin = std::os::fd::OwnedFd::from(socket).into();
            return again("a_socket_of_systemd_is_served_by_its_name", pass, stdin);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let problem = Acceptor::bind(&settings(&["systemd:billing"])).unwrap_err();
            assert!(problem.contains("systemd passed only orders, spare"), "{problem}");
            let problem = Acceptor::bind(&settings(&["systemd:spare"])).unwrap_err();
            assert!(problem.starts_with("cannot listen on systemd:spare"), "{problem}");
            drop(Acceptor::bind(&settings(&["systemd:orders"])).unwrap());
            assert_eq!(unused_systemd_sockets(), ["spare"]);
            // A reload that brings the listener back finds its socket again.
            let acceptor = Acceptor::bind(&settings(&["systemd:orders"])).unwrap();
            let address = tcp(&acceptor.local_addrs()[0]);
            let mut running = Running::start(acceptor, 1);
            let _client = TcpStream::connect(address).await.unwrap();
            assert_eq!(running.next().await.0.local, ListenAddr::Tcp(address));
        });
    }

    #[test]
    fn without_descriptors_it_pauses_and_then_goes_on() {
        if !is_child() {
            let limit = "ulimit -n 40; exec";
            return again("without_descriptors_it_pauses_and_then_goes_on", limit, Stdio::null());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let acceptor = Acceptor::bind(&settings(&["127.0.0.1:0"])).unwrap();
            let address = tcp(&acceptor.local_addrs()[0]);
            let mut running = Running::start(acceptor, 5);
            tokio::task::yield_now().await; // it registers its sockets, which takes one descriptor each
            let client = tokio::net::TcpSocket::new_v4().unwrap();
            let hoard: Vec<_> = std::iter::repeat_with(|| std::fs::File::open("/dev/null"))
                .take_while(Result::is_ok)
                .take(1000)
                .collect();
            assert!(hoard.len() < 40);
            let client = client.connect(address).await.unwrap();
            assert!(timeout(Duration::from_millis(100), running.accepted.recv()).await.is_err());
            assert_eq!(running.permits.available_permits(), 5, "a pause holds no permit");
            drop(hoard);
            let (accepted, _permit) = running.next().await;
            assert_eq!(accepted.client, ClientAddr::Tcp(client.local_addr().unwrap()));
        });
    }

    #[test]
    fn keys_never_reach_a_core_dump() {
        if !is_child() {
            return again("keys_never_reach_a_core_dump", "exec", Stdio::null());
        }
        crate::socket::forbid_core_dumps().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(line.split_ascii_whitespace().filter(|word| *word == "0").count(), 2, "{line}");
    }
}
