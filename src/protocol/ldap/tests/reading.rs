//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;

/// Number and kind of messages.
type Heads = Vec<(u32, u8)>;
/// Who says what, in turn.
type Turns = Vec<(Party, Vec<u8>)>;

struct After {
    onward: Onward,
    greeter: Box<dyn Greeter>,
}

fn begin(secured: bool) -> Box<dyn Greeter> {
    let keep_key: KeepKey = Box::new(drop);
    let meeting = Meeting {
        opening: Opening::default(),
        negotiated: Negotiated::default(),
        secured,
        offer: Offer::No,
        keep_key,
    };
    Protocol::Ldap.greet(meeting).greeter.expect("somebody reads along")
}

fn say(turns: &Turns, random: Option<&mut Rng>) -> After {
    let (mut greeter, mut onward) = (begin(true), Onward::default());
    let mut random = random;
    for (party, words) in turns {
        let pieces = random.as_mut().map_or_else(|| vec![&words[..]], |random| cut(words, random));
        for piece in pieces {
            match party {
                Client => greeter.client_said(piece, &mut onward),
                _ => greeter.upstream_said(piece, &mut onward),
            }
            .expect("no objection");
        }
    }
    After { onward, greeter }
}

/// What a client that has said and heard this is told when the server is gone.
fn told(after: &After, says: &[u8]) -> Vec<u8> {
    let failure = Failure::upstream(Stage::Greet, Reason::EarlyClose, "gone");
    let said = after.greeter.unanswered();
    let refusal = Refusal { failure: &failure, id: "ID", greeted: true, said: &said };
    hear(&mut *Protocol::Ldap.refusal(&refusal).unwrap(), [says]).0
}

fn heads(mut bytes: &[u8]) -> Heads {
    let mut reader = message::Reader::default();
    let mut heads = Vec::new();
    while let Some(message) = reader.next(&mut bytes).expect("LDAP") {
        heads.push((message.id, message.kind));
    }
    assert!(!reader.is_inside());
    heads
}

/// With what the server has served, nobody reads along any more; before that, whoever is left is told.
#[test]
fn it_is_over_when_the_server_has_served_and_until_then_the_unanswered_are_told() {
    let big = message(3, 0x66, &vec![7; 3000]);
    let cases: Vec<(Turns, bool, Option<Heads>)> = vec![
        // None: it would not understand.
        (vec![], false, Some(vec![])),
        (vec![(Client, bind(1))], false, Some(vec![(1, 0x61)])),
        (vec![(Client, bind(1)), (Upstream, response(1, 0x61, 0, ""))], true, None),
        (vec![(Client, bind(1)), (Upstream, response(1, 0x61, 0, "")[..20].to_vec())], false, None),
        // A login of several messages, and one that fails.
        (vec![(Client, bind(1)), (Upstream, response(1, 0x61, 14, ""))], false, None),
        (
            vec![(Client, bind(1)), (Upstream, response(1, 0x61, 14, "")), (Client, bind(2))],
            false,
            Some(vec![(2, 0x61)]),
        ),
        // A server that then hangs up may do so.
        (vec![(Client, bind(1)), (Upstream, response(1, 0x61, 49, "no"))], false, None),
        // Without a login.
        (vec![(Client, search(1))], false, Some(vec![(1, 0x65)])),
        (vec![(Client, search(1)), (Upstream, entry(1, 5))], true, None),
        (vec![(Client, search(1)), (Upstream, entry(1, 5000)[..3000].to_vec())], true, None),
        // Pipelined; what is abandoned awaits no answer.
        (
            vec![(Client, [bind(1), search(2), abandon(3, 2), search(4)].concat())],
            false,
            Some(vec![(1, 0x61), (4, 0x65)]),
        ),
        // Half a request: as soon as it can be told which; long ones are not waited for.
        (vec![(Client, search(9)[..4].to_vec())], false, Some(vec![])),
        (vec![(Client, big[..2500].to_vec())], false, Some(vec![(3, 0x67)])),
        // Who takes its leave is told nothing, and who was told by the server has been told.
        (vec![(Client, unbind(1))], false, None),
        (vec![(Client, [search(1), unbind(2)].concat())], false, None),
        (vec![(Client, bind(1)), (Upstream, notice(52, "bye"))], false, None),
        // What is no LDAP.
        (vec![(Client, b"GET / HTTP/1.1\r\n".to_vec())], true, None),
        (vec![(Client, bind(1)), (Upstream, b"HTTP/1.1 400\r\n".to_vec())], true, None),
    ];
    for (turns, done, refused) in cases {
        let whole = say(&turns, None);
        assert_eq!(whole.greeter.is_done(), done, "{turns:02x?}");
        let may_refuse = !done && whole.greeter.may_refuse();
        assert_eq!(may_refuse, refused.is_some(), "{turns:02x?}");
        if let Some(refused) = refused {
            assert_eq!(heads(&told(&whole, b"")), refused, "{turns:02x?}");
        }
        for seed in 0..200 {
            let mut random = Rng::with_seed(seed);
            let split = say(&turns, Some(&mut random));
            assert_eq!(split.onward, whole.onward);
            assert_eq!(
                (split.greeter.is_done(), split.greeter.may_refuse()),
                (done, whole.greeter.may_refuse())
            );
            assert_eq!(split.greeter.unanswered(), whole.greeter.unanswered());
        }
    }
}

/// TLS 1.3 tells a refused certificate when the client has spoken, or half spoken: the rest is heard by the refusal.
#[test]
fn a_request_that_is_cut_anywhere_by_the_end_is_answered() {
    let request = search(7);
    for at in 0..request.len() {
        let after = say(&vec![(Client, request[..at].to_vec())], None);
        assert!(after.greeter.may_refuse());
        assert_eq!(heads(&told(&after, &request[at..])), [(7, 0x65)], "at {at}");
    }
}

/// A refusal needs a request's number and kind; of the password that comes with them it is given nothing.
#[test]
fn a_password_is_not_handed_on_to_a_refusal() {
    let request = element(Length::Short, 0x60, b"\x02\x01\x03\x04\x04user\x80\x06secret");
    let controls = element(Length::Short, 0xa0, b"secret");
    let whole = element(Length::Short, 0x30, &[&b"\x02\x01\x07"[..], &request, &controls].concat());
    for at in 0..whole.len() {
        let after = say(&vec![(Client, whole[..at].to_vec())], None);
        let kept = after.greeter.unanswered();
        assert!(!kept.windows(2).any(|two| two == b"us" || two == b"se"), "at {at}: {kept:02x?}");
        assert_eq!(heads(&told(&after, &whole[at..])), [(7, 0x61)], "at {at}");
    }
}

#[test]
fn no_more_is_kept_than_a_refusal_needs() {
    let many: Vec<u8> = (0..1000).flat_map(|id| search(u8::try_from(id % 128).unwrap())).collect();
    let after = say(&vec![(Client, many)], None);
    assert_eq!(heads(&told(&after, b"")).len(), 64);
    let after = say(&vec![(Client, message(1, 0x66, &vec![7; 1_000_000]))], None);
    assert!(after.greeter.unanswered().len() < 2000);
}

#[test]
fn a_client_that_leaves_is_understood() {
    let refused = |code, words| (Upstream, response(1, 0x61, code, words));
    let bad_bindings =
        "80090346: LdapErr: DSID-0C0905B8, comment: AcceptSecurityContext error, data 80090346, v4563\0";
    let sealing = "00002029: LdapErr: DSID-0C09016D, comment: Cannot bind using sign/seal on a TLS/SSL connection, data 0\0";
    for (turns, of, why) in [
        (
            vec![(Client, start_tls(1)), (Upstream, response(1, 0x78, 1, "TLS already started"))],
            Client,
            "StartTLS of its own",
        ),
        (vec![(Client, bind(1)), refused(49, bad_bindings)], Client, "bound to its own TLS channel"),
        (vec![(Client, bind(1)), refused(53, sealing)], Client, "sign or seal"),
        (
            vec![(Client, bind(1)), (Upstream, notice(52, "bye"))],
            Upstream,
            "ended the connection: unavailable (52): bye",
        ),
    ] {
        let mut greeter = say(&turns, None).greeter;
        let remark = greeter.why_ended().expect("a remark");
        assert_eq!(remark.of, of);
        assert!(remark.detail.contains(why), "{}", remark.detail);
        greeter.client_said(&unbind(2), &mut Onward::default()).unwrap();
        assert_eq!(greeter.why_ended(), Some(remark), "leaving says nothing else");
        if of == Client {
            // It was satisfied with less.
            greeter.client_said(&bind(3), &mut Onward::default()).unwrap();
            assert_eq!(greeter.why_ended(), None);
        }
    }
    for turns in [vec![], vec![(Client, bind(1))], vec![(Client, bind(1)), refused(49, "")]] {
        assert_eq!(say(&turns, None).greeter.why_ended(), None);
    }
}

#[test]
fn a_client_that_speaks_tls_is_told_so_unless_the_server_is_reached_without() {
    let hello = b"\x16\x03\x01\x02\0";
    let mut greeter = begin(true);
    let Objection { to, mend, .. } = greeter.client_said(hello, &mut Onward::default()).unwrap_err();
    assert_eq!(to, Client);
    assert!(mend.contains("switch TLS and StartTLS off in the client"));
    assert!(greeter.may_refuse());
    let after = After { onward: Onward::default(), greeter };
    assert_eq!(heads(&told(&after, b"")), [(0, 0x78)], "a notice, at once");
    // There its own StartTLS is all the protection there is: it passes, and so does all that follows.
    let (mut greeter, mut onward) = (begin(false), Onward::default());
    greeter.client_said(&start_tls(1), &mut onward).unwrap();
    greeter.upstream_said(&response(1, 0x78, 0, ""), &mut onward).unwrap();
    assert!(greeter.is_done() && greeter.why_ended().is_none());
    greeter.client_said(hello, &mut onward).unwrap();
    assert_eq!(onward.up, [&start_tls(1)[..], hello].concat());
    begin(false).client_said(hello, &mut onward).unwrap();
}

/// Both sides say anything: it goes on as it came, whatever is made of it.
#[test]
fn anything_said_in_any_pieces_goes_on_as_it_came() {
    let client = [bind(1), search(2), start_tls(3), abandon(4, 2), unbind(5), message(6, 0x66, &[7; 2000])];
    let server = [
        response(1, 0x61, 14, ""),
        response(1, 0x61, 49, ""),
        response(3, 0x78, 1, ""),
        entry(2, 2000),
        notice(52, "bye"),
    ];
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let turns: Turns = (0..random.usize(1..6))
            .map(|_| match random.bool() {
                true => (Client, jumble(&client, &mut random)),
                false => (Upstream, jumble(&server, &mut random)),
            })
            .filter(|(_, words)| words[0] == 0x30)
            .collect();
        let whole = say(&turns, None);
        let split = say(&turns, Some(&mut random));
        assert_eq!(split.onward, whole.onward, "seed {seed}");
        assert_eq!(split.greeter.is_done(), whole.greeter.is_done(), "seed {seed}");
        assert_eq!(split.greeter.unanswered(), whole.greeter.unanswered(), "seed {seed}");
        assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended(), "seed {seed}");
        let of = |party| -> Vec<u8> {
            turns.iter().filter(|(by, _)| *by == party).flat_map(|(_, words)| words.clone()).collect()
        };
        assert_eq!(whole.onward, Onward { up: of(Client), down: of(Upstream) }, "seed {seed}");
    }
}
