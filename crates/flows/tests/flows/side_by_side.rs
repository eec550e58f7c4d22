//! A phase that runs twice at the same time, as after a timeout whose first invocation lives on.

use serde_json::Value;

use crate::faults::Hold;
use crate::lifecycle::{phase, raw, steps};
use crate::sources::Script;
use crate::world::{CUT, World, pattern, ticking};

/// A world in which the first of these steps have been done.
async fn after(steps: &[Value]) -> World {
    let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
    for step in steps {
        phase(&world, step.clone()).await.unwrap();
    }
    world
}

#[tokio::test(start_paused = true)]
async fn each_phase_can_stand_at_each_of_its_calls_while_the_same_phase_runs_through() {
    let steps = steps();
    for (n, step) in steps.iter().enumerate() {
        for hold in [Hold::Before, Hold::After] {
            let mut places = 0;
            loop {
                let world = after(&steps[..n]).await;
                let (first, second) = (phase(&world, step.clone()), phase(&world, step.clone()));
                let both = world.faults.side_by_side(hold(places), first, second);
                if ticking(both).await.is_none() {
                    break;
                }
                places += 1;
            }
            let world = after(&steps[..n]).await;
            let before = world.faults.calls();
            phase(&world, step.clone()).await.unwrap();
            assert_eq!(places, world.faults.calls() - before, "{step}: each call is a place to stand");
        }
    }
}
