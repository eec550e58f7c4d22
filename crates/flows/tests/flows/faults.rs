//! Calls of any port that go wrong, are held, or are answered late.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use image_tasks_domain::ports::StoreError;
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::ObjectError;
use tokio::sync::Notify;

use crate::simulation::{Chaos, Mutation};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The call says that it may be tried again.
    Transient,
    /// The call says that it never will work.
    Fatal,
    /// Another write to the name comes between; any other call says that it may be tried again.
    Conflict,
    /// A bucket is in another region; any other call never will work.
    Elsewhere,
    /// The invocation that made the call dies.
    Crash,
}

/// Which call goes wrong, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub call: u64,
    /// The call takes effect, and only its answer is lost.
    pub after: bool,
    pub kind: Kind,
}

/// Counts calls, breaks one, and holds others up.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    calls: AtomicU64,
    fault: Mutex<Option<Fault>>,
    /// For calls that an invocation makes from a task of their own.
    crash: Notify,
    gates: Mutex<Vec<(Hold, Arc<Gate>)>>,
    /// In a simulation, what all calls meet.
    pub(crate) chaos: OnceLock<Arc<Chaos>>,
}

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Before it takes effect.
    Before(u64),
    /// With its answer: the effect is there.
    After(u64),
}

/// A call that waits.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    reached: Notify,
    open: Notify,
}

impl Gate {
    /// Returns once the call is there.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.open.notify_one();
    }
}

tokio::task_local! {
    /// Ends the invocation that makes the call, and none beside it.
    pub(crate) static DIES: Arc<Notify>;
}

/// Ends the invocation that waits for this.
pub(crate) async fn die() {
    DIES.with(|dies| dies.notify_one());
    pending::<()>().await;
}

/// What is behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    DynamoDb,
    S3,
    Source,
}

/// How a port says what a fault is.
pub(crate) trait Told {
    const SERVICE: Service;
    fn told(kind: Kind) -> Self;
}

impl Told for StoreError {
    const SERVICE: Service = Service::DynamoDb;
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient | Kind::Conflict => Self::Unavailable("made unreachable".into()),
            Kind::Fatal | Kind::Elsewhere | Kind::Crash => Self::Fault("made faulty".into()),
        }
    }
}

impl Told for ObjectError {
    const SERVICE: Service = Service::S3;
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient => Self::Transient("made unreachable".into()),
            Kind::Conflict => Self::Conflict("made to meet another write".into()),
            Kind::Elsewhere => Self::Elsewhere("made to be elsewhere".into()),
            Kind::Fatal | Kind::Crash => Self::Denied("made forbidden".into()),
        }
    }
}

impl Told for Failure {
    const SERVICE: Service = Service::Source;
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient | Kind::Conflict => Self::transient("made unreachable"),
            Kind::Fatal | Kind::Elsewhere | Kind::Crash => {
                Self::new(FailureCode::SourceDenied, "made forbidden")
            }
        }
    }
}

impl Faults {
    pub(crate) fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Makes that call wait before it takes effect.
    pub(crate) fn stop_at(&self, call: u64) -> Arc<Gate> {
        self.hold(Hold::Before(call))
    }

    /// Makes a call wait; beside others that wait already.
    pub(crate) fn hold(&self, at: Hold) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.gates.lock().unwrap().push((at, Arc::clone(&gate)));
        gate
    }

    async fn pass(&self, at: Hold) {
        let gate = {
            let mut gates = self.gates.lock().unwrap();
            gates.iter().position(|(held, _)| *held == at).map(|n| gates.swap_remove(n).1)
        };
        if let Some(gate) = gate {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
    }

    /// Runs two at once. The first stands at that one of its calls, counted from 0, until the second has ended.
    /// `None` if the first makes no such call: the second has not been begun then. For the reverse, swap them.
    pub(crate) async fn side_by_side<A, B>(
        &self,
        at: Hold,
        first: impl Future<Output = A>,
        second: impl Future<Output = B>,
    ) -> Option<(A, B)> {
        let gate = self.hold(match at {
            Hold::Before(call) => Hold::Before(self.calls() + call),
            Hold::After(call) => Hold::After(self.calls() + call),
        });
        let mut first = std::pin::pin!(first);
        tokio::select! {
            biased;
            _ = &mut first => {
                self.gates.lock().unwrap().retain(|(_, held)| !Arc::ptr_eq(held, &gate));
                return None;
            }
            () = gate.reached() => {}
        }
        let passing = async {
            let second = second.await;
            gate.open();
            second
        };
        Some(tokio::join!(first, passing))
    }

    /// Counts from here on.
    pub(crate) fn reset(&self) {
        self.calls.store(0, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether the fault that was set is still to come.
    pub(crate) fn is_pending(&self) -> bool {
        self.fault.lock().unwrap().is_some()
    }

    pub(crate) async fn around<T, E: Told>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        if let Some(chaos) = self.chaos.get() {
            return chaos.around(call).await;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        self.pass(Hold::Before(number)).await;
        let hit = self.fault.lock().unwrap().take_if(|fault| fault.call == number);
        let Some(fault) = hit else {
            let answer = call.await;
            self.pass(Hold::After(number)).await;
            return answer;
        };
        if fault.after {
            let _ = call.await;
        }
        if fault.kind == Kind::Crash {
            if DIES.try_with(|dies| dies.notify_one()).is_err() {
                self.crash.notify_one();
            }
            pending::<()>().await;
        }
        Err(E::told(fault.kind))
    }

    /// Whether the stores are broken so, on purpose.
    pub(crate) fn broken(&self, mutation: Mutation) -> bool {
        self.chaos.get().is_some_and(|chaos| chaos.mutation == Some(mutation))
    }

    /// Runs an invocation; `None` where it died.
    pub(crate) async fn invoke<T>(&self, invocation: impl Future<Output = T>) -> Option<T> {
        let dies = Arc::new(Notify::new());
        tokio::select! {
            biased;
            () = self.crash.notified() => None,
            () = dies.notified() => None,
            done = DIES.scope(Arc::clone(&dies), invocation) => Some(done),
        }
    }
}
