//! Headers as proxies send them, and as they must not.

use super::super::testkit::{Heard, hear_in_all_ways};
use super::*;
use crate::failure::Reason;

fn hear(bytes: &[u8]) -> Heard {
    hear_in_all_ways(Header::default, bytes).1
}

/// A header of version 2, and its TLVs.
fn header(command: u8, family: u8, addresses: &[u8], tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut rest = addresses.to_vec();
    for (kind, value) in tlvs {
        rest.push(*kind);
        rest.extend((value.len() as u16).to_be_bytes());
        rest.extend(*value);
    }
    [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), &rest].concat()
}

/// 10.0.0.1:1000 to 10.0.0.2:5432
const TCP4: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x03, 0xe8, 0x15, 0x38];

fn told(bytes: &[u8]) -> Context {
    let (said, heard, rest) = hear(&[bytes, b"\r\nwhat follows"].concat());
    assert_eq!((said, rest), (Vec::new(), b"\r\nwhat follows".to_vec()));
    heard.unwrap().unwrap()
}

#[test]
fn the_client_is_told_by_either_version_and_what_follows_is_left() {
    let mut six = [0; 36];
    six[15] = 1;
    six[32..34].copy_from_slice(&7u16.to_be_bytes());
    let mut mapped = six;
    mapped[10..16].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    for (bytes, source) in [
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 5432\r\n".to_vec(), Some("10.0.0.1:1000")),
        (b"PROXY TCP6 ::1 ::2 7 0\r\n".to_vec(), Some("[::1]:7")),
        (b"PROXY TCP6 ::ffff:10.0.0.1 ::2 7 80\r\n".to_vec(), Some("10.0.0.1:7")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN whatever they like\r\n".to_vec(), None),
        (header(0x21, 0x11, &TCP4, &[]), Some("10.0.0.1:1000")),
        (header(0x21, 0x21, &six, &[]), Some("[::1]:7")),
        (header(0x21, 0x21, &mapped, &[]), Some("10.0.0.1:7")),
        (header(0x21, 0x31, &[7; 216], &[]), None),
        (header(0x21, 0x00, b"anything", &[]), None),
        (header(0x20, 0x00, &[], &[]), None),
        (header(0x20, 0x11, &TCP4, &[(9, b"x")]), None),
        (header(0x20, 0xff, b"x", &[]), None),
    ] {
        let context = told(&bytes);
        assert_eq!(context.source, source.map(|source| source.parse().unwrap()), "{bytes:?}");
        // A proxy that speaks for itself brings nobody whom it could hide.
        let is_local = bytes.get(12) == Some(&0x20);
        assert_eq!(context.hides_source, source.is_none() && !is_local, "{bytes:?}");
    }
}

#[test]
fn what_stands_behind_the_addresses_is_told_too() {
    let tlvs: &[(u8, &[u8])] = &[
        (0x04, b"nothing"),
        (0x02, b"db.example.com"),
        (0x05, &[0xde, 0xad]),
        (0xe0, b"\0\0\0\0\0\0\0\x01"),
        (0xe4, b"max-attempts=1;correlation=job-7"),
    ];
    let context = told(&header(0x21, 0x11, &TCP4, tlvs));
    assert_eq!(
        (context.authority.as_deref(), context.unique_id.as_deref()),
        (Some("db.example.com"), Some("dead"))
    );
    assert_eq!((context.options.attempts, context.options.correlation.as_deref()), (Some(1), Some("job-7")));
}

#[test]
fn a_checksum_is_checked_where_it_is_told() {
    // RFC 3720, B.4: 32 bytes of zeroes.
    assert_eq!(crc32c([&[0; 32][..]]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    let mut bytes = header(0x21, 0x11, &TCP4, &[(0x05, b"id"), (0x03, &[0; 4]), (0x02, b"db")]);
    let crc = crc32c([&bytes[..]]);
    let at = bytes.windows(7).position(|window| window == [3, 0, 4, 0, 0, 0, 0]).unwrap() + 3;
    bytes[at..at + 4].copy_from_slice(&crc.to_be_bytes());
    assert!(told(&bytes).source.is_some());
    for place in [17, at, bytes.len() - 1] {
        let mut broken = bytes.clone();
        broken[place] ^= 1;
        let failure = hear(&broken).1.unwrap_err();
        assert!(failure.detail.contains("checksum"), "{failure}");
    }
}

#[test]
fn what_is_no_header_is_refused_as_soon_as_that_is_certain() {
    for (bytes, says) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it begins as HTTP does"),
        (b"\x16\x03\x01\x02\0".to_vec(), "it begins with TLS"),
        (b"EHLO legacy\r\n".to_vec(), "a PROXY header was expected"),
        (b"\r\n\r\nEHLO".to_vec(), "a PROXY header was expected"),
        (b"PROXX".to_vec(), "there came 'PROXX'"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1000\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 70000\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY TCP4 10.0.0.1  10.0.0.2 1000 1\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY TCP4 10.0.0.01 10.0.0.2 1000 1\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 01000 1\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY TCP4 ::1 ::2 1000 1\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY UDP4 10.0.0.1 10.0.0.2 1000 1\r\n".to_vec(), "is no PROXY line"),
        (b"PROXY UNKNOWN\n".to_vec(), "does not end"),
        ([b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(), "does not end"),
        (header(0x11, 0x11, &TCP4, &[]), "version and command 0x11"),
        (header(0x22, 0x11, &TCP4, &[]), "version and command 0x22"),
        (header(0x21, 0x12, &TCP4, &[]), "family 0x12"),
        (header(0x21, 0x41, &TCP4, &[]), "family 0x41"),
        (header(0x21, 0x21, &TCP4, &[]), "too few"),
        (header(0x21, 0x11, &TCP4[..11], &[]), "too few"),
        (header(0x21, 0x11, &[&TCP4[..], &[2, 0, 9, 1]].concat(), &[]), "ends within a value"),
        (header(0x21, 0x11, &[&TCP4[..], &[2, 0]].concat(), &[]), "2 bytes behind"),
        (header(0x21, 0x11, &TCP4, &[(3, &[0; 3])]), "checksum"),
        (header(0x21, 0x11, &TCP4, &[(0xe4, b"max-attempts=none")]), "1 to 100"),
        (header(0x21, 0x11, &TCP4, &[(0xe4, b"word")]), "no key=value"),
        (header(0x21, 0x11, &TCP4, &[(0xe4, b"deadline=1s"), (0xe4, b"deadline=2s")]), "twice"),
        ([&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), "65535 bytes more"),
    ] {
        let failure = hear(&bytes).1.unwrap_err();
        assert!(
            failure.detail.contains(says) && failure.reason == Reason::BadPreface,
            "{bytes:?}: {failure}"
        );
    }
}

/// Whatever stands in a header, it is read to its end or refused, and keeps to its bounds.
#[test]
fn garbled_headers_are_read_or_refused_however_they_are_cut() {
    let mut rng = fastrand::Rng::with_seed(11);
    let whole = header(0x21, 0x11, &TCP4, &[(2, b"db.example.com"), (0xe4, b"deadline=2s"), (5, b"abc")]);
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let (_, heard, _) = hear(&bytes);
        if let Err(failure) = heard {
            assert_eq!(failure.reason, Reason::BadPreface);
        }
    }
}
