//! Waiting for a task's end, and leaving before it.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::output::{Output, text_of};
use crate::progress::Progress;
use crate::service::{Call, Service};

/// Between looks at a task: at first, and at most. Small tasks end within seconds.
const SOON: Duration = Duration::from_millis(500);
const SELDOM: Duration = Duration::from_secs(5);
/// A service that doesn't answer for so long isn't waited for. Its tasks go on.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

/// Ctrl-C, once it is listened to: then it no longer ends the program by itself.
pub(crate) struct Interrupts(Signal);

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listening = signal(SignalKind::interrupt());
        listening.map(Self).map_err(|error| Failure::Here(format!("Ctrl-C can't be listened to: {error}")))
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is ending; nothing will come.
            std::future::pending::<()>().await;
        }
    }
}

/// Shows the task until it has ended, and returns it as it ended.
pub(crate) async fn until_ended(
    service: &Service,
    output: Output,
    interrupts: &mut Interrupts,
    mut task: Value,
) -> Result<Value, Failure> {
    let id = text_of(&task, "id").to_owned();
    let path = format!("/v2/tasks/{id}");
    let mut progress = Progress::of_task(output);
    let (mut pause, mut heard) = (SOON, Instant::now());
    loop {
        progress.task(&task);
        if matches!(text_of(&task, "status"), "success" | "failure") {
            return Ok(task);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 5 / 4).min(SELDOM),
            () = interrupts.next() => match leaving(&id, &progress, interrupts).await {
                Leaving::Stay => {}
                Leaving::Leave => return Err(left(&id)),
                Leaving::Cancel => {
                    cancel(service, &id).await?;
                    output.note("The task is being cancelled");
                    pause = SOON;
                }
            },
        }
        match service.get(&path).await {
            Ok(now) => (task, heard) = (now, Instant::now()),
            Err(Failure::Unreachable(why)) if heard.elapsed() < LONGEST_SILENCE => {
                progress.say(&format!("image-tasks: {why}; asking again"));
            }
            Err(why) => {
                output.note(&watch_later(&id));
                return Err(why);
            }
        }
    }
}

/// Asks for a task's end. One that has ended meanwhile is no failure.
async fn cancel(service: &Service, id: &str) -> Result<(), Failure> {
    match service.ask(&Call::new(Method::POST, format!("/v2/tasks/{id}/cancel"))).await {
        Ok(_) | Err(Failure::Told(_) | Failure::Absent(_)) => Ok(()),
        Err(why) => Err(why),
    }
}

fn watch_later(id: &str) -> String {
    format!("The task goes on. To watch it: image-tasks task watch {id}")
}

fn left(id: &str) -> Failure {
    Failure::Interrupted(watch_later(id))
}

enum Leaving {
    Stay,
    Leave,
    Cancel,
}

/// What the person who pressed Ctrl-C wants. Where nobody can be asked, the task is left alone.
async fn leaving(id: &str, progress: &Progress, interrupts: &mut Interrupts) -> Leaving {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Leaving::Leave;
    }
    progress.suspend(|| {
        let question =
            format!("\nCancel the task {id}? y cancels it, n waits on, Ctrl-C leaves it at work [y/N] ");
        let mut stderr = std::io::stderr();
        // Somebody who can't read the question may still answer it.
        let _closed = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    });
    let (said, answer) = oneshot::channel();
    // A thread of its own: the runtime would wait for one of its own threads, and this one waits for a key.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        // Nobody listens any more after a second Ctrl-C.
        let _gone = said.send(read.is_ok_and(|bytes| bytes > 0).then_some(line));
    });
    let leaving = tokio::select! {
        () = interrupts.next() => Leaving::Leave,
        answer = answer => match answer.ok().flatten() {
            Some(line) if matches!(line.trim(), "y" | "Y" | "yes") => Leaving::Cancel,
            Some(_) => Leaving::Stay,
            None => Leaving::Leave,
        },
    };
    progress.resume();
    leaving
}
