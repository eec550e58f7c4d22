//! The one engine of all transfers: the phases of a task, in order, each of which may be repeated.
//!
//! Goal: phases that may run twice at once, or die at any point, and still end in one of two ways: the product is whole and
//! the task a success, or the task is a failure and nothing is left.
//!
//! | phase | what it does | answers |
//! |---|---|---|
//! | plan | begins the task, looks at the source, saves the plan; a small object is made here from start to end | done, stage, round, next |
//! | stage | spools a source that can't be read by range | plan |
//! | round | makes pieces of the object, or hashes chunks of it, until the time is up | what remains |
//! | next | what the sink asks for once all pieces are made: seal, judge, hash, publish | done, round, next |
//!
//! Invariants:
//! - Whatever the sink: what is published was judged.
//! - A task that is cancelled is never a success: publishing demands that it isn't marked, and every phase looks.
//! - Whoever finds the task ended removes what it can have made itself.

mod finish;
mod hashing;
mod whole;

use image_tasks_domain::progress::{Report, Step};
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, FailureCode, Task, TaskId, TaskStatus, Unsettled};
use serde_json::{Value, json};

use crate::deadline::Deadline;
use crate::error::{Flow, Stop, internal};
use crate::events::{Event, Next, Phase, Remaining, Round, RoundItem};
use crate::job::{Draft, Hashing, Job, Plan, Saved};
use crate::recipe::{Site, at_once};
use crate::rounds::make;
use crate::sink::Sink;
use crate::sink::upload::Upload;
use crate::stores::Stores;
use crate::tasks::{Clones, Exports, Imports, TaskKind};
use crate::undo::Undo;

/// Runs the phases of one kind of task.
pub struct Engine {
    pub(crate) stores: Stores,
    kind: Box<dyn TaskKind>,
}

/// What became of a task while a call was at it.
enum Found {
    /// It has ended, and nothing is left of what this call may have made.
    Ended,
    /// It is at work still: another call has made what this one was making, or is about to.
    AtWork(Box<Task>),
}

impl Engine {
    /// Imports.
    pub fn imports(stores: Stores, kind: Imports) -> Self {
        Self { stores, kind: Box::new(kind) }
    }

    /// Exports.
    pub fn exports(stores: Stores, kind: Exports) -> Self {
        Self { stores, kind: Box::new(kind) }
    }

    /// Clones.
    pub fn clones(stores: Stores, kind: Clones) -> Self {
        Self { stores, kind: Box::new(kind) }
    }

    /// Runs the phase that an event asks for; the answer as the state machine expects it.
    ///
    /// # Errors
    /// A failure whose code the state machine acts on.
    pub async fn handle(&self, event: Event, deadline: Deadline) -> Result<Value, Failure> {
        let id = event.task_id;
        let answer = self.answer(event, deadline).await;
        self.stores.tell_rest(id).await;
        answer
    }

    async fn answer(
        &self,
        Event { task_id: id, phase }: Event,
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        let answer = match phase {
            Phase::Plan => serde_json::to_value(self.ended(id, self.plan(id, deadline).await).await?),
            Phase::Stage => serde_json::to_value(self.ended(id, self.stage(id, deadline).await).await?),
            Phase::Next => serde_json::to_value(self.ended(id, self.next(id, deadline).await).await?),
            Phase::Round { item } => {
                let made = self.round_ended(id, self.round(id, item, deadline).await).await?;
                let remaining = made.map(|pieces| RoundItem { pieces, ..item });
                serde_json::to_value(Remaining { remaining })
            }
        };
        answer.map_err(internal)
    }

    /// The answer of a phase, or, where the task has ended, what then comes next.
    async fn ended(&self, id: TaskId, phase: Flow<Next>) -> Result<Next, Failure> {
        let stop = match phase {
            Ok(next) => return Ok(next),
            Err(stop) => stop,
        };
        match self.stopped(id, stop).await? {
            // A call beside this one may have ended the task, and left the hashes to be made.
            Found::Ended => match self.hashes_due(id).await.map_err(Stop::into_failure)? {
                Some(_) => Ok(Next::Next),
                None => Ok(Next::Done),
            },
            Found::AtWork(_) => Err(Failure::transient("what the task was making is gone")),
        }
    }

    /// The same for a round: once the object is there, nothing remains.
    async fn round_ended(&self, id: TaskId, round: Flow<Option<Batch>>) -> Result<Option<Batch>, Failure> {
        let stop = match round {
            Ok(remaining) => return Ok(remaining),
            Err(stop) => stop,
        };
        match self.stopped(id, stop).await? {
            Found::Ended => Ok(None),
            Found::AtWork(task) => {
                let made = async { self.kind.job(&self.stores, *task).await?.sink.made().await };
                match made.await.map_err(Stop::into_failure)? {
                    Some(_) => Ok(None),
                    None => Err(Failure::transient("what the task was making is gone")),
                }
            }
        }
    }

    /// The failure of a phase; where there is none, what became of the task.
    async fn stopped(&self, id: TaskId, stop: Stop) -> Result<Found, Failure> {
        let found = match stop {
            Stop::Ended => self.settle(id).await,
            // What it lacked may be what the task's end removed, after which it has made something itself.
            _ if self.has_ended(id).await => self.settle(id).await,
            stop => Err(stop),
        };
        found.map_err(|stop| {
            let failure = match stop {
                Stop::Ended => internal("what an ended task left can't be removed"),
                Stop::Failed(failure) | Stop::Store(failure) => failure,
            };
            tracing::info!(task_id = %id, code = %failure.code, reason = failure.message, "phase failed");
            failure
        })
    }

    async fn has_ended(&self, id: TaskId) -> bool {
        matches!(self.stores.tasks.get(id).await, Ok(Some(task)) if task.status.is_end())
    }

    async fn settle(&self, id: TaskId) -> Flow<Found> {
        let Some(task) = self.stores.tasks.get(id).await? else {
            return self.undo().work(id).await.map(|()| Found::Ended);
        };
        match (task.status, task.unsettled) {
            // What is still to be hashed needs its plan; whoever has hashed it cleans up.
            (TaskStatus::Success, Some(Unsettled::Hashing { .. })) => {}
            (TaskStatus::Success, _) => self.undo().succeeded(&task).await?,
            (TaskStatus::Failure, _) => self.undo().failed(&task).await?,
            (TaskStatus::Pending | TaskStatus::Processing, _) => {
                return match task.cancellation() {
                    Some(failure) => Err(failure.into()),
                    None => Ok(Found::AtWork(Box::new(task))),
                };
            }
        }
        Ok(Found::Ended)
    }

    fn undo(&self) -> Undo<'_> {
        Undo { stores: &self.stores, exports: self.kind.exports() }
    }

    fn site<'a>(&'a self, job: &'a Job, plan: &'a Plan) -> Site<'a> {
        Site { stores: &self.stores, kind: &*self.kind, job, origin: &plan.origin }
    }

    /// The task as a job, moved to `processing` if it is pending; and whether this call moved it.
    async fn begun(&self, id: TaskId) -> Flow<(Job, bool)> {
        // Twice: the first write may be lost to a call that runs at the same time.
        let mut tried = false;
        loop {
            let mut task = self.stores.unended(id).await?;
            if task.status == TaskStatus::Processing {
                return Ok((self.kind.job(&self.stores, task).await?, false));
            }
            match self.kind.begin(&self.stores, &task).await {
                Ok(image) => {
                    task.image_id = Some(image);
                    return Ok((self.kind.job(&self.stores, task).await?, true));
                }
                Err(Stop::Ended) if tried => return Err(self.kind.not_begun(&task)),
                Err(Stop::Ended) => tried = true,
                Err(stop) => return Err(stop),
            }
        }
    }

    /// The task, if it is at work.
    async fn at_work(&self, id: TaskId) -> Flow<Job> {
        let task = self.stores.unended(id).await?;
        self.kind.job(&self.stores, task).await
    }

    /// Begins a task, or finds how far it is, and says what comes next.
    async fn plan(&self, id: TaskId, deadline: Deadline) -> Flow<Next> {
        let (job, is_new) = self.begun(id).await?;
        let planned = self.planned(&job, is_new, deadline).await;
        planned.map_err(|stop| job.blame(stop))
    }

    async fn planned(&self, job: &Job, is_new: bool, deadline: Deadline) -> Flow<Next> {
        let id = job.id();
        // Nobody can have saved anything for a task that has just begun.
        let Saved { plan, order, spooled } =
            if is_new { Saved::default() } else { self.stores.saved(id).await? };
        if let Some(plan) = plan {
            return self.follow(job, &plan, deadline).await;
        }
        if order.is_some() && spooled.is_none() {
            return Ok(Next::Stage);
        }
        let draft = tokio::select! {
            // What is done is not thrown away because the time is up at that moment too.
            biased;
            draft = self.kind.draft(&self.stores, job, spooled) => draft?,
            () = deadline.reached() => return Err(job.too_slow("what was asked of it")),
        };
        match draft {
            Draft::Spool(order) => {
                let total = order.info.size.unwrap_or(0);
                self.stores.save_once(&self.stores.settings.spool_order(id), &*order).await?;
                self.expect_staged(id, total).await?;
                Ok(Next::Stage)
            }
            Draft::Same(image) => {
                let result = json!({"image_id": image});
                let (ttl, now) = (self.stores.settings.task_ttl, self.stores.clock.now());
                self.stores.life.succeed_alone(id, &result, ttl, now).await?;
                Ok(Next::Done)
            }
            Draft::Plan(plan) => {
                let plan = self.saved_first(job, *plan).await?;
                self.follow(job, &plan, deadline).await
            }
        }
    }

    /// Saves a plan with its upload. Where a call beside this one has saved another, that one counts, and the upload of this
    /// one is given up.
    async fn saved_first(&self, job: &Job, mut plan: Plan) -> Flow<Plan> {
        let store = job.sink.beginning(&plan.metadata);
        if !plan.one_call {
            let upload = store.create_upload(job.sink.at()).await;
            plan.upload = Some(upload.map_err(|e| job.sink.refused(e))?);
        }
        // Where the answer is lost, nobody knows here whether the plan and so the upload counts: both stay until the task's end.
        let Some(first) = self.stores.save_once(&self.stores.settings.plan(job.id()), &plan).await? else {
            return Ok(plan);
        };
        if let Some(upload) = &plan.upload {
            store.abort(job.sink.at(), upload).await?;
        }
        Ok(first)
    }

    /// Does what a plan says, as far as it is the first phase's.
    async fn follow(&self, job: &Job, plan: &Plan, deadline: Deadline) -> Flow<Next> {
        let site = self.site(job, plan);
        if plan.one_call {
            if let Sink::Bucket(_) = &job.sink {
                self.judge_output(&site, plan).await?;
            }
            let seen = tokio::select! {
                seen = self.make_whole(&site, plan) => seen?,
                () = deadline.reached() => return Err(job.too_slow("the image")),
            };
            return self.finish(&site, plan, seen, deadline).await;
        }
        let (pieces, bytes) = plan.recipe.pieces(&site).await?;
        let to_hash = match (&job.sink, &plan.hashing) {
            (Sink::Image(_), Hashing::First(_)) => plan.recipe.most_bytes(),
            _ => 0,
        };
        // A plan was saved, and an upload begun.
        self.stores.unended(job.id()).await?;
        let totals = Report::default().with_total(Step::Copied, bytes).with_total(Step::Hashed, to_hash);
        self.stores.expect(job.id(), &totals).await;
        Ok(Round::Move.of(pieces))
    }

    /// How much there is to spool. Called after a save: where the task has ended meanwhile, this stops, and what was saved is
    /// removed.
    async fn expect_staged(&self, id: TaskId, total: u64) -> Flow<()> {
        self.stores.unended(id).await?;
        let total = Report::default().with_staging().with_total(Step::Staged, total);
        self.stores.expect(id, &total).await;
        Ok(())
    }

    /// Spools the source.
    async fn stage(&self, id: TaskId, deadline: Deadline) -> Flow<Next> {
        let job = self.at_work(id).await?;
        let order = match self.stores.saved(id).await? {
            Saved { plan: None, spooled: None, order: Some(order) } => order,
            // An earlier call did it.
            Saved { plan: Some(_), .. } | Saved { spooled: Some(_), .. } => return Ok(Next::Plan),
            Saved { .. } => return Err(Stop::Ended),
        };
        let remote = self.kind.remote().ok_or_else(|| Stop::internal("no source here is spooled"))?;
        let (spooled, came) = tokio::select! {
            spooled = remote.spool(&self.stores, &job, job.remote()?, order) => spooled?,
            () = deadline.reached() => {
                return Err(Stop::failed(
                    FailureCode::SourceTooSlow,
                    "the source can't be read by range or is compressed, and did not arrive in the time of one call",
                ));
            }
        };
        self.stores.save_once(&self.stores.settings.spooled(id), &spooled).await?;
        self.expect_staged(id, came).await?;
        Ok(Next::Plan)
    }

    /// Makes pieces of a batch; what is left when the time is up.
    async fn round(&self, id: TaskId, item: RoundItem, deadline: Deadline) -> Flow<Option<Batch>> {
        if let RoundItem { round: Round::Hash, pieces } = item {
            return self.hash_round(id, pieces, deadline).await;
        }
        let job = &self.at_work(id).await?;
        let plan = self.stores.plan(id).await?.ok_or(Stop::Ended)?;
        let upload = plan.upload.as_ref().ok_or_else(|| Stop::internal("a round without an upload"))?;
        let upload = Upload { sink: &job.sink, id: upload };
        let site = &self.site(job, &plan);
        let made = async {
            let work = plan.recipe.work(site, item.round).await?;
            let left = work.left(upload, item.pieces).await?;
            if left.is_empty() {
                return Ok(None);
            }
            let maker = &plan.recipe.maker(site, work).await?;
            let piece = |number| async move {
                let (made, bytes) = maker.make(site, upload, number, deadline).await?;
                if item.round == Round::Move {
                    self.stores.advance(id, Step::Copied, bytes).await?;
                }
                Ok(made)
            };
            // Others may have got what this call waited for.
            let idle = async || match self.stores.has_moved(id).await {
                true => Ok(()),
                false => Err(job.too_slow("a single part")),
            };
            let left = make(left, at_once(maker), deadline, piece, idle).await?;
            // Pieces were saved.
            self.stores.unended(id).await.map(|_| left)
        };
        made.await.map_err(|stop| job.blame(stop))
    }

    /// What comes once all pieces are made.
    async fn next(&self, id: TaskId, deadline: Deadline) -> Flow<Next> {
        let job = match self.at_work(id).await {
            Err(Stop::Ended) => {
                let (task, plan) = self.hashes_due(id).await?.ok_or(Stop::Ended)?;
                return self.add_hashes(&task, plan, deadline).await;
            }
            job => job?,
        };
        let plan = self.stores.plan(id).await?.ok_or(Stop::Ended)?;
        let finished = self.finish(&self.site(&job, &plan), &plan, None, deadline).await;
        finished.map_err(|stop| job.blame(stop))
    }
}
