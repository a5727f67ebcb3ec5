//! The file that keeps how far a rollout is. Owns reading and writing it, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::Kept;

/// More than any rollout has to tell.
const LONGEST: u64 = 64 * 1024;

/// What is kept there; `None`: nothing yet.
///
/// # Errors
/// Why it cannot be used.
pub fn read(path: &Path) -> Result<Option<Kept>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let text = io::read_to_string(io::Read::take(file, LONGEST)).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map(Some).map_err(|error| format!("it is damaged: {error}"))
}

/// Keeps it there: who reads it sees this or what was there before, also after a power failure.
pub(super) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}
