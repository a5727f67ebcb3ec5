//! Tokens of a server's results ([MS-TDS] 2.2.7): an error, as it is read and as it is said.

use super::super::reply::quoted;

const ERROR: u8 = 0xaa;
const DONE: u8 = 0xfd;

/// Of a message that is quoted.
const LONGEST_QUOTE: usize = 240;

/// In words, the error that a result begins with.
pub(super) fn error_in(payload: &[u8]) -> Option<String> {
    // Type, length; number, state, class; and the text with the number of its letters before it.
    let [ERROR, _, _, number @ .., state, class, low, high] = payload.first_chunk::<11>()? else {
        return None;
    };
    let number = u32::from_le_bytes(*number);
    let letters = usize::from(u16::from_le_bytes([*low, *high])).min(LONGEST_QUOTE);
    let text: Vec<u16> =
        payload[11..].chunks_exact(2).take(letters).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    let text = quoted(String::from_utf16_lossy(&text).as_bytes());
    Some(format!("{text} (error {number}, state {state}, class {class})"))
}

/// What a server says instead of a login.
pub(super) struct Error<'a> {
    pub(super) number: u32,
    pub(super) class: u8,
    /// ASCII.
    pub(super) text: &'a str,
    pub(super) server: &'a str,
    /// The client speaks a version before 7.2.
    pub(super) is_older: bool,
}

impl Error<'_> {
    /// The error, and that there is nothing more.
    pub(super) fn result(&self) -> Vec<u8> {
        let Error { number, class, text, server, is_older } = *self;
        let mut error = number.to_le_bytes().to_vec();
        error.extend_from_slice(&[1, class]);
        error.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        put_letters(text, &mut error);
        error.push(u8::try_from(server.len()).unwrap_or(u8::MAX));
        put_letters(server, &mut error);
        // No procedure, and line 0 of it.
        error.push(0);
        error.extend_from_slice(if is_older { &[0; 2] } else { &[0; 4] });
        let mut result = vec![ERROR];
        result.extend_from_slice(&u16::try_from(error.len()).unwrap_or(u16::MAX).to_le_bytes());
        result.extend_from_slice(&error);
        // Failed; no command, no rows.
        result.extend_from_slice(&[DONE, 2, 0, 0, 0]);
        result.extend_from_slice(if is_older { &[0; 4] } else { &[0; 8] });
        result
    }
}

/// As UTF-16.
fn put_letters(text: &str, to: &mut Vec<u8>) {
    to.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
}
