//! The kinds of values that a key may have: shapes such as lists, numbers and choices, and how they are read.
//!
//! Owns the shapes. Leaves the kinds that are written as one string (durations, addresses, pins) to `words`.

use toml::de::DeValue;

use super::problem::Place;
use super::reader::{Reader, in_order, kind_of, nearest, quoted, shown};
use super::section::{At, Key, Kind, Nested, Section};
use super::words::expand;

/// A value written as one string.
pub(super) trait Word {
    type Value;
    /// "a duration"
    const WANTS: &'static str;
    /// A good one, as it stands in TOML.
    const EXAMPLE: &'static str;
    /// The unit that a bare number most likely misses.
    const UNIT: Option<&'static str> = None;
    fn parse(text: &str) -> Result<Self::Value, Fault>;
}

/// What is wrong with a text, and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) mend: String,
}

/// Shorthand for a [`Fault`] as an error.
pub(super) fn fault<T>(message: impl Into<String>, mend: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { message: message.into(), mend: mend.into() })
}

impl<W: Word> Kind for W {
    type Value = W::Value;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<W::Value> {
        let text = string(value, place, reader, W::WANTS, W::EXAMPLE, W::UNIT)?;
        match W::parse(&text) {
            Ok(value) => Some(value),
            Err(Fault { message, mend }) => {
                reader.problem(place, message, mend);
                None
            }
        }
    }
}

/// A string with its `${NAME}` expanded.
pub(super) fn string(
    value: &DeValue<'_>,
    place: &Place,
    reader: &mut Reader,
    wants: &str,
    example: &str,
    unit: Option<&str>,
) -> Option<String> {
    let fault = match (value, unit) {
        (DeValue::String(text), _) => match expand(text, reader.environment) {
            Ok(text) => return Some(text),
            Err(fault) => fault,
        },
        (DeValue::Integer(_) | DeValue::Float(_), Some(unit)) => Fault {
            message: format!("wants {wants} such as {example}, and {} has no unit", shown(value)),
            mend: format!("write the unit, in quotes: {} = \"{}{unit}\"", last(place), shown(value)),
        },
        (other, _) => Fault {
            message: format!("wants {wants}, and {} is {}", shown(other), kind_of(other)),
            mend: format!("write for example {} = {example}", last(place)),
        },
    };
    reader.problem(place, fault.message, fault.mend);
    None
}

/// The key itself, without what stands above it.
fn last(place: &Place) -> &str {
    let key = place.key.rsplit('.').next().unwrap_or_default();
    key.split('[').next().unwrap_or_default()
}

/// `true` or `false`.
#[derive(Debug)]
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<bool> {
        if let DeValue::Boolean(flag) = value {
            return Some(*flag);
        }
        let mend = format!("write {0} = true or {0} = false, without quotes", last(place));
        reader.problem(
            place,
            format!("wants true or false, and {} is {}", shown(value), kind_of(value)),
            mend,
        );
        None
    }
}

/// A whole number within bounds.
#[derive(Debug)]
pub(super) struct Count<const MIN: u32, const MAX: u32>;

impl<const MIN: u32, const MAX: u32> Kind for Count<MIN, MAX> {
    type Value = u32;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<u32> {
        let mend = format!("write a number from {MIN} to {MAX}, without quotes");
        let DeValue::Integer(number) = value else {
            let message = format!("wants a whole number, and {} is {}", shown(value), kind_of(value));
            reader.problem(place, message, mend);
            return None;
        };
        // A number that does not fit an i128 is out of bounds like any other.
        let count = i128::from_str_radix(number.as_str(), number.radix()).ok();
        let count =
            count.and_then(|count| u32::try_from(count).ok()).filter(|count| (MIN..=MAX).contains(count));
        if count.is_none() {
            reader.problem(place, format!("{} is not in {MIN} to {MAX}", shown(value)), mend);
        }
        count
    }
}

/// A share of a whole, 0 to 1.
#[derive(Debug)]
pub(super) struct Share;

impl Kind for Share {
    type Value = f64;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<f64> {
        let share = match value {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64)
            }
            _ => {
                let message =
                    format!("wants a share from 0 to 1, and {} is {}", shown(value), kind_of(value));
                reader.problem(
                    place,
                    message,
                    format!("write for example {} = 0.2, without quotes", last(place)),
                );
                return None;
            }
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            let message = format!("{} is not a share from 0 to 1", shown(value));
            reader.problem(place, message, "write 0.2 for 20 percent");
        }
        share
    }
}

/// A number above zero.
#[derive(Debug)]
pub(super) struct Factor;

impl Factor {
    const MOST: f64 = 100.0;
}

impl Kind for Factor {
    type Value = f64;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<f64> {
        let factor = match value {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<u32>().ok().map(f64::from),
            _ => {
                let message = format!("wants a number, and {} is {}", shown(value), kind_of(value));
                let mend = format!("write for example {} = 1.9, without quotes", last(place));
                reader.problem(place, message, mend);
                return None;
            }
        };
        let factor = factor.filter(|factor| *factor > 0.0 && *factor <= Self::MOST);
        if factor.is_none() {
            let message = format!("{} is not a number above 0, and at most {}", shown(value), Self::MOST);
            reader.problem(place, message, format!("write for example {} = 1.9", last(place)));
        }
        factor
    }
}

/// `"off"`, or a value.
#[derive(Debug)]
pub(super) struct Off<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for Off<K> {
    type Value = Option<K::Value>;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Value> {
        // 0 and false are what other programs call "off": say the word instead of quarrelling about the type.
        let off = match value {
            DeValue::String(text) if text == "off" => return Some(None),
            DeValue::String(text) => {
                text.starts_with('0') && text.chars().all(|c| c == '0' || c.is_ascii_alphabetic())
            }
            DeValue::Integer(number) => number.as_str().chars().all(|c| c == '0'),
            DeValue::Boolean(flag) => !flag,
            _ => false,
        };
        if off {
            let mend = format!("to switch it off, write {} = \"off\"", last(place));
            reader.problem(place, format!("{} is not a value that it can have", shown(value)), mend);
            return None;
        }
        K::read(value, place, reader).map(Some)
    }
}

/// A list.
#[derive(Debug)]
pub(super) struct List<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<At<K::Value>>;
    const KEYS: &'static [Key] = K::KEYS;
    const NESTED: Nested = match K::NESTED {
        Nested::None => Nested::None,
        _ => Nested::Entry,
    };

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Value> {
        let DeValue::Array(entries) = value else {
            let message = format!("wants a list, and {} is {}", shown(value), kind_of(value));
            reader.problem(
                place,
                message,
                format!("put it in brackets: {} = [{}]", last(place), shown(value)),
            );
            return None;
        };
        let read: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let span = entry.span();
                let place = Place {
                    file: place.file,
                    start: span.start,
                    end: span.end,
                    key: format!("{}[{index}]", place.key),
                };
                let value = K::read(entry.get_ref(), &place, reader)?;
                Some(At { value, place })
            })
            .collect();
        read.into_iter().collect()
    }
}

/// A list, or its only entry without brackets.
#[derive(Debug)]
pub(super) struct OneOrMany<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for OneOrMany<K> {
    type Value = Vec<At<K::Value>>;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Value> {
        if let DeValue::Array(_) = value {
            return List::<K>::read(value, place, reader);
        }
        let value = K::read(value, place, reader)?;
        Some(vec![At { value, place: place.clone() }])
    }
}

/// Sections with names: `[upstream.NAME]`.
#[derive(Debug)]
pub(super) struct Named<S>(std::marker::PhantomData<S>);

/// One of them; the place of the name is that of its section.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) section: S,
}

impl<S: Section> Kind for Named<S> {
    type Value = Vec<Entry<S>>;
    const KEYS: &'static [Key] = S::KEYS;
    const NESTED: Nested = Nested::Named;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Value> {
        let DeValue::Table(table) = value else {
            let message = format!("wants sections with names, and this is {}", kind_of(value));
            reader.problem(place, message, format!("write [{}.NAME], and its keys below", place.key));
            return None;
        };
        let mut entries = Vec::new();
        for (key, value) in in_order(table) {
            let name: &str = key.get_ref();
            let at = place.below(name, key.span());
            let DeValue::Table(section) = value.get_ref() else {
                let mend = format!("write [{}.NAME] above its keys, with a name of your choice", place.key);
                reader.problem(&at, format!("a section [{}] has a name", place.key), mend);
                continue;
            };
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
            if name.is_empty() || !name.bytes().all(fits) {
                let mend = "use lower-case letters, digits, - and _: the name becomes a metric's label";
                reader.problem(&at, format!("{} cannot be a name", quoted(name)), mend);
            }
            entries.push(Entry { name: name.to_owned(), section: reader.section(section, &at), place: at });
        }
        Some(entries)
    }
}

/// One of a few words.
pub(super) trait Choices: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];
    /// What to say about a word that deserves more than "unknown".
    fn about(_word: &str) -> Option<Fault> {
        None
    }
}

/// A value of [`Choices`].
#[derive(Debug)]
pub(super) struct Choice<C>(std::marker::PhantomData<C>);

impl<C: Choices> Kind for Choice<C> {
    type Value = C;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<C> {
        let known: Vec<_> = C::ALL.iter().map(|(word, _)| quoted(word)).collect();
        let known = known.join(", ");
        // As people write them: a version is not a number, and false is not "off".
        let word = match value {
            DeValue::String(_) => string(value, place, reader, "", "", None)?,
            other => {
                let message = format!("wants one of {known}, and {} is {}", shown(other), kind_of(other));
                let mend = match C::ALL.iter().find(|(word, _)| *word == shown(other)) {
                    Some((word, _)) => format!("write it in quotes: {} = {}", last(place), quoted(word)),
                    None => format!("write for example {} = {}", last(place), quoted(C::ALL[0].0)),
                };
                reader.problem(place, message, mend);
                return None;
            }
        };
        if let Some((_, choice)) = C::ALL.iter().find(|(known, _)| *known == word) {
            return Some(*choice);
        }
        let Fault { message, mend } = C::about(&word).unwrap_or_else(|| Fault {
            message: format!("{} is unknown; known: {known}", quoted(&word)),
            mend: match nearest(&word, C::ALL.iter().map(|(word, _)| *word)) {
                Some(nearest) => format!("did you mean {}?", quoted(nearest)),
                None => "write a known one".to_owned(),
            },
        });
        reader.problem(place, message, mend);
        None
    }
}
