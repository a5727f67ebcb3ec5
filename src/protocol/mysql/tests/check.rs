//! The health check's own login.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256 as SHA_256, digest};

use super::*;

/// A check under way.
struct Check(Box<dyn Talk<Outcome = ()>>);

impl Check {
    fn new(server: Option<&Server>, password: &str) -> Check {
        let greeting = server.map_or_else(Vec::new, Server::greeting);
        let password = Zeroizing::new(password.as_bytes().to_vec());
        let credentials = Credentials { user: "checker".into(), password };
        Check(Protocol::Mysql.login(&Negotiated { greeting }, credentials).unwrap())
    }

    /// What is said to this, and what comes of it.
    fn hears(&mut self, words: &[u8]) -> (Vec<u8>, Result<Option<()>, Failure>) {
        let (mut heard, mut say) = (Vec::new(), Vec::new());
        assert!(matches!(self.0.hear(&mut heard, &mut say), Ok(None)) || words.is_empty());
        let mut came_to = Ok(None);
        for byte in words {
            heard.push(*byte);
            came_to = self.0.hear(&mut heard, &mut say);
            if !matches!(came_to, Ok(None)) {
                break;
            }
        }
        (say, came_to)
    }

    /// Its first words.
    fn begins(&mut self) -> Vec<u8> {
        let mut say = Vec::new();
        assert_eq!(self.0.hear(&mut Vec::new(), &mut say), Ok(None));
        say
    }
}

/// The front of the answer to the greeting is what TLS was asked for with: a server reads that only once.
fn answers(check: &[u8], server: &Server, number: u8, proof: &[u8], plugin: &str) {
    let talk = negotiate::Negotiation::new(true);
    let (mut talk, mut say) = (talk, Vec::new());
    talk.hear(&mut server.greeting(), &mut say).unwrap().unwrap();
    let mut body = say[HEADER..].to_vec();
    if number == 1 {
        body[1] &= !0x08; // behind a TLS front the server is asked for none
    }
    body.extend(b"checker\0");
    body.push(u8::try_from(proof.len()).unwrap());
    body.extend(proof);
    if !plugin.is_empty() {
        body.extend(plugin.bytes());
        body.push(0);
    }
    assert_eq!(check, packet(number, &body), "{}", server.version);
}

/// SHA1(password) ^ SHA1(nonce, SHA1(SHA1(password)))
fn native(password: &str, nonce: &[u8]) -> Vec<u8> {
    let sha = |bytes: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec();
    let once = sha(password.as_bytes());
    let mask = sha(&[nonce, &sha(&once)].concat());
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

/// SHA256(password) ^ SHA256(SHA256(SHA256(password)), nonce): two hashes inside
fn caching(password: &str, nonce: &[u8]) -> Vec<u8> {
    let sha = |bytes: &[u8]| digest(&SHA_256, bytes).as_ref().to_vec();
    let once = sha(password.as_bytes());
    let mask = sha(&[&sha(&once), nonce].concat());
    once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
}

const QUIT: [u8; 5] = [1, 0, 0, 0, 1];

/// What servers and clients have agreed on for twenty years, with numbers worked out elsewhere.
#[test]
fn a_password_is_proven_as_servers_know_it() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(native("secret", NONCE)), "cb83716a58842439559400dda37471e88de532c2");
    assert_eq!(
        hex(caching("secret", NONCE)),
        "f682be3c1d9d15cc6b105ca5d5bffda3201fa87ebd98343a36b1248e5a404580"
    );
}

#[test]
fn it_logs_in_by_either_plugin_and_takes_its_leave() {
    for password in ["secret", ""] {
        let proof = |of: fn(&str, &[u8]) -> Vec<u8>, nonce: &[u8]| match password {
            "" => Vec::new(),
            _ => of(password, nonce),
        };
        for (server, plugin) in
            [(Server::mariadb(), NATIVE), (Server::old(), ""), (Server::mysql(), CACHING_SHA2)]
        {
            let first = if plugin == CACHING_SHA2 { proof(caching, NONCE) } else { proof(native, NONCE) };
            let begin = || {
                let mut check = Check::new(Some(&server), password);
                answers(&check.begins(), &server, 2, &first, plugin);
                check
            };
            assert_eq!(begin().hears(&ok(3)), (QUIT.to_vec(), Ok(Some(()))));
            let mut switched = begin();
            let to_native = switched.hears(&switch(3, NATIVE, OTHER_NONCE));
            assert_eq!(to_native, (packet(4, &proof(native, OTHER_NONCE)), Ok(None)));
            let to_caching = switched.hears(&switch(5, CACHING_SHA2, OTHER_NONCE));
            assert_eq!(to_caching, (packet(6, &proof(caching, OTHER_NONCE)), Ok(None)));
            // By heart, and not.
            assert_eq!(switched.hears(&packet(7, &[MORE, 3])), (Vec::new(), Ok(None)));
            let told = packet(8, &[password.as_bytes(), &[0]].concat());
            assert_eq!(switched.hears(&packet(7, &[MORE, 4])), (told, Ok(None)));
            assert_eq!(switched.hears(&ok(9)), (QUIT.to_vec(), Ok(Some(()))));
        }
    }
}

/// The greeting comes inside TLS, nobody is asked for it, and the password itself is told to nobody.
#[test]
fn behind_a_tls_front_it_is_greeted_first_and_tells_no_password() {
    let mut check = Check::new(None, "secret");
    assert_eq!(check.begins(), b"");
    let (said, came_to) = check.hears(&Server::mysql().greeting());
    assert_eq!(came_to, Ok(None));
    answers(&said, &Server::mysql(), 1, &caching("secret", NONCE), CACHING_SHA2);
    let (said, came_to) = check.hears(&packet(2, &[MORE, 4]));
    assert_eq!((said, came_to), (packet(3, &[0]), Ok(None)));
    let failure = check.hears(&err(4, 1045, "#28000Access denied")).1.unwrap_err();
    assert!(failure.detail.contains("through TLS") && failure.side == Side::Ambassador, "{failure}");
}

/// What is wrong with the account is no fault of the server's: else every endpoint would be down at a time. And nobody is
/// left in the middle of a login, which is what servers count.
#[test]
fn an_account_that_does_not_work_says_nothing_about_the_server() {
    for (number, side, mend) in [
        (1045, Side::Ambassador, "health.password_file"),
        (1698, Side::Ambassador, "health.password_file"),
        (1862, Side::Ambassador, "health.password_file"),
        (1040, Side::Upstream, "log"),
        (1053, Side::Upstream, "log"),
    ] {
        let mut check = Check::new(Some(&Server::mariadb()), "secret");
        check.begins();
        let failure = check.hears(&err(3, number, "#28000its words")).1.unwrap_err();
        assert_eq!(failure.side, side, "{failure}");
        assert!(failure.detail.contains("'checker'") && failure.detail.contains("its words"), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
    }
    for (plugin, answer) in [(SHA256, 1), ("client_ed25519", 64), ("dialog", 1)] {
        let mut check = Check::new(Some(&Server::mariadb()), "secret");
        check.begins();
        let (said, came_to) = check.hears(&switch(3, plugin, OTHER_NONCE));
        assert_eq!((said, came_to), (packet(4, &vec![0; answer]), Ok(None)), "{plugin}");
        assert_eq!(check.hears(&packet(5, b"\x04And now?")), (packet(6, &[0]), Ok(None)));
        let failure = check.hears(&err(7, 1045, "#28000Access denied")).1.unwrap_err();
        assert_eq!(failure.side, Side::Ambassador);
        assert!(failure.detail.contains(plugin), "{failure}");
        assert!(failure.next_step().contains(CACHING_SHA2), "{failure}");
    }
    let mut check = Check::new(Some(&Server::old()), "secret");
    check.begins();
    assert_eq!(check.hears(&packet(3, &[SWITCH])), (packet(4, &[0]), Ok(None)));
    let failure = check.hears(&err(5, 1045, "no")).1.unwrap_err();
    assert!(failure.detail.contains("mysql_old_password"), "{failure}");
}

#[test]
fn a_server_that_says_what_it_cannot_is_unwell() {
    for words in [packet(3, b""), packet(3, b"\x09"), packet(3, &[ERR]), vec![0xff, 0xff, 0xff]] {
        let mut check = Check::new(Some(&Server::mysql()), "secret");
        check.begins();
        let failure = check.hears(&words).1.unwrap_err();
        assert_eq!((failure.side, failure.reason), (Side::Upstream, Reason::NegotiationError), "{failure}");
    }
    assert!(Check::new(None, "").hears(&packet(0, b"\x09")).1.is_err());
}

/// A server whose client left before it said who it is: it is given a login that it refuses, in however many steps, and is
/// left with nothing to count. Without TLS, and so without a password that is one.
#[test]
fn who_is_not_needed_any_more_is_left_in_order() {
    let refused = |number| err(number, 1045, "#28000Access denied");
    let native = |server: &Server| (server.clone(), vec![refused(2)]);
    let oracle = vec![packet(2, &[MORE, 4]), refused(4)];
    let switched = vec![switch(2, CACHING_SHA2, OTHER_NONCE), packet(4, &[MORE, 4]), refused(6)];
    for (server, says) in [
        native(&Server::mariadb()),
        native(&Server::old()),
        (Server::mysql(), oracle),
        (Server::mariadb(), switched),
    ] {
        let negotiated = Negotiated { greeting: server.greeting() };
        let mut check = Check(Protocol::Mysql.parting(&negotiated).unwrap());
        let response = check.begins();
        assert_eq!((response[3], response[HEADER + 1] & 0x08), (1, 0), "it asks for no TLS");
        let (last, before) = says.split_last().unwrap();
        for words in before {
            let (said, came_to) = check.hears(words);
            assert_eq!(came_to, Ok(None));
            assert_eq!(said[3], words[3] + 1, "it is answered");
        }
        assert!(check.hears(last).1.is_err());
    }
}
