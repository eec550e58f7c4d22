//! Functions, plans and state machines of different versions: a task that meets another says so, ends, and leaves nothing.

use futures::FutureExt as _;
use image_tasks_domain::ports::ExecutionStatus;
use image_tasks_domain::{FailureCode, TaskStatus, Unsettled};
use image_tasks_flows::events::VERSION;
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::{Value, json};

use crate::cases::{self, Case, Play};
use crate::execution::Execution;
use crate::world::ticking;

/// What an execution that began before a deployment goes by.
const OLDER: u32 = VERSION - 1;

async fn all() -> Vec<Case> {
    let mut all = cases::imports().await;
    all.extend(cases::clones().await);
    all.extend(cases::exports().await);
    all
}

/// The deployed state machine runs the task, and says that it is of some version.
async fn execute(play: &Play, version: u32) {
    let execution = Execution {
        id: play.id(),
        run: 0,
        phases: &move |mut event: Value| {
            assert_eq!(event["version"], VERSION);
            event["version"] = json!(version);
            async move { play.call_as(&event).await }.boxed()
        },
        lifecycle: play.lifecycle(),
        faults: play.faults(),
        executions: &play.machines().inner,
        twice: false,
    };
    execution.run().await;
}

/// What calls have saved becomes what an older version would have saved.
async fn rewrite(play: &Play) -> u32 {
    let mut rewritten = 0;
    let prefix = format!("work/{}/", play.id());
    for name in play.objects().everything() {
        let Some((bucket, key)) = name.split_once('/').filter(|(_, key)| key.starts_with(&prefix)) else {
            continue;
        };
        if !key.ends_with(".json") {
            continue;
        }
        let bytes = play.objects().bytes(bucket, key).unwrap();
        let version = serde_json::from_slice::<Value>(&bytes).unwrap()["version"].clone();
        assert_eq!(version, VERSION, "{key}");
        let at = ObjectRef { bucket: bucket.into(), key: key.into() };
        // Nothing else of it need be readable.
        let other = json!({"version": OLDER, "all": "else was different"}).to_string();
        play.objects().put(&at, other.into()).await.unwrap();
        rewritten += 1;
    }
    rewritten
}

async fn check_failed(play: &Play, case: &Case, told: &str, context: &str) {
    play.settle().await;
    assert_eq!(play.check(&case.made, context).await, TaskStatus::Failure, "{context}");
    let message = play.task().await.message;
    assert!(message.starts_with(told), "{context}: {message}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_of_another_version_ends_the_task_in_words() {
    let (mut tried, mut saved) = (0, 0);
    for case in all().await {
        for n in 1..case.steps.len() {
            let context = format!("{}, before {}", case.name, case.steps[n].event);
            let play = case.after(n).await;
            if play.task().await.status.is_end() {
                continue;
            }
            saved += rewrite(&play).await;
            let next = play.call(&case.steps[n].event).await.expect_err(&context);
            assert_eq!(next.code, FailureCode::Aborted, "{context}: {next}");
            // From the start, as after a redeployment.
            ticking(execute(&play, VERSION)).await;
            let told = format!(
                "Aborted: a plan is of version {OLDER}, this function of version {VERSION}: it was deployed meanwhile"
            );
            check_failed(&play, &case, &told, &context).await;
            tried += 1;
        }
    }
    println!("{tried} tasks met what another version had saved, {saved} objects");
    assert!(tried > 40);
}

#[tokio::test(start_paused = true)]
async fn a_state_machine_of_another_version_ends_the_task_in_words() {
    let mut tried = 0;
    for case in all().await {
        for n in 0..case.steps.len() {
            let context = format!("{}, before {}", case.name, case.steps[n].event);
            let play = case.after(n).await;
            if play.task().await.status.is_end() {
                continue;
            }
            ticking(execute(&play, OLDER)).await;
            let told = format!(
                "Aborted: the state machine is of version {OLDER}, this function of version {VERSION}"
            );
            check_failed(&play, &case, &told, &context).await;
            tried += 1;
        }
    }
    println!("{tried} tasks met a state machine of another version");
    assert!(tried > 60);
}

/// The image is active by then, and stays so; that its hashes never come is given up in the end.
#[tokio::test(start_paused = true)]
async fn hashes_that_another_version_began_are_given_up_and_nothing_is_left() {
    let case = cases::imports().await.pop().unwrap();
    let play = case.after(case.steps.len() - 1).await;
    assert_eq!(play.task().await.status, TaskStatus::Success);
    assert!(rewrite(&play).await > 0);
    play.machines().inner.set_status(play.id(), ExecutionStatus::TimedOut);
    for run in 1..20 {
        play.settle().await;
        let Some(Unsettled::Hashing { .. }) = play.task().await.unsettled else { break };
        let failure = play.call(&case.steps.last().unwrap().event).await.expect_err("another version");
        assert_eq!(failure.code, FailureCode::Aborted);
        play.machines().inner.set_run_status(play.id(), run, ExecutionStatus::TimedOut);
    }
    play.settle().await;
    let Play::Image(mut world) = play else { panic!("no image") };
    world.may_lack_hashes = true;
    assert_eq!(world.check_ended(&case.made, "given up").await, TaskStatus::Success);
}
