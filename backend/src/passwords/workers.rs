//! Threads for work that keeps a core busy, and gives way to everything else.

use std::{
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

/// Threads of less importance: whoever is answered quickly gets a core before them.
///
/// They end when nobody can give them work any more.
pub(super) struct Workers {
    jobs: Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Workers {
    /// Starts `count` of them.
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..count.get() {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name("passwords".to_owned()).spawn(move || toil(&waiting))?;
        }
        Ok(Self { jobs })
    }

    /// Has `job` done. Whether there is anybody to do it.
    pub(super) fn give(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.jobs.send(Box::new(job)).is_ok()
    }
}

fn toil(waiting: &Mutex<Receiver<Job>>) {
    // On Linux it is this thread's alone. Where it is refused, work is done all the same.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "hashing passwords does not give way to other work");
    }
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever waits for a job that panics hears that it is gone; the next one is done.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a password could not be hashed: its thread panicked");
        }
    }
}

/// On a busy machine a tenth of a core is left, so that logins are slow there and not refused for ever.
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_does_not_keep_the_next_from_being_done() {
        let workers = Workers::start(NonZeroUsize::MIN).unwrap();
        assert!(workers.give(|| panic!("on purpose")));
        let (done, is_done) = oneshot::channel();
        assert!(workers.give(move || done.send(()).unwrap()));
        is_done.await.unwrap();
    }

    #[tokio::test]
    async fn the_work_gives_way_and_nothing_else_does() {
        let workers = Workers::start(NonZeroUsize::MIN).unwrap();
        let (tell, told) = oneshot::channel();
        let priority = || rustix::process::getpriority_process(None).unwrap();
        workers.give(move || tell.send(priority()).unwrap());
        assert_eq!(told.await.unwrap(), NICENESS);
        assert!(priority() < NICENESS);
    }
}
