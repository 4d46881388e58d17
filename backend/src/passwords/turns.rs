//! Turns at work that takes long, shared among client networks and not among clients.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memoric_contract::{Network, Site};
use tokio::sync::oneshot;

/// So many may be at work at once, and so many more wait.
///
/// Networks take turns, so one that asks a thousand times waits longer and nobody else does. When
/// no more may wait, the site that has most of the places gives one up for one that has fewer, and
/// within a site the network does: who has a thousand networks keeps nobody out either.
#[derive(Clone)]
pub(super) struct Turns {
    inner: Arc<Inner>,
}

/// Leave to work. Dropping it is the next one's turn.
pub(super) struct Turn {
    /// Nothing once it has been handed on.
    inner: Option<Arc<Inner>>,
}

/// No more may wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Full;

struct Inner {
    most_waiting: usize,
    at_work: NonZeroUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who is at work.
    working: usize,
    /// Who waits, by network, the first come first. None of the queues is empty.
    queues: HashMap<Network, VecDeque<oneshot::Sender<Turn>>>,
    /// Networks in the order of their turns, each once.
    order: VecDeque<Network>,
}

impl Turns {
    /// At most `at_work` work at once, and `most_waiting` more wait.
    pub(super) fn new(at_work: NonZeroUsize, most_waiting: usize) -> Self {
        Self { inner: Arc::new(Inner { most_waiting, at_work, state: Mutex::default() }) }
    }

    /// Waits for a turn of `network`'s. Whoever stops waiting gives up their place.
    pub(super) async fn take(&self, network: Network) -> Result<Turn, Full> {
        let waiting = {
            let mut state = self.inner.state();
            if state.working < self.inner.at_work.get() {
                state.working += 1;
                return Ok(Turn { inner: Some(Arc::clone(&self.inner)) });
            }
            state.make_room(network, self.inner.most_waiting)?;
            state.line_up(network)
        };
        // Whoever had to give up their place hears nothing more.
        waiting.await.map_err(|_| Full)
    }

    /// Whether one more of `network` would get a turn or a place to wait, if it asked now.
    pub(super) fn has_room(&self, network: Network) -> bool {
        let mut state = self.inner.state();
        state.working < self.inner.at_work.get()
            || state.loser_to(network, self.inner.most_waiting).is_ok()
    }

    /// How many are at work or wait.
    pub(super) fn taken(&self) -> usize {
        let mut state = self.inner.state();
        state.forget_the_gone();
        state.working + state.waiting()
    }

    /// How many rounds of work it takes until whoever is let in last is done.
    pub(super) fn rounds(&self) -> usize {
        (self.inner.most_waiting + self.inner.at_work.get()).div_ceil(self.inner.at_work.get())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        loop {
            let Some(next) = inner.state().next() else { return };
            let turn = Turn { inner: Some(Arc::clone(&inner)) };
            match next.send(turn) {
                Ok(()) => return,
                // They have gone, and their turn must not be handed on from within.
                Err(mut turn) => turn.inner = None,
            }
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Whose turn is next: the networks' in order, and within one who came first. Where nobody waits
    /// one less is at work.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(network) = self.order.pop_front() {
            let Some(mut queue) = self.queues.remove(&network) else { continue };
            let first = queue.pop_front();
            if !queue.is_empty() {
                self.queues.insert(network, queue);
                self.order.push_back(network);
            }
            if first.is_some() {
                return first;
            }
        }
        self.working = self.working.saturating_sub(1);
        None
    }

    fn line_up(&mut self, network: Network) -> oneshot::Receiver<Turn> {
        let (turn, waiting) = oneshot::channel();
        let queue = self.queues.entry(network).or_default();
        if queue.is_empty() {
            self.order.push_back(network);
        }
        queue.push_back(turn);
        waiting
    }

    /// Sees to it that one more of `network` may wait.
    fn make_room(&mut self, network: Network, most: usize) -> Result<(), Full> {
        if let Some(loser) = self.loser_to(network, most)? {
            if let Some(queue) = self.queues.get_mut(&loser) {
                queue.pop_back();
            }
            self.forget_the_gone();
        }
        Ok(())
    }

    /// Which network gives up the place of whoever came last of it, so that one more of `network` may wait; nobody where
    /// there are places left. Where all are taken it is one of the site that has most of them, and there the network that
    /// has, if that is more than the site of `network` will have. Within its own site the same goes for networks.
    fn loser_to(&mut self, network: Network, most: usize) -> Result<Option<Network>, Full> {
        if self.waiting() < most {
            return Ok(None);
        }
        self.forget_the_gone();
        if self.waiting() < most {
            return Ok(None);
        }
        let mut sites: HashMap<Site, usize> = HashMap::new();
        for (network, queue) in &self.queues {
            *sites.entry(network.site()).or_default() += queue.len();
        }
        let own = sites.get(&network.site()).copied().unwrap_or_default();
        let (&largest, &most) = sites.iter().max_by_key(|(_, places)| **places).ok_or(Full)?;
        let (site, own) = if most > own + 1 {
            (largest, 0)
        } else {
            (network.site(), self.queues.get(&network).map_or(0, VecDeque::len) + 1)
        };
        let of_site = self.queues.iter().filter(|(network, _)| network.site() == site);
        let longest = of_site.max_by_key(|(_, queue)| queue.len());
        let longest = longest.filter(|(_, queue)| queue.len() > own).ok_or(Full)?;
        Ok(Some(*longest.0))
    }

    fn forget_the_gone(&mut self) {
        self.queues.retain(|_, queue| {
            queue.retain(|turn| !turn.is_closed());
            !queue.is_empty()
        });
        self.order.retain(|network| self.queues.contains_key(network));
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use tokio::{
        task::{JoinHandle, yield_now},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn networks_take_turns_however_many_ask_from_one() {
        let turns = Turns::new(NonZeroUsize::MIN, 100);
        let at_work = turns.take(network(1)).await.unwrap();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for from in [1, 1, 1, 1, 2, 3, 2] {
            let (turns, said) = (turns.clone(), said.clone());
            tokio::spawn(async move {
                let turn = turns.take(network(from)).await.unwrap();
                said.send(from).unwrap();
                drop(turn);
            });
            yield_now().await;
        }

        drop(at_work);

        let mut order = Vec::new();
        while order.len() < 7 {
            order.push(heard.recv().await.unwrap());
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1, 1]);
        assert_eq!(turns.taken(), 0);
    }

    #[tokio::test]
    async fn a_flood_from_one_network_makes_room_for_another() {
        let turns = Turns::new(NonZeroUsize::MIN, 4);
        let at_work = turns.take(network(1)).await.unwrap();
        let flood: Vec<_> = (0..4).map(|_| waiting(&turns, 1)).collect();
        yield_now().await;
        assert!(!turns.has_room(network(1)), "it has every place already");
        assert!(turns.take(network(1)).await.is_err());
        assert!(turns.has_room(network(2)));
        assert_eq!(turns.taken(), 5, "who only wonders takes nobody's place");

        let other = waiting(&turns, 2);
        yield_now().await;
        let last = flood.into_iter().next_back().unwrap();
        assert_eq!(last.await.unwrap().err(), Some(Full), "who came last of the flood");
        assert_eq!(turns.taken(), 5);

        drop(at_work);
        assert!(other.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn places_shared_evenly_are_given_up_to_nobody() {
        let turns = Turns::new(NonZeroUsize::MIN, 2);
        let _at_work = turns.take(network(1)).await.unwrap();
        let _waiting = [waiting(&turns, 1), waiting(&turns, 2)];
        yield_now().await;
        assert!(turns.take(network(3)).await.is_err(), "each of them has one");
    }

    #[tokio::test]
    async fn who_has_many_networks_makes_room_for_who_has_one() {
        let turns = Turns::new(NonZeroUsize::MIN, 4);
        let at_work = turns.take(network(1)).await.unwrap();
        let crowd: Vec<_> = (1..=4).map(|from| waiting(&turns, from)).collect();
        yield_now().await;
        assert!(turns.take(network(5)).await.is_err(), "their site has every place already");

        let elsewhere = Network::of(Ipv4Addr::new(203, 0, 113, 1).into());
        let other = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(elsewhere).await }
        });
        yield_now().await;
        assert_eq!(turns.taken(), 5, "one of the crowd has gone");
        assert!(turns.take(network(6)).await.is_err(), "and none of them comes back for it");

        drop((at_work, crowd));
        assert!(timeout(Duration::from_secs(5), other).await.unwrap().unwrap().is_ok());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_gives_up_their_place() {
        let turns = Turns::new(NonZeroUsize::MIN, 1);
        let at_work = turns.take(network(1)).await.unwrap();
        let gone = timeout(Duration::from_millis(10), turns.take(network(1)));
        assert!(gone.await.is_err());
        assert_eq!(turns.taken(), 1);

        let next = waiting(&turns, 1);
        yield_now().await;
        drop(at_work);
        assert!(next.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_is_there_to_take_is_handed_on() {
        let turns = Turns::new(NonZeroUsize::MIN, 3);
        let at_work = turns.take(network(1)).await.unwrap();
        let [gone, stays] = [waiting(&turns, 1), waiting(&turns, 1)];
        yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());

        drop(at_work);
        drop(stays.await.unwrap().unwrap());

        assert_eq!(turns.taken(), 0);
        assert!(turns.take(network(9)).await.is_ok());
    }

    fn waiting(turns: &Turns, from: u8) -> JoinHandle<Result<Turn, Full>> {
        let turns = turns.clone();
        tokio::spawn(async move { turns.take(network(from)).await })
    }

    fn network(last: u8) -> Network {
        Network::of(Ipv4Addr::new(192, 0, 2, last).into())
    }
}
