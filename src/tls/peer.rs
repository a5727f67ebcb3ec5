//! What a certificate says of itself, for people: subject, names, issuer, dates, and what makes it unusual.
//!
//! Reads also what the verifier cannot (X.509 v1, odd extensions), because that is what has to be explained. Judges
//! nothing: that is `verify`'s, and why it was judged so is `diagnose`'s.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::Pin;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerFacts {
    /// Whose it is: `CN=db.example.com, O=Example`.
    pub subject: String,
    /// The names and addresses it is valid for (subjectAltName).
    pub san: Vec<String>,
    /// Who issued it.
    pub issuer: String,
    /// Valid from.
    pub not_before: Date,
    /// Valid until.
    pub not_after: Date,
    /// X.509 version: 3, or 1 for what old tools made.
    pub version: u32,
    /// It says that it is a certificate authority.
    pub ca: bool,
    /// Subject and issuer are the same.
    pub self_signed: bool,
    /// `RSA 2048`, `EC 256`.
    pub key: String,
    /// Its serial number in hex.
    pub serial: String,
    /// The pin of its key, as the configuration takes it.
    pub pin: Option<String>,
    /// Bits of its key, when it is an RSA key.
    #[serde(skip)]
    pub rsa_bits: Option<usize>,
}

impl PeerFacts {
    /// When it is good, and how that stands now: `from 2020-01-01T00:00:00Z until 2030-01-01T00:00:00Z (in 12 days)`.
    pub fn validity(&self, now: Date) -> String {
        let (from, until) = (self.not_before, self.not_after);
        let still = until.apart(now);
        match (from > now, until < now) {
            (_, true) => format!("from {from} until {until} (expired {still} ago)"),
            (true, false) => format!("from {from} (begins in {}) until {until}", from.apart(now)),
            (false, false) => format!("from {from} until {until} (in {still})"),
        }
    }

    /// It is good now, and it is time to have it renewed: within a sixth of its life, and within 30 days, it ends.
    pub fn ends_soon(&self, now: Date) -> bool {
        let left = self.not_after.0.saturating_sub(now.0);
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        self.not_before <= now && left >= 0 && left < (life / 6).min(30 * 86_400)
    }
}

/// What this certificate says of itself. One that cannot be read says so in its subject.
pub fn describe_peer(certificate: &CertificateDer<'_>) -> PeerFacts {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return PeerFacts {
            subject: "(a certificate that cannot be read)".into(),
            san: Vec::new(),
            issuer: String::new(),
            not_before: Date(0),
            not_after: Date(0),
            version: 0,
            ca: false,
            self_signed: false,
            key: String::new(),
            serial: String::new(),
            pin: None,
            rsa_bits: None,
        };
    };
    let (key, rsa_bits) = match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = significant_bits(rsa.modulus);
            (format!("RSA {bits}"), Some(bits))
        }
        Ok(PublicKey::EC(point)) => (format!("EC {}", point.key_size()), None),
        Ok(PublicKey::DSA(_)) => ("DSA".into(), None),
        // Ed25519 and whatever comes after it are told by their object identifier.
        Ok(_) | Err(_) => match parsed.public_key().algorithm.algorithm.to_id_string().as_str() {
            "1.3.101.112" => ("Ed25519".into(), None),
            "1.3.101.113" => ("Ed448".into(), None),
            oid => (oid.into(), None),
        },
    };
    let san = match parsed.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(alternative_name).collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    PeerFacts {
        subject: name(parsed.subject()),
        san,
        issuer: name(parsed.issuer()),
        not_before: Date(parsed.validity().not_before.timestamp()),
        not_after: Date(parsed.validity().not_after.timestamp()),
        version: parsed.version().0.saturating_add(1),
        ca: parsed.is_ca(),
        self_signed: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        key,
        serial: parsed.raw_serial_as_string(),
        pin: Pin::of_key(certificate).map(|pin| pin.to_string()),
        rsa_bits,
    }
}

/// Whose certificate it is, and every name that it carries: those it is valid for, and its subject's common name, which is the
/// only one in many a client's.
pub(super) fn names_of(certificate: &CertificateDer<'_>) -> (String, Vec<String>) {
    let PeerFacts { subject, san: mut names, .. } = describe_peer(certificate);
    if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
        let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(printable);
        for name in common {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    (subject, names)
}

/// The SubjectPublicKeyInfo of a certificate as it stands in it, DER.
pub(super) fn key_info(certificate: &[u8]) -> Option<&[u8]> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed.tbs_certificate.subject_pki.raw)
}

/// A distinguished name in DER, for a person.
pub(super) fn distinguished_name(der: &[u8]) -> String {
    match X509Name::from_der(der) {
        Ok((_, parsed)) => name(&parsed),
        Err(_) => "(a name that cannot be read)".into(),
    }
}

/// Names come from a peer: what could play tricks with a terminal or a log line is spelled out.
fn name(name: &X509Name<'_>) -> String {
    match name.to_string() {
        text if text.is_empty() => "(no name)".into(),
        text => printable(&text),
    }
}

fn printable(text: &str) -> String {
    const LONGEST: usize = 256;
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for letter in text.chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        match letter.is_control() {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(printable(dns)),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                return Some(IpAddr::from(v4).to_string());
            }
            <[u8; 16]>::try_from(*bytes).ok().map(|v6| IpAddr::from(v6).to_string())
        }
        GeneralName::URI(uri) => Some(printable(uri)),
        GeneralName::RFC822Name(mail) => Some(printable(mail)),
        // Names of other kinds are no server's name, and their bytes tell a reader nothing.
        _ => None,
    }
}

fn significant_bits(modulus: &[u8]) -> usize {
    let significant = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
    significant.len() * 8 - significant.first().map_or(0, |first| first.leading_zeros() as usize)
}

/// A point in time as certificates have it, in whole seconds of the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub i64);

impl Date {
    /// What the clock says.
    pub fn of(time: SystemTime) -> Date {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Date(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            Err(before) => Date(-i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX)),
        }
    }

    /// How far two points are apart, in the largest unit that says enough: `3 days`, `90 minutes`.
    pub fn apart(self, other: Date) -> String {
        let seconds = self.0.abs_diff(other.0);
        let (count, unit) = match seconds {
            0..120 => (seconds, "second"),
            120..7_200 => (seconds / 60, "minute"),
            7_200..172_800 => (seconds / 3_600, "hour"),
            172_800..63_072_000 => (seconds / 86_400, "day"),
            _ => (seconds / 31_536_000, "year"),
        };
        format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

impl From<Date> for SystemTime {
    fn from(date: Date) -> SystemTime {
        let seconds = Duration::from_secs(date.0.unsigned_abs());
        let time = if date.0 < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
        time.unwrap_or(UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC. The days are turned into a date by the usual arithmetic on years that begin in March, so that a
/// leap day is the last day of its year.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let from_march_0 = days + 719_468;
        let (era, day_of_era) = (from_march_0.div_euclid(146_097), from_march_0.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_printed_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Date(seconds).to_string(), text);
        }
    }

    #[test]
    fn distances_are_told_in_a_unit_that_says_enough() {
        for (seconds, text) in [
            (1, "1 second"),
            (90, "90 seconds"),
            (5_400, "90 minutes"),
            (86_400, "24 hours"),
            (950_400, "11 days"),
        ] {
            assert_eq!(Date(0).apart(Date(seconds)), text);
            assert_eq!(Date(seconds).apart(Date(0)), text);
        }
        assert_eq!(Date(0).apart(Date(94_694_400)), "3 years");
    }

    #[test]
    fn a_certificate_s_dates_are_told_with_how_they_stand_now() {
        let day = 86_400;
        let facts = PeerFacts {
            not_before: Date(0),
            not_after: Date(100 * day),
            ..describe_peer(&CertificateDer::from(Vec::new()))
        };
        for (now, soon, text) in [
            (-2 * day, false, "from 1970-01-01T00:00:00Z (begins in 2 days) until 1970-04-11T00:00:00Z"),
            (50 * day, false, "from 1970-01-01T00:00:00Z until 1970-04-11T00:00:00Z (in 50 days)"),
            (88 * day, true, "from 1970-01-01T00:00:00Z until 1970-04-11T00:00:00Z (in 12 days)"),
            (103 * day, false, "from 1970-01-01T00:00:00Z until 1970-04-11T00:00:00Z (expired 3 days ago)"),
        ] {
            assert_eq!((facts.validity(Date(now)).as_str(), facts.ends_soon(Date(now))), (text, soon));
        }
    }

    #[test]
    fn a_certificate_that_is_garbage_is_described_as_such() {
        let facts = describe_peer(&CertificateDer::from(vec![0x30, 3, 1, 2, 3]));
        assert_eq!(facts.subject, "(a certificate that cannot be read)");
        assert_eq!(facts.pin, None);
    }

    #[test]
    fn a_certificate_with_flipped_bits_never_panics() {
        use rustls_pki_types::pem::PemObject;
        let mut rng = fastrand::Rng::with_seed(11);
        for file in ["server.pem", "server-v1-rsa.pem", "client-no-purpose.pem"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pki").join(file);
            let good = CertificateDer::from_pem_file(path).unwrap();
            for _ in 0..2_000 {
                let mut bytes = good.to_vec();
                for _ in 0..rng.usize(1..4) {
                    let place = rng.usize(..bytes.len());
                    bytes[place] = rng.u8(..);
                }
                bytes.truncate(rng.usize(bytes.len() / 2..=bytes.len() * 2).min(bytes.len()));
                let facts = describe_peer(&CertificateDer::from(bytes));
                assert!(facts.subject.len() < 600 && !facts.subject.contains('\n'));
            }
        }
    }

    #[test]
    fn a_peer_s_names_cannot_play_tricks_with_a_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert!(printable(&"x".repeat(9_000)).len() < 300);
    }
}
