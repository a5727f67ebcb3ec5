//! options: what a client may ask for its own connection: how often, how long, where to, and what to call it.
//!
//! Owns their names, spellings and bounds, which are the same in SOCKS5's user name (`key=value;key=value`), in the PROXY
//! protocol's TLV and, as `Nuncio-Key: value`, in HTTP. What nobody knows is refused: a misspelt wish not to retry would be
//! retried.

use std::time::Duration;

use super::quoted;
use crate::addr::EndpointAddr;

/// What a client asks for. Each narrows what the file allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Endpoints to be tried at most; 1: once only.
    pub attempts: Option<u32>,
    /// How long it may take to establish the connection.
    pub deadline: Option<Duration>,
    /// Only this upstream.
    pub upstream: Option<Box<str>>,
    /// Only this endpoint.
    pub endpoint: Option<EndpointAddr>,
    /// How the client calls it.
    pub correlation: Option<Box<str>>,
    /// The trace that it belongs to (W3C Trace Context).
    pub traceparent: Option<Box<str>>,
}

/// Their names.
pub const KEYS: [&str; 6] =
    ["max-attempts", "deadline", "upstream", "endpoint", "correlation", "traceparent"];

/// More attempts than this the file does not allow either.
const MOST_ATTEMPTS: u32 = 100;
/// No connection is waited for longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Of a name that somebody else chose, in bytes.
const LONGEST_NAME: usize = 128;

impl Options {
    /// Takes one in.
    ///
    /// # Errors
    /// There is none of that name, it is there twice, or it has no such value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong =
            |wants: &str| format!("{key}={} is not {wants}", quoted(value.as_bytes()).trim_matches('\''));
        let name = |wants| match value.len() <= LONGEST_NAME && value.bytes().all(|b| b.is_ascii_graphic()) {
            true if !value.is_empty() => Ok(Box::from(value)),
            _ => Err(wrong(wants)),
        };
        let is_new = match key {
            "max-attempts" => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                let attempts = value.parse().ok().filter(|n| digits && (1..=MOST_ATTEMPTS).contains(n));
                let attempts = attempts.ok_or_else(|| wrong("a number from 1 to 100"))?;
                self.attempts.replace(attempts).is_none()
            }
            "deadline" => {
                let deadline = duration(value).ok_or_else(|| wrong("a duration such as 2s or 500ms"))?;
                self.deadline.replace(deadline).is_none()
            }
            "upstream" => self.upstream.replace(name("an upstream's name")?).is_none(),
            "endpoint" => {
                let endpoint = value.parse().map_err(|_| wrong("HOST:PORT"))?;
                self.endpoint.replace(endpoint).is_none()
            }
            "correlation" => {
                let wants = "a name of at most 128 printable characters without blanks";
                self.correlation.replace(name(wants)?).is_none()
            }
            // One that is none is left out: a broken trace is no reason to break the connection (Trace Context, 3.2.2.5).
            "traceparent" => {
                let parent = is_traceparent(value).then(|| Box::from(value));
                std::mem::replace(&mut self.traceparent, parent).is_none()
            }
            key => {
                let known = KEYS.join(", ");
                return Err(format!("there is no option {}; there are {known}", quoted(key.as_bytes())));
            }
        };
        if is_new { Ok(()) } else { Err(format!("{key} is there twice")) }
    }

    /// Reads `key=value;key=value`. A word without `=` is who the client says it is.
    ///
    /// # Errors
    /// As [`Options::set`]; or there are two such words.
    pub fn read(text: &str) -> Result<(Options, Option<Box<str>>), String> {
        let (mut options, mut user) = (Options::default(), None);
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => options.set(key.trim(), value.trim())?,
                None if user.is_none() => user = Some(Box::from(part)),
                None => return Err(format!("{} is no key=value", quoted(part.as_bytes()))),
            }
        }
        Ok((options, user))
    }
}

fn duration(text: &str) -> Option<Duration> {
    // humantime 2.4 overflows on sums near u64::MAX seconds; numbers this short cannot come near.
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > 32 || digits > 9 {
        return None;
    }
    let duration = humantime::parse_duration(text).ok()?;
    (duration > Duration::ZERO && duration <= LONGEST).then_some(duration)
}

/// `00-` trace `-` parent `-` flags, in lower-case hexadecimal; later versions may have more behind.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(version), Some(trace), Some(parent), Some(flags)) = (version, trace, parent, flags) else {
        return false;
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let rest = version != "00" || parts.next().is_none();
    let whole = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    whole && rest && version != "ff" && !zero(trace) && !zero(parent) && text.len() <= LONGEST_NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn options_are_read_from_one_line() {
        let text = format!(
            "max-attempts=1; deadline=2s;upstream=orders;endpoint=[::1]:5432;correlation=job/7;traceparent={TRACE};erp;"
        );
        let (options, user) = Options::read(&text).unwrap();
        assert_eq!((options.attempts, options.deadline), (Some(1), Some(Duration::from_secs(2))));
        assert_eq!(options.endpoint.unwrap().to_string(), "[::1]:5432");
        assert_eq!(
            (options.upstream.as_deref(), options.correlation.as_deref()),
            (Some("orders"), Some("job/7"))
        );
        assert_eq!((options.traceparent.as_deref(), user.as_deref()), (Some(TRACE), Some("erp")));
        assert_eq!(Options::read("").unwrap(), Default::default());
    }

    /// A wish that is not understood must not be taken for none.
    #[test]
    fn what_is_no_option_is_refused_by_its_name() {
        for (text, says) in [
            ("max-attempt=1", "there is no option 'max-attempt'"),
            ("max-attempts=0", "1 to 100"),
            ("max-attempts=+1", "1 to 100"),
            ("max-attempts=1;max-attempts=2", "twice"),
            ("deadline=0s", "a duration"),
            ("deadline=9", "a duration"),
            ("deadline=18446744073709551615s 1000ms", "a duration"),
            ("deadline=2d", "a duration"),
            ("endpoint=db1", "HOST:PORT"),
            ("correlation=", "printable"),
            ("correlation=a b", "printable"),
            ("one;two", "'two' is no key=value"),
        ] {
            let error = Options::read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Options::read(&format!("correlation={}", "x".repeat(129))).is_err());
    }

    #[test]
    fn a_trace_that_is_none_is_left_out() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for text in
            ["", "00", zero, &TRACE.to_uppercase(), &TRACE.replace("00-4", "ff-4"), &format!("{TRACE}-x")]
        {
            assert_eq!(Options::read(&format!("traceparent={text}")).unwrap().0.traceparent, None, "{text}");
        }
        let later = format!("01{}-more", &TRACE[2..]);
        assert!(Options::read(&format!("traceparent={later}")).unwrap().0.traceparent.is_some());
    }
}
