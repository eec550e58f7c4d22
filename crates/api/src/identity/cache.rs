//! What identity services said, kept for a while in the function's memory.
//!
//! Invariants:
//! - An answer counts until its end and no longer; an error is never kept.
//! - Those who want the same at once ask once, and each of them drives the question: one that is dropped halfway, as
//!   an invocation that times out is, keeps nobody waiting.
//! - There are at most as many answers as the bound says. Where one is too many, that goes which would end first: of
//!   those who try many bad tokens, whose refusals last for seconds, no good one's answer is driven out.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use image_tasks_domain::Timestamp;
use image_tasks_domain::ports::{Clock, StoreError};

/// An answer, and until when it counts. Errors are shared, as everything that several wait for.
type Answer<V> = Result<(V, Timestamp), Arc<StoreError>>;
type Question<V> = BoxFuture<'static, Answer<V>>;

/// Answers by what was asked.
pub(super) struct Cache<K, V> {
    clock: Arc<dyn Clock>,
    most: usize,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    known: HashMap<K, (V, Timestamp)>,
    asked: HashMap<K, WeakShared<Question<V>>>,
}

impl<K: Eq + Hash + Copy, V: Clone> Cache<K, V> {
    /// At most so many answers.
    pub(super) fn new(clock: Arc<dyn Clock>, most: usize) -> Self {
        Self { clock, most, state: Mutex::new(State { known: HashMap::new(), asked: HashMap::new() }) }
    }

    /// The answer if one is known that still counts, else that to the question. It is told the time at which it is
    /// asked: what it says counts from then, not from when the answer came.
    pub(super) async fn get(
        &self,
        key: K,
        question: impl FnOnce(Timestamp) -> Question<V>,
    ) -> Result<V, Arc<StoreError>> {
        let asked = {
            let now = self.clock.now();
            let mut state = self.state();
            match state.known.get(&key) {
                Some((value, until)) if now < *until => return Ok(value.clone()),
                _ => {}
            }
            match state.asked.get(&key).and_then(WeakShared::upgrade) {
                Some(asked) => asked,
                None => {
                    let asked = question(now).shared();
                    if let Some(weak) = asked.downgrade() {
                        state.asked.retain(|_, one| one.upgrade().is_some());
                        state.asked.insert(key, weak);
                    }
                    asked
                }
            }
        };
        let (value, until) = asked.await?;
        self.keep(key, value.clone(), until);
        Ok(value)
    }

    fn keep(&self, key: K, value: V, until: Timestamp) {
        let now = self.clock.now();
        let mut state = self.state();
        state.asked.remove(&key);
        if until <= now {
            return;
        }
        if state.known.len() >= self.most && !state.known.contains_key(&key) {
            state.known.retain(|_, (_, until)| now < *until);
        }
        state.known.insert(key, (value, until));
        if state.known.len() > self.most {
            let first = state.known.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key);
            first.and_then(|first| state.known.remove(&first));
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::{join_all, pending};
    use image_tasks_domain::memory::ManualClock;

    use super::*;

    /// A cache of at most three, and how often it asked.
    struct Fixture {
        cache: Cache<u32, u32>,
        clock: Arc<ManualClock>,
        asked: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(1_000)));
            Self { cache: Cache::new(clock.clone(), 3), clock, asked: Arc::default() }
        }

        /// Asks for what is worth its own key for so many seconds; answers take a few polls.
        async fn get(&self, key: u32, seconds: u64) -> u32 {
            let asked = self.asked.clone();
            let question = move |now: Timestamp| -> Question<u32> {
                async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    Ok((key, now.plus(Duration::from_secs(seconds))))
                }
                .boxed()
            };
            self.cache.get(key, question).await.unwrap()
        }

        fn asked(&self) -> usize {
            self.asked.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_end() {
        let fixture = Fixture::new();
        assert_eq!((fixture.get(1, 60).await, fixture.get(1, 60).await, fixture.asked()), (1, 1, 1));
        fixture.clock.advance(Duration::from_secs(59));
        fixture.get(1, 60).await;
        assert_eq!(fixture.asked(), 0);
        fixture.clock.advance(Duration::from_secs(1));
        fixture.get(1, 60).await;
        assert_eq!(fixture.asked(), 1);
        // What ends as it comes is an answer, and none to keep.
        assert_eq!((fixture.get(2, 0).await, fixture.get(2, 0).await, fixture.asked()), (2, 2, 2));
    }

    #[tokio::test]
    async fn what_ends_first_goes_where_there_is_no_room() {
        let fixture = Fixture::new();
        for key in [1, 2, 3] {
            fixture.get(key, 60).await;
        }
        for refused in 10..100 {
            fixture.get(refused, 5).await;
        }
        assert_eq!(fixture.asked(), 93);
        for key in [1, 2, 3] {
            fixture.get(key, 60).await;
        }
        assert_eq!(fixture.asked(), 0, "refusals drove good answers out");
        fixture.clock.advance(Duration::from_secs(1));
        fixture.get(4, 60).await;
        assert_eq!(fixture.cache.state().known.len(), 3);
        assert!(fixture.cache.state().known.contains_key(&4));
        // What has ended makes room for all that come.
        fixture.clock.advance(Duration::from_secs(60));
        fixture.get(5, 60).await;
        assert_eq!(fixture.cache.state().known.len(), 1);
    }

    #[tokio::test]
    async fn who_want_the_same_at_once_ask_once() {
        let fixture = Fixture::new();
        let answers = join_all((0..20).map(|n| fixture.get(n % 2, 60))).await;
        assert_eq!(answers.iter().sum::<u32>(), 10);
        assert_eq!(fixture.asked(), 2);
        assert!(fixture.cache.state().asked.is_empty());
    }

    #[tokio::test]
    async fn a_question_that_was_dropped_is_asked_again() {
        let fixture = Fixture::new();
        let never = |_: Timestamp| -> Question<u32> { pending().boxed() };
        assert!(fixture.cache.get(1, never).now_or_never().is_none());
        assert_eq!((fixture.get(1, 60).await, fixture.asked()), (1, 1));
    }

    #[tokio::test]
    async fn an_error_is_told_to_all_who_wait_and_not_kept() {
        let fixture = Fixture::new();
        let fails = |_: Timestamp| -> Question<u32> {
            async {
                tokio::task::yield_now().await;
                Err(Arc::new(StoreError::Unavailable("away".into())))
            }
            .boxed()
        };
        let answers = join_all((0..3).map(|_| fixture.cache.get(1, fails))).await;
        assert!(answers.iter().all(|answer| answer.is_err()));
        assert_eq!((fixture.get(1, 60).await, fixture.asked()), (1, 1));
    }
}
