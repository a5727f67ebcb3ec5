//! upgrade: a client's stream that may turn to TLS, with its first byte or in the middle.
//!
//! Owns the way of the bytes between a socket and rustls' server side. What is written counts as written only once the
//! socket has it: the relay never flushes, and asks the kernel whether all has arrived. Reading, writing and flushing drive
//! the handshake, whichever is asked first. Leaves certificates to `tls`, and when it is time to whoever knows the protocol.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Gone;
use crate::relay::{Leg, Packets};

mod records;

use records::Records;

/// Sealed bytes that may wait for the socket: what a client that reads nothing takes beside the relay's own buffers.
const WAITING: usize = 32 * 1024;

/// A client that has asked for TLS in the middle and does not begin it holds its upstream no longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is said of a client that ends so.
const CUT: &str = "the client ended its connection inside a TLS record: what it said last is not whole";

/// The TLS that a listener has to give.
#[derive(Debug)]
pub struct TlsConfigs {
    /// As it is.
    pub usual: Arc<ServerConfig>,
    /// Where the handshake travels in packets: without TLS 1.3, in which it has no certain end.
    pub in_packets: Arc<ServerConfig>,
}

/// A stream in plaintext, until it turns to TLS.
#[derive(Debug)]
pub struct Upgradable<S> {
    plain: S,
    configs: Arc<TlsConfigs>,
    /// Boxed: many a client never asks for it.
    tls: Option<Box<Tls>>,
}

struct Tls {
    conn: ServerConnection,
    /// The peer's first record has come.
    has_begun: bool,
    /// While the handshake travels in packets, and for what came before it or behind.
    packed: Option<Packed>,
    /// Where in the peer's stream of records it is.
    records: Records,
    /// Bytes that rustls has taken from a writer who was not told yet: they are not all with the socket.
    held: usize,
    /// The peer has ended its direction, with close_notify or without.
    ended: bool,
    /// Our own direction is closed.
    closing: bool,
    /// Nothing can be sent any more. What the peer had to say may still come.
    unwritable: Option<io::ErrorKind>,
    failure: Option<rustls::Error>,
    /// Until the handshake is over.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Never what is said.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("conn", &self.conn).finish_non_exhaustive()
    }
}

impl<S: Leg> Upgradable<S> {
    /// In plaintext, for now.
    pub fn new(plain: S, configs: Arc<TlsConfigs>) -> Upgradable<S> {
        Upgradable { plain, configs, tls: None }
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
        let Upgradable { plain, configs, tls } = self;
        Ok(Upgradable { plain: change(plain)?, configs, tls })
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
        self.lose_patience(cx);
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(broken(failure)));
        }
        self.answer(plain, cx);
        let is_packed = self.conn.is_handshaking() && self.is_packed();
        let (packed, has_begun) = (self.packed.as_mut(), &mut self.has_begun);
        let socket = Sync { plain, cx, packed, is_packed, has_begun };
        match self.conn.read_tls(&mut self.records.watching(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            // A client that has what it wanted and hangs up resets what our goodbye meets then.
            Err(_) if self.closing => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) => {
                self.ended = true;
                return Poll::Ready(match self.conn.is_handshaking() {
                    true => Err(self.unwritable.unwrap_or(io::ErrorKind::UnexpectedEof).into()),
                    // Nobody ends so on purpose: something is missing, and the server must not take it for all there is.
                    false if self.records.is_inside() && !self.closing => {
                        Err(io::Error::new(io::ErrorKind::UnexpectedEof, CUT))
                    }
                    // Old clients end without close_notify. Who cuts a connection to a listener of this host could as
                    // well do worse.
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

    /// A handshake that takes too long has failed.
    fn lose_patience(&mut self, cx: &mut Context<'_>) {
        if !self.conn.is_handshaking() {
            self.patience = None;
        } else if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(cx).is_ready()
        {
            let late = format!("the client's handshake was not over within {} s", PATIENCE.as_secs());
            self.failure.get_or_insert(rustls::Error::General(late));
        }
    }

    /// The handshake travels in packets, and is not over.
    fn is_packed(&self) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.packets.is_some())
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
        while self.unwritable.is_none() {
            let is_packed = self.is_packed();
            let (packed, has_begun) = (self.packed.as_mut(), &mut self.has_begun);
            let mut socket = Sync { plain, cx, packed, is_packed, has_begun };
            let sent = match self.conn.wants_write() {
                true => self.conn.write_tls(&mut socket).map(|sent| sent > 0),
                false => match socket.flush() {
                    Ok(()) => break,
                    Err(error) => Err(error),
                },
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Ok(false) => self.unwritable = Some(io::ErrorKind::WriteZero),
                Err(error) => self.unwritable = Some(error.kind()),
                Ok(true) => {}
            }
        }
        // All that belongs to the handshake is on its way.
        if let Some(packed) = &mut self.packed
            && !self.conn.is_handshaking()
        {
            packed.packets = None;
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

    fn start_tls(&mut self, packets: Option<Box<dyn Packets>>, begun: Vec<u8>) -> io::Result<()> {
        if self.tls.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let config = if packets.is_some() { &self.configs.in_packets } else { &self.configs.usual };
        let mut conn = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        conn.set_buffer_limit(Some(WAITING));
        let packed = match (packets, begun.is_empty()) {
            (None, true) => None,
            (packets, _) => Some(Packed { packets, heard: begun, ..Packed::default() }),
        };
        self.tls = Some(Box::new(Tls {
            conn,
            has_begun: false,
            packed,
            records: Records::default(),
            held: 0,
            ended: false,
            closing: false,
            unwritable: None,
            failure: None,
            patience: Some(Box::pin(sleep(PATIENCE))),
        }));
        Ok(())
    }
}

/// A handshake in packets, or one whose beginning was read before.
#[derive(Default)]
struct Packed {
    /// Until it is over.
    packets: Option<Box<dyn Packets>>,
    /// Packets of the client's, or parts of one; else TLS as it is.
    heard: Vec<u8>,
    /// TLS out of them that rustls has not seen.
    opened: Vec<u8>,
    /// Packets of ours that the socket has not taken.
    out: Vec<u8>,
}

/// A client's flight fits into few reads of this size.
const READ: usize = 4 * 1024;

/// A socket as rustls wants it: what would wait says so, and has arranged to be woken.
struct Sync<'a, 'c, S> {
    plain: &'a mut S,
    cx: &'a mut Context<'c>,
    packed: Option<&'a mut Packed>,
    /// What goes this way now does so in packets.
    is_packed: bool,
    has_begun: &'a mut bool,
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// As much as fits, from the front.
fn take(from: &mut Vec<u8>, into: &mut [u8]) -> usize {
    let now = from.len().min(into.len());
    into[..now].copy_from_slice(&from[..now]);
    from.drain(..now);
    now
}

impl<S: Leg> Sync<'_, '_, S> {
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        now(Pin::new(&mut *self.plain).poll_read(self.cx, &mut into)).map(|()| into.filled().len())
    }

    /// Opens one packet at a time, and only when TLS asks for more: what stands behind the packet that ends the handshake is
    /// TLS as it is.
    fn open(&mut self) -> io::Result<()> {
        loop {
            let Some(Packed { packets: Some(packets), heard, opened, .. }) = self.packed.as_deref_mut()
            else {
                return Ok(());
            };
            if !opened.is_empty() {
                return Ok(());
            }
            if packets.unwrap(heard, opened)? {
                continue;
            }
            let mut room = [0; READ];
            let read = self.receive(&mut room)?;
            if read == 0 {
                return Ok(());
            }
            if let Some(packed) = self.packed.as_deref_mut() {
                packed.heard.extend_from_slice(&room[..read]);
            }
        }
    }
}

impl<S: Leg> Read for Sync<'_, '_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_packed {
            self.open()?;
        }
        if let Some(Packed { heard, opened, .. }) = self.packed.as_deref_mut() {
            if !opened.is_empty() {
                return Ok(take(opened, into));
            }
            if self.is_packed {
                return Ok(0);
            }
            if !heard.is_empty() {
                *self.has_begun = true;
                return Ok(take(heard, into));
            }
        }
        loop {
            let read = self.receive(into)?;
            // The end of the line that asked for TLS may come late (XMPP's do): it says nothing, and goes nowhere.
            let is_blank = |byte: &&u8| !*self.has_begun && byte.is_ascii_whitespace();
            let blanks = into[..read].iter().take_while(is_blank).count();
            if blanks < read || read == 0 {
                *self.has_begun = true;
                into.copy_within(blanks..read, 0);
                return Ok(read - blanks);
            }
        }
    }
}

impl<S: Leg> Write for Sync<'_, '_, S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.is_packed {
            return now(Pin::new(&mut *self.plain).poll_write_vectored(self.cx, from));
        }
        // A flight goes as a whole, once the one before is sent.
        self.flush()?;
        let flight: Vec<u8> = from.iter().flat_map(|part| part.iter().copied()).collect();
        if let Some(Packed { packets: Some(packets), out, .. }) = self.packed.as_deref_mut() {
            packets.wrap(&flight, out);
        }
        Ok(flight.len())
    }

    /// Sends what is left of our packets.
    fn flush(&mut self) -> io::Result<()> {
        let Some(Packed { out, .. }) = self.packed.as_deref_mut() else { return Ok(()) };
        while !out.is_empty() {
            match now(Pin::new(&mut *self.plain).poll_write(self.cx, out))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => drop(out.drain(..written)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
