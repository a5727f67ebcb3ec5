//! socks5: a client that asks as of a SOCKS5 proxy (RFC 1928), with a user name (RFC 1929) that carries its options.
//!
//! CONNECT only. Every message says how long it is, so that nothing behind the request is read. The password is not looked at:
//! who may come is `admit`'s to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reply::{codes, socks};
use super::{Context, Options, Refusal, odd, quoted, seems_to_be};
use crate::addr::{EndpointAddr, Host};
use crate::failure::Failure;
use crate::protocol::Talk;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_LOGIN: u8 = 0;
const BY_NAME: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// What is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Methods,
    Login,
    Request,
    /// It was told no in other words than a reply's.
    Dismissed,
}

/// A request, as far as it has come.
#[derive(Debug, Default)]
pub struct Request {
    step: Step,
    context: Context,
    /// It spoke SOCKS4, whose "no" is another one.
    is_old: bool,
    /// The reply that says what was wrong with the request itself.
    code: Option<u8>,
}

impl Talk for Request {
    type Outcome = Context;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Context>, Failure> {
        loop {
            self.first_byte(heard)?;
            if missing(self.step, heard) != 0 {
                return Ok(None);
            }
            let message = std::mem::take(heard);
            match self.step {
                Step::Methods => self.methods(&message, say)?,
                Step::Login => self.login(&message, say)?,
                Step::Request => {
                    self.request(&message)?;
                    return Ok(Some(std::mem::take(&mut self.context)));
                }
                Step::Dismissed => return Ok(None),
            }
        }
    }

    fn may_read(&self, heard: &[u8]) -> Option<usize> {
        Some(missing(self.step, heard).max(1))
    }

    fn awaits(&self) -> &'static str {
        match self.step {
            Step::Methods | Step::Dismissed => "the client's SOCKS5 greeting",
            Step::Login => "the client's SOCKS5 user name",
            Step::Request => "the client's SOCKS5 request",
        }
    }
}

/// How many bytes the message wants still, as far as that can be told.
fn missing(step: Step, heard: &[u8]) -> usize {
    let at = |place: usize| heard.get(place).map(|byte| usize::from(*byte));
    let length = match step {
        Step::Methods => at(1).map_or(2, |methods| 2 + methods),
        Step::Login => match at(1) {
            None => 2,
            Some(name) => at(2 + name).map_or(3 + name, |password| 3 + name + password),
        },
        // Of an address of unknown kind the length is not known either: it is refused with its fifth byte.
        Step::Request => match (at(3), at(4)) {
            (Some(1), Some(_)) => 10,
            (Some(3), Some(name)) => 7 + name,
            (Some(4), Some(_)) => 22,
            _ => 5,
        },
        Step::Dismissed => 0,
    };
    length.saturating_sub(heard.len())
}

impl Request {
    /// Told as soon as it is there: a client of another kind waits for ever.
    fn first_byte(&mut self, heard: &[u8]) -> Result<(), Failure> {
        let expected = if self.step == Step::Login { LOGIN_VERSION } else { VERSION };
        match heard.first() {
            Some(first) if *first != expected => {
                let seems = seems_to_be(*first);
                self.is_old = *first == 4 && self.step == Step::Methods;
                let detail =
                    format!("{} was expected, and its first byte is {first:#04x}{seems}", self.awaits());
                Err(odd(detail)
                    .mend("let the client use SOCKS5: socks5h:// in curl, with names resolved by the proxy"))
            }
            _ => Ok(()),
        }
    }

    fn methods(&mut self, message: &[u8], say: &mut Vec<u8>) -> Result<(), Failure> {
        let offered = message.get(2..).unwrap_or_default();
        // The user name first: it carries the options.
        let (method, step) = match (offered.contains(&BY_NAME), offered.contains(&NO_LOGIN)) {
            (true, _) => (BY_NAME, Step::Login),
            (false, true) => (NO_LOGIN, Step::Request),
            (false, false) => (NO_METHOD, Step::Dismissed),
        };
        say.extend([VERSION, method]);
        self.step = step;
        match step {
            Step::Dismissed => {
                let detail = format!(
                    "the client offers the SOCKS5 methods {offered:?}, and neither 0 (none) nor 2 (user name)"
                );
                Err(odd(detail).mend("let it use no authentication, or a user name with any password"))
            }
            _ => Ok(()),
        }
    }

    fn login(&mut self, message: &[u8], say: &mut Vec<u8>) -> Result<(), Failure> {
        let length = message.get(1).map_or(0, |length| usize::from(*length));
        let name = message.get(2..2 + length).unwrap_or_default();
        let read = std::str::from_utf8(name).map_err(|_| "it is not text".to_owned()).and_then(Options::read);
        match read {
            Ok((options, user)) => {
                say.extend([LOGIN_VERSION, 0]);
                self.step = Step::Request;
                self.context = Context { options, user, ..Context::default() };
                Ok(())
            }
            Err(wrong) => {
                say.extend([LOGIN_VERSION, 1]);
                self.step = Step::Dismissed;
                let detail = format!("the SOCKS5 user name {}: {wrong}", quoted(name));
                Err(odd(detail)
                    .mend("write options as key=value, separated by semicolons: max-attempts=1;deadline=2s"))
            }
        }
    }

    fn request(&mut self, message: &[u8]) -> Result<(), Failure> {
        let [_, command, _, kind, address @ ..] = message else {
            return Err(odd("a SOCKS5 request is too short"));
        };
        if ![1, 3, 4].contains(kind) {
            self.code = Some(socks::ADDRESS_UNSUPPORTED);
            return Err(odd(format!("SOCKS5 has no address type {kind}")));
        }
        if *command != CONNECT {
            self.code = Some(socks::COMMAND_UNSUPPORTED);
            let detail =
                format!("the client asks for SOCKS5 command {command}, and nuncio knows 1 (CONNECT) only");
            return Err(odd(detail).mend("nuncio carries outgoing TCP connections only"));
        }
        let Some((address, port)) = address.split_last_chunk::<2>() else {
            return Err(odd("a SOCKS5 request is too short"));
        };
        let port = u16::from_be_bytes(*port);
        let host = match kind {
            1 => <[u8; 4]>::try_from(address).ok().map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
            4 => <[u8; 16]>::try_from(address).ok().map(|ip| IpAddr::V6(Ipv6Addr::from(ip)).to_canonical()),
            3 => {
                let name = address.get(1..).unwrap_or_default();
                match std::str::from_utf8(name).ok().and_then(|name| name.parse::<IpAddr>().ok()) {
                    Some(ip) => Some(ip.to_canonical()),
                    None => {
                        self.context.destination = Some(named(name, port)?);
                        return Ok(());
                    }
                }
            }
            _ => None,
        };
        let Some(ip) = host else { return Err(odd("a SOCKS5 request is too short")) };
        if port == 0 {
            return Err(odd(format!("the client asks for port 0 of {ip}")));
        }
        self.context.destination = Some(EndpointAddr { host: Host::Ip(ip), port });
        Ok(())
    }

    /// No, as far as it has come.
    pub(super) fn refused(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        match self.step {
            // "Rejected or failed", with a port and an address that mean nothing.
            Step::Methods if self.is_old => Some(vec![0, 0x5b, 0, 0, 0, 0, 0, 0]),
            Step::Methods => None,
            Step::Login => Some(vec![LOGIN_VERSION, 1]),
            Step::Request => Some(answer(self.code.unwrap_or_else(|| codes(refusal.failure.reason).1))),
            Step::Dismissed => Some(Vec::new()),
        }
    }
}

fn named(name: &[u8], port: u16) -> Result<EndpointAddr, Failure> {
    let text = std::str::from_utf8(name).ok().map(|name| format!("{name}:{port}"));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        odd(format!("the client asks for {} and port {port}, which is no destination", quoted(name)))
    })
}

/// Yes.
pub(super) fn granted() -> Vec<u8> {
    answer(0)
}

/// Where we dial from is nobody's business: 0.0.0.0:0, as most say.
fn answer(code: u8) -> Vec<u8> {
    vec![VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::super::testkit::hear_in_all_ways;
    use super::*;
    use crate::failure::{Reason, Stage};

    fn login(name: &str) -> Vec<u8> {
        [&[5, 2, 0, 2, 1, name.len() as u8][..], name.as_bytes(), &[3], b"any"].concat()
    }

    fn to(name: &str, port: u16) -> Vec<u8> {
        [&[5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &port.to_be_bytes()].concat()
    }

    fn refusal(request: &Request, reason: Reason) -> Option<Vec<u8>> {
        let failure = Failure::upstream(Stage::Connect, reason, "down");
        request.refused(&Refusal { failure: &failure, id: "ID", endpoint: None, attempts: 0 })
    }

    #[test]
    fn a_name_is_asked_for_and_what_follows_is_left() {
        let said = [&[5, 1, 0][..], &to("DB.example.com", 5432), b"\0\0\0\x08"].concat();
        let (request, (answer, heard, rest)) = hear_in_all_ways(Request::default, &said);
        let destination = heard.unwrap().unwrap().destination.unwrap();
        assert_eq!((destination.to_string().as_str(), answer), ("db.example.com:5432", vec![5, 0]));
        assert_eq!(rest, b"\0\0\0\x08");
        assert_eq!(refusal(&request, Reason::ConnectionRefused).unwrap()[..2], [5, 5]);
        assert_eq!(refusal(&request, Reason::DestinationNotFound).unwrap()[..2], [5, 2]);
    }

    #[test]
    fn addresses_are_asked_for_also_where_they_are_written_as_names() {
        for (address, expected) in [
            (&[1, 10, 0, 0, 5][..], "10.0.0.5:80"),
            (&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "[::1]:80"),
            (&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 5], "10.0.0.5:80"),
            (b"\x03\x0810.0.0.5", "10.0.0.5:80"),
            (b"\x03\x03::1", "[::1]:80"),
        ] {
            let said = [&[5, 1, 0, 5, 1, 0][..], address, &[0, 80]].concat();
            let (_, (_, heard, _)) = hear_in_all_ways(Request::default, &said);
            assert_eq!(heard.unwrap().unwrap().destination.unwrap().to_string(), expected);
        }
    }

    #[test]
    fn the_user_name_carries_the_options() {
        let said = [login("max-attempts=1;erp;correlation=7"), to("db", 1)].concat();
        let (_, (answer, heard, _)) = hear_in_all_ways(Request::default, &said);
        let context = heard.unwrap().unwrap();
        assert_eq!((context.options.attempts, context.user.as_deref()), (Some(1), Some("erp")));
        assert_eq!((context.options.correlation.as_deref(), answer), (Some("7"), vec![5, 2, 1, 0]));
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_that_the_client_awaits_then() {
        /// What the client says, what the failure says, what was answered till then, and how the refusal begins.
        type Case<'a> = (Vec<u8>, &'a str, &'a [u8], Option<&'a [u8]>);
        let cases: [Case<'_>; 9] = [
            (b"GET / HTTP/1.1\r\n\r\n".into(), "it begins as HTTP does", &[], None),
            (vec![0x16, 3, 1], "it begins with TLS", &[], None),
            (vec![4, 1, 0, 80], "SOCKS4", &[], Some(&[0, 0x5b, 0, 0, 0, 0, 0, 0])),
            (vec![5, 1, 1], "neither 0 (none) nor 2", &[5, 0xff], Some(&[])),
            (login("max-attemps=1"), "no option 'max-attemps'", &[5, 2, 1, 1], Some(&[])),
            ([&[5, 1, 0, 5, 2, 0, 1][..], &[0; 6]].concat(), "command 2", &[5, 0], Some(&[5, 7])),
            (vec![5, 1, 0, 5, 1, 0, 9, 1], "address type 9", &[5, 0], Some(&[5, 8])),
            ([&[5, 1, 0][..], &to("a b", 5)].concat(), "'a b' and port 5", &[5, 0], Some(&[5, 1])),
            ([&[5, 1, 0][..], &to("", 5)].concat(), "'' and port 5", &[5, 0], Some(&[5, 1])),
        ];
        for (said, says, answer, refused) in cases {
            let (request, heard) = hear_in_all_ways(Request::default, &said);
            let failure = heard.1.unwrap_err();
            assert!(failure.detail.contains(says) && failure.reason == Reason::BadPreface, "{failure}");
            assert_eq!(heard.0, answer, "{says}");
            let no = refusal(&request, failure.reason);
            assert!(
                no.as_deref().map(|no| no.starts_with(refused.unwrap_or(b"never"))) == refused.map(|_| true),
                "{says}: {no:?}"
            );
        }
    }

    #[test]
    fn every_reason_has_a_reply_of_its_own_protocol() {
        let request = Request { step: Step::Request, ..Request::default() };
        for reason in Reason::ALL {
            let reply = refusal(&request, *reason).unwrap();
            assert!(reply.len() == 10 && (1..=8).contains(&reply[1]), "{reason}: {reply:?}");
        }
    }
}
