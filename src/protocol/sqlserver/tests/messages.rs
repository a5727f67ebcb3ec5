//! Packets and the table of options, as a hostile peer would have them.

use super::*;

#[test]
fn a_message_is_read_from_its_packets_and_no_further() {
    let parts = [packet(PRELOGIN, 0, b"one "), packet(PRELOGIN, 0, b""), packet(PRELOGIN, 1, b"two")];
    let whole = parts.concat();
    for end in 0..whole.len() {
        assert_eq!(message(&whole[..end], PRELOGIN), Message::Part);
    }
    let behind = [&whole[..], b"\x16 and so on"].concat();
    let read = Message::Whole { payload: b"one two".to_vec(), length: whole.len() };
    assert_eq!(message(&behind, PRELOGIN), read);
    // Bits that say nothing here (a connection is to be reset) don't matter.
    assert!(matches!(message(&packet(PRELOGIN, 9, b"x"), PRELOGIN), Message::Whole { .. }));
}

/// Each is refused as soon as its header is there: nobody waits for, or holds, what a length only claims.
#[test]
fn what_is_no_message_is_refused_by_its_first_bytes() {
    let mixed = [packet(PRELOGIN, 0, b"x"), packet(TABULAR, 1, b"y")].concat();
    let endless = packet(PRELOGIN, 0, &[7; 4088]).repeat(3);
    let nothing = packet(PRELOGIN, 0, b"").repeat(LONGEST_MESSAGE / 8 + 1);
    for (bytes, enough) in [
        (&b"\x04"[..], 1),
        (b"\x12\x02\0\x08\0\0\0\0", 8),
        (b"\x12\x01\0\0\0\0\0\0", 8),
        (b"\x12\x01\x10\x01\0\0\0\0", 8),
        (&mixed, 10),
        (&endless, LONGEST_MESSAGE + 8),
        (&nothing, LONGEST_MESSAGE + 8),
    ] {
        assert!(matches!(message(&bytes[..enough], PRELOGIN), Message::Odd(_)), "{enough}");
        assert_eq!(message(&bytes[..enough - 1], PRELOGIN), Message::Part, "{enough}");
        assert_eq!(message(bytes, PRELOGIN), message(&bytes[..enough], PRELOGIN));
    }
}

#[test]
fn a_long_message_is_said_in_several_packets() {
    for length in [1, 4087, 4088, 4089, 8_000] {
        let payload = vec![7; length];
        let mut said = Vec::new();
        put_message(PRELOGIN, &payload, &mut said);
        assert_eq!(message(&said, PRELOGIN), Message::Whole { payload, length: said.len() });
        assert_eq!(said.len(), length + 8 * length.div_ceil(4088));
    }
}

/// What lies outside, in the table itself, or twice in the same bytes is no value; an empty one lies nowhere.
#[test]
fn every_value_lies_behind_the_table_within_the_message_and_apart() {
    let read = |table: &[u8], values: &[u8]| Prelogin::read(&[table, &[0xff], values].concat());
    let situations: [(&str, &[u8], &[u8], bool); 11] = [
        ("nothing", b"", b"", true),
        ("a value", b"\x01\0\x06\0\x01", b"\x01", true),
        ("a value and more behind", b"\x01\0\x06\0\x01", b"\x01 more", true),
        ("a gap", b"\x01\0\x08\0\x01", b"..\x01", true),
        ("empty, wherever", b"\x03\xff\xff\0\0", b"", true),
        ("outside", b"\x01\0\x07\0\x01", b"\x01", false),
        ("half outside", b"\0\0\x06\0\x06", b"12345", false),
        ("far outside", b"\x01\xff\xff\xff\xff", b"\x01", false),
        ("in the table", b"\x01\0\x05\0\x01", b"\x01", false),
        ("one value for two", b"\x01\0\x0b\0\x01\x04\0\x0b\0\x01", b"\x01", false),
        ("cut", b"\x01\0\x06\0", b"", false),
    ];
    for (situation, table, values, is_one) in situations {
        assert_eq!(read(table, values).is_some(), is_one, "{situation}");
    }
    for end in 0..payload(&[(0, b"123456"), (1, b"1")]).len() {
        assert_eq!(Prelogin::read(&payload(&[(0, b"123456"), (1, b"1")])[..end]), None);
    }
}

#[test]
fn options_are_said_as_they_were_read_but_for_encryption() {
    for encryption in [0, 1, 2, 3, 0x80] {
        let mut read = prelogin(&client_prelogin(encryption), PRELOGIN);
        let mut said = Vec::new();
        read.ask(&mut said);
        assert_eq!(said, client_prelogin(encryption));
        read.set(Encryption::Required);
        assert_eq!(read, prelogin(&client_prelogin(3), PRELOGIN));
    }
    let mut twice = Prelogin::read(&payload(&[(1, &[0]), (1, &[1]), (1, &[])])).unwrap();
    twice.set(Encryption::NotSupported);
    assert_eq!(twice, Prelogin::read(&payload(&[(1, &[2]), (1, &[2]), (1, &[2])])).unwrap());
}
