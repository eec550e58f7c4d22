//! What a seed means: a case, and what goes wrong in it at which calls.
//!
//! All of it is a list that is made before the run, so that a run that fails is made smaller by leaving entries out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::faults::{Kind, Service};

/// Numbers from a seed, by SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn seconds(&mut self, all: &[u64]) -> Duration {
        Duration::from_secs(self.of(all))
    }
}

/// What happens at a call of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtCall {
    /// It has no effect and fails.
    Fails(Kind),
    /// It takes effect, and its answer is lost.
    Loses,
    /// The invocation dies, before its effect or behind it.
    Dies { after: bool },
    /// The state machine is told that the invocation was lost. It lives on, stands here for so long, and goes on then.
    Lingers { after: bool, time: Duration },
    /// It takes so long.
    Slow(Duration),
    /// It and so many behind it fail, whoever makes them.
    Storm(u64),
    /// A user cancels the task.
    Cancelled,
    /// An operator stops the execution.
    Stopped,
    /// Somebody else writes an object of the name that an export makes.
    Written,
}

/// What happens at an invocation of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtInvocation {
    /// It and so many behind it are throttled.
    Throttled(u64),
    /// Lambda can't begin it.
    Unreached,
    /// It is made, and its answer is lost.
    Loses,
    /// It is made twice, the second one that much later.
    Twice(Duration),
    /// The function is of another version than the machine.
    OtherVersion,
}

/// What happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Once {
    /// The POST is never repeated after its process died: there is no execution.
    StartLost,
    /// EventBridge doesn't tell of the execution's end.
    EventLost,
    /// It tells twice, the second time that much later.
    EventTwice(Duration),
    /// The schedule fails for so long.
    SweepsLost(Duration),
    /// So many invocations run side by side; more are throttled.
    Quota(u64),
    /// Tasks expire that soon after their end.
    ExpiresSoon,
    /// Who fails the task has read it so long before.
    SlowFailures(Duration),
    /// A partition of DynamoDB, or a prefix of S3, takes so many calls a second; more are refused for now.
    Slows(Service, u64),
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Call(u64, AtCall),
    Invocation(u64, AtInvocation),
    Once(Once),
}

impl Event {
    /// Whether a task must succeed that meets nothing but one of these.
    fn passes(self) -> bool {
        match self {
            Self::Call(_, at) => match at {
                AtCall::Fails(kind) => kind == Kind::Transient,
                AtCall::Loses | AtCall::Dies { .. } | AtCall::Lingers { .. } => true,
                // What takes nearly all of a call's time is too slow.
                AtCall::Slow(time) => time.as_secs() <= 600,
                AtCall::Storm(_) | AtCall::Cancelled | AtCall::Stopped | AtCall::Written => false,
            },
            Self::Invocation(_, at) => match at {
                AtInvocation::Throttled(_)
                | AtInvocation::Unreached
                | AtInvocation::Loses
                | AtInvocation::Twice(_) => true,
                AtInvocation::OtherVersion => false,
            },
            Self::Once(_) => true,
        }
    }

    /// What it is, without where and how long.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Call(_, at) => match at {
                AtCall::Fails(Kind::Transient) => "fails for now",
                AtCall::Fails(Kind::Fatal) => "is denied",
                AtCall::Fails(Kind::Conflict) => "meets another write",
                AtCall::Fails(Kind::Elsewhere) => "is told another region",
                AtCall::Fails(Kind::Crash) => "is faulty",
                AtCall::Loses => "loses its answer",
                AtCall::Dies { after: false } => "dies before",
                AtCall::Dies { after: true } => "dies behind",
                AtCall::Lingers { after: false, .. } => "comes late with its effect",
                AtCall::Lingers { after: true, .. } => "comes late behind its effect",
                AtCall::Slow(_) => "is slow",
                AtCall::Storm(_) => "fails with all behind it",
                AtCall::Cancelled => "is cancelled",
                AtCall::Stopped => "is stopped",
                AtCall::Written => "finds its name taken",
            },
            Self::Invocation(_, at) => match at {
                AtInvocation::Throttled(_) => "is throttled",
                AtInvocation::Unreached => "isn't begun",
                AtInvocation::Loses => "loses the invocation's answer",
                AtInvocation::Twice(_) => "is invoked twice",
                AtInvocation::OtherVersion => "meets another version",
            },
            Self::Once(once) => match once {
                Once::StartLost => "is never started",
                Once::EventLost => "EventBridge is silent",
                Once::EventTwice(_) => "EventBridge tells twice",
                Once::SweepsLost(_) => "the schedule fails",
                Once::Quota(_) => "the quota is small",
                Once::ExpiresSoon => "expires soon",
                Once::SlowFailures(_) => "is failed late",
                Once::Slows(Service::S3, _) => "S3 slows down",
                Once::Slows(Service::DynamoDb | Service::Source, _) => "DynamoDB throttles",
            },
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// The place of its case among all.
    pub(crate) case: usize,
    /// With their places among those that the seed gave.
    pub(crate) events: Vec<(usize, Event)>,
}

/// How a run is repeated: the seed, and what is kept of its events.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<_> = self.events.iter().map(|(n, _)| n.to_string()).collect();
        write!(f, "{}:{}", self.seed, kept.join(","))
    }
}

const SHORT: &[u64] = &[0, 1, 5, 20];
const LONG: &[u64] = &[1, 10, 60, 200, 600, 880];

impl Script {
    /// What a seed gives, of cases that make so many calls and come so often.
    pub(crate) fn of(seed: u64, cases: &[(u64, u64)]) -> Self {
        let mut random = Random::new(seed);
        let mut turn = random.below(cases.iter().map(|(_, often)| often).sum());
        let case = cases.iter().position(|(_, often)| {
            let is_it = turn < *often;
            turn = turn.saturating_sub(*often);
            is_it
        });
        let case = case.unwrap();
        // The end of the task and its cleaning follow the case's own calls.
        let calls = cases[case].0 * 5 / 4 + 20;
        let many = random.of(&[1, 1, 1, 2, 2, 3, 4, 6]);
        let events = (0..many).map(|n| (n, Self::event(&mut random, calls))).collect();
        Self { seed, case, events }
    }

    fn event(random: &mut Random, calls: u64) -> Event {
        let call = random.below(calls);
        let after = random.below(2) == 1;
        match random.below(21) {
            0..2 => Event::Call(call, AtCall::Fails(Kind::Transient)),
            2 => {
                let kinds = [Kind::Fatal, Kind::Conflict, Kind::Elsewhere, Kind::Crash];
                Event::Call(call, AtCall::Fails(random.of(&kinds)))
            }
            3..5 => Event::Call(call, AtCall::Loses),
            5..7 => Event::Call(call, AtCall::Dies { after }),
            7..10 => Event::Call(call, AtCall::Lingers { after, time: random.seconds(LONG) }),
            10 => Event::Call(call, AtCall::Slow(random.seconds(LONG))),
            11 => Event::Call(call, AtCall::Storm(random.of(&[3, 10, 40]))),
            12..14 => Event::Call(call, AtCall::Cancelled),
            14 => Event::Call(call, AtCall::Stopped),
            15..18 => {
                let at = match random.below(9) {
                    0..2 => AtInvocation::Throttled(random.of(&[1, 4, 8, 30])),
                    2 => AtInvocation::Unreached,
                    3..5 => AtInvocation::Loses,
                    5..8 => AtInvocation::Twice(random.seconds(SHORT)),
                    _ => AtInvocation::OtherVersion,
                };
                Event::Invocation(random.below(9), at)
            }
            18 => Event::Call(call, AtCall::Written),
            _ => Event::Once(match random.below(10) {
                0 => Once::StartLost,
                1..3 => Once::EventLost,
                3 => Once::EventTwice(random.seconds(LONG)),
                4 => Once::SweepsLost(Duration::from_secs(3600)),
                5 => Once::Quota(random.of(&[1, 2, 10])),
                6 => Once::ExpiresSoon,
                7 => Once::SlowFailures(random.seconds(&[1, 10, 60])),
                _ => Once::Slows(random.of(&[Service::DynamoDb, Service::S3]), random.of(&[10, 30])),
            }),
        }
    }

    /// The same with these events of it.
    pub(crate) fn with(&self, kept: &[usize]) -> Self {
        let events = self.events.iter().filter(|(n, _)| kept.contains(n)).copied().collect();
        Self { events, ..self.clone() }
    }

    /// Whether the task must succeed: at most one thing goes wrong, and that may pass.
    pub(crate) fn must_succeed(&self) -> bool {
        self.events.len() < 2 && self.events.iter().all(|(_, event)| event.passes())
    }

    pub(crate) fn calls(&self) -> BTreeMap<u64, AtCall> {
        let at = |(_, event): &(usize, Event)| match event {
            Event::Call(n, at) => Some((*n, *at)),
            Event::Invocation(..) | Event::Once(_) => None,
        };
        self.events.iter().filter_map(at).collect()
    }

    pub(crate) fn invocations(&self) -> BTreeMap<u64, AtInvocation> {
        let at = |(_, event): &(usize, Event)| match event {
            Event::Invocation(n, at) => Some((*n, *at)),
            Event::Call(..) | Event::Once(_) => None,
        };
        self.events.iter().filter_map(at).collect()
    }

    pub(crate) fn once(&self) -> impl Iterator<Item = Once> + '_ {
        self.events.iter().filter_map(|(_, event)| match event {
            Event::Once(once) => Some(*once),
            Event::Call(..) | Event::Invocation(..) => None,
        })
    }
}
