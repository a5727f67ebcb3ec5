//! Reads the sources and holds what no compiler holds: who may import whom, and what may stand where.
//!
//! The table is data. A new import that fits is added to it in the same change; one that does not fit is a reason to think.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom, lowest first: a module names only modules above it in this list, so that there are no circles.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Values and mechanisms that know nothing of nuncio.
    ("account", &[]),
    ("addr", &[]),
    ("backoff", &[]),
    ("drain", &[]),
    ("failure", &[]),
    ("relay", &[]),
    ("protocol", &["failure", "relay"]),
    ("converse", &["failure", "protocol"]),
    ("context", &["addr", "failure", "protocol"]),
    ("trail", &["failure"]),
    // Sockets, and the endpoints behind them.
    ("socket", &["relay"]),
    ("upstream", &["addr", "backoff", "drain", "failure", "protocol"]),
    ("dial", &["account", "addr", "failure", "socket"]),
    ("tls", &["addr", "failure", "relay", "socket", "upstream"]),
    ("discovery", &["addr", "dial", "failure", "tls", "upstream"]),
    ("health", &["account", "addr", "failure", "upstream"]),
    // The steps of a connection.
    ("accept", &["addr", "drain", "socket"]),
    ("admit", &["accept", "addr", "failure", "socket"]),
    ("preface", &["converse", "failure", "protocol", "relay"]),
    ("route", &["addr", "context", "failure"]),
    ("rollout", &["addr"]),
    (
        "establish",
        &[
            "account",
            "addr",
            "backoff",
            "converse",
            "dial",
            "discovery",
            "failure",
            "health",
            "protocol",
            "relay",
            "tls",
            "trail",
            "upstream",
        ],
    ),
    ("refuse", &["context", "converse", "failure", "protocol", "relay"]),
    // What is told.
    ("metrics", &["addr", "failure", "rollout", "socket", "upstream"]),
    ("record", &["addr", "context", "failure", "metrics", "relay", "socket", "tls", "trail"]),
    ("admin", &["accept", "account", "addr", "drain", "metrics", "record", "rollout", "upstream"]),
    // The walk, and what is written in the file for it.
    (
        "connection",
        &[
            "accept",
            "addr",
            "admit",
            "context",
            "dial",
            "drain",
            "establish",
            "failure",
            "metrics",
            "preface",
            "protocol",
            "record",
            "refuse",
            "relay",
            "rollout",
            "route",
            "socket",
            "tls",
            "trail",
            "upstream",
        ],
    ),
    (
        "config",
        &[
            "accept",
            "account",
            "addr",
            "admin",
            "admit",
            "backoff",
            "context",
            "dial",
            "discovery",
            "establish",
            "failure",
            "health",
            "protocol",
            "record",
            "relay",
            "rollout",
            "route",
            "socket",
            "tls",
            "upstream",
        ],
    ),
    // The composition, and the face.
    (
        "service",
        &[
            "accept",
            "account",
            "addr",
            "admin",
            "admit",
            "backoff",
            "config",
            "connection",
            "discovery",
            "drain",
            "establish",
            "failure",
            "health",
            "metrics",
            "protocol",
            "record",
            "relay",
            "rollout",
            "route",
            "socket",
            "tls",
            "upstream",
        ],
    ),
    (
        "cli",
        &[
            "addr",
            "admin",
            "config",
            "context",
            "dial",
            "discovery",
            "establish",
            "failure",
            "health",
            "protocol",
            "record",
            "rollout",
            "service",
            "socket",
            "tls",
            "trail",
            "upstream",
        ],
    ),
];

/// The steps of a connection's life; `connection` alone puts them in a row.
const STEPS: &[&str] = &["accept", "admit", "route", "establish", "relay"];

/// Steps that name another step all the same, and what for. Nothing but data goes that way.
const STEP_NAMES_STEP: &[(&str, &str, &str)] = &[
    ("admit", "accept", "what is judged is an `Accepted`"),
    ("establish", "relay", "a `Target` carries the relay's settings to `connection`"),
];

/// Who may touch the record of a connection, beside its own module.
const RECORD_IS_TOUCHED_BY: &[&str] = &["connection.rs"];

/// Files that decide and do nothing else: no clock, no runtime, no thread, no socket. Directories with their slash.
const PURE: &[&str] = &[
    "addr.rs",
    "backoff.rs",
    "context/",
    "failure.rs",
    "protocol/",
    "route.rs",
    "route/",
    "trail.rs",
    "upstream/balancer.rs",
    "upstream/breaker.rs",
    "upstream/breaker/",
    "upstream/endpoint.rs",
    "upstream/latency.rs",
    "upstream/maglev.rs",
    "upstream/operator.rs",
    "upstream/outlier.rs",
    "upstream/set.rs",
    "upstream/set/",
    "upstream/view.rs",
    "discovery/file/read.rs",
    "discovery/kubernetes/slices.rs",
    "discovery/known.rs",
    "discovery/origin.rs",
    "discovery/share.rs",
    "config/",
];
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "tokio::",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "fastrand::Rng::new",
];

/// What may stand in these files only (or nowhere), and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("process::exit", &["cli/"], "only the face ends the process"),
    (
        "UnixListener::bind(",
        &[],
        "it listens before its file has its mode: accept::bind_unix, or an acceptor",
    ),
    ("unsafe {", &["socket/sys.rs"], "one file holds all of it, with its proofs"),
    ("unsafe fn", &["socket/sys.rs"], "one file holds all of it, with its proofs"),
    ("unsafe impl", &["socket/sys.rs"], "one file holds all of it, with its proofs"),
    ("#[allow", &[], "#[expect(lint, reason = \"…\")] says when it is no longer needed"),
    ("#![allow", &[], "#[expect(lint, reason = \"…\")] says when it is no longer needed"),
];

/// File names that say nothing of what is in them.
const NAMES_OF_NOTHING: &[&str] =
    &["common", "helper", "helpers", "lib2", "misc", "shared", "stuff", "util", "utils"];

/// A file of `src/` without comments and tests.
struct Source {
    /// From `src/` on, with slashes.
    path: String,
    code: String,
}

impl Source {
    /// The top-level module that it belongs to; `None` for main.rs and lib.rs.
    fn module(&self) -> Option<&str> {
        let top = self.path.split('/').next()?;
        Some(top.strip_suffix(".rs").unwrap_or(top)).filter(|top| !["main", "lib"].contains(top))
    }

    /// Other top-level modules that it names.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(members(group).iter().map(|member| word(member))),
                None => drop(found.insert(word(rest))),
            }
        }
        found.retain(|name| Some(name.as_str()) != self.module());
        found
    }
}

/// The identifier that a text begins with.
fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The members of a `{a, b::{c, d}}`, from behind its first brace.
fn members(group: &str) -> Vec<String> {
    let (mut members, mut depth) = (vec![String::new()], 0);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            c => members[..].last_mut().expect("one at least").push(c),
        }
    }
    members.retain(|member| !member.trim().is_empty());
    members
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .filter(|file| !["tests.rs", "testkit.rs"].contains(&name_of(file).as_str()))
        .filter(|file| file.parent().map(name_of).as_deref() != Some("tests"))
        .map(|file| {
            let path = file.strip_prefix(&root).expect("beneath it").to_string_lossy().replace('\\', "/");
            Source {
                path,
                code: without_tests(&without_comments(&fs::read_to_string(file).expect("readable"))),
            }
        })
        .collect();
    assert!(sources.len() > 50, "the sources are where they were");
    sources
}

fn name_of(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src/ is there") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            false => {}
        }
    }
}

/// Without what follows `//`, unless that is part of a URL.
fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
        comment.map_or(line, |(at, _)| &line[..at]).trim_end().to_owned() + "\n"
    };
    text.lines().map(code).collect()
}

/// Without the tests, which stand at the foot of a file.
fn without_tests(code: &str) -> String {
    let is_tests = |at: usize| {
        let behind = code[at..].split_once(']').map_or("", |(_, behind)| behind).trim_start();
        behind.starts_with("mod ") && behind.lines().next().is_some_and(|line| line.ends_with('{'))
    };
    let marks = ["#[cfg(test)]", "#[cfg(all(test"];
    let foot = marks
        .iter()
        .flat_map(|mark| code.match_indices(mark))
        .map(|(at, _)| at)
        .filter(|at| is_tests(*at))
        .min();
    code[..foot.unwrap_or(code.len())].to_owned()
}

/// Fails with everything that was found.
#[track_caller]
fn none_of(found: &[String]) {
    assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
}

#[test]
fn modules_import_only_what_the_table_lets_them() {
    let table: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut found = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        let Some(allowed) = table.get(module) else {
            found.push(format!("src/{}: the module `{module}` has no row in MAY_IMPORT", source.path));
            continue;
        };
        for import in source.imports() {
            if !allowed.contains(&import.as_str()) {
                found.push(format!("src/{}: `{module}` must not import `{import}`", source.path));
            }
        }
    }
    none_of(&found);
}

#[test]
fn the_table_allows_nothing_that_nobody_needs_and_no_circle() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        if let Some(module) = source.module() {
            used.entry(module.to_owned()).or_default().extend(source.imports());
        }
    }
    let mut found = Vec::new();
    for (place, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        let Some(used) = used.get(*module) else {
            found.push(format!("MAY_IMPORT has a row for `{module}`, which is no module"));
            continue;
        };
        for import in *allowed {
            if !used.contains(*import) {
                found.push(format!(
                    "MAY_IMPORT lets `{module}` import `{import}`, which it does not: take it out"
                ));
            }
            if !MAY_IMPORT[..place].iter().any(|(lower, _)| lower == import) {
                found.push(format!(
                    "MAY_IMPORT: `{import}` does not stand above `{module}`, which imports it"
                ));
            }
        }
    }
    none_of(&found);
}

#[test]
fn steps_do_not_import_steps() {
    let mut found = Vec::new();
    for (step, imports) in MAY_IMPORT.iter().filter(|(module, _)| STEPS.contains(module)) {
        for other in imports.iter().filter(|other| STEPS.contains(other)) {
            if !STEP_NAMES_STEP.iter().any(|(from, to, _)| from == step && to == other) {
                found.push(format!(
                    "the step `{step}` imports the step `{other}`: let `connection` carry it over"
                ));
            }
        }
    }
    none_of(&found);
}

#[test]
fn only_the_composition_and_the_face_know_the_configuration() {
    let known_by: Vec<_> = MAY_IMPORT
        .iter()
        .filter(|(_, imports)| imports.contains(&"config"))
        .map(|(module, _)| *module)
        .collect();
    assert_eq!(known_by, ["service", "cli"], "each part declares its own Settings, and `config` builds them");
}

#[test]
fn only_the_walk_touches_the_record() {
    let mut found = Vec::new();
    for source in sources() {
        let ours = source.module() == Some("record") || RECORD_IS_TOUCHED_BY.contains(&source.path.as_str());
        let names_it = source.code.match_indices("record::").any(|(at, _)| {
            let rest = &source.code[at + "record::".len()..];
            let named = rest.strip_prefix('{').map_or_else(|| vec![word(rest)], members);
            named.iter().any(|name| name.trim() == "Record")
        });
        if names_it && !ours {
            found.push(format!("src/{}: only `connection` touches the record of a connection", source.path));
        }
    }
    none_of(&found);
}

#[test]
fn what_decides_has_no_clock_and_no_runtime() {
    let mut found = Vec::new();
    for source in sources() {
        let is_pure =
            |pure: &&str| source.path == *pure || (pure.ends_with('/') && source.path.starts_with(*pure));
        if PURE.iter().any(is_pure) {
            for impure in IMPURE.iter().filter(|impure| source.code.contains(**impure)) {
                found.push(format!("src/{}: {impure}: have it passed in, so that tests can", source.path));
            }
        }
    }
    for pure in PURE {
        let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(pure).exists();
        assert!(exists, "PURE names src/{pure}, which is not there");
    }
    none_of(&found);
}

#[test]
fn what_is_dangerous_stands_where_it_belongs() {
    let mut found = Vec::new();
    for source in sources() {
        for (what, places, why) in ONLY_IN {
            let is_there = places.iter().any(|place| source.path.starts_with(place));
            if !is_there && source.code.contains(what) {
                found.push(format!("src/{}: `{what}`: {why}", source.path));
            }
        }
    }
    none_of(&found);
}

#[test]
fn file_names_say_what_is_in_them_and_files_begin_with_it() {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    for file in files {
        let name = name_of(&file);
        let stem = name.trim_end_matches(".rs");
        let parent = file.parent().map(name_of).unwrap_or_default();
        if NAMES_OF_NOTHING.contains(&stem) || NAMES_OF_NOTHING.contains(&parent.as_str()) {
            found.push(format!("{}: a name that says nothing: what does it own?", file.display()));
        }
        let opening = fs::read_to_string(&file).expect("readable");
        if !opening.starts_with("//!") {
            found.push(format!("{}: the first line says what it owns (`//! …`)", file.display()));
        }
    }
    none_of(&found);
}

#[test]
fn the_reader_of_sources_reads_them() {
    let text = "use crate::addr::Host; // crate::config\nuse crate::{a::b, c::{d, e}, f as g};\nlet url = \"http://x\";\n\
                crate::tls::late();\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod tests {\n use crate::service;\n}\n";
    let source = Source { path: "dial/mod.rs".into(), code: without_tests(&without_comments(text)) };
    assert_eq!(source.module(), Some("dial"));
    assert_eq!(source.imports().into_iter().collect::<Vec<_>>(), ["a", "addr", "c", "f", "tls"]);
    assert!(source.code.contains("http://x"));
}
