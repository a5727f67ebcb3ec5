//! engine: the seam between the pump and whatever seals and opens TLS records. No sockets, no timers, no waiting.
//!
//! Owns what any engine must know of the record format (its longest record, where one ends), and [`Carried`], an engine
//! behind its handshake, with what health checks and probes need: flush and close. Leaves keys and messages to the engines.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{How, Party, pool};

/// Room that [`Engine::open`] needs in front of the ciphertext: the longest plaintext of a record.
pub const HEADROOM: usize = 16 * 1024;

/// The longest record: header, plaintext, and what TLS 1.2 allows a cipher to add.
pub const MAX_RECORD: usize = 5 + 16 * 1024 + 2048;

/// Seals and opens the records of one connection, after its handshake.
pub trait Engine: Send {
    /// How much plaintext [`seal`](Engine::seal) can surely put into `room` bytes, with all that is pending before it.
    fn fits(&self, room: usize) -> usize;

    /// Writes what is pending and then `plain`, as records, to the front of `out`; tells how many bytes. `plain` must fit.
    fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Fault>;

    /// Opens the complete records in `buffer[from..to]` and packs their plaintext to the front of `buffer`.
    /// `from` is at least [`HEADROOM`], so that plaintext never runs into ciphertext that is still to be opened.
    ///
    /// What it did not consume is the beginning of a record; it comes again, in front of what follows.
    fn open(&mut self, buffer: &mut [u8], from: usize, to: usize) -> Opened;

    /// Takes records that are not data and must go out even if no data does: the handshake's last flight, answers to key
    /// updates, alerts.
    fn take_pending(&mut self) -> Vec<u8>;

    /// Is there something to take?
    fn has_pending(&self) -> bool;

    /// Says close_notify, as a pending record. Nothing is sealed afterwards; opening goes on.
    fn close(&mut self);
}

/// What became of a piece of ciphertext.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of it that are done with.
    pub consumed: usize,
    /// Bytes of plaintext at the front of the buffer. Valid data even where a fault follows it.
    pub plain: usize,
    /// close_notify came: the stream ended in order, nothing after it counts.
    pub closed: bool,
    /// The stream is broken. An alert for the peer may be pending.
    pub fault: Option<Fault>,
}

/// Why a TLS stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer said so.
    Alert(rustls::AlertDescription),
    /// We say so.
    Broken(String),
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Fault::Alert(alert),
            other => Fault::Broken(other.to_string()),
        }
    }
}

impl From<Fault> for How {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Alert(alert) => How::TlsAlert(alert),
            Fault::Broken(why) => How::TlsError(why),
        }
    }
}

/// An engine behind its handshake, and ciphertext that came in behind the handshake's last message.
///
/// The handshake's last flight may still be pending in the engine, to be sent together with the first data. Whoever does
/// not relay must [`flush`](Carried::flush) it, or [`close`](Carried::close).
#[derive(Debug)]
pub struct Carried<E> {
    /// The engine.
    pub engine: E,
    /// What the server said before anybody asked: a greeting, tickets, an alert.
    pub ciphertext: Vec<u8>,
}

impl<E: Engine> Carried<E> {
    /// Sends what is pending.
    pub async fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        stream.write_all(&self.engine.take_pending()).await
    }

    /// Says `words` of at most a few hundred bytes, behind what is pending.
    pub async fn say<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, words: &[u8]) -> io::Result<()> {
        let mut sealed = pool::take();
        let to = self.engine.seal(words, &mut sealed).map_err(|_| io::ErrorKind::InvalidData)?;
        stream.write_all(&sealed[..to]).await
    }

    /// Says close_notify, closes our direction, and reads on to the other's end: only then is it certain that a TLS 1.3
    /// server took our certificate. `Closed` if it ended with close_notify; data is thrown away. The caller bounds the time.
    pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: &mut S) -> How {
        self.engine.close();
        let mut write_failed = None;
        if let Err(error) = self.flush(stream).await {
            write_failed = Some(How::of_io(Party::Upstream, &error));
        } else if let Err(error) = stream.shutdown().await {
            write_failed = Some(How::of_io(Party::Upstream, &error));
        }
        // Reading goes on all the same: if the server refused us, its reason is waiting in the receive queue.
        match (self.listen(stream).await, write_failed) {
            (How::Truncated | How::UpstreamReset | How::Io { .. }, Some(write_failed)) => write_failed,
            (how, _) => how,
        }
    }

    /// Reads until the server ends the stream, and tells how it did; data is thrown away. Dropped before, it leaves what is
    /// needed to go on.
    pub async fn listen<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> How {
        let mut held = self.ciphertext.len();
        let mut buffer = vec![0; pool::SMALL + held];
        buffer[HEADROOM..HEADROOM + held].copy_from_slice(&self.ciphertext);
        loop {
            let opened = self.engine.open(&mut buffer, HEADROOM, HEADROOM + held);
            if let Some(fault) = opened.fault {
                return fault.into();
            }
            if opened.closed {
                return How::Closed;
            }
            buffer.copy_within(HEADROOM + opened.consumed..HEADROOM + held, HEADROOM);
            held -= opened.consumed;
            self.ciphertext.clear();
            self.ciphertext.extend_from_slice(&buffer[HEADROOM..HEADROOM + held]);
            match stream.read(&mut buffer[HEADROOM + held..]).await {
                Ok(0) => return How::Truncated,
                Ok(read) => held += read,
                Err(error) => return How::of_io(Party::Upstream, &error),
            }
        }
    }
}

impl How {
    /// What an error on a party's socket means.
    pub(super) fn of_io(party: Party, error: &io::Error) -> How {
        match party {
            Party::Client if is_gone(error) => How::ClientReset,
            Party::Upstream if is_gone(error) => How::UpstreamReset,
            party if is_silence(error) => How::Vanished(party),
            _ => How::Io { party, error: error.to_string() },
        }
    }
}

/// The peer reset the connection (`NotConnected`: macOS says so when one shuts such a socket down).
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected)
}

/// TCP waited for the peer in vain; on the way there may have been a router that said why.
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
}

/// Length of the record at the front of `bytes`, as its header says; `None`: not even the header is complete.
/// What is no header of TLS counts as complete, so that it reaches the engine's own checks at once.
pub fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..5)?;
    let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    let plausible = (20..=24).contains(&header[0]) && header[1] == 3 && length <= MAX_RECORD;
    Some(if plausible { length } else { 5 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_long_as_its_header_says() {
        assert_eq!(record_length(&[23, 3, 3, 0, 2, 1, 2, 9]), Some(7));
        assert_eq!(record_length(&[23, 3, 3, 1, 0]), Some(261));
        assert_eq!(record_length(&[23, 3, 3, 1]), None);
    }

    #[test]
    fn what_is_no_record_is_not_waited_for() {
        assert_eq!(record_length(b"-ERR no TLS here"), Some(5));
        assert_eq!(record_length(&[23, 3, 3, 255, 255]), Some(5));
    }
}
