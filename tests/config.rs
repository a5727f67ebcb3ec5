//! The configuration as a person meets it: the files in conf/ load, and each class of mistake has its message.
//!
//! `NUNCIO_BLESS=1 cargo test --test config` writes the expected texts and `conf/nuncio.toml` anew.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nuncio::config::{self, Loaded};

fn bless() -> bool {
    std::env::var_os("NUNCIO_BLESS").is_some()
}

/// The files in a directory with an extension, by name.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

/// Compares with what lies in a file, or writes it there.
fn hold(path: &Path, text: &str) {
    // Paths in messages have the separators of the host.
    let plain = |text: &str| {
        if cfg!(windows) { text.replace("\r\n", "\n").replace('\\', "/") } else { text.to_owned() }
    };
    if bless() {
        fs::write(path, text).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(plain(text), plain(&expected), "{} differs; NUNCIO_BLESS=1 writes it anew", path.display());
}

fn load(path: impl AsRef<Path>) -> Loaded {
    let path = path.as_ref();
    config::load(path).unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display()))
}

fn problems(text: &str) -> String {
    config::from_text("x.toml", text).unwrap_err().to_string()
}

#[test]
fn every_mistake_has_its_message() {
    let mistakes = files("tests/config/bad", "toml");
    assert!(mistakes.len() >= 45, "only {} mistakes", mistakes.len());
    for path in &mistakes {
        let problems = match config::load(path) {
            Ok(_) => panic!("{} loads", path.display()),
            Err(problems) => problems,
        };
        assert!(!problems.is_empty());
        for problem in problems.iter() {
            assert!(!problem.message.is_empty() && !problem.mend.is_empty(), "{problem}");
        }
        hold(&path.with_extension("txt"), &format!("{problems}\n"));
    }
    let named = |extension| -> BTreeSet<_> {
        files("tests/config/bad", extension).iter().map(|path| path.file_stem().unwrap().to_owned()).collect()
    };
    assert_eq!(named("toml"), named("txt"), "each mistake has its message beside it");
}

#[test]
fn what_is_likely_not_meant_so_is_a_warning_and_loads() {
    let files = files("tests/config/good", "toml");
    assert!(files.len() >= 10, "only {} files", files.len());
    for path in &files {
        let loaded = load(path);
        hold(
            &path.with_extension("txt"),
            &loaded.warnings.iter().map(|line| format!("{line}\n")).collect::<String>(),
        );
    }
}

#[test]
fn every_example_loads_without_a_warning_and_says_its_job() {
    let examples = files("conf", "toml");
    let mut read = 0;
    assert!(examples.len() > 8, "only {} examples", examples.len());
    for path in &examples {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("# ") && text.lines().next().unwrap().len() > 20, "{}", path.display());
        let loaded = load(path);
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{}", path.display());
        assert!(!loaded.config.listeners.is_empty());
        assert_eq!(loaded.files[0], *path);
        read += loaded.files.len();
    }
    let included = files("conf/many-listeners.d", "toml").len();
    assert!(included > 1);
    assert_eq!(read, examples.len() + included, "each file that lies in conf/ was read once");
}

/// What stands there as a file is one, and no longer than it is said to be.
#[test]
fn the_readmes_examples_load_without_a_warning() {
    let readme = fs::read_to_string("README.md").unwrap().replace("\r\n", "\n");
    let examples: Vec<_> =
        readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!examples.is_empty());
    for example in &examples {
        let loaded = config::from_text("README.md", example).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{example}");
    }
    let main = examples[0];
    assert!(main.contains("protocol = \"postgres\"") && main.contains("certificate = "), "{main}");
    assert!(main.lines().count() <= 8, "eight lines of TOML: {main}");
}

#[test]
fn the_reference_is_generated_from_the_keys() {
    let path = Path::new("conf/nuncio.toml");
    let text = config::reference();
    if bless() {
        fs::write(path, &text).unwrap();
    }
    let written = fs::read_to_string(path).unwrap_or_default().replace("\r\n", "\n");
    assert_eq!(text, written, "conf/nuncio.toml is stale; NUNCIO_BLESS=1 writes it anew");
}

#[test]
fn the_reference_means_the_defaults() {
    let bare = "
        [identity.example]
        [upstream.example]
        endpoints = ['db1.example.com:5432', 'db2.example.com:5432']
        identity = 'example'
        [listener.example]
        address = '127.0.0.1:5432'
        upstream = 'example'
    ";
    let bare = config::from_text("bare", bare).unwrap().config;
    let reference = config::from_text("reference", config::reference()).unwrap().config;
    assert_eq!(reference, bare);
}

#[test]
fn the_examples_of_keys_without_a_default_are_good_ones() {
    // Switched on one at a time: some exclude each other (`dns` and `endpoints`), which only the first two lines show.
    let reference = config::reference();
    let lines: Vec<_> = reference.lines().collect();
    let off = |line: &str| {
        line.starts_with("# ") && line.split_once(" = ").is_some_and(|(key, _)| !key[2..].contains(' '))
    };
    let switched_off: Vec<_> = (0..lines.len()).filter(|index| off(lines[*index])).collect();
    assert!(switched_off.len() > 20, "only {}", switched_off.len());
    for index in switched_off {
        let mut lines = lines.clone();
        let line = &lines[index][2..];
        lines[index] = line;
        let Err(problems) = config::from_text("x", lines.join("\n")) else { continue };
        let alone = [
            "dns =",
            "srv =",
            "consul =",
            "kubernetes =",
            "file =",
            "url =",
            "user =",
            "password_file =",
            "include =",
            "certificate =",
            "key =",
            "mode =",
            "upstreams =",
            "split =",
            "canary =",
            "proxy_from =",
            "tls_mode =",
            "client_names =",
            "identity =",
            "owner =",
            "group =",
            "tls_mode =",
            "identity =",
            "client_names =",
        ];
        assert!(alone.iter().any(|key| line.starts_with(key)), "{line}\n{problems}");
    }
}

#[test]
fn includes_are_put_together_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    write("nuncio.toml", "include = ['conf.d/*.toml', 'conf.d/a.toml']\n[log]\nformat = 'json'\n");
    write("conf.d/b.toml", "[listener.b]\naddress = '127.0.0.1:2'\nupstream = 'a'\n");
    write(
        "conf.d/a.toml",
        "[identity.a]\nca = 'ca.pem'\n[upstream.a]\nendpoints = ['db:1']\nidentity = 'a'\n",
    );
    write("conf.d/.hidden.toml", "rubbish");
    write("conf.d/b.toml~", "rubbish");
    let loaded = load(directory.path().join("nuncio.toml"));
    let names: Vec<_> = loaded.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["nuncio.toml", "a.toml", "b.toml"]);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let ca = loaded.config.identities["a"].ca.clone().unwrap();
    assert_eq!(ca, directory.path().join("conf.d").join("ca.pem"), "relative to the file that names it");
}

#[test]
fn a_broken_include_hides_no_problem_of_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("nuncio.toml", "include = ['a.toml', 'b.toml', 'none.toml']\nlogs = 1\n");
    write("a.toml", "a = \n");
    write("b.toml", "[listener.b]\nadress = '127.0.0.1:2'\nupstream = 'a'\n");
    let problems = config::load(&directory.path().join("nuncio.toml")).unwrap_err();
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (Path::new(&problem.file).file_name().unwrap().to_str().unwrap(), problem.line))
        .collect();
    assert_eq!(
        found,
        [("nuncio.toml", Some(1)), ("nuncio.toml", Some(2)), ("a.toml", Some(1)), ("b.toml", Some(2))],
        "{problems}"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = config::load(&directory.path().join("none.toml")).unwrap_err().to_string();
    assert!(
        missing.contains("there is no such file") && missing.contains("/etc/nuncio/nuncio.toml"),
        "{missing}"
    );
    let not_a_file = config::load(directory.path()).unwrap_err().to_string();
    // Windows does not open a directory as a file, and calls it forbidden.
    assert!(not_a_file.contains("is a directory") || cfg!(windows), "{not_a_file}");
}

#[test]
fn a_byte_order_mark_is_no_problem_and_utf_16_is_one() {
    let text = "\u{feff}[listener.a]\naddress = '127.0.0.1:1'\nupstream = { endpoints = ['db:1'] }\n";
    assert!(config::from_text("x.toml", text).is_ok());
    let bad = text.replace("address", "adress");
    assert!(problems(&bad).contains("x.toml:2:1: listener.a.adress"), "{}", problems(&bad));
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(config::from_text("x.toml", &wide).unwrap_err().to_string().contains("UTF-16"));
}

#[test]
fn an_upstream_may_stand_within_its_listener() {
    let text = "
        [listener.a]
        address = ['127.0.0.1:1', '[::1]:1']
        [listener.a.upstream]
        endpoints = [{ address = 'db:1', weight = 7, backup = true, server_name = 'x.example' }]
        tls_min = '1.3'
        [listener.a.upstream.timeouts]
        idle = '1h'
    ";
    let config = config::from_text("x.toml", text).unwrap().config;
    let upstream = &config.upstreams["a"];
    assert_eq!(&*config.listeners["a"].route.upstream, "a");
    assert_eq!(upstream.relay.idle, Some(std::time::Duration::from_secs(3600)));
    let nuncio::discovery::Source::Fixed(endpoints) = &upstream.source else {
        panic!("{:?}", upstream.source)
    };
    assert_eq!((endpoints[0].weight, endpoints[0].is_backup()), (7, true));
    assert_eq!(endpoints[0].server_name.as_deref(), Some("x.example"));
}

/// A pin is copied from wherever a tool printed it: curl, openssl, or nuncio itself.
/// As its protocol and its TLS have it; where there are none, the port has to be written.
#[test]
fn an_endpoint_without_a_port_is_at_its_protocols_own() {
    let endpoints = |keys: &str| {
        let text = format!("[listener.a]\naddress = '127.0.0.1:1'\nupstream = {{ {keys} }}");
        let loaded = config::from_text("x.toml", &text).map_err(|problems| problems.to_string())?;
        let source = loaded.config.upstreams.into_values().next().unwrap().source;
        Ok::<_, String>(format!("{source:?}"))
    };
    for (keys, address) in [
        ("protocol = 'postgres', endpoints = ['db.example.com']", "port: 5432"),
        ("protocol = 'sqlserver', endpoints = ['10.0.0.5']", "port: 1433"),
        ("protocol = 'smtp', endpoints = [{ address = '[::1]' }]", "port: 25"),
        ("protocol = 'smtp', tls = 'direct', endpoints = ['mx.example.com']", "port: 465"),
        ("protocol = 'ldap', tls = 'off', endpoints = ['mx.example.com']", "port: 389"),
        ("protocol = 'mqtt', endpoints = ['mx.example.com']", "port: 8883"),
        ("protocol = 'mqtt', tls = 'off', endpoints = ['mx.example.com']", "port: 1883"),
        ("protocol = 'amqp', dns = 'mq.example.com'", "port: 5671"),
        ("protocol = 'amqp', endpoints = ['mq.example.com:1']", "port: 1 "),
    ] {
        let source = endpoints(keys).unwrap();
        assert!(source.contains(address), "{keys}: {source}");
    }
    for (keys, problem) in [
        ("endpoints = ['db.example.com']", "'db.example.com' has no port"),
        ("endpoints = ['[::1]']", "'[::1]' has no port"),
        ("dns = 'db.example.com'", "write db.example.com:PORT"),
        ("protocol = 'smtp', endpoints = ['mx', 'mx:25']", "mx:25 is there twice"),
        ("protocol = 'smtp', endpoints = ['mx:0']", "'0' is not a port"),
        ("protocol = 'smtp', endpoints = ['a b']", "is not a host name"),
    ] {
        let told = endpoints(keys).unwrap_err();
        assert!(told.contains(problem), "{keys}: {told}");
    }
    // Where the protocol is the mistake, nothing is said of the port.
    let told = endpoints("protocol = 'psql', endpoints = ['db.example.com']").unwrap_err();
    assert!(!told.contains("has no port"), "{told}");
}

#[test]
fn a_pin_is_taken_in_the_notation_of_each_tool() {
    let hash = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let pins = |notation: &str| {
        let listener = "address = '127.0.0.1:1'\nupstream = { endpoints = ['db:1'], pins = ['";
        let text = format!("[listener.a]\n{listener}{notation}{hash}'] }}\n");
        config::from_text("x.toml", text).unwrap().config.upstreams["a"].tls.pins.clone()
    };
    assert_eq!(pins("spki-sha256:").len(), 1);
    for curl in ["sha256//", "sha256/"] {
        assert_eq!(pins(curl), pins("spki-sha256:"));
    }
    assert_ne!(pins("leaf-sha256:"), pins("spki-sha256:"));
}

#[test]
fn problems_can_be_read_by_a_program() {
    let problems = config::from_text("x.toml", "[log]\nformat = \"xml\"\n[listener]\n").unwrap_err();
    let json = serde_json::to_value(&problems).unwrap();
    assert_eq!(json[0]["file"], "x.toml");
    assert_eq!(json[0]["line"], 2);
    assert_eq!(json[0]["column"], 10);
    assert_eq!(json[0]["key"], "log.format");
    assert!(json[0]["message"].is_string() && json[0]["mend"].is_string());
}

#[test]
fn a_private_key_in_the_place_of_its_path_is_never_shown() {
    let text = "[identity.a]\nkey = \"-----BEGIN PRIVATE KEY-----\\nMIIEsecret\"\n";
    let problems = config::from_text("x.toml", text).unwrap_err();
    let all = format!("{problems} {problems:?} {}", serde_json::to_string(&problems).unwrap());
    assert!(all.contains("contents of a file"), "{all}");
    assert!(!all.contains("MIIE"), "{all}");
}

#[test]
fn a_secret_in_a_url_that_is_none_is_never_shown() {
    for url in [
        "https://{host}:8008/?token=se cret",
        "https://user:secret@{host}:x/",
        "{host}/?token=secret&u=a://b",
    ] {
        let text = format!(
            "[upstream.a]\nendpoints = [\"a:1\"]\n[upstream.a.health]\nkind = \"http\"\nurl = {url:?}\n"
        );
        let problems = config::from_text("x.toml", &text).unwrap_err();
        let all = format!("{problems} {problems:?} {}", serde_json::to_string(&problems).unwrap());
        assert!(all.contains("upstream.a.health.url"), "{all}");
        assert!(!all.contains("cret"), "{all}");
    }
}

/// The fuzz target goes further; this holds the cheapest part of it in every run.
#[test]
fn no_piece_of_a_good_file_makes_reading_panic() {
    let reference = config::reference();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut bytes = reference.clone().into_bytes();
        for _ in 0..random.usize(1..20) {
            let at = random.usize(0..bytes.len());
            match random.u8(0..3) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at.max(1)),
                _ => drop(bytes.drain(at..(at + random.usize(0..40)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        if let Err(problems) = config::from_text("x.toml", &bytes) {
            assert!(!problems.to_string().is_empty());
        }
    }
}
