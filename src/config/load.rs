//! From files to the written shape: reading, includes, and the sections of all files put together.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::file::File;
use super::kinds::Entry;
use super::problem::{Place, Problem};
use super::reader::Reader;
use super::section::{At, Field};
use super::syntax;

/// No configuration is larger; a device or a database given by mistake is.
const LARGEST: u64 = 4 << 20;

/// The file of the service, where none is named.
#[cfg(not(windows))]
pub fn default_file() -> PathBuf {
    "/etc/nuncio/nuncio.toml".into()
}

/// The file of the service, where none is named.
#[cfg(windows)]
pub fn default_file() -> PathBuf {
    let data = std::env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
    PathBuf::from(data).join("nuncio").join("nuncio.toml")
}

/// Reads a file and what it includes. `None`: something could not be read as TOML, and was noted; what the rest means
/// cannot be told without it.
pub(super) fn files(path: &Path, reader: &mut Reader) -> Option<(File, Vec<PathBuf>)> {
    let name = path.display().to_string();
    let bytes = match contents(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let (message, mend) = unreadable(path, &error);
            reader.problem_of_file(Problem::of_file(&name, message, mend));
            return None;
        }
    };
    let mut paths = vec![path.to_owned()];
    let mut file = parse(&name, &bytes, path.parent().unwrap_or(Path::new("")), reader);
    let mut seen = BTreeSet::from([identity(path)]);
    let patterns = file.as_mut().map(|file| std::mem::take(&mut file.include));
    for pattern in patterns.and_then(Field::taken).unwrap_or_default() {
        for found in matches(&pattern, reader) {
            if !seen.insert(identity(&found)) {
                continue;
            }
            let bytes = match contents(&found) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let (message, mend) = match error.kind() {
                        ErrorKind::NotFound => (
                            "there is no such file".into(),
                            "put it there, or remove it from `include`".into(),
                        ),
                        _ => unreadable(&found, &error),
                    };
                    reader.problem(&pattern.place, format!("{}: {message}", found.display()), mend);
                    file = None;
                    continue;
                }
            };
            let directory = found.parent().unwrap_or(Path::new(""));
            let more = parse(&found.display().to_string(), &bytes, directory, reader);
            paths.push(found);
            match (&mut file, more) {
                (Some(file), Some(more)) => join(file, more, reader),
                _ => file = None,
            }
        }
    }
    file.map(|file| (file, paths))
}

/// Reads one text. Its includes cannot be followed, since it lies nowhere.
pub(super) fn text(name: &str, bytes: &[u8], reader: &mut Reader) -> Option<File> {
    let mut file = parse(name, bytes, Path::new(""), reader)?;
    if let Field::Given(include) = std::mem::take(&mut file.include) {
        reader.problem(&include.place, "has no file to be relative to", "put everything into one text");
    }
    Some(file)
}

fn parse(name: &str, bytes: &[u8], directory: &Path, reader: &mut Reader) -> Option<File> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let problem =
            Problem::of_file(name, "is UTF-16", "save it as UTF-8 (in Notepad: Save as, Encoding UTF-8)");
        reader.problem_of_file(problem);
        return None;
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let start = error.valid_up_to();
            let file = reader.add(name, &String::from_utf8_lossy(bytes), directory);
            let message =
                format!("is not UTF-8 (byte 0x{:02X})", bytes.get(start).copied().unwrap_or_default());
            let mend = "save it as UTF-8; from Latin-1: iconv -f latin1 -t utf-8 OLD > NEW";
            reader.problem(&Place { file, start, end: start, key: String::new() }, message, mend);
            return None;
        }
    };
    let file = reader.add(name, text, directory);
    let (table, errors) = DeTable::parse_recoverable(text);
    syntax::report(&errors, file, text, reader);
    // The first of two equal keys is in the table: what else is wrong with the file can be told.
    if !errors.iter().all(syntax::is_duplicate) {
        return None;
    }
    Some(reader.section(table.get_ref(), &Place { file, ..Place::default() }))
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> (String, String) {
    let (message, mend) = match error.kind() {
        ErrorKind::NotFound => {
            let mend = format!(
                "name the file with --config FILE, as in nuncio check --config FILE; without it, {} is read, and for an \
                 ordinary user on a terminal also ./nuncio.toml",
                default_file().display()
            );
            return ("there is no such file".into(), mend);
        }
        ErrorKind::IsADirectory => {
            let mend = format!("name a file in it, as in {}", path.join("nuncio.toml").display());
            return ("is a directory".into(), mend);
        }
        ErrorKind::PermissionDenied => {
            ("may not be read by this user", "run as the service's user, or let this user read the file")
        }
        ErrorKind::FileTooLarge => {
            ("is larger than 4 MiB", "is this the configuration? Split it with `include`")
        }
        _ => return (format!("cannot be read: {error}"), "see whether the disk is there and healthy".into()),
    };
    (message.into(), mend.into())
}

/// What makes two paths the same file.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The files that a pattern of `include` means, by name. A crate for this knows far more patterns than a
/// directory of snippets needs.
fn matches(pattern: &At<String>, reader: &mut Reader) -> Vec<PathBuf> {
    let path = reader.directory(pattern.place.file).join(&pattern.value);
    let last = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let above = path.parent().unwrap_or(Path::new(""));
    if above.to_string_lossy().contains('*') {
        let mend = "name each directory, as in [\"a.d/*.toml\", \"b.d/*.toml\"]";
        reader.problem(&pattern.place, "has a * in a directory's name", mend);
        return Vec::new();
    }
    if !last.contains('*') {
        return vec![path];
    }
    let here = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let entries = match fs::read_dir(here) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            let mend = "let this user read the directory";
            reader.problem(&pattern.place, format!("{}: {error}", here.display()), mend);
            return Vec::new();
        }
    };
    let mut found: Vec<_> = entries
        .iter()
        .map(|entry| above.join(entry.file_name()))
        .filter(|path| path.file_name().is_some_and(|name| fits(&last, &name.to_string_lossy())))
        .filter(|path| !path.is_dir())
        .collect();
    found.sort();
    if found.is_empty() {
        let message = format!("nothing fits {}", path.display());
        reader.warning(&pattern.place, message, "remove it, or put a file there");
    }
    found
}

/// Whether a name fits a pattern in which `*` stands for anything. Hidden files want a pattern that begins with a dot.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Puts what a further file says into the first one.
fn join(file: &mut File, more: File, reader: &mut Reader) {
    if let Field::Given(include) = more.include {
        let mend = "name those files in the first one";
        reader.problem(&include.place, "an included file cannot include others", mend);
    }
    join_one(&mut file.drain_timeout, more.drain_timeout, reader);
    join_one(&mut file.drain_jitter, more.drain_jitter, reader);
    join_one(&mut file.admin, more.admin, reader);
    join_one(&mut file.log, more.log, reader);
    join_one(&mut file.runtime, more.runtime, reader);
    join_one(&mut file.dns, more.dns, reader);
    join_named(&mut file.identity, more.identity, reader);
    join_named(&mut file.upstream, more.upstream, reader);
    join_named(&mut file.listener, more.listener, reader);
}

fn join_one<T>(first: &mut Field<T>, second: Field<T>, reader: &mut Reader) {
    match (&*first, &second) {
        (Field::Given(first), Field::Given(second)) => twice(&first.place, &second.place, reader),
        (Field::Absent, _) => *first = second,
        _ => {}
    }
}

fn join_named<S>(first: &mut Field<Vec<Entry<S>>>, second: Field<Vec<Entry<S>>>, reader: &mut Reader) {
    match (first, second) {
        (Field::Given(first), Field::Given(second)) => {
            for entry in second.value {
                match first.value.iter().find(|known| known.name == entry.name) {
                    Some(known) => twice(&known.place, &entry.place, reader),
                    None => first.value.push(entry),
                }
            }
        }
        (first @ Field::Absent, second) => *first = second,
        _ => {}
    }
}

fn twice(first: &Place, second: &Place, reader: &mut Reader) {
    let message = format!("is there twice; first: {}", reader.name(first));
    reader.problem(second, message, "keep one of them: files are put together by whole sections");
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything_but_a_leading_dot() {
        for (pattern, name) in [
            ("*.toml", "a.toml"),
            ("*", "a"),
            ("a*c", "abc"),
            ("a*c", "ac"),
            ("*a*b*", "xaybz"),
            (".*", ".a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.toml", "a.toml~"), ("*.toml", ".a.toml"), ("a*a", "a"), ("a*b*c", "acb"), ("a", "ab")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
