//! Messages as a person reads them, without what differs from run to run: for snapshots.

/// Without times, sizes, ports of loopback and what the clock says.
pub fn redacted(text: &str) -> String {
    let units = ["ms", "second", "minute", "hour", "day", "year", "bytes"];
    let number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let lines = text.lines().map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let mut shown = Vec::new();
        for (place, word) in words.iter().enumerate() {
            let next = words.get(place + 1).copied().unwrap_or_default().trim_end_matches([';', ',']);
            let before = shown.last().copied().unwrap_or_default();
            let opened = word.trim_start_matches('(');
            let clock = matches!(before, "is" | "says") && word.starts_with("20");
            shown.push(match () {
                () if !opened.is_empty()
                    && number(opened)
                    && (next.trim_end_matches(';') == "s"
                        || units.iter().any(|unit| next.starts_with(unit))) =>
                {
                    "N"
                }
                () if clock && word.ends_with(')') => "NOW)",
                () if clock => "NOW",
                () => word,
            });
        }
        shown.join(" ")
    });
    ports(&lines.collect::<Vec<_>>().join("\n"))
}

fn ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("127.0.0.1:PORT");
        shown.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    shown
}
