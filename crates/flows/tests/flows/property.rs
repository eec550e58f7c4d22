//! Any size, cut in any way, from any kind of source: what is stored is what was there.

use std::sync::atomic::AtomicU64;

use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::{Cut, Relay};
use proptest::prelude::*;
use serde_json::json;

use crate::import::{gzip, xz, zstd};
use crate::sources::Script;
use crate::world::{World, pattern};

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn stored_bytes_equal_the_sources(
        len in 1usize..20_000,
        part in 1u64..4000,
        stage_part in 1usize..4000,
        single_below in prop_oneof![Just(0u64), 1u64..30_000],
        ranges: bool,
        sized: bool,
        packing in 0..4,
        breaks in 0u64..4,
        twice: bool,
        relayed: bool,
        chunk in 1000u64..8000,
        workers in 1u32..5,
    ) {
        // Parts in the thousands say nothing more.
        let part = part.max(len as u64 / 200);
        let stage_part = stage_part.max(len / 200);
        let stored = pattern(len);
        let source = match packing {
            0 => gzip(&stored),
            1 => xz(&stored),
            2 => zstd(&stored),
            _ => stored.clone(),
        };
        let script = Script { ranges, sized, breaks: AtomicU64::new(breaks), ..Script::of(source) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let status = runtime.block_on(async {
            let cut = Cut { single_below, part, stage_part, ..crate::world::CUT };
            let mut world = World::new(script, json!({"import_from_format": "raw"}), cut).await;
            world.twice = twice;
            let inline = if relayed { 0 } else { u64::MAX };
            world.policy.relay = Relay { inline, chunk, workers };
            world.run().await;
            world.check_ended(&stored, "any").await
        });
        prop_assert_eq!(status, TaskStatus::Success);
    }
}
