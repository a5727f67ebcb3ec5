//! What holds for every protocol: in whatever pieces either side's bytes come, the same comes of them; what is kept back is
//! bounded; and what goes wrong is said in words that a log can hold.
//!
//! An input: how long the pieces are; what is tried ([`Part`]); then the bytes. In [`Part::Greet`] both sides take turns:
//! one byte says who speaks (its highest bit: the client) and how many bytes follow (the rest of it).

use nuncio::failure::{Failure, Reason, Side, Stage};
use nuncio::protocol::{Asking, Meeting, Negotiated, Offer, Opening, Protocol, Refusal, Talk};
use nuncio::relay::{Greeting, Onward, Upgrade};

/// More than any of them keeps of what it cannot judge yet.
const MOST_KEPT: usize = 256 * 1024;
/// More than any of them says of its own.
const MOST_SAID: usize = 256 * 1024;

/// What is tried.
#[derive(Clone, Copy)]
enum Part {
    /// A client's first words.
    Preface,
    /// A server's words before TLS.
    Negotiate,
    /// A server's words before TLS, without a client.
    NegotiateAlone,
    /// The client's words between the server's greeting and TLS.
    Interview,
    /// Both sides' words inside TLS.
    Greet,
    /// A refused client's words.
    Refuse,
}

/// Tries one input on one protocol.
pub fn run(protocol: Protocol, input: &[u8]) {
    let [piece, part, bytes @ ..] = input else { return };
    let piece = usize::from(*piece).max(1);
    let offer = [Offer::No, Offer::Optional, Offer::Required, Offer::Taken][usize::from(part >> 4) % 4];
    let part = match part % 8 {
        0 => Part::Preface,
        1 => Part::Negotiate,
        2 => Part::NegotiateAlone,
        3 => Part::Interview,
        4 | 5 => Part::Greet,
        _ => Part::Refuse,
    };
    match part {
        Part::Preface => talk(|| protocol.preface(offer), bytes, piece),
        Part::Negotiate | Part::NegotiateAlone => {
            let alone = matches!(part, Part::NegotiateAlone);
            let (opening, bytes) = if alone { (&b""[..], bytes) } else { opening(protocol, bytes) };
            let asking = Asking { as_host: "[192.0.2.1]", server_name: "db.example.com", opening, alone };
            talk(|| protocol.negotiation(&asking), bytes, piece);
        }
        Part::Interview => {
            let (greeting, bytes) = first(bytes);
            let negotiated = Negotiated { greeting: greeting.to_vec() };
            talk(|| protocol.interview(&negotiated, offer), bytes, piece);
        }
        Part::Greet => {
            let whole = greet(protocol, offer, bytes, usize::MAX);
            let split = greet(protocol, offer, bytes, piece);
            let (Some(whole), Some(split)) = (whole, split) else { return };
            assert_eq!((split.1, &split.2), (whole.1, &whole.2));
            if whole.2.is_none() {
                assert_eq!(split.0, whole.0);
            }
        }
        Part::Refuse => {
            let (said, bytes) = first(bytes);
            let failure = Failure::new(
                Stage::Connect,
                Reason::ConnectionRefused,
                Side::Upstream,
                "it says \"no\"\r\n<&>",
            );
            let refusal = Refusal { failure: &failure, id: "id", greeted: piece % 2 == 1, said };
            talk(|| protocol.refusal(&refusal), bytes, piece);
        }
    }
}

/// As many bytes as the first one says, and the rest.
fn first(bytes: &[u8]) -> (&[u8], &[u8]) {
    let [length, rest @ ..] = bytes else { return (b"", b"") };
    rest.split_at(usize::from(*length).min(rest.len()))
}

/// What a client opens with that the protocol understands, and the rest: else nobody would ask a server on its behalf.
fn opening(protocol: Protocol, bytes: &[u8]) -> (&[u8], &[u8]) {
    let (client, rest) = first(bytes);
    let Some(mut preface) = protocol.preface(Offer::No) else { return (b"", bytes) };
    match preface.hear(&mut client.to_vec(), &mut Vec::new()) {
        Ok(Some(Opening { bytes, .. })) if bytes == client => (client, rest),
        _ => (b"", bytes),
    }
}

/// A conversation with one peer, in one piece and in several.
fn talk<T>(begin: impl Fn() -> Option<Box<dyn Talk<Outcome = T>>>, bytes: &[u8], piece: usize) {
    let hear = |piece| {
        let mut talk = begin()?;
        let (mut heard, mut said) = (Vec::new(), Vec::new());
        // Whoever begins does so before anything is heard.
        let mut came_to = came_to(talk.hear(&mut heard, &mut said));
        for piece in bytes.chunks(piece) {
            if came_to.is_some() {
                break;
            }
            heard.extend_from_slice(piece);
            came_to = self::came_to(talk.hear(&mut heard, &mut said));
            assert!(heard.len() <= MOST_KEPT && said.len() <= MOST_SAID);
        }
        assert!(!talk.awaits().is_empty());
        if came_to.is_none()
            && let Some(failure) = talk.ended(&heard)
        {
            in_words(&failure);
        }
        Some((said, came_to))
    };
    let (Some(whole), Some(split)) = (hear(usize::MAX), hear(piece)) else { return };
    match (&whole.1, &split.1) {
        // What stands behind the end of the conversation is refused if it comes with it; later it belongs to what follows.
        (Some(Err(_)), Some(Ok(()))) => {}
        (whole_came_to, split_came_to) => {
            assert_eq!(whole_came_to, split_came_to);
            assert_eq!(whole.0, split.0);
        }
    }
}

fn came_to<T>(heard: Result<Option<T>, Failure>) -> Option<Result<(), String>> {
    match heard {
        Ok(outcome) => outcome.map(|_| Ok(())),
        Err(failure) => {
            in_words(&failure);
            Some(Err(failure.detail.into()))
        }
    }
}

fn in_words(failure: &Failure) {
    let Failure { detail, .. } = failure;
    assert!(detail.len() < 1500 && !detail.chars().any(char::is_control), "{detail:?}");
}

/// What went on, whether it is done, and the objection if there was one. `None`: there was plaintext behind the client's
/// request for TLS, which is told by when it came.
fn greet(
    protocol: Protocol,
    offer: Offer,
    turns: &[u8],
    piece: usize,
) -> Option<(Onward, bool, Option<String>)> {
    let (head, mut turns) = first(turns);
    let (opening, greeting) = head.split_at(head.len() / 2);
    let opening = Opening { bytes: opening.to_vec(), ..Opening::default() };
    let negotiated = Negotiated { greeting: greeting.to_vec() };
    let meeting = Meeting { opening, negotiated, secured: true, offer, keep_key: Box::new(drop) };
    let Greeting { mut onward, greeter } = protocol.greet(meeting);
    let Some(mut greeter) = greeter else { return Some((onward, true, None)) };
    let mut heard = onward.up.len() + onward.down.len();
    // What the client says while nothing is read from it.
    let mut waiting = Vec::new();
    while let [length, rest @ ..] = turns {
        let (words, behind) = rest.split_at(usize::from(length & 0x7f).min(rest.len()));
        turns = behind;
        let is_client = length & 0x80 != 0;
        let mut left = words;
        while !left.is_empty() {
            // What waits is read once it may be: behind the same byte of the server's, however those come.
            let piece = if is_client || waiting.is_empty() { piece } else { 1 };
            let (words, behind) = left.split_at(piece.min(left.len()));
            left = behind;
            heard += words.len();
            let mut said = match is_client {
                false => greeter.upstream_said(words, &mut onward),
                true if greeter.upgrade() != Upgrade::None => {
                    waiting.extend_from_slice(words);
                    Ok(())
                }
                true => greeter.client_said(words, &mut onward),
            };
            while said.is_ok() && greeter.upgrade() == Upgrade::None && !waiting.is_empty() {
                let now: Vec<u8> = waiting.drain(..waiting.len().min(piece)).collect();
                said = greeter.client_said(&now, &mut onward);
            }
            if let Err(objection) = said {
                if objection.detail.contains("slip it in") {
                    return None;
                }
                return Some((onward, greeter.is_done(), Some(objection.detail.to_owned())));
            }
            if greeter.upgrade() == Upgrade::Answered {
                assert!(!greeter.is_done() && !greeter.may_refuse());
                if !waiting.is_empty() || is_client && !left.is_empty() {
                    return None;
                }
                greeter.upgraded(&mut onward);
                assert!(greeter.upgrade() == Upgrade::None, "once is enough");
            }
            if greeter.may_refuse() {
                greeter.unanswered();
            }
            greeter.why_ended();
        }
    }
    if !waiting.is_empty() {
        return None;
    }
    let gone_on = onward.up.len() + onward.down.len();
    assert!(gone_on <= heard + MOST_SAID);
    assert!(!greeter.is_done() || gone_on + MOST_KEPT >= heard);
    Some((onward, greeter.is_done(), None))
}
