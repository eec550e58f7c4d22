//! The whole life of a task in virtual time, by one seed: the deployed state machine over the real functions, with stores in
//! memory, and everything around them going wrong.
//!
//! A seed gives a case (a kind of task) and up to six events: calls of ports and of functions that fail, lose their
//! answers, die, come late or twice; throttles, cancels, stops, lost starts, lost events, a schedule that fails. What must
//! hold at the end:
//!
//! - The task has ended, with a code and a message. It is a success and its product is there, whole; or a failure, and
//!   nothing is there.
//! - Beside a product there is no upload, object, claim, record or token left. An end doesn't change any more.
//! - What somebody else writes under the name of an export stays as it is.
//! - A cancel that was answered 202 is never followed by a success. What can pass, alone, fails no task.
//! - The first and the last byte of what became active were read from that version before.
//!
//! | what | how |
//! |---|---|
//! | a fixed set, as CI does | `cargo nextest run -p image-tasks-flows -E 'test(simulation)' --no-capture` |
//! | so many runs | the same with `SIMULATED_RUNS=100000` |
//! | one run again, with those of its events | the same with `SIMULATED_SEED=17:0,2` |
//!
//! Sources that are spooled pass a thread, which works in real time: such a run may differ when it is repeated. So these
//! have a set of their own; all others are the same wherever they are run.

mod chaos;
mod check;
mod cloud;
mod mutations;
mod script;

pub(crate) use chaos::{Chaos, Order};
pub(crate) use mutations::Mutation;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use image_tasks_domain::TaskStatus;
use image_tasks_test_bench::asl::Machine;
use serde_json::Value;

use crate::cases::{self, Case};
use crate::world::ticking;
use cloud::Ran;
use script::Script;

/// Runs of the fixed set.
const RUNS: u64 = 2000;
/// The first seed of what passes a thread, and how many.
const FIRST_OF_THREADS: u64 = 1 << 33;
const THREADS: u64 = 20;
/// Runs of the conformance suite.
const MANY: u64 = 20_000;
/// Runs in which a mutation must be noticed.
const NOTICED_WITHIN: u64 = 2000;
/// Mutations that must be noticed within so many runs. The others take an order of events that seldom comes.
const NOTICED: usize = 20;

/// What runs are made of. Each thread has its own.
struct Cases {
    all: Vec<Case>,
    /// Port calls of each, and how often it comes: those without a thread.
    weights: Vec<(u64, u64)>,
    /// The same of those with one.
    threads: Vec<(u64, u64)>,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

impl Cases {
    fn new() -> Self {
        let all = runtime().block_on(ticking(async {
            let mut all = cases::imports().await;
            all.extend(cases::clones().await);
            all.extend(cases::exports().await);
            all
        }));
        let weights = |threads: bool| -> Vec<(u64, u64)> {
            let weight = |case: &Case| {
                let calls: u64 = case.steps.iter().map(|step| step.calls).sum();
                let often = if case.stride > 1 { 1 } else { 12 };
                (calls, if case.has_threads() == threads { often } else { 0 })
            };
            all.iter().map(weight).collect()
        };
        Self { weights: weights(false), threads: weights(true), all }
    }

    fn run(
        &self,
        script: &Script,
        machine: &Arc<Machine>,
        mutation: Option<Mutation>,
    ) -> Result<Ran, String> {
        let case = &self.all[script.case];
        let ran = runtime().block_on(async {
            let run = AssertUnwindSafe(cloud::run(case, script, machine, mutation)).catch_unwind();
            if case.has_threads() { ticking(run).await } else { run.await }
        });
        ran.unwrap_or_else(|_| Err("panicked".into()))
    }

    /// As few of a failing run's events as still make it fail, and how.
    fn smaller(
        &self,
        script: &Script,
        machine: &Arc<Machine>,
        mutation: Option<Mutation>,
        how: String,
    ) -> (Script, String) {
        let (mut script, mut how) = (script.clone(), how);
        let mut n = 0;
        while n < script.events.len() {
            let left_out = script.events[n].0;
            let kept: Vec<_> = script.events.iter().map(|(n, _)| *n).filter(|n| *n != left_out).collect();
            let smaller = script.with(&kept);
            match self.run(&smaller, machine, mutation) {
                Err(why) => (script, how) = (smaller, why),
                Ok(_) => n += 1,
            }
        }
        (script, how)
    }

    fn told(&self, script: &Script, how: &str) -> String {
        let events: Vec<_> = script.events.iter().map(|(_, event)| format!("{event:?}")).collect();
        let case = self.all[script.case].name;
        format!("{case}, {}: {how}\n  again: SIMULATED_SEED={script}", events.join(", "))
    }
}

/// The deployed machine, or a broken one.
fn machine(mutation: Option<Mutation>) -> Arc<Machine> {
    let Some(dropped) = mutation.and_then(Mutation::drops_retry_of) else {
        return Arc::new(Machine::deployed("task").unwrap());
    };
    let path = format!("{}/../../infra/statemachines/task.asl.json", env!("CARGO_MANIFEST_DIR"));
    let mut machine: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    drop_retry(&mut machine, dropped);
    Arc::new(Machine::from_json(&machine.to_string()).unwrap())
}

fn drop_retry(at: &mut Value, dropped: &str) {
    if let Some(retry) = at.get_mut("Retry").and_then(Value::as_array_mut) {
        retry.retain(|entry| !entry["ErrorEquals"].as_array().unwrap().contains(&dropped.into()));
    }
    match at {
        Value::Object(fields) => fields.values_mut().for_each(|field| drop_retry(field, dropped)),
        Value::Array(items) => items.iter_mut().for_each(|item| drop_retry(item, dropped)),
        _ => {}
    }
}

#[allow(clippy::disallowed_methods, reason = "how a run is asked for")]
fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Does work for all numbers below that, on all cores.
fn on_all_cores(end: u64, work: impl Fn(&Cases, u64) + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64).min(end);
    let work = &work;
    std::thread::scope(|scope| {
        for core in 0..cores {
            scope.spawn(move || {
                let cases = Cases::new();
                (core..end).step_by(usize::try_from(cores).unwrap()).for_each(|n| work(&cases, n));
            });
        }
    });
}

#[derive(Default)]
struct Seen {
    /// Of how each seed went.
    digest: u64,
    met: BTreeSet<(String, &'static str)>,
    calls: u64,
    succeeded: u64,
    failed: u64,
    wrong: Vec<String>,
}

/// One seed again, or many.
#[test]
fn whatever_goes_wrong_the_task_ends_and_nothing_is_lost_or_left() {
    if let Some(one) = asked("SIMULATED_SEED") {
        return again(&one);
    }
    simulate(0, asked("SIMULATED_RUNS").map_or(RUNS, |runs| runs.parse().unwrap()));
}

#[test]
fn what_passes_a_thread_goes_well_too() {
    run_all(FIRST_OF_THREADS, THREADS, |cases| &cases.threads);
}

#[test]
#[ignore = "a minute and more: `cargo local conformance` runs it"]
fn many_more_seeds_go_well() {
    simulate(1 << 32, MANY);
}

fn simulate(first: u64, runs: u64) {
    let Seen { met, calls, succeeded, failed, digest, .. } = run_all(first, runs, |cases| &cases.weights);
    println!(
        "{runs} seeds, each a run: {succeeded} tasks succeeded, {failed} failed as they should; {calls} port calls, {} \
         pairs of a state and what it met; digest of all {digest:016x}",
        met.len()
    );
    assert!(succeeded > runs / 4 && failed > runs / 10);
}

/// Runs so many seeds of such cases, which must all go well.
fn run_all(first: u64, runs: u64, weights: fn(&Cases) -> &Vec<(u64, u64)>) -> Seen {
    let machine = &machine(None);
    let seen = Mutex::new(Seen::default());
    on_all_cores(runs, |cases, n| {
        let seed = first + n;
        let script = Script::of(seed, weights(cases));
        let ran = cases.run(&script, machine, None);
        let wrong = ran.as_ref().err().map(|how| {
            let (script, how) = cases.smaller(&script, machine, None, how.clone());
            cases.told(&script, &how)
        });
        let mut seen = seen.lock().unwrap();
        seen.wrong.extend(wrong);
        let Ok(ran) = ran else { return };
        let mut hasher = DefaultHasher::new();
        (seed, ran.status.name(), ran.calls, &ran.met).hash(&mut hasher);
        seen.digest ^= hasher.finish();
        seen.met.extend(ran.met);
        seen.calls += ran.calls;
        match ran.status {
            TaskStatus::Success => seen.succeeded += 1,
            _ => seen.failed += 1,
        }
    });
    let seen = seen.into_inner().unwrap();
    assert!(seen.wrong.is_empty(), "{} of {runs} went wrong\n{}", seen.wrong.len(), seen.wrong.join("\n"));
    seen
}

fn again(one: &str) {
    let (seed, kept) = one.split_once(':').unwrap_or((one, "*"));
    let cases = Cases::new();
    let seed = seed.parse().unwrap();
    let script = Script::of(seed, if seed < FIRST_OF_THREADS { &cases.weights } else { &cases.threads });
    let script = match kept {
        "*" => script,
        kept => {
            let kept: Vec<_> = kept.split(',').filter_map(|n| n.parse().ok()).collect();
            script.with(&kept)
        }
    };
    let ran = cases.run(&script, &machine(None), None);
    let how = ran.map_or_else(|how| how, |ran| format!("{:?}, {} calls", ran.status, ran.calls));
    panic!("{}", cases.told(&script, &how));
}

/// A seed is all that a run depends on.
#[test]
fn a_seed_gives_the_same_run_again() {
    let cases = Cases::new();
    let machine = machine(None);
    for seed in 0..200 {
        let script = Script::of(seed, &cases.weights);
        let run = || cases.run(&script, &machine, None).map(|ran| (ran.status, ran.calls, ran.met));
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn broken_code_is_noticed() {
    let noticed = Mutex::new(Vec::new());
    let all = Mutation::ALL;
    let sound = machine(None);
    on_all_cores(all.len() as u64, |cases, n| {
        let mutation = all[usize::try_from(n).unwrap()];
        let machine = machine(Some(mutation));
        let found = (0..NOTICED_WITHIN).find_map(|seed| {
            let script = Script::of(seed, &cases.weights);
            let how = cases.run(&script, &machine, Some(mutation)).err()?;
            let (script, how) = cases.smaller(&script, &machine, Some(mutation), how);
            // The code as it is does well there.
            cases.run(&script, &sound, None).ok().map(|_| (script, how))
        });
        let told = found.map(|(script, how)| cases.told(&script, &how));
        noticed.lock().unwrap().push((mutation, told));
    });
    let noticed = noticed.into_inner().unwrap();
    for (mutation, told) in &noticed {
        println!("{mutation:?}: {}", told.as_deref().unwrap_or("NOT NOTICED"));
    }
    let count = noticed.iter().filter(|(_, told)| told.is_some()).count();
    println!("{count} of {} mutations noticed within {NOTICED_WITHIN} runs", noticed.len());
    assert!(count >= NOTICED);
}
