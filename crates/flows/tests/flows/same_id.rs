//! Two imports under one image id: the first is cancelled, and its worker lives on while the second makes its image.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use disk_image::AllocationMap;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::ports::{Clock as _, ExecutionStatus, ImageStore, TaskLife as _, TaskStore};
use image_tasks_domain::{Image, ImageStatus, Task, TaskId, TaskStatus, TaskType};
use image_tasks_flows::bounds::{Cut, ExportCut, Relay};
use image_tasks_flows::events::{Event, VERSION};
use image_tasks_flows::{Deadline, Engine, ExportRules, Exports};
use md5::Digest as _;
use serde_json::{Value, json};

use crate::cases::{Play, calls_after};
use crate::disks::assert_same_disk;
use crate::faults::Hold;
use crate::sources::Script;
use crate::world::{World, hex, pattern, ticking};

const ID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
const OTHER_URL: &str = "http://example.com/other";
const SIZE: usize = 200_000;
const ONE_CALL: Cut = Cut { single_below: 1 << 20, part: 70_000, stage_part: 70_000, ..crate::world::CUT };
const PARTS: Cut = Cut { single_below: 2000, part: 70_000, stage_part: 70_000, ..crate::world::CUT };

/// A way that the two imports go.
#[derive(Debug, Clone, Copy)]
struct Way {
    cut: Cut,
    ranges: bool,
    later: bool,
    relay: Relay,
}

/// Where the second one is when the first one's worker goes on.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// So many of its calls are through.
    steps: usize,
    /// And the next stands at that of its port calls.
    call: Option<u64>,
}

fn second() -> TaskId {
    TaskId("1c5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2c".parse().unwrap())
}

/// Other bytes than the first one's, with a hole where that has data.
fn others() -> Vec<u8> {
    let mut bytes: Vec<u8> = pattern(SIZE).iter().map(|b| b.wrapping_add(2)).collect();
    bytes[65_536..2 * 65_536].fill(0);
    bytes
}

impl Way {
    async fn play(self) -> Play {
        let script = Script { ranges: self.ranges, ..Script::of(pattern(SIZE)) };
        let input = json!({"import_from_format": "raw", "image_properties": {"id": ID}});
        let mut world = World::new(script, input, self.cut).await;
        let script = Script { ranges: self.ranges, ..Script::of(others()) };
        world.sources.scripts.lock().unwrap().insert(OTHER_URL.to_owned(), Arc::new(script));
        world.policy.relay = self.relay;
        if self.later {
            world.policy.hash_before_active = 0;
        }
        Play::Image(world)
    }

    /// The calls of such an import, and how many port calls each makes.
    async fn steps(self) -> Vec<(Value, u64)> {
        let play = self.play().await;
        let mut left = vec![json!({"phase": "plan"})];
        let mut steps = Vec::new();
        while let Some(event) = left.pop() {
            let before = play.faults().calls();
            let answer = play.call(&event).await.unwrap();
            left.extend(calls_after(&answer));
            steps.push((event, play.faults().calls() - before));
        }
        steps
    }
}

/// The other import is asked for.
fn post(play: &Play, owner: &str) {
    let input = json!({
        "import_from": OTHER_URL, "import_from_format": "raw", "image_properties": {"id": ID},
    });
    let task = Task::pending(TaskType::Import, owner, input, play.clock().now());
    play.store().put_task(Task { id: second(), ..task });
    play.machines().inner.set_status(second(), ExecutionStatus::Running);
}

async fn go(play: &Play, steps: &[(Value, u64)], context: &str) {
    for (event, _) in steps {
        let answer = play.called(second(), event).await;
        answer.unwrap_or_else(|e| panic!("{context}: the second's {event}: {e}"));
    }
}

/// The first stands at a place and is cancelled, the second comes to a point, the first's worker goes on to its end, and the
/// second to its own. False where the first could not be cancelled any more.
async fn run(way: Way, steps: &[(Value, u64)], (n, call): (usize, u64), point: Point, owner: &str) -> bool {
    let context = format!("{way:?}, {} at {call}, {point:?}, of {owner}", steps[n].0);
    let play = way.play().await;
    for (event, _) in &steps[..n] {
        play.called(play.id(), event).await.unwrap();
    }
    let faults = play.faults();
    let gate = faults.hold(Hold::Before(faults.calls() + call));
    let mut worker = std::pin::pin!(play.call(&steps[n].0));
    tokio::select! {
        biased;
        answer = &mut worker => panic!("{context}: {answer:?}"),
        () = gate.reached() => {}
    }
    if play.store().mark_cancelled(play.id(), "alice").await.is_err() {
        return false;
    }
    play.aborted().await;
    assert_eq!(play.task().await.status, TaskStatus::Failure, "{context}");
    post(&play, owner);
    go(&play, &steps[..point.steps], &context).await;
    if let Some(call) = point.call {
        let stands = faults.hold(Hold::Before(faults.calls() + call));
        let event = &steps[point.steps].0;
        let mut other = std::pin::pin!(play.called(second(), event));
        tokio::select! {
            biased;
            answer = &mut other => panic!("{context}: {answer:?}"),
            () = stands.reached() => {}
        }
        gate.open();
        let _ = worker.await;
        stands.open();
        other.await.unwrap_or_else(|e| panic!("{context}: {e}"));
        go(&play, &steps[point.steps + 1..], &context).await;
    } else {
        gate.open();
        let _ = worker.await;
        go(&play, &steps[point.steps..], &context).await;
    }
    play.settle().await;
    check(&play, owner, &context).await;
    true
}

async fn check(play: &Play, owner: &str, context: &str) {
    let Play::Image(world) = play else { panic!("no image") };
    let task = TaskStore::get(play.store(), second()).await.unwrap().unwrap();
    assert_eq!((task.status, task.unsettled), (TaskStatus::Success, None), "{context}: {}", task.message);
    let image: Image = ImageStore::get(play.store(), ID.parse().unwrap()).await.unwrap().expect(context);
    assert_eq!((image.status, image.owner.as_str()), (ImageStatus::Active, owner), "{context}");
    let (key, bytes) = (image.id.object_key(second()), others());
    assert_eq!(image.stored.unwrap().key, key, "{context}");
    assert!(world.objects.bytes("images", &key).expect(context) == bytes, "{context}: other bytes");
    assert_eq!(image.checksum, Some(hex(&md5::Md5::digest(&bytes))), "{context}");
    assert_eq!(image.os_hash_value, Some(hex(&sha2::Sha512::digest(&bytes))), "{context}");
    let map = world.objects.bytes("images", &format!("{key}.allocation")).expect(context);
    let map = AllocationMap::decode(&map).unwrap();
    assert!(map.is_zero(65_536..2 * 65_536) && !map.is_zero(0..1), "{context}");
    let left = [format!("images/{key}"), format!("images/{key}.allocation")];
    assert_eq!(play.objects().everything(), left, "{context}");
    let exported = exported(world, owner).await;
    assert_same_disk(&exported, "qcow2", &bytes, "raw", context);
}

/// The image as a qcow2, whose zeros are those of its map.
async fn exported(world: &World, owner: &str) -> Bytes {
    let id = TaskId("2d5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2d".parse().unwrap());
    let input = json!({"image_uuid": ID, "receiving_bucket": "exports", "compression": "none"});
    let task = Task::pending(TaskType::Export, owner, input, world.clock.now());
    world.stores.inner.put_task(Task { id, ..task });
    let receivers = ExportPolicy { buckets: [("exports".to_owned(), None)].into() };
    let rules = ExportRules { receivers, cut: ExportCut::default() };
    let engine = Engine::exports(world.flow_stores(), Exports { receivers: world.objects.clone(), rules });
    let event = Event::try_from(json!({"version": VERSION, "phase": "plan", "task_id": id})).unwrap();
    let answer = engine.handle(event, Deadline::after(Duration::from_secs(900))).await.unwrap();
    assert_eq!(answer["next"], "done", "small enough for one call");
    world.objects.bytes("exports", &format!("projects/{owner}/{ID}.qcow2")).unwrap()
}

/// Every port call of the first is a place; to each come some of the second's points, others from place to place: the
/// starts of its calls, and each port call of its last two, which seal, publish and hash.
#[tokio::test(start_paused = true)]
async fn the_second_image_is_its_own_whenever_the_first_ones_worker_goes_on() {
    let (mut tried, mut late) = (0, 0);
    let whole = Relay::default();
    let relayed = Relay { inline: 0, chunk: 70_000, workers: 1 };
    for (cut, ranges, later, relay) in [
        (ONE_CALL, true, false, whole),
        (PARTS, true, false, whole),
        (PARTS, true, true, whole),
        (PARTS, false, false, whole),
        (PARTS, true, false, relayed),
        (PARTS, true, true, relayed),
    ] {
        let way = Way { cut, ranges, later, relay };
        let steps = ticking(way.steps()).await;
        let mut points: Vec<Point> = (0..=steps.len()).map(|steps| Point { steps, call: None }).collect();
        for (n, (_, calls)) in steps.iter().enumerate().skip(steps.len().saturating_sub(2)) {
            points.extend((0..*calls).map(|call| Point { steps: n, call: Some(call) }));
        }
        let mut turn = 0;
        for (n, (_, calls)) in steps.iter().enumerate() {
            for call in 0..*calls {
                for point in points.iter().skip(turn % 5).step_by(5) {
                    let owner = if turn % 2 == 0 { "demo" } else { "other" };
                    if ticking(run(way, &steps, (n, call), *point, owner)).await {
                        tried += 1;
                    } else {
                        late += 1;
                        break;
                    }
                }
                turn += 1;
            }
        }
    }
    println!("{tried} interleavings of two imports under one id; at {late} places the first had ended");
    assert!(tried > 50);
}
