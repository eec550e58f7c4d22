//! A task: what a caller asked for, how far it is, how it ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::failure::{Failure, FailureCode};
use crate::image::{Image, ImageId, Publication};
use crate::image_import::ImageImport;
use crate::progress::Progress;
use crate::time::Timestamp;

/// A task's id: a UUID, also the name of its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = NotATaskId;

    /// Only the hyphenated form is an id: it is what we hand out.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::try_parse(text).map_err(|_| NotATaskId)?;
        if id.as_hyphenated().to_string() == text { Ok(Self(id)) } else { Err(NotATaskId) }
    }
}

/// A text that is not a lower-case hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a task id")]
pub struct NotATaskId;

/// The name of an execution: the task's id, or that and the number of a run that makes its hashes after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionName {
    /// Whose it is.
    pub task: TaskId,
    /// 0 for the task's own.
    pub run: u32,
}

impl fmt::Display for ExecutionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            0 => self.task.fmt(f),
            run => write!(f, "{}-hash-{run}", self.task),
        }
    }
}

impl FromStr for ExecutionName {
    type Err = NotATaskId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((task, run)) = text.split_once("-hash-") else {
            return Ok(Self { task: text.parse()?, run: 0 });
        };
        let run = run.parse().ok().filter(|run| *run > 0).ok_or(NotATaskId)?;
        Ok(Self { task: task.parse()?, run })
    }
}

/// From a task's end until what workers that outlived it may have made is removed once more. A call lives at most
/// 15 minutes (AWS Lambda developer guide, "Lambda quotas").
pub const CLEAN_AFTER: Duration = Duration::from_secs(20 * 60);

/// Most bytes of a failure's message. It may quote what a source or a caller wrote, and has to fit beside the input.
pub const MAX_MESSAGE: usize = 4096;

fn cut(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let most = MAX_MESSAGE - "...".len();
    let whole = message.char_indices().map(|(at, _)| at).take_while(|at| *at <= most).last().unwrap_or(0);
    format!("{}...", &message[..whole])
}

/// What is still to be done for an ended task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// What it left beside its product is removed once more at that time: a worker that outlived it may have made
    /// something since. Of a failure that is all that it made.
    Cleaning {
        /// Not before.
        after: Timestamp,
    },
    /// Its image is active, and the hashes of its bytes are still to be made.
    Hashing {
        /// Executions begun for that besides the task's own.
        executions: u32,
    },
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskType {
    /// Make an image from a source that the user names.
    Import,
    /// Write an image into a bucket that the user names.
    Export,
    /// Make an image from one of a region of this cloud.
    Clone,
    /// Bring bytes into an image's record that is there: what `POST /v2/images/{id}/import` starts.
    #[serde(rename = "api_image_import")]
    ApiImageImport,
}

impl TaskType {
    /// Every type whose flow exists; the schema's `enum`.
    pub const ALL: &'static [TaskType] = &[Self::Import, Self::Export, Self::Clone, Self::ApiImageImport];

    /// Types that `POST /v2/tasks` takes.
    pub const OFFERED: &'static [TaskType] = &[Self::Import, Self::Export, Self::Clone];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Export => "export",
            Self::Clone => "clone",
            Self::ApiImageImport => "api_image_import",
        }
    }

    /// Whether a task of this type gives its image its bytes. A record that the task made itself goes when it fails,
    /// and only while it is `importing`: a clone's may be an active one that has the same bits and was there before.
    pub const fn makes_image(self) -> bool {
        match self {
            Self::Import | Self::Clone | Self::ApiImageImport => true,
            Self::Export => false,
        }
    }

    /// Whether the record of its image was there before: where the task fails it is `queued` again.
    pub const fn fills_image(self) -> bool {
        matches!(self, Self::ApiImageImport)
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name() == name)
    }
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Accepted, not begun.
    Pending,
    /// At work.
    Processing,
    /// Ended well.
    Success,
    /// Ended otherwise; `message` says why.
    Failure,
}

impl TaskStatus {
    /// Every status; the schema's `enum`.
    pub const ALL: &'static [TaskStatus] = &[Self::Pending, Self::Processing, Self::Success, Self::Failure];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// Whether nothing may follow.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Success | Self::Failure)
    }

    /// Whether `next` may follow.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending, Self::Processing | Self::Failure)
                | (Self::Processing, Self::Success | Self::Failure)
        )
    }
}

/// A task as it is stored and shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What it does.
    pub task_type: TaskType,
    /// Where it is.
    pub status: TaskStatus,
    /// Project that asked.
    pub owner: String,
    /// User that asked.
    pub user_id: String,
    /// The `x-openstack-request-id` of the POST.
    pub request_id: String,
    /// What was asked, as sent: a JSON object.
    pub input: Value,
    /// The product; only in `success`.
    pub result: Option<Value>,
    /// Why it failed; in a success, a remark. Empty until there is something to say.
    pub message: String,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its status last changed.
    pub updated_at: Timestamp,
    /// When the task (not its product) is deleted; only in end states.
    pub expires_at: Option<Timestamp>,
    /// The image it makes or works on, once bound, which is when its work begins.
    pub image_id: Option<ImageId>,
    /// How far it is: what a caller who asks for this task is told beside it.
    pub progress: Progress,
    /// The user that asked for its end before it had ended.
    pub cancelled_by: Option<String>,
    /// What is still to be done; only in end states.
    pub unsettled: Option<Unsettled>,
}

/// A step that the life of a task does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task in {from} can't become {to}", from = .from.name(), to = .to.name())]
pub struct BadTransition {
    /// Where it is.
    pub from: TaskStatus,
    /// Where it should have gone.
    pub to: TaskStatus,
}

impl Task {
    /// A task as it is accepted, under a new id. Who sent it, in which request, is the caller's to add.
    pub fn pending(task_type: TaskType, owner: &str, input: Value, now: Timestamp) -> Self {
        Self {
            id: TaskId(Uuid::new_v4()),
            task_type,
            status: TaskStatus::Pending,
            owner: owner.to_owned(),
            user_id: String::new(),
            request_id: String::new(),
            input,
            result: None,
            message: String::new(),
            created_at: now,
            updated_at: now,
            expires_at: None,
            image_id: None,
            progress: Progress::default(),
            cancelled_by: None,
            unsettled: None,
        }
    }

    /// Whether readers must not see it any more, whatever the table still holds.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// The image among whose tasks it is: the one that it is bound to, and from its acceptance the one whose record it is
    /// to fill, since its caller was allowed to. The image of an export may be another project's until it is bound.
    pub fn of_image(&self) -> Option<ImageId> {
        let filled = self.task_type.fills_image().then_some(&self.input);
        self.image_id.or_else(|| ImageImport::filled_by(filled?))
    }

    /// The image that this task gives its bytes, once bound.
    pub fn made_image(&self) -> Option<ImageId> {
        self.image_id.filter(|_| self.task_type.makes_image())
    }

    /// Who cancelled it, as the failure that it ends with.
    pub fn cancellation(&self) -> Option<Failure> {
        let by = self.cancelled_by.as_ref()?;
        Some(Failure::new(FailureCode::Cancelled, format!("cancelled by {by}")))
    }

    /// pending -> processing.
    ///
    /// # Errors
    /// [`BadTransition`] from any other status, and where it is cancelled.
    pub fn begin(&mut self, image_id: Option<ImageId>, now: Timestamp) -> Result<(), BadTransition> {
        self.demand_uncancelled(TaskStatus::Processing)?;
        self.become_status(TaskStatus::Processing, now)?;
        self.image_id = image_id.or(self.image_id);
        Ok(())
    }

    /// processing -> success.
    ///
    /// # Errors
    /// [`BadTransition`] from any other status, and where it is cancelled.
    pub fn succeed(&mut self, result: Value, ttl: Duration, now: Timestamp) -> Result<(), BadTransition> {
        self.demand_uncancelled(TaskStatus::Success)?;
        self.become_status(TaskStatus::Success, now)?;
        self.result = Some(result);
        self.expires_at = Some(now.plus(ttl));
        self.clean_later(now);
        Ok(())
    }

    /// The same for a task whose image becomes active, of that record.
    ///
    /// # Errors
    /// As [`succeed`](Self::succeed).
    pub fn publish(
        &mut self,
        publication: &Publication,
        record: &Image,
        result: Value,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(), BadTransition> {
        self.succeed(result, ttl, now)?;
        let remarks = publication.remark.iter().cloned().chain(publication.contradictions(record));
        for remark in remarks {
            self.message = cut(format!("{} {remark}", self.message).trim().to_owned());
        }
        if publication.hashes_follow {
            self.unsettled = Some(Unsettled::Hashing { executions: 0 });
        }
        Ok(())
    }

    /// pending or processing -> failure.
    ///
    /// # Errors
    /// [`BadTransition`] from an end state.
    pub fn fail(&mut self, failure: &Failure, ttl: Duration, now: Timestamp) -> Result<(), BadTransition> {
        self.become_status(TaskStatus::Failure, now)?;
        self.message = cut(failure.to_string());
        self.expires_at = Some(now.plus(ttl));
        self.clean_later(now);
        Ok(())
    }

    /// Its end is behind it, or the making of its hashes: what comes is the cleaning.
    pub(crate) fn clean_later(&mut self, now: Timestamp) {
        self.unsettled = Some(Unsettled::Cleaning { after: now.plus(CLEAN_AFTER) });
    }

    fn demand_uncancelled(&self, to: TaskStatus) -> Result<(), BadTransition> {
        if self.cancelled_by.is_some() { Err(BadTransition { from: self.status, to }) } else { Ok(()) }
    }

    fn become_status(&mut self, to: TaskStatus, now: Timestamp) -> Result<(), BadTransition> {
        if !self.status.may_become(to) {
            return Err(BadTransition { from: self.status, to });
        }
        self.status = to;
        self.updated_at = now.max(self.updated_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
        assert_eq!(id.parse::<TaskId>().unwrap().to_string(), id);
        for bad in ["", "x", "0b5b7b0e6d5c4a3b9a553d9c7d6f1a2b", "0B5B7B0E-6D5C-4A3B-9A55-3D9C7D6F1A2B"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn executions_names_go_both_ways() {
        let task: TaskId = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b".parse().unwrap();
        for run in [0, 1, 12] {
            let name = ExecutionName { task, run };
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for bad in ["", "x-hash-1", &format!("{task}-hash-0"), &format!("{task}-hash-"), &format!("{task}-1")]
        {
            assert!(bad.parse::<ExecutionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        for (text, len) in
            [("x".repeat(5000), 4096), ("\u{1F4BF}".repeat(2000), 4093), ("x".repeat(4000), 4010)]
        {
            let mut task =
                Task::pending(TaskType::Import, "demo", Value::Null, Timestamp::from_epoch(1_795_000_000));
            let failure = Failure::new(FailureCode::Internal, text);
            task.fail(&failure, Duration::from_secs(1), task.created_at).unwrap();
            assert_eq!(task.message.len(), len);
        }
    }

    #[test]
    fn a_task_is_of_the_image_that_it_is_to_fill_before_it_is_bound_to_it() {
        let image = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
        let names = json!({"image_id": image, "image_uuid": image});
        for task_type in TaskType::ALL {
            let task = Task::pending(*task_type, "demo", names.clone(), Timestamp::from_epoch(0));
            let of = (*task_type == TaskType::ApiImageImport).then(|| image.parse().unwrap());
            assert_eq!((task.of_image(), task.made_image()), (of, None), "{task_type:?}");
        }
    }

    #[test]
    fn transitions_are_exactly_these() {
        use TaskStatus::{Failure, Pending, Processing, Success};
        let allowed =
            [(Pending, Processing), (Pending, Failure), (Processing, Success), (Processing, Failure)];
        for from in TaskStatus::ALL {
            for to in TaskStatus::ALL {
                assert_eq!(from.may_become(*to), allowed.contains(&(*from, *to)), "{from:?} -> {to:?}");
            }
        }
    }
}
