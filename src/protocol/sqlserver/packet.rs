//! Packets and messages: type, status, length, and four bytes that say nothing here; a message ends with its last packet.

/// Of a packet.
pub(super) const HEADER: usize = 8;
/// Of a packet with its header, until a login agrees on another size.
pub(super) const LONGEST_PACKET: usize = 4096;
/// Of a message with its headers, among those that are read here. A PRELOGIN has about a hundred bytes.
pub(super) const LONGEST_MESSAGE: usize = 2 * LONGEST_PACKET;

/// What a packet is.
pub(super) const TABULAR: u8 = 0x04;
pub(super) const LOGIN7: u8 = 0x10;
pub(super) const PRELOGIN: u8 = 0x12;

/// Bits of a packet's status: the message ends here; it does not count.
const LAST: u8 = 0x01;
const IGNORE: u8 = 0x02;

/// A message, as far as it was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It goes on.
    Part,
    /// It is none, or not of the kind that is wanted.
    Odd(&'static str),
    /// It is whole.
    Whole {
        payload: Vec<u8>,
        /// With its headers.
        length: usize,
    },
}

/// The message of a kind that these bytes begin with.
pub(super) fn message(heard: &[u8], kind: u8) -> Message {
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let rest = &heard[at..];
        if rest.first().is_some_and(|first| *first != kind) {
            return Message::Odd("a packet of another type");
        }
        let Some([_, status, high, low, ..]) = rest.first_chunk::<HEADER>() else { return Message::Part };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if status & IGNORE != 0 {
            return Message::Odd("a packet that does not count");
        }
        if !(HEADER..=LONGEST_PACKET).contains(&length) {
            return Message::Odd("a packet of a length that none has");
        }
        if at + length > LONGEST_MESSAGE {
            return Message::Odd("a message that is longer than any");
        }
        let Some(packet) = rest.get(..length) else { return Message::Part };
        payload.extend_from_slice(&packet[HEADER..]);
        at += length;
        if status & LAST != 0 {
            return Message::Whole { payload, length: at };
        }
    }
}

/// A message, in as many packets as it takes.
pub(super) fn put_message(kind: u8, payload: &[u8], to: &mut Vec<u8>) {
    let mut pieces = payload.chunks(LONGEST_PACKET - HEADER).peekable();
    let mut number = 1_u8;
    while let Some(piece) = pieces.next() {
        let status = if pieces.peek().is_none() { LAST } else { 0 };
        let length = u16::try_from(HEADER + piece.len()).unwrap_or(u16::MAX);
        to.extend_from_slice(&[kind, status]);
        to.extend_from_slice(&length.to_be_bytes());
        to.extend_from_slice(&[0, 0, number, 0]);
        to.extend_from_slice(piece);
        number = number.wrapping_add(1);
    }
}
