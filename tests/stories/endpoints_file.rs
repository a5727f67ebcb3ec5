//! An upstream whose endpoints stand in a file that somebody else writes; and endpoints that are our own listeners.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::harness::ambassador::{Ambassador, run};
use super::harness::{Pki, Upstream, clients, config};

fn follows(pki: &Pki, file: &Path) -> Ambassador {
    let health = "[upstream.up.health]\nkind = \"off\"\n";
    Ambassador::start(&config::mtls(pki, &format!("file = {file:?}\n{health}")))
}

/// Waits until the set is these servers, and no other; how long that took.
#[track_caller]
fn set_is(ambassador: &Ambassador, servers: &[&Upstream]) -> Duration {
    let begun = Instant::now();
    let mut wanted: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    wanted.sort();
    ambassador.wait_state("/api/v1/upstreams", &format!("the set is {wanted:?}"), |upstreams| {
        let endpoints = upstreams[0]["endpoints"].as_array()?;
        let mut now: Vec<_> =
            endpoints.iter().filter_map(|it| Some(it["address"].as_str()?.to_owned())).collect();
        now.sort();
        (now == wanted).then_some(())
    });
    begun.elapsed()
}

#[track_caller]
fn source_says(ambassador: &Ambassador, words: &str) {
    ambassador.wait_state("/api/v1/upstreams", &format!("its source says {words:?}"), |upstreams| {
        upstreams[0]["source"]["last_error"].as_str().filter(|error| error.contains(words)).map(drop)
    });
}

fn list(servers: &[&Upstream]) -> String {
    json!(servers.iter().map(|server| server.address().to_string()).collect::<Vec<_>>()).to_string()
}

fn put_in_place(file: &Path, text: &str) {
    let beside: PathBuf = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, file).unwrap();
}

/// A file is put in the place of the old one, as editors and Kubernetes do, written over, written half, taken away and put back:
/// the set follows what is whole, keeps what it had meanwhile, and says where a file is wrong. Connections stay.
#[test]
fn the_set_follows_its_file_however_it_is_written_and_keeps_the_last_that_was_whole() {
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("orders.json");
    let servers: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    let [one, two, three] = &servers[..] else { panic!("three") };
    fs::write(&file, list(&[one])).unwrap();
    let ambassador = follows(&pki, &file);
    set_is(&ambassador, &[one]);
    let mut held = clients::connect(ambassador.listener("in"));
    clients::echoes(&mut held, b"before").unwrap();

    put_in_place(&file, &list(&[two, three]));
    let took = set_is(&ambassador, &[two, three]);
    println!("by a rename: the set had changed after {took:.1?}");
    // Sooner than the file is looked at without the kernel's word.
    assert!(cfg!(not(target_os = "linux")) || took < Duration::from_secs(1), "{took:?}");
    fs::write(&file, list(&[one, two])).unwrap();
    let took = set_is(&ambassador, &[one, two]);
    println!("in its place: the set had changed after {took:.1?}");

    let whole = format!("[\n{},\n\"localhost\"]", json!(three.address().to_string()));
    fs::write(&file, &whole[..whole.len() - 4]).unwrap();
    source_says(&ambassador, "orders.json: line 3:");
    fs::write(&file, &whole).unwrap();
    source_says(&ambassador, "orders.json: line 3:11: 'localhost' has no port");
    fs::remove_file(&file).unwrap();
    source_says(&ambassador, "No such file");
    fs::write(&file, "[]").unwrap();
    source_says(&ambassador, "names no endpoint");
    set_is(&ambassador, &[one, two]);
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");

    // Its directory is another one, as after a restore: the kernel's watch was on the old one.
    fs::remove_dir_all(directory.path()).unwrap();
    fs::create_dir(directory.path()).unwrap();
    source_says(&ambassador, "No such file");
    put_in_place(&file, &list(&[three]));
    set_is(&ambassador, &[three]);
    put_in_place(&file, &list(&[one, three]));
    set_is(&ambassador, &[one, three]);
    clients::echoes(&mut held, b"after").unwrap();
}

/// A writer that takes its time, in the place of the old file: by lines, and by halves of lines, and in a notation that looks whole
/// wherever it is cut. What is in use is what was before, and then the whole; never a part.
#[test]
fn no_part_of_a_file_that_is_written_in_pieces_is_ever_in_use() {
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let servers: Vec<_> = (0..4).map(|_| Upstream::start(&pki)).collect();
    let address = |n: usize| servers[n].address().to_string();
    let tables = (1..4).map(|n| format!("[[endpoints]]\naddress = \"{}\"\nweight = 70\n", address(n)));
    let tables: String = tables.collect();
    let brackets =
        format!("endpoints = [\n\"{}\",\n\"{}\",\n\"{}\",\n]\n", address(1), address(2), address(3));
    // Of tables, no pause may be as long as nuncio waits for more: a busy machine may make one that is.
    let mut undisturbed = false;
    let runs = [(&tables, Duration::from_millis(100)), (&brackets, Duration::from_millis(120))];
    let more_runs = std::iter::repeat_n(runs[0], 4);
    for (whole, pause) in runs.into_iter().chain(more_runs) {
        if undisturbed && *whole == tables {
            break;
        }
        let file = directory.path().join("orders.toml");
        put_in_place(&file, &format!("endpoints = [\"{}\"]\n", address(0)));
        let ambassador = follows(&pki, &file);
        set_is(&ambassador, &[&servers[0]]);
        let mut pieces = Vec::new();
        for line in whole.split_inclusive('\n') {
            let (front, back) = line.split_at(line.len() / 2);
            pieces.extend([front, back].map(str::to_owned));
        }
        let writing = std::thread::spawn(move || {
            // Opened and closed for each piece, as a shell script does: that it is closed says nothing.
            fs::write(&file, "").unwrap();
            let (mut before, mut longest) = (Instant::now(), Duration::ZERO);
            for piece in pieces {
                longest = longest.max(before.elapsed());
                before = Instant::now();
                let mut opened = fs::OpenOptions::new().append(true).open(&file).unwrap();
                std::io::Write::write_all(&mut opened, piece.as_bytes()).unwrap();
                drop(opened);
                std::thread::sleep(pause);
            }
            longest
        });
        let mut seen = Vec::new();
        let begun = Instant::now();
        while seen.last() != Some(&3) {
            assert!(begun.elapsed() < Duration::from_secs(25), "{seen:?}");
            let upstreams = ambassador.get("/api/v1/upstreams").json();
            let count = upstreams[0]["endpoints"].as_array().unwrap().len();
            if seen.last() != Some(&count) {
                seen.push(count);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let longest = writing.join().unwrap();
        if *whole == tables && longest > Duration::from_millis(800) {
            continue;
        }
        undisturbed |= *whole == tables;
        assert_eq!(seen, [1, 3], "one before, three after");
        set_is(&ambassador, &[&servers[1], &servers[2], &servers[3]]);
        println!("written in {pause:?} steps: the set had changed after {:.1?}", begun.elapsed());
    }
    assert!(undisturbed, "this machine is too busy to write a line each second");
}

/// A mounted ConfigMap: the file is a link into a directory that is replaced as a whole, by the rename of another link.
#[cfg(unix)]
#[test]
fn the_set_follows_a_mounted_config_map() {
    use std::os::unix::fs::symlink;
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let servers: Vec<_> = (0..2).map(|_| Upstream::start(&pki)).collect();
    let put = |name: &str, server: &Upstream| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("orders.json"), list(&[server])).unwrap();
        symlink(name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    put("..1", &servers[0]);
    symlink("..data/orders.json", at("orders.json")).unwrap();
    let ambassador = follows(&pki, &at("orders.json"));
    set_is(&ambassador, &[&servers[0]]);
    put("..2", &servers[1]);
    let took = set_is(&ambassador, &[&servers[1]]);
    assert!(cfg!(not(target_os = "linux")) || took < Duration::from_secs(1), "{took:?}");
}

/// Tiers, weights and duplicates; and so many endpoints that each step that is quadratic in them would show.
#[test]
fn five_thousand_endpoints_are_a_set_like_any_other() {
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("orders.json");
    let server = Upstream::start(&pki);
    let mut entries: Vec<_> =
        (0..5000).map(|n| json!({"address": format!("192.0.2.1:{}", n + 1), "tier": 1})).collect();
    entries.push(json!({"address": server.address().to_string(), "weight": 3}));
    entries.push(json!({"address": server.address().to_string(), "weight": 5}));
    fs::write(&file, json!({"endpoints": entries}).to_string()).unwrap();
    let ambassador = follows(&pki, &file);
    ambassador.wait_state("/api/v1/upstreams", "they are all there, and the one twice once", |upstreams| {
        let endpoints = upstreams[0]["endpoints"].as_array()?;
        (endpoints.len() == 5001 && endpoints[5000]["weight"] == 3).then_some(())
    });
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    println!("20 connections among 5001 endpoints took {:.1?}", begun.elapsed());
    entries.reverse();
    entries.truncate(4000);
    put_in_place(&file, &json!(entries).to_string());
    ambassador.wait_state("/api/v1/upstreams", "a thousand have gone", |upstreams| {
        (upstreams[0]["endpoints"].as_array()?.len() == 3999).then_some(())
    });
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
}

/// Whoever writes the file names our own listener: by its address, by another one of this host where it listens on all, or by a
/// name. Each connection to it would open the next. It is told so, and nothing is dialled; another endpoint serves all the same.
#[test]
fn an_endpoint_that_is_our_own_listener_is_never_dialled_and_the_record_says_so() {
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("orders.json");
    let server = Upstream::start(&pki);
    let health = "[upstream.up.health]\nkind = \"off\"\n";
    let all = "[listener.all]\naddress = \"0.0.0.0:0\"\nallow = [\"127.0.0.0/8\"]\nupstream = \"up\"\n";
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &format!("file = {file:?}\n{health}{all}")));
    let (listener, all) = (ambassador.listener("in"), ambassador.listener("all").port());
    let mut told = 0;
    for own in [listener.to_string(), format!("127.0.0.9:{all}"), format!("localhost:{all}")] {
        fs::write(&file, json!([own]).to_string()).unwrap();
        ambassador.wait_state("/api/v1/upstreams", &format!("the set is {own}"), |upstreams| {
            (upstreams[0]["endpoints"][0]["address"] == own.as_str()).then_some(())
        });
        assert!(clients::ask(listener, b"ping").is_err());
        told += 1;
        let record = ambassador.wait_records(told).pop().unwrap();
        assert_eq!(
            (&record["reason"], &record["stage"]),
            (&json!("proxy_loop_detected"), &json!("connect")),
            "{record}"
        );
        assert_eq!((&record["side"], &record["listener"]), (&json!("ambassador"), &json!("in")), "{record}");
        assert!(record["detail"].as_str().unwrap().contains("nuncio's own listener"), "{record}");
    }
    fs::write(&file, json!([listener.to_string(), server.address().to_string()]).to_string()).unwrap();
    set_is_of(&ambassador, 2);
    for _ in 0..20 {
        assert_eq!(clients::ask(listener, b"ping").unwrap(), b"ping");
    }
    // One record each: nobody else has been connected to.
    assert_eq!(ambassador.wait_records(told + 20).len(), told + 20);
}

#[track_caller]
fn set_is_of(ambassador: &Ambassador, members: usize) {
    ambassador.wait_state("/api/v1/upstreams", &format!("the set has {members} members"), |upstreams| {
        (upstreams[0]["endpoints"].as_array()?.len() == members).then_some(())
    });
}

/// What a person sees before it runs: where the endpoints come from; with --online, each of them, or what is wrong with the file.
#[test]
fn check_names_the_file_and_online_looks_at_each_endpoint_that_it_names() {
    let pki = Pki::generate();
    let directory = TempDir::new().unwrap();
    let (file, config) = (directory.path().join("orders.json"), directory.path().join("nuncio.toml"));
    let server = Upstream::start(&pki);
    fs::write(&config, config::mtls(&pki, "file = \"orders.json\"\n")).unwrap();
    let check = || {
        let arguments = ["check", "--online", "--config", config.to_str().unwrap()];
        let (code, out, err) = run(&arguments, directory.path());
        (code, out + &err)
    };
    fs::write(&file, list(&[&server])).unwrap();
    let (code, told) = check();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains(&format!("those that {} names", file.display())), "{told}");
    assert!(told.contains(&format!("upstream up at {}", server.address())), "{told}");
    fs::write(&file, "[\"db1:5432\",\n \"db2\"]").unwrap();
    let (code, told) = check();
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("orders.json: line 2:6: 'db2' has no port"), "{told}");
}
