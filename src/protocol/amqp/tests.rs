//! What a refused client of AMQP is told, in each version, and where it reads it.

use crate::failure::Reason;
use crate::protocol::Protocol;
use crate::protocol::refused::{is_told_the_same_however_it_is_cut, refused, refused_for};

const WORDS: &str = "nuncio: 10.0.0.5:1 refused the connection; is the server running, and does it listen on this \
                     address and port? (connection_refused, connection 7KJ2)";

const OLDER: &[u8] = b"AMQP\0\0\x09\x01";
const NEWER: &[u8] = b"AMQP\0\x01\0\0";
const NEWER_SASL: &[u8] = b"AMQP\x03\x01\0\0";
const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xce";

/// 0-9-1: a method of class connection.
fn method(method: u8, arguments: &[u8]) -> Vec<u8> {
    let size = u32::try_from(4 + arguments.len()).unwrap();
    [&[1, 0, 0], &size.to_be_bytes()[..], &[0, 10, 0, method], arguments, &[0xce]].concat()
}

fn start_ok() -> Vec<u8> {
    method(11, b"\0\0\0\0\x05PLAIN\0\0\0\x04\0u\0p\x05en_US")
}

/// 1.0: a frame that is an empty list of the kind.
fn frame(kind: u8, code: u8) -> Vec<u8> {
    [&[0, 0, 0, 12, 2, kind, 0, 0][..], &[0, 0x53, code, 0x45]].concat()
}

fn told(says: &[u8]) -> Vec<u8> {
    refused(Protocol::Amqp, b"", [says]).0
}

/// What a side said, frame by frame, the first eight bytes being its header.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = match bytes {
            [b'A', b'M', b'Q', b'P', ..] => 8,
            [1, 0, 0, size @ ..] => 8 + u32::from_be_bytes(*size.first_chunk().unwrap()) as usize,
            size => u32::from_be_bytes(*size.first_chunk().unwrap()) as usize,
        };
        let (frame, rest) = bytes.split_at(length);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// start, tune, and then close instead of open-ok: where every client reads it.
#[test]
fn a_client_of_0_9_1_is_let_in_as_far_as_it_reads_a_close() {
    let turns: [(&[u8], &[u8]); 5] = [
        (OLDER, b"\0\x0a\0\x0a\0\x09"),
        (&start_ok(), b"\0\x0a\0\x1e\x07\xff"),
        (&method(31, &[0; 8]), b""),
        (HEARTBEAT, b""),
        (&method(40, b"\x01/\0\0"), b"\0\x0a\0\x32\x01\x40"),
    ];
    let (mut says, mut so_far) = (Vec::new(), 0);
    for (turn, begins) in turns {
        assert_eq!(told(&says).len(), so_far, "nothing comes unasked");
        says.extend_from_slice(turn);
        let told = told(&says);
        let answer = told[so_far..].to_vec();
        so_far = told.len();
        assert_eq!(answer.is_empty(), begins.is_empty());
        if !answer.is_empty() {
            assert!(answer[7..].starts_with(begins), "{answer:?}");
            assert_eq!(frames(&answer), [&answer[..]]);
            assert_eq!(answer.last(), Some(&0xce));
        }
    }
    let told = told(&says);
    let close = frames(&told)[2];
    assert_eq!(
        &close[11..],
        [&[1, 0x40, WORDS.len() as u8], WORDS.as_bytes(), &[0, 10, 0, 40, 0xce]].concat()
    );
}

#[test]
fn a_client_of_1_0_is_told_behind_its_open_with_sasl_and_without() {
    let open = frame(0, 0x10);
    let with_sasl = [NEWER_SASL, &frame(1, 0x41), NEWER, &open].concat();
    for (says, sasl) in [(&[NEWER, &open].concat(), 0), (&with_sasl, 3)] {
        let (told, came_to) = refused(Protocol::Amqp, b"", [&says[..]]);
        assert_eq!(came_to, Some(Ok(())));
        let frames = frames(&told);
        if sasl > 0 {
            assert_eq!(frames[0], NEWER_SASL);
            assert!(contains(frames[1], "ANONYMOUS") && contains(frames[1], "PLAIN"));
            assert!(frames[2].ends_with(&[0x50, 0]), "any password is right");
        }
        let [header, open, close] = frames[sasl..] else { panic!("{told:?}") };
        assert_eq!(header, NEWER);
        assert!(contains(open, "amqp:connection-establishment-failed"));
        assert!(contains(close, "amqp:connection:forced") && contains(close, WORDS), "{close:?}");
    }
}

#[test]
fn a_client_of_another_version_is_told_which_there_are() {
    for (says, header) in [
        (b"AMQP\x01\x01\x08\0", OLDER),
        (b"AMQP\x01\x01\0\x09", OLDER),
        (b"AMQP\x01\x01\0\x0a", OLDER),
        (b"AMQP\x02\x01\0\0", NEWER),
    ] {
        assert_eq!(refused(Protocol::Amqp, b"", [&says[..]]), (header.to_vec(), Some(Ok(()))), "{says:?}");
    }
}

#[test]
fn a_code_says_whether_to_come_again() {
    for (reason, code, condition) in [
        (Reason::AdmissionDenied, 403_u16, "amqp:unauthorized-access"),
        (Reason::ConnectionLimitReached, 506, "amqp:resource-limit-exceeded"),
        (Reason::Draining, 320, "amqp:connection:forced"),
    ] {
        let told = |says: &[u8]| refused_for(Protocol::Amqp, reason, &"detail ".repeat(300), b"", [says]).0;
        let older = told(&[OLDER, &start_ok(), &method(31, &[0; 8]), &method(40, b"")].concat());
        let close = frames(&older)[2];
        assert_eq!(close[11..13], code.to_be_bytes());
        assert_eq!(close.len(), 11 + 2 + 1 + 255 + 4 + 1, "a text of one byte's length");
        let newer = told(&[NEWER, &frame(0, 0x10)].concat());
        assert!(contains(&newer, condition) && contains(&newer, "connection 7KJ2"));
    }
}

/// Nobody is answered for ever, and no memory is taken because a length says so.
#[test]
fn whoever_speaks_something_else_or_too_much_is_left() {
    let long = b"\x01\0\0\0\x01\0\x01".to_vec();
    for says in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
        b"AMX".to_vec(),
        [OLDER, &long].concat(),
        [OLDER, b"\x01\0\0\0\0\0\x04\0\x0a\0\x0b\xcd"].concat(),
        [NEWER, b"\0\x01\0\x01\x02\0\0\0"].concat(),
        [NEWER, b"\0\0\0\x07\x02\0\0\0"].concat(),
        [NEWER, &frame(1, 0x41)].concat(),
    ] {
        let (_, came_to) = refused(Protocol::Amqp, b"", [&says[..]]);
        assert!(matches!(came_to, Some(Err(_))), "{says:?}");
    }
    let again = [OLDER, &start_ok(), &start_ok()].concat();
    let told = told(&again);
    let methods: Vec<u8> = frames(&told).iter().map(|frame| frame[10]).collect();
    assert_eq!(methods, [10, 30, 50], "start, tune, close");
}

#[test]
fn however_a_clients_frames_are_cut_it_is_told_the_same() {
    let opened = [OLDER, &start_ok(), &method(31, &[0; 8])].concat();
    let parts = [
        opened.clone(),
        opened,
        method(40, b"\x01/\0\0"),
        HEARTBEAT.to_vec(),
        [NEWER_SASL, &frame(1, 0x41), NEWER].concat(),
        NEWER.to_vec(),
        frame(0, 0x10),
    ];
    let (ended, failed) = is_told_the_same_however_it_is_cut(Protocol::Amqp, &parts);
    assert!(ended > 300 && failed > 600, "{ended} {failed}");
}
