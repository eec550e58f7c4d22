//! Code that is broken on purpose, to see that the simulation notices.
//!
//! A mutation needs no change of the sources: the stores that a run is on, its machine or its schedule do what they would if
//! a line were missing. So each stands for all the ways in which that line can get lost.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Uploads are not given up: `abort` is dropped.
    KeepsUploads,
    /// Uploads are not found: `uploads` lists none.
    FindsNoUploads,
    /// Work objects stay: `delete_prefix` is dropped.
    KeepsWork,
    /// Objects stay: `delete` is dropped.
    KeepsObjects,
    /// The claim of an export's name stays.
    KeepsClaims,
    /// The caller's token outlives its task.
    KeepsTokens,
    /// A failed task's image record stays.
    KeepsRecords,
    /// A put overwrites: `If-None-Match` is dropped.
    OverwritesByPut,
    /// A completion overwrites: `If-None-Match` is dropped.
    OverwritesByCompletion,
    /// Publishing doesn't ask for the cancel mark.
    PublishesCancelled,
    /// Beginning doesn't ask for the cancel mark, nor for `pending`.
    BeginsAgain,
    /// A cancel that was answered 202 isn't kept.
    ForgetsMarks,
    /// A failure is written over an end.
    FailsEnded,
    /// A failed task counts as settled at once: its late cleaning is dropped.
    SettlesAtOnce,
    /// So does a task that went well.
    SettlesSuccessAtOnce,
    /// A task is deleted when it expires, whether it is settled or not.
    ExpiresUnsettled,
    /// The sweep isn't scheduled.
    NeverSweeps,
    /// The sweep's index leaves out tasks that are pending.
    OverlooksPending,
    /// Throttles of Lambda aren't tried again.
    NoRetryOfThrottles,
    /// Failures that may pass aren't tried again.
    NoRetryOfTransient,
    /// Workers that were lost aren't tried again.
    NoRetryOfLost,
    /// An image becomes active under a version that nobody judged.
    PublishesUnjudged,
}

impl Mutation {
    pub(crate) const ALL: &[Self] = &[
        Self::KeepsUploads,
        Self::FindsNoUploads,
        Self::KeepsWork,
        Self::KeepsObjects,
        Self::KeepsClaims,
        Self::KeepsTokens,
        Self::KeepsRecords,
        Self::OverwritesByPut,
        Self::OverwritesByCompletion,
        Self::PublishesCancelled,
        Self::BeginsAgain,
        Self::ForgetsMarks,
        Self::FailsEnded,
        Self::SettlesAtOnce,
        Self::SettlesSuccessAtOnce,
        Self::ExpiresUnsettled,
        Self::NeverSweeps,
        Self::OverlooksPending,
        Self::NoRetryOfThrottles,
        Self::NoRetryOfTransient,
        Self::NoRetryOfLost,
        Self::PublishesUnjudged,
    ];

    /// Entries of a state's Retry that it leaves out.
    pub(crate) fn drops_retry_of(self) -> Option<&'static str> {
        match self {
            Self::NoRetryOfThrottles => Some("Lambda.TooManyRequestsException"),
            Self::NoRetryOfTransient => Some("Transient"),
            Self::NoRetryOfLost => Some("Lambda.Unknown"),
            _ => None,
        }
    }
}
