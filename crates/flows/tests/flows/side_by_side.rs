//! A phase that runs twice at the same time, as after a timeout whose first invocation lives on.
//!
//! The first stands at each of its port calls until the second is through: with the phase, or with the rest of the task.
//! Both are called with the same, so the reverse is the same run, whose other answer the machine goes on with: both are
//! gone on with, in turns.

use image_tasks_domain::{Failure, FailureCode, TaskStatus};
use serde_json::Value;

use crate::cases::{self, Case, Play};
use crate::faults::Hold;
use crate::world::ticking;

/// What the second does while the first stands.
#[derive(Debug, Clone, Copy)]
enum Second {
    Phase,
    Rest,
}

/// That a call was made which no other needs: nothing, or that it is to be made again.
fn check_answer(answer: &Result<Value, Failure>, context: &str) {
    if let Err(failure) = answer {
        assert_eq!(failure.code, FailureCode::Transient, "{context}: {failure}");
    }
}

/// Runs a task in which a phase stands at a place while a second one goes on; false if it makes no such call.
async fn run(case: &Case, n: usize, at: Hold, second: Second) -> bool {
    let context = format!("{}, {} at {at:?}, second: {second:?}", case.name, case.steps[n].event);
    let play = case.after(n).await;
    let (id, step, rest) = (play.id(), &case.steps[n..=n], &case.steps[n + 1..]);
    let first = play.call(&step[0].event);
    let both = match second {
        Second::Phase => play.faults().side_by_side(at, first, play.call(&step[0].event)).await,
        Second::Rest => {
            let all = async {
                play.rest(id, &case.steps[n..], &context).await;
                Ok(case.steps.last().unwrap().answer.clone())
            };
            play.faults().side_by_side(at, first, all).await
        }
    };
    let Some((first, other)) = both else { return false };
    check_answer(&first, &context);
    check_answer(&other, &context);
    if let Second::Phase = second {
        check_uploads(&play, &context).await;
        let (Hold::Before(call) | Hold::After(call)) = at;
        let heard = if call % 2 == 0 { first } else { other };
        if heard.is_err() {
            play.rest(id, step, &context).await;
        }
        play.rest(id, rest, &context).await;
    }
    let result = play.task().await.result;
    assert_eq!(play.check(&case.made, &context).await, TaskStatus::Success, "{context}");
    play.settle().await;
    assert_eq!(play.check(&case.made, &context).await, TaskStatus::Success, "{context}");
    assert_eq!(play.task().await.result, result, "{context}");
    true
}

/// A task at work has one upload of its object, the one that its plan names, and one plan.
async fn check_uploads(play: &Play, context: &str) {
    let everything = play.objects().everything();
    let of_object =
        |name: &&String| name.starts_with("upload of images/") || name.starts_with("upload of exports/");
    assert!(everything.iter().filter(of_object).count() <= 1, "{context}: {everything:?}");
}

async fn check(cases: Vec<Case>, at_least: u64) {
    let mut tried = 0;
    for case in cases {
        let mut of_case = 0;
        for n in 0..case.steps.len() {
            for second in [Second::Phase, Second::Rest] {
                for place in case.places(n) {
                    for at in [Hold::Before(place), Hold::After(place)] {
                        assert!(ticking(run(&case, n, at, second)).await, "{}: no call {at:?}", case.name);
                        of_case += 1;
                    }
                }
            }
        }
        println!("{}: {of_case} places in {} calls of the function", case.name, case.steps.len());
        tried += of_case;
    }
    println!("{tried} places");
    assert!(tried >= at_least);
}

#[tokio::test(start_paused = true)]
async fn each_phase_of_an_import_twice_at_once_makes_one_image() {
    check(cases::imports().await, 500).await;
}

#[tokio::test(start_paused = true)]
async fn each_phase_of_a_clone_twice_at_once_makes_one_image() {
    check(cases::clones().await, 300).await;
}

#[tokio::test(start_paused = true)]
async fn each_phase_of_an_export_twice_at_once_makes_one_object() {
    check(cases::exports().await, 300).await;
}
