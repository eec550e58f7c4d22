//! Ctrl-C while a task is waited for.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use http::Method;
use image_tasks_domain::failure::Failure;
use image_tasks_domain::ports::TaskLife as _;
use image_tasks_domain::{FailureCode, Task};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::process::Child;

use crate::service::{Run, Server, TTL};

const IMPORT: [&str; 2] = ["import", "https://example.com/disk.qcow2"];

pub(crate) fn interrupt(child: &Child) {
    let id = child.id().unwrap().try_into().ok().and_then(Pid::from_raw).unwrap();
    kill_process(id, Signal::INT).unwrap();
}

/// The command with a terminal as stdin and stderr, and its other end.
fn in_a_terminal(server: &Server) -> (Child, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let open =
        || -> OwnedFd { File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into() };
    let child = server.command(&IMPORT).stdin(open()).stderr(open()).env("TERM", "xterm").spawn().unwrap();
    (child, terminal.into())
}

/// Reads what the terminal shows until that text, and with it.
async fn shows(terminal: &File, text: &'static str) -> String {
    let mut terminal = terminal.try_clone().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut seen, mut block) = (String::new(), [0; 1024]);
        while !seen.contains(text) {
            let read = terminal.read(&mut block).unwrap();
            seen.push_str(&String::from_utf8_lossy(&block[..read]));
        }
        seen
    });
    read.await.unwrap()
}

/// The command in a terminal, which waits for this task and asks what to do with it, since Ctrl-C was pressed.
async fn interrupted(server: &Server) -> (Child, File, Task) {
    let (child, terminal) = in_a_terminal(server);
    let task = server.task().await;
    server.asked_beyond(0, &Method::GET, &format!("/v2/tasks/{}", task.id)).await;
    interrupt(&child);
    shows(&terminal, "[y/N] ").await;
    (child, terminal, task)
}

#[tokio::test]
async fn where_nobody_can_be_asked_the_task_is_left_at_work() {
    let server = Server::start().await;
    let child = server.spawn(&IMPORT);
    let task = server.task().await;
    server.asked_beyond(0, &Method::GET, &format!("/v2/tasks/{}", task.id)).await;
    interrupt(&child);
    let run = Run::from(child.wait_with_output().await.unwrap()).ends(130);
    let told = format!("The task goes on. To watch it: image-tasks task watch {}", task.id);
    assert_eq!(run.last_words(), told);
    assert!(server.seen_of(&Method::POST, &format!("/v2/tasks/{}/cancel", task.id)).is_empty());
}

#[tokio::test]
async fn a_yes_cancels_the_task_and_sees_it_end() {
    let server = Server::start().await;
    let (child, mut terminal, task) = interrupted(&server).await;
    let path = format!("/v2/tasks/{}", task.id);
    terminal.write_all(b"y\n").unwrap();
    server.asked_beyond(0, &Method::POST, &format!("{path}/cancel")).await;
    let why = Failure::new(FailureCode::Cancelled, "cancelled by alice");
    // The service may have ended a task that never began by itself.
    let _ended = server.store.fail(task.id, &why, TTL, task.created_at).await;
    shows(&terminal, "Cancelled: cancelled by alice").await;
    Run::from(child.wait_with_output().await.unwrap()).ends(1);
}

#[tokio::test]
async fn a_no_waits_on_and_a_second_ctrl_c_leaves() {
    let server = Server::start().await;
    let (child, mut terminal, task) = interrupted(&server).await;
    let path = format!("/v2/tasks/{}", task.id);
    let before = server.seen_of(&Method::GET, &path).len();
    terminal.write_all(b"\n").unwrap();
    // The echo of the answer comes right behind the question: no bar is painted there meanwhile.
    let seen = shows(&terminal, "\n").await;
    assert!(!seen.split('\n').next().unwrap().contains('%'), "{seen}");
    server.asked_beyond(before + 1, &Method::GET, &path).await;
    interrupt(&child);
    shows(&terminal, "[y/N] ").await;
    interrupt(&child);
    shows(&terminal, "To watch it: image-tasks task watch").await;
    Run::from(child.wait_with_output().await.unwrap()).ends(130);
    assert!(server.seen_of(&Method::POST, &format!("{path}/cancel")).is_empty());
}
