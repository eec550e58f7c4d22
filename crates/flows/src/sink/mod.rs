//! Where a job's bytes go.
//!
//! | sink | order | point of no return |
//! |---|---|---|
//! | [image](image) | seal, judge, hash, publish | the transaction that makes image and task final |
//! | [bucket](bucket) | judge, seal | the completion under the final name, in somebody else's bucket |
//!
//! Invariants:
//! - The final object is made by one request that refuses to overwrite. Of two calls of a task that make it side by side
//!   one wins, and the other goes on with what the first has made.
//! - What a sink makes it can undo, again and again, and it undoes nothing of another task's.

pub(crate) mod bucket;
pub(crate) mod image;
pub(crate) mod metadata;
pub(crate) mod upload;

use std::sync::Arc;

use bytes::Bytes;

use self::bucket::BucketSink;
use self::image::ImageSink;
use self::upload::contended;
use crate::error::{Flow, Stop};
use crate::ports::{Body, Metadata, ObjectError, ObjectInfo, ObjectRef, Objects};

/// Where a job's bytes go.
pub(crate) enum Sink {
    /// Into an image of this region.
    Image(ImageSink),
    /// Into a bucket that a user names.
    Bucket(BucketSink),
}

impl Sink {
    /// The object to make.
    pub(crate) fn at(&self) -> &ObjectRef {
        match self {
            Self::Image(sink) => &sink.at,
            Self::Bucket(sink) => &sink.at,
        }
    }

    /// The store that it is made in.
    pub(crate) fn store(&self) -> &Arc<dyn Objects> {
        match self {
            Self::Image(sink) => &sink.store,
            Self::Bucket(sink) => &sink.store,
        }
    }

    /// The store for requests that begin an object. What they make carries this metadata in a user's bucket.
    pub(crate) fn beginning(&self, metadata: &Metadata) -> Arc<dyn Objects> {
        match self {
            Self::Image(sink) => Arc::clone(&sink.store),
            Self::Bucket(sink) => sink.beginning(metadata),
        }
    }

    /// The object, if this task has made it; a failure if anybody else has.
    pub(crate) async fn made(&self) -> Flow<Option<ObjectInfo>> {
        match self {
            Self::Image(sink) => Ok(sink.store.head(&sink.at).await?),
            Self::Bucket(sink) => sink.made().await,
        }
    }

    /// What it means that a request which begins an object is refused.
    pub(crate) fn refused(&self, error: ObjectError) -> Stop {
        match self {
            Self::Image(_) => error.into(),
            Self::Bucket(sink) => sink.refused(error),
        }
    }

    /// What it means that a copy into it is refused: of a part of an upload, or of the whole object.
    pub(crate) fn refused_copy(&self, error: ObjectError, into: CopyInto) -> Stop {
        match into {
            CopyInto::Whole => self.refused(error),
            CopyInto::Part => self.refused_part(error),
        }
    }

    /// What it means that an upload can't be completed and nothing of ours is there: a write of somebody else's came between.
    /// S3 then wants all parts again, in a new upload. Into an image nobody else writes: a call beside this one is at it.
    pub(crate) fn conflicted(&self) -> Stop {
        match self {
            Self::Image(_) => contended(),
            Self::Bucket(sink) => sink.conflicted(),
        }
    }

    /// The same while an upload is under way: what isn't found is the upload.
    pub(crate) fn refused_part(&self, error: ObjectError) -> Stop {
        match error {
            gone @ ObjectError::NotFound(_) => gone.into(),
            other => self.refused(other),
        }
    }
}

/// What a copy makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyInto {
    /// The object.
    Whole,
    /// A part of an upload.
    Part,
}

/// Bytes as a body.
pub(crate) fn one(bytes: Bytes) -> Body {
    Box::pin(futures::stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
}

/// Gives up the unfinished uploads below a prefix.
pub(crate) async fn abort_uploads(
    objects: &dyn Objects,
    bucket: &str,
    prefix: &str,
) -> Result<(), ObjectError> {
    for (at, upload) in objects.uploads(bucket, prefix).await? {
        objects.abort(&at, &upload).await?;
    }
    Ok(())
}
