//! A server in this process that can be killed as a process is killed, and started again at the same address.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATIENCE, eventually};

/// A listening socket with a thread for each connection.
pub struct Peer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Peer {
    /// Serves each connection with `serve`, on loopback, on a port of the kernel's choice.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Peer {
        Peer::start_at((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// The same at an address: where a killed one was, say.
    pub fn start_at(address: SocketAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Peer {
        let listener = eventually("the peer's address is free", PATIENCE, || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State::default());
        let accepting = std::thread::spawn({
            let (state, serve) = (state.clone(), Arc::new(serve));
            move || accept(&listener, &state, &serve)
        });
        Peer { address, state, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.state.open.lock().expect("no connection panicked here").len()
    }

    /// Ends it as `kill -9` ends a process: the listener goes, and every connection is cut with a bare FIN.
    pub fn kill(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.state.stopped.store(true, SeqCst);
        // accept(2) has no other way to be woken. Refused or reset: another client has just woken it, and it is gone already.
        if let Err(error) = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)) {
            let is_gone = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset);
            assert!(is_gone, "{error}");
        }
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the accepting thread does not panic");
        }
        for stream in self.state.open.lock().expect("no connection panicked here").values() {
            // An error: the other side was faster.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn accept(
    listener: &TcpListener,
    state: &Arc<State>,
    serve: &Arc<impl Fn(TcpStream) + Send + Sync + 'static>,
) {
    loop {
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => panic!("accept: {error}"),
        };
        if state.stopped.load(SeqCst) {
            return;
        }
        let id = state.accepted.fetch_add(1, SeqCst);
        stream.set_nodelay(true).ok(); // an error: the client is gone already, which `serve` will see
        let Ok(handle) = stream.try_clone() else { continue };
        state.open.lock().expect("no connection panicked here").insert(id, handle);
        let (state, serve) = (state.clone(), serve.clone());
        std::thread::spawn(move || {
            let _forget = Forget { state: &state, id };
            serve(stream);
        });
    }
}

/// Takes a connection off the list however its thread ends.
struct Forget<'a> {
    state: &'a State,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Ok(mut open) = self.state.open.lock() {
            open.remove(&self.id);
        }
    }
}
