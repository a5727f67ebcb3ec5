//! Tags, attributes, namespaces: what is read, and what is no XML of XMPP's.

use super::super::xml::{Element, Odd, Scanner, Spaces, Token, decoded, encoded, token};

fn read(text: &str) -> Result<Element, Odd> {
    Element::read(text.as_bytes(), &Spaces::default())
}

/// Quotes of either kind, blanks wherever they may be, and a `>` that is none.
#[test]
fn a_tag_is_read_as_xml_has_it() {
    for text in [
        "<a b='1' c=\"2\">",
        "<a\n b = '1'\r\n\tc\t=\t\"2\"\n>",
        "<a b='1' c='2'/>",
        "<a c='2' d='>' b='1' e=\"'>'\" />",
    ] {
        assert_eq!(Scanner::default().end(text.as_bytes()), Ok(Some(text.len())));
        let Ok(Token::Open(tag)) = token(text.as_bytes()) else { panic!("{text}") };
        assert_eq!((tag.name, tag.attribute("b"), tag.attribute("c")), ("a", Some("1"), Some("2")), "{text}");
        assert_eq!(tag.is_empty, text.ends_with("/>"));
        assert_eq!(tag.attribute("B"), None);
    }
    assert_eq!(token(b"</stream:stream >"), Ok(Token::Close("stream:stream")));
    assert_eq!(token(b"<?xml version='1.0' encoding='UTF-8'?>"), Ok(Token::Declaration));
}

#[test]
fn what_is_no_tag_and_what_xmpp_forbids_is_neither_read_nor_waited_for() {
    for (text, odd) in [
        ("<!DOCTYPE a>", Odd::Restricted),
        ("<!-- -->", Odd::Restricted),
        ("<![CDATA[x]]>", Odd::Restricted),
        ("<!", Odd::Restricted),
        ("< a>", Odd::Tag),
        ("<a <b>", Odd::Tag),
        ("<a b='<'>", Odd::Tag),
        ("<<", Odd::Tag),
        ("<\x16", Odd::Tag),
    ] {
        assert_eq!(Scanner::default().end(text.as_bytes()), Err(odd), "{text}");
    }
    for (text, odd) in [
        ("<?xml-stylesheet href='x'?>", Odd::Restricted),
        ("<?php ?>", Odd::Restricted),
        ("<?xml version='1.0'>", Odd::Restricted),
        ("<a b>", Odd::Tag),
        ("<a b=1>", Odd::Tag),
        ("<a b='1'c='2'>", Odd::Tag),
        ("<a ='1'>", Odd::Tag),
        ("<a b='&evil;'>", Odd::Restricted),
        ("<a b='&#xffffffff;'>", Odd::Restricted),
        ("<>", Odd::Tag),
        ("</>", Odd::Tag),
        ("</a b='1'>", Odd::Tag),
    ] {
        assert_eq!(token(text.as_bytes()), Err(odd), "{text}");
    }
    assert_eq!(token(b"<a b='\xff'>"), Err(Odd::Utf8));
}

/// A prefix means what the innermost declaration around it says.
#[test]
fn names_are_what_is_declared_around_them() {
    let element =
        read("<a xmlns='one' xmlns:p='two'><p:b/><c xmlns='three'><d/><p:e xmlns:p='four'/></c><f/></a>")
            .unwrap();
    let name = |element: &Element| format!("{}:{}", element.name.space, element.name.local);
    let names = element.children.iter().flat_map(|child| {
        std::iter::once(name(child)).chain(child.children.iter().map(name)).collect::<Vec<_>>()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["two:b", "three:c", "three:d", "four:e", "one:f"]);
    assert_eq!(name(&element), "one:a");
    for (text, odd) in [
        ("<p:a/>", Odd::Prefix),
        ("<a><b></a></b>", Odd::End),
        ("<a></b>", Odd::End),
        ("<a><b></b>", Odd::End),
        ("<a>&evil;</a>", Odd::Restricted),
        ("<a><?xml version='1.0'?></a>", Odd::Restricted),
    ] {
        assert_eq!(read(text), Err(odd), "{text}");
    }
}

#[test]
fn text_is_what_it_means_and_can_be_written_again() {
    let element = read("<a> SCRAM&#45;SHA&#x2d;1 &amp;&lt;&gt;&apos;&quot;<b>not this</b></a>").unwrap();
    assert_eq!(element.text, " SCRAM-SHA-1 &<>'\"");
    assert_eq!(decoded(&encoded(&element.text)), element.text);
    assert_eq!(encoded("a\0\u{1b}\r\n\u{ffff}ä"), "a     ä");
}
