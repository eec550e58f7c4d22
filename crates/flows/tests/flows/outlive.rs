//! A worker that outlives its task: it stands at a port call while the task is ended and cleaned, and goes on then.

use image_tasks_domain::ports::{ExecutionStatus, TaskLife as _, TaskStore as _};
use image_tasks_domain::{FailureCode, Task, TaskStatus};
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::json;

use crate::cases::{self, Case, Play};
use crate::export::task_id;
use crate::faults::Hold;
use crate::world::ticking;

/// How a task is ended while its worker stands.
#[derive(Debug, Clone, Copy)]
enum End {
    Cancelled,
    Failed,
}

/// Ends a task from outside, as the deployment does; false if it has ended well.
async fn end(play: &Play, end: End) -> bool {
    match end {
        End::Cancelled => {
            if play.store().mark_cancelled(play.id(), "alice").await.is_err() {
                return false;
            }
            play.aborted().await;
        }
        End::Failed => {
            let error = json!({"Error": "Lambda.Unknown", "Cause": "a worker was lost"});
            play.end(json!({"phase": "fail", "task_id": play.id(), "error": error})).await;
        }
    }
    play.task().await.status == TaskStatus::Failure
}

/// A worker stands at a place, its task is ended, it goes on, and no worker lives any longer. How the task ended; none if
/// the worker makes no such call.
async fn run(case: &Case, n: usize, at: Hold, how: End) -> Option<TaskStatus> {
    let context = format!("{}, {} at {at:?}, {how:?}", case.name, case.steps[n].event);
    let play = case.after(n).await;
    let worker = play.call(&case.steps[n].event);
    let (answer, failed) = play.faults().side_by_side(at, worker, end(&play, how)).await?;
    if let Err(failure) = answer {
        let told = matches!(failure.code, FailureCode::Transient | FailureCode::Cancelled);
        assert!(told, "{context}: {failure}");
    }
    if !failed {
        play.rest(play.id(), &case.steps[n + 1..], &context).await;
    }
    play.settle().await;
    let status = play.check(&case.made, &context).await;
    assert_eq!(status == TaskStatus::Failure, failed, "{context}");
    Some(status)
}

async fn check(cases: Vec<Case>, at_least: u64) {
    let (mut tried, mut failed) = (0, 0);
    for case in cases {
        for n in 0..case.steps.len() {
            for how in [End::Cancelled, End::Failed] {
                for place in case.places(n) {
                    for at in [Hold::Before(place), Hold::After(place)] {
                        let status = ticking(run(&case, n, at, how)).await;
                        tried += 1;
                        failed += u64::from(status.unwrap() == TaskStatus::Failure);
                    }
                }
            }
        }
    }
    println!("{tried} places, {failed} tasks were ended there");
    assert!(failed >= at_least && failed < tried);
}

#[tokio::test(start_paused = true)]
async fn of_an_import_leaves_nothing_in_the_end() {
    check(cases::imports().await, 500).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_clone_leaves_nothing_in_the_end() {
    check(cases::clones().await, 200).await;
}

#[tokio::test(start_paused = true)]
async fn of_an_export_leaves_nothing_in_the_end() {
    check(cases::exports().await, 200).await;
}

/// A second export of the same image to the same name.
async fn post_another(play: &Play) {
    let first = play.task().await;
    play.store().put_task(Task {
        id: task_id(2),
        ..Task::pending(first.task_type, "demo", first.input, first.created_at)
    });
    play.machines().inner.set_status(task_id(2), ExecutionStatus::Running);
}

/// The second one's object is there, and nothing else beside the image.
async fn check_another(play: &Play, case: &Case, context: &str) {
    let Play::Export(world) = play else { panic!("no export") };
    let task = play.store().get(task_id(2)).await.unwrap().unwrap();
    assert_eq!(task.status, TaskStatus::Success, "{context}: {}", task.message);
    assert_eq!(world.others(), [format!("exports/{}", world.key)], "{context}");
    assert!(world.exported().as_ref() == Some(&case.made), "{context}: other bytes");
    let at = ObjectRef { bucket: "exports".into(), key: world.key.clone() };
    let metadata = world.objects.metadata(&at).await.unwrap().unwrap();
    assert_eq!(metadata["image-task-id"], task_id(2).to_string(), "{context}");
}

/// A worker stands at a place, its export is cancelled, another export to the name goes so many steps, the worker goes on to
/// its end, and the other to its own. The sweep comes by between the two, or after.
async fn beside_another(case: &Case, n: usize, at: Hold, let_go: usize, swept_late: bool) -> bool {
    let context = format!("{}, {} at {at:?}, let go after {let_go}", case.name, case.steps[n].event);
    let play = case.after(n).await;
    let meanwhile = async {
        if !end(&play, End::Cancelled).await {
            return false;
        }
        post_another(&play).await;
        play.rest(task_id(2), &case.steps[..let_go], &context).await;
        true
    };
    let worker = play.call(&case.steps[n].event);
    let (_, ended) = play.faults().side_by_side(at, worker, meanwhile).await.unwrap();
    if !ended {
        return false;
    }
    if !swept_late {
        play.settle().await;
    }
    play.rest(task_id(2), &case.steps[let_go..], &context).await;
    play.settle().await;
    check_another(&play, case, &context).await;
    true
}

/// Of a place all orders where a run is short, else one, another from place to place.
#[tokio::test(start_paused = true)]
async fn of_an_export_spares_a_later_one_to_the_same_name() {
    let mut tried = 0;
    for case in cases::exports().await {
        let orders = case.steps.len() + 1;
        for n in 0..case.steps.len() {
            for (turn, place) in case.places(n).enumerate() {
                for let_go in 0..orders {
                    if case.stride > 1 && let_go != turn % orders {
                        continue;
                    }
                    let at = if let_go % 2 == turn % 2 { Hold::Before(place) } else { Hold::After(place) };
                    let swept_late = turn % 3 == 0;
                    let ended = ticking(beside_another(&case, n, at, let_go, swept_late)).await;
                    tried += u32::from(ended);
                }
            }
        }
    }
    println!("{tried} interleavings of a worker that outlives its export with another export");
    assert!(tried > 200);
}

/// The worker stands twice: until its task is cleaned, and once more somewhere on its way from there, while another export
/// to the name runs into what it has made. That one waits, and succeeds in the end.
#[tokio::test(start_paused = true)]
async fn what_a_late_worker_makes_and_removes_fails_no_other_export() {
    let (mut tried, mut waited) = (0, 0);
    for case in cases::exports().await.into_iter().filter(|case| case.stride == 1 && case.steps.len() == 1) {
        for place in case.places(0) {
            for later in place..case.steps[0].calls + 12 {
                let context = format!("{} at {place} and after {later}", case.name);
                let play = case.play().await;
                let faults = play.faults();
                let event = &case.steps[0].event;
                let first_call = faults.calls();
                let first = faults.hold(Hold::Before(first_call + place));
                let mut worker = std::pin::pin!(play.call(event));
                tokio::select! {
                    biased;
                    answer = &mut worker => panic!("{context}: {answer:?}"),
                    () = first.reached() => {}
                }
                if !end(&play, End::Cancelled).await {
                    continue;
                }
                post_another(&play).await;
                // The call at which it stands is counted already; the next one is the first of those that follow.
                let second = match later - place {
                    0 => Hold::After(first_call + place),
                    more => Hold::Before(faults.calls() + more - 1),
                };
                let second = faults.hold(second);
                first.open();
                let ended = tokio::select! {
                    biased;
                    _ = &mut worker => true,
                    () = second.reached() => false,
                };
                if ended {
                    break;
                }
                tried += 1;
                let answer = play.call_of(task_id(2), event).await;
                if let Err(failure) = answer {
                    assert_eq!(failure.code, FailureCode::Transient, "{context}: {failure}");
                    waited += 1;
                }
                second.open();
                let _ = worker.await;
                play.rest(task_id(2), &case.steps, &context).await;
                play.settle().await;
                check_another(&play, &case, &context).await;
            }
        }
    }
    println!(
        "{tried} places where a late worker stands once more, at {waited} of them the other export waited"
    );
    assert!(tried > 100 && waited > 3);
}
