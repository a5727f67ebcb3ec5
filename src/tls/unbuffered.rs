//! unbuffered: the first engine, over rustls' unbuffered client. rustls keeps every duty of the protocol.
//!
//! Owns the way from the pump's buffers to rustls' states. Two things of rustls' API shape it:
//! - rustls addresses handshake fragments by their place in the buffer, so while a message is split over records, the
//!   *same* bytes must come with every call, also the calls that only want to write. Those bytes are kept in `stash`.
//! - the answer to a key update waits inside rustls until something is encrypted; `nudge` makes it go out by itself.

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};

use crate::relay::{Engine, Fault, Opened, record_length};

/// Plaintext of a record, and more than any cipher suite adds to it.
const FRAGMENT: usize = 16 * 1024;
const OVERHEAD: usize = 64;
/// For a key update that rustls puts before data when the keys are worn, and for alerts.
const SLACK: usize = 256;
/// A handshake message is 64 KiB at most; many tiny fragments of one make more of it than this.
const MAX_STASH: usize = 128 * 1024;

/// A TLS client behind its handshake. Boxed: it is moved through several futures, and is a kilobyte.
pub struct Unbuffered {
    conn: Box<UnbufferedClientConnection>,
    pending: Vec<u8>,
    /// Records that hold the beginning of a handshake message, and perhaps the beginning of a record behind them.
    stash: Vec<u8>,
    /// End of the complete records in `stash`.
    stashed: usize,
    closing: bool,
}

impl std::fmt::Debug for Unbuffered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unbuffered").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Unbuffered {
    /// `conn` must be past its handshake; `flight` is what it still wants to send.
    pub(super) fn new(conn: Box<UnbufferedClientConnection>, flight: Vec<u8>) -> Self {
        Unbuffered { conn, pending: flight, stash: Vec::new(), stashed: 0, closing: false }
    }

    /// The connection's facts, as rustls tells them.
    pub fn facts(&self) -> &UnbufferedClientConnection {
        &self.conn
    }

    /// Feeds the stash until the split message is complete, the input is used up, or something is wrong.
    fn feed_stash(&mut self, buffer: &mut [u8], from: usize, to: usize, opened: &mut Opened) {
        while !self.stash.is_empty() && opened.fault.is_none() && !opened.closed {
            let rest = from + opened.consumed;
            let partial = &self.stash[self.stashed..];
            let wanted = record_length(partial).unwrap_or(5).saturating_sub(partial.len());
            let taken = wanted.min(to - rest);
            self.stash.extend_from_slice(&buffer[rest..rest + taken]);
            opened.consumed += taken;
            if taken < wanted {
                return;
            }
            if record_length(&self.stash[self.stashed..])
                .is_some_and(|length| self.stashed + length > self.stash.len())
            {
                continue; // that was the header
            }
            if self.stash.len() > MAX_STASH {
                opened.fault = Some(Fault::Broken("a handshake message in too many fragments".to_owned()));
                return;
            }
            self.stashed = self.stash.len();
            loop {
                // Plaintext cannot come from here in front of where it fits: it needs a record of its own, behind the message.
                let step = step(
                    &mut self.conn,
                    &mut self.pending,
                    self.closing,
                    &mut self.stash,
                    &mut buffer[opened.plain..from],
                );
                self.stash.drain(..step.discard.min(self.stash.len()));
                self.stashed = self.stash.len();
                if !step.settle(opened) {
                    break;
                }
            }
        }
        if self.stash.is_empty() {
            self.stash = Vec::new();
        }
    }
}

impl Engine for Unbuffered {
    fn fits(&self, room: usize) -> usize {
        let room = room.saturating_sub(self.pending.len() + SLACK);
        let whole = room / (FRAGMENT + OVERHEAD);
        whole * FRAGMENT + (room % (FRAGMENT + OVERHEAD)).saturating_sub(OVERHEAD)
    }

    fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Fault> {
        let mut written = self.pending.len();
        out.get_mut(..written).ok_or_else(no_room)?.copy_from_slice(&self.pending);
        self.pending = Vec::new();
        loop {
            let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut self.stash);
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    written +=
                        data.encode(&mut out[written..]).map_err(|error| Fault::Broken(error.to_string()))?;
                }
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    written += traffic.encrypt(plain, &mut out[written..]).map_err(|error| match error {
                        EncryptError::InsufficientSize(_) => no_room(),
                        EncryptError::EncryptExhausted => {
                            Fault::Broken("the connection's keys are spent".to_owned())
                        }
                    })?;
                    return Ok(written);
                }
                other => return Err(Fault::Broken(format!("cannot send in state {other:?}"))),
            }
        }
    }

    fn open(&mut self, buffer: &mut [u8], from: usize, to: usize) -> Opened {
        let mut opened = Opened::default();
        self.feed_stash(buffer, from, to, &mut opened);
        if !self.stash.is_empty() || opened.fault.is_some() || opened.closed {
            return opened;
        }

        let complete = complete_records(buffer, from + opened.consumed, to);
        if complete == from + opened.consumed {
            return opened;
        }
        loop {
            let (front, rest) = buffer[..complete].split_at_mut(from + opened.consumed);
            let step =
                step(&mut self.conn, &mut self.pending, self.closing, rest, &mut front[opened.plain..]);
            opened.consumed += step.discard.min(rest.len());
            if !step.settle(&mut opened) {
                break;
            }
        }
        let done = from + opened.consumed;
        if opened.fault.is_none() && !opened.closed && done < complete {
            // All records were looked at, yet some are still needed: they hold the beginning of a handshake message.
            self.stash = buffer[done..to].to_vec();
            self.stashed = complete - done;
            opened.consumed = to - from;
        }
        opened
    }

    fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        loop {
            let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut self.stash);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.pending),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let mut alert = [0; SLACK];
                    // On too little room rustls keeps the alert queued; there is never so much before it.
                    if let Ok(length) = traffic.queue_close_notify(&mut alert) {
                        self.pending.extend_from_slice(&alert[..length]);
                    }
                    return;
                }
                // A broken stream has said its alert already.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// One state of rustls.
struct Step {
    discard: usize,
    next: Next,
}

enum Next {
    /// So much plaintext was copied out.
    Plain(usize),
    /// Something was done that is not data.
    Again,
    /// The input is used up, as far as it can be.
    Idle,
    /// close_notify.
    Closed,
    Fault(Fault),
}

impl Step {
    /// Enters it in the books; false: nothing more will come of this input.
    fn settle(self, opened: &mut Opened) -> bool {
        match self.next {
            Next::Plain(length) => opened.plain += length,
            Next::Again => {}
            Next::Idle => return false,
            Next::Closed => {
                opened.closed = true;
                return false;
            }
            Next::Fault(fault) => {
                opened.fault = Some(fault);
                return false;
            }
        }
        true
    }
}

fn step(
    conn: &mut UnbufferedClientConnection,
    pending: &mut Vec<u8>,
    closing: bool,
    input: &mut [u8],
    room: &mut [u8],
) -> Step {
    let UnbufferedStatus { mut discard, state } = conn.process_tls_records(input);
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut length = 0;
            loop {
                match traffic.next_record() {
                    None => break Next::Plain(length),
                    Some(Err(error)) => break Next::Fault(error.into()),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        let Some(room) = room.get_mut(length..length + record.payload.len()) else {
                            break Next::Fault(Fault::Broken("more plaintext than ciphertext".to_owned()));
                        };
                        room.copy_from_slice(record.payload);
                        length += record.payload.len();
                    }
                }
            }
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, pending);
            Next::Again
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Next::Again
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            // The nudge: a key update's answer moves to where it is sent from when something is to be encrypted, even if that
            // then fails for want of room. Not while an answer is pending already: rustls makes one of many, so that a flood
            // of requests does not become a flood of answers.
            if pending.is_empty() && !closing {
                match traffic.encrypt(&[0], &mut []) {
                    Ok(_) | Err(_) => {} // it fails, as it should
                }
            }
            if conn.wants_write() { Next::Again } else { Next::Idle }
        }
        Ok(ConnectionState::Closed) => Next::Idle,
        Ok(ConnectionState::PeerClosed) => Next::Closed,
        Ok(other) => Next::Fault(Fault::Broken(format!("a handshake state after the handshake: {other:?}"))),
        Err(error) => {
            collect_alert(conn, pending);
            Next::Fault(error.into())
        }
    };
    Step { discard, next }
}

/// Takes the alert that tells the peer: after an error, rustls hands it out before it repeats the error.
pub(super) fn collect_alert(conn: &mut UnbufferedClientConnection, to: &mut Vec<u8>) {
    while conn.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = conn.process_tls_records(&mut []).state else {
            return;
        };
        encode(&mut data, to);
    }
}

/// Appends a record that rustls made.
pub(super) fn encode(data: &mut EncodeTlsData<'_, rustls::client::ClientConnectionData>, to: &mut Vec<u8>) {
    let old = to.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
        return; // an empty record: there is none
    };
    to.resize(old + size.required_size, 0);
    match data.encode(&mut to[old..]) {
        Ok(_) | Err(_) => {} // it has the room it asked for
    }
}

/// End of the last complete record of `buffer[from..to]`; all of it where it does not look like TLS, so that rustls says so.
fn complete_records(buffer: &[u8], from: usize, to: usize) -> usize {
    let mut end = from;
    while let Some(length) = record_length(&buffer[end..to]) {
        if end + length > to {
            break;
        }
        end += length;
    }
    end
}

fn no_room() -> Fault {
    Fault::Broken("no room to seal into".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustls::ServerConnection;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::relay::HEADROOM;
    use crate::relay::testkit::{Pki, TLS12, TLS13, server_name};
    use crate::tls::handshake::{Progress, handshake};

    /// Both ends of a finished handshake, and what the server sent behind it.
    async fn ends(config: rustls::ServerConfig, pki: &Pki) -> (Unbuffered, ServerConnection, Vec<u8>) {
        let (mut near, far) = duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = tokio::spawn(async move { acceptor.accept(far).await.unwrap() });
        let mut carried = handshake(&mut near, pki.client(), server_name(), &mut Progress::default())
            .await
            .unwrap()
            .carried;
        carried.flush(&mut near).await.unwrap();
        let (far, mut server) = server.await.unwrap().into_inner();
        drop(far);
        let mut sent = carried.ciphertext;
        near.read_to_end(&mut sent).await.unwrap();
        sent.extend(written(&mut server));
        (carried.engine, server, sent)
    }

    fn written(server: &mut ServerConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Opens a piece behind what the last one left; gives the plaintext.
    fn feed(engine: &mut Unbuffered, left: &mut Vec<u8>, piece: &[u8]) -> Vec<u8> {
        left.extend_from_slice(piece);
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(left);
        let to = buffer.len();
        let opened = engine.open(&mut buffer, HEADROOM, to);
        assert_eq!(opened.fault, None);
        left.drain(..opened.consumed);
        buffer.truncate(opened.plain);
        buffer
    }

    fn seal_to(server: &mut ServerConnection, engine: &mut Unbuffered, plain: &[u8]) {
        let mut out = vec![0; plain.len() + 1_000];
        let written = engine.seal(plain, &mut out).unwrap();
        server.read_tls(&mut &out[..written]).unwrap();
        server.process_new_packets().unwrap();
        let mut got = vec![0; plain.len()];
        server.reader().read_exact(&mut got).unwrap();
        assert_eq!(got, plain);
    }

    #[tokio::test]
    async fn records_cut_anywhere_open_to_the_same_bytes() {
        let pki = Pki::new();
        for versions in [TLS13, TLS12] {
            let (mut engine, mut server, sent) = ends(pki.server(versions), &pki).await;
            let mut left = Vec::new();
            assert!(feed(&mut engine, &mut left, &sent).is_empty());
            let mut cut = 0;
            loop {
                server.writer().write_all(b"one").unwrap();
                server.writer().write_all(b"and two").unwrap();
                let bytes = written(&mut server);
                if cut > bytes.len() {
                    break;
                }
                let mut plain = feed(&mut engine, &mut left, &bytes[..cut]);
                plain.extend(feed(&mut engine, &mut left, &bytes[cut..]));
                assert_eq!(plain, b"oneand two", "cut at {cut}");
                assert!(left.is_empty());
                cut += 1;
            }
            assert!(cut > 50);
        }
    }

    #[tokio::test]
    async fn data_is_sent_while_a_ticket_in_many_records_is_coming_in() {
        let pki = Pki::new();
        let mut config = pki.server(TLS13);
        config.max_fragment_size = Some(64);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap(); // long ones: they hold our certificate
        let (mut engine, mut server, sent) = ends(config, &pki).await;
        let mut left = Vec::new();
        let mut split = 0;
        for piece in sent.chunks(37) {
            assert!(feed(&mut engine, &mut left, piece).is_empty());
            split += usize::from(!engine.stash.is_empty());
            seal_to(&mut server, &mut engine, b"in between");
        }
        assert!(split > 10, "the tickets came in one piece");
        assert!(engine.stash.is_empty() && left.is_empty());
        assert_eq!(engine.facts().tls13_tickets_received(), 2);
        server.writer().write_all(b"and after").unwrap();
        let bytes = written(&mut server);
        assert_eq!(feed(&mut engine, &mut left, &bytes), b"and after");
    }

    #[tokio::test]
    async fn what_is_said_to_fit_fits() {
        let pki = Pki::new();
        for versions in [TLS13, TLS12] {
            let (mut engine, mut server, _) = ends(pki.server(versions), &pki).await;
            for room in [1_000, 16 * 1024, 16 * 1024 + 400, 40_000, 256 * 1024] {
                engine.pending = Vec::new();
                let plain = vec![7; engine.fits(room)];
                assert!(plain.len() > room - room / 100 - SLACK - 100, "{} of {room}", plain.len());
                let mut out = vec![0; room];
                let length = engine.seal(&plain, &mut out).unwrap();
                let mut sealed = &out[..length];
                let mut got = vec![0; plain.len()];
                let mut have = 0;
                while have < got.len() {
                    server.read_tls(&mut sealed).unwrap();
                    server.process_new_packets().unwrap();
                    have += server.reader().read(&mut got[have..]).unwrap_or(0); // 0: half a record
                }
                assert_eq!(got, plain);
            }
        }
    }

    #[tokio::test]
    async fn after_our_close_notify_the_other_direction_goes_on() {
        let pki = Pki::new();
        for versions in [TLS13, TLS12] {
            let (mut engine, mut server, sent) = ends(pki.server(versions), &pki).await;
            let mut left = Vec::new();
            feed(&mut engine, &mut left, &sent);
            engine.close();
            engine.close(); // once is enough
            server.read_tls(&mut engine.take_pending().as_slice()).unwrap();
            assert!(server.process_new_packets().unwrap().peer_has_closed());
            assert!(!engine.has_pending());
            server.writer().write_all(b"answer").unwrap();
            assert_eq!(feed(&mut engine, &mut left, &written(&mut server)), b"answer");
            server.send_close_notify();
            let bytes = written(&mut server);
            let mut buffer = [vec![0; HEADROOM], bytes].concat();
            let to = buffer.len();
            assert!(engine.open(&mut buffer, HEADROOM, to).closed);
        }
    }

    #[tokio::test]
    async fn a_flood_of_key_updates_does_not_become_a_flood_of_answers() {
        let pki = Pki::new();
        let (mut engine, mut server, sent) = ends(pki.server(TLS13), &pki).await;
        let mut left = Vec::new();
        feed(&mut engine, &mut left, &sent);
        for _ in 0..30 {
            server.refresh_traffic_keys().unwrap();
            feed(&mut engine, &mut left, &written(&mut server));
        }
        assert!(engine.pending.len() <= 2 * (5 + 5 + 1 + 16), "{}", engine.pending.len());
        seal_to(&mut server, &mut engine, b"still in step");
    }
}
