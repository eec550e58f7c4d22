//! The services around the functions, in virtual time: Lambda, Step Functions, EventBridge, the schedule, DynamoDB's expiry,
//! and people.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::ports::{
    Credentials as _, ExecutionStatus, Executions as _, IdempotencyKey, TaskStore,
};
use image_tasks_domain::tasks::NewTask;
use image_tasks_domain::{ExecutionName, Task, TaskStatus};
use image_tasks_flows::Deadline;
use image_tasks_flows::events::LifecycleEvent;
use image_tasks_test_bench::asl::{Machine, Outcome, Thrown};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::chaos::{Answer, Chaos, INVOCATION, Invocation, Order};
use super::mutations::Mutation;
use super::script::{AtInvocation, Event, Once, Random, Script};
use crate::cancels::{caller, tasks};
use crate::cases::{Case, Play};
use crate::faults::DIES;

/// Between two sweeps (template.yaml, `Schedule`).
const SWEEP: Duration = Duration::from_secs(300);
/// After which a task should have come to its end, with all that is cleaned late: a day for its execution, and one more.
const PATIENCE: Duration = Duration::from_secs(3 * 24 * 3600);
/// An asynchronous invocation that fails is made again after these (Lambda developer guide, "Error handling").
const ASYNC_RETRIES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(120)];

/// What somebody else writes.
pub(super) const TAKEN: &[u8] = b"somebody else's";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Worker,
    Lifecycle,
    Api,
}

impl Function {
    /// Its timeout (template.yaml; for the API that of API Gateway).
    fn seconds(self) -> u64 {
        match self {
            Self::Worker => 900,
            Self::Lifecycle => 300,
            Self::Api => 30,
        }
    }
}

pub(crate) struct Cloud {
    pub(super) play: Play,
    machine: Arc<Machine>,
    pub(crate) chaos: Arc<Chaos>,
    pub(super) script: Script,
    at: BTreeMap<u64, AtInvocation>,
    invocations: AtomicU64,
    throttled: AtomicU64,
    running: AtomicU64,
    quota: u64,
    /// What is on its way: invocations, events, executions.
    busy: AtomicU64,
    panicked: Mutex<Option<String>>,
    /// The task as it was when it expired.
    gone: Mutex<Option<Task>>,
    pub(super) cancelled: AtomicBool,
    /// Somebody else has written an object of the name that the task makes.
    pub(super) taken: AtomicBool,
    quiet: Notify,
    events_lost: bool,
    event_twice: Option<Duration>,
    sweeps_from: Duration,
}

/// Counts something as on its way.
struct Busy(Arc<Cloud>);

impl Busy {
    fn new(cloud: &Arc<Cloud>) -> Self {
        cloud.busy.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(cloud))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
        self.0.quiet.notify_one();
    }
}

/// How a run went.
pub(crate) struct Ran {
    pub(crate) status: TaskStatus,
    pub(crate) met: std::collections::BTreeSet<(String, &'static str)>,
    pub(crate) calls: u64,
}

/// Runs a task of a case as the script says. The error says what isn't as it must be.
pub(crate) async fn run(
    case: &Case,
    script: &Script,
    machine: &Arc<Machine>,
    mutation: Option<Mutation>,
) -> Result<Ran, String> {
    let mut play = case.play().await;
    let threads = case.has_threads();
    let once: Vec<_> = script.once().collect();
    if once.contains(&Once::ExpiresSoon) {
        play.expire_after(Duration::from_secs(60));
    }
    play.give_time(Duration::from_secs(885));
    let (send, orders) = mpsc::unbounded_channel();
    let chaos = Arc::new(Chaos::new(script, mutation, threads, play.clock(), send));
    play.faults().chaos.set(Arc::clone(&chaos)).map_err(|_| "there is chaos already")?;
    let find = |f: fn(&Once) -> Option<u64>| once.iter().find_map(f);
    let seconds = |n: Option<u64>| n.map(Duration::from_secs);
    let quota = find(|once| if let Once::Quota(n) = once { Some(*n) } else { None });
    let twice = find(|once| if let Once::EventTwice(time) = once { Some(time.as_secs()) } else { None });
    let sweeps = find(|once| if let Once::SweepsLost(time) = once { Some(time.as_secs()) } else { None });
    let cloud = Arc::new(Cloud {
        play,
        machine: Arc::clone(machine),
        chaos: Arc::clone(&chaos),
        script: script.clone(),
        at: script.invocations(),
        invocations: AtomicU64::new(0),
        throttled: AtomicU64::new(0),
        running: AtomicU64::new(0),
        quota: quota.unwrap_or(1000),
        busy: AtomicU64::new(0),
        panicked: Mutex::default(),
        gone: Mutex::default(),
        cancelled: AtomicBool::new(false),
        taken: AtomicBool::new(false),
        quiet: Notify::new(),
        events_lost: once.contains(&Once::EventLost),
        event_twice: seconds(twice),
        sweeps_from: seconds(sweeps).unwrap_or_default(),
    });
    for event in &script.events {
        if let Event::Once(_) = event.1 {
            chaos.meets("", event.1);
        }
    }
    let ended = cloud.live(orders).await?;
    cloud.check(case, ended).await
}

impl Cloud {
    /// Until the task has ended, all is cleaned and nothing is on its way.
    async fn live(self: &Arc<Self>, mut orders: mpsc::UnboundedReceiver<Order>) -> Result<Task, String> {
        let start = Instant::now();
        let mut sweep_at = start + SWEEP;
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut executions = BTreeMap::new();
        self.post().await;
        loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => match order {
                    Order::Cancel => self.cancel(),
                    Order::Stop => self.stop(),
                    Order::Write => self.take_name(),
                    Order::Look => {}
                },
                Some((run, outcome)) = ends.recv() => self.ended(run, &outcome).await,
                () = self.quiet.notified() => {}
                () = sleep_until(sweep_at) => {
                    sweep_at += SWEEP;
                    self.chaos.sync();
                    self.expire().await;
                    if start.elapsed() > self.sweeps_from && self.chaos.mutation != Some(Mutation::NeverSweeps) {
                        self.call(Function::Lifecycle, json!({"phase": "sweep"}), None);
                    }
                }
            }
            self.look(&mut executions, &ended).await;
            if let Some(panicked) = self.panicked.lock().unwrap().take() {
                return Err(panicked);
            }
            let task = self.task().await;
            if task.status.is_end() && task.unsettled.is_none() && self.busy.load(Ordering::SeqCst) == 0 {
                return Ok(task);
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("after {PATIENCE:?} the task isn't settled: {task:?}"));
            }
        }
    }

    /// The POST that begins it. The record is there: an earlier one died between its write and the start.
    async fn post(self: &Arc<Self>) {
        let (store, id) = (self.play.store(), self.play.id());
        let mut task = self.play.task().await;
        if task.request_id.is_empty() {
            task.request_id = "req-1".into();
        }
        let token = store.token(id, task.created_at).await.unwrap();
        store.remove_task(id);
        let (key, body_sha256) = ("simulated".to_owned(), "0".repeat(64));
        let idempotency = (key.clone(), body_sha256.clone());
        let key = IdempotencyKey { owner: task.owner.clone(), key, body_sha256 };
        store.create(&task, Some(&key), token.as_ref()).await.unwrap();
        if self.script.once().any(|once| once == Once::StartLost) {
            return;
        }
        let new = NewTask {
            task_type: task.task_type,
            input: task.input,
            request_id: "req-2".into(),
            idempotency: Some(idempotency),
            token,
        };
        let tasks = tasks(&self.play);
        self.begin(Function::Api, "post", None, Duration::ZERO, async move {
            let answer = tasks.create(&caller("alice"), new).await;
            answer.map(|_| Value::Null).map_err(|e| Thrown::new("Rejection", e.to_string()))
        });
    }

    fn cancel(self: &Arc<Self>) {
        let (cloud, tasks) = (Arc::clone(self), tasks(&self.play));
        self.begin(Function::Api, "cancel", None, Duration::ZERO, async move {
            if tasks.cancel(&caller("alice"), &cloud.play.id().to_string()).await.is_ok() {
                cloud.cancelled.store(true, Ordering::SeqCst);
            }
            Ok(Value::Null)
        });
    }

    /// An operator does it, in the console.
    fn stop(&self) {
        let executions = &self.play.machines().inner;
        if executions.last_run(self.play.id()) == Some(0) {
            let status = ExecutionStatus::Aborted { error: String::new(), cause: String::new() };
            executions.set_status(self.play.id(), status);
        }
    }

    /// Somebody else writes an object of the name that an export makes, if that isn't taken.
    fn take_name(&self) {
        if let Some(at) = self.play.exported_to()
            && self.play.objects().somebody_puts(&at, TAKEN)
        {
            self.taken.store(true, Ordering::SeqCst);
        }
    }

    /// Begins executions that were asked for, and drops those that were stopped.
    async fn look(
        self: &Arc<Self>,
        at_work: &mut BTreeMap<u32, Option<JoinHandle<()>>>,
        ended: &mpsc::UnboundedSender<(u32, Outcome)>,
    ) {
        let executions = &self.play.machines().inner;
        let Some(last) = executions.last_run(self.play.id()) else { return };
        let task = self.task().await;
        for run in 0..=last {
            match executions.status(&task, run).await.unwrap() {
                ExecutionStatus::Running if !at_work.contains_key(&run) => {
                    let (cloud, ended, busy) = (Arc::clone(self), ended.clone(), Busy::new(self));
                    let execution = async move {
                        let outcome = cloud.execute(run).await;
                        let _ = ended.send((run, outcome));
                        drop(busy);
                    };
                    at_work.insert(run, Some(tokio::spawn(execution)));
                }
                ExecutionStatus::Aborted { error, cause } => {
                    if let Some(handle) = at_work.get_mut(&run).and_then(Option::take) {
                        handle.abort();
                        self.tell(run, "ABORTED", &error, &cause);
                    }
                }
                _ => {}
            }
        }
    }

    async fn execute(self: &Arc<Self>, run: u32) -> Outcome {
        let id = self.play.id();
        let cloud = Arc::clone(self);
        let invoke = move |resource: &str, payload: Value| {
            let function = match resource {
                "${WorkerFunctionArn}" => Function::Worker,
                "${LifecycleFunctionArn}" => Function::Lifecycle,
                other => panic!("no function {other}"),
            };
            Arc::clone(&cloud).invoke(function, payload).boxed()
        };
        let name = format!("{}-{}", ExecutionName { task: id, run }, self.script.seed);
        self.machine.run(&name, json!({"task_id": id}), &invoke).await
    }

    /// An execution has come to its end.
    async fn ended(self: &Arc<Self>, run: u32, outcome: &Outcome) {
        let executions = &self.play.machines().inner;
        if executions.status(&self.task().await, run).await.unwrap() != ExecutionStatus::Running {
            // It was stopped at this moment.
            return;
        }
        let (status, told) = match &outcome.result {
            Ok(_) => (ExecutionStatus::Succeeded, None),
            Err(_) if outcome.timed_out => (ExecutionStatus::TimedOut, Some("TIMED_OUT")),
            Err(Thrown { error, cause }) => {
                (ExecutionStatus::Failed { error: error.clone(), cause: cause.clone() }, Some("FAILED"))
            }
        };
        executions.set_run_status(self.play.id(), run, status);
        if let (Some(told), Err(Thrown { error, cause })) = (told, &outcome.result) {
            self.tell(run, told, error, cause);
        }
    }

    /// EventBridge tells the lifecycle function how an execution ended.
    fn tell(self: &Arc<Self>, run: u32, status: &str, error: &str, cause: &str) {
        if self.events_lost {
            return;
        }
        let name = ExecutionName { task: self.play.id(), run }.to_string();
        let event = json!({"detail": {"name": name, "status": status, "error": error, "cause": cause}});
        // EventBridge's own time: about half a second.
        let soon = Duration::from_millis(Random::new(self.script.seed).below(2000));
        for late in std::iter::once(soon).chain(self.event_twice) {
            let (cloud, event, busy) = (Arc::clone(self), event.clone(), Busy::new(self));
            tokio::spawn(async move {
                sleep(late).await;
                for again in ASYNC_RETRIES.into_iter().map(Some).chain([None]) {
                    let answer = Arc::clone(&cloud).invoke(Function::Lifecycle, event.clone()).await;
                    match (answer, again) {
                        (Err(_), Some(wait)) => sleep(wait).await,
                        _ => break,
                    }
                }
                drop(busy);
            });
        }
    }

    /// A synchronous invocation.
    async fn invoke(self: Arc<Self>, function: Function, mut payload: Value) -> Answer {
        let number = self.invocations.fetch_add(1, Ordering::SeqCst);
        let phase = payload["phase"].as_str().unwrap_or("event").to_owned();
        let throttles = || Thrown::new("Lambda.TooManyRequestsException", "Rate Exceeded.");
        if number < self.throttled.load(Ordering::SeqCst) || self.running.load(Ordering::SeqCst) >= self.quota
        {
            return Err(throttles());
        }
        let at = self.at.get(&number).copied();
        if let Some(at) = at {
            self.chaos.meets(&phase, Event::Invocation(number, at));
        }
        match at {
            Some(AtInvocation::Throttled(many)) => {
                self.throttled.store(number + many, Ordering::SeqCst);
                return Err(throttles());
            }
            Some(AtInvocation::Unreached) => {
                return Err(Thrown::new("Lambda.ServiceException", "Service error."));
            }
            Some(AtInvocation::OtherVersion) if function == Function::Worker => payload["version"] = json!(1),
            Some(AtInvocation::Twice(later)) => {
                let (cloud, payload) = (Arc::clone(&self), payload.clone());
                let phase = phase.clone();
                let later = self.chaos.long(later);
                self.begin(function, &phase, None, later, async move { cloud.work(function, payload).await });
            }
            _ => {}
        }
        let (reply, answer) = oneshot::channel();
        self.call(function, payload, Some(reply));
        let answer = answer.await.unwrap_or_else(|_| Err(Thrown::new("Lambda.Unknown", "")));
        match at {
            Some(AtInvocation::Loses) => Err(Thrown::new("Lambda.SdkClientException", "Unable to execute")),
            _ => answer,
        }
    }

    fn call(self: &Arc<Self>, function: Function, payload: Value, reply: Option<oneshot::Sender<Answer>>) {
        let phase = payload["phase"].as_str().unwrap_or("event").to_owned();
        let cloud = Arc::clone(self);
        let work = async move { cloud.work(function, payload).await };
        self.begin(function, &phase, reply, Duration::ZERO, work);
    }

    /// An invocation: whoever waits for it, it lives until it ends, dies or its time is up.
    fn begin(
        self: &Arc<Self>,
        function: Function,
        phase: &str,
        reply: Option<oneshot::Sender<Answer>>,
        later: Duration,
        work: impl Future<Output = Answer> + Send + 'static,
    ) {
        let (cloud, busy) = (Arc::clone(self), Busy::new(self));
        let invocation = Arc::new(Invocation { phase: phase.to_owned(), reply: Mutex::new(reply) });
        self.running.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            sleep(later).await;
            let dies = Arc::new(Notify::new());
            let work = DIES.scope(Arc::clone(&dies), AssertUnwindSafe(work).catch_unwind());
            let work = INVOCATION.scope(Arc::clone(&invocation), work);
            let answer = tokio::select! {
                biased;
                () = dies.notified() => Err(Thrown::new("Runtime.ExitError", "signal: killed")),
                done = work => done.unwrap_or_else(|panic| {
                    let told = panic.downcast_ref::<String>().cloned();
                    let told = told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned()));
                    *cloud.panicked.lock().unwrap() = Some(format!("panicked: {told:?}"));
                    Err(Thrown::new("Runtime.ExitError", "panicked"))
                }),
                () = sleep(Duration::from_secs(function.seconds())) => {
                    Err(Thrown::new("Sandbox.Timedout", "Task timed out"))
                }
            };
            invocation.answer(answer);
            cloud.running.fetch_sub(1, Ordering::SeqCst);
            drop(busy);
        });
    }

    /// What a function does with an event.
    async fn work(&self, function: Function, payload: Value) -> Answer {
        let answer = match function {
            Function::Worker => self.play.call_as(&payload).await,
            _ => match LifecycleEvent::try_from(payload) {
                Ok(event) => {
                    self.play.lifecycle().handle(event, Deadline::after(Duration::from_secs(285))).await
                }
                Err(failure) => Err(failure),
            },
        };
        answer.map_err(|failure| {
            let name = failure.code.name();
            Thrown::new(name, json!({"errorType": name, "errorMessage": failure.message}).to_string())
        })
    }

    /// DynamoDB deletes what has expired and is settled.
    async fn expire(&self) {
        let unasked = self.chaos.mutation == Some(Mutation::ExpiresUnsettled);
        let Some(task) = TaskStore::get(self.play.store(), self.play.id()).await.unwrap() else { return };
        if task.is_expired(self.play.now()) && (unasked || task.unsettled.is_none()) {
            self.play.store().remove_task(task.id);
            let gone = Task { unsettled: None, ..task };
            *self.gone.lock().unwrap() = Some(gone);
        }
    }

    /// The task, which may be gone.
    async fn task(&self) -> Task {
        let there = TaskStore::get(self.play.store(), self.play.id()).await.unwrap();
        there.or_else(|| self.gone.lock().unwrap().clone()).unwrap()
    }
}
