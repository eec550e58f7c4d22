//! What the calls of ports meet in a simulated run.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image_tasks_domain::memory::ManualClock;
use image_tasks_domain::{StoredObject, Task};
use image_tasks_test_bench::asl::Thrown;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::mutations::Mutation;
use super::script::{AtCall, Event, Once, Random, Script};
use crate::faults::{DIES, Kind, Service, Told};

/// What somebody asks for while a task is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A user, to cancel.
    Cancel,
    /// An operator, to stop the execution.
    Stop,
    /// Somebody else, to write an object of the name that an export makes.
    Write,
    /// An execution was begun or stopped.
    Look,
}

/// What the state machine is answered.
pub(crate) type Answer = Result<Value, Thrown>;

/// A run of a function.
pub(crate) struct Invocation {
    /// The phase that it makes.
    pub(crate) phase: String,
    pub(crate) reply: Mutex<Option<oneshot::Sender<Answer>>>,
}

impl Invocation {
    /// Answers who waits, unless that has been done.
    pub(crate) fn answer(&self, answer: Answer) {
        if let Some(reply) = self.reply.lock().unwrap().take() {
            let _ = reply.send(answer);
        }
    }
}

tokio::task_local! {
    /// The one that makes the call.
    pub(crate) static INVOCATION: Arc<Invocation>;
}

/// A bucket, a key in it, and the ETag of the object there.
type Version = (String, String, String);

/// What has been met, and what has been seen.
pub(crate) struct Chaos {
    pub(crate) mutation: Option<Mutation>,
    calls: AtomicU64,
    at: BTreeMap<u64, AtCall>,
    storm: AtomicU64,
    slow_failures: Option<Duration>,
    /// Calls that a service takes in a second, where that is less than anybody makes.
    room: Vec<(Service, u64)>,
    /// The last second in which one was called, and how often.
    taken: Mutex<BTreeMap<Service, (u64, u64)>>,
    seed: u64,
    /// Threads take part: time passes while they work, and waits are short.
    threads: bool,
    clock: Arc<ManualClock>,
    start: Instant,
    passed: AtomicU64,
    orders: mpsc::UnboundedSender<Order>,
    /// Which phases have met what.
    met: Mutex<BTreeSet<(String, &'static str)>>,
    /// What must never be, and was.
    wrong: Mutex<Vec<String>>,
    /// Of which objects' versions the first and the last byte were read.
    looked: Mutex<BTreeMap<Version, (bool, bool)>>,
    was: Mutex<Option<Task>>,
    /// Nothing goes wrong any more: the test looks.
    is_over: AtomicBool,
}

impl std::fmt::Debug for Chaos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chaos of {}", self.seed)
    }
}

impl Chaos {
    pub(crate) fn new(
        script: &Script,
        mutation: Option<Mutation>,
        threads: bool,
        clock: &Arc<ManualClock>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self {
            mutation,
            calls: AtomicU64::new(0),
            at: script.calls(),
            storm: AtomicU64::new(0),
            slow_failures: script.once().find_map(|once| match once {
                Once::SlowFailures(time) => Some(time),
                _ => None,
            }),
            room: script
                .once()
                .filter_map(|once| match once {
                    Once::Slows(service, most) => Some((service, most)),
                    _ => None,
                })
                .collect(),
            taken: Mutex::default(),
            seed: script.seed,
            threads,
            clock: Arc::clone(clock),
            start: Instant::now(),
            passed: AtomicU64::new(0),
            orders,
            met: Mutex::default(),
            wrong: Mutex::default(),
            looked: Mutex::default(),
            was: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Lets the clock of the stores follow the runtime's.
    pub(crate) fn sync(&self) {
        let now = self.start.elapsed().as_secs();
        let before = self.passed.swap(now, Ordering::SeqCst);
        self.clock.advance(Duration::from_secs(now - before));
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    pub(crate) fn meets(&self, phase: &str, event: Event) {
        self.met.lock().unwrap().insert((phase.to_owned(), event.name()));
    }

    pub(crate) fn met(&self) -> BTreeSet<(String, &'static str)> {
        self.met.lock().unwrap().clone()
    }

    pub(crate) fn is_wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// How long something takes; with threads about, real time passes with it.
    pub(crate) fn long(&self, time: Duration) -> Duration {
        if self.threads { time / 500 } else { time }
    }

    /// Whether a service takes no more calls in this second.
    fn is_full(&self, service: Service) -> bool {
        let Some((_, most)) = self.room.iter().find(|(slow, _)| *slow == service) else { return false };
        let now = self.start.elapsed().as_secs();
        let mut taken = self.taken.lock().unwrap();
        let (second, calls) = taken.entry(service).or_default();
        if *second != now {
            (*second, *calls) = (now, 0);
        }
        *calls += 1;
        *calls > *most
    }

    /// A call of a port.
    pub(crate) async fn around<T, E: Told>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        if self.is_over.load(Ordering::SeqCst) {
            return call.await;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.threads {
            let time = Random::new(self.seed ^ number.rotate_left(32)).below(60);
            sleep(Duration::from_millis(time)).await;
        }
        self.sync();
        if number < self.storm.load(Ordering::SeqCst) || self.is_full(E::SERVICE) {
            return Err(E::told(Kind::Transient));
        }
        let Some(at) = self.at.get(&number) else { return call.await };
        let phase = INVOCATION.try_with(|invocation| invocation.phase.clone()).unwrap_or_default();
        self.meets(&phase, Event::Call(number, *at));
        match *at {
            AtCall::Fails(kind) => Err(E::told(kind)),
            AtCall::Loses => {
                let _ = call.await;
                Err(E::told(Kind::Transient))
            }
            AtCall::Dies { after } => {
                if after {
                    let _ = call.await;
                }
                // What an invocation has spawned doesn't know whose it is.
                if DIES.try_with(|dies| dies.notify_one()).is_err() {
                    return Err(E::told(Kind::Transient));
                }
                pending().await
            }
            AtCall::Lingers { after, time } => {
                let done = if after { Ok(call.await) } else { Err(call) };
                let lost = || Err(Thrown::new("Lambda.Unknown", "the invocation was lost"));
                // Whoever calls outside of one is only slow.
                let _ = INVOCATION.try_with(|invocation| invocation.answer(lost()));
                sleep(self.long(time)).await;
                self.sync();
                match done {
                    Ok(answer) => answer,
                    Err(call) => call.await,
                }
            }
            AtCall::Slow(time) => {
                sleep(self.long(time)).await;
                self.sync();
                call.await
            }
            AtCall::Storm(calls) => {
                self.storm.store(number + calls, Ordering::SeqCst);
                Err(E::told(Kind::Transient))
            }
            AtCall::Cancelled => {
                self.order(Order::Cancel);
                call.await
            }
            AtCall::Stopped => {
                self.order(Order::Stop);
                call.await
            }
            AtCall::Written => {
                self.order(Order::Write);
                call.await
            }
        }
    }

    /// Somebody is about to fail the task, as they have read it.
    pub(crate) async fn fails(&self) {
        if let Some(time) = self.slow_failures {
            sleep(self.long(time)).await;
            self.sync();
        }
    }

    /// Somebody reads bytes of an object's version.
    pub(crate) fn reads(&self, bucket: &str, key: &str, etag: &str, first: bool, last: bool) {
        let mut looked = self.looked.lock().unwrap();
        let ends = looked.entry((bucket.to_owned(), key.to_owned(), etag.to_owned())).or_default();
        *ends = (ends.0 || first, ends.1 || last);
    }

    /// An image becomes active with that object.
    pub(crate) fn publishes(&self, stored: &StoredObject) {
        let looked = self.looked.lock().unwrap();
        let at = (stored.bucket.clone(), stored.key.clone(), stored.etag.clone());
        if looked.get(&at) != Some(&(true, true)) {
            self.is_wrong(format!("{} became active before its ends were read", stored.key));
        }
    }

    /// The task after a write.
    pub(crate) fn sees(&self, task: Task) {
        let mut was = self.was.lock().unwrap();
        if let Some(was) = &*was
            && was.status.is_end()
            && (was.status, &was.message, &was.result) != (task.status, &task.message, &task.result)
        {
            self.is_wrong(format!("a task that had ended changed: {was:?}, then {task:?}"));
        }
        *was = Some(task);
    }
}
