//! stop: asks the `stop` future only when it has rung, not at every wake of a busy connection.
//!
//! `stop` usually waits on something that all connections of all reactors share, and polling such a thing takes its lock.
//! So it gets a waker of its own, which leaves a mark; without the mark it is not polled.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Remembers whether the `stop` future wants to be polled.
#[derive(Default)]
pub(super) struct Bell(Option<Arc<Mark>>);

struct Mark {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// True once `stop` resolved.
    pub(super) fn poll<S: Future<Output = ()>>(&mut self, cx: &Context<'_>, stop: Pin<&mut S>) -> bool {
        let mark = match &self.0 {
            Some(mark) if mark.task.will_wake(cx.waker()) => {
                if !mark.rung.load(Ordering::Acquire) {
                    return false;
                }
                // Before the poll: a ring during it must not be lost.
                mark.rung.store(false, Ordering::Release);
                mark
            }
            // The first time, or the future moved to another task.
            _ => self.0.insert(Arc::new(Mark { rung: AtomicBool::new(false), task: cx.waker().clone() })),
        };
        let waker = Waker::from(Arc::clone(mark));
        matches!(stop.poll(&mut Context::from_waker(&waker)), Poll::Ready(()))
    }
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}
