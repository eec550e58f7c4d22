//! Disks stored as they are: where they hold data is found on the way, and exports leave out the rest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use disk_image::AllocationMap;
use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::{Cut, Relay};
use serde_json::json;

use crate::faults::{Fault, Kind};
use crate::import::zstd;
use crate::sources::Script;
use crate::world::{World, pattern};

const MIB: usize = 1 << 20;

/// Zeros but for a few clusters, one of them cut short by the end.
fn sparse(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, n) in [(0, 70_000), (len / 2 - 5, 10), (len - 3, 3)] {
        bytes[at..at + n].copy_from_slice(&pattern(n));
    }
    bytes
}

async fn world(script: Script, format: &str, cut: Cut) -> World {
    let mut world = World::new(script, json!({"import_from_format": format}), cut).await;
    world.policy.max_image_bytes = 1 << 30;
    world
}

async fn map(world: &World) -> Option<AllocationMap> {
    let key = format!("{}.allocation", world.image().await?.id.object_key(world.id));
    world.objects.bytes("images", &key).map(|bytes| AllocationMap::decode(&bytes).unwrap())
}

#[tokio::test(start_paused = true)]
async fn however_a_disk_comes_its_zeros_are_known() {
    let bytes = sparse(3 * MIB + 1000);
    let parts = Cut { single_below: 0, part: 500_000, stage_part: 400_000, ..crate::world::CUT };
    for (name, packed, ranges, cut) in [
        ("one call", false, true, Cut::default()),
        ("parts", false, true, parts),
        ("staged, one call", false, false, Cut::default()),
        ("staged, parts", false, false, parts),
        ("unpacked", true, true, parts),
    ] {
        for format in ["raw", "ami"] {
            let source = if packed { zstd(&bytes) } else { bytes.clone() };
            let world = world(Script { ranges, ..Script::of(source) }, format, cut).await;
            world.run().await;
            // Which holds the map against the bytes.
            assert_eq!(world.check_ended(&bytes, name).await, TaskStatus::Success, "{name}");
            let map = map(&world).await.expect(name);
            assert_eq!(map.data().len(), 3, "{name}: {:?}", map.data());
            assert!(map.data_bytes() < 4 * 65_536, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_formats_have_no_map_of_their_file() {
    let disk = crate::disks::qcow2(1 << 20, &vec![(0, pattern(1000))]);
    for ranges in [true, false] {
        let world = world(Script { ranges, ..Script::of(disk.clone()) }, "qcow2", Cut::default()).await;
        world.run().await;
        assert_eq!(world.check_ended(&disk, "qcow2").await, TaskStatus::Success);
        assert_eq!(map(&world).await, None);
    }
}

async fn relayed(bytes: &[u8], relay: Relay) -> World {
    let cut = Cut { single_below: 0, part: 16 << 20, ..Cut::default() };
    let mut world = world(Script::of(bytes.to_vec()), "raw", cut).await;
    world.objects.read_time.store(1000, Ordering::SeqCst);
    world.time = Duration::from_millis(2900);
    world.policy.relay = relay;
    world
}

/// 40 MiB in reads of 8, of which four are under way at once: one invocation has time for those of the judge, which are
/// side by side, and for these, not for the fifth. So a relay goes on, a chunk a read.
#[tokio::test(start_paused = true)]
async fn an_object_too_slow_for_one_call_is_hashed_in_a_relay() {
    let bytes = sparse(40 * MIB);
    let world = relayed(&bytes, Relay { inline: u64::MAX, chunk: 8 << 20, workers: 2 }).await;
    world.run().await;
    assert_eq!(world.check_ended(&bytes, "too slow").await, TaskStatus::Success);
    assert_eq!(map(&world).await.unwrap().data().len(), 3);
    assert_eq!(world.finishes.lock().unwrap().len(), 2, "before the relay and after");
}

#[tokio::test(start_paused = true)]
async fn the_map_goes_with_the_hashes_from_worker_to_worker_and_a_fault_anywhere_leaves_nothing_behind() {
    let bytes = sparse(600_000);
    // Chunks that end within clusters: eight of them, of which a worker has time for two or three.
    let relay = Relay { inline: 0, chunk: 80_000, workers: 2 };
    let whole = relayed(&bytes, relay).await;
    whole.run().await;
    assert_eq!(whole.check_ended(&bytes, "no fault").await, TaskStatus::Success);
    assert_eq!(map(&whole).await.unwrap().data().len(), 3);
    // What comes before is the same as in any import.
    let begun = whole.finishes.lock().unwrap()[0];
    for call in begun..whole.faults.calls() {
        for (after, kind) in [(false, Kind::Fatal), (true, Kind::Crash)] {
            let world = relayed(&bytes, relay).await;
            world.faults.set(Some(Fault { call, after, kind }));
            world.run().await;
            let context = format!("{kind:?} at call {call}, after {after}");
            let status = world.check_ended(&bytes, &context).await;
            assert!(kind == Kind::Fatal || status == TaskStatus::Success, "{context}");
        }
    }
}
