//! What a warm connection is worth: `cargo bench --bench warm`.
//!
//! From connecting to the server's first byte, through nuncio with a pool and without, and by a client that speaks mTLS itself;
//! the server near, and behind ways of 2 and 20 ms a round trip. They take turns, and each number is the median. The longer way
//! does not delay TCP's own handshake, so that the direct client is better off than on a real one by that round trip.

#[path = "../../tests/harness/delayer.rs"]
pub mod delayer;
#[path = "../../tests/harness/pki.rs"]
pub mod pki;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pki::{Pki, SERVER_NAME};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

const ROUNDS: usize = 101;
/// Between two connections, so that what is ready is filled up again: longer than the longest way takes.
const PAUSE: Duration = Duration::from_millis(120);

fn main() {
    let pki = Pki::generate();
    let server = greet(pki.server_config());
    println!("From connect to the server's first byte, ms (median of {ROUNDS}):\n");
    println!(
        "| a round trip takes longer by | direct, full handshake | direct, resumed | nuncio | nuncio, warm |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for delay in [0, 2, 20] {
        let to = delayer::delayed(server, Duration::from_millis(delay));
        let ambassador = Ambassador::start(&pki, to);
        let (mut anew, resuming) = (client(&pki), Arc::new(client(&pki)));
        anew.resumption = Resumption::disabled();
        let anew = Arc::new(anew);
        let ways: [&dyn Fn() -> Duration; 4] =
            [&|| direct(to, &anew), &|| direct(to, &resuming), &|| plain(ambassador.cold), &|| {
                plain(ambassador.warm)
            }];
        let mut took = ways.map(|_| Vec::with_capacity(ROUNDS));
        for _ in 0..ROUNDS {
            for (way, took) in ways.iter().zip(&mut took) {
                std::thread::sleep(PAUSE);
                took.push(way());
            }
        }
        let row = took.map(|mut took| {
            took.sort_unstable();
            format!("{:.3}", took[ROUNDS / 2].as_secs_f64() * 1e3)
        });
        println!("| {delay} ms | {} |", row.join(" | "));
    }
}

fn client(pki: &Pki) -> ClientConfig {
    (*pki.client_config()).clone()
}

/// Says a word after each handshake, and waits for the client to leave.
fn greet(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || {
                stream.set_nodelay(true).expect("a TCP socket");
                let mut tls =
                    StreamOwned::new(ServerConnection::new(config).expect("a configuration"), stream);
                if tls.write_all(b"220 hello\r\n").and_then(|()| tls.flush()).is_ok() {
                    // However it ends.
                    tls.read_exact(&mut [0]).ok();
                }
            });
        }
    });
    address
}

fn direct(to: SocketAddr, config: &Arc<ClientConfig>) -> Duration {
    let begun = Instant::now();
    let stream = TcpStream::connect(to).expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let name = ServerName::try_from(SERVER_NAME).expect("a name");
    let mut tls =
        StreamOwned::new(ClientConnection::new(config.clone(), name).expect("a configuration"), stream);
    tls.read_exact(&mut [0]).expect("a greeting");
    begun.elapsed()
}

fn plain(to: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(to).expect("nuncio listens");
    stream.read_exact(&mut [0]).expect("a greeting");
    begun.elapsed()
}

/// `nuncio run`, ended with this.
struct Ambassador {
    process: Child,
    cold: SocketAddr,
    warm: SocketAddr,
}

impl Ambassador {
    fn start(pki: &Pki, to: SocketAddr) -> Ambassador {
        let file = pki.directory().join("nuncio.toml");
        let [ca, certificate, key] = [pki.ca(), pki.client.certificate.clone(), pki.client.key.clone()];
        let upstream = format!(
            "endpoints = [\"{to}\"]\nserver_name = \"{SERVER_NAME}\"\nidentity = \"test\"\nhealth.kind = \"off\"\n"
        );
        let text = format!(
            "[log]\nformat = \"json\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [identity.test]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n\
             [listener.cold]\naddress = \"127.0.0.1:0\"\nupstream = \"cold\"\n[upstream.cold]\n{upstream}\
             [listener.warm]\naddress = \"127.0.0.1:0\"\nupstream = \"warm\"\n[upstream.warm]\n{upstream}pool.min = 2\n",
            ca.display(),
            certificate.display(),
            key.display()
        );
        std::fs::write(&file, text).expect("the file is written");
        let mut process = Command::new(env!("CARGO_BIN_EXE_nuncio"))
            .args(["run", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nuncio starts");
        let (mut cold, mut warm) = (None, None);
        let mut lines = BufReader::new(process.stderr.take().expect("it is a pipe")).lines();
        while let (None, _) | (_, None) = (cold, warm) {
            let line = lines.next().expect("it listens").expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let address = || line["address"].as_str().and_then(|address| address.parse().ok());
            match line["listener"].as_str() {
                Some("cold") => cold = cold.or_else(address),
                Some("warm") => warm = warm.or_else(address),
                _ => {}
            }
        }
        // Its log is nobody's concern, but somebody has to read it.
        std::thread::spawn(move || lines.for_each(drop));
        match (cold, warm) {
            (Some(cold), Some(warm)) => Ambassador { process, cold, warm },
            _ => unreachable!("both were waited for"),
        }
    }
}

impl Drop for Ambassador {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("it is ours");
    }
}
