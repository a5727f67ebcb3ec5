//! Values that are written as one string: durations, sizes, addresses, names, pins. Each parser says what is wrong in
//! words and what to write instead.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use rustls_pki_types::ServerName as CertificateName;
use toml::de::DeValue;

use super::kinds::{Fault, Word, fault, string};
use super::ports::UNWRITTEN;
use super::problem::Place;
use super::reader::{Reader, quoted};
use super::section::Kind;
use crate::addr::{EndpointAddr, ListenAddr};
use crate::discovery::{Origin, SrvName};
use crate::health::http::Url;
use crate::route::HostPattern;
use crate::tls::Pin;

/// Replaces `${NAME}` by the variable's value and `$$` by a dollar.
pub(super) fn expand(text: &str, environment: fn(&str) -> Option<String>) -> Result<String, Fault> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            expanded.push('$');
            rest = behind;
            continue;
        }
        let name = behind.strip_prefix('{').and_then(|behind| behind.split_once('}'));
        let Some((name, behind)) = name.filter(|(name, _)| is_variable(name)) else {
            return fault("a dollar stands alone", "write ${NAME} for a variable, or $$ for a dollar");
        };
        match environment(name) {
            Some(value) => expanded.push_str(&value),
            None => {
                let mend = format!("set {name} in the service's environment, or write the value itself");
                return fault(format!("the variable {name} is not set"), mend);
            }
        }
        rest = behind;
    }
    Ok(expanded + rest)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// No time-out is longer: what is longer is a typo, and far from where the clock's arithmetic overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, Fault> {
    let mend = "write a number and its unit, such as \"250ms\", \"3s\", \"2m\" or \"1h\"";
    // humantime 2.4 overflows on sums near u64::MAX seconds; numbers this short cannot come near.
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > 32 || digits > 9 {
        return fault(format!("{} is not a duration that it can have", quoted(text)), mend);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return fault(
            format!("{} has no unit", quoted(text)),
            format!("write \"{text}s\" for seconds, \"{text}ms\" for milliseconds"),
        );
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => fault(format!("{} is longer than a year", quoted(text)), mend),
        Ok(duration) => Ok(duration),
        Err(_) => fault(format!("{} is not a duration", quoted(text)), mend),
    }
}

/// Declares a [`Word`]: what it gives, what it wants, an example, the unit of bare numbers, and the parser.
macro_rules! word {
    ($(#[$about:meta])* $name:ident -> $value:ty, $wants:literal, $example:literal, $unit:expr, $parse:expr) => {
        $(#[$about])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Word for $name {
            type Value = $value;
            const WANTS: &'static str = $wants;
            const EXAMPLE: &'static str = $example;
            const UNIT: Option<&'static str> = $unit;

            fn parse(text: &str) -> Result<$value, Fault> {
                let parse: fn(&str) -> Result<$value, Fault> = $parse;
                parse(text)
            }
        }
    };
}

word! {
    /// A duration above zero.
    Time -> Duration, "a duration", "\"3s\"", Some("s"), |text| match duration(text)? {
        Duration::ZERO => fault("is zero: everything would fail at once", "write a duration above zero"),
        duration => Ok(duration),
    }
}

word! {
    /// A duration that may be zero.
    TimeOrZero -> Duration, "a duration", "\"3s\"", Some("s"), duration
}

word! {
    /// A duration that the kernel counts in whole seconds in 15 bits.
    KernelTime -> Duration, "a duration", "\"15s\"", Some("s"), |text| {
        let duration = duration(text)?;
        match duration.as_secs() {
            1..=32767 if duration.subsec_nanos() == 0 => Ok(duration),
            _ => fault(
                format!("the kernel takes whole seconds from 1s to 9h here, not {}", quoted(text)),
                "write for example \"15s\"",
            ),
        }
    }
}

word! {
    /// Bytes.
    Size -> usize, "a size", "\"64MiB\"", Some("B"), |text| {
        let mend = "write a number and its unit, such as \"64KiB\", \"16MiB\" or \"1GiB\"";
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim_start() {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "" if !number.is_empty() => return fault(format!("{} has no unit", quoted(text)), mend),
            _ => return fault(format!("{} is not a size", quoted(text)), mend),
        };
        match number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift)) {
            Some(size) => Ok(size),
            None => fault(format!("{} is not a size", quoted(text)), mend),
        }
    }
}

word! {
    /// Events a second.
    Rate -> u32, "a rate", "\"100/s\"", Some("/s"), |text| {
        let mend = "write how many a second, such as \"100/s\"";
        match text.strip_suffix("/s").map(|number| number.trim_end().parse()) {
            Some(Ok(rate)) if rate > 0 => Ok(rate),
            _ => fault(format!("{} is not a rate", quoted(text)), mend),
        }
    }
}

word! {
    /// `FROM..TO`
    Backoff -> (Duration, Duration), "two durations", "\"25ms..1s\"", None, |text| {
        let Some((min, max)) = text.split_once("..") else {
            return fault(
                format!("{} is not a range of durations", quoted(text)),
                "write the first and the longest pause, such as \"25ms..1s\"",
            );
        };
        let (min, max) = (Time::parse(min.trim())?, Time::parse(max.trim())?);
        match min <= max {
            true => Ok((min, max)),
            false => fault("the first pause is longer than the longest", "write the shorter one first"),
        }
    }
}

word! {
    /// Permissions, as in chmod(1).
    Mode -> u32, "permissions as in chmod", "\"0660\"", None, |text| match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.len() >= 3 => Ok(mode),
        _ => fault(format!("{} is not a file mode", quoted(text)), "write it in octal digits, such as \"0660\""),
    }
}

word! {
    /// A text that is not empty.
    Text -> String, "a string", "\"...\"", None, |text| match text.trim() {
        "" => fault("is empty", "write a value, or remove the key"),
        text => Ok(text.to_owned()),
    }
}

word! {
    /// A filter of `tracing`: a level, or TARGET=LEVEL, separated by commas.
    Level -> String, "a level", "\"info\"", None, |text| {
        // tracing's own parser takes an unknown level for a target and logs nothing: check the words here.
        let levels = ["trace", "debug", "info", "warn", "error", "off"];
        let wrong = text.split(',').map(str::trim).find(|part| {
            let (target, level) = part.rsplit_once('=').unwrap_or(("nuncio", part));
            target.is_empty() || !levels.contains(&level)
        });
        match wrong {
            None => Ok(text.to_owned()),
            Some(part) => fault(
                format!("{} is not a level", quoted(part)),
                "write error, warn, info, debug or trace; for one part of the program nuncio::upstream=debug",
            ),
        }
    }
}

word! {
    /// A network in CIDR notation, or an address.
    Network -> IpNet, "a network", "\"10.0.0.0/8\"", None, |text| {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        match text.parse::<IpNet>() {
            Ok(network) if network.trunc() == network => Ok(network),
            Ok(network) => fault(
                format!("{} has bits behind its mask", quoted(text)),
                format!("write \"{}\" for the network, \"{}\" for the one address", network.trunc(), network.addr()),
            ),
            Err(_) => fault(
                format!("{} is not a network", quoted(text)),
                "write an address or a network, such as \"10.1.2.3\", \"10.0.0.0/8\" or \"fd00::/8\"",
            ),
        }
    }
}

word! {
    /// A destination, or many of them.
    HostText -> HostPattern, "a host", "\"db.example.com\"", None, |text| {
        let mend = "write a name, *.NAME, an IP address or a network, with :PORT behind it for one port only";
        text.parse().map_err(|error: String| split_mend(&error, mend))
    }
}

word! {
    /// An IP address.
    Ip -> IpAddr, "an IP address", "\"10.0.0.5\"", None, |text| match text.parse() {
        Ok(ip) => Ok(ip),
        Err(_) => fault(format!("{} is not an IP address", quoted(text)), "write an address of this host, such as \"10.0.0.5\""),
    }
}

word! {
    /// A DNS server: an address, with port 53 unless it names one.
    DnsServer -> SocketAddr, "a DNS server's address", "\"10.0.0.53\"", None, |text| {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, 53));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(address),
            _ => fault(
                format!("{} is not the address of a DNS server", quoted(text)),
                "write an IP address, with a port where it is not 53: \"10.0.0.53\" or \"[fd00::53]:5353\"",
            ),
        }
    }
}

word! {
    /// An endpoint. Without a port it has [`UNWRITTEN`] for one, and gets its protocol's.
    Endpoint -> EndpointAddr, "HOST:PORT", "\"db.example.com:5432\"", None, |text| {
        let mend = "write HOST:PORT, such as \"db.example.com:5432\", \"10.0.0.5:5432\" or \"[fd00::5]:5432\"";
        if text.contains("://") {
            return fault(format!("{} is a URL", quoted(text)), "write only its host and its port, HOST:PORT");
        }
        if text.ends_with(']') || !text.contains(':') {
            let host = format!("{text}:1").parse::<EndpointAddr>();
            return match host {
                Ok(address) => Ok(EndpointAddr { port: UNWRITTEN, ..address }),
                Err(_) => fault(format!("{} is not a host name or an address", quoted(text)), mend),
            };
        }
        text.parse().map_err(|error: String| split_mend(&error, mend))
    }
}

word! {
    /// A name with SRV records.
    Service -> SrvName, "the name of a service", "\"_postgres._tcp.db.example.com\"", None, |text| {
        text.parse().map_err(|error: String| split_mend(&error, "write _SERVICE._tcp.DOMAIN"))
    }
}

/// Where a registry answers.
#[derive(Debug)]
pub(super) struct RegistryAddress;

impl Kind for RegistryAddress {
    type Value = Origin;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Origin> {
        let example = "\"http://127.0.0.1:8500\"";
        let text = string(value, place, reader, "a URL", example, None)?;
        let error = match text.parse::<Origin>() {
            Ok(origin) => return Some(origin),
            Err(error) => error,
        };
        let Fault { message, mend } = split_mend(&error, &format!("write for example {example}"));
        match text.contains(['?', '@']) {
            true => reader.problem_unseen(place, &message, &mend),
            false => reader.problem(place, message, mend),
        }
        None
    }
}

/// What a health check asks.
#[derive(Debug)]
pub(super) struct HealthUrl;

impl Kind for HealthUrl {
    type Value = Url;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Url> {
        let example = "\"https://{host}:8008/primary\"";
        let text = string(value, place, reader, "a URL", example, None)?;
        let error = match Url::parse(&text) {
            Ok(url) => return Some(url),
            Err(error) => error,
        };
        let Fault { message, mend } = split_mend(&error, &format!("write for example {example}"));
        // A token may stand in it, or a password.
        match text.contains(['?', '@']) {
            true => reader.problem_unseen(place, &message, &mend),
            false => reader.problem(place, message, mend),
        }
        None
    }
}

word! {
    /// SNI, and the name that a certificate must carry.
    ServerName -> String, "a server's name", "\"db.example.com\"", None, |text| {
        let mend = "write a name or an address as in the server's certificate, such as \"db.example.com\"";
        if CertificateName::try_from(text).is_ok() {
            return Ok(text.to_owned());
        }
        let without_port = text.rsplit_once(':').map(|(name, _)| name);
        match without_port.filter(|name| CertificateName::try_from(*name).is_ok()) {
            Some(name) => fault(format!("{} has a port behind the name", quoted(text)), format!("write {}", quoted(name))),
            None if text.starts_with("*.") => fault(
                format!("{} is a pattern", quoted(text)),
                format!("write one name that the certificate's pattern covers, such as \"db{}\"", &text[1..]),
            ),
            None => fault(format!("{} is not a host name or an address", quoted(text)), mend),
        }
    }
}

word! {
    /// The hash of a key or a certificate.
    PinText -> Pin, "a pin", "\"spki-sha256:...\"", None, |text| {
        let mend = "write spki-sha256: (the key's) or leaf-sha256: (the certificate's) and the SHA-256 in hex or base64; nuncio probe prints both";
        text.parse().map_err(|error: String| split_mend(&error, mend))
    }
}

/// The parsers of `addr`, `health` and `tls` put what to write behind what is wrong; here each has a line of its own.
fn split_mend(error: &str, otherwise: &str) -> Fault {
    let (message, mend) = match (error.split_once(" (write "), error.split_once(": write ")) {
        (Some((message, mend)), _) => (message, format!("write {}", mend.trim_end_matches(')'))),
        (None, Some((message, mend))) => (message, format!("write {mend}")),
        (None, None) => (error, otherwise.to_owned()),
    };
    Fault { message: message.to_owned(), mend }
}

/// A file's path, relative to the file that names it.
#[derive(Debug)]
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<PathBuf> {
        let text = string(value, place, reader, "a file's path", "\"/etc/nuncio/client.pem\"", None)?;
        // Whoever puts the key itself into a variable must not read it back in a log.
        if text.contains("-----BEGIN") || text.contains('\n') {
            let mend = "write it to a file that only the service can read, and name that file here";
            reader.problem_unseen(place, "holds the contents of a file instead of its path", mend);
            return None;
        }
        if text.trim().is_empty() || text.contains('\0') {
            reader.problem(place, "is not a file's path", "name the file, or remove the key");
            return None;
        }
        Some(reader.directory(place.file).join(text))
    }
}

/// Where to listen.
#[derive(Debug)]
pub(super) struct Listen;

impl Kind for Listen {
    type Value = ListenAddr;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<ListenAddr> {
        let text = string(value, place, reader, "an address", "\"127.0.0.1:5432\"", None)?;
        match text.parse() {
            Ok(ListenAddr::Unix(_)) if cfg!(not(unix)) => {
                reader.problem(place, "this system has no Unix sockets", "write 127.0.0.1:PORT");
                None
            }
            Ok(ListenAddr::Systemd(_)) if cfg!(not(target_os = "linux")) => {
                let message = "only systemd passes sockets, and it is not on this system";
                reader.problem(place, message, "write 127.0.0.1:PORT");
                None
            }
            Ok(ListenAddr::Unix(path)) => {
                let path = reader.directory(place.file).join(path);
                // sockaddr_un has 108 bytes on Linux, 104 on the BSDs and macOS, the closing zero included.
                if path.as_os_str().len() > 103 {
                    reader.problem(
                        place,
                        format!(
                            "the socket's path has {} bytes, and the kernel takes 103",
                            path.as_os_str().len()
                        ),
                        "choose a shorter one, such as unix:/run/nuncio/orders.sock",
                    );
                    return None;
                }
                Some(ListenAddr::Unix(path))
            }
            Ok(address) => Some(address),
            Err(error) => {
                let otherwise = "write for example \"127.0.0.1:5432\" or \"unix:/run/nuncio/orders.sock\"";
                let Fault { message, mend } = split_mend(&error, otherwise);
                reader.problem(place, message, mend);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_and_what_is_not_one_is_refused() {
        let environment = |name: &str| (name == "HOST").then(|| "db".to_owned());
        assert_eq!(expand("${HOST}.x:${HOST}", environment).unwrap(), "db.x:db");
        assert_eq!(expand("a$$b$${HOST}", environment).unwrap(), "a$b${HOST}");
        assert!(expand("${NONE}", environment).unwrap_err().message.contains("NONE is not set"));
        for text in ["$", "a$b", "${", "${}", "${A B}", "$HOST"] {
            assert!(expand(text, environment).unwrap_err().mend.contains("$$"), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_no_text_makes_them_panic() {
        assert_eq!(Time::parse("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(TimeOrZero::parse("0s").unwrap(), Duration::ZERO);
        for text in ["", "3", "3 parsecs", "-3s", "0s", "1e9s", "2y", "18446744073709551615s1000ms"] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
        assert!(KernelTime::parse("1500ms").is_err());
    }

    #[test]
    fn a_level_that_tracing_would_take_for_a_target_is_refused() {
        assert!(Level::parse("info,nuncio::upstream=debug").is_ok());
        for text in ["", "verbose", "nuncio=loud", "info,", "=info"] {
            assert!(Level::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_have_their_units() {
        assert_eq!(Size::parse("64KiB").unwrap(), 65536);
        for text in ["64", "64KB", "KiB", "1.5MiB", "99999999999GiB", ""] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
        assert_eq!(Rate::parse("100/s").unwrap(), 100);
        for text in ["100", "0/s", "5/m", "/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }
}
