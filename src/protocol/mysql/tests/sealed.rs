//! Passwords that a client encrypts with the server's RSA key, which is ours: with a real client's side of RSA.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};

use super::*;

/// A client that was given a key.
struct Sealer {
    key: OaepPublicEncryptingKey,
}

impl Sealer {
    /// As it stands in the server's packet.
    fn of(packet: &[u8]) -> Sealer {
        let (&MORE, pem) = packet[HEADER..].split_first().unwrap() else { panic!("not more data") };
        let pem = std::str::from_utf8(pem).unwrap();
        let text = pem.strip_prefix("-----BEGIN PUBLIC KEY-----\n").unwrap();
        let text = text.strip_suffix("-----END PUBLIC KEY-----\n").unwrap();
        assert!(text.lines().all(|line| line.len() <= 64) && text.ends_with('\n'));
        let key = PublicEncryptingKey::from_der(&decoded(text)).unwrap();
        assert_eq!(key.key_size_bits(), 2048);
        Sealer { key: OaepPublicEncryptingKey::new(key).unwrap() }
    }

    /// Without its zero byte where the caller leaves it out.
    fn seal(&self, password: &[u8], nonce: &[u8]) -> Vec<u8> {
        let masked: Vec<u8> =
            password.iter().enumerate().map(|(at, byte)| byte ^ nonce[at % nonce.len()]).collect();
        let mut sealed = vec![0; self.key.ciphertext_size()];
        self.key.encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut sealed, None).unwrap().to_vec()
    }
}

fn decoded(base64: &str) -> Vec<u8> {
    let value = |letter| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{letter}"),
    };
    let letters: Vec<u8> = base64.bytes().filter(|letter| *letter != b'\n' && *letter != b'=').collect();
    let groups = letters.chunks(4).flat_map(|group| {
        let bits = group.iter().fold(0_u32, |bits, letter| bits << 6 | u32::from(value(*letter)));
        let bits = bits << (6 * (4 - group.len()) + 8);
        bits.to_be_bytes()[..group.len() * 6 / 8].to_vec()
    });
    groups.collect()
}

/// What goes up of a password that a client of a plugin is asked for, and the numbers beside it.
fn unsealed(
    plugin: &str,
    ask: &[u8],
    nonce: &[u8],
    password: &[u8],
    scene: &mut Scene,
    number: u8,
) -> Vec<u8> {
    scene.up();
    scene.down();
    scene.client(&packet(number, ask));
    assert_eq!(scene.up(), b"", "{plugin}: a server inside TLS does not expect that");
    let key = scene.down();
    assert_eq!(key[3], number + 1);
    let sealed = Sealer::of(&key).seal(&[password, &[0]].concat(), nonce);
    for byte in packet(number + 2, &sealed) {
        assert_eq!(scene.up(), b"");
        scene.client(&[byte]);
    }
    assert_eq!(scene.down(), b"");
    scene.up()
}

/// The nonce is the greeting's until the server names another one.
#[test]
fn a_sealed_password_reaches_the_server_in_the_clear() {
    let longest = "x".repeat(213);
    for password in ["secret", "s", "p\u{e4}ssw\u{f6}rd with 20 bytes and more", &longest] {
        let plain = [password.as_bytes(), &[0]].concat();
        // Of the greeting.
        let mut scene = Scene::new(&Server::mysql(), &response(CACHING_SHA2, &[7; 32]));
        scene.server(&packet(3, &[MORE, 4]));
        let up = unsealed(CACHING_SHA2, &[2], NONCE, password.as_bytes(), &mut scene, 3);
        assert_eq!(up, packet(4, &plain));
        // From then on the client's count is ahead.
        assert_eq!(scene.server(&ok(5)).down(), ok(6));
        assert!(scene.greeter.is_done());
        // Of a switch.
        for (plugin, ask) in [(CACHING_SHA2, 2), (SHA256, 1)] {
            let mut scene = Scene::new(&Server::mariadb(), &response(NATIVE, &[7; 20]));
            scene.server(&switch(3, plugin, OTHER_NONCE));
            let mut number = 3;
            if plugin == CACHING_SHA2 {
                scene.client(&packet(3, &[7; 32])).server(&packet(5, &[MORE, 4]));
                number = 5;
            }
            let up = unsealed(plugin, &[ask], OTHER_NONCE, password.as_bytes(), &mut scene, number);
            assert_eq!(up, packet(number + 1, &plain));
            assert_eq!(scene.greeter.unanswered()[3], number + 2);
            assert_eq!(scene.server(&err(number + 2, 1045, "no")).down(), err(number + 3, 1045, "no"));
            assert!(scene.greeter.is_done());
        }
    }
}

/// Where sha256_password is the default, a client asks for the key in its first answer: the password has to be in it when
/// it goes up.
#[test]
fn a_key_that_is_asked_for_at_once_is_given_before_the_server_hears_of_it() {
    for flags in [LONG_AUTH, 0] {
        let flags = 0x019f_a28d & !SSL | flags;
        let asks = response_of(flags, SHA256, &[1]);
        let mut scene = Scene::new(&Server { plugin: SHA256, ..Server::mysql() }, &asks);
        assert_eq!(scene.up(), b"");
        let key = scene.down();
        assert_eq!(key[3], 2);
        assert_eq!(scene.greeter.unanswered()[3], 3, "it says 3 before it listens");
        scene.client(&packet(3, &Sealer::of(&key).seal(b"secret\0", NONCE)));
        let mut response = as_sent(&response_of(flags, SHA256, b"secret\0"));
        response[3] = 2;
        assert_eq!(scene.up(), response);
        assert_eq!(scene.server(&ok(3)).down(), ok(4));
        assert!(scene.greeter.is_done());
    }
}

/// What was not sealed with our key is not passed on for a password, and its client is told.
#[test]
fn what_cannot_be_opened_is_objected_to() {
    let begin = || {
        let mut scene = Scene::new(&Server::mysql(), &response(CACHING_SHA2, &[7; 32]));
        scene.server(&packet(3, &[MORE, 4])).down();
        scene.client(&packet(3, &[2])).up();
        let sealer = Sealer::of(&scene.down());
        (scene, sealer)
    };
    let (_, sealer) = begin();
    let mut bent = sealer.seal(b"secret\0", NONCE);
    bent[100] ^= 1;
    for (what, answer) in [
        ("another key", vec![9; 256]),
        ("nothing", Vec::new()),
        ("a longer key", vec![9; 512]),
        ("a password in the clear", b"secret\0".to_vec()),
        ("no zero byte", sealer.seal(b"secret", NONCE)),
        ("another nonce", sealer.seal(b"secret\0", OTHER_NONCE)),
        ("empty", sealer.seal(b"", NONCE)),
        ("bent", bent),
    ] {
        let (mut scene, _) = begin();
        let objection = scene.says(Party::Client, &packet(5, &answer)).unwrap_err();
        assert_eq!(objection.to, Party::Client, "{what}");
        assert!(objection.detail.contains("not encrypted with the key"), "{what}: {}", objection.detail);
        assert!(scene.greeter.may_refuse());
        assert_eq!((scene.up(), scene.down()), (Vec::new(), Vec::new()), "{what}");
    }
}

/// Only the server itself can open that.
#[test]
fn a_key_that_the_client_was_given_beforehand_is_objected_to() {
    let asked = [(packet(3, &[MORE, 4]), CACHING_SHA2), (switch(3, SHA256, OTHER_NONCE), CACHING_SHA2)];
    for (asks, plugin) in asked {
        for sealed in [[9; 256].to_vec(), [9; 512].to_vec()] {
            let mut scene = Scene::new(&Server::mysql(), &response(plugin, &[7; 32]));
            scene.server(&asks).up();
            let objection = scene.says(Party::Client, &packet(3, &sealed)).unwrap_err();
            assert!(objection.detail.contains("given beforehand"), "{}", objection.detail);
            assert!(objection.mend.contains("--server-public-key-path"), "{}", objection.mend);
            assert_eq!(scene.up(), b"");
        }
    }
}

/// The bytes are a plugin's own business anywhere else.
#[test]
fn a_key_is_given_only_where_a_password_is_asked_for() {
    let mut scene = Scene::new(&Server::mysql(), &response(CACHING_SHA2, &[7; 32]));
    scene.up();
    assert_eq!(scene.client(&packet(3, &[2])).up(), packet(4, &[2]), "nobody asked");
    for plugin in [NATIVE, "dialog", CACHING_SHA2] {
        let mut scene = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
        scene.server(&switch(3, plugin, OTHER_NONCE)).up();
        assert_eq!(scene.client(&packet(3, &[2])).up(), packet(4, &[2]), "{plugin}");
    }
    let mut scene = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
    scene.server(&packet(3, &[MORE, 4])).up();
    assert_eq!(scene.client(&packet(3, &[2])).up(), packet(4, &[2]), "another plugin's four");
}

/// It is not in what a person or a log sees of it.
#[test]
fn a_password_is_not_shown() {
    let opening = Opening { bytes: response(SHA256, b"secret\0"), ..Opening::default() };
    assert!(!format!("{opening:?}").contains("secret"));
}

/// What a key has sealed ends with a zero byte, as a password does, once in 256: it is told by what else it holds.
#[test]
fn what_is_sealed_is_told_from_a_password_whatever_it_ends_with() {
    use crate::protocol::mysql::auth::{Answer, Plugin};
    let mut rng = fastrand::Rng::with_seed(7);
    for plugin in [Plugin::Sha256, Plugin::CachingSha2] {
        for length in [128, 256, 384, 512] {
            for _ in 0..500 {
                let sealed: Vec<u8> = (1..length).map(|_| rng.u8(..)).chain([0]).collect();
                assert_eq!(plugin.tells(&sealed), Answer::Sealed, "{length}");
            }
            let password = ["\u{e4}"; 256].concat();
            let password = [&password.as_bytes()[..length - 2], b"x\0"].concat();
            assert_eq!(plugin.tells(&password), Answer::Plain, "{length}");
        }
        for password in [&b""[..], b"\0", b"secret\0", b"p\xe4ss\0"] {
            assert_eq!(plugin.tells(password), Answer::Plain);
        }
    }
}
