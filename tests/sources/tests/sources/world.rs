//! A whole import: the state machine as deployed, the real client of HTTP, all else in memory.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use image_tasks_aws::{AllowedSources, Patience};
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::memory::{ManualClock, MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::{ExecutionStatus, TaskStore};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{Failure, Task, TaskId, TaskType, Timestamp};
use image_tasks_flows::bounds::{Cut, Relay};
use image_tasks_flows::events::{Event, LifecycleEvent};
use image_tasks_flows::{
    Deadline, Engine, ImportPolicy, Imports, Lifecycle, Remote, Reporter, Settings, Stores,
};
use image_tasks_test_bench::asl::{Machine, Thrown};
use serde_json::{Value, json};

use crate::objects::SmallObjects;

static MACHINE: LazyLock<Machine> = LazyLock::new(|| Machine::deployed("task").unwrap());

/// Largest image that is taken.
pub(crate) const QUOTA: u64 = 1 << 20;
/// Longest silence of a server.
const IDLE: Duration = Duration::from_secs(2);
/// Longest that a busy server is waited for.
pub(crate) const WAIT: Duration = Duration::from_secs(10);

struct Import {
    store: Arc<MemoryStore>,
    objects: SmallObjects,
    clock: Arc<ManualClock>,
    executions: Arc<MemoryExecutions>,
    engine: Engine,
    lifecycle: Lifecycle,
    id: TaskId,
}

impl Import {
    fn new(input: Value) -> Self {
        let now = Timestamp::from_epoch(1_795_000_000);
        let (store, objects) = (Arc::new(MemoryStore::default()), SmallObjects::default());
        let (clock, executions) = (Arc::new(ManualClock::at(now)), Arc::new(MemoryExecutions::default()));
        let stores = Stores {
            tasks: store.clone(),
            progress: Reporter::new(store.clone()),
            images: store.clone(),
            life: store.clone(),
            objects: Arc::new(objects.clone()),
            clock: clock.clone(),
            settings: Settings {
                images_bucket: "images".into(),
                work_bucket: "work".into(),
                task_ttl: Duration::from_secs(3600),
            },
        };
        let loopback = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let sources = SourcePolicy { addresses: loopback, ..SourcePolicy::default() };
        let policy = ImportPolicy {
            sources: sources.clone(),
            max_image_bytes: QUOTA,
            output: OutputFormat::AsIs,
            hash_before_active: u64::MAX,
            cut: Cut::default(),
            relay: Relay::default(),
            source_wait: WAIT,
        };
        let patience = Patience { connect: IDLE, idle: IDLE };
        let sources = Arc::new(AllowedSources::new(sources, Arc::new(objects.clone()), patience));
        let remote = Remote { sources, policy, credentials: store.clone() };
        let lifecycle = Lifecycle {
            stores: stores.clone(),
            receivers: Arc::new(objects.clone()),
            exports: ExportPolicy::default(),
            executions: executions.clone(),
            swept_to: Mutex::default(),
        };
        let task = Task::pending(TaskType::Import, "demo", input, now);
        let id = task.id;
        store.put_task(task);
        let engine = Engine::imports(stores, Imports { remote });
        Self { store, objects, clock, executions, engine, lifecycle, id }
    }

    async fn call(&self, resource: &str, payload: Value) -> Result<Value, Failure> {
        let deadline = Deadline::after(Duration::from_secs(900));
        if resource == "${WorkerFunctionArn}" {
            self.engine.handle(Event::try_from(payload)?, deadline).await
        } else {
            self.lifecycle.handle(LifecycleEvent::try_from(payload)?, deadline).await
        }
    }

    async fn run(&self) {
        let invoke = |resource: &str, payload: Value| {
            let resource = resource.to_owned();
            async move {
                self.call(&resource, payload).await.map_err(|failure| {
                    let name = failure.code.name();
                    Thrown::new(name, json!({"errorType": name, "errorMessage": failure.message}).to_string())
                })
            }
            .boxed()
        };
        let outcome = MACHINE.run(&self.id.to_string(), json!({"task_id": self.id}), &invoke).await;
        let status = match outcome.result {
            Ok(_) => ExecutionStatus::Succeeded,
            Err(Thrown { error, cause }) => ExecutionStatus::Failed { error, cause },
        };
        self.executions.set_status(self.id, status);
        // No worker lives so long.
        self.clock.advance(Duration::from_secs(25 * 60));
        self.call("${LifecycleFunctionArn}", json!({"phase": "sweep"})).await.unwrap();
    }
}

/// An import to its end: its task, and the image's bytes where one was made.
pub(crate) async fn import(input: Value) -> (Task, Option<Bytes>) {
    let import = Import::new(input);
    import.run().await;
    let task = TaskStore::get(&*import.store, import.id).await.unwrap().unwrap();
    let mut objects = import.objects.all();
    objects.retain(|name, _| !name.ends_with(".allocation"));
    let image = objects.iter().find(|(name, _)| name.starts_with("images/")).map(|(_, bytes)| bytes.clone());
    assert_eq!(objects.len(), usize::from(image.is_some()), "left behind: {:?}", objects.keys());
    (task, image)
}
