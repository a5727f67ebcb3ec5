//! Where lines and commands end, however they come.

use super::*;

/// What a reader makes of bytes that come in pieces.
fn lines(pieces: &[&[u8]], may_announce: fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Option<Seen>)> {
    let (mut lines, mut read) = (Lines::new(may_announce), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (count, seen) = lines.read(rest);
            rest = &rest[count..];
            assert!(lines.kept().len() <= MAX_LINE);
            match seen {
                Some(Seen::Line) => read.push((lines.take(), seen)),
                Some(Seen::TooLong) => {
                    read.push((lines.take(), seen));
                    return read;
                }
                None => assert!(rest.is_empty()),
            }
        }
    }
    read.push((lines.take(), None));
    read
}

fn commands(pieces: &[&[u8]], words: usize) -> Vec<Vec<u8>> {
    let (mut commands, mut read) = (Commands::new(words), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (count, command) = commands.read(rest);
            rest = &rest[count..];
            assert!(commands.head.len() <= MAX_HEAD && (command.is_some() || rest.is_empty()));
            read.extend(command);
        }
    }
    read
}

#[test]
fn what_stands_in_a_literal_ends_no_line() {
    for (bytes, expected, left) in [
        ("* OK hi\r\n", &["* OK hi\r\n"][..], ""),
        ("a\nb\r\n\r\nc", &["a\n", "b\r\n", "\r\n"], "c"),
        ("* ID (\"a\" {4}\r\na\r\nb)\r\nc\r\n", &["* ID (\"a\" {4}\r\na\r\nb)\r\n", "c\r\n"], ""),
        // Without a carriage return, empty, two of them, not whole yet.
        ("{2}\n\n\n\n", &["{2}\n\n\n\n"], ""),
        ("{0}\r\n\r\nx\r\n", &["{0}\r\n\r\n", "x\r\n"], ""),
        ("{1}\r\n\n{1}\r\n\n\r\n", &["{1}\r\n\n{1}\r\n\n\r\n"], ""),
        ("{1+}\r\n\n~{1}\r\n\n\r\n", &["{1+}\r\n\n~{1}\r\n\n\r\n"], ""),
        ("{9}\r\nx\r\n", &[], "{9}\r\nx\r\n"),
        // What looks like one.
        ("\"{2}\"\r\n", &["\"{2}\"\r\n"], ""),
        (
            "{2} \r\n{x}\r\n{}\r\n{2\r\n2}\r\n{+}\r\n{2-}\r\n{2}}\r\n",
            &["{2} \r\n", "{x}\r\n", "{}\r\n", "{2\r\n", "2}\r\n", "{+}\r\n", "{2-}\r\n", "{2}}\r\n"],
            "",
        ),
        ("{{1}\r\n\n\r\n", &["{{1}\r\n\n\r\n"], ""),
    ] {
        let bytes = bytes.as_bytes();
        let mut expected: Vec<_> =
            expected.iter().map(|line| (line.as_bytes().to_vec(), Some(Seen::Line))).collect();
        expected.push((left.as_bytes().to_vec(), None));
        assert_eq!(lines(&[bytes], |_| true), expected);
        for at in 0..bytes.len() {
            assert_eq!(lines(&[&bytes[..at], &bytes[at..]], |_| true), expected);
        }
        assert_eq!(lines(&bytes.chunks(1).collect::<Vec<_>>(), |_| true), expected);
    }
    // Where the text is a person's.
    let said = b"* NO {5}\r\n* OK\r\n";
    assert_eq!(lines(&[said], |_| false)[1].0, b"* OK\r\n");
}

/// A server that never stops is stopped, at the same byte however it sends; also one that only announces.
#[test]
fn endless_lines_and_endless_literals_are_seen() {
    let announced = format!("{{{}}}\r\n", MAX_LINE);
    let huge = "{99999999999999999999999999}\r\n";
    for endless in ["x".repeat(MAX_LINE + 9), announced.clone() + &"\n".repeat(MAX_LINE), huge.to_owned()] {
        let whole = lines(&[endless.as_bytes()], |_| true);
        assert_eq!(whole.last().unwrap().1, Some(Seen::TooLong));
        for size in [1, 7, 1000] {
            assert_eq!(lines(&endless.as_bytes().chunks(size).collect::<Vec<_>>(), |_| true), whole);
        }
    }
    let fits = format!("{{{}}}\r\n", MAX_LINE - 11) + &"\n".repeat(MAX_LINE - 11) + "\r\n";
    assert_eq!(lines(&[fits.as_bytes()], |_| true)[0].1, Some(Seen::Line));
}

#[test]
fn of_a_command_only_the_first_words_are_kept_and_no_literal_is_a_command() {
    for (words, bytes, expected) in [
        (2, "a LOGIN u secret\r\nb NOOP\r\n", &["a LOGIN", "b NOOP"][..]),
        (2, "a LOGIN {1+}\r\nu {6+}\r\nb NOOP\r\nc NOOP\r\n", &["a LOGIN", "c NOOP"]),
        (2, "a LOGIN {8}\r\nb NOOP\r\n\r\nc x {2}\r\n\r\n\r\n", &["a LOGIN", "c x"]),
        (2, "a\r\n\r\na  b\r\n b\r\n", &["a", "", "a ", " b"]),
        (2, "{3}\r\na\r\n b\r\n", &["{3}"]),
        (
            1,
            "AUTHENTICATE \"PLAIN\" {4+}\r\nAA==\r\n\"*\"\r\n{3+}\r\nx\r\n\r\nlogout\n",
            &["AUTHENTICATE", "\"*\"", "{3+}", "logout"],
        ),
    ] {
        let bytes = bytes.as_bytes();
        let expected: Vec<_> = expected.iter().map(|head| head.as_bytes().to_vec()).collect();
        assert_eq!(commands(&[bytes], words), expected);
        for at in 0..bytes.len() {
            assert_eq!(commands(&[&bytes[..at], &bytes[at..]], words), expected);
        }
        assert_eq!(commands(&bytes.chunks(1).collect::<Vec<_>>(), words), expected);
    }
    let endless = [b'x'; 100_000];
    assert_eq!(commands(&[&endless, b"\n"], 2)[0].len(), MAX_HEAD);
}

/// `{n}` asks whether the server will have it. If not, what follows is a command.
#[test]
fn a_literal_that_is_not_wanted_never_comes() {
    let mut login = Commands::new(2);
    assert_eq!(login.read(b"a LOGIN {6}\r\n"), (13, None));
    assert_eq!(login.waiting(), Some(&b"a LOGIN"[..]));
    login.give_up();
    assert_eq!(login.read(b"b NOOP\r\n"), (8, Some(b"b NOOP".to_vec())));
    // Wanted; sent unasked; one that is sent in any case.
    for (says, goes_ahead) in
        [("a LOGIN {6}\r\n", true), ("a LOGIN {6}\r\nb", false), ("a LOGIN {6+}\r\n", false)]
    {
        login.read(says.as_bytes());
        if goes_ahead {
            login.go_ahead();
        }
        assert_eq!(login.waiting(), None, "{says:?}");
        login.give_up();
    }
}
