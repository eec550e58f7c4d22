//! A task of every kind and way, called one phase after the other, for tests that put calls beside one another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use image_tasks_domain::memory::{ManualClock, MemoryStore};
use image_tasks_domain::ports::{Clock as _, ExecutionStatus, TaskStore};
use image_tasks_domain::{Failure, FailureCode, Task, TaskId, TaskStatus, Timestamp, Unsettled};
use image_tasks_flows::Lifecycle;
use image_tasks_flows::bounds::Relay;
use image_tasks_flows::events::VERSION;
use image_tasks_flows::ports::ObjectRef;
use serde_json::{Value, json};

use crate::clone::TwoRegions;
use crate::disks::qcow2;
use crate::execution::end;
use crate::export;
use crate::faults::Faults;
use crate::glance;
use crate::import::gzip;
use crate::objects::MemoryObjects;
use crate::sources::Script;
use crate::stores::{Machines, Stores};
use crate::world::{CUT, World, pattern};

/// How often the state machine calls again where a fault may pass.
const AGAIN: usize = 5;

/// A task, and what it runs on.
pub(crate) enum Play {
    /// An import, or a clone from a Glance.
    Image(World),
    /// A clone of a region.
    Region(Box<TwoRegions>),
    /// An export.
    Export(export::World),
}

/// A call of the function, and what it answers where nothing is beside it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub event: Value,
    pub answer: Value,
    /// Port calls that it makes.
    pub calls: u64,
}

/// A kind of task.
pub(crate) struct Case {
    pub name: &'static str,
    make: Box<dyn Fn() -> BoxFuture<'static, Play>>,
    /// Its calls, in order.
    pub steps: Vec<Step>,
    /// The bytes that it makes.
    pub made: Bytes,
    /// How many places are left out after one that is tried: where a run takes long.
    pub stride: u64,
}

impl Play {
    pub(crate) fn faults(&self) -> &Arc<Faults> {
        match self {
            Self::Image(world) => &world.faults,
            Self::Region(regions) => &regions.world.faults,
            Self::Export(world) => &world.faults,
        }
    }

    pub(crate) fn objects(&self) -> &Arc<MemoryObjects> {
        match self {
            Self::Image(world) => &world.objects,
            Self::Region(regions) => &regions.world.objects,
            Self::Export(world) => &world.objects,
        }
    }

    pub(crate) fn stores(&self) -> &Arc<Stores> {
        match self {
            Self::Image(world) => &world.stores,
            Self::Region(regions) => &regions.world.stores,
            Self::Export(world) => &world.stores,
        }
    }

    /// The records, without faults.
    pub(crate) fn store(&self) -> &MemoryStore {
        &self.stores().inner
    }

    pub(crate) fn machines(&self) -> &Arc<Machines> {
        match self {
            Self::Image(world) => &world.machines,
            Self::Region(regions) => &regions.world.machines,
            Self::Export(world) => &world.machines,
        }
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        match self {
            Self::Image(world) => &world.lifecycle,
            Self::Region(regions) => &regions.world.lifecycle,
            Self::Export(world) => &world.lifecycle,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<ManualClock> {
        match self {
            Self::Image(world) => &world.clock,
            Self::Region(regions) => &regions.world.clock,
            Self::Export(world) => &world.clock,
        }
    }

    pub(crate) fn id(&self) -> TaskId {
        match self {
            Self::Image(world) => world.id,
            Self::Region(regions) => regions.world.id,
            Self::Export(_) => export::task_id(1),
        }
    }

    /// The object that an export makes.
    pub(crate) fn exported_to(&self) -> Option<ObjectRef> {
        match self {
            Self::Export(world) => Some(ObjectRef { bucket: "exports".into(), key: world.key.clone() }),
            Self::Image(_) | Self::Region(_) => None,
        }
    }

    pub(crate) async fn task(&self) -> Task {
        TaskStore::get(self.store(), self.id()).await.unwrap().unwrap()
    }

    /// The time of the stores.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock().now()
    }

    /// Gives each call of the function so long.
    pub(crate) fn give_time(&mut self, time: Duration) {
        match self {
            Self::Image(world) => world.time = time,
            Self::Region(regions) => regions.world.time = time,
            Self::Export(world) => world.time = time,
        }
    }

    /// Lets tasks expire that long after their end, where the functions are made with each call.
    pub(crate) fn expire_after(&mut self, ttl: Duration) {
        if let Self::Image(world) = self {
            world.settings.task_ttl = ttl;
            world.lifecycle.stores.settings.task_ttl = ttl;
        }
    }

    /// One call of the function.
    pub(crate) async fn call(&self, event: &Value) -> Result<Value, Failure> {
        self.call_of(self.id(), event).await
    }

    /// The same for another task.
    pub(crate) async fn call_of(&self, id: TaskId, event: &Value) -> Result<Value, Failure> {
        let mut event = event.clone();
        (event["version"], event["task_id"]) = (json!(VERSION), json!(id));
        self.call_as(&event).await
    }

    /// A call with all that the state machine says.
    pub(crate) async fn call_as(&self, event: &Value) -> Result<Value, Failure> {
        match self {
            Self::Image(world) => world.phase(event.clone()).await,
            Self::Region(regions) => regions.phase(event.clone()).await,
            Self::Export(world) => world.phase(event.clone()).await,
        }
    }

    /// A call, made again as the state machine does.
    pub(crate) async fn called(&self, id: TaskId, event: &Value) -> Result<Value, Failure> {
        let mut last = Failure::transient("never called");
        for _ in 0..=AGAIN {
            match self.call_of(id, event).await {
                Err(failure) if failure.code == FailureCode::Transient => last = failure,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Calls of a task that must all be answered as they are without anything beside them, or by its end.
    pub(crate) async fn rest(&self, id: TaskId, steps: &[Step], context: &str) {
        for step in steps {
            let answer = self.called(id, &step.event).await;
            let answer = answer.unwrap_or_else(|e| panic!("{context}: {}: {e}", step.event));
            // What the call was to do may be done, and it is a step further.
            let is_further = step.answer["next"] == "next" && answer["next"] == "round";
            assert!(
                answer["next"] == step.answer["next"] || answer["next"] == "done" || is_further,
                "{context}: {answer} instead of {}",
                step.answer
            );
            let remains = answer["remaining"] != Value::Null;
            assert!(!remains || step.answer["remaining"] != Value::Null, "{context}: {answer}");
        }
    }

    /// The lifecycle function with that event.
    pub(crate) async fn end(&self, event: Value) {
        end(self.faults(), self.lifecycle(), &event, 3).await.unwrap_or_else(|e| panic!("{event}: {e}"));
    }

    /// Its execution is stopped by a user, and EventBridge tells.
    pub(crate) async fn aborted(&self) {
        let (error, cause) = ("Cancelled".to_owned(), "cancelled by alice".to_owned());
        let status = ExecutionStatus::Aborted { error: error.clone(), cause: cause.clone() };
        self.machines().inner.set_status(self.id(), status);
        let detail = json!({"name": self.id(), "status": "ABORTED", "error": error, "cause": cause});
        self.end(json!({"detail": detail})).await;
    }

    /// The time passes after which no worker lives any longer, and the sweep comes by.
    pub(crate) async fn settle(&self) {
        self.clock().advance(Duration::from_secs(25 * 60));
        self.end(json!({"phase": "sweep"})).await;
        self.end(json!({"phase": "sweep"})).await;
    }

    /// The task has ended, what it made is whole or gone, and nothing else is left. A failure is settled by now. A success
    /// leaves nothing even before that, unless several things go wrong.
    pub(crate) async fn check(&self, made: &Bytes, context: &str) -> TaskStatus {
        let task = self.task().await;
        let waits = matches!(task.unsettled, Some(Unsettled::Cleaning { .. }));
        assert!(
            task.unsettled.is_none() || waits && task.status == TaskStatus::Success,
            "{context}: {task:?}"
        );
        match self {
            Self::Image(world) => world.check_ended(made, context).await,
            Self::Region(regions) => regions.check_ended(context).await,
            Self::Export(world) => world.check(Some(made), context).await,
        }
    }
}

/// What the state machine calls next, the last first, where an answer names that.
pub(crate) fn calls_after(answer: &Value) -> Vec<Value> {
    match answer["next"].as_str() {
        Some(next @ ("plan" | "stage" | "next")) => vec![json!({"phase": next})],
        Some("round") => {
            let items = answer["items"].as_array().unwrap().iter().rev();
            let pieces = items.map(|item| json!({"phase": "round", "item": item}));
            std::iter::once(json!({"phase": "next"})).chain(pieces).collect()
        }
        _ => Vec::new(),
    }
}

impl Case {
    async fn new(
        name: &'static str,
        make: impl Fn() -> BoxFuture<'static, Play> + 'static,
        bytes: Option<Vec<u8>>,
    ) -> Self {
        let play = make().await;
        let mut steps = Vec::new();
        let mut left = vec![json!({"phase": "plan"})];
        while let Some(event) = left.pop() {
            let before = play.faults().calls();
            let answer = play.call(&event).await.unwrap_or_else(|e| panic!("{name}: {event}: {e}"));
            left.extend(calls_after(&answer));
            match answer["next"].as_str() {
                Some("plan" | "stage" | "next" | "round") => {}
                Some("done") => assert!(left.is_empty(), "{name}"),
                // In a relay one worker's turn comes after the others'.
                None if answer["remaining"]["round"] == "hash" => {
                    left.insert(1, json!({"phase": "round", "item": answer["remaining"]}));
                }
                _ => assert_eq!(answer, json!({"remaining": null}), "{name}"),
            }
            steps.push(Step { event, answer, calls: play.faults().calls() - before });
        }
        let found = match &play {
            Play::Image(world) => {
                let image = world.image().await.unwrap();
                world.objects.bytes("images", &image.id.object_key(world.id))
            }
            Play::Region(_) => Some(Bytes::new()),
            Play::Export(world) => world.exported(),
        };
        let made = bytes.map_or_else(|| found.unwrap(), Bytes::from);
        assert_eq!(play.check(&made, name).await, TaskStatus::Success, "{name}");
        Self { name, make: Box::new(make), steps, made, stride: 1 }
    }

    /// Whether it passes a thread, which works in real time.
    pub(crate) fn has_threads(&self) -> bool {
        self.steps.iter().any(|step| step.event["phase"] == "stage")
    }

    /// A task of this kind that is pending.
    pub(crate) async fn play(&self) -> Play {
        (self.make)().await
    }

    /// A task of which the first of its calls have been made.
    pub(crate) async fn after(&self, steps: usize) -> Play {
        let play = self.play().await;
        play.rest(play.id(), &self.steps[..steps], self.name).await;
        play
    }

    /// The places at which a call of that number stops: each of its port calls, or some, if they are many.
    pub(crate) fn places(&self, step: usize) -> impl Iterator<Item = u64> + use<> {
        (0..self.steps[step].calls).step_by(usize::try_from(self.stride).unwrap())
    }
}

/// An import of a script, and how it is asked for.
fn import(script: fn() -> Script, input: Value, later: bool) -> impl Fn() -> BoxFuture<'static, Play> {
    relayed(script, input, later, Relay::default())
}

/// The same, hashed in such a relay.
fn relayed(
    script: fn() -> Script,
    input: Value,
    later: bool,
    relay: Relay,
) -> impl Fn() -> BoxFuture<'static, Play> {
    move || {
        let input = input.clone();
        async move {
            let mut world = World::new(script(), input, CUT).await;
            world.policy.relay = relay;
            if later {
                world.policy.hash_before_active = 0;
            }
            Play::Image(world)
        }
        .boxed()
    }
}

fn whole() -> Script {
    Script::of(pattern(1500))
}

fn parts() -> Script {
    Script::of(pattern(3500))
}

fn stream() -> Script {
    Script { ranges: false, ..parts() }
}

/// Data in the middle of a disk of four parts and a bit.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 4096];
    disk[1000..3000].copy_from_slice(&pattern(2000));
    disk
}

/// Each way that an import goes.
pub(crate) async fn imports() -> Vec<Case> {
    let raw = json!({"import_from_format": "raw"});
    let as_format = |from: &str, to: &str| {
        let properties = json!({"disk_format": to});
        json!({"import_from_format": from, "image_properties": properties})
    };
    let of_qcow2 = || Script::of(qcow2(4096, &vec![(1000, pattern(2000))]));
    let packed = || Script::of(gzip(&pattern(3500)));
    let (small, large) = (Some(pattern(1500)), Some(pattern(3500)));
    let alone = Relay { inline: 0, chunk: 1200, workers: 1 };
    let relay = Relay { workers: 2, ..alone };
    vec![
        Case::new("import, relayed", relayed(parts, raw.clone(), false, alone), large.clone()).await,
        Case::new("import, relayed later", relayed(parts, raw.clone(), true, alone), large.clone()).await,
        // Who waits for a turn makes the same call again and again.
        Case {
            stride: 13,
            ..Case::new("import, two in turns", relayed(parts, raw.clone(), false, relay), large.clone())
                .await
        },
        Case::new("import, one call", import(whole, raw.clone(), false), small).await,
        Case::new("import, parts", import(parts, raw.clone(), false), large.clone()).await,
        Case::new("import, to raw", import(of_qcow2, as_format("qcow2", "raw"), false), Some(disk())).await,
        Case::new("import, to qcow2", import(parts, as_format("raw", "qcow2"), false), None).await,
        Case::new("import, spooled", import(stream, raw.clone(), false), large.clone()).await,
        Case::new("import, compressed", import(packed, raw.clone(), false), large.clone()).await,
        Case::new("import, hashed later", import(parts, raw, true), large).await,
    ]
}

/// Each way that a clone goes.
pub(crate) async fn clones() -> Vec<Case> {
    let region =
        |len| move || async move { Play::Region(Box::new(TwoRegions::new(len, json!({})).await)) }.boxed();
    let elsewhere = |script: fn() -> Script| {
        move || async move { Play::Image(glance::world(script(), |_| {}).await) }.boxed()
    };
    let (small, large) = (Some(pattern(1500)), Some(pattern(3500)));
    vec![
        Case::new("clone, whole", region(900), Some(pattern(900))).await,
        Case::new("clone, parts", region(3500), Some(pattern(3500))).await,
        Case::new("clone from a Glance, one call", elsewhere(whole), small).await,
        Case::new("clone from a Glance, parts", elsewhere(parts), large).await,
    ]
}

/// Each way that an export goes.
pub(crate) async fn exports() -> Vec<Case> {
    let mut cases = Vec::new();
    for scenario in export::scenarios() {
        // A run takes tens of milliseconds, most of them for its bytes.
        let stride = if scenario.stored.len() > 400_000 { 4 } else { 1 };
        let name = scenario.name;
        let make = move || {
            let scenario = scenario.clone();
            async move { Play::Export(scenario.world().await) }.boxed()
        };
        cases.push(Case { stride, ..Case::new(name, make, None).await });
    }
    cases
}
