//! pool: the buffers of the relay, kept per thread, last in first out, under one budget for the process.
//!
//! A large buffer makes bulk cheap: fewer system calls, fewer wake-ups. No connection holds one while it is idle; the one
//! that was just given back is the one whose cache lines are still warm.
//!
//! **When the budget is spent** (many stalled peers each pin a large buffer of output) a turn gets a small buffer instead,
//! just large enough for one TLS record. The roads not taken: *waiting* for a large one lets peers that never read stop
//! everybody else, and needs a queue with a lock; *taking from* a stalled connection means copying its output to somewhere
//! just as large. So the bound is `budget` for large buffers, plus at most two small ones for each connection, which is
//! less than what the kernel itself queues for a stalled socket; every connection always moves.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::engine::{HEADROOM, MAX_RECORD};

/// Size of a buffer while the budget lasts.
pub const LARGE: usize = 256 * 1024;

/// Size of a buffer when it does not: the longest record, and the room to open it. In less, a record might never be complete.
pub const SMALL: usize = (HEADROOM + MAX_RECORD).next_multiple_of(1024);

/// A thread keeps so many large buffers at most; a turn needs three.
const KEEP: usize = 8;

static BUDGET: AtomicUsize = AtomicUsize::new(128 * 1024 * 1024);
static LARGE_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static FREE: RefCell<Free> = const { RefCell::new(Free(Vec::new())) };
}

/// Sets how many bytes of large buffers the process may have, in use and kept.
pub fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Bytes of large buffers that exist now, in use and kept.
pub fn large_bytes() -> usize {
    LARGE_BYTES.load(Ordering::Relaxed)
}

/// A buffer; dropping it gives it back.
pub(super) struct Buffer(Box<[u8]>);

/// Takes a large buffer, or a small one if the budget is spent.
pub(super) fn take() -> Buffer {
    let kept = FREE.try_with(|free| free.borrow_mut().0.pop()).ok().flatten();
    if let Some(bytes) = kept {
        return Buffer(bytes);
    }
    let budget = BUDGET.load(Ordering::Relaxed);
    let granted = LARGE_BYTES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        (used + LARGE <= budget).then_some(used + LARGE)
    });
    let size = if granted.is_ok() { LARGE } else { SMALL };
    Buffer(vec![0; size].into_boxed_slice())
}

impl Buffer {
    /// These very bytes, outside of the budget: for what is rare and short.
    pub(super) fn exact(mut bytes: Vec<u8>) -> Buffer {
        if bytes.len() == LARGE {
            bytes.push(0); // or it would count as one of the budget's
        }
        Buffer(bytes.into_boxed_slice())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.len() != LARGE {
            return;
        }
        let bytes = std::mem::take(&mut self.0);
        // `bytes` is dropped, and counted out, where it is not kept: too many, over a lowered budget, or the thread is ending.
        let kept = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let fits = free.0.len() < KEEP && large_bytes() <= BUDGET.load(Ordering::Relaxed);
            if fits {
                free.0.push(bytes);
            }
            fits
        });
        if kept != Ok(true) {
            LARGE_BYTES.fetch_sub(LARGE, Ordering::Relaxed);
        }
    }
}

/// What a thread keeps.
struct Free(Vec<Box<[u8]>>);

impl Drop for Free {
    fn drop(&mut self) {
        LARGE_BYTES.fetch_sub(self.0.len() * LARGE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_buffer_given_back_is_the_next_one_taken() {
        let (a, b) = (take(), take());
        let (at_a, at_b) = (a.as_ptr(), b.as_ptr());
        drop(a);
        drop(b);
        let (c, d) = (take(), take());
        assert_eq!((c.as_ptr(), d.as_ptr()), (at_b, at_a));
    }

    #[test]
    fn a_thread_keeps_few_buffers_and_counts_the_rest_out() {
        // The count is the process's, and other tests' threads move it: this looks at what this thread does only.
        let many: Vec<Buffer> = (0..KEEP + 3).map(|_| take()).collect();
        assert!(many.iter().all(|buffer| buffer.len() == LARGE || buffer.len() == SMALL));
        assert!(large_bytes() >= many.iter().filter(|buffer| buffer.len() == LARGE).count() * LARGE);
        drop(many);
        assert!(FREE.with(|free| free.borrow().0.len()) <= KEEP);
    }
}
