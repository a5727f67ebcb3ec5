//! Between the client's answer and the server's OK.

use super::*;
use crate::protocol::refused::{cut, jumble};

use Party::{Client, Upstream};

/// Who says what, and what the other side gets.
type Said = (Party, Vec<u8>, Vec<u8>);

/// Bodies with the numbers that both sides have for them: the server's count is one ahead.
fn client(number: u8, body: &[u8]) -> Said {
    (Client, packet(number, body), packet(number.wrapping_add(1), body))
}

fn server(number: u8, body: &[u8]) -> Said {
    (Upstream, packet(number.wrapping_add(1), body), packet(number, body))
}

/// Logins as clients and servers lead them, by plugin.
fn logins() -> Vec<(&'static str, Server, Vec<u8>, Vec<Said>)> {
    let ok = b"\0\0\0\x02\0\0\0";
    let switch = |name: &str| [&[SWITCH][..], name.as_bytes(), b"\0", OTHER_NONCE, b"\0"].concat();
    let mfa = response_of(0x11bf_a28d & !SSL, CACHING_SHA2, &[7; 32]);
    let mut many_steps = vec![server(2, &switch("dialog"))];
    for number in 0..200_u8 {
        many_steps.push(client(3_u8.wrapping_add(number.wrapping_mul(2)), b"answer\0"));
        many_steps.push(server(4_u8.wrapping_add(number.wrapping_mul(2)), b"\x04Question: "));
    }
    many_steps.truncate(253);
    many_steps.push(server(255, b"\x02Once around: "));
    many_steps.push(client(0, b"answer\0"));
    many_steps.push(server(1, ok));
    vec![
        ("native", Server::mariadb(), response(NATIVE, &[7; 20]), vec![server(2, ok)]),
        (
            "wrong",
            Server::mariadb(),
            response(NATIVE, &[7; 20]),
            vec![server(2, b"\xff\x15\x04#28000Access denied")],
        ),
        (
            "native, after a switch, with no password",
            Server::mysql(),
            response(CACHING_SHA2, b""),
            vec![server(2, &switch(NATIVE)), client(3, b""), server(4, ok)],
        ),
        (
            "ed25519",
            Server::mariadb(),
            response(NATIVE, &[7; 20]),
            vec![server(2, &switch("client_ed25519")), client(3, &[8; 64]), server(4, ok)],
        ),
        (
            "parsec, in two steps",
            Server::mariadb(),
            response(NATIVE, &[7; 20]),
            vec![
                server(2, &switch("parsec")),
                client(3, b""),
                server(4, b"\x01P\x04salt of 18 bytes"),
                client(5, &[8; 96]),
                server(6, ok),
            ],
        ),
        (
            "the one of before 4.1, by one byte",
            Server::old(),
            response_of(0xa285 & !SSL, "", &[7; 20]),
            vec![server(2, &[SWITCH]), client(3, b"12345678\0"), server(4, ok)],
        ),
        (
            "caching_sha2_password, known",
            Server::mysql(),
            response(CACHING_SHA2, &[7; 32]),
            vec![server(2, &[MORE, 3]), server(3, ok)],
        ),
        (
            "caching_sha2_password, over a Unix socket",
            Server::mysql(),
            response(CACHING_SHA2, &[7; 32]),
            vec![server(2, &[MORE, 4]), client(3, b"secret\0"), server(4, ok)],
        ),
        (
            "sha256_password, over a Unix socket",
            Server::mysql(),
            response(CACHING_SHA2, &[7; 32]),
            vec![server(2, &switch(SHA256)), client(3, b"secret\0"), server(4, ok)],
        ),
        (
            "sha256_password at once, over a Unix socket",
            Server::mysql(),
            response(SHA256, b"secret\0"),
            vec![server(2, ok)],
        ),
        (
            "sha256_password without a password",
            Server::mysql(),
            response(SHA256, b"\0"),
            vec![server(2, &switch(SHA256)), client(3, b"\0"), server(4, ok)],
        ),
        (
            "in the clear",
            Server::mariadb(),
            response(NATIVE, &[7; 20]),
            vec![server(2, &switch("mysql_clear_password")), client(3, b"secret\0"), server(4, ok)],
        ),
        (
            "two factors",
            Server::mysql(),
            mfa,
            vec![
                server(2, &[MORE, 3]),
                server(3, b"\x02mysql_clear_password\0"),
                client(4, b"123456\0"),
                server(5, ok),
            ],
        ),
        (
            "PAM, so many questions that the count begins anew",
            Server::mariadb(),
            response(NATIVE, &[7; 20]),
            many_steps,
        ),
    ]
}

/// Each side gets what the other said under its own count, in whatever pieces that comes; and behind OK nothing is touched.
#[test]
fn each_side_gets_the_others_packets_under_its_own_count() {
    let more = [packet(0, &[3; 300]), vec![0xff, 0xff, 0xff, 0], vec![SWITCH; 70_000]].concat();
    for (login, server, response, said) in logins() {
        let mut turns: Vec<(Party, Vec<u8>)> = said.iter().map(|(by, says, _)| (*by, says.clone())).collect();
        turns.push((Client, more.clone()));
        turns.push((Upstream, more.clone()));
        let gets = |who: Party, first: Vec<u8>| {
            let said = said.iter().filter(|(by, ..)| *by == who).map(|(.., becomes)| &becomes[..]);
            [first, said.collect::<Vec<_>>().concat(), more.clone()].concat()
        };
        let (up, down) = (gets(Client, as_sent(&response)), gets(Upstream, Vec::new()));
        for size in [1, 2, 3, 5, 17, usize::MAX] {
            let scene = Scene::new(&server, &response);
            let led = scene.lead(&turns, &mut |words| words.chunks(size).map(<[u8]>::to_vec).collect());
            assert_eq!(led.objection, None, "{login}");
            assert!(led.is_done && !led.may_refuse && led.why.is_none(), "{login}");
            assert!(led.up == up, "{login}, in pieces of {size}: {:?}", led.up.escape_ascii().to_string());
            assert!(
                led.down == down,
                "{login}, in pieces of {size}: {:?}",
                led.down.escape_ascii().to_string()
            );
        }
    }
}

/// At whatever byte it ends: what went on is whole packets, all of those that had come.
#[test]
fn wherever_it_ends_all_whole_packets_have_gone_on() {
    for (login, server, response, said) in logins() {
        let mut scene = Scene::new(&server, &response);
        assert_eq!(scene.up(), as_sent(&response));
        for (by, says, becomes) in said {
            for byte in &says {
                assert!(scene.greeter.may_refuse(), "{login}: nothing is half said");
                assert_eq!((scene.up(), scene.down()), (Vec::new(), Vec::new()), "{login}");
                scene.says(by, &[*byte]).unwrap();
            }
            let (up, down) = (scene.up(), scene.down());
            assert_eq!(if by == Client { (up, down) } else { (down, up) }, (becomes, Vec::new()), "{login}");
        }
        assert!(scene.greeter.is_done(), "{login}");
    }
}

/// Some drivers send commands before they know whether they may: their count begins anew, so it is not to be mended.
#[test]
fn commands_that_come_too_early_wait_for_the_servers_answer() {
    let early = [packet(0, b"\x03set names utf8mb4"), packet(0, b"\x03select 1")].concat();
    for answer in [ok(3), err(3, 1045, "#28000Access denied")] {
        // With the answer to the greeting, and behind it.
        let mut with = Scene::new(&Server::mysql(), &[response(NATIVE, &[7; 20]), early.clone()].concat());
        let mut behind = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
        behind.client(&early);
        for scene in [&mut with, &mut behind] {
            assert_eq!(scene.up(), as_sent(&response(NATIVE, &[7; 20])));
            scene.server(&answer);
            assert_eq!(scene.up(), early);
            assert!(scene.greeter.is_done());
        }
    }
    let mut scene = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
    let objection = scene.says(Client, &packet(0, &[3; LONGEST]).repeat(2)).unwrap_err();
    assert_eq!((objection.to, objection.detail.contains("64 KiB")), (Client, true));
}

/// They say so in their header, and nothing of them is waited for.
#[test]
fn packets_of_no_login_are_objected_to() {
    for (by, number) in [(Client, 3), (Upstream, 3)] {
        for length in [LONGEST + 1, 0xff_ffff] {
            let mut scene = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
            scene.server(&switch(3, "dialog", OTHER_NONCE)).up();
            let [a, b, c, ..] = u32::try_from(length).unwrap().to_le_bytes();
            assert_eq!(scene.says(by, &[a, b]), Ok(()));
            let objection = scene.says(by, &[c, number]).unwrap_err();
            assert_eq!((objection.to, objection.detail.contains("64 KiB")), (by, true));
            assert!(scene.greeter.may_refuse(), "the client can be told");
            assert_eq!(scene.up(), b"");
        }
        let mut scene = Scene::new(&Server::mysql(), &response(NATIVE, &[7; 20]));
        scene.server(&switch(3, "dialog", OTHER_NONCE));
        scene.says(by, &packet(number, &[9; LONGEST])).unwrap();
    }
}

/// A client counts what it says and hears, and speaks before it listens where it is its turn: a refusal that comes out of
/// order is no refusal to it.
#[test]
fn a_refusal_has_the_number_that_the_client_awaits() {
    let number = |scene: &Scene| scene.greeter.unanswered()[3].wrapping_add(1);
    let mut scene = Scene::new(&Server::mysql(), &response(CACHING_SHA2, &[7; 32]));
    assert_eq!(number(&scene), 2, "it awaits the answer to its answer");
    scene.server(&switch(3, CACHING_SHA2, OTHER_NONCE));
    assert_eq!(number(&scene), 4, "it says 3 first");
    scene.client(&packet(3, &[7; 32]));
    assert_eq!(number(&scene), 4);
    scene.server(&packet(5, &[MORE, 3]));
    assert_eq!(number(&scene), 5, "it awaits OK");
    scene.server(&ok(6));
    assert!(!scene.greeter.may_refuse());

    let mut scene = Scene::direct();
    assert_eq!(number(&scene), 0, "it was not greeted");
    scene.server(&Server::mysql().greeting());
    assert_eq!(number(&scene), 2, "it says 1 first");
    scene.client(&response(NATIVE, &[7; 20]));
    assert_eq!(number(&scene), 2);
}

/// A TLS front knows nothing of MySQL, and the server behind it nothing of TLS: only the offer goes.
#[test]
fn behind_a_tls_front_nothing_but_the_offer_is_changed() {
    for server in Server::all() {
        let mut scene = Scene::direct();
        let greeting = server.greeting();
        for byte in &greeting {
            assert_eq!(scene.down(), b"");
            scene.server(&[*byte]);
        }
        let mut told = greeting.clone();
        interview::take_ssl(&mut told);
        assert_ne!(told, greeting);
        assert_eq!(scene.down(), told);
        // The server's own key is what it is for here.
        for (by, words) in [
            (Client, response(CACHING_SHA2, &[7; 32])),
            (Upstream, packet(2, &[MORE, 4])),
            (Client, packet(3, &[2])),
            (Upstream, packet(4, b"\x01-----BEGIN PUBLIC KEY-----")),
            (Client, packet(5, &[9; 256])),
            (Upstream, ok(6)),
        ] {
            scene.says(by, &words).unwrap();
            let (up, down) = (scene.up(), scene.down());
            assert_eq!(if by == Client { up } else { down }, words);
        }
        assert!(scene.greeter.is_done());
    }
}

/// What is not MySQL, or needs nothing of us, goes as it is; what wants TLS is told.
#[test]
fn behind_a_tls_front_an_old_client_passes_and_one_that_wants_tls_does_not() {
    for (by, words) in
        [(Upstream, err(0, 1130, "Host is not allowed")), (Upstream, packet(0, b"\x093.21.0\0"))]
    {
        let mut scene = Scene::direct();
        scene.says(by, &[&words[..], b"and so on"].concat()).unwrap();
        assert_eq!(scene.down(), [&words[..], b"and so on"].concat());
        assert!(scene.greeter.is_done());
    }
    let mut scene = Scene::direct();
    let old = packet(1, b"\x05\x00\0\0\0erp\0\0");
    // Before it is greeted, too.
    assert_eq!(scene.client(&old).up(), b"");
    assert_eq!(scene.server(&Server::old().greeting()).up(), old);
    assert!(scene.greeter.is_done());

    let mut scene = Scene::direct();
    scene.server(&Server::mysql().greeting());
    let objection = scene.says(Client, &response_of(PROTOCOL_41 | SSL, "", b"")).unwrap_err();
    assert_eq!((objection.to, objection.detail.contains("TLS of its own")), (Client, true));
    assert!(scene.greeter.may_refuse());
}

/// A client that speaks TLS itself may do so then, and one that hears nothing can be told why.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let mut scene = Scene::of(Negotiated::default(), b"", false);
    assert!(scene.greeter.may_refuse() && !scene.greeter.is_done());
    assert_eq!(scene.greeter.unanswered()[3], 255);
    let greeting = Server::mysql().greeting();
    assert_eq!(scene.client(b"early").server(&greeting).down(), greeting);
    assert_eq!(scene.up(), b"early");
    assert!(!scene.greeter.may_refuse() && scene.greeter.is_done());
}

/// It has no words for it: it hangs up, and the server may say something to that yet.
#[test]
fn why_a_client_left_is_told_where_it_left_instead_of_answering() {
    let why = |response: &[u8], asks: &[u8], answer: Option<&[u8]>| {
        let mut scene = Scene::new(&Server::mysql(), response);
        scene.server(asks);
        if let Some(answer) = answer {
            scene.client(answer);
        }
        let before = scene.greeter.why_ended();
        scene.server(&err(9, 1045, "#28000Access denied"));
        assert_eq!(scene.greeter.why_ended(), before);
        assert_eq!(scene.greeter.is_done(), before.is_none() && answer.is_some());
        assert!(!scene.greeter.may_refuse());
        before.map(|remark| format!("{}; {}", remark.detail, remark.mend))
    };
    let response = response(CACHING_SHA2, &[7; 32]);
    let asks = packet(3, &[MORE, 4]);
    let told = why(&response, &asks, None).unwrap();
    for word in [
        "caching_sha2_password",
        "--get-server-public-key",
        "allowPublicKeyRetrieval=true",
        "GET_SERVER_PUBLIC_KEY",
    ] {
        assert!(told.contains(word), "{told}");
    }
    assert_eq!(why(&response, &asks, Some(&packet(3, b"secret\0"))), None);
    for (plugin, word) in [
        (SHA256, "--get-server-public-key"),
        ("mysql_clear_password", "--enable-cleartext-plugin"),
        ("client_ed25519", "mysql.user"),
    ] {
        let asks = switch(3, plugin, OTHER_NONCE);
        assert!(why(&response, &asks, None).unwrap().contains(word), "{plugin}");
        assert_eq!(why(&response, &asks, Some(&packet(3, b"\0"))), None, "{plugin}");
    }
}

/// Four thousand logins, most of them broken in some way: the same goes on however they are cut, and what the server said
/// is all there, in its order, under whatever numbers.
#[test]
fn however_a_login_is_cut_the_same_goes_on() {
    let servers: Vec<Vec<u8>> = [
        &[MORE, 3][..],
        &[MORE, 4],
        &[SWITCH],
        b"\x04Question: ",
        b"",
        &[&[SWITCH][..], CACHING_SHA2.as_bytes(), b"\0", OTHER_NONCE, b"\0"].concat(),
        &[&[SWITCH][..], SHA256.as_bytes(), b"\0", OTHER_NONCE, b"\0"].concat(),
    ]
    .iter()
    .enumerate()
    .map(|(number, body)| packet(u8::try_from(number).unwrap() + 3, body))
    .chain([ok(3), err(3, 1045, "no")])
    .collect();
    let clients = [
        packet(3, &[2]),
        packet(5, &[1]),
        packet(3, b"secret\0"),
        packet(5, &[9; 256]),
        packet(0, b"\x03select 1"),
    ];
    let (mut done, mut objections, mut keys) = (0, 0, 0);
    for seed in 0..4000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let plugin = *random.choice(&[CACHING_SHA2, SHA256, NATIVE]).unwrap();
        let proof = *random.choice(&[&[7; 32][..], &[1], b""]).unwrap();
        let is_direct = random.u8(0..4) == 0;
        let scene = || match is_direct {
            true => Scene::direct(),
            false => Scene::new(&Server::mysql(), &response(plugin, proof)),
        };
        let mut turns = Vec::new();
        if is_direct {
            turns.push((Upstream, jumble(&[Server::mysql().greeting()], random)));
            turns.push((Client, jumble(&[response(plugin, proof)], random)));
        }
        for _ in 0..random.usize(1..5) {
            turns.push((Upstream, jumble(&servers, random)));
            turns.push((Client, jumble(&clients, random)));
        }
        let whole = scene().lead(&turns, &mut |words| vec![words.to_vec()]);
        let cut = scene()
            .lead(&turns, &mut |words| cut(words, random).iter().map(|piece| piece.to_vec()).collect());
        let gave_key = contains(&whole.down, b"BEGIN PUBLIC KEY");
        assert_eq!(cut.objection, whole.objection, "seed {seed}");
        match &whole.objection {
            None => assert_eq!(cut, whole, "seed {seed}"),
            Some(objection) => assert!(!objection.mend.is_empty()),
        }
        if whole.objection.is_none() && !gave_key && !is_direct {
            let said: Vec<u8> =
                turns.iter().filter(|(by, _)| *by == Upstream).flat_map(|(_, words)| words.clone()).collect();
            assert_eq!(
                without_numbers(&whole.down),
                without_numbers(&said)[..without_numbers(&whole.down).len()]
            );
            assert!(!whole.is_done || whole.down.len() == said.len(), "seed {seed}: nothing is kept back");
        }
        done += usize::from(whole.is_done);
        objections += usize::from(whole.objection.is_some());
        keys += usize::from(gave_key);
    }
    assert!(
        done > 500 && objections > 500 && keys > 300,
        "{done} done, {objections} objections, {keys} keys"
    );
}

/// The bodies of the packets at the front; of what is none, nothing.
fn without_numbers(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Ok(Some(packet)) = first_packet(bytes, LONGEST) {
        bodies.push(packet.body.to_vec());
        bytes = &bytes[packet.length()..];
    }
    bodies
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The client gets the server's own words. What they say of the server is remembered, wherever they come.
#[test]
fn a_server_that_is_full_is_remembered_and_its_words_pass() {
    for (number, is_overload) in [(1040, true), (1129, true), (1130, false), (1045, false), (1203, false)] {
        let words = err(0, number, "no");
        // Without TLS and inside TLS from the first byte.
        for secured in [false, true] {
            for longest in [1, 3, 100] {
                let mut scene = Scene::of(Negotiated::default(), b"", secured);
                for piece in words.chunks(longest) {
                    scene.says(Upstream, piece).unwrap();
                }
                let is_told = |scene: &Scene| {
                    let of_server = |remark: crate::relay::Remark| {
                        remark.of == Upstream && remark.detail.contains(&number.to_string())
                    };
                    scene.greeter.why_ended().is_some_and(of_server)
                };
                assert_eq!(scene.down(), words, "{number}");
                assert_eq!(scene.greeter.is_overloaded(), is_overload, "{number} {secured}");
                assert_eq!(is_told(&scene), is_overload, "{number} {secured}");
                // Read along is to the end only where there is something to remember.
                assert_eq!((scene.greeter.is_done(), scene.greeter.may_refuse()), (!is_overload, false));
            }
        }
    }
    // The place for administrators was taken: the others are told when they have logged in.
    let mut scene = Scene::direct();
    scene.server(&Server::mysql().greeting());
    scene.client(&response_of(PROTOCOL_41, "", b""));
    scene.down();
    scene.server(&err(2, 1040, "Too many connections"));
    assert_eq!(scene.down(), err(2, 1040, "Too many connections"));
    assert!(scene.greeter.is_overloaded());
}
