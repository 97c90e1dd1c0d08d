//! Which server gets the next request: the one with the fewest in flight among those that are well.
//!
//! A server that cannot be reached, or that failed several times in a row, is set aside and tried again later: without that a server
//! that fails fast would have the fewest in flight and draw all work to itself. A server that named a pause (`Retry-After`) is left alone
//! for that long.

use super::http::{Class, Fault, Server};
use super::retry::{Again, Backoff};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many failures in a row set a server aside.
const FAULTS_IN_A_ROW: u32 = 3;

/// The servers of an endpoint and how they are doing.
pub(super) struct Pool {
    servers: Vec<Server>,
    states: Mutex<Vec<State>>,
    aside: Backoff,
}

#[derive(Clone, Default)]
struct State {
    in_flight: usize,
    faults: u32,
    aside_until: Option<Instant>,
    aside_for: Duration,
    paused_until: Option<Instant>,
}

/// What [`Pool::pick`] says.
#[derive(Debug, PartialEq, Eq)]
enum Pick {
    /// Ask this one.
    Server(usize),
    /// Every server wishes a pause; the shortest is this long.
    Wait(Duration),
}

impl Pool {
    /// `aside`: the first and the longest time for which a server is set aside.
    pub(super) fn new(servers: Vec<Server>, aside: Backoff) -> Self {
        let states = Mutex::new(vec![State::default(); servers.len()]);
        Pool { servers, states, aside }
    }

    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// A server for one attempt, after the pauses that servers asked for. `avoid` failed just now and is taken only if no other is well.
    /// The caller must [`Pool::report`] what came of it.
    pub(super) async fn acquire(&self, avoid: Option<usize>) -> Lease<'_> {
        loop {
            match self.pick(avoid, Instant::now()) {
                Pick::Server(index) => return Lease { pool: self, index },
                Pick::Wait(pause) => tokio::time::sleep(pause).await,
            }
        }
    }

    fn pick(&self, avoid: Option<usize>, now: Instant) -> Pick {
        let mut states = self.lock();
        let later = |t: Option<Instant>| t.filter(|t| *t > now);
        let awake = |s: &State| later(s.paused_until).is_none();
        let best = (0..states.len()).filter(|i| awake(&states[*i])).min_by_key(|i| {
            let state = &states[*i];
            // Of equals the one that was asked least, so that single requests go round.
            (later(state.aside_until), avoid == Some(*i), state.in_flight, self.servers[*i].sent())
        });
        match best {
            Some(index) => {
                states[index].in_flight += 1;
                Pick::Server(index)
            }
            None => {
                let soonest = states.iter().filter_map(|s| later(s.paused_until)).min();
                Pick::Wait(soonest.map_or(Duration::ZERO, |t| t - now))
            }
        }
    }

    /// Whether a server other than `index` is well.
    pub(super) fn has_other(&self, index: usize) -> bool {
        let now = Instant::now();
        self.lock().iter().enumerate().any(|(i, s)| i != index && s.aside_until.is_none_or(|t| t <= now))
    }

    fn record(&self, index: usize, fault: Option<&Fault>, now: Instant) {
        let (first, longest) = (self.aside.first, self.aside.longest);
        let state = &mut self.lock()[index];
        let Some(fault) = fault else {
            *state = State { in_flight: state.in_flight, ..State::default() };
            return;
        };
        if let (Class::Busy | Class::Broken, Again::After(pause)) = (fault.class, fault.again) {
            state.paused_until = Some(now + pause);
        }
        match fault.class {
            // An answer to a request that was read: the server is alive.
            Class::Refused | Class::Missing | Class::Busy => state.faults = 0,
            Class::Unreachable => state.faults = FAULTS_IN_A_ROW,
            Class::Interrupted | Class::TimedOut | Class::Garbage | Class::Quota | Class::Denied | Class::Broken => state.faults += 1,
        }
        if state.faults >= FAULTS_IN_A_ROW && state.aside_until.is_none_or(|t| t <= now) {
            state.aside_for = if state.aside_for.is_zero() { first } else { (state.aside_for * 2).min(longest) };
            state.aside_until = Some(now + state.aside_for);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        // Nothing under the lock can leave the states half changed.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one attempt on a server. Dropping it (a cancelled run) gives the place back.
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    pub(super) index: usize,
}

impl Lease<'_> {
    pub(super) fn server(&self) -> &Server {
        &self.pool.servers[self.index]
    }

    /// Tells the pool how the attempt went.
    pub(super) fn report(self, fault: Option<&Fault>) {
        self.pool.record(self.index, fault, Instant::now());
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool.lock()[self.index].in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::url::BaseUrl;
    use super::*;

    fn pool(n: usize) -> Pool {
        let server = |i| Server::new(BaseUrl::parse(&format!("http://127.0.0.1:{}", 9000 + i)).unwrap(), None).unwrap();
        Pool::new((0..n).map(server).collect(), Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(3) })
    }

    fn fault(class: Class, again: Again) -> Fault {
        Fault { class, message: String::new(), again, filtered: false }
    }

    fn pick(pool: &Pool, avoid: Option<usize>, now: Instant) -> usize {
        match pool.pick(avoid, now) {
            Pick::Server(index) => index,
            Pick::Wait(pause) => panic!("asked to wait {pause:?}"),
        }
    }

    #[test]
    fn the_fewest_in_flight_is_next() {
        let (pool, now) = (pool(3), Instant::now());
        let order: Vec<usize> = (0..6).map(|_| pick(&pool, None, now)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
        pool.lock()[1].in_flight = 0;
        assert_eq!(pick(&pool, None, now), 1);
        assert_eq!(pick(&pool, Some(1), now), 0, "the one that failed just now is avoided");
    }

    #[test]
    fn an_unreachable_server_is_set_aside_longer_each_time_and_tried_again() {
        let (pool, start) = (pool(2), Instant::now());
        let mut now = start;
        for aside in [1, 2, 3, 3] {
            pool.lock()[1].in_flight = 5;
            pool.lock()[0].in_flight = 0;
            assert_eq!(pick(&pool, None, now), 0, "tried again");
            pool.record(0, Some(&fault(Class::Unreachable, Again::Yes)), now);
            pool.record(0, Some(&fault(Class::Unreachable, Again::Yes)), now);
            pool.lock()[0].in_flight = 0;
            assert_eq!(pick(&pool, None, now + Duration::from_millis(aside * 1000 - 1)), 1, "set aside for {aside} s");
            now += Duration::from_secs(aside);
        }
        pool.record(0, None, now);
        pool.lock()[0].in_flight = 0;
        assert_eq!(pick(&pool, None, now), 0);
    }

    #[test]
    fn only_several_faults_in_a_row_set_aside_and_one_server_alone_is_always_asked() {
        let (pool, now) = (pool(2), Instant::now());
        let state = |pool: &Pool| pool.lock()[0].aside_until.is_some();
        for class in [Class::Broken, Class::TimedOut, Class::Refused, Class::Broken, Class::Broken] {
            pool.record(0, Some(&fault(class, Again::Yes)), now);
            assert!(!state(&pool), "{class:?}");
        }
        pool.record(0, Some(&fault(Class::Garbage, Again::Yes)), now);
        assert!(state(&pool));
        pool.record(1, Some(&fault(Class::Unreachable, Again::Yes)), now);
        assert_eq!(pick(&pool, None, now), 0);
    }

    #[test]
    fn a_pause_the_server_asked_for_is_kept() {
        let (pool, now) = (pool(1), Instant::now());
        pool.record(0, Some(&fault(Class::Busy, Again::After(Duration::from_secs(2)))), now);
        assert_eq!(pool.pick(None, now + Duration::from_secs(1)), Pick::Wait(Duration::from_secs(1)));
        assert_eq!(pool.pick(None, now + Duration::from_secs(2)), Pick::Server(0));
    }

    #[test]
    fn a_dropped_lease_gives_its_place_back() {
        let pool = pool(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lease = runtime.block_on(pool.acquire(None));
        assert_eq!(pool.lock()[0].in_flight, 1);
        drop(lease);
        assert_eq!(pool.lock()[0].in_flight, 0);
    }
}
