//! Redis, and what speaks its protocol: TLS begins with the first byte, and changes nothing behind it.
//!
//! Owns how a refused client is told: each of its commands is answered with an error, since many a client sends some about
//! itself first and passes over what becomes of them.

use std::mem;

use super::sentence::sentence;
use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk, first_words};
use crate::failure::Failure;
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "redis",
    title: "Redis, Valkey",
    first: First::Client,
    asks_with: None,
    alpn: None,
    ports: Ports { plain: Some(6379), direct: Some(6379) },
    refuses_with: "-ERR and one line: to each command that only sets up the session (HELLO, AUTH), and to the first real one",
    limits: "what leads a client to other addresses: Redis Cluster (MOVED, ASK) and Sentinel; health checks end with TLS \
             (a PING would need a password)",
};

pub(super) struct Redis;

impl Dialect for Redis {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        first_words::greet(meeting.opening, meeting.secured)
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Refusing::new(refusal)))
    }
}

/// Of the whole answer.
const LONGEST_ANSWER: usize = 1000;
/// Commands that clients send of their own accord, and whose errors many of them pass over.
const SETUP: [&[u8]; 6] = [b"AUTH", b"CLIENT", b"COMMAND", b"HELLO", b"READONLY", b"SELECT"];
/// So many commands are answered.
const MOST_ANSWERS: usize = 16;
/// Redis' own limits: arguments of a command, bytes of an argument.
const MOST_ARGUMENTS: usize = 1024 * 1024;
const LONGEST_ARGUMENT: usize = 512 * 1024 * 1024;
/// A longer line is not waited for: a length has no more digits, and whoever types a command is answered all the same.
const LONGEST_LINE: usize = 1024;

/// Answers commands until one has been answered that its user waits for.
struct Refusing {
    answer: Vec<u8>,
    /// What the client had said before.
    said: Vec<u8>,
    commands: Commands,
    answers: usize,
}

impl Refusing {
    fn new(refusal: &Refusal<'_>) -> Refusing {
        let line = format!("-ERR {}\r\n", sentence(refusal, LONGEST_ANSWER));
        // With a part of what it said forgotten, nobody knows where its next command begins.
        let answers = if refusal.said.len() >= first_words::MOST { MOST_ANSWERS - 1 } else { 0 };
        Refusing {
            answer: line.into_bytes(),
            said: refusal.said.to_vec(),
            commands: Commands::default(),
            answers,
        }
    }
}

impl Talk for Refusing {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        if !self.said.is_empty() {
            heard.splice(..0, mem::take(&mut self.said));
        }
        while let Some(command) = self.commands.next(heard) {
            say.extend_from_slice(&self.answer);
            self.answers += 1;
            if command == Command::Other || self.answers == MOST_ANSWERS {
                heard.clear();
                return Ok(Some(()));
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        "the client's command"
    }
}

/// What a client sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    /// One of [`SETUP`].
    Setup,
    /// Any other, or none that can be understood.
    Other,
}

impl Command {
    fn named(word: &[u8]) -> Command {
        let is_setup = SETUP.iter().any(|name| name.eq_ignore_ascii_case(word));
        if is_setup { Command::Setup } else { Command::Other }
    }
}

/// Tells a client's commands from each other: arrays of strings, or lines as a person types them.
#[derive(Default)]
struct Commands {
    /// Of the command that has begun: its arguments that are still to come.
    arguments: usize,
    /// Its first word is heard.
    command: Option<Command>,
    /// Of the argument that has begun, with its line's end: the bytes that are still to come, and are of no interest.
    skip: usize,
}

impl Commands {
    /// Takes the next command from the front of what was heard, once it is whole.
    fn next(&mut self, heard: &mut Vec<u8>) -> Option<Command> {
        loop {
            let now = self.skip.min(heard.len());
            heard.drain(..now);
            self.skip -= now;
            if self.skip > 0 {
                return None;
            }
            if self.arguments == 0
                && let Some(command) = self.command.take()
            {
                return Some(command);
            }
            let Some(end) = heard.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') else {
                return (heard.len() >= LONGEST_LINE).then_some(Command::Other);
            };
            let line = heard[..end].strip_suffix(b"\r").unwrap_or(&heard[..end]);
            match (self.arguments, line.split_first()) {
                (0, None) => {}
                (0, Some((b'*', count))) => match number(count, MOST_ARGUMENTS) {
                    Some(count) => self.arguments = count,
                    None => return Some(Command::Other),
                },
                (0, Some(_)) => {
                    let words = line.split(u8::is_ascii_whitespace);
                    self.command = words.into_iter().find(|word| !word.is_empty()).map(Command::named);
                }
                (_, Some((b'$', length))) => {
                    let Some(length) = number(length, LONGEST_ARGUMENT) else { return Some(Command::Other) };
                    if self.command.is_none() {
                        let is_short = length <= LONGEST_LINE;
                        let Some(word) = heard.get(end + 1..end + 1 + length) else {
                            match is_short {
                                true => return None,
                                false => return Some(Command::Other),
                            }
                        };
                        self.command = Some(Command::named(word));
                    }
                    self.arguments -= 1;
                    self.skip = length + "\r\n".len();
                }
                _ => return Some(Command::Other),
            }
            heard.drain(..=end);
        }
    }
}

/// Digits only.
fn number(digits: &[u8], most: usize) -> Option<usize> {
    let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    digits.parse().ok().filter(|number| *number <= most)
}

#[cfg(test)]
mod tests;
