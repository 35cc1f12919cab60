//! The threads that read. They are as many from the start to the end: threads that are made as there
//! are reads become as many as there were reads at once, and stay.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::stages::thread;

/// So many reads wait for the disk at once.
const READERS: usize = 8;

type Read = Box<dyn FnOnce() + Send>;

/// Reads in threads of their own. They end when this is dropped, after what was asked of them.
pub(super) struct Readers {
    reads: Sender<Read>,
}

impl Readers {
    pub(super) fn start() -> io::Result<Self> {
        let (reads, wanted) = channel();
        let wanted = Arc::new(Mutex::new(wanted));
        for number in 0..READERS {
            let wanted = Arc::clone(&wanted);
            let _thread = thread(&format!("store-reader-{number}"), move || work(&wanted))?;
        }
        Ok(Self { reads })
    }

    /// Reads as soon as a thread is free; also when nobody waits for the answer any more.
    pub(super) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let asked = self.reads.send(Box::new(move || {
            // The one who asked may have gone.
            let _ = sender.send(read());
        }));
        // The threads end only with their queue, and a panic inside the engine drops the sender.
        drop(asked);
        receiver
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
            .boxed()
    }
}

fn work(wanted: &Mutex<Receiver<Read>>) {
    loop {
        let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = next else {
            return;
        };
        // The panic hook has told of it, and the one who asked is answered.
        let _outcome = catch_unwind(AssertUnwindSafe(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_read_is_an_error_and_costs_no_thread() {
        let readers = Readers::start().unwrap();
        for _ in 0..2 * READERS {
            let panicked = readers.read(|| -> Result<(), _> { panic!("a bug of the engine") });
            assert!(matches!(panicked.await, Err(StoreError::Closed)));
        }
        assert_eq!(readers.read(|| Ok(7)).await.unwrap(), 7);
    }
}
