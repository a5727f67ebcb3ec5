//! What is taken out of a server's features, and what is not.

use super::*;

/// What a client gets of a server's features.
fn offered(says: &str) -> Result<String, Objection> {
    let opening = Opening { bytes: OPENING.into(), ..Opening::default() };
    let greeter = |secured| {
        let meeting = Meeting {
            opening: opening.clone(),
            negotiated: Negotiated::default(),
            secured,
            offer: Offer::No,
            keep_key: Box::new(drop),
        };
        Protocol::Xmpp.greet(meeting).greeter.expect("somebody reads along")
    };
    let words = [HEADER, says].concat();
    let mut onward = Onward::default();
    greeter(false).upstream_said(words.as_bytes(), &mut onward).expect("no objection");
    assert_eq!(onward.down, words.as_bytes(), "towards a server without TLS nothing is changed");
    let mut onward = Onward::default();
    greeter(true).upstream_said(words.as_bytes(), &mut onward)?;
    Ok(String::from_utf8(onward.down).unwrap().strip_prefix(HEADER).expect("the header first").to_owned())
}

fn mechanisms(names: &[&str]) -> String {
    let list: String = names.iter().map(|name| format!("<mechanism>{name}</mechanism>")).collect();
    format!("<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{list}</mechanisms>")
}

const BINDINGS: &str = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/>\
                        <channel-binding type='tls-server-end-point'/></sasl-channel-binding>";

#[test]
fn what_is_bound_to_the_servers_tls_is_taken_out_and_nothing_else_is_changed() {
    let bound =
        mechanisms(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"]);
    let unbound = mechanisms(&["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"]);
    let sasl2 = |mechanisms: &str, inline: &str| {
        format!(
            "<authentication xmlns='urn:xmpp:sasl:2'>{mechanisms}<inline>{inline}<bind xmlns='urn:xmpp:bind:0'/></inline></authentication>"
        )
    };
    let fast =
        |mechanisms: &str| format!("<fast xmlns='urn:xmpp:fast:0' tls-0rtt='true'>{mechanisms}</fast>");
    let caps = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='x' ver='y='/>";
    for (says, gets) in [
        (bound.clone(), unbound.clone()),
        // Prosody 13 and ejabberd: the kinds of binding go with them.
        ([&bound, BINDINGS, caps].concat(), [&unbound, caps].concat()),
        ([BINDINGS, &unbound].concat(), unbound.clone()),
        // TLS inside TLS.
        ([STARTTLS, &unbound].concat(), unbound.clone()),
        (
            ["<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>", &unbound, "\n"].concat(),
            [&unbound, "\n"].concat(),
        ),
        // SASL2, and the tokens in it.
        (
            [
                &bound[..],
                &sasl2(
                    "<mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-1</mechanism>",
                    &fast("<mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-NONE</mechanism>"),
                ),
            ]
            .concat(),
            [
                &unbound[..],
                &sasl2("<mechanism>SCRAM-SHA-1</mechanism>", &fast("<mechanism>HT-SHA-256-NONE</mechanism>")),
            ]
            .concat(),
        ),
        // A list of which nothing is left goes whole, as long as there is another.
        (
            [&mechanisms(&["SCRAM-SHA-1-PLUS"])[..], &sasl2("<mechanism>PLAIN</mechanism>", &fast("<mechanism>HT-SHA-256-ENDP</mechanism>"))].concat(),
            sasl2("<mechanism>PLAIN</mechanism>", ""),
        ),
        ([&unbound[..], &sasl2("<mechanism>SCRAM-SHA-1-PLUS</mechanism>", &fast("<mechanism>HT-SHA-256-UNIQ</mechanism>"))].concat(), unbound.clone()),
        // Written otherwise.
        (
            "<m:mechanisms xmlns:m=\"urn:ietf:params:xml:ns:xmpp-sasl\">\n <m:mechanism>\n SCRAM-SHA&#45;1-PLUS </m:mechanism>\n \
             <m:mechanism>PLAIN</m:mechanism></m:mechanisms>"
                .into(),
            "<m:mechanisms xmlns:m=\"urn:ietf:params:xml:ns:xmpp-sasl\">\n \n <m:mechanism>PLAIN</m:mechanism></m:mechanisms>"
                .into(),
        ),
    ] {
        assert_eq!(offered(&features(&says)), Ok(features(&gets)));
    }
    for unchanged in [
        String::new(),
        unbound.clone(),
        mechanisms(&[]),
        mechanisms(&["EXTERNAL", "PLUS", "X-PLUS-X"]),
        "<starttls xmlns='of:another'/><mechanism>SCRAM-SHA-1-PLUS</mechanism>".into(),
        "<x xmlns='of:another'><mechanism>SCRAM-SHA-1-PLUS</mechanism></x>".into(),
        "<compression xmlns='http://jabber.org/features/compress'><method>zlib</method></compression>".into(),
    ] {
        assert_eq!(offered(&features(&unchanged)), Ok(features(&unchanged)));
    }
}

/// An empty list would leave the client to wonder.
#[test]
fn a_server_that_offers_nothing_else_is_objected_to() {
    let sasl2 =
        "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-1-PLUS</mechanism></authentication>";
    for says in [
        mechanisms(&["SCRAM-SHA-1-PLUS"]),
        [&mechanisms(&["SCRAM-SHA-1-PLUS"]), sasl2].concat(),
        sasl2.into(),
    ] {
        let objection = offered(&features(&says)).unwrap_err();
        assert_eq!(objection.to, Party::Upstream);
        assert!(objection.mend.contains("SCRAM-SHA-256"), "{}", objection.mend);
    }
}
