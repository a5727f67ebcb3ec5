//! What a file of endpoints may say, in JSON or TOML, and where it is wrong. Pure.

use std::fmt;
use std::path::Path;

use rustls_pki_types::ServerName;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor, value};

use crate::addr::EndpointAddr;
use crate::upstream::EndpointSpec;

/// In which of them it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Notation {
    Json,
    Toml,
}

impl Notation {
    /// By the name's end.
    pub(super) fn of(path: &Path) -> Result<Notation, String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Notation::Json),
            Some("toml") => Ok(Notation::Toml),
            _ => Err("its name says neither JSON nor TOML: write it as NAME.json or NAME.toml".to_owned()),
        }
    }

    /// What it names; else what is wrong, with the place.
    pub(super) fn read(self, bytes: &[u8]) -> Result<Contents, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let (line, column) = place(&String::from_utf8_lossy(&bytes[..error.valid_up_to()]));
            format!("line {line}:{column}: it is not UTF-8")
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err("it is empty: has its writer not finished?".to_owned());
        }
        let entries = match self {
            Notation::Json => serde_json::from_str::<Entries>(text).map_err(|error| {
                let told = error.to_string();
                let told = told.split(" at line ").next().unwrap_or_default();
                format!("line {}:{}: {told}", error.line(), error.column())
            })?,
            Notation::Toml => toml::from_str::<Entries>(text).map_err(|error| {
                let at = error.span().map_or(text.len(), |span| span.start);
                let (line, column) = place(text.get(..at).unwrap_or(text));
                format!("line {line}:{column}: {}", error.message())
            })?,
        };
        let open_ended =
            self == Notation::Toml && text.lines().any(|line| line.trim_start().starts_with("[["));
        if open_ended && !text.ends_with('\n') {
            return Err("its last line has no end: has its writer not finished?".to_owned());
        }
        Ok(Contents { endpoints: entries.0.into_iter().map(|entry| entry.0).collect(), open_ended })
    }
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) endpoints: Vec<EndpointSpec>,
    /// It would look whole if its end were missing: tables one after the other, `[[endpoints]]`. A list in brackets would not.
    pub(super) open_ended: bool,
}

/// Line and column behind a text, from 1.
fn place(before: &str) -> (usize, usize) {
    let line = before.matches('\n').count() + 1;
    (line, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
}

/// A list of endpoints, or a table with one beneath `endpoints`: TOML has no lists on their own.
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;
        impl<'de> Visitor<'de> for Both {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of endpoints")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Entries, A::Error> {
                Vec::deserialize(value::SeqAccessDeserializer::new(entries)).map(Entries)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Entries, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Table {
                    endpoints: Vec<Entry>,
                }
                let table = Table::deserialize(value::MapAccessDeserializer::new(table))?;
                Ok(Entries(table.endpoints))
            }
        }
        deserializer.deserialize_any(Both)
    }
}

/// HOST:PORT, or a table with more.
struct Entry(EndpointSpec);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Address,
    weight: Option<u32>,
    tier: Option<u16>,
    backup: Option<bool>,
    zone: Option<String>,
    server_name: Option<String>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"HOST:PORT\", or a table with an address")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
                text.parse().map(|address| Entry(EndpointSpec::new(address))).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Entry, A::Error> {
                let table = Table::deserialize(value::MapAccessDeserializer::new(table))?;
                table.spec().map(Entry).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Table {
    fn spec(self) -> Result<EndpointSpec, String> {
        let Table { address: Address(address), weight, tier, backup, zone, server_name } = self;
        let weight = weight.unwrap_or(1);
        if weight > 1000 {
            return Err(format!("weight {weight} is not in 0 to 1000"));
        }
        let tier = match (tier, backup) {
            (Some(_), Some(_)) => return Err("tier and backup say the same: keep one of them".to_owned()),
            (Some(tier), None) => tier,
            (None, backup) => u16::from(backup.unwrap_or(false)),
        };
        if let Some(name) = &server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            return Err(format!("server_name {name:?} is not a host name or an address"));
        }
        Ok(EndpointSpec {
            weight,
            tier,
            zone: zone.map(Into::into),
            server_name,
            ..EndpointSpec::new(address)
        })
    }
}

struct Address(EndpointAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Address).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Vec<String>, String> {
        shown(Notation::Json.read(text.as_bytes()))
    }

    fn toml(text: &str) -> Result<Vec<String>, String> {
        shown(Notation::Toml.read(text.as_bytes()))
    }

    fn shown(read: Result<Contents, String>) -> Result<Vec<String>, String> {
        let show = |spec: &EndpointSpec| {
            let EndpointSpec { address, weight, tier, zone, server_name, .. } = spec;
            let more = [zone.as_deref(), server_name.as_deref()].map(Option::unwrap_or_default).join(" ");
            format!("{address} {weight} {tier} {more}").trim_end().to_owned()
        };
        read.map(|contents| contents.endpoints.iter().map(show).collect())
    }

    #[test]
    fn a_list_of_addresses_and_tables_says_the_same_in_both_notations() {
        let wanted = ["db1:5432 1 0", "10.0.0.5:5432 7 2 eu-1 db.example.com", "[::1]:5432 1 1"];
        let wanted = Ok(wanted.map(String::from).to_vec());
        let list = r#"["db1:5432",
            {"address": "10.0.0.5:5432", "weight": 7, "tier": 2, "zone": "eu-1", "server_name": "db.example.com"},
            {"address": "[::1]:5432", "backup": true}]"#;
        assert_eq!(json(list), wanted);
        assert_eq!(json(&format!("{{\"endpoints\": {list}}}")), wanted);
        let inline = r#"endpoints = ["db1:5432",
            { address = "10.0.0.5:5432", weight = 7, tier = 2, zone = "eu-1", server_name = "db.example.com" },
            { address = "[::1]:5432", backup = true }]"#;
        assert_eq!(toml(inline), wanted);
        assert_eq!(toml("[[endpoints]]\naddress = \"db1:5432\"\n"), Ok(vec!["db1:5432 1 0".to_owned()]));
        assert_eq!(json("[]"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_column() {
        for (text, told) in [
            ("[\"db1:5432\",\n \"db2\"]", "line 2:6: 'db2' has no port"),
            ("[\"db1:5432\",\n \"db2:54", "line 2:8: EOF while parsing a string"),
            ("[{\"adress\": \"a:1\"}]", "line 1:10: unknown field `adress`"),
            ("[{\"weight\": 1}]", "line 1:14: missing field `address`"),
            ("[{\"address\": \"a:1\", \"weight\": 1001}]", "weight 1001 is not in 0 to 1000"),
            ("[{\"address\": \"a:1\", \"tier\": 1, \"backup\": true}]", "keep one of them"),
            ("[{\"address\": \"a:1\", \"server_name\": \"*\"}]", "\"*\" is not a host name"),
            ("[1]", "line 1:2: invalid type: integer `1`, expected \"HOST:PORT\""),
            ("{}", "missing field `endpoints`"),
            ("\"a:1\"", "expected a list of endpoints"),
            (" \n", "it is empty"),
            ("", "it is empty"),
        ] {
            let error = json(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        for (text, told) in [
            ("endpoints = [\"db1:5432\",\n \"db2\"]", "line 2:2: 'db2' has no port"),
            ("endpoints = [\"db1:5432\",\n \"db", "line 2:"),
            ("[[endpoints]]\nadress = \"a:1\"\n", "line 2:1: unknown field `adress`"),
        ] {
            let error = toml(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(Notation::Json.read(b"[\n\"a\xff\"").unwrap_err(), "line 2:3: it is not UTF-8");
    }

    /// A writer that is cut off anywhere leaves a file that is refused as a whole: never a part of the endpoints.
    #[test]
    fn no_part_of_a_file_is_taken_for_the_whole() {
        let whole = r#"[{"address": "10.0.0.5:5432", "weight": 7}, "db1:5432", "db2:5432"]"#;
        assert_eq!(json(whole).unwrap().len(), 3);
        for end in 0..whole.len() {
            assert!(json(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        let whole = "endpoints = [\n\"db1:5432\",\n{ address = \"10.0.0.5:5432\", weight = 70 },\n]";
        assert_eq!(toml(whole).unwrap().len(), 2);
        for end in 0..whole.len() {
            assert!(toml(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
    }

    /// Of tables one after the other nobody can say whether there were more, nor whether the last had more keys: that is told,
    /// and of a line that was cut they are refused.
    #[test]
    fn tables_one_after_the_other_are_open_ended_and_have_to_end_with_a_line() {
        let whole = "[[endpoints]]\naddress = \"a:1\"\nweight = 70\n\n[[ endpoints ]]\naddress = \"b:1\"\nbackup = true\n";
        for end in 0..=whole.len() {
            match Notation::Toml.read(&whole.as_bytes()[..end]) {
                Ok(read) => assert!(read.open_ended && whole[..end].ends_with('\n'), "{}", &whole[..end]),
                Err(told) => assert!(end < whole.len(), "{told}"),
            }
        }
        assert!(!Notation::Toml.read(b"endpoints = [\"a:1\"]").unwrap().open_ended);
        let told = Notation::Toml.read(&whole.as_bytes()[..whole.len() - 1]).unwrap_err();
        assert!(told.contains("its last line has no end"), "{told}");
    }

    #[test]
    fn the_notation_is_that_of_the_name() {
        let of = |path: &str| Notation::of(Path::new(path));
        assert_eq!(of("/etc/nuncio/orders.json"), Ok(Notation::Json));
        assert_eq!(of("orders.toml"), Ok(Notation::Toml));
        for path in ["orders", "orders.yaml", ".json"] {
            assert!(of(path).is_err(), "{path}");
        }
    }
}
