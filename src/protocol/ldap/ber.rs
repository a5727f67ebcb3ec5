//! BER (X.690), as far as LDAP allows it (RFC 4511, 5.1): tags of one byte, definite lengths.
//!
//! A length may be written long where a short one would do, and with zeros in front: most servers write every length in
//! four bytes. More than four are no length of any message.

/// What does not stand where BER has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// Another tag than the one that has to stand here.
    Tag(u8),
    /// The length is indefinite, which LDAP does not allow.
    Indefinite,
    /// The length itself has over four bytes.
    Length,
    /// An element does not fit into the one around it.
    Outgrown,
    /// No number of a message.
    Number,
}

/// The beginning of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: u8,
    /// Bytes of tag and length.
    pub(super) size: usize,
    /// Bytes of what follows them.
    pub(super) length: usize,
}

impl Header {
    /// `None`: there is too little of it yet.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, Odd> {
        let [tag, first, rest @ ..] = bytes else { return Ok(None) };
        let (size, length) = match first {
            0..=0x7f => (2, usize::from(*first)),
            0x80 => return Err(Odd::Indefinite),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let Some(digits) = rest.get(..count) else { return Ok(None) };
                let length = digits.iter().fold(0_u32, |length, digit| length << 8 | u32::from(*digit));
                (2 + count, usize::try_from(length).map_err(|_| Odd::Length)?)
            }
            0x85.. => return Err(Odd::Length),
        };
        Ok(Some(Header { tag: *tag, size, length }))
    }

    /// With what follows.
    pub(super) fn whole(&self) -> usize {
        self.size.saturating_add(self.length)
    }
}

/// Takes the element at the front, tag and contents, as far as it is there; `None`: there is not even its beginning, or no
/// element.
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let header = Header::read(bytes).ok().flatten()?;
    let (element, behind) = bytes.split_at(header.whole().min(bytes.len()));
    *bytes = behind;
    Some((header.tag, &element[header.size..]))
}

/// A number that is not negative, of at most four bytes.
pub(super) fn number(contents: &[u8]) -> Option<u32> {
    match contents {
        [] | [128..=255, ..] => None,
        contents if contents.len() > 4 => None,
        contents => Some(contents.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))),
    }
}

/// Appends an element.
pub(super) fn put(tag: u8, contents: &[u8], to: &mut Vec<u8>) {
    to.push(tag);
    let length = u32::try_from(contents.len()).unwrap_or(u32::MAX).to_be_bytes();
    match length {
        [0, 0, 0, short @ 0..=0x7f] => to.push(short),
        [0, 0, 0, one] => to.extend([0x81, one]),
        [0, 0, high, low] => to.extend([0x82, high, low]),
        long => {
            to.push(0x84);
            to.extend(long);
        }
    }
    to.extend_from_slice(contents);
}

/// Appends a number that is not negative.
pub(super) fn put_number(tag: u8, number: u32, to: &mut Vec<u8>) {
    let digits = u64::from(number).to_be_bytes();
    // As few bytes as will do, the first of which tells that it is not negative.
    let from = (0..7).find(|at| digits[*at] != 0 || digits[at + 1] > 0x7f).unwrap_or(7);
    put(tag, &digits[from..], to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Header>, Odd> {
        let read = Header::read(bytes);
        for short in 0..bytes.len() {
            let cut = Header::read(&bytes[..short]);
            assert!(cut == Ok(None) || cut == read, "{bytes:02x?} after {short}");
        }
        read
    }

    #[test]
    fn lengths_in_all_forms_are_read_and_no_others() {
        for (bytes, size, length) in [
            (&[0x30, 0][..], 2, 0),
            (&[0x30, 0x7f], 2, 127),
            (&[0x30, 0x81, 5], 3, 5),
            (&[0x30, 0x81, 0xff], 3, 255),
            (&[0x30, 0x82, 0, 5], 4, 5),
            (&[0x30, 0x83, 0, 1, 0], 5, 256),
            (&[0x30, 0x84, 0, 0, 0, 5], 6, 5),
            (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], 6, 0xffff_ffff),
        ] {
            let header = Header { tag: 0x30, size, length };
            assert_eq!(read(bytes), Ok(Some(header)), "{bytes:02x?}");
        }
        assert_eq!(read(&[0x30, 0x80]), Err(Odd::Indefinite));
        for first in 0x85..=0xff {
            assert_eq!(read(&[0x30, first]), Err(Odd::Length));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut bytes = Vec::new();
            put(4, &vec![7; length], &mut bytes);
            let mut rest = &bytes[..];
            let (tag, contents) = take(&mut rest).unwrap();
            assert_eq!((tag, contents.len(), rest), (4, length, &b""[..]));
        }
        for number in [0, 1, 127, 128, 255, 256, 32_767, 32_768, 0x7f_ffff, 0x80_0000, 0x7fff_ffff] {
            let mut bytes = Vec::new();
            put_number(2, number, &mut bytes);
            let (_, contents) = take(&mut &bytes[..]).unwrap();
            assert_eq!(super::number(contents), Some(number), "{bytes:02x?}");
        }
        for none in [&b""[..], &[0x80], &[0xff, 0xff], &[0, 0, 0, 0, 1]] {
            assert_eq!(number(none), None, "{none:02x?}");
        }
    }
}
