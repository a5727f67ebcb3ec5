//! However the bytes are cut, the same comes of them.

use super::*;

/// TCP cuts where it likes: what is said, what goes on and what comes of it may not depend on it. Four thousand clients,
/// most of them broken in some way.
#[test]
fn however_a_clients_bytes_are_cut_the_same_comes_of_them() {
    let parts =
        [ssl(), gss(), startup(), cancel(4), cancel(256), b"GET / HTTP".to_vec(), vec![0x16, 3, 1, 2]];
    let (mut opened, mut failed) = (0, 0);
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        let whole = hears(&bytes);
        opened += usize::from(matches!(whole.1, Ok(Some(_))));
        failed += usize::from(whole.1.is_err());
        assert_eq!(preface(cut(&bytes, random).into_iter()), whole, "seed {seed}");
    }
    assert!(opened > 1000 && failed > 1000, "{opened} opened, {failed} failed: both kinds are met");
}

/// As above, for servers that are asked for TLS. A yes is told from injected bytes by nothing but the cut.
#[test]
fn however_a_servers_answer_is_cut_the_same_comes_of_it() {
    let parts = [
        b"N".to_vec(),
        error("SFATAL|C53300|Msorry, too many clients already"),
        b"Ecould not fork new process for connection: no memory\n\0".to_vec(),
        b"\x15\x03\x01\0\x02\x02\x28".to_vec(),
    ];
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        if bytes[0] != b'S' {
            let whole = negotiation(std::iter::once(&bytes[..]));
            assert!(whole.is_err() || bytes == [0x15], "seed {seed}");
            assert_eq!(negotiation(cut(&bytes, random).into_iter()), whole, "seed {seed}");
        }
    }
}

/// As above, for logins; and of what a server says nothing is lost, but the mechanisms that were taken out of a list.
#[test]
fn however_a_login_is_cut_the_same_reaches_the_client() {
    let mut parts = vec![
        sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        sasl(&["SCRAM-SHA-256-PLUS"]),
        request(0),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'v', &[0; 8]),
        key_data(4),
        message(b'Z', b"I"),
        error("SFATAL|C28P01|Mno"),
        error("SFATAL|C53300|Mfull"),
    ];
    parts.push(login().0);
    let (mut changed, mut keys, mut objections) = (0, 0, 0);
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        let whole = given(&bytes);
        changed += usize::from(!bytes.starts_with(&whole.down));
        keys += usize::from(whole.key.is_some());
        objections += usize::from(whole.objection.is_some());
        if whole.done && !contains(&bytes, b"-PLUS") {
            assert_eq!(whole.down, bytes, "seed {seed}");
        }
        assert_eq!(lead(cut(&bytes, random).into_iter()), whole, "seed {seed}");
    }
    assert!(changed > 500 && keys > 500 && objections > 100, "{changed} {keys} {objections}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
