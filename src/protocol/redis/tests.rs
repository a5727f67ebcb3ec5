//! What a refused client of Redis is told, whatever it says.

use super::*;
use crate::failure::Reason;
use crate::protocol::Protocol;
use crate::protocol::refused::{is_told_the_same_however_it_is_cut, refused, refused_for};

const ANSWER: &str = "-ERR nuncio: 10.0.0.5:1 refused the connection; is the server running, and does it listen on \
                      this address and port? (connection_refused, connection 7KJ2)\r\n";

/// As a program sends it.
fn command(words: &[&str]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    command.into_bytes()
}

/// How often the client is answered, and whether that was all.
fn answers(says: &[u8]) -> (usize, bool) {
    let (told, came_to) = refused(Protocol::Redis, b"", [says]);
    let told = String::from_utf8(told).unwrap();
    let count = told.matches(ANSWER).count();
    assert_eq!(told, ANSWER.repeat(count));
    assert!(!matches!(came_to, Some(Err(_))));
    (count, came_to.is_some())
}

/// Many a client passes over errors of what it says about itself; so it is answered until it asks for something.
#[test]
fn commands_are_answered_until_the_first_that_somebody_waits_for() {
    let hello = command(&["HELLO", "3", "AUTH", "default", "secret"]);
    let name = command(&["client", "SETINFO", "LIB-NAME", "any\r\n*1\r\n$4\r\nPING\r\n"]);
    let get = command(&["GET", "key"]);
    let long = command(&["SET", &"k".repeat(100), &"v".repeat(100_000)]);
    let long_name = command(&[&"G".repeat(LONGEST_LINE + 1)]);
    let many = command(&["PING"; 300]);
    let situations: [(&str, Vec<u8>, (usize, bool)); 20] = [
        ("nothing", b"".to_vec(), (0, false)),
        ("half a command", get[..get.len() - 1].to_vec(), (0, false)),
        ("a command", get.clone(), (1, true)),
        ("two commands", get.repeat(2), (1, true)),
        ("its version", hello.clone(), (1, false)),
        ("its name, twice", name.repeat(2), (2, false)),
        ("all that, and a command", [&hello[..], &name, &name, &get].concat(), (4, true)),
        ("all that, again and again", hello.repeat(20), (16, true)),
        ("a long value", long, (1, true)),
        ("a long name", long_name, (1, true)),
        ("many words", many, (1, true)),
        ("a person", b"ping\r\n".to_vec(), (1, true)),
        ("a person, slowly", b"\r\n  auth secret \nping".to_vec(), (1, false)),
        ("an empty array", b"*0\r\n*0\r\nPING\r\n".to_vec(), (1, true)),
        ("a wrong length", b"*1\r\n$-1\r\n".to_vec(), (1, true)),
        ("a length of more than any", b"*1\r\n$536870913\r\n".to_vec(), (1, true)),
        ("an array of more than any", b"*1048577\r\n".to_vec(), (1, true)),
        ("an array of no strings", b"*1\r\n:1\r\n".to_vec(), (1, true)),
        ("a line without an end", vec![b'x'; LONGEST_LINE], (1, true)),
        ("a TLS client hello", [b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), vec![7; 600]].concat(), (0, false)),
    ];
    for (situation, says, expected) in situations {
        assert_eq!(answers(&says), expected, "{situation}");
    }
}

/// The server refused our certificate after the handshake, when the client had said so much that the beginning is all that is
/// remembered: where its next command begins, nobody knows.
#[test]
fn a_client_that_has_said_much_is_answered_once() {
    let said = command(&["CLIENT", "SETNAME", &"x".repeat(2000)]);
    let (told, came_to) = refused(Protocol::Redis, &said[..first_words::MOST], [&said[first_words::MOST..]]);
    assert_eq!((String::from_utf8(told).unwrap(), came_to), (ANSWER.to_owned(), Some(Ok(()))));
}

#[test]
fn an_answer_is_one_line_whatever_its_words_are() {
    for detail in ["a\r\n+OK\r\n", "\u{1b}[31m…", &"ü".repeat(4000)] {
        let (told, _) = refused_for(Protocol::Redis, Reason::Draining, detail, b"", [&b"PING\r\n"[..]]);
        let line = told.strip_prefix(b"-ERR nuncio: ").and_then(|line| line.strip_suffix(b"\r\n")).unwrap();
        assert!(line.len() < 1000 && line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{detail}");
    }
}

#[test]
fn however_a_clients_commands_are_cut_it_is_told_the_same() {
    let parts = [
        command(&["HELLO", "3"]),
        command(&["AUTH", "x"]),
        command(&["CLIENT", "SETINFO", "LIB-VER", "1"]),
        b"PING\r\n".to_vec(),
        b"auth x\r\n".to_vec(),
        b"\r\n".to_vec(),
    ];
    let (ended, failed) = is_told_the_same_however_it_is_cut(Protocol::Redis, &parts);
    assert!(ended > 1000 && failed == 0, "{ended} {failed}");
}
