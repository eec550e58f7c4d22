//! Everything that an import runs on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk_image::{AllocationMap, Format};
use futures::FutureExt as _;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::memory::{ManualClock, MemoryExecutions};
use image_tasks_domain::ports::{Clock, ImageStore, ProgressStore as _};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{
    Failure, FailureCode, Image, ImageStatus, Task, TaskId, TaskStatus, TaskType, Timestamp, Unsettled,
};
use image_tasks_flows::bounds::{BlobCut, Cut, Relay};
use image_tasks_flows::events::{Event, Phase};
use image_tasks_flows::{Deadline, Engine, ImportPolicy, Imports, Lifecycle, Remote, Reporter, Settings};
use md5::Digest as _;
use serde_json::{Value, json};

use crate::execution::{Execution, Phases, end};
use crate::faults::Faults;
use crate::objects::{MemoryObjects, S3Limits};
use crate::sources::{Script, ScriptedSources};
use crate::stores::{Machines, Stores};

pub(crate) const URL: &str = "http://example.com/image";
pub(crate) const QUOTA: u64 = 1 << 24;

/// Small cuts, so that a few kilobytes are many parts.
pub(crate) const CUT: Cut = Cut {
    single_below: 2000,
    part: 1000,
    stage_part: 900,
    spool_unpinned: 3000,
    manifest_most: 1 << 20,
    blobs: BlobCut::S3,
};

pub(crate) struct World {
    pub faults: Arc<Faults>,
    pub stores: Arc<Stores>,
    pub objects: Arc<MemoryObjects>,
    pub sources: Arc<ScriptedSources>,
    pub machines: Arc<Machines>,
    pub clock: Arc<ManualClock>,
    pub settings: Settings,
    /// What may come in.
    pub policy: ImportPolicy,
    /// What its tasks are.
    pub kind: Box<dyn Fn(&World) -> Engine + Send + Sync>,
    pub lifecycle: Lifecycle,
    pub id: TaskId,
    /// Each function is invoked twice, as after a lost answer.
    pub twice: bool,
    /// Time of one invocation.
    pub time: Duration,
    /// A fault may have come after the image became active, and before its hashes.
    pub may_lack_hashes: bool,
    /// How many calls had been made when each invocation for `next` began.
    pub finishes: Mutex<Vec<u64>>,
}

impl World {
    /// A pending task that imports what the script says.
    pub(crate) async fn new(script: Script, input: Value, cut: Cut) -> Self {
        let faults = Arc::new(Faults::default());
        let stores = Arc::new(Stores::new(Arc::clone(&faults)));
        let objects = Arc::new(MemoryObjects::new(Arc::clone(&faults)));
        let mut limits = S3Limits::scaled(&[cut.part, cut.stage_part as u64, cut.blobs.least]);
        // A spool of one part is copied as a range of it.
        if limits.least_part < S3Limits::default().least_part {
            limits.copied_whole = 0;
        }
        objects.set_limits(limits);
        let scripts = [(URL.to_owned(), Arc::new(script))].into();
        let sources = Arc::new(ScriptedSources { faults: Arc::clone(&faults), scripts: Mutex::new(scripts) });
        let machines = Arc::new(Machines { faults: Arc::clone(&faults), inner: MemoryExecutions::default() });
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(1_795_000_000)));
        let settings = Settings {
            images_bucket: "images".into(),
            work_bucket: "work".into(),
            task_ttl: Duration::from_secs(48 * 3600),
        };
        let policy = ImportPolicy {
            sources: SourcePolicy::default(),
            max_image_bytes: QUOTA,
            output: OutputFormat::AsIs,
            hash_before_active: u64::MAX,
            cut,
            relay: Relay::default(),
            source_wait: Duration::from_secs(300),
        };
        let lifecycle = Lifecycle {
            stores: flow_stores(&stores, &objects, &clock, &settings),
            receivers: objects.clone(),
            exports: ExportPolicy::default(),
            executions: machines.clone(),
            swept_to: Mutex::default(),
        };
        let id = TaskId("0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b".parse().unwrap());
        let now = clock.now();
        let mut whole = json!({"import_from": URL});
        whole.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
        stores.inner.put_task(Task {
            id,
            user_id: "alice".into(),
            request_id: "req-1".into(),
            ..Task::pending(TaskType::Import, "demo", whole, now)
        });
        Self {
            faults,
            stores,
            objects,
            sources,
            machines,
            clock,
            settings,
            policy,
            kind: Box::new(|world| Engine::imports(world.flow_stores(), Imports { remote: world.remote() })),
            lifecycle,
            id,
            twice: false,
            time: Duration::from_secs(900),
            may_lack_hashes: false,
            finishes: Mutex::default(),
        }
    }

    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(self.sources.scripts.lock().unwrap().values().next().unwrap())
    }

    pub(crate) async fn task(&self) -> Task {
        self.stores.inner.shown(self.id).await.unwrap().unwrap()
    }

    pub(crate) async fn image(&self) -> Option<Image> {
        let id = self.task().await.image_id?;
        ImageStore::get(&self.stores.inner, id).await.unwrap()
    }

    /// The whole life of the task, to its end.
    pub(crate) async fn run(&self) {
        self.run_with(&|event| self.phase(event).boxed()).await;
    }

    /// The same, with other phases than those of an import.
    pub(crate) async fn run_with(&self, phases: &Phases<'_>) {
        self.execute(0, phases).await;
        // Hashes that were lost are taken up again.
        for run in 1..3 {
            let Some(Unsettled::Hashing { .. }) = self.task().await.unsettled else { break };
            self.clock.advance(Duration::from_secs(25 * 60));
            self.invoke_lifecycle(json!({"phase": "sweep"}), 3).await.unwrap();
            assert_eq!(self.machines.inner.last_run(self.id), Some(run));
            self.execute(run, phases).await;
        }
        if self.task().await.status == TaskStatus::Failure {
            self.settle().await;
        }
    }

    async fn execute(&self, run: u32, phases: &Phases<'_>) {
        let execution = Execution {
            id: self.id,
            run,
            phases,
            lifecycle: &self.lifecycle,
            faults: &self.faults,
            executions: &self.machines.inner,
            twice: self.twice,
        };
        ticking(execution.run()).await;
    }

    pub(crate) fn flow_stores(&self) -> image_tasks_flows::Stores {
        flow_stores(&self.stores, &self.objects, &self.clock, &self.settings)
    }

    pub(crate) fn remote(&self) -> Remote {
        let credentials = self.stores.clone();
        Remote { sources: self.sources.clone(), policy: self.policy.clone(), credentials }
    }

    /// One phase of the task.
    pub(crate) async fn phase(&self, event: Value) -> Result<Value, Failure> {
        let event = Event::try_from(event)?;
        if event.phase == Phase::Next {
            self.finishes.lock().unwrap().push(self.faults.calls());
        }
        (self.kind)(self).handle(event, Deadline::after(self.time)).await
    }

    /// Lets the time pass after which no worker lives any longer, and the sweep come by.
    pub(crate) async fn settle(&self) {
        self.clock.advance(Duration::from_secs(25 * 60));
        // What goes wrong in one sweep is made good by the next.
        for _ in 0..2 {
            self.invoke_lifecycle(json!({"phase": "sweep"}), 3).await.unwrap();
        }
        assert_eq!(self.task().await.unsettled, None);
    }

    pub(crate) async fn invoke_lifecycle(&self, event: Value, tries: u32) -> Result<Value, Failure> {
        end(&self.faults, &self.lifecycle, &event, tries).await
    }

    /// The task has ended, the image is whole or gone, and nothing else is left.
    pub(crate) async fn check_ended(&self, stored: &[u8], context: &str) -> TaskStatus {
        let task = self.task().await;
        let image = self.image().await;
        let everything = self.objects.everything();
        assert!(task.expires_at.is_some(), "{context}: {task:?}");
        match task.status {
            TaskStatus::Success => {
                let image = image.expect(context);
                assert_eq!(task.result, Some(json!({"image_id": image.id})), "{context}");
                self.check_image(&image, stored, context);
                let key = image.id.object_key(task.id);
                let mut expected = vec![format!("images/{key}")];
                // A file that is a disk has its allocation map beside it, once it has been hashed.
                let format = image.disk_format.as_deref().and_then(Format::from_name).expect(context);
                let mapped = everything.iter().any(|name| name.ends_with(".allocation"));
                if format.is_verbatim() && (mapped || !self.may_lack_hashes) {
                    expected.push(format!("images/{key}.allocation"));
                    let map = self.objects.bytes("images", &format!("{key}.allocation")).expect(context);
                    let converted = task.input["import_from_format"].as_str().and_then(Format::from_name);
                    let scanned = converted.is_some_and(Format::is_verbatim);
                    check_map(&AllocationMap::decode(&map).unwrap(), stored, scanned, context);
                }
                assert_eq!(everything, expected, "{context}");
            }
            TaskStatus::Failure => {
                assert_eq!(everything, Vec::<String>::new(), "{context}: {}", task.message);
                assert!(image.is_none(), "{context}");
                let (code, sentence) = task.message.split_once(": ").expect(context);
                assert!(
                    FailureCode::from_name(code).is_some() && sentence.len() > 10,
                    "{context}: {}",
                    task.message
                );
            }
            TaskStatus::Pending | TaskStatus::Processing => panic!("{context}: {task:?}"),
        }
        task.status
    }

    fn check_image(&self, image: &Image, stored: &[u8], context: &str) {
        let bytes = self.objects.bytes("images", &image.id.object_key(self.id)).expect(context);
        assert!(bytes == stored, "{context}: other bytes are stored");
        assert_eq!(image.status, ImageStatus::Active, "{context}");
        assert_eq!(image.owner, "demo");
        assert_eq!(image.size, Some(stored.len() as u64));
        let hashes = (&image.checksum, &image.os_hash_algo, &image.os_hash_value);
        if !self.may_lack_hashes || hashes != (&None, &None, &None) {
            assert_eq!(image.checksum, Some(hex(&md5::Md5::digest(stored))), "{context}");
            assert_eq!(image.os_hash_algo.as_deref(), Some("sha512"));
            assert_eq!(image.os_hash_value, Some(hex(&sha2::Sha512::digest(stored))), "{context}");
        }
        let stored = image.stored.as_ref().expect(context);
        assert_eq!(Some(&stored.etag), self.objects.etag("images", &image.id.object_key(self.id)).as_ref());
    }
}

/// The stores as the engine has them.
pub(crate) fn flow_stores(
    stores: &Arc<Stores>,
    objects: &Arc<MemoryObjects>,
    clock: &Arc<ManualClock>,
    settings: &Settings,
) -> image_tasks_flows::Stores {
    image_tasks_flows::Stores {
        tasks: stores.clone(),
        progress: Reporter::new(stores.clone()),
        images: stores.clone(),
        life: stores.clone(),
        objects: objects.clone(),
        clock: clock.clone(),
        settings: settings.clone(),
    }
}

/// What a map calls zeros is; if it was made from the bytes, all else is data.
fn check_map(map: &AllocationMap, stored: &[u8], scanned: bool, context: &str) {
    assert_eq!(map.virtual_size(), stored.len() as u64, "{context}");
    for (n, cluster) in stored.chunks(65_536).enumerate() {
        let start = n as u64 * 65_536;
        let told = map.is_zero(start..start + cluster.len() as u64);
        let zeros = cluster.iter().all(|b| *b == 0);
        assert!(if scanned { told == zeros } else { zeros || !told }, "{context}: at {start}");
    }
}

/// Tokio's paused clock stands while a thread unpacks or hashes; waits elsewhere must end all the same.
pub(crate) async fn ticking<T>(work: impl Future<Output = T>) -> T {
    let mut ticks = ticks();
    let ticking = async {
        while ticks.recv().await.is_some() {
            tokio::time::advance(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        // After the clock was moved, timers must see it before work goes on.
        biased;
        done = work => done,
        () = ticking => panic!("the ticks have ended"),
    }
}

/// A tick each millisecond, until it is dropped.
fn ticks() -> tokio::sync::mpsc::Receiver<()> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        while send.blocking_send(()).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    receive
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that compress neither to nothing nor not at all, and never look like a format.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|n| {
            if n % 64 == 0 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
            }
            state.to_le_bytes()[n % 8] | 1
        })
        .collect()
}
