//! A simulation, not a measurement: imports as the deployed state machine runs them, in virtual time. The relay is
//! the one that is deployed; what it runs over takes the time that AWS's figures, or ours, say.
//!
//!     cargo nextest run -p image-tasks-flows -E 'test(simulat)' --no-capture

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::transfer::{Batch, TransferPlan};
use image_tasks_test_bench::asl::{MAX_EVENTS, Machine, Thrown};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Runners, Track};
use crate::bounds::{HASH_CHUNK, HASH_WORKERS, TIME_TO_ANSWER};
use crate::deadline::Deadline;
use crate::error::Flow;
use crate::events::{Remaining, Round, RoundItem};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// Assumed: AWS publishes no figure for a function's network.
const WORKER_RATE: f64 = 75e6;
/// RustCrypto, measured: bytes of a CPU-second.
const MD5_RATE: f64 = 549e6;
const SHA512_RATE: f64 = 481e6;
/// S3 user guide, "Performance guidelines": 100 to 200 ms to the first byte of a large object.
const FIRST_BYTE: Duration = Duration::from_millis(150);
/// Assumed for small objects: to write one, and to read one or look whether it is there.
const PUT: Duration = Duration::from_millis(30);
const GET: Duration = Duration::from_millis(15);
/// Assumed: a call is started, and reads its task and plan.
const START: Duration = Duration::from_millis(500);
/// Assumed: what is written down after a turn, a read and a write of a table and a deletion.
const NOTES: Duration = Duration::from_millis(30);
/// The longest from an execution's end to the next one's start: the sweep's schedule.
const SWEEP: Duration = Duration::from_secs(300);
/// Lambda developer guide, "Lambda quotas".
const INVOCATION: Duration = Duration::from_secs(900);

static MACHINE: LazyLock<Machine> = LazyLock::new(|| Machine::deployed("task").unwrap());

/// A function's size, and how many of it take turns.
#[derive(Debug, Clone, Copy)]
struct Setup {
    vcpus: u8,
    workers: u32,
}

impl Setup {
    /// Lambda developer guide, "Configure Lambda function memory": 1,769 MB are one vCPU.
    fn gigabytes(self) -> f64 {
        f64::from(self.vcpus) * 1769.0 / 1024.0
    }

    fn hash_rate(self) -> f64 {
        // One thread each, or one after the other.
        if self.vcpus > 1 { MD5_RATE.min(SHA512_RATE) } else { 1.0 / (1.0 / MD5_RATE + 1.0 / SHA512_RATE) }
    }
}

/// An import.
struct Import {
    size: u64,
    setup: Setup,
    sealed: OnceLock<Instant>,
    hashed: OnceLock<Instant>,
    states: Mutex<HashSet<u32>>,
    /// Calls that are throttled once, and come then.
    throttled: Mutex<HashSet<String>>,
    calls: AtomicU64,
    /// Milliseconds of calls that hash.
    hashing: AtomicU64,
}

/// What came of it.
#[derive(Debug)]
struct Used {
    hashed_in: Duration,
    gb_seconds: f64,
    calls: u64,
    /// Of each execution.
    events: Vec<u64>,
}

fn seconds(bytes: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate)
}

impl Track for Import {
    type Chunk = ();
    type State = ();

    async fn is_hashed(&self, chunk: u32) -> Flow<bool> {
        sleep(GET).await;
        Ok(self.states().contains(&chunk))
    }
    async fn state(&self, chunk: u32) -> Flow<Option<()>> {
        Ok(self.is_hashed(chunk).await?.then_some(()))
    }
    async fn read(&self, chunk: u32) -> Flow<()> {
        sleep(FIRST_BYTE + seconds(self.chunk_bytes(chunk), WORKER_RATE)).await;
        Ok(())
    }
    async fn hash(&self, chunk: u32, (): (), before: Option<()>) -> Flow<bool> {
        assert_eq!(before.is_some(), chunk > 1);
        sleep(seconds(self.chunk_bytes(chunk), self.setup.hash_rate()) + PUT).await;
        let is_first = self.states().insert(chunk);
        if chunk == self.runners().chunks {
            self.hashed.get_or_init(Instant::now);
        }
        sleep(NOTES).await;
        Ok(is_first)
    }
    async fn remove(&self, chunk: u32) -> Flow<()> {
        self.states().remove(&chunk);
        Ok(())
    }
}

impl Import {
    fn of(size: u64, setup: Setup) -> Self {
        Self {
            size,
            setup,
            sealed: OnceLock::new(),
            hashed: OnceLock::new(),
            states: Mutex::default(),
            throttled: Mutex::default(),
            calls: AtomicU64::new(0),
            hashing: AtomicU64::new(0),
        }
    }

    fn states(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.states.lock().unwrap()
    }

    fn chunk_bytes(&self, chunk: u32) -> u64 {
        HASH_CHUNK.min(self.size - u64::from(chunk - 1) * HASH_CHUNK)
    }

    fn runners(&self) -> Runners {
        let chunks = u32::try_from(self.size.div_ceil(HASH_CHUNK)).unwrap();
        Runners { chunks, workers: self.setup.workers }
    }

    /// Moves parts one after the other at the worker's rate, as far as the time reaches.
    async fn move_parts(&self, batch: Batch, time: Duration) -> Option<Batch> {
        let cut = TransferPlan::new(self.size).unwrap();
        let begun = Instant::now();
        for first in batch.first..=batch.last {
            // What isn't whole by then is given up.
            let moved = sleep(seconds(cut.part(first).unwrap().len, WORKER_RATE));
            if tokio::time::timeout_at(begun + time, moved).await.is_err() {
                return Some(Batch { first, ..batch });
            }
        }
        None
    }

    async fn call(&self, payload: Value) -> Result<Value, Thrown> {
        let key = payload.to_string();
        if self.throttled.lock().unwrap().insert(key.clone()) {
            return Err(Thrown::new("Lambda.TooManyRequestsException", "Rate Exceeded."));
        }
        self.throttled.lock().unwrap().remove(&key);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let time = INVOCATION - TIME_TO_ANSWER;
        let (begun, deadline) = (Instant::now(), Deadline::after(time));
        sleep(START).await;
        Ok(match payload["phase"].as_str().unwrap() {
            "plan" if self.sealed.get().is_some() => json!({"next": "next"}),
            "plan" => {
                let parts = TransferPlan::new(self.size).unwrap().parts();
                serde_json::to_value(Round::Move.of(parts)).unwrap()
            }
            "round" => {
                let item: RoundItem = serde_json::from_value(payload["item"].clone()).unwrap();
                let left = match item.round {
                    Round::Move | Round::Seal => self.move_parts(item.pieces, time).await,
                    Round::Hash => {
                        let next = self.runners().run(self, item.pieces.first, deadline).await.unwrap();
                        let worked = u64::try_from(begun.elapsed().as_millis()).unwrap();
                        self.hashing.fetch_add(worked, Ordering::Relaxed);
                        next.map(|first| Batch { first, ..item.pieces })
                    }
                };
                let remaining = left.map(|pieces| RoundItem { pieces, ..item });
                serde_json::to_value(Remaining { remaining }).unwrap()
            }
            "next" if self.hashed.get().is_some() => json!({"next": "done"}),
            "next" if self.sealed.get().is_some() => {
                let Runners { chunks, workers } = self.runners();
                serde_json::to_value(Round::relay(workers, chunks)).unwrap()
            }
            "next" => {
                // Active before it is hashed.
                self.sealed.get_or_init(Instant::now);
                json!({"next": "next"})
            }
            other => panic!("{other}"),
        })
    }

    async fn run(self) -> Used {
        let mut events = Vec::new();
        while self.hashed.get().is_none() {
            assert!(events.len() < 10, "the sweep would give up");
            let invoke = |_: &str, payload: Value| self.call(payload).boxed();
            let name = format!("task-{}", events.len());
            let outcome = MACHINE.run(&name, json!({"task_id": "task"}), &invoke).await;
            assert!(outcome.result.is_ok() || outcome.timed_out, "{:?}", outcome.result);
            events.push(outcome.events);
            if outcome.timed_out {
                sleep(SWEEP).await;
            }
        }
        Used {
            hashed_in: *self.hashed.get().unwrap() - *self.sealed.get().unwrap(),
            gb_seconds: self.hashing.into_inner() as f64 / 1000.0 * self.setup.gigabytes(),
            calls: self.calls.into_inner(),
            events,
        }
    }
}

fn time(of: Duration) -> String {
    let minutes = of.as_secs_f64() / 60.0;
    if minutes < 120.0 { format!("{minutes:.1} min") } else { format!("{:.1} h", minutes / 60.0) }
}

#[tokio::test(start_paused = true)]
async fn simulated_imports_are_hashed_in_time_and_within_the_history() {
    println!("| image | vCPUs, workers | hashed in | GB-s | of one worker alone | calls | events |");
    println!("|---|---|---|---|---|---|---|");
    for (name, size) in [
        ("64 GiB", 64 * GIB),
        ("128 GiB", 128 * GIB),
        ("1 TiB", TIB),
        ("10 TiB", 10 * TIB),
        ("40 TiB", 40 * TIB),
    ] {
        // By one worker after the other, that reads at its rate.
        let alone = seconds(size, WORKER_RATE).as_secs_f64() * Setup { vcpus: 1, workers: 1 }.gigabytes();
        for setup in [Setup { vcpus: 1, workers: HASH_WORKERS }, Setup { vcpus: 2, workers: 7 }] {
            let used = Import::of(size, setup).run().await;
            let Setup { vcpus, workers } = setup;
            let (took, ratio) = (time(used.hashed_in), used.gb_seconds / alone);
            let events = used.events.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            println!(
                "| {name} | {vcpus}, {workers} | {took} | {:.0} | {ratio:.2} | {} | {events} |",
                used.gb_seconds, used.calls
            );
            assert!(used.events.iter().all(|events| *events < MAX_EVENTS), "{name}: {events}");
            let rate = size as f64 / used.hashed_in.as_secs_f64();
            assert!(rate > 0.75 * setup.hash_rate(), "{name}: {took}");
            assert!(ratio < if vcpus == 1 { 1.7 } else { 2.7 }, "{name}: {ratio}");
        }
    }
}
