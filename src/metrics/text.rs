//! The two spellings of the exposition: OpenMetrics 1.0 and the older text format 0.0.4.
//!
//! They differ in what `# TYPE` says of a counter: OpenMetrics names the family, the older one the sample with its
//! `_total`. A scraper that reads one as the other loses the types.

/// The `Content-Type` of what [`Metrics::encode`](super::Metrics::encode) returns.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The `Content-Type` of what [`plain`] returns.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same exposition in the older format.
pub fn plain(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len() + 1024);
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Held back: only the TYPE behind it tells whether it is a counter.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().filter(|(helped, _)| *helped == name) {
                out.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out
}

/// Does an `Accept` header prefer OpenMetrics? Prometheus sends it first, with the highest weight.
pub fn wants_openmetrics(accept: &str) -> bool {
    let weight = |wanted: &str| {
        accept
            .split(',')
            .filter(|part| {
                part.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
            })
            .map(|part| {
                let q = part.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
                q.map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0))
            })
            .fold(0.0, f32::max)
    };
    let open = weight("application/openmetrics-text");
    open > 0.0 && open >= weight("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_typed_by_their_sample_in_the_older_format() {
        let openmetrics = "# HELP a_b Things.\n# TYPE a_b counter\na_b_total{x=\"# TYPE y counter\"} 1\n\
                           # HELP c Other.\n# TYPE c gauge\nc 2\n# EOF\n";
        assert_eq!(
            plain(openmetrics),
            "# HELP a_b_total Things.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE y counter\"} 1\n\
             # HELP c Other.\n# TYPE c gauge\nc 2\n"
        );
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_prefers() {
        // As Prometheus 2.42 asks, and curl, and a browser.
        for (accept, wanted) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            ("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.3", false),
            ("*/*", false),
            ("application/openmetrics-text;q=0", false),
            ("text/html,*/*;q=0.8", false),
            ("", false),
        ] {
            assert_eq!(wants_openmetrics(accept), wanted, "{accept}");
        }
    }
}
