//! The TLS handshake on a stream, up to the point where the relay takes over.
use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A finished handshake.
#[derive(Debug)]
pub struct Secured {
    /// What was agreed on.
    pub summary: Summary,
}

/// What was agreed on.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `TLSv1.3`
    pub version: &'static str,
    /// The cipher suite.
    pub suite: &'static str,
    /// The key exchange group.
    pub group: Option<&'static str>,
    /// By an earlier session's ticket.
    pub resumed: bool,
    /// The protocol agreed on.
    pub alpn: Option<String>,
    /// The server's certificate.
    pub peer: Option<CertificateDer<'static>>,
}

/// How far a handshake came.
#[derive(Debug, Default)]
pub struct Progress {
    /// The first bytes that the server sent, at most 256.
    pub received: Vec<u8>,
    /// The size of our ClientHello.
    pub hello_bytes: usize,
}

/// Why a handshake ended early.
#[derive(Debug)]
pub enum HandshakeCause {
    /// The stream broke.
    Io(io::Error),
    /// The server closed.
    Eof,
    /// TLS said no, on either side.
    Tls(rustls::Error),
    /// What the server sends is not TLS.
    NotTls,
}

/// A plain stand-in until the unbuffered one is there.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    progress: &mut Progress,
) -> Result<Secured, HandshakeCause> {
    let mut tls = ClientConnection::new(config, name).map_err(HandshakeCause::Tls)?;
    loop {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).map_err(HandshakeCause::Io)?;
        }
        if progress.hello_bytes == 0 {
            progress.hello_bytes = out.len();
        }
        stream.write_all(&out).await.map_err(HandshakeCause::Io)?;
        stream.flush().await.map_err(HandshakeCause::Io)?;
        if !tls.is_handshaking() {
            break;
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.map_err(HandshakeCause::Io)?;
        if count == 0 {
            return Err(HandshakeCause::Eof);
        }
        let room = 256usize.saturating_sub(progress.received.len()).min(count);
        progress.received.extend_from_slice(&buffer[..room]);
        if !super::greeting::may_be_tls(&progress.received) {
            return Err(HandshakeCause::NotTls);
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            tls.read_tls(&mut rest).map_err(HandshakeCause::Io)?;
            if let Err(error) = tls.process_new_packets() {
                let mut out = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut out).map_err(HandshakeCause::Io)?;
                }
                stream.write_all(&out).await.map_err(HandshakeCause::Io)?;
                return Err(HandshakeCause::Tls(error));
            }
        }
    }
    let summary = Summary {
        version: tls.protocol_version().and_then(|version| version.as_str()).unwrap_or(""),
        suite: tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or(""),
        group: tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        alpn: tls.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        peer: tls.peer_certificates().and_then(|chain| chain.first()).cloned(),
    };
    Ok(Secured { summary })
}
