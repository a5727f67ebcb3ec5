//! How a section is declared: [`sections!`], and what is known of each key by it.
//!
//! From a declaration come the reading of the section, the refusal of keys that it does not have, and its part of the
//! reference file. Leaves the sections themselves to `file`.

use toml::de::DeValue;

use super::problem::Place;
use super::reader::Reader;

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What the file says for a key. `Bad` is told apart from `Absent`, so that a mistake is not followed by "is missing".
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Bad,
    Given(At<T>),
}

impl<T> Field<T> {
    pub(super) fn given(&self) -> Option<&At<T>> {
        match self {
            Field::Given(at) => Some(at),
            Field::Absent | Field::Bad => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.given().map(|at| &at.value)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    /// What was given, without its place.
    pub(super) fn taken(self) -> Option<T> {
        match self {
            Field::Given(at) => Some(at.value),
            Field::Absent | Field::Bad => None,
        }
    }

    /// What was given, or the default.
    pub(super) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.value().cloned().unwrap_or(default)
    }
}

/// What a key's value may be, and how it is read.
pub(super) trait Kind {
    /// What reading it gives.
    type Value;
    /// Keys of the table that the value is or may be.
    const KEYS: &'static [Key] = &[];
    /// How the reference shows those keys.
    const NESTED: Nested = Nested::None;
    /// Reads a value; what is wrong with it goes to the reader.
    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Value>;
}

/// How keys below a key are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nested {
    /// There are none.
    None,
    /// `[section]`
    Section,
    /// `[section.NAME]`
    Named,
    /// In entries of a list.
    Entry,
    /// In a table that may stand in the value's place.
    Instead,
}

/// What is known of a key: the one source of reading, of the nearest name, and of the reference file.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) show: Show,
    pub(super) text: &'static str,
    pub(super) keys: &'static [Key],
    pub(super) nested: Nested,
}

/// What the text beside a key's declaration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    non_camel_case_types,
    reason = "they are the words of the declarations: `key: Kind = default(\"3s\")`"
)]
pub(super) enum Show {
    /// The value that holds without the key.
    default,
    /// There is no default; a value as an example.
    example,
    /// As `example`, but the reference has it switched on.
    shown,
    /// As `shown`, and its absence is a problem.
    needed,
    /// The key is a section of its own.
    section,
}

/// A table whose keys are declared by [`sections!`].
pub(super) trait Section: Default {
    const KEYS: &'static [Key];
    /// Reads one key; `false`: there is no such key.
    fn set(&mut self, key: &str, value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> bool;
    /// Marks a key as written wrongly, unless it was also written rightly.
    fn spoil(&mut self, key: &str);
}

/// Declares sections: `key: Kind = default(TOML)`, `example(TOML)`, `shown(TOML)`, `needed(TOML)` or `section`. The
/// docstring of a key is its text in the reference file.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])+
        struct $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident : $kind:ty = $show:ident $( ( $($text:tt)+ ) )? ; )+
        }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $( $(#[doc = $doc])+ pub(super) $key: Field<<$kind as Kind>::Value>, )+
        }

        impl Section for $name {
            const KEYS: &'static [Key] = &[ $( Key {
                name: stringify!($key),
                about: &[$($doc),+],
                show: Show::$show,
                text: stringify!($($($text)+)?),
                keys: <$kind as Kind>::KEYS,
                nested: <$kind as Kind>::NESTED,
            } ),+ ];

            fn set(&mut self, key: &str, value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> bool {
                match key {
                    $( stringify!($key) => {
                        self.$key = match <$kind as Kind>::read(value, place, reader) {
                            Some(value) => Field::Given(At { value, place: place.clone() }),
                            None => Field::Bad,
                        };
                    } )+
                    _ => return false,
                }
                true
            }

            fn spoil(&mut self, key: &str) {
                match key {
                    $( stringify!($key) if self.$key.is_absent() => self.$key = Field::Bad, )+
                    _ => {}
                }
            }
        }

        impl Kind for $name {
            type Value = $name;
            const KEYS: &'static [Key] = <$name as Section>::KEYS;
            const NESTED: Nested = Nested::Section;

            fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<$name> {
                reader.section_or_problem(value, place)
            }
        }
    )+};
}
pub(super) use sections;
