//! No, in AMQP: the connection is opened as a server does it, and closed with the reason at once.
//!
//! No client of 0-9-1 has to read a close before its connection.open, nor one of 1.0 before its open, and some don't. Until
//! then it may send a password; it is thrown away.

use std::mem;

use super::super::sentence::sentence;
use super::super::{Refusal, Talk};
use crate::failure::{Failure, Reason, Side, Stage};

/// The reply text of 0-9-1 has a length of one byte.
const LONGEST_SHORT: usize = 255;
const LONGEST: usize = 1000;
/// Of one frame: the longest says who the client is, and its password.
const LONGEST_FRAME: usize = 64 * 1024;

/// What a client begins with, and a server that speaks something else answers.
const VERSION_0_9_1: &[u8; 8] = b"AMQP\0\0\x09\x01";
const VERSION_1: &[u8; 8] = b"AMQP\0\x01\0\0";
const VERSION_1_SASL: &[u8; 8] = b"AMQP\x03\x01\0\0";

/// Lets a client in as far as it reads why it cannot be served.
pub(super) struct Refusing {
    /// What the client had said before.
    said: Vec<u8>,
    close: Close,
    state: State,
}

/// The reason, in either version's words.
struct Close {
    code: u16,
    short: String,
    condition: &'static str,
    long: String,
}

#[derive(Clone, Copy)]
enum State {
    /// Its protocol header.
    Header,
    /// 0-9-1: its frames, up to connection.open.
    Frames { is_tuned: bool },
    /// 1.0: its choice of a mechanism.
    Sasl,
    /// 1.0: its protocol header behind that.
    HeaderAfterSasl,
    /// 1.0: its open.
    Open,
}

impl Refusing {
    pub(super) fn new(refusal: &Refusal<'_>) -> Refusing {
        let (code, condition) = match refusal.failure.reason {
            Reason::AdmissionDenied => (403, "amqp:unauthorized-access"),
            Reason::ConnectionLimitReached | Reason::QueueTimeout => (506, "amqp:resource-limit-exceeded"),
            _ => (320, "amqp:connection:forced"),
        };
        Refusing {
            said: refusal.said.to_vec(),
            close: Close {
                code,
                short: sentence(refusal, LONGEST_SHORT),
                condition,
                long: sentence(refusal, LONGEST),
            },
            state: State::Header,
        }
    }
}

impl Talk for Refusing {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        if !self.said.is_empty() {
            heard.splice(..0, mem::take(&mut self.said));
        }
        loop {
            let step = match self.state {
                State::Header | State::HeaderAfterSasl => self.take_header(heard, say)?,
                State::Frames { is_tuned } => self.take_frame(is_tuned, heard, say)?,
                State::Sasl => take_sasl(heard, say)?,
                State::Open => self.take_open(heard, say)?,
            };
            match step {
                Step::Wait => return Ok(None),
                Step::To(state) => self.state = state,
                Step::Done => {
                    heard.clear();
                    return Ok(Some(()));
                }
            }
        }
    }

    fn awaits(&self) -> &'static str {
        match self.state {
            State::Header | State::HeaderAfterSasl => "the client's protocol header",
            State::Frames { .. } => "the client's connection.open",
            State::Sasl => "the client's choice of a SASL mechanism",
            State::Open => "the client's open",
        }
    }
}

enum Step {
    Wait,
    To(State),
    Done,
}

impl Refusing {
    fn take_header(&self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Step, Failure> {
        let known = heard.len().min(4);
        if heard[..known] != b"AMQP"[..known] {
            return Err(not_amqp("its first bytes are no protocol header"));
        }
        let Some(header) = heard.first_chunk::<8>() else { return Ok(Step::Wait) };
        let is_first = matches!(self.state, State::Header);
        let step = match header {
            VERSION_0_9_1 if is_first => {
                put_method(10, &start(), say);
                Step::To(State::Frames { is_tuned: false })
            }
            VERSION_1_SASL if is_first => {
                say.extend_from_slice(VERSION_1_SASL);
                put_frame(SASL, &mechanisms(), say);
                Step::To(State::Sasl)
            }
            VERSION_1 => {
                say.extend_from_slice(VERSION_1);
                Step::To(State::Open)
            }
            // As the standards want it: what could be spoken here, and the end.
            [b'A', b'M', b'Q', b'P', 2 | 3, 1, 0, 0] => {
                say.extend_from_slice(VERSION_1);
                Step::Done
            }
            _ => {
                say.extend_from_slice(VERSION_0_9_1);
                Step::Done
            }
        };
        heard.drain(..VERSION_1.len());
        Ok(step)
    }

    /// 0-9-1: type, channel, size, content, end. Only a method counts, and of that only what it is.
    fn take_frame(&self, is_tuned: bool, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Step, Failure> {
        let Some([kind, _, _, size @ ..]) = heard.first_chunk::<7>() else { return Ok(Step::Wait) };
        let (kind, size) = (*kind, u32::from_be_bytes(*size) as usize);
        if size > LONGEST_FRAME {
            return Err(not_amqp("a frame of its login is longer than any"));
        }
        let whole = 7 + size + 1;
        let Some(end) = heard.get(whole - 1) else { return Ok(Step::Wait) };
        if *end != FRAME_END {
            return Err(not_amqp("a frame does not end as it should"));
        }
        let method = heard[7..whole].first_chunk().copied();
        heard.drain(..whole);
        Ok(match (kind, method) {
            // start-ok.
            (METHOD, Some([0, 10, 0, 11])) if !is_tuned => {
                put_method(30, &TUNE, say);
                Step::To(State::Frames { is_tuned: true })
            }
            // tune-ok; and a heartbeat.
            (METHOD, Some([0, 10, 0, 31])) | (HEARTBEAT, _) => Step::To(State::Frames { is_tuned }),
            _ => {
                put_method(50, &self.close.method(), say);
                Step::Done
            }
        })
    }

    fn take_open(&self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Step, Failure> {
        Ok(match take_frame_of_1(heard, AMQP)? {
            true => {
                put_frame(AMQP, &open(), say);
                put_frame(AMQP, &self.close.performative(), say);
                Step::Done
            }
            false => Step::Wait,
        })
    }
}

const METHOD: u8 = 1;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;

/// channel-max, frame-max, heartbeat.
const TUNE: [u8; 8] = [0x07, 0xff, 0, 2, 0, 0, 0, 60];

/// A method of class connection, on channel 0.
fn put_method(method: u8, arguments: &[u8], say: &mut Vec<u8>) {
    say.extend_from_slice(&[METHOD, 0, 0]);
    say.extend_from_slice(&length(4 + arguments.len()));
    say.extend_from_slice(&[0, 10, 0, method]);
    say.extend_from_slice(arguments);
    say.push(FRAME_END);
}

/// Version 0-9, a table of no properties, the mechanisms, the languages.
fn start() -> Vec<u8> {
    let mut start = vec![0, 9, 0, 0, 0, 0];
    for text in ["PLAIN AMQPLAIN EXTERNAL ANONYMOUS", "en_US"] {
        start.extend_from_slice(&length(text.len()));
        start.extend_from_slice(text.as_bytes());
    }
    start
}

impl Close {
    /// Code, text, and the method that it answers: connection.open.
    fn method(&self) -> Vec<u8> {
        let mut close = self.code.to_be_bytes().to_vec();
        put_short(&self.short, &mut close);
        close.extend_from_slice(&[0, 10, 0, 40]);
        close
    }

    fn performative(&self) -> Vec<u8> {
        let mut error = vec![SYMBOL];
        put_short(self.condition, &mut error);
        error.push(LONG_STRING);
        error.extend_from_slice(&length(self.long.len()));
        error.extend_from_slice(self.long.as_bytes());
        described(0x18, 1, &described(0x1d, 2, &error))
    }
}

/// Kinds of frames of 1.0.
const AMQP: u8 = 0;
const SASL: u8 = 1;

/// Types of 1.0.
const NULL: u8 = 0x40;
const TRUE: u8 = 0x41;
const SHORT_STRING: u8 = 0xa1;
const SYMBOL: u8 = 0xa3;
const LONG_STRING: u8 = 0xb1;
const LIST: u8 = 0xd0;
const MAP: u8 = 0xc1;
const ARRAY: u8 = 0xe0;
const SMALL: u8 = 0x50;

fn put_frame(kind: u8, body: &[u8], say: &mut Vec<u8>) {
    say.extend_from_slice(&length(8 + body.len()));
    say.extend_from_slice(&[2, kind, 0, 0]);
    say.extend_from_slice(body);
}

/// A list of so many fields, by the code of what it is.
fn described(code: u8, count: usize, fields: &[u8]) -> Vec<u8> {
    let mut list = vec![0, 0x53, code, LIST];
    list.extend_from_slice(&length(4 + fields.len()));
    list.extend_from_slice(&length(count));
    list.extend_from_slice(fields);
    list
}

fn mechanisms() -> Vec<u8> {
    let mut symbols = vec![3, SYMBOL];
    for name in ["ANONYMOUS", "PLAIN", "EXTERNAL"] {
        put_short(name, &mut symbols);
    }
    let mut array = vec![ARRAY];
    array.push(u8::try_from(symbols.len()).unwrap_or(u8::MAX));
    array.extend_from_slice(&symbols);
    described(0x40, 1, &array)
}

/// Whoever reads the property knows that the open is none.
fn open() -> Vec<u8> {
    let mut fields = vec![SHORT_STRING];
    put_short("nuncio", &mut fields);
    fields.extend_from_slice(&[NULL; 8]);
    let mut properties = vec![2, SYMBOL];
    put_short("amqp:connection-establishment-failed", &mut properties);
    properties.push(TRUE);
    fields.push(MAP);
    fields.push(u8::try_from(properties.len()).unwrap_or(u8::MAX));
    fields.extend_from_slice(&properties);
    described(0x10, 10, &fields)
}

/// Whatever it chooses is right.
fn take_sasl(heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Step, Failure> {
    Ok(match take_frame_of_1(heard, SASL)? {
        true => {
            put_frame(SASL, &described(0x44, 1, &[SMALL, 0]), say);
            Step::To(State::HeaderAfterSasl)
        }
        false => Step::Wait,
    })
}

/// 1.0: size with itself, where the body begins, kind, channel. What it says is of no interest.
fn take_frame_of_1(heard: &mut Vec<u8>, expected: u8) -> Result<bool, Failure> {
    let Some([size @ .., _, kind, _, _]) = heard.first_chunk::<8>() else { return Ok(false) };
    let (size, kind) = (u32::from_be_bytes(*size) as usize, *kind);
    if !(8..=LONGEST_FRAME).contains(&size) || kind != expected {
        return Err(not_amqp("a frame of its login is none that belongs there"));
    }
    let is_whole = heard.len() >= size;
    if is_whole {
        heard.drain(..size);
    }
    Ok(is_whole)
}

/// With its length in one byte.
fn put_short(text: &str, to: &mut Vec<u8>) {
    to.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    to.extend_from_slice(text.as_bytes());
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn not_amqp(why: &str) -> Failure {
    let detail = format!("the client does not speak AMQP: {why}");
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
