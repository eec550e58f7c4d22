//! The `TaskLife` port: task and image change together, or neither does.
//!
//! What a step of a task's life changes is the domain's to say: it is done to the record in memory, and then exactly
//! what differs is written, under the condition that it is still as it was read.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};
use image_tasks_domain::ports::{ImageStore as _, StoreError, StoreResult, TaskLife};
use image_tasks_domain::task::CLEAN_AFTER;
use image_tasks_domain::{
    Failure, Image, ImageId, ImageStatus, Publication, StagedBytes, Task, TaskId, TaskStatus, Timestamp,
};
use serde_json::Value;

use super::DynamoImages;
use super::item::{Item, image_item, image_key, number, task, task_item, text};
use super::tasks::DynamoTasks;
use super::write::{Outcome, Replacement, delete_action, put_action, refused, transact, update, write};

/// Times that an end is written anew because the task or its image changed between read and write: callers change
/// images meanwhile.
const TRIES: usize = 8;
/// What a step that goes on or succeeds relies on beside what it changes.
const UNCANCELLED: &[&str] = &["cancelled_by", "image_id"];
/// What a failure relies on: which image's record it takes away.
const BOUND: &[&str] = &["image_id"];
/// By what it is judged whether a record can be filled.
const FILLED: &[&str] = &["status", "staged"];
/// What a publication makes of the record depends on what these were.
const RISING: &[&str] = &["min_disk", "updated_at", "properties"];

#[async_trait]
impl TaskLife for DynamoTasks {
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()> {
        let begun = self.begun(id, image.id, now).await?;
        let put = Put::builder()
            .table_name(&self.images)
            .set_item(Some(image_item(image)?))
            .condition_expression("attribute_not_exists(id)");
        write(&self.client, vec![begun, put_action(put)?]).await
    }

    async fn begin_filling(
        &self,
        id: TaskId,
        image: ImageId,
        staged: Option<StagedBytes>,
        now: Timestamp,
    ) -> StoreResult<()> {
        let images = self.images();
        for _ in 0..TRIES {
            let begun = self.begun(id, image, now).await?;
            let record = images.get(image).await?.ok_or(StoreError::Conflict)?;
            let mut filled = record.clone();
            if !filled.begin_filling(staged, now) {
                return Err(StoreError::Conflict);
            }
            let filled =
                Replacement { was: image_item(&record)?, is: image_item(&filled)?, relied_on: FILLED };
            match transact(&self.client, vec![begun, filled.action(&self.images)?]).await? {
                Outcome::Written => return Ok(()),
                Outcome::Refused(reasons) if refused(&reasons, 0) => return Err(StoreError::Conflict),
                Outcome::Refused(_) => {}
            }
        }
        Err(StoreError::Unavailable("the image kept changing while its filling was begun".into()))
    }

    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()> {
        let begun = self.begun(id, image, now).await?;
        write(&self.client, vec![begun]).await
    }

    async fn publish(
        &self,
        id: TaskId,
        publication: &Publication,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let images = self.images();
        for _ in 0..TRIES {
            let (was, forgotten) = self.read(id).await?;
            let record = images.get(publication.image).await?;
            let record = record.filter(|record| record.status == ImageStatus::Importing);
            let record = record.filter(|record| was.made_image() == Some(record.id));
            let record = record.ok_or(StoreError::Conflict)?;
            let mut ended = was.clone();
            ended.publish(publication, &record, result.clone(), ttl, now)?;
            let mut active = record.clone();
            active.publish(publication, now);
            let ended = self.changed(&was, &ended, UNCANCELLED)?;
            let active =
                Replacement { was: image_item(&record)?, is: image_item(&active)?, relied_on: RISING };
            let actions = [ended, active.action(&self.images)?];
            match transact(&self.client, actions.into_iter().chain(forgotten).collect()).await? {
                Outcome::Written => {
                    self.metrics.ended(&was, Some(publication.size), None, now);
                    return Ok(());
                }
                Outcome::Refused(reasons) if refused(&reasons, 0) => return Err(StoreError::Conflict),
                // Somebody changed the record meanwhile, which is no reason not to publish it.
                Outcome::Refused(_) => {}
            }
        }
        Err(StoreError::Unavailable("the image kept changing while it was published".into()))
    }

    async fn succeed_alone(
        &self,
        id: TaskId,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let (was, forgotten) = self.read(id).await?;
        let mut ended = was.clone();
        ended.succeed(result.clone(), ttl, now)?;
        let ended = self.changed(&was, &ended, UNCANCELLED)?;
        write(&self.client, std::iter::once(ended).chain(forgotten).collect()).await?;
        self.metrics.ended(&was, result["size"].as_u64(), None, now);
        Ok(())
    }

    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        self.fail_while(id, failure, ttl, now, |_| true).await
    }

    async fn fail_unbegun(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.fail_while(id, failure, ttl, now, |status| status == TaskStatus::Pending).await
    }

    async fn mark_cancelled(&self, id: TaskId, by: &str) -> StoreResult<()> {
        let mark = self
            .client
            .update_item()
            .table_name(&self.tasks)
            .key("id", text(id))
            .update_expression("SET cancelled_by = if_not_exists(cancelled_by, :by)")
            .condition_expression("#status IN (:pending, :processing)")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":by", text(by))
            .expression_attribute_values(":pending", text(TaskStatus::Pending.name()))
            .expression_attribute_values(":processing", text(TaskStatus::Processing.name()));
        update(mark).await
    }

    async fn count_hashing(&self, id: TaskId, begun: u32) -> StoreResult<u32> {
        let next = begun.saturating_add(1);
        let count = self
            .client
            .update_item()
            .table_name(&self.tasks)
            .key("id", text(id))
            .update_expression("SET hash_executions = :next")
            .condition_expression("hash_executions = :begun")
            .expression_attribute_values(":begun", number(begun))
            .expression_attribute_values(":next", number(next));
        update(count).await.map(|()| next)
    }

    async fn end_hashing(&self, id: TaskId, now: Timestamp) -> StoreResult<()> {
        let ended = self
            .client
            .update_item()
            .table_name(&self.tasks)
            .key("id", text(id))
            .update_expression("SET clean_after = :after REMOVE hash_executions")
            .condition_expression("attribute_exists(hash_executions)")
            .expression_attribute_values(":after", number(now.plus(CLEAN_AFTER).epoch()));
        update(ended).await
    }

    async fn settle(&self, id: TaskId) -> StoreResult<()> {
        let set = "SET expires_at_epoch = expires_at REMOVE unsettled, clean_after, hash_executions";
        let settle = self
            .client
            .update_item()
            .table_name(&self.tasks)
            .key("id", text(id))
            .update_expression(set)
            // Only ended tasks have it.
            .condition_expression("attribute_exists(expires_at)");
        update(settle).await
    }
}

impl DynamoTasks {
    fn images(&self) -> DynamoImages {
        DynamoImages::new(self.client.clone(), &self.images)
    }

    /// The task, and what its end has to write beside it: its caller's token goes.
    async fn read(&self, id: TaskId) -> StoreResult<(Task, Option<TransactWriteItem>)> {
        let item: Item = self.item(id).await?.ok_or(StoreError::Conflict)?;
        Ok((task(&item)?, self.forgotten(&item, id)?))
    }

    fn changed(&self, was: &Task, is: &Task, relied_on: &'static [&str]) -> StoreResult<TransactWriteItem> {
        Replacement { was: task_item(was), is: task_item(is), relied_on }.action(&self.tasks)
    }

    async fn begun(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<TransactWriteItem> {
        let (was, _) = self.read(id).await?;
        let mut begun = was.clone();
        begun.begin(Some(image), now)?;
        self.changed(&was, &begun, UNCANCELLED)
    }

    /// Fails a task that is in such a status, and takes away the record of the image that it was making, or makes it
    /// `queued` again where it was filling it.
    async fn fail_while(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
        wanted: impl Fn(TaskStatus) -> bool,
    ) -> StoreResult<()> {
        let mut keep_image = false;
        for _ in 0..TRIES {
            let (was, forgotten) = self.read(id).await?;
            if !wanted(was.status) {
                return Err(StoreError::Conflict);
            }
            let mut failed = was.clone();
            failed.fail(failure, ttl, now)?;
            let mut actions = vec![self.changed(&was, &failed, BOUND)?];
            let made = was.made_image().filter(|_| !keep_image);
            if let Some(image) = made.filter(|_| was.task_type.fills_image()) {
                actions.extend(self.given_up(image, now).await?);
            } else if let Some(image) = made {
                let (name, value) = image_key(image);
                let delete = Delete::builder()
                    .table_name(&self.images)
                    .key(name, value)
                    .condition_expression("attribute_not_exists(id) OR #status = :importing")
                    .expression_attribute_names("#status", "status")
                    .expression_attribute_values(":importing", text(ImageStatus::Importing.name()));
                actions.push(delete_action(delete)?);
            }
            // Without a condition, so that none but the image's can be the second refused.
            actions.extend(forgotten);
            match transact(&self.client, actions).await? {
                Outcome::Written => {
                    self.metrics.ended(&was, None, Some(failure.code), now);
                    return Ok(());
                }
                // The image isn't being made: it was there before, and is not this task's to remove. A record that is
                // filled is read again.
                Outcome::Refused(reasons) => {
                    keep_image = refused(&reasons, 1) && !was.task_type.fills_image();
                }
            }
        }
        Err(StoreError::Unavailable("the task kept changing while its failure was written".into()))
    }

    /// The change of a record that is filled no longer; none where it isn't any more.
    async fn given_up(&self, image: ImageId, now: Timestamp) -> StoreResult<Option<TransactWriteItem>> {
        let record = self.images().get(image).await?.filter(|record| record.status == ImageStatus::Importing);
        let Some(record) = record else { return Ok(None) };
        let mut queued = record.clone();
        queued.give_up_filling(now);
        let change = Replacement { was: image_item(&record)?, is: image_item(&queued)?, relied_on: FILLED };
        Ok(Some(change.action(&self.images)?))
    }
}
