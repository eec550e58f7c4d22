//! Many large tasks at once, by the deployed machine, where Lambda has room for few of their workers: none is lost, and the
//! room is used.
//!
//! Modelled is the way of an import of 1 TiB until it is active: a call that plans, 40 workers that read 75 MB/s each, a
//! call that seals and publishes. Hashes that follow are left out.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use image_tasks_test_bench::asl::{MAX_EVENTS, Machine, Thrown};
use serde_json::{Value, json};
use tokio::time::Instant;

const WORKERS: u64 = 40;
/// 1 TiB at 75 MB/s, by so many workers.
const PIECES: Duration = Duration::from_secs((1 << 40) / 75_000_000 / WORKERS);
const PLAN: Duration = Duration::from_secs(10);
const SEAL: Duration = Duration::from_secs(30);

/// Room for so many calls at once.
struct Lambda {
    free: AtomicUsize,
}

impl Lambda {
    async fn call(&self, payload: Value) -> Result<Value, Thrown> {
        let taken = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1));
        if taken.is_err() {
            return Err(Thrown::new("Lambda.TooManyRequestsException", "Rate Exceeded."));
        }
        let items: Vec<_> = (1..=WORKERS).map(|n| json!({"round": "move", "first": n, "last": n})).collect();
        let (time, answer) = match payload["phase"].as_str().unwrap() {
            "plan" => (PLAN, json!({"next": "round", "items": items})),
            "round" => (PIECES, json!({"remaining": null})),
            "next" => (SEAL, json!({"next": "done"})),
            other => panic!("no phase {other}"),
        };
        tokio::time::sleep(time).await;
        self.free.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }
}

#[tokio::test(start_paused = true)]
async fn imports_beyond_the_quota_wait_and_all_succeed() {
    let machine = Machine::deployed("task").unwrap();
    for (tasks, quota) in [(100, 1000), (3, 10), (10, 10)] {
        let lambda = Lambda { free: AtomicUsize::new(quota) };
        let began = Instant::now();
        let invoke = |resource: &str, payload: Value| {
            assert_eq!(resource, "${WorkerFunctionArn}", "a task was lost");
            lambda.call(payload).boxed()
        };
        let executions = (0..tasks).map(|n| {
            let (machine, invoke) = (&machine, &invoke);
            async move {
                let outcome = machine.run(&format!("task-{n}"), json!({"task_id": n}), invoke).await;
                (outcome, began.elapsed())
            }
        });
        let ended = join_all(executions).await;
        let work = PLAN + PIECES * u32::try_from(WORKERS).unwrap() + SEAL;
        let allowed = (work * tasks).as_secs_f64() / f64::from(u32::try_from(quota).unwrap());
        let last = ended.iter().map(|(_, at)| at.as_secs_f64()).fold(0.0, f64::max);
        let events = ended.iter().map(|(outcome, _)| outcome.events).max().unwrap();
        println!(
            "{tasks} imports of 1 TiB, quota {quota}: active after {:.1} min, {:.2} times what the quota allows; at most \
             {events} events",
            last / 60.0,
            last / allowed
        );
        assert!(ended.iter().all(|(outcome, _)| outcome.result.is_ok()), "{tasks} under {quota}");
        assert!(last <= 1.2 * allowed, "{last} s instead of {allowed} s");
        assert!(events < MAX_EVENTS * 3 / 4, "{events}");
        assert_eq!(lambda.free.into_inner(), quota);
    }
}
