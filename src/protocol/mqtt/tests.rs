//! What a refused client of MQTT is told, in each version.

use super::*;
use crate::protocol::Protocol;
use crate::protocol::refused::{Told, is_told_the_same_however_it_is_cut, refused, refused_for};

const WORDS: &str = "nuncio: 10.0.0.5:1 refused the connection; is the server running, and does it listen on this \
                     address and port? (connection_refused, connection 7KJ2)";

/// CONNECT of a level, by a client named "me".
fn connect(name: &str, level: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(name.len()).unwrap()];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[level, 2, 0, 60]);
    if level == 5 {
        put_length(properties.len(), &mut body);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(b"\0\x02me");
    let mut packet = vec![CONNECT];
    put_length(body.len(), &mut packet);
    [packet, body].concat()
}

fn told(says: &[u8]) -> Told {
    refused(Protocol::Mqtt, b"", [says])
}

/// CONNACK of MQTT 5 with these words.
fn with_words(code: u8, words: &str) -> Vec<u8> {
    let mut properties = vec![REASON_STRING];
    properties.extend_from_slice(&u16::try_from(words.len()).unwrap().to_be_bytes());
    properties.extend_from_slice(words.as_bytes());
    let mut body = vec![0, code];
    put_length(properties.len(), &mut body);
    body.extend_from_slice(&properties);
    let mut packet = vec![CONNACK];
    put_length(body.len(), &mut packet);
    [packet, body].concat()
}

#[test]
fn each_version_is_told_in_its_own_connack() {
    let older: &[u8] = &[CONNACK, 2, 0, 3];
    for (name, level) in [("MQIsdp", 3), ("MQTT", 4), ("MQTT", 0x84), ("MQIsdp", 0x83), ("MQTT", 6)] {
        assert_eq!(told(&connect(name, level, b"")), (older.to_vec(), Some(Ok(()))), "{name} {level}");
    }
    assert_eq!(told(&connect("MQTT", 5, b"")), (with_words(0x88, WORDS), Some(Ok(()))));
}

/// Who takes small packets only would take a longer one for a fault in the protocol.
#[test]
fn words_are_left_out_where_the_client_takes_no_packet_of_that_size() {
    let whole = with_words(0x88, WORDS);
    let size = |size: usize| {
        let size = u32::try_from(size).unwrap().to_be_bytes();
        // Behind one property of every other kind.
        [
            b"\x11\0\0\0\x09\x21\0\x01\x22\0\x01\x17\x01\x19\x01\x15\0\x01x\x16\0\0\x26\0\x01k\0\x01v\x27"
                .as_slice(),
            &size,
        ]
        .concat()
    };
    let bare = vec![CONNACK, 3, 0, 0x88, 0];
    let situations: [(&str, Vec<u8>, &[u8]); 6] = [
        ("just large enough", size(whole.len()), &whole),
        ("one byte too small", size(whole.len() - 1), &bare),
        ("cut short", size(9)[..30].to_vec(), &whole),
        ("a property that has no place here", b"\x01\0".to_vec(), &whole),
        ("a text that is longer than all", b"\x15\xff\xff".to_vec(), &whole),
        ("more than is waited for", [b"\x26\0\0\0\0".repeat(300), size(0)].concat(), &bare),
    ];
    for (situation, properties, expected) in situations {
        let (told, came_to) = told(&connect("MQTT", 5, &properties));
        assert_eq!((&told[..], came_to), (expected, Some(Ok(()))), "{situation}");
    }
}

#[test]
fn a_client_is_told_to_come_later_or_not_at_all() {
    for (reason, code, five) in [
        (Reason::AdmissionDenied, 5, 0x87),
        (Reason::ConnectionLimitReached, 3, 0x89),
        (Reason::QueueTimeout, 3, 0x89),
        (Reason::Draining, 3, 0x88),
    ] {
        let refused =
            |level| refused_for(Protocol::Mqtt, reason, "x\r\ny", b"", [&connect("MQTT", level, b"")[..]]).0;
        assert_eq!(refused(4), [CONNACK, 2, 0, code], "{reason}");
        let told = refused(5);
        assert!(
            matches!(length(&told[1..]), Length::Of(_, rest) if rest.starts_with(&[0, five])),
            "{reason}"
        );
    }
}

#[test]
fn what_is_no_connect_is_not_answered() {
    for says in [
        &b"\x16\x03\x01\x02\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x10\x0c\0\x04MQTS\x04\x02\0\x3c\0\0",
        b"\x10\xff\xff\xff\xff\0\x04MQTT\x04",
        b"\x30\x05\0\x01tx",
        b"\x10\x0f\0\x04MQTT\x05\x02\0\x3c\xff\xff\xff\xff",
    ] {
        let (told, came_to) = told(says);
        assert!(told.is_empty() && matches!(came_to, Some(Err(_))), "{says:?}");
    }
}

#[test]
fn however_a_clients_connect_is_cut_it_is_told_the_same() {
    let parts = [
        connect("MQTT", 4, b""),
        connect("MQIsdp", 3, b""),
        connect("MQTT", 5, b"\x27\0\0\0\x10"),
        connect("MQTT", 5, b"\x11\0\0\0\x10\x26\0\x01k\0\x01v"),
        connect("MQTT", 5, &b"\x26\0\x01k\0\x01v".repeat(200)),
    ];
    let (ended, failed) = is_told_the_same_however_it_is_cut(Protocol::Mqtt, &parts);
    assert!(ended > 1000 && failed > 200, "{ended} {failed}");
}
