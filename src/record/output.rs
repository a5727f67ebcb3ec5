//! Where record lines and log lines go: a buffer in memory that a thread of its own writes out.
//!
//! A reactor only appends to the buffer. A pipe that nobody reads must stop the printing, not the traffic: when the buffer
//! is full, lines are dropped, and told of once they flow again. What else comes of a loss is the owner's to say.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::metrics::held;

/// Bytes that may wait: over a second of 20,000 records a second, minutes of an ordinary day.
const LIMIT: usize = 8 << 20;
/// Capacity that the buffers keep after a burst.
const KEPT: usize = 64 << 10;
/// After writing, the thread lets lines gather, so that a busy process writes a hundred times a second and not once a
/// connection.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end of the process waits for a reader.
const FAREWELL: Duration = Duration::from_secs(2);

/// The sending side. Dropping it writes what waits, within a limit.
#[derive(Debug)]
pub(crate) struct Output {
    lines: Arc<Lines>,
}

/// Called with how many lines were lost, and why where it was an error.
type OnLoss = Box<dyn Fn(u64, Option<&std::io::Error>) + Send + Sync>;

struct Lines {
    /// What the lines are, for a person.
    what: &'static str,
    state: Mutex<State>,
    /// Something to write, or the end.
    more: Condvar,
    /// All is written.
    idle: Condvar,
    on_loss: OnLoss,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("what", &self.what).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    lost: u64,
    closed: bool,
}

impl Output {
    /// Starts the thread.
    pub(crate) fn new(
        to: Box<dyn Write + Send>,
        what: &'static str,
        on_loss: impl Fn(u64, Option<&std::io::Error>) + Send + Sync + 'static,
    ) -> Output {
        let lines = Arc::new(Lines {
            what,
            state: Mutex::default(),
            more: Condvar::new(),
            idle: Condvar::new(),
            on_loss: Box::new(on_loss),
        });
        let theirs = lines.clone();
        let started = thread::Builder::new().name("nuncio-output".into()).spawn(move || theirs.write_out(to));
        if let Err(error) = started {
            // Better than not to run: records are in the API and the metrics as well.
            tracing::error!(%error, "no thread to print {what}: they are lost");
            held(&lines.state).closed = true;
        }
        Output { lines }
    }

    /// Appends a line, which must end in a newline. Never waits for the reader.
    pub(crate) fn line(&self, line: &[u8]) {
        let mut state = held(&self.lines.state);
        if state.closed || state.waiting.len() + line.len() > LIMIT {
            state.lost += 1;
            drop(state);
            (self.lines.on_loss)(1, None);
            return;
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.lines.more.notify_one();
        }
    }

    /// Waits until all lines are written; false if that took longer than `limit`.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = held(&self.lines.state);
        while !state.closed && (state.writing || !state.waiting.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.lines.idle.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush(FAREWELL);
        held(&self.lines.state).closed = true;
        // Not joined: it may hang in a write that nobody reads.
        self.lines.more.notify_one();
    }
}

impl Lines {
    fn write_out(&self, mut to: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        while let Some(lost) = self.take(&mut batch) {
            if lost > 0 {
                tracing::warn!(lost, "{} were not printed: the reader of the output was too slow", self.what);
            }
            if let Err(error) = to.write_all(&batch).and_then(|()| to.flush()) {
                // A closed pipe or a full disk. Not told here: the log's own failure would come back as its next line.
                let lines = batch.iter().filter(|byte| **byte == b'\n').count() as u64;
                (self.on_loss)(lines, Some(&error));
            }
            batch.clear();
            batch.shrink_to(KEPT);
            let mut state = held(&self.state);
            state.writing = false;
            let empty = state.waiting.is_empty();
            drop(state);
            if empty {
                self.idle.notify_all();
            }
            thread::sleep(GATHER);
        }
    }

    /// Waits for lines and swaps them into the empty `batch`. `None` at the end; else how many were lost meanwhile.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut state = held(&self.state);
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state = match self.more.wait(state) {
                Ok(state) => state,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        std::mem::swap(&mut state.waiting, batch);
        state.writing = true;
        Some(std::mem::take(&mut state.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::sync::mpsc;

    fn counting(to: Box<dyn Write + Send>, metrics: &Arc<Metrics>) -> Output {
        let metrics = metrics.clone();
        Output::new(to, "records", move |lines, _| metrics.records_lost(lines))
    }

    /// Writes go to a channel; it does nothing until told to go on.
    struct Stalled(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let going = self.1.recv();
            let sent = self.0.send(bytes.to_vec());
            going.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            sent.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let (written, seen) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let metrics = Metrics::new();
        let output = counting(Box::new(Stalled(written, gate)), &metrics);
        let line = [&[b'x'; (1 << 20) - 1][..], b"\n"].concat();
        for _ in 0..32 {
            output.line(&line);
        }
        assert!(!output.flush(Duration::ZERO));
        let lost: usize = metrics
            .encode(&[], &[])
            .lines()
            .find_map(|line| line.strip_prefix("nuncio_records_lost_total "))
            .and_then(|count| count.parse().ok())
            .unwrap();
        // What is being written is no longer in the buffer, hence up to twice the limit.
        assert!((32 - 2 * 8..=32 - 8).contains(&lost), "{lost}");
        for _ in 0..32 {
            go.send(()).unwrap();
        }
        assert!(output.flush(Duration::from_secs(20)));
        drop(output);
        let all: usize = seen.iter().map(|bytes| bytes.len()).sum();
        assert_eq!(all, (32 - lost) << 20);
    }

    #[test]
    fn all_lines_are_there_after_a_flush_and_in_order() {
        let (written, seen) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let output = counting(Box::new(Stalled(written, gate)), &Metrics::new());
        (0..1000).for_each(|_| go.send(()).unwrap());
        (0..1000).for_each(|number| output.line(format!("{number}\n").as_bytes()));
        assert!(output.flush(Duration::from_secs(20)));
        let text = String::from_utf8(seen.try_iter().flatten().collect()).unwrap();
        assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..1000));
    }

    #[test]
    fn a_closed_pipe_ends_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let metrics = Metrics::new();
        let output = counting(Box::new(Closed), &metrics);
        for _ in 0..2 {
            output.line(b"one\n");
            assert!(output.flush(Duration::from_secs(20)));
        }
        assert!(metrics.encode(&[], &[]).contains("nuncio_records_lost_total 2\n"));
    }
}
