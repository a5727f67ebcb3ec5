//! What a server says instead of, or during, the TLS handshake: it ends in a failure that can be told, never in a panic.
//! The first byte says in what pieces the rest comes.
#![no_main]

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nuncio::tls::{ClientTls, Settings};
use nuncio::upstream::EndpointSpec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

static TLS: LazyLock<ClientTls> = LazyLock::new(|| {
    let settings =
        Settings { post_quantum: false, danger_accept_any_certificate: true, ..Settings::default() };
    ClientTls::new(&settings, None).expect("settings that hold")
});
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

/// Says its bytes in pieces, then hangs up; hears everything and minds nothing.
struct Says<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Says<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.bytes.len().min(self.piece).min(into.remaining());
        let (now, later) = self.bytes.split_at(count);
        into.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Says<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let mut server = Says { bytes, piece: usize::from(*piece).max(1) };
    let at = ([127, 0, 0, 1], 5432).into();
    let spec = EndpointSpec::new("db.example.com:5432".parse().expect("an address"));
    let name = TLS.name_for(&spec).expect("a name");
    let limit = Duration::from_secs(5);
    let failure = RUNTIME.block_on(TLS.handshake(&mut server, at, name, limit)).expect_err("no keys, no handshake");
    assert!(!failure.detail.is_empty() && !failure.detail.contains('\n'), "{failure}");
});
