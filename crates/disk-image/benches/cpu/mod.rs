//! CPU time of this program and of those that it ran, to a microsecond.

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};

/// CPU-seconds, user and system, that `work` takes of this process ([`UsageWho::RUSAGE_SELF`]) or of its children; and what it made.
pub(crate) fn spent<T>(who: UsageWho, work: impl FnOnce() -> T) -> (f64, T) {
    let so_far = || {
        let usage = getrusage(who).expect("a process knows its own times");
        let total: TimeVal = usage.user_time() + usage.system_time();
        total.num_microseconds()
    };
    let before = so_far();
    let made = work();
    let micros = u32::try_from(so_far() - before).expect("less than an hour");
    (f64::from(micros) / 1e6, made)
}
