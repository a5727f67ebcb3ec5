//! testkit: certificates, servers and hostile wires for the tests of the relay and of its engines.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::Leg;

pub(crate) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(crate) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A CA, a server of the name `server.test`, and a client.
pub(crate) struct Pki {
    roots: Arc<RootCertStore>,
    server: (CertificateDer<'static>, PrivateKeyDer<'static>),
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str, usage| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
            (certificate, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        Pki {
            roots: Arc::new(roots),
            server: leaf("server.test", ExtendedKeyUsagePurpose::ServerAuth),
            client: leaf("client.test", ExtendedKeyUsagePurpose::ClientAuth),
        }
    }

    /// A server that demands a client certificate.
    pub(crate) fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.server.0.clone()], self.server.1.clone_key())
            .unwrap()
    }

    /// A server that takes anybody.
    pub(crate) fn open_server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.server.0.clone()], self.server.1.clone_key())
            .unwrap()
    }

    /// A server that takes anybody, and may speak before the client has finished the handshake.
    pub(crate) fn eager_server(&self) -> ServerConfig {
        let mut config = self.open_server(TLS13);
        config.send_half_rtt_data = true;
        config
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let (certificate, key) = &self.client;
        Arc::new(
            self.client_builder().with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap(),
        )
    }

    pub(crate) fn client_without_certificate(&self) -> Arc<ClientConfig> {
        Arc::new(self.client_builder().with_no_client_auth())
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
    }
}

pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("server.test").unwrap()
}

/// Both ends of a TCP connection over loopback.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Something that a wire is made of.
pub(crate) trait Ware: AsyncRead + AsyncWrite + Unpin + Send {
    fn zero_linger(&self) {}
}

impl Ware for DuplexStream {}

impl Ware for &mut DuplexStream {}

impl Ware for TcpStream {
    fn zero_linger(&self) {
        self.set_zero_linger().unwrap();
    }
}

/// A leg that can be hostile, and remembers what was done to it.
pub(crate) struct Wire<S> {
    stream: S,
    rng: Option<fastrand::Rng>,
    /// At most so many bytes at once.
    most: usize,
    pub(crate) writes_fail: bool,
    pub(crate) seen: Arc<Seen>,
}

/// What was done to a wire.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) reset: AtomicBool,
    pub(crate) written: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    pub(crate) unsent: AtomicUsize,
}

impl Seen {
    pub(crate) fn was_reset(&self) -> bool {
        self.reset.load(Ordering::SeqCst)
    }
}

impl<S: Ware> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Wire { stream, rng: None, most: usize::MAX, writes_fail: false, seen: Arc::default() }
    }

    /// Reads and writes are short, and now and then not ready, as the seed has it.
    pub(crate) fn hostile(stream: S, seed: u64, most: usize) -> Self {
        Wire { rng: Some(fastrand::Rng::with_seed(seed)), most, ..Wire::new(stream) }
    }

    /// How many of `wanted` bytes it deals with now; `None`: later.
    fn mood(&mut self, cx: &Context<'_>, wanted: usize) -> Option<usize> {
        let Some(rng) = &mut self.rng else {
            return Some(wanted.min(self.most));
        };
        if rng.u8(..) < 40 {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(rng.usize(1..=self.most).min(wanted))
    }
}

impl<S: Ware> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(most) = self.mood(cx, buf.remaining()) else {
            return Poll::Pending;
        };
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        result
    }
}

impl<S: Ware> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.writes_fail {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(most) = self.mood(cx, buf.len()) else {
            return Poll::Pending;
        };
        let result = Pin::new(&mut self.stream).poll_write(cx, &buf[..most]);
        if let Poll::Ready(Ok(written)) = &result {
            self.seen.written.fetch_add(*written, Ordering::SeqCst);
            self.seen.writes.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Ware> Leg for Wire<S> {
    fn unsent(&self) -> Option<usize> {
        Some(self.seen.unsent.load(Ordering::SeqCst))
    }

    fn reset_on_close(&self) {
        self.seen.reset.store(true, Ordering::SeqCst);
        self.stream.zero_linger();
    }
}
