//! upgrade: a client's stream that may turn to TLS, with its first byte or in the middle.
//!
//! Owns the way of the bytes between a socket and rustls' server side. What is written counts as written only once the
//! socket has it: the relay never flushes, and asks the kernel whether all has arrived. Reading, writing and flushing drive
//! the handshake, whichever is asked first. Leaves certificates to `tls`, and when it is time to whoever knows the protocol.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Gone;
use crate::relay::Leg;

/// Sealed bytes that may wait for the socket: what a client that reads nothing takes beside the relay's own buffers.
const WAITING: usize = 32 * 1024;

/// A stream in plaintext, until it turns to TLS.
#[derive(Debug)]
pub struct Upgradable<S> {
    plain: S,
    config: Arc<ServerConfig>,
    /// Boxed: many a client never asks for it.
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    conn: ServerConnection,
    /// Bytes that rustls has taken from a writer who was not told yet: they are not all with the socket.
    held: usize,
    /// The peer has ended its direction, with close_notify or without.
    ended: bool,
    /// Our own direction is closed.
    closing: bool,
    /// Nothing can be sent any more. What the peer had to say may still come.
    unwritable: Option<io::ErrorKind>,
    failure: Option<rustls::Error>,
}

impl<S: Leg> Upgradable<S> {
    /// In plaintext, for now.
    pub fn new(plain: S, config: Arc<ServerConfig>) -> Upgradable<S> {
        Upgradable { plain, config, tls: None }
    }

    /// The socket itself.
    pub fn plain(&self) -> &S {
        &self.plain
    }

    /// The socket itself, for what is left to do with it when TLS is over.
    pub fn plain_mut(&mut self) -> &mut S {
        &mut self.plain
    }

    /// With another socket in the place of this one.
    pub fn try_map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Upgradable<T>> {
        let Upgradable { plain, config, tls } = self;
        Ok(Upgradable { plain: change(plain)?, config, tls })
    }

    /// What was agreed, or is being; `None`: it is in plaintext.
    pub fn tls(&self) -> Option<&ServerConnection> {
        self.tls.as_ref().map(|tls| &tls.conn)
    }

    /// Why TLS could not go on.
    pub fn tls_failure(&self) -> Option<&rustls::Error> {
        self.tls.as_ref()?.failure.as_ref()
    }

    /// Ready when a client that speaks TLS has closed without having sent anything more; never once it has.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let Upgradable { plain, tls, .. } = self;
        let Some(tls) = tls else { return Poll::Pending };
        loop {
            if tls.ended {
                return Poll::Ready(Gone::Silently);
            }
            if tls.has_plaintext() {
                return Poll::Pending;
            }
            if ready!(tls.poll_receive(plain, cx)).is_err() {
                return Poll::Ready(Gone::Reset);
            }
        }
    }
}

impl Tls {
    /// rustls tells so itself only by a read.
    fn has_plaintext(&mut self) -> bool {
        self.conn.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Takes in what the socket has, and answers what needs an answer.
    fn poll_receive<S: Leg>(&mut self, plain: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(broken(failure)));
        }
        self.answer(plain, cx);
        match self.conn.read_tls(&mut Sync { plain, cx }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            // A client that has what it wanted and hangs up resets what our goodbye meets then.
            Err(_) if self.closing => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Err(error) => return Poll::Ready(Err(error)),
            // Old clients end without close_notify. Who cuts a connection to a listener of this host could as well do worse.
            Ok(0) => {
                self.ended = true;
                return Poll::Ready(match self.conn.is_handshaking() {
                    true => Err(self.unwritable.unwrap_or(io::ErrorKind::UnexpectedEof).into()),
                    false => Ok(()),
                });
            }
            Ok(_) => {}
        }
        let processed = self.conn.process_new_packets();
        self.answer(plain, cx);
        match processed {
            Ok(state) => {
                self.ended |= state.peer_has_closed() && state.plaintext_bytes_to_read() == 0;
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                let told = broken(&error);
                self.failure = Some(error);
                Poll::Ready(Err(told))
            }
        }
    }

    /// Sends what is no data, as far as that goes: flights of the handshake, tickets, answers to key updates, and the alert
    /// that says what was wrong.
    fn answer<S: Leg>(&mut self, plain: &mut S, cx: &mut Context<'_>) {
        match self.poll_send(plain, cx) {
            // A client that refuses us says why and hangs up: its reason can be read after our write has failed.
            Poll::Ready(Ok(()) | Err(_)) | Poll::Pending => {}
        }
    }

    fn poll_send<S: Leg>(&mut self, plain: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.conn.wants_write() && self.unwritable.is_none() {
            match self.conn.write_tls(&mut Sync { plain, cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Ok(0) => self.unwritable = Some(io::ErrorKind::WriteZero),
                Err(error) => self.unwritable = Some(error.kind()),
                Ok(_) => {}
            }
        }
        Poll::Ready(self.unwritable.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_handshake<S: Leg>(&mut self, plain: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_handshaking = self.conn.is_handshaking();
        while self.conn.is_handshaking() {
            ready!(self.poll_receive(plain, cx))?;
        }
        if is_handshaking && self.has_plaintext() {
            // It came with the handshake's last message: nothing else will tell whoever waits to read it.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read<S: Leg>(
        &mut self,
        plain: &mut S,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.conn.reader().read(into.initialize_unfilled()) {
                Ok(read) if read > 0 => {
                    into.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // Its end, or nothing yet.
                Ok(_) | Err(_) if self.ended || into.remaining() == 0 => return Poll::Ready(Ok(())),
                Ok(_) | Err(_) => ready!(self.poll_receive(plain, cx))?,
            }
        }
    }

    fn poll_write<S: Leg>(
        &mut self,
        plain: &mut S,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_handshake(plain, cx))?;
        if self.held == 0 {
            ready!(self.poll_send(plain, cx))?;
            self.held = self.conn.writer().write(from)?;
        }
        ready!(self.poll_send(plain, cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.held).min(from.len())))
    }
}

fn broken(failure: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, failure.clone())
}

impl<S: Leg> AsyncRead for Upgradable<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Upgradable { plain, tls, .. } = self.get_mut();
        match tls {
            None => Pin::new(plain).poll_read(cx, into),
            Some(tls) => tls.poll_read(plain, cx, into),
        }
    }
}

impl<S: Leg> AsyncWrite for Upgradable<S> {
    /// After `Pending` the same bytes must come again, as they do from all who write to a connection.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let Upgradable { plain, tls, .. } = self.get_mut();
        match tls {
            None => Pin::new(plain).poll_write(cx, from),
            Some(tls) => tls.poll_write(plain, cx, from),
        }
    }

    /// With TLS, it is flushed once the handshake is over.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Upgradable { plain, tls, .. } = self.get_mut();
        if let Some(tls) = tls {
            ready!(tls.poll_handshake(plain, cx))?;
            ready!(tls.poll_send(plain, cx))?;
        }
        Pin::new(plain).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Upgradable { plain, tls, .. } = self.get_mut();
        if let Some(tls) = tls {
            if !std::mem::replace(&mut tls.closing, true) {
                tls.conn.send_close_notify();
            }
            ready!(tls.poll_send(plain, cx))?;
        }
        Pin::new(plain).poll_shutdown(cx)
    }
}

impl<S: Leg> Leg for Upgradable<S> {
    fn unsent(&self) -> Option<usize> {
        self.plain.unsent()
    }

    fn reset_on_close(&self) {
        self.plain.reset_on_close();
    }

    fn has_farewell(&self) -> bool {
        self.tls.is_some()
    }

    fn start_tls(&mut self) -> io::Result<()> {
        if self.tls.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut conn = ServerConnection::new(self.config.clone()).map_err(io::Error::other)?;
        conn.set_buffer_limit(Some(WAITING));
        let tls = Tls { conn, held: 0, ended: false, closing: false, unwritable: None, failure: None };
        self.tls = Some(Box::new(tls));
        Ok(())
    }
}

/// A socket as rustls wants it: what would wait says so, and has arranged to be woken.
struct Sync<'a, 'c, S> {
    plain: &'a mut S,
    cx: &'a mut Context<'c>,
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: Leg> Read for Sync<'_, '_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        now(Pin::new(&mut *self.plain).poll_read(self.cx, &mut into)).map(|()| into.filled().len())
    }
}

impl<S: Leg> Write for Sync<'_, '_, S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        now(Pin::new(&mut *self.plain).poll_write(self.cx, from))
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        now(Pin::new(&mut *self.plain).poll_write_vectored(self.cx, from))
    }

    fn flush(&mut self) -> io::Result<()> {
        now(Pin::new(&mut *self.plain).poll_flush(self.cx))
    }
}

#[cfg(test)]
mod tests;
