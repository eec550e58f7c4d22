//! A cancel that was accepted ends in failure, whenever it comes.

use std::sync::Arc;
use std::time::Duration;

use image_tasks_domain::images::ImageQuota;
use image_tasks_domain::ports::{ExecutionStatus, Executions as _};
use image_tasks_domain::rejection::Rejection;
use image_tasks_domain::tasks::Tasks;
use image_tasks_domain::{Caller, TaskStatus};
use serde_json::json;

use crate::cases::{self, Case, Play};
use crate::faults::Hold;
use crate::world::ticking;

const CANCELS: u32 = 500;

/// What becomes of the call that is under way when its execution is stopped.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The worker dies.
    Dies,
    /// It goes on once the lifecycle function has cleaned up.
    OutlivesCleaning,
    /// It goes on before EventBridge tells.
    EndsBeforeCleaning,
    /// The execution isn't stopped: that call is lost. It goes on.
    IsNotStopped,
    /// Nor does it go on: only the sweep sees the mark.
    IsLost,
}

const THENS: [Then; 5] =
    [Then::Dies, Then::OutlivesCleaning, Then::EndsBeforeCleaning, Then::IsNotStopped, Then::IsLost];

/// The use case as the API has it.
pub(crate) fn tasks(play: &Play) -> Tasks {
    let stores = play.stores();
    Tasks {
        store: stores.clone(),
        progress: stores.clone(),
        life: stores.clone(),
        images: std::sync::Arc::<image_tasks_domain::memory::MemoryStore>::default(),
        executions: play.machines().clone(),
        clock: play.clock().clone(),
        sources: Default::default(),
        receivers: Default::default(),
        regions: Default::default(),
        glances: Default::default(),
        quota: ImageQuota::new(1000),
        ttl: Duration::from_secs(48 * 3600),
    }
}

pub(crate) fn caller(user: &str) -> Caller {
    Caller { user: user.into(), project: "demo".into(), roles: vec!["member".into()] }
}

/// Whether the cancel was accepted.
async fn cancel(play: &Play, then: Then) -> bool {
    let unstoppable = matches!(then, Then::IsNotStopped | Then::IsLost);
    play.machines().inner.set_unreachable(unstoppable);
    let answer = tasks(play).cancel(&caller("alice"), &play.id().to_string()).await;
    // Asked again by another, the first counts.
    let again = tasks(play).cancel(&caller("bob"), &play.id().to_string()).await;
    play.machines().inner.set_unreachable(false);
    assert_eq!(answer.is_ok(), again.is_ok());
    match answer {
        Ok(_) => true,
        Err(Rejection::Conflict(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

/// What EventBridge tells of an execution that was stopped, as the lifecycle function is given it.
async fn tell(play: &Play) {
    let status = play.machines().inner.status(&play.task().await, 0).await.unwrap();
    let ExecutionStatus::Aborted { error, cause } = status else { panic!("{status:?}") };
    let detail = json!({"name": play.id(), "status": "ABORTED", "error": error, "cause": cause});
    play.end(json!({"detail": detail})).await;
}

/// A cancel while the task stands at a place of a call. Whether it was accepted.
async fn run(case: &Case, n: usize, at: Hold, then: Then) -> bool {
    let context = format!("{}, {} at {at:?}, then {then:?}", case.name, case.steps[n].event);
    let play = case.after(n).await;
    play.machines().inner.set_status(play.id(), ExecutionStatus::Running);
    let gate = play.faults().hold(match at {
        Hold::Before(call) => Hold::Before(play.faults().calls() + call),
        Hold::After(call) => Hold::After(play.faults().calls() + call),
    });
    let mut worker = Box::pin(play.call(&case.steps[n].event));
    tokio::select! {
        biased;
        answer = &mut worker => panic!("{context}: {answer:?}"),
        () = gate.reached() => {}
    }
    if !cancel(&play, then).await {
        assert!(play.task().await.status.is_end(), "{context}: refused, and at work");
        gate.open();
        worker.await.unwrap_or_else(|e| panic!("{context}: {e}"));
        play.rest(play.id(), &case.steps[n + 1..], &context).await;
        play.settle().await;
        assert_eq!(play.check(&case.made, &context).await, TaskStatus::Success, "{context}");
        return false;
    }
    match then {
        Then::Dies => {
            drop(worker);
            tell(&play).await;
        }
        Then::OutlivesCleaning => {
            tell(&play).await;
            gate.open();
            let _ = worker.await;
        }
        Then::EndsBeforeCleaning => {
            gate.open();
            let _ = worker.await;
            tell(&play).await;
        }
        Then::IsNotStopped => {
            gate.open();
            let mut answer = worker.await;
            for step in &case.steps[n + 1..] {
                if answer.is_err() {
                    break;
                }
                answer = play.called(play.id(), &step.event).await;
            }
            let failure = answer.expect_err(&context);
            let error = json!({"Error": failure.code.name(), "Cause": failure.message});
            play.end(json!({"phase": "fail", "task_id": play.id(), "error": error})).await;
        }
        Then::IsLost => drop(worker),
    }
    play.settle().await;
    // What the sweep itself has ended is settled by a later one.
    play.settle().await;
    assert_eq!(play.check(&case.made, &context).await, TaskStatus::Failure, "{context}");
    assert_eq!(play.task().await.message, "Cancelled: cancelled by alice", "{context}");
    true
}

/// Numbers from a seed (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_cancels_that_were_accepted_end_as_cancelled() {
    let mut all = cases::imports().await;
    all.extend(cases::clones().await);
    all.extend(cases::exports().await);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..CANCELS {
        let case = &all[usize::try_from(numbers.below(all.len() as u64)).unwrap()];
        // Each port call of the task is as likely as any other.
        let mut call = numbers.below(case.steps.iter().map(|step| step.calls).sum());
        let mut n = 0;
        while call >= case.steps[n].calls {
            call -= case.steps[n].calls;
            n += 1;
        }
        let at = if numbers.below(2) == 0 { Hold::Before(call) } else { Hold::After(call) };
        let then = THENS[usize::try_from(numbers.below(THENS.len() as u64)).unwrap()];
        if ticking(run(case, n, at, then)).await {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    println!("{CANCELS} cancels: {accepted} accepted, and all of these tasks cancelled; {refused} refused");
    assert!(accepted > 400 && refused > 10);
}

/// A task that no execution was started for yet is cancelled as well, and finds that out when it begins.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_before_its_start_never_begins() {
    let all: Vec<Case> = cases::clones().await.into_iter().chain(cases::exports().await).collect();
    for case in &all {
        let play = case.play().await;
        assert!(cancel_unstarted(&play).await);
        let answer = play.call(&case.steps[0].event).await.unwrap();
        assert_eq!(answer["next"], "done", "{}", case.name);
        play.settle().await;
        assert_eq!(play.check(&case.made, case.name).await, TaskStatus::Failure);
        assert_eq!(play.task().await.message, "Cancelled: cancelled by alice");
    }
}

async fn cancel_unstarted(play: &Play) -> bool {
    let tasks = Arc::new(tasks(play));
    tasks.cancel(&caller("alice"), &play.id().to_string()).await.is_ok()
}
