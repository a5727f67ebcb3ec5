//! Clients whose listener has TLS to give.

use super::*;
use crate::relay::Upgrade;

fn begun(offer: Offer) -> Box<dyn Greeter> {
    let meeting = Meeting {
        opening: Opening::default(),
        negotiated: Negotiated::default(),
        secured: true,
        offer,
        keep_key: Box::new(drop),
    };
    Protocol::Ldap.greet(meeting).greeter.expect("somebody reads along")
}

/// Both sides' words in turn, in pieces; inside the client's TLS from when it has begun.
fn converse(
    offer: Offer,
    turns: &[(Party, Vec<u8>)],
    random: &mut Rng,
) -> (Onward, Result<(), Objection>, Box<dyn Greeter>) {
    let (mut greeter, mut onward) = (begun(offer), Onward::default());
    let mut say = || {
        for (party, words) in turns {
            for piece in cut(words, random) {
                match party {
                    Client => greeter.client_said(piece, &mut onward)?,
                    _ => greeter.upstream_said(piece, &mut onward)?,
                }
            }
            if greeter.upgrade() == Upgrade::Answered {
                greeter.upgraded(&mut onward);
            }
        }
        Ok(())
    };
    let said = say();
    (onward, said, greeter)
}

/// StartTLS is answered here, and the server hears nothing of it.
#[test]
fn start_tls_is_answered_here_and_then_the_client_begins_anew() {
    let yes = super::super::message::response(Some((3, 0x78)), 0, "");
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let turns = [(Client, start_tls(3)), (Client, bind(1)), (Upstream, response(1, 0x61, 0, ""))];
        for offer in [Offer::Optional, Offer::Required] {
            let (onward, said, greeter) = converse(offer, &turns, &mut random);
            assert_eq!((said, greeter.is_done()), (Ok(()), true), "seed {seed}");
            assert_eq!(onward.up, bind(1));
            assert_eq!(onward.down, [yes.clone(), response(1, 0x61, 0, "")].concat());
        }
        // Looking around is no login; and a search is answered by many.
        let before = [(Client, search(2)), (Upstream, entry(2, 40)), (Upstream, response(2, 0x65, 0, ""))];
        let all = [&before[..], &[(Client, start_tls(3))]].concat();
        let (onward, said, greeter) = converse(Offer::Optional, &all, &mut random);
        assert_eq!((said, greeter.is_done()), (Ok(()), false));
        assert_eq!((&onward.up, onward.down.ends_with(&yes)), (&search(2), true), "seed {seed}");
    }
}

/// A search that is to tell of changes never ends. StartTLS beside it is not held until then, nor granted, as what was asked in
/// plaintext would be answered inside TLS: it is told so in between whole answers, and may come again.
#[test]
fn start_tls_beside_an_open_request_is_answered_no() {
    let yes = |id| super::super::message::response(Some((id, 0x78)), 0, "");
    let no = |id| super::super::message::response(Some((id, 0x78)), 1, super::super::upgrade::NOT_NOW);
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let half = entry(2, 40).len() / 2;
        let (begun, rest) = (entry(2, 40)[..half].to_vec(), entry(2, 40)[half..].to_vec());
        let turns = [
            (Client, search(2)),
            (Client, start_tls(3)),
            (Upstream, entry(2, 40)),
            (Client, start_tls(4)),
            (Upstream, begun),
            (Client, start_tls(5)),
            (Upstream, rest),
            (Client, abandon(6, 2)),
            (Client, start_tls(7)),
            (Client, bind(1)),
            (Upstream, response(1, 0x61, 0, "")),
        ];
        let (onward, said, greeter) = converse(Offer::Optional, &turns, &mut random);
        assert_eq!((said, greeter.is_done()), (Ok(()), true), "seed {seed}");
        assert_eq!(onward.up, [search(2), abandon(6, 2), bind(1)].concat());
        let found = entry(2, 40);
        let told = [&no(3)[..], &found, &no(4), &found, &no(5), &yes(7), &response(1, 0x61, 0, "")].concat();
        assert_eq!(onward.down, told, "seed {seed}");
    }
}

/// Where TLS is demanded, nothing else goes on before it, and each request is told so in its own response; to leave is always
/// allowed.
#[test]
fn who_must_have_tls_first_gets_nothing_else_through() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let turns = [(Client, [bind(1), search(2), unbind(3)].concat())];
        let (onward, said, greeter) = converse(Offer::Required, &turns, &mut random);
        assert_eq!((said, greeter.is_done()), (Ok(()), false));
        assert_eq!(onward.up, unbind(3), "seed {seed}");
        let told =
            |id, kind| super::super::message::response(Some((id, kind)), 13, "StartTLS is required first");
        assert_eq!(onward.down, [told(1, 0x61), told(2, 0x65)].concat());
        assert!(greeter.why_ended().expect("a remark").mend.contains("tls = \"optional\""));
        // Where it is not, a login goes on, and whoever reads along is soon done.
        let turns = [(Client, bind(1)), (Upstream, response(1, 0x61, 0, ""))];
        let (onward, said, greeter) = converse(Offer::Optional, &turns, &mut random);
        assert_eq!((said, greeter.is_done(), onward.up), (Ok(()), true, bind(1)));
    }
}

/// What stands behind the request is nobody's, and what is no LDAP is no request.
#[test]
fn what_is_slipped_in_or_no_ldap_ends_it() {
    for offer in [Offer::Optional, Offer::Required] {
        let (mut greeter, mut onward) = (begun(offer), Onward::default());
        let objection = greeter.client_said(&[start_tls(1), bind(2)].concat(), &mut onward).unwrap_err();
        assert!(objection.detail.contains("slip it in") && onward.up.is_empty());
    }
    let (mut greeter, mut onward) = (begun(Offer::Required), Onward::default());
    let objection = greeter.client_said(b"GET / HTTP/1.1\r\n\r\n", &mut onward).unwrap_err();
    assert!(greeter.may_refuse() && objection.to == Client && onward.up.is_empty());
    // However long a message is, it is not kept whole.
    let long = message(1, 0x66, &vec![7; 1 << 20]);
    let (onward, said, _) = converse(Offer::Required, &[(Client, long)], &mut Rng::with_seed(1));
    assert_eq!((said, onward.up.len()), (Ok(()), 0));
}
