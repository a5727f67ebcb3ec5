//! A socket for as long as a handshake travels inside the protocol's own packets ([`Wrapping`]).
//!
//! Opens one packet at a time, and only when TLS asks for more: what stands behind the packet that ends the handshake is
//! TLS as it is, and goes to whoever takes over. Leaves the packets to `protocol`, the handshake and its time to the caller.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::failure::Failure;
use crate::protocol::Wrapping;
use crate::tls::Secured;

/// A server's flight fits into few reads of this size.
const READ: usize = 4 * 1024;

pub(super) struct Wrapped<'a, S> {
    stream: &'a mut S,
    wrapping: Box<dyn Wrapping>,
    /// Packets of ours that the socket has not taken yet.
    out: Vec<u8>,
    /// Packets of the server's, or parts of one.
    heard: Vec<u8>,
    /// TLS out of them that nobody has read yet.
    opened: Vec<u8>,
    /// What the server sent that carries no TLS.
    odd: Option<Failure>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Wrapped<'a, S> {
    pub(super) fn new(stream: &'a mut S, wrapping: Box<dyn Wrapping>) -> Self {
        Wrapped { stream, wrapping, out: Vec::new(), heard: Vec::new(), opened: Vec::new(), odd: None }
    }

    /// What the handshake came to. Its last flight is sent now: it belongs into a packet, and the first data doesn't.
    ///
    /// # Errors
    /// The handshake's, or what the server sent in its place.
    pub(super) async fn finish(
        mut self,
        secured: Result<Secured, Failure>,
        limit: Duration,
    ) -> Result<Secured, Failure> {
        let mut secured = match (secured, self.odd.take()) {
            (Ok(secured), _) => secured,
            (Err(_), Some(odd)) => return Err(odd),
            (Err(failure), None) => return Err(failure),
        };
        let sent = async {
            secured.carried.flush(&mut self).await?;
            self.flush().await
        };
        let sent = tokio::time::timeout(limit, sent).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| super::broken_at_the_end(&error))?;
        secured.carried.ciphertext.append(&mut self.opened);
        secured.carried.ciphertext.append(&mut self.heard);
        Ok(secured)
    }

    /// Sends what is left of our packets.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut *self.stream).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.out.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wrapped<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Who reads waits for an answer to what is left. That it cannot be sent is told by the next write.
        match this.poll_send(cx) {
            Poll::Ready(Ok(()) | Err(_)) | Poll::Pending => {}
        }
        while this.opened.is_empty() {
            match this.wrapping.unwrap(&mut this.heard, &mut this.opened) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(odd) => {
                    this.odd = Some(odd);
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
            let mut room = [0; READ];
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.heard.extend_from_slice(read.filled());
        }
        let now = this.opened.len().min(into.remaining());
        into.put_slice(&this.opened[..now]);
        this.opened.drain(..now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wrapped<'_, S> {
    /// Takes a flight as a whole, once the one before is sent.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, flight: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_send(cx))?;
        this.wrapping.wrap(flight, &mut this.out);
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(flight.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
