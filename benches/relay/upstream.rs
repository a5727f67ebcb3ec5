//! The far end of every relay: sinks, sends and echoes on demand, behind mTLS on some ports and plainly on others.
//!
//! A request is one letter and a length of eight bytes: `S`ink so many bytes and answer one, `G`ive so many, `E`cho the
//! request with so many bytes behind it, `K`: how many handshakes on the port of that index were full, how many resumed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Bytes of a request before what it carries.
pub const REQUEST: usize = 9;

/// A request.
pub fn request(letter: u8, length: u64) -> [u8; REQUEST] {
    let mut request = [letter; REQUEST];
    request[1..].copy_from_slice(&length.to_be_bytes());
    request
}

/// One suite, one group, for all: what a peer prefers is not what is measured here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// A certificate and its key, from `STEM.pem` and `STEM.key`.
pub fn identity(
    pki: &str,
    stem: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let file = |name: String| Path::new(pki).join(name);
    let certificate =
        CertificateDer::from_pem_file(file(format!("{stem}.pem"))).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_file(file(format!("{stem}.key"))).map_err(|e| e.to_string())?;
    Ok((vec![certificate], key))
}

/// The CA as the only root.
pub fn roots(pki: &str) -> Result<Arc<RootCertStore>, String> {
    let ca = CertificateDer::from_pem_file(Path::new(pki).join("ca.pem")).map_err(|e| e.to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| e.to_string())?;
    Ok(Arc::new(roots))
}

/// A runtime as nuncio's reactors have it: one thread.
pub fn block_on<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(what)
}

#[derive(Default)]
struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

/// Listens on so many ports with TLS and one without, prints them (the plain one first), and serves for ever.
pub fn run(pki: &str, ports: &str) -> Result<(), String> {
    let ports: usize = ports.parse().map_err(|_| "a number of ports".to_owned())?;
    let acceptor = TlsAcceptor::from(server_config(pki)?);
    block_on(async {
        let counts: Arc<Vec<Handshakes>> = Arc::new((0..ports).map(|_| Handshakes::default()).collect());
        let mut line = String::new();
        for index in 0..=ports {
            let listener = listen("127.0.0.1:0")?;
            line += &format!("{} ", listener.local_addr().map_err(|e| e.to_string())?.port());
            let acceptor = index.checked_sub(1).map(|index| (acceptor.clone(), index));
            tokio::spawn(accept(listener, acceptor, counts.clone()));
        }
        println!("{line}");
        std::future::pending().await
    })
}

/// With a queue that holds a burst of thousands.
pub fn listen(address: &str) -> Result<TcpListener, String> {
    let socket = tokio::net::TcpSocket::new_v4().map_err(|e| e.to_string())?;
    socket.set_reuseaddr(true).map_err(|e| e.to_string())?;
    socket
        .bind(address.parse().map_err(|_| format!("{address} is not an address"))?)
        .map_err(|e| e.to_string())?;
    socket.listen(4096).map_err(|e| e.to_string())
}

fn server_config(pki: &str) -> Result<Arc<ServerConfig>, String> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(pki)?, provider()).build();
    let (chain, key) = identity(pki, "server")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(clients.map_err(|e| e.to_string())?)
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| e.to_string())?;
    Ok(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: Option<(TlsAcceptor, usize)>, counts: Arc<Vec<Handshakes>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // The ends of connections are the client's business: errors have nowhere to go.
        stream.set_nodelay(true).ok();
        let (tls, counts) = (tls.clone(), counts.clone());
        tokio::spawn(async move {
            let Some((acceptor, index)) = tls else { return serve(stream, &counts).await };
            let stream = acceptor.accept(stream).await?;
            match stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => counts[index].resumed.fetch_add(1, Relaxed),
                _ => counts[index].full.fetch_add(1, Relaxed),
            };
            serve(stream, &counts).await
        });
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    counts: &[Handshakes],
) -> std::io::Result<()> {
    loop {
        let mut request = [0; REQUEST];
        stream.read_exact(&mut request).await?;
        let [letter, length @ ..] = request;
        let mut left = usize::try_from(u64::from_be_bytes(length)).map_err(std::io::Error::other)?;
        match letter {
            b'S' => {
                let mut buffer = vec![0; left.min(256 * 1024)];
                while left > 0 {
                    let most = left.min(buffer.len());
                    match stream.read(&mut buffer[..most]).await? {
                        0 => return Ok(()),
                        count => left -= count,
                    }
                }
                stream.write_all(&[1]).await?;
            }
            b'G' => {
                let buffer = vec![7; left.min(64 * 1024)];
                while left > 0 {
                    let most = left.min(buffer.len());
                    stream.write_all(&buffer[..most]).await?;
                    left -= most;
                }
            }
            b'E' => {
                let mut buffer = vec![0; REQUEST + left];
                buffer[..REQUEST].copy_from_slice(&request);
                stream.read_exact(&mut buffer[REQUEST..]).await?;
                stream.write_all(&buffer).await?;
            }
            b'K' => {
                let Some(count) = counts.get(left) else { return Ok(()) };
                stream.write_all(&count.full.load(Relaxed).to_be_bytes()).await?;
                stream.write_all(&count.resumed.load(Relaxed).to_be_bytes()).await?;
            }
            _ => return Ok(()),
        }
        stream.flush().await?;
    }
}
