//! What holds where answers are lines and lists: the client's bytes go on as they are, and of the server's only those are
//! left out that offer what TLS in the middle cannot keep.

use nuncio::protocol::{Meeting, Negotiated, Offer, Opening, Protocol};
use nuncio::relay::Greeting;

/// Tries one input, made as `conversation` has it for both sides' words.
pub fn run(protocol: Protocol, input: &[u8]) {
    let [_, _, bytes @ ..] = input else { return };
    let (mut client, mut server) = (Vec::new(), b"hello\r\n".to_vec());
    let meeting = Meeting {
        opening: Opening::default(),
        negotiated: Negotiated { greeting: server.clone() },
        secured: true,
        offer: Offer::No,
        keep_key: Box::new(drop),
    };
    let Greeting { mut onward, greeter } = protocol.greet(meeting);
    let mut greeter = greeter.expect("somebody reads along");
    let mut turns = bytes;
    while let [length, rest @ ..] = turns {
        let (words, behind) = rest.split_at(usize::from(length & 0x7f).min(rest.len()));
        turns = behind;
        let is_client = length & 0x80 != 0;
        if is_client { &mut client } else { &mut server }.extend_from_slice(words);
        let said = match is_client {
            true => greeter.client_said(words, &mut onward),
            false => greeter.upstream_said(words, &mut onward),
        };
        if said.is_err() {
            return;
        }
    }
    assert_eq!(onward.up, client);
    let mut rest = lines(&server).into_iter();
    for line in lines(&onward.down) {
        let found =
            rest.by_ref().find(|original| *original == line || !may_go(original) || is_cut(original, line));
        let kept = found.is_some_and(|original| original == line || is_cut(original, line));
        // The last one may have come in part.
        assert!(kept || found.is_some_and(|original| original.starts_with(line)), "{}", line.escape_ascii());
    }
    // What is kept back is one answer.
    assert!(!greeter.is_done() || rest.all(may_go), "{}", onward.down.escape_ascii());
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// How a line ends.
fn end(line: &[u8]) -> &[u8] {
    let text = line.strip_suffix(b"\n").map_or(line, |text| text.strip_suffix(b"\r").unwrap_or(text));
    &line[text.len()..]
}

fn words(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect()
}

fn is_bound(word: &[u8]) -> bool {
    word.len() > 5 && word.to_ascii_uppercase().ends_with(b"-PLUS")
}

/// May it be left out?
fn may_go(line: &[u8]) -> bool {
    let words = words(line.strip_suffix(end(line)).unwrap_or(line));
    let Some(first) = words.first() else { return false };
    let is = |name: &str| first.eq_ignore_ascii_case(name.as_bytes());
    let is_empty = || words[1..].iter().all(|word| is_bound(word));
    is("STLS") || is("STARTTLS") || is_bound(first) || is("SASL") && words.len() > 1 && is_empty()
}

/// Did it only lose words that it may?
fn is_cut(original: &[u8], line: &[u8]) -> bool {
    let end = end(original);
    let (Some(had), Some(has)) = (original.strip_suffix(end), line.strip_suffix(end)) else { return false };
    let (had, has) = (words(had), words(has));
    let Some(first) = had.first() else { return false };
    let goes = |word: &&&[u8]| match () {
        () if first.eq_ignore_ascii_case(b"SASL") => is_bound(word),
        () if first.eq_ignore_ascii_case(b"AUTHINFO") => word.eq_ignore_ascii_case(b"SASL"),
        () => false,
    };
    let kept: Vec<&[u8]> = had.iter().filter(|word| !goes(word)).copied().collect();
    // No list is left empty, but that of AUTHINFO.
    let is_left = kept.len() > 1 || first.eq_ignore_ascii_case(b"AUTHINFO");
    kept == has && is_left && original.starts_with(first) && line.starts_with(first)
}
