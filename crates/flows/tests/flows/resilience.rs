//! A fault at every call of every port, every phase repeated, and both: the task always ends, and nothing is left.

use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::Relay;
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::glance;
use crate::import::gzip;
use crate::sources::Script;
use crate::world::{CUT, World, pattern};

struct Scenario {
    name: &'static str,
    source: Vec<u8>,
    ranges: bool,
    input: Value,
    /// Whether the source is an image of a Glance elsewhere.
    glance: bool,
    stored: Vec<u8>,
    /// Whether the image is active before it is hashed.
    later: bool,
    relay: Relay,
    /// Without a fault.
    ends: TaskStatus,
}

fn scenarios() -> Vec<Scenario> {
    let raw = json!({"import_from_format": "raw"});
    let wrong = json!({"import_from_format": "raw", "checksum": "0".repeat(32)});
    let made = |name, len, ranges| {
        let stored = pattern(len);
        Scenario {
            name,
            source: stored.clone(),
            ranges,
            input: raw.clone(),
            glance: false,
            stored,
            later: false,
            relay: Relay::default(),
            ends: TaskStatus::Success,
        }
    };
    let relay = Relay { inline: 0, chunk: 1200, workers: 1 };
    let mut all = vec![
        Scenario { relay, ..made("relayed", 3500, true) },
        Scenario { relay, later: true, ..made("relayed later", 3500, true) },
        made("one call", 1500, true),
        made("parts", 3500, true),
        made("staged, one call", 1500, false),
        made("staged, parts", 3500, false),
        Scenario { later: true, ..made("hashed later", 3500, true) },
        Scenario { source: gzip(&pattern(3500)), ..made("unpacked", 3500, true) },
    ];
    all.extend([
        Scenario { glance: true, ..made("from a Glance, one call", 1500, true) },
        Scenario { glance: true, ..made("from a Glance, parts", 3500, true) },
        Scenario { glance: true, ..made("from a Glance, staged", 3500, false) },
        Scenario {
            input: wrong.clone(),
            ends: TaskStatus::Failure,
            ..made("refused at the end", 3500, true)
        },
        Scenario { input: wrong, ends: TaskStatus::Failure, ..made("refused while staged", 3500, false) },
        Scenario { input: json!({}), ends: TaskStatus::Failure, ..made("refused at once", 3500, true) },
    ]);
    all
}

impl Scenario {
    async fn world(&self, twice: bool) -> World {
        let script = Script { ranges: self.ranges, ..Script::of(self.source.clone()) };
        let mut world = if self.glance {
            glance::world(script, |_| {}).await
        } else {
            World::new(script, self.input.clone(), CUT).await
        };
        world.twice = twice;
        world.policy.relay = self.relay;
        if self.later {
            world.policy.hash_before_active = 0;
        }
        world
    }

    async fn with_fault(&self, twice: bool, fault: Fault) -> TaskStatus {
        let context = format!("{}, twice {twice}, {fault:?}", self.name);
        let world = self.world(twice).await;
        world.faults.set(Some(fault));
        world.run().await;
        assert!(!world.faults.is_pending(), "{context}: the fault never came");
        let status = world.check_ended(&self.stored, &context).await;
        if self.ends == TaskStatus::Failure {
            assert_eq!(status, TaskStatus::Failure, "{context}");
        }
        status
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_anywhere_leaves_nothing_behind() {
    let (mut runs, mut survived) = (0, 0);
    for scenario in scenarios() {
        for twice in [false, true] {
            let world = scenario.world(twice).await;
            world.run().await;
            let context = format!("{}, twice {twice}, no fault", scenario.name);
            assert_eq!(world.check_ended(&scenario.stored, &context).await, scenario.ends, "{context}");
            let calls = world.faults.calls();
            assert!(calls > 10, "{context}: {calls} calls");
            for call in 0..calls {
                for after in [false, true] {
                    for kind in [Kind::Transient, Kind::Fatal, Kind::Crash] {
                        runs += 1;
                        let status = scenario.with_fault(twice, Fault { call, after, kind }).await;
                        if status == TaskStatus::Success {
                            survived += 1;
                        } else if kind != Kind::Fatal && scenario.ends == TaskStatus::Success {
                            panic!("{}: {kind:?} at call {call} (after: {after}) must pass", scenario.name);
                        }
                    }
                }
            }
        }
    }
    println!("{runs} runs with a fault each, {survived} of them ended well");
    assert!(runs > 1000 && survived > runs / 3);
}
