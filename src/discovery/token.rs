//! What authorises nuncio at a registry: the header that a token in a file makes. Leaves it to `reading` where the file is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use hyper::header::HeaderValue;

use super::reading::ours;
use crate::failure::Failure;

/// No token is longer.
const LONGEST_TOKEN: u64 = 32 * 1024;

/// A header that authorises, of a file that is read anew each time: tokens are replaced while nuncio runs. Never shown.
pub(super) fn header(file: &Path, prefix: &str) -> Result<HeaderValue, Failure> {
    let refuse = |problem: String| {
        ours(format!("token_file {}: {problem}", file.display()))
            .mend("put the token into that file, on one line, readable for nuncio")
    };
    let mut text = String::new();
    let opened = File::open(file).and_then(|file| file.take(LONGEST_TOKEN + 1).read_to_string(&mut text));
    opened.map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > LONGEST_TOKEN {
        return Err(refuse(format!("it is larger than {} KiB", LONGEST_TOKEN >> 10)));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{text}"))
        .map_err(|_| refuse("what is in it cannot be a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_and_shown_nowhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(header(file.path(), "").unwrap_err().detail.contains("it is empty"));
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let value = header(file.path(), "Bearer ").unwrap();
        assert_eq!(value.as_bytes(), b"Bearer s3cret");
        assert!(!format!("{value:?}").contains("s3cret"));
        std::fs::write(file.path(), "s3\ncret").unwrap();
        let failure = header(file.path(), "").unwrap_err();
        assert!(!failure.to_string().contains("s3"), "{failure}");
        std::fs::write(file.path(), "s".repeat(40_000)).unwrap();
        assert!(header(file.path(), "").unwrap_err().detail.contains("larger than 32 KiB"));
    }
}
