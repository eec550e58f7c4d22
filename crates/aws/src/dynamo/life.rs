//! The `TaskLife` port: task and image change together, or neither does.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use image_tasks_domain::ports::{StoreError, StoreResult, TaskLife};
use image_tasks_domain::{Failure, Image, ImageId, ImageStatus, Task, TaskId, TaskStatus, Timestamp};
use serde_json::Value;

use super::item::{image_item, image_key, number, task, text, updated_sort};
use super::tasks::DynamoTasks;
use super::write::{Outcome, refused, transact};

/// Times that a failure is written anew because the task or its image changed between read and write.
const TRIES: usize = 4;

#[async_trait]
impl TaskLife for DynamoTasks {
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()> {
        let (task, _) = self.in_status(id, |status| status == TaskStatus::Pending).await?;
        let change = self
            .change(&task, TaskStatus::Processing, now, "image_id = :image", "")
            .expression_attribute_values(":image", text(image.id));
        let put = Put::builder()
            .table_name(&self.images)
            .set_item(Some(image_item(image)?))
            .condition_expression("attribute_not_exists(id)");
        self.write(vec![update(change)?, action(put.build(), |a, put| a.put(put))?]).await
    }

    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()> {
        let (task, _) = self.in_status(id, |status| status == TaskStatus::Pending).await?;
        let change = self
            .change(&task, TaskStatus::Processing, now, "image_id = :image", "")
            .expression_attribute_values(":image", text(image));
        self.write(vec![update(change)?]).await
    }

    async fn succeed(
        &self,
        id: TaskId,
        image: &Image,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let (task, forgotten) = self.in_status(id, |status| status == TaskStatus::Processing).await?;
        if task.image_id != Some(image.id) {
            return Err(StoreError::Conflict);
        }
        let change = self.success(&task, result, ttl, now);
        let put = Put::builder()
            .table_name(&self.images)
            .set_item(Some(image_item(image)?))
            .condition_expression("#status = :importing")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":importing", text(ImageStatus::Importing.name()));
        let actions = [update(change)?, action(put.build(), |a, put| a.put(put))?];
        self.write(actions.into_iter().chain(forgotten).collect()).await
    }

    async fn succeed_alone(
        &self,
        id: TaskId,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let (task, forgotten) = self.in_status(id, |status| status == TaskStatus::Processing).await?;
        let ended = update(self.success(&task, result, ttl, now))?;
        self.write(std::iter::once(ended).chain(forgotten).collect()).await
    }

    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        let mut keep_image = false;
        for _ in 0..TRIES {
            let (task, forgotten) = self.in_status(id, |status| !status.is_end()).await?;
            let set = "message = :message, expires_at_epoch = :expires";
            let change = self
                .change(&task, TaskStatus::Failure, now, set, " REMOVE unfinished")
                .expression_attribute_values(":message", text(failure))
                .expression_attribute_values(":expires", number(now.plus(ttl).epoch()));
            let mut actions = vec![update(change)?];
            if let Some(image) = task.made_image().filter(|_| !keep_image) {
                let (name, value) = image_key(image);
                let delete = Delete::builder()
                    .table_name(&self.images)
                    .key(name, value)
                    .condition_expression("attribute_not_exists(id) OR #status = :importing")
                    .expression_attribute_names("#status", "status")
                    .expression_attribute_values(":importing", text(ImageStatus::Importing.name()));
                actions.push(action(delete.build(), |a, delete| a.delete(delete))?);
            }
            // Without a condition, so that none but the image's can be the second refused.
            actions.extend(forgotten);
            match transact(&self.client, actions).await? {
                Outcome::Written => return Ok(()),
                // The image isn't being made: it was there before, and is not this task's to remove.
                Outcome::Refused(reasons) => keep_image = refused(&reasons, 1),
            }
        }
        Err(StoreError::Unavailable("the task kept changing while its failure was written".into()))
    }
}

impl DynamoTasks {
    /// The task, if it is in such a status, and what its end has to write beside it: its caller's token goes.
    async fn in_status(
        &self,
        id: TaskId,
        wanted: impl Fn(TaskStatus) -> bool,
    ) -> StoreResult<(Task, Option<TransactWriteItem>)> {
        let item = self.item(id).await?.ok_or(StoreError::Conflict)?;
        let task = task(&item)?;
        if wanted(task.status) { Ok((task, self.forgotten(&item, id)?)) } else { Err(StoreError::Conflict) }
    }

    /// The task's next status, under the condition that it is still as it was read.
    fn change(&self, task: &Task, to: TaskStatus, now: Timestamp, set: &str, remove: &str) -> UpdateBuilder {
        let updated_at = now.max(task.updated_at);
        let image =
            if task.image_id.is_some() { "image_id = :bound" } else { "attribute_not_exists(image_id)" };
        let mut change = Update::builder()
            .table_name(&self.tasks)
            .key("id", text(task.id))
            .update_expression(format!(
                "SET #status = :to, updated_at = :updated, updated_sort = :sort, {set}{remove}"
            ))
            .condition_expression(format!("#status = :from AND {image}"))
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":from", text(task.status.name()))
            .expression_attribute_values(":to", text(to.name()))
            .expression_attribute_values(":updated", text(updated_at))
            .expression_attribute_values(":sort", text(updated_sort(updated_at, task.created_at, task.id)));
        if let Some(bound) = task.image_id {
            change = change.expression_attribute_values(":bound", text(bound));
        }
        change
    }

    fn success(&self, task: &Task, result: &Value, ttl: Duration, now: Timestamp) -> UpdateBuilder {
        let set = "#result = :result, expires_at_epoch = :expires";
        self.change(task, TaskStatus::Success, now, set, " REMOVE unfinished")
            .expression_attribute_names("#result", "result")
            .expression_attribute_values(":result", text(result))
            .expression_attribute_values(":expires", number(now.plus(ttl).epoch()))
    }

    async fn write(&self, actions: Vec<TransactWriteItem>) -> StoreResult<()> {
        match transact(&self.client, actions).await? {
            Outcome::Written => Ok(()),
            Outcome::Refused(_) => Err(StoreError::Conflict),
        }
    }
}

fn update(change: UpdateBuilder) -> StoreResult<TransactWriteItem> {
    action(change.build(), |action, update| action.update(update))
}

fn action<T>(
    built: Result<T, BuildError>,
    add: impl FnOnce(
        aws_sdk_dynamodb::types::builders::TransactWriteItemBuilder,
        T,
    ) -> aws_sdk_dynamodb::types::builders::TransactWriteItemBuilder,
) -> StoreResult<TransactWriteItem> {
    let built = built.map_err(|e| StoreError::Fault(e.into()))?;
    Ok(add(TransactWriteItem::builder(), built).build())
}
