//! Brings records from a log to the backend, in order, until it has them.

use std::{
    collections::HashSet,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use memoric_contract::spool::{Answer, batch};
use tokio::{select, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Batch, Item},
    log::Log,
    marker::Position,
};

/// The way to the backend.
pub(crate) trait Transport: Sync {
    /// Posts the body of a batch and reads the answer, within a time of its own.
    fn send(&self, body: Vec<u8>) -> impl Future<Output = Result<Answer, Undelivered>> + Send;
}

/// Why a batch is not in the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Undelivered {
    /// The backend cannot be reached, or cannot write now: later it may.
    Away,
    /// The backend will never take the batch as it is.
    Refused,
}

/// What became of deliveries.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Batches that were sent.
    pub(crate) sent: AtomicU64,
    /// Batches that did not arrive.
    pub(crate) undelivered: AtomicU64,
    /// Records that were delivered as bytes, because they could not be taken as records.
    pub(crate) poisoned: AtomicU64,
}

/// Empties one log.
pub(super) struct Shipper<'a, T> {
    pub(super) log: &'a Arc<Log>,
    pub(super) transport: &'a T,
    pub(super) deliveries: &'a Deliveries,
    /// Cancelled when nothing more will be appended.
    pub(super) closing: CancellationToken,
}

/// How long to wait before the next attempt.
struct Backoff(Duration);

/// What is left of a group after an answer.
struct Left {
    again: Vec<Item>,
    poisoned: Vec<Item>,
}

impl<T: Transport> Shipper<'_, T> {
    /// Delivers what there is and what comes. Ends when the log is empty and nothing more will come.
    pub(super) async fn run(self) {
        let mut position = self.log.acknowledged();
        let mut backoff = Backoff::new();
        loop {
            match self.read(position).await {
                Ok(Some(batch)) => {
                    let is_worthwhile = batch.is_worthwhile();
                    position = batch.end;
                    self.deliver(batch).await;
                    backoff = Backoff::new();
                    if !is_worthwhile {
                        self.unless_closing(sleep(GATHERING)).await;
                    }
                }
                Ok(None) if self.closing.is_cancelled() => return,
                Ok(None) => self.gather(position).await,
                Err(error) => {
                    tracing::error!(%error, "the spool cannot be read");
                    self.wait(&mut backoff).await;
                }
            }
        }
    }

    /// Waits for records, and then until a batch of them is worth its journey.
    async fn gather(&self, position: Position) {
        let gathered = async {
            self.log.more_than(position).await;
            sleep(GATHERING).await;
        };
        self.unless_closing(gathered).await;
    }

    async fn unless_closing(&self, wait: impl Future<Output = ()>) {
        select! {
            () = wait => {}
            () = self.closing.cancelled() => {}
        }
    }

    async fn deliver(&self, mut batch: Batch) {
        let mut backoff = Backoff::new();
        let mut groups = vec![std::mem::take(&mut batch.items)];
        while let Some(group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let before = group.len();
            match self.send(&group).await {
                Ok(answer) => {
                    let Left { again, poisoned } = self.settle(group, &answer);
                    if again.len() == before {
                        self.wait(&mut backoff).await;
                    } else {
                        backoff = Backoff::new();
                    }
                    groups.extend([poisoned, again]);
                }
                Err(Undelivered::Refused) => groups.extend(self.divide(group, &mut backoff).await),
                Err(Undelivered::Away) => {
                    groups.push(group);
                    self.wait(&mut backoff).await;
                }
            }
        }
        self.acknowledge(batch).await;
    }

    async fn acknowledge(&self, batch: Batch) {
        let log = Arc::clone(self.log);
        if let Err(error) = spawn_blocking(move || log.acknowledge(&batch)).await {
            tracing::error!(%error, "an acknowledgement was not written down");
        }
    }

    async fn send(&self, group: &[Item]) -> Result<Answer, Undelivered> {
        self.deliveries.sent.fetch_add(1, Relaxed);
        let body = batch(group.iter().map(|item| item.frame.as_slice()));
        let answer = self.transport.send(body).await;
        if answer.is_err() {
            self.deliveries.undelivered.fetch_add(1, Relaxed);
        }
        answer
    }

    /// What to send after `answer`: nobody is done with a record that is not acknowledged.
    fn settle(&self, group: Vec<Item>, answer: &Answer) -> Left {
        let acknowledged: HashSet<_> = answer.acknowledged.iter().collect();
        let refused: HashSet<_> = answer.refused.iter().copied().collect();
        let is_refused =
            |index: usize| u32::try_from(index).is_ok_and(|index| refused.contains(&index));
        let mut left = Left { again: Vec::new(), poisoned: Vec::new() };
        for (index, item) in group.into_iter().enumerate() {
            if acknowledged.contains(&item.id) {
                continue;
            }
            if is_refused(index) && !item.is_poisoned {
                left.poisoned.push(self.poison(item));
            } else {
                left.again.push(item);
            }
        }
        left
    }

    /// The halves of a refused group, the first last: until the culprit is alone, and is sent as bytes.
    async fn divide(&self, mut group: Vec<Item>, backoff: &mut Backoff) -> Vec<Vec<Item>> {
        if group.len() > 1 {
            let second = group.split_off(group.len() / 2);
            return vec![second, group];
        }
        if group.iter().any(|item| item.is_poisoned) {
            tracing::error!("the backend refuses even bytes: the spool waits");
            self.wait(backoff).await;
        }
        vec![group.into_iter().map(|item| self.poison(item)).collect()]
    }

    fn poison(&self, item: Item) -> Item {
        if !item.is_poisoned {
            tracing::error!(event = %item.id, "a record is refused: it is delivered as bytes");
            self.deliveries.poisoned.fetch_add(1, Relaxed);
        }
        item.poison()
    }

    /// Waits longer each time; not long when the gateway is about to end.
    async fn wait(&self, backoff: &mut Backoff) {
        let delay = backoff.next();
        select! {
            () = sleep(delay) => {}
            () = async { self.closing.cancelled().await; sleep(Backoff::SHORTEST).await } => {}
        }
    }

    async fn read(&self, position: Position) -> io::Result<Option<Batch>> {
        let log = Arc::clone(self.log);
        spawn_blocking(move || log.read(position)).await.map_err(io::Error::other)?
    }
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self(Self::SHORTEST)
    }

    fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(Self::LONGEST);
        delay
    }
}

/// How long records gather before they are sent, so that they are not 100 ms old when they leave.
const GATHERING: Duration = Duration::from_millis(50);
