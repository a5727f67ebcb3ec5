//! The log: lines to standard error, as text or as JSON that begins as the records do. Leaves to [`Output`] that nobody waits for
//! who reads it.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::record::{Format, Output, Timestamp};

/// Logging to stderr. `level` is a filter of `tracing`; NUNCIO_LOG wins over the file, for one run. The last lines are
/// written when what is returned is dropped.
///
/// Whoever logs only appends to a buffer: a reader of stderr that stalls would stop the reactors otherwise.
#[must_use]
pub(super) fn start_logging(format: Format, level: &str) -> Logging {
    let lines = Arc::new(Output::new(Box::new(std::io::stderr()), "log lines", |_, _| {}));
    let logging = Logging(lines.clone());
    let filter = std::env::var("NUNCIO_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Line(lines.clone()))
        .with_target(false);
    match format {
        Format::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).init();
        }
        Format::Json => builder.event_format(Json).init(),
    }
    logging
}

/// The log, while the process runs.
pub(super) struct Logging(Arc<Output>);

impl Drop for Logging {
    fn drop(&mut self) {
        // False: nobody reads them, and there is nobody to tell.
        self.0.flush(Logging::FAREWELL);
    }
}

impl Logging {
    /// How long the end waits for whoever reads the log.
    const FAREWELL: Duration = Duration::from_secs(2);
}

/// One line on its way to the log: the subscriber writes each whole.
struct Line(Arc<Output>);

impl std::io::Write for Line {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An event as one JSON object: `time` and `level` as records have them, the message, and whatever else it says.
struct Json;

#[derive(Serialize)]
struct Entry {
    time: Timestamp,
    level: &'static str,
    #[serde(flatten)]
    said: Said,
}

/// Fields in the order in which they are said.
#[derive(Default)]
struct Said(Vec<(&'static str, Value)>);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            _ => "trace",
        };
        let entry = Entry { time: Timestamp(SystemTime::now()), level, said };
        let line = serde_json::to_string(&entry).map_err(|_| fmt::Error)?;
        writeln!(to, "{line}")
    }
}

impl Serialize for Said {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}").into()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), value.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Whoever gathers records and log lines in one place sorts and filters both by the same two fields.
    #[test]
    fn a_line_in_json_has_time_and_level_as_a_record_has_them() {
        let kept = Kept::default();
        let written = kept.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || written.clone()).event_format(Json);
        tracing::subscriber::with_default(builder.finish(), || {
            tracing::warn!(upstream = "orders", times = 3_u64, why = %"say \"no\"", off = true, "it is {}", "so");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let (time, rest) = text.split_once("Z\",").unwrap();
        assert!(
            time.starts_with("{\"time\":\"20") && time.len() == "{\"time\":\"2026-01-01T00:00:00.000".len()
        );
        let expected = r#""level":"warn","message":"it is so","upstream":"orders","times":3,"why":"say \"no\"","off":true}"#;
        assert_eq!(rest, format!("{expected}\n"));
    }
}
