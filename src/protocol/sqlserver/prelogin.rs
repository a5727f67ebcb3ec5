//! PRELOGIN ([MS-TDS] 2.2.6.5): what client and server agree on before the login; encryption is one of its options.
//!
//! A table of options, each with the place and length of its value; the values stand behind it. All but encryption pass, in
//! their order: instance, MARS, federated authentication, and what is not known yet.

use super::packet::{PRELOGIN, put_message};

/// Options.
const VERSION: u8 = 0x00;
const ENCRYPTION: u8 = 0x01;
const INSTANCE: u8 = 0x02;
const THREAD: u8 = 0x03;
const MARS: u8 = 0x04;
const END: u8 = 0xff;

/// Of an option in the table.
const ENTRY: usize = 5;

/// What a side says of encryption. Anything else is a server's to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// It can, and need not beyond the login.
    Off = 0,
    /// It wants it.
    On = 1,
    /// It can't.
    NotSupported = 2,
    /// It insists.
    Required = 3,
}

/// One side's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prelogin {
    options: Vec<(u8, Vec<u8>)>,
}

impl Prelogin {
    /// `None`: it is none.
    pub(super) fn read(payload: &[u8]) -> Option<Prelogin> {
        let mut table = Vec::new();
        let mut at = 0;
        while *payload.get(at)? != END {
            let [option, place @ ..] = *payload.get(at..)?.first_chunk::<ENTRY>()?;
            let [place, length] = [[place[0], place[1]], [place[2], place[3]]].map(u16::from_be_bytes);
            table.push((option, usize::from(place), usize::from(length)));
            at += ENTRY;
        }
        let values = at + 1;
        // Values that share their bytes would make much out of little.
        let together: usize = table.iter().map(|(_, _, length)| length).sum();
        if values + together > payload.len() {
            return None;
        }
        let option = |(option, place, length)| {
            let value = match length {
                0 => &[],
                _ if place < values => return None,
                _ => payload.get(place..place + length)?,
            };
            Some((option, value.to_vec()))
        };
        Some(Prelogin { options: table.into_iter().map(option).collect::<Option<_>>()? })
    }

    /// Of somebody who only looks whether there is TLS.
    pub(super) fn of_a_check() -> Prelogin {
        let options =
            [(VERSION, vec![0; 6]), (ENCRYPTION, vec![0]), (INSTANCE, vec![0]), (THREAD, vec![0; 4])];
        Prelogin { options: options.into() }
    }

    /// As a server answers this client, whose encryption it has none for.
    pub(super) fn answered(&self) -> Prelogin {
        // SQL Server 2022: to a server of before 2005 newer drivers say no.
        let version = vec![16, 0, 0x03, 0xe8, 0, 0];
        let mut options =
            vec![(VERSION, version), (ENCRYPTION, vec![0]), (INSTANCE, vec![0]), (THREAD, vec![])];
        // A client that wants it may look for nothing else, once it was told no.
        options.extend(self.options.iter().find(|(option, _)| *option == MARS).cloned());
        let mut answered = Prelogin { options };
        answered.set(Encryption::NotSupported);
        answered
    }

    /// No to several statements at a time on one connection: the server has not been asked.
    pub(super) fn without_mars(&mut self) {
        for (_, said) in self.options.iter_mut().filter(|(option, _)| *option == MARS) {
            *said = vec![0];
        }
    }

    pub(super) fn encryption(&self) -> Option<Encryption> {
        let (_, value) = self.options.iter().find(|(option, _)| *option == ENCRYPTION)?;
        match value[..] {
            [0] => Some(Encryption::Off),
            [1] => Some(Encryption::On),
            [2] => Some(Encryption::NotSupported),
            [3] => Some(Encryption::Required),
            _ => None,
        }
    }

    /// Wherever it says something else.
    pub(super) fn set(&mut self, encryption: Encryption) {
        let value = vec![encryption as u8];
        let mut said = self.options.iter_mut().filter(|(option, _)| *option == ENCRYPTION).peekable();
        match said.peek() {
            Some(_) => said.for_each(|(_, said)| said.clone_from(&value)),
            None => {
                drop(said);
                // The version comes first.
                self.options.insert(self.options.len().min(1), (ENCRYPTION, value));
            }
        }
    }

    /// Says it: a client's is of its own type, a server's a result.
    pub(super) fn put(&self, kind: u8, to: &mut Vec<u8>) {
        let mut place = self.options.len() * ENTRY + 1;
        let mut table = Vec::with_capacity(place);
        let mut values = Vec::new();
        for (option, value) in &self.options {
            table.push(*option);
            for number in [place, value.len()] {
                table.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes());
            }
            values.extend_from_slice(value);
            place += value.len();
        }
        table.push(END);
        table.append(&mut values);
        put_message(kind, &table, to);
    }

    /// Says it as a client.
    pub(super) fn ask(&self, to: &mut Vec<u8>) {
        self.put(PRELOGIN, to);
    }
}
